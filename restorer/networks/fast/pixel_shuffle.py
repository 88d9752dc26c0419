"""Pixel-unshuffle and pixel-shuffle that move rows of blocks rather than single numbers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pixel_shuffle", "pixel_unshuffle"]

INTEGERS = {4: torch.int32, 8: torch.int64}  # by size in bytes


def pixel_unshuffle(x: Tensor, patch: int, dtype: torch.dtype) -> Tensor:
    """Fold blocks of pixels into channels, as `F.pixel_unshuffle` does, and cast the result.

    `F.pixel_unshuffle` and a change of layout move one number at a time. This function moves rows first and columns
    next, and it moves the neighbours in a row of a block together. It takes a sixth of the time at 512x512 pixels and
    half at 128x128.

    Args:
        x: Pictures, (B, C, H, W).
        patch: Side p of a block; H and W are multiples of it.
        dtype: Precision of the result.

    Returns:
        Blocks as channels, (B, C p p, H / p, W / p), channels_last.
    """
    if patch == 1:
        return x.contiguous(memory_format=torch.channels_last).to(dtype)
    batch, channels, height, width = x.shape
    rows, columns = height // patch, width // patch
    x = x.to(dtype).contiguous()
    wide = _integer_of_a_row(patch, x)
    if wide is None:
        blocks = x.view(batch, channels, rows, patch, columns, patch).permute(0, 2, 1, 3, 5, 4)
    else:
        blocks = x.flatten().view(wide).view(batch, channels, rows, patch, columns).permute(0, 2, 1, 3, 4)
    lines = blocks.reshape(batch, rows, -1, columns).transpose(2, 3).contiguous()
    if wide is not None:
        lines = lines.flatten().view(dtype).view(batch, rows, columns, -1)
    return lines.permute(0, 3, 1, 2)


def pixel_shuffle(x: Tensor, patch: int) -> Tensor:
    """Unfold channels into blocks of pixels, as `F.pixel_shuffle` does: the inverse of `pixel_unshuffle`.

    Args:
        x: Blocks as channels, (B, C p p, H, W).
        patch: Side p of a block.

    Returns:
        Pictures, (B, C, p H, p W), contiguous, in the precision of x.
    """
    if patch == 1:
        return x.contiguous()
    batch, channels, rows, columns = x.shape
    shape = batch, channels // patch**2, rows * patch, columns * patch
    x = x.permute(0, 2, 3, 1)
    wide = _integer_of_a_row(patch, x) if x.is_contiguous() else None
    if wide is None:
        blocks = x.reshape(batch, rows, columns, -1, patch, patch).permute(0, 3, 1, 4, 2, 5)
        return blocks.reshape(shape)
    blocks = x.flatten().view(wide).view(batch, rows, columns, -1, patch).permute(0, 3, 1, 4, 2)
    return blocks.contiguous().flatten().view(x.dtype).view(shape)


def _integer_of_a_row(patch: int, x: Tensor) -> torch.dtype | None:
    """Return the integer type that is as wide as one row of a block, or None.

    The result is None where no integer has that size, where x is not aligned to it, or while gradients are recorded.
    Callers flatten x before they view it as such integers: an axis of one position may have any stride, which a view in
    another type refuses.
    """
    aligned = x.storage_offset() % patch == 0 and x.data_ptr() % (patch * x.itemsize) == 0
    return INTEGERS.get(patch * x.itemsize) if aligned and not torch.is_grad_enabled() else None
