"""Colour for the places where there is none: bled from what surrounds them.

Push-pull (Gortler et al., The Lumigraph, SIGGRAPH 1996, section 3.6): known values are averaged to ever coarser
pictures, and what is unknown is filled from the next coarser one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["push_pull"]


def push_pull(colour: Tensor, weight: Tensor) -> Tensor:
    """Fill where `weight` is 0 from ever coarser means. Shapes (C, h, w), (1, h, w); `colour` is premultiplied."""
    known = weight > 0
    own = colour / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    if known.all():
        return own
    h, w = weight.shape[-2:]
    both = F.pad(torch.cat([colour, weight]), (0, w % 2, 0, h % 2))
    halved = F.avg_pool2d(both[None], 2)[0] * 4
    coarse = push_pull(halved[:-1], halved[-1:])
    up = F.interpolate(coarse[None], scale_factor=2, mode="bilinear", align_corners=False)[0, :, :h, :w]
    return torch.where(known, own, up)
