"""Colour for pixels that have none, spread from the surrounding pixels.

Push-pull (Gortler et al., The Lumigraph, SIGGRAPH 1996, section 3.6): known values are averaged into coarser and
coarser images, and unknown values are filled from the next coarser image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["push_pull"]


def push_pull(colour: Tensor, weight: Tensor) -> Tensor:
    """Fill the pixels whose weight is 0 with means over coarser and coarser neighbourhoods.

    Args:
        colour: float (C, H, W), multiplied by `weight`.
        weight: float (1, H, W), non-negative; 0 where the colour is unknown.

    Returns:
        (C, H, W): the colour, no longer multiplied by `weight`, with every pixel filled.
    """
    is_known = weight > 0
    own = colour / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    if is_known.all():
        return own
    h, w = weight.shape[-2:]
    both = F.pad(torch.cat([colour, weight]), (0, w % 2, 0, h % 2))
    sums = F.avg_pool2d(both[None], 2)[0] * 4
    coarse = push_pull(sums[:-1], sums[-1:])
    up = F.interpolate(coarse[None], scale_factor=2, mode="bilinear", align_corners=False)[0, :, :h, :w]
    return torch.where(is_known, own, up)
