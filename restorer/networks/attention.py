"""Self-attention over all positions of a feature map, with its residual (Vaswani et al. 2017,
https://arxiv.org/abs/1706.03762): as written, and as one head of it is evaluated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.fast.prepacked import Packed
from restorer.networks.fast.weight_versions import parameter_state
from restorer.networks.layers import Together, normalized

__all__ = ["Attention", "PackedAttention"]


class Attention(nn.Module):
    """Self-attention as written. `channels_last` says how the feature maps lie in memory.

    Args:
        width: channels.
        head_dim: channels of a head, a divisor of `width`.
        groups, eps: of the normalization before it; no groups for none.
        divide_by: what the sum with the input is divided by.
    """

    channels_last = False

    def __init__(self, width: int, head_dim: int, groups: int, eps: float, *, divide_by: float = 1.0) -> None:
        super().__init__()
        self.head_dim, self.divide_by = head_dim, divide_by
        self.group_norm = nn.GroupNorm(groups, width, eps) if groups else None
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_qkv = Together(self.to_q, self.to_k, self.to_v)

    def forward(self, x: Tensor) -> Tensor:
        batch, width = x.shape[:2]
        # In channels_last, positions by features is how it lies in memory, and nothing is copied.
        h = x if self.channels_last else x.flatten(2)
        h = h if self.group_norm is None else normalized(self.group_norm, h)
        h = h.flatten(2).transpose(1, 2)
        heads = (batch, -1, width // self.head_dim, self.head_dim)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.to_qkv(h))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, width)
        h = self.to_out[0](h).transpose(-1, -2).reshape(x.shape)
        return (h + x) / self.divide_by if self.divide_by != 1 else h + x

    def packed_form(self) -> PackedAttention | None:
        """One head as it is evaluated; several are as they are."""
        return PackedAttention(self) if self.head_dim == self.to_q.in_features else None


class PackedAttention(Packed):
    """One head of attention by two linear layers in the place of four.

    With queries q_i = Q h_i + a, keys k_j = K h_j + b and values V h_j + c, followed by O and d,

        q_i . k_j = (K^T Q h_i + K^T a) . h_j + (what is the same for all j, which softmax takes away)
        O sum_j w_ij (V h_j + c) + d = sum_j w_ij (O V h_j + O c + d), as the weights w_ij add up to 1.

    So K^T Q and O V are multiplied once and for all, the features themselves are the keys, and what the values attended
    add up to is the output.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self._attention = (attention,)  # a tuple, so that its layers are not registered twice
        self.group_norm, self.to_q, self.to_k = attention.group_norm, attention.to_q, attention.to_k
        self.to_v, self.to_out = attention.to_v, attention.to_out
        self._bias: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """See `Attention`."""
        (attention,) = self._attention
        if Packed.plain or x.dtype != self.to_q.weight.dtype:  # autocast
            return attention(x)
        width = x.shape[1]
        h = x if attention.channels_last else x.flatten(2)
        h = h if self.group_norm is None else normalized(self.group_norm, h)
        h = h.flatten(2).transpose(1, 2)
        state = [parameter_state(parameter) for layer in self._layers() for parameter in (layer.weight, layer.bias)]
        packed = self._packed_as(tuple(state), self._multiplied)
        q, v = torch.ops.mkldnn._linear_pointwise(h, packed, self._bias, "none", [], "").split(width, dim=-1)
        out = F.scaled_dot_product_attention(q[:, None], h[:, None], v[:, None])[:, 0]
        out = out.transpose(-1, -2).reshape(x.shape) + x
        return out / attention.divide_by if attention.divide_by != 1 else out

    def packs(self, dtype: torch.dtype) -> int:
        """See `Packed.packs`."""
        return 2 * self.to_q.weight.numel() + 2 * self.to_q.out_features

    def unpacked(self) -> Attention:
        """See `Packed.unpacked`."""
        return self._attention[0].train(self.training)

    def _layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
        return self.to_q, self.to_k, self.to_v, self.to_out[0]  # type: ignore[return-value]

    def _multiplied(self) -> Tensor:
        """Packed weights, and the biases with them."""
        (q, a), (k, _), (v, c), (o, d) = ((layer.weight.float(), layer.bias.float()) for layer in self._layers())
        dtype = self.to_q.weight.dtype
        self._bias = torch.cat([k.T @ a, o @ c + d]).to(dtype)
        return torch.ops.mkldnn._reorder_linear_weight(torch.cat([k.T @ q, o @ v]).to(dtype))
