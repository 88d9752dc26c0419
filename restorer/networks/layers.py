"""Layers that networks have in common. Some are several operations as written, and computed as one (`packed.py`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "DoublingConv2d",
    "TimedBlock",
    "Together",
    "activated",
    "double_size",
    "normalized",
    "projections",
    "shuffled",
    "unshuffled",
]

SMALL = 1024  # pixels of a map up to which PyTorch normalizes it by another kernel


def double_size(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W): every pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def unshuffled(x: Tensor, patch: int, dtype: torch.dtype) -> Tensor:
    """Blocks of pixels as channels, as `F.pixel_unshuffle` has them, in another precision.

    That and a change of layout go number by number; this by rows first, then by columns, in half the time.

    Args:
        x: (B, C, H, W), contiguous.
        patch: side of a block, p, of which H and W are multiples.

    Returns:
        (B, C p p, H / p, W / p), channels_last.
    """
    if patch == 1:
        return x.contiguous(memory_format=torch.channels_last).to(dtype)
    batch, channels, height, width = x.shape
    rows, columns = height // patch, width // patch
    blocks = x.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 1, 3, 5, 4)
    lines = blocks.reshape(batch, rows, channels * patch**2, columns).transpose(2, 3)
    return lines.contiguous().to(dtype).permute(0, 3, 1, 2)


def shuffled(x: Tensor, patch: int) -> Tensor:
    """Channels as blocks of pixels, as `F.pixel_shuffle` has them: undoes `unshuffled`, but for the precision."""
    if patch == 1:
        return x.contiguous()
    batch, channels, rows, columns = x.shape
    blocks = x.reshape(batch, channels // patch**2, patch, patch, rows, columns).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, channels // patch**2, rows * patch, columns * patch)


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
