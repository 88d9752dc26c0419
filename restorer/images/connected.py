"""The connected parts of a mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["connected"]

CELL = 4
"""Side in pixels of the cells that are joined. Parts that lie nearer to each other may count as one."""


def connected(mask: Tensor) -> Tensor:
    """Return the connected parts of a mask, numbered.

    Args:
        mask: bool (H, W).

    Returns:
        int64 (H, W): 0 outside of the mask, and 1, 2, ... in its parts.
    """
    height, width = mask.shape
    cells = F.max_pool2d(F.pad(mask.float(), (0, -width % CELL, 0, -height % CELL))[None, None], CELL)
    names = torch.arange(1, cells.numel() + 1, dtype=torch.float64).view_as(cells) * cells
    while True:  # the largest name spreads over its part
        spread = F.max_pool2d(names, 3, 1, 1) * cells
        if torch.equal(spread, names):
            break
        names = spread
    whole = names[0, 0].repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)[:height, :width]
    found, numbers = torch.unique(whole * mask, return_inverse=True)
    return numbers if bool(found[0] == 0) else numbers + 1
