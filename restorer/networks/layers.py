"""Layers that networks have in common. Some are several operations as written, and computed as one (`packed.py`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DoublingConv2d", "TimedBlock", "Together", "activated", "double_size", "normalized", "projections"]

SMALL = 1024  # pixels of a map up to which PyTorch normalizes it by another kernel


def double_size(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W): every pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class DoublingConv2d(nn.Conv2d):
    """Nearest neighbour times two, then a convolution of 3x3 that keeps the size."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return super().forward(double_size(x))


class Together(nn.Module):
    """Linear layers that are given one and the same. They remain their owners': it has no parameters itself.

    Args:
        layers: at least one, all with as many features in.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        self.layers = layers  # a tuple, so that they are not registered twice

    def forward(self, x: Tensor) -> list[Tensor]:
        """(..., features) -> what each makes of it."""
        return [layer(x) for layer in self.layers]


class TimedBlock(nn.Module):
    """A block that sees the time, by a projection of its own. The network computes all of them together; `slot` says
    which is the block's.
    """

    slot = 0
    time_emb_proj: nn.Linear


def projections(network: nn.Module) -> Together:
    """Of all the network's `TimedBlock`s, which get their slots."""
    blocks = [module for module in network.modules() if isinstance(module, TimedBlock)]
    for slot, block in enumerate(blocks):
        block.slot = slot
    return Together(*(block.time_emb_proj for block in blocks))


def normalized(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalization."""
    return _back(_normalized(norm, x), x)


def activated(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalization, then SiLU."""
    return _back(F.silu(_normalized(norm, x), inplace=not torch.is_grad_enabled()), x)


def _normalized(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalization; in float32 where `_goes_up`."""
    weight: Tensor = norm.weight
    bias: Tensor = norm.bias
    if _goes_up(x):
        x, weight, bias = x.float(), weight.float(), bias.float()
    return torch.group_norm(x, norm.num_groups, weight, bias, norm.eps)


def _back(h: Tensor, x: Tensor) -> Tensor:
    """What has become of x, in its precision again."""
    return h.to(x.dtype) if _goes_up(x) else h


def _goes_up(x: Tensor) -> bool:
    """On processors PyTorch takes up to five times as long for a small map in bfloat16 as for the same in float32."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[-2:].numel() < SMALL
