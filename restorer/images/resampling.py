r"""Resizing by any factor, with the antialiased bicubic filter of Pillow, of a whole picture or of a part of it.

Along an axis, pixel i of the result is a mean of the pixels j of the picture with the weights

    k( (j + 1/2 - r (i + 1/2)) / max(r, 1) ) / sum,    r the ratio of the lengths, k the cubic kernel with a = -1/2

of which those beyond the borders are left out. The weights depend on the whole picture alone, so that a part of it,
with the pixels around that the filter reaches, gives the same part of the result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["resample"]

SUPPORT = 2.0
"""Half the width of the kernel, in pixels of the smaller of the picture and the result."""


def resample(x: Tensor, axis: int, length: int, of: int, *, first: int, count: int, offset: int = 0) -> Tensor:
    """Return pixels of a picture that was resized along an axis.

    Args:
        x: The picture or a part of it, float (..., H, W).
        axis: The axis, -2 or -1.
        length: Length of the axis of the whole result.
        of: Length of the axis of the whole picture.
        first: The first pixel of the result that is returned.
        count: Number of pixels that are returned.
        offset: Where x begins in the whole picture.

    Returns:
        The pixels, float (..., H', W'), with `count` pixels along the axis.
    """
    if length == of:
        return x.narrow(axis, first - offset, count)
    ratio = of / length
    stretch = max(ratio, 1.0)
    centres = (torch.arange(first, first + count, dtype=torch.float64) + 0.5) * ratio
    taps = math.ceil(2 * SUPPORT * stretch) + 1
    lowest = (centres - SUPPORT * stretch).floor().long()
    places = lowest[:, None] + torch.arange(taps)
    weights = _cubic((places + 0.5 - centres[:, None]) / stretch)
    present = (places >= max(offset, 0)) & (places < min(offset + x.shape[axis], of))
    weights = torch.where(present, weights, 0.0)
    weights = (weights / weights.sum(1, keepdim=True)).to(x.dtype)
    places = (places - offset).clamp(0, x.shape[axis] - 1)
    shape = (-1, 1) if axis == -2 else (-1,)
    result = torch.zeros_like(x.index_select(axis, places[:, 0].to(x.device)))
    for tap in range(taps):
        part = x.index_select(axis, places[:, tap].to(x.device))
        result.addcmul_(part, weights[:, tap].view(shape).to(x.device))
    return result


def _cubic(t: Tensor) -> Tensor:
    """Return the cubic convolution kernel with a = -1/2 (Keys 1981)."""
    t = t.abs()
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
