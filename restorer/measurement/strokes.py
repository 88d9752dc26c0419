"""What the log odds around a pixel say about whether it belongs to a stroke.

The mean of the log odds along a straight line through the pixel is high if the pixel lies on a stroke, even where the
stroke is faint, because evidence adds up along it. The means over 2^k pixels of one direction d come from those over
half as many:

    m_0(p) = odds(p),   m_{k+1}(p) = (m_k(p) + m_k(p + 2^k d)) / 2

with whole-numbered steps, so that a length costs one addition a pixel and direction (the fast transform of Brady 1998,
"A Fast Discrete Approximation Algorithm for the Radon Transform"). A pixel amid a stroke has evidence on both sides,
one at its end on one side. Means over squares tell strokes from texture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CANDIDATE", "context_of", "line_means"]

CANDIDATE = -4.0
"""Log odds up to which a pixel is not judged, because no context makes it damage."""

MOST = 8.0  # what more extreme log odds count as
LENGTHS = (8, 16, 32)  # pixels on each side
ORIENTATIONS = 32
RADII = (1, 4, 16)  # of squares
TILE = 512  # side in pixels of what is computed at once
REACH = 32  # pixels around it that are seen, too


def line_means(odds: Tensor) -> Iterator[Tensor]:
    """Yield the means along the best of the lines that begin or pass at each pixel, three of (H, W) for each length.

    They are the largest, among the orientations, of the mean of both sides, of the side that has less, and of the side
    that has more. Lines that leave the picture enter it at its other side.

    Args:
        odds: Log odds, (H, W).
    """
    best = {length: [torch.full_like(odds, -math.inf) for _ in range(3)] for length in LENGTHS}
    for number in range(ORIENTATIONS):
        angle = math.pi * number / ORIENTATIONS
        ahead, covered = odds, 1
        while covered < max(LENGTHS):
            ahead = (ahead + _moved(ahead, angle, covered)) / 2
            covered *= 2
            if covered in best:
                behind = _moved(ahead, angle, 1 - covered)
                sides = (ahead + behind) / 2, torch.minimum(ahead, behind), torch.maximum(ahead, behind)
                for kept, new in zip(best[covered], sides, strict=True):
                    torch.maximum(kept, new, out=kept)
    for length in LENGTHS:
        yield from best[length]


def _moved(x: Tensor, angle: float, distance: float) -> Tensor:
    """Return what lies at a distance of each pixel, rounded to whole pixels."""
    return x.roll((-round(distance * math.sin(angle)), -round(distance * math.cos(angle))), (0, 1))


def _square_means(x: Tensor) -> Iterator[Tensor]:
    """Yield the means over the squares of RADII around each pixel that lies inside by REACH."""
    sums = F.pad(x.double(), (1, 0, 1, 0)).cumsum(0).cumsum(1)
    height, width = x.shape[0] - 2 * REACH, x.shape[1] - 2 * REACH
    for r in RADII:
        low, high = REACH - r, REACH + r + 1
        corners = [sums[row : row + height, column : column + width] for row in (low, high) for column in (low, high)]
        yield ((corners[3] - corners[1] - corners[2] + corners[0]) / (2 * r + 1) ** 2).float()


def context_of(odds: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pixels of a picture are to be judged, bool (H, W), and their contexts (N, CONTEXT_SIZE).

    Args:
        odds: Log odds of damage, (H, W); -inf where a pixel does not count.
    """
    chosen = odds > CANDIDATE
    contexts = odds.new_empty(int(chosen.sum()), 1 + 3 * len(LENGTHS) + len(RADII))
    if not len(contexts):
        return chosen, contexts
    places = chosen.new_zeros(chosen.shape, dtype=torch.int64)
    places[chosen] = torch.arange(len(contexts))
    padded = F.pad(odds.clamp(-MOST, MOST)[None, None], (REACH,) * 4, mode="replicate")[0, 0]
    for top in range(0, odds.shape[0], TILE):
        for left in range(0, odds.shape[1], TILE):
            inside = slice(top, top + TILE), slice(left, left + TILE)
            here = chosen[inside]
            if not here.any():
                continue
            tile = padded[top : top + TILE + 2 * REACH, left : left + TILE + 2 * REACH]
            inner = slice(REACH, REACH + here.shape[0]), slice(REACH, REACH + here.shape[1])
            planes = [tile[inner], *(plane[inner] for plane in line_means(tile))]
            planes += [plane.clamp(1e-5, 1 - 1e-5).logit() for plane in _square_means(tile.sigmoid())]
            contexts[places[inside][here]] = torch.stack([plane[here] for plane in planes], 1)
    return chosen, contexts
