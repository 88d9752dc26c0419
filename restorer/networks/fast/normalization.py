"""Group normalization that computes small bfloat16 maps in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.networks.fast.prepacked import Prepacked
from restorer.networks.layers import GroupNorm

__all__ = ["MixedGroupNorm"]

SMALL = 1024  # number of pixels below which PyTorch normalizes a map by another kernel
VECTOR = 16  # numbers that this kernel computes at once


class MixedGroupNorm(Prepacked):
    """A `GroupNorm` on the CPU, with its parameters in float32, the precision in which the kernels compute.

    PyTorch takes up to 5.5 times as long for a small map in bfloat16 as for the same map in float32, unless the
    channels of a group fill its vectors.
    """

    def __init__(self, norm: GroupNorm) -> None:
        super().__init__()
        self._norm = (norm.float(),)  # a tuple, so that it is not registered
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor, *, silu: bool = False) -> Tensor:
        """Normalize (B, C, H, W), and apply SiLU if `silu`; see `GroupNorm`."""
        (norm,) = self._norm
        parameters = self._parameters  # attribute access would take as long as a small operation
        slow = x.dtype == torch.bfloat16 and x.shape[-2:].numel() < SMALL and x.shape[1] // norm.num_groups % VECTOR
        h = torch.group_norm(
            x.float() if slow else x, norm.num_groups, parameters["weight"], parameters["bias"], norm.eps
        )
        if silu:
            h = F.silu(h, inplace=not torch.is_grad_enabled())
        return h.to(x.dtype) if slow else h

    def count_packed(self, dtype: torch.dtype) -> int:
        """Return 0: the layer holds its parameters alone."""
        return 0

    def plain(self) -> GroupNorm:
        """Return the plain normalization with the same parameters."""
        (norm,) = self._norm
        norm.weight, norm.bias = self.weight, self.bias
        return norm.train(self.training)
