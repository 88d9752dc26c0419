"""The spots over which demosaicing spreads an outlier.

A sensor measures one channel a pixel, and the others are made from neighbours. A hot pixel therefore becomes a cross or
a square of one colour. It has the same shape everywhere, which is measured from all outliers together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LEAST_COUNT", "SPOT", "spot_shapes", "with_spots"]

LEAST_COUNT = 8
"""Fewer points say nothing about where they lie."""

SPREAD, LEAST_SPREAD, MOST_OF_THEM = 0.12, 0.05, 0.75
"""Share of an outlier's difference that a neighbour has if outliers are spread, the share from which it belongs to
them, and the share of the outliers that must be so."""

SPOT = 2
"""Distance in pixels up to which an outlier is spread."""


def spot_shapes(x: Tensor, difference: Tensor, points: Tensor) -> Tensor:
    """Return which values around an outlier belong to it, by the channel in which it is strongest.

    Args:
        x: The picture, (C, H, W) in levels.
        difference: Its difference from the median of the neighbours.
        points: The outliers, bool (H, W).

    Returns:
        bool (C, C, 5, 5): the channel in which the outlier is strongest, the channel of the value, and its place. The
        centre is not part of it.
    """
    channels, side, reach = len(x), 2 * SPOT + 1, SPOT + 1
    shapes = torch.zeros(channels, channels, side, side, dtype=torch.bool)
    rows, columns = torch.nonzero(points, as_tuple=True)
    inside = (rows >= reach) & (rows < x.shape[1] - reach) & (columns >= reach) & (columns < x.shape[2] - reach)
    rows, columns = rows[inside], columns[inside]
    if len(rows) < LEAST_COUNT:
        return shapes
    around = torch.arange(-reach, reach + 1)
    patches = x[:, rows[:, None, None] + around[:, None], columns[:, None, None] + around].movedim(0, 1)
    border = torch.ones(2 * reach + 1, 2 * reach + 1, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    relative = patches[..., 1:-1, 1:-1] - patches[..., border].median(-1).values[..., None, None]
    strongest = difference[:, rows, columns].abs().argmax(0)
    for channel in range(channels):
        own = relative[strongest == channel]
        if len(own) < LEAST_COUNT:
            continue
        shares = own / own[:, channel, SPOT, SPOT][:, None, None, None]
        low, high = shares.quantile(torch.tensor([1 - MOST_OF_THEM, MOST_OF_THEM]), dim=0)
        shares = torch.maximum(low, -high)  # what three quarters of them have, of either sign
        shares[:, SPOT, SPOT] = 0
        if float(shares.max()) > SPREAD:
            shapes[channel] = shares > LEAST_SPREAD
    return shapes


def with_spots(values: Tensor, difference: Tensor, points: Tensor, shapes: Tensor) -> Tensor:
    """Return the outliers, bool (C, H, W), with the values around them over which they are spread."""
    strongest = torch.where(points, difference.abs(), 0.0).argmax(0)
    result = values
    for channel, shape in enumerate(shapes):
        if bool(shape.any()):
            own = (points & (strongest == channel)).float()[None, None]
            spread = F.conv_transpose2d(own, shape.float()[None], padding=SPOT)[0] > 0
            result = result | spread
    return result
