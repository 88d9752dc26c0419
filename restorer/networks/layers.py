"""Layers that several networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AddConv2d", "GroupNorm", "UpsampleConv2d", "double_size"]


def double_size(x: Tensor) -> Tensor:
    """Repeat every pixel twice along both axes: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class AddConv2d(nn.Conv2d):
    """A convolution that adds a shift of each channel and a second feature map to its result."""

    def forward(
        self, x: Tensor, shift: Tensor | None = None, other: Tensor | None = None, *, overwrite: bool = False
    ) -> Tensor:
        """Return conv(x) + shift + other.

        Args:
            x: Input, (B, C, H, W).
            shift: Number that is added to each output channel, (B or 1, K).
            other: Feature map that is added, shaped like the result.
            overwrite: Whether the caller needs neither `x` nor `other` afterwards, so that the result may take the
                place of `other`. It has no effect while gradients are recorded.
        """
        out = super().forward(x)
        if shift is not None:
            out = out + shift[:, :, None, None]
        if other is None:
            return out
        in_place = overwrite and not torch.is_grad_enabled() and other.dtype == out.dtype
        return other.add_(out) if in_place else other + out


class UpsampleConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by two, followed by a 3x3 convolution that keeps the size."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample and convolve: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return super().forward(double_size(x))


class GroupNorm(nn.GroupNorm):
    """Group normalization, followed by SiLU where the caller asks for it."""

    def forward(self, x: Tensor, *, silu: bool = False) -> Tensor:
        """Normalize (B, C, ...), and apply SiLU if `silu`."""
        h = super().forward(x)
        return F.silu(h, inplace=not torch.is_grad_enabled()) if silu else h
