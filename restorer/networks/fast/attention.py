"""Self-attention with prepacked linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.attention import Attention
from restorer.networks.fast.prepacked import JointLinear, Packed, Prepacked
from restorer.networks.fast.weight_versions import parameter_version

__all__ = ["PackedAttention", "SingleHeadAttention"]


class _PrepackedAttention(Prepacked):
    """The layers of an `Attention` under the same names, and its methods, some of which the subclasses speed up."""

    positions = Attention.positions
    residual = Attention.residual

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self._attention = (attention,)  # a tuple, so that its layers are not registered twice
        self.head_dim, self.divide_by = attention.head_dim, attention.divide_by
        self.group_norm, self.to_q, self.to_k = attention.group_norm, attention.to_q, attention.to_k
        self.to_v, self.to_out = attention.to_v, attention.to_out

    @property
    def channels_last(self) -> bool:
        """Whether feature maps lie in memory with the channels last; see `Attention`."""
        return self._attention[0].channels_last

    @channels_last.setter
    def channels_last(self, value: bool) -> None:
        self._attention[0].channels_last = value

    def plain(self) -> Attention:
        """Return the plain attention, with the normalization of this module, which may have been replaced."""
        (attention,) = self._attention
        attention.group_norm = self.group_norm
        return attention.train(self.training)


class PackedAttention(_PrepackedAttention):
    """Attention of any number of heads, whose queries, keys and values are computed as one product."""

    forward = Attention.forward

    def __init__(self, attention: Attention) -> None:
        super().__init__(attention)
        self.to_qkv = JointLinear(attention.to_q, attention.to_k, attention.to_v)

    def queries_keys_values(self, h: Tensor) -> list[Tensor]:
        """Project features (B, N, width) to queries, keys and values of the same shape."""
        return self.to_qkv(h)  # type: ignore[no-any-return]

    def count_packed(self, dtype: torch.dtype) -> int:
        """Return 0: the joint layer counts what it holds."""
        return 0


class SingleHeadAttention(_PrepackedAttention):
    """Attention with one head, computed by two linear layers instead of four.

    With queries q_i = Q h_i + a, keys k_j = K h_j + b and values V h_j + c, followed by O and d,

        q_i . k_j = (K^T Q h_i + K^T a) . h_j + (a term that is the same for all j, which softmax cancels)
        O sum_j w_ij (V h_j + c) + d = sum_j w_ij (O V h_j + O c + d), since the weights w_ij add up to 1.

    So K^T Q and O V are multiplied once, the features themselves are the keys, and the attended sum of the values is
    the output.
    """

    queries_keys_values = Attention.queries_keys_values

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, width, H, W) -> (B, width, H, W)."""
        if Prepacked.disabled or x.dtype != self.to_q.weight.dtype:  # the precisions differ under autocast
            return Attention.forward(self, x)  # type: ignore[arg-type]
        h = self.positions(x)  # type: ignore[misc]
        key = tuple(parameter_version(p) for layer in self._layers() for p in (layer.weight, layer.bias))
        packed = self._lookup(key, lambda: self._pack(key))
        joint = torch.ops.mkldnn._linear_pointwise(h, packed.weight, packed.bias, "none", [], "")
        q, v = joint.split(x.shape[1], dim=-1)
        out = F.scaled_dot_product_attention(q[:, None], h[:, None], v[:, None])[:, 0]
        return self.residual(out, x)  # type: ignore[misc]

    def count_packed(self, dtype: torch.dtype) -> int:
        """Return how many numbers the layer will hold; see `Prepacked.count_packed`."""
        return 2 * self.to_q.weight.numel() + 2 * self.to_q.out_features

    def _layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
        return self.to_q, self.to_k, self.to_v, self.to_out[0]  # type: ignore[return-value]

    def _pack(self, key: tuple[object, ...]) -> Packed:
        """Multiply and pack the weights, and compute the biases that belong to them."""
        (q, a), (k, _), (v, c), (o, d) = ((layer.weight.float(), layer.bias.float()) for layer in self._layers())
        dtype = self.to_q.weight.dtype
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.cat([k.T @ q, o @ v]).to(dtype))
        return Packed(key, weight, torch.cat([k.T @ a, o @ c + d]).to(dtype))
