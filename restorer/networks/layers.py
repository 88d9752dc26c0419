"""Layers that networks have in common. Some are several operations as written, and computed as one (`fast/`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "DoublingConv2d",
    "Together",
    "activated",
    "double_size",
    "normalized",
    "shuffled",
    "unshuffled",
]

SMALL = 1024  # pixels of a map up to which PyTorch normalizes it by another kernel
WIDE = {4: torch.int32, 8: torch.int64}  # bytes
VECTOR = 16  # numbers, of which that kernel computes as many at once


def double_size(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W): every pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def unshuffled(x: Tensor, patch: int, dtype: torch.dtype) -> Tensor:
    """Blocks of pixels as channels, as `F.pixel_unshuffle` has them, in another precision.

    That and a change of layout go number by number. This goes by rows first, then by columns, and what lies side by
    side in a block goes together, in a sixth of the time at 512x512 pixels, in half at 128x128.

    Args:
        x: (B, C, H, W).
        patch: side of a block, p, of which H and W are multiples.

    Returns:
        (B, C p p, H / p, W / p), channels_last.
    """
    if patch == 1:
        return x.contiguous(memory_format=torch.channels_last).to(dtype)
    batch, channels, height, width = x.shape
    rows, columns = height // patch, width // patch
    x = x.to(dtype).contiguous()
    wide = _as_wide_as(patch, x)
    if wide is None:
        blocks = x.view(batch, channels, rows, patch, columns, patch).permute(0, 2, 1, 3, 5, 4)
    else:
        blocks = x.flatten().view(wide).view(batch, channels, rows, patch, columns).permute(0, 2, 1, 3, 4)
    lines = blocks.reshape(batch, rows, -1, columns).transpose(2, 3).contiguous()
    if wide is not None:
        lines = lines.flatten().view(dtype).view(batch, rows, columns, -1)
    return lines.permute(0, 3, 1, 2)


def shuffled(x: Tensor, patch: int) -> Tensor:
    """Channels as blocks of pixels, as `F.pixel_shuffle` has them: undoes `unshuffled`, but for the precision."""
    if patch == 1:
        return x.contiguous()
    batch, channels, rows, columns = x.shape
    of_picture = batch, channels // patch**2, rows * patch, columns * patch
    x = x.permute(0, 2, 3, 1)
    wide = _as_wide_as(patch, x) if x.is_contiguous() else None
    if wide is None:
        blocks = x.reshape(batch, rows, columns, -1, patch, patch).permute(0, 3, 1, 4, 2, 5)
        return blocks.reshape(of_picture)
    blocks = x.flatten().view(wide).view(batch, rows, columns, -1, patch).permute(0, 3, 1, 4, 2)
    return blocks.contiguous().flatten().view(x.dtype).view(of_picture)


def _as_wide_as(patch: int, x: Tensor) -> torch.dtype | None:
    """A kind of number that takes the place of a row of a block; None where there is none, or gradients are wanted.

    Seen as such, x is flattened: axes of one position may have any stride, which other kinds of numbers do not forgive.
    """
    aligned = x.storage_offset() % patch == 0 and x.data_ptr() % (patch * x.itemsize) == 0
    return WIDE.get(patch * x.itemsize) if aligned and not torch.is_grad_enabled() else None


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


def normalized(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalization."""
    up = _goes_up(norm, x)
    h = _normalized(norm, x, up)
    return h.to(x.dtype) if up else h


def activated(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalization, then SiLU."""
    up = _goes_up(norm, x)
    h = F.silu(_normalized(norm, x, up), inplace=not torch.is_grad_enabled())
    return h.to(x.dtype) if up else h


def _normalized(norm: nn.GroupNorm, x: Tensor, up: bool) -> Tensor:
    """Group normalization, in float32 where asked for."""
    weight: Tensor = norm.weight
    bias: Tensor = norm.bias
    if up:
        x, weight, bias = x.float(), weight.float(), bias.float()
    return torch.group_norm(x, norm.num_groups, weight, bias, norm.eps)


def _goes_up(norm: nn.GroupNorm, x: Tensor) -> bool:
    """On processors PyTorch takes up to five times as long for a small map in bfloat16 as for the same in float32,
    unless the channels of a group fill its vectors.
    """
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return False
    return x.shape[-2:].numel() < SMALL and x.shape[1] // norm.num_groups % VECTOR != 0
