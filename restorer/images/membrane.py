r"""A smooth filling of holes that favours no side: the harmonic membrane over the rim.

Inside of a hole, the membrane m solves

    Laplacian m = 0,    m = the picture on the rim,

so that every value is the mean of its four neighbours, and the mean colour of the hole is the one to expect where the
content is not known. `membranes` relaxes it on each level of a pyramid, from the next coarser one.

Source: Perez, Gangnet and Blake 2003, "Poisson Image Editing", https://doi.org/10.1145/882262.882269, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.images.push_pull import push_pull

__all__ = ["membranes"]

RELAXATIONS = 60
"""Number of relaxations on each level. They reach across a hole of the coarsest level, and mend the finer ones."""


def membranes(levels: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return the membranes on the levels of a pyramid.

    Args:
        levels: The picture, float (C, H, W), and the hole, bool (H, W), of each level, from fine to coarse.

    Returns:
        For each level, the picture with its holes filled, float (C, H, W).
    """
    made = list[Tensor]()
    for colour, hole in reversed(levels):
        if made:
            first = F.interpolate(made[-1][None], size=tuple(hole.shape), mode="bilinear", align_corners=False)[0]
        else:
            first = push_pull(torch.where(hole, 0.0, colour), (~hole).float()[None])
        made.append(_relaxed(torch.where(hole, first, colour), hole))
    return made[::-1]


def _relaxed(x: Tensor, hole: Tensor) -> Tensor:
    """Return a picture in whose hole every value has become the mean of its neighbours a number of times."""
    result = x
    for _ in range(RELAXATIONS):
        padded = F.pad(result[None], (1, 1, 1, 1), mode="replicate")[0]
        across = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
        down = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
        result = torch.where(hole, (across + down) / 4, x)
    return result
