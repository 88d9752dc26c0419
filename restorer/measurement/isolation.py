"""How far each value of a picture stands apart from the values around it.

The score of a value x among its eight neighbours is

    t = (x - median of the neighbours) / max(scale of the area, spread of the neighbours)

Texture and noise raise the scale and the spread, so that t has about the same distribution in all of them: values above
4 are rare. The scale is the geometric mean of |x - median| over 7x7 values, on which a few large ones have little
influence. The spread leaves out some of the extreme neighbours where outliers are so dense that they lie side by side
(rank-ordered differences: Garnett, Huegerich, Chui and He 2005, "A Universal Noise Removal Algorithm With an Impulse
Detector", IEEE Transactions on Image Processing 14(11)).

All values are on the 0..255 scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Isolation", "isolation", "neighbourhood_median"]

REACH = 3
"""Half the side of the area whose scale counts, in pixels."""

GEOMETRIC = 1.9
"""Standard deviation of normal values over the geometric mean of their magnitudes, 1 / 0.53."""

SPREADS = (2.85, 1.7, 0.95)
"""Mean range of eight normal values of standard deviation 1, without none, one and two of them at each end."""

ROUNDING = 1.0
"""What is added to every scale, in levels."""

BAND = 256
"""Rows that are examined together, which bounds the memory."""

# The comparisons of Batcher's network, which sorts eight values (Knuth, The Art of Computer Programming 3, 5.3.4).
SORT = ((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6))
MERGE = ((0, 4), (1, 5), (2, 6), (3, 7), (2, 4), (3, 5), (1, 2), (3, 4), (5, 6))


@dataclass(frozen=True)
class Isolation:
    """How far each value stands apart; all tensors have the shape of the picture.

    Args:
        score: The score t of each value, with its sign.
        median: The median of its eight neighbours, in levels.
        scale: What the difference from it is divided by, in levels.
        widest: The same if none of the neighbours is left out.
    """

    score: Tensor
    median: Tensor
    scale: Tensor
    widest: Tensor

    def untrimmed(self, x: Tensor, least: float) -> Isolation:
        """Return how far each value of the picture x stands apart if none of its neighbours is left out."""
        scale = self.widest.clamp(min=least)
        return Isolation((x - self.median) / scale, self.median, scale, scale)


def isolation(
    x: Tensor, filled: Tensor | None = None, trim: int = 0, least: float = 0.0, distance: int = 1
) -> Isolation:
    """Return how far each value of a picture stands apart from the values around it.

    Args:
        x: The picture, float (C, H, W) in levels, with sides of at least 4.
        filled: The picture from which neighbours and scale are taken, in which known outliers are replaced; None for
            `x`.
        trim: How many of the eight neighbours are left out at each end for the spread, 0..2.
        least: The least scale, in levels.
        distance: Distance of the eight neighbours in pixels, 1 or 2.
    """
    around = x if filled is None else filled
    height, halo = x.shape[-2], REACH + distance
    if height <= BAND + halo:
        return _isolation(x, around, trim, least, distance)
    parts = []
    for top in range(0, height, BAND):
        low, high = max(0, top - halo), min(height, top + BAND + halo)
        if high - low <= halo:  # a band must be higher than its halo
            low = high - halo - 1
        found = _isolation(x[:, low:high], around[:, low:high], trim, least, distance)
        rows = slice(top - low, min(top + BAND, height) - low)
        parts.append([tensor[:, rows] for tensor in (found.score, found.median, found.scale, found.widest)])
    return Isolation(*(torch.cat(tensors, 1) for tensors in zip(*parts, strict=True)))


def _isolation(x: Tensor, around: Tensor, trim: int, least: float, distance: int) -> Isolation:
    """Return the scores of a part of a picture; see `isolation`."""
    ordered = _sorted_neighbours(around, distance)
    median = (ordered[3] + ordered[4]) / 2
    difference = x - median
    logs = F.pad(((around - median).abs() + 1).log()[None], (REACH,) * 4, mode="reflect")
    for axis in (-1, -2):  # the mean of a square, first along its rows, then along its columns
        size, parts = logs.shape[axis] - 2 * REACH, logs
        logs = parts.narrow(axis, 0, size).clone()
        for i in range(1, 2 * REACH + 1):
            logs += parts.narrow(axis, i, size)
        logs /= 2 * REACH + 1
    scale = (logs[0].exp() - 1) * GEOMETRIC
    spreads = [(ordered[7 - left_out] - ordered[left_out]) / SPREADS[left_out] for left_out in (trim, 0)]
    scale, widest = ((torch.maximum(scale, spread) + ROUNDING).clamp(min=least) for spread in spreads)
    return Isolation(difference / scale, median, scale, widest)


def neighbourhood_median(x: Tensor) -> Tensor:
    """Return the median of the eight neighbours of each value of a picture (C, H, W)."""
    ordered = _sorted_neighbours(x)
    return (ordered[3] + ordered[4]) / 2


def _sorted_neighbours(x: Tensor, distance: int = 1) -> list[Tensor]:
    """Return the eight neighbours at a distance of each value of (C, H, W), from the lowest to the highest."""
    height, width = x.shape[-2:]
    padded = F.pad(x[None], (distance,) * 4, mode="reflect")[0]
    places = [(distance * i, distance * j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    values = [padded[:, i : i + height, j : j + width] for i, j in places]
    for low, high in (*SORT, *MERGE):
        a, b = values[low], values[high]
        values[low], values[high] = torch.minimum(a, b), torch.maximum(a, b)
    return values
