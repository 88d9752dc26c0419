"""Whether points that stand apart in a picture are outliers, and not a part of what the picture shows.

What a sensor or a transmission does to single values has nothing to do with the picture. Where the points fall is
therefore independent of it, and of the other points. These are statements that can be tested without knowing what
outliers look like:

    texture      Points are as frequent in flat areas as in textured ones. Grass, sand, water and hair have them where
                 the picture is textured.
    place        Points are as frequent in each part of the picture: their numbers scatter like those of a Poisson
                 process. Stars, sparkles, confetti and letters come in some parts.
    neighbours   Points are as far apart as chance makes them. Lines of dots and clusters are closer, dithered and
                 halftone pictures are more regular (Ripley 1977, "Modelling Spatial Patterns", Journal of the Royal
                 Statistical Society B 39(2)).
    tones        Points are as frequent in dark areas as in bright ones. Lights lie in the dark, dots on white paper.

All functions take bool tensors (H, W): the points, and the area in which they count.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "are_apart_by_chance",
    "are_in_all_tones",
    "are_in_flat_areas",
    "are_spread_evenly",
    "crowded_classes",
    "touch_by_chance",
]

DEVIATIONS = 3.0
"""Standard deviations of chance that are allowed."""

CELLS = 6
"""Parts of the picture along each side in which points are counted."""

NEAR, NEAREST = 7, 1
"""Points are near each other if they are up to 7 pixels apart along both axes. Those that touch do not count."""

TOUCHING = 1.25
"""Ratio of the points that touch to their number by chance that is allowed beside its scatter."""

OFFSETS, LARGEST = 24, 1024
"""Largest distance in pixels of a lattice of dots that is looked for, in a part of at most this side."""

CLASSES = 4
"""Number of classes of texture, of equal area."""

EXCESS = 1.5
"""Ratio to the number by chance that is allowed beside its scatter, because points are found more easily where an area
is flat."""

UNEVENNESS = 0.5
"""Relative standard deviation that the density of points may have, because black ones are not found on black."""

LEAST_SHARE = 0.5
"""Least number of points in flat areas, as a multiple of the number by chance."""

LEAST_OF_TONE, FEWEST = 0.4, 3
"""Least number of points in a third of all tones, as a multiple of the number by chance and as a number."""

LEAST_CONTRAST = 24
"""Difference in levels between the darkest and the brightest third of an area from which tones can be compared."""


def _pool(points: Tensor, side: int) -> Tensor:
    """Return how many points lie in the square of a side around each pixel."""
    padded = F.pad(points.float()[None, None], (side // 2,) * 4)
    return F.avg_pool2d(padded, side, 1)[0, 0] * side**2


def _sample(values: Tensor, at: Tensor, most: int = 200_000) -> Tensor:
    """Return the values at some pixels of an area, evenly chosen if there are many."""
    chosen = values[at]
    return chosen[:: max(1, math.ceil(len(chosen) / most))]


def are_in_flat_areas(points: Tensor, area: Tensor, activity: Tensor) -> bool:
    """Return whether the flatter half of the area has its share of the points.

    Args:
        points: The points.
        area: The area in which they count.
        activity: The activity of the surroundings of each pixel, float (H, W).
    """
    middle = _sample(activity, area).median()
    flat = area & (activity <= middle)
    count, share = int((points & area).sum()), float(flat.sum()) / float(area.sum())
    expected = count * share
    return int((points & flat).sum()) >= LEAST_SHARE * expected


def crowded_classes(points: Tensor, area: Tensor, activity: Tensor) -> Tensor:
    """Return the pixels, bool (H, W), of textures in which there are more points than in flat areas.

    Args:
        points: The points.
        area: The area in which they count.
        activity: As in `are_in_flat_areas`.
    """
    edges = _sample(activity, area).quantile(torch.linspace(0, 1, CLASSES + 1)[1:-1])
    classes = torch.bucketize(activity, edges)
    flat = area & (classes < CLASSES // 2)
    density = float((points & flat).sum()) / max(float(flat.sum()), 1.0)
    crowded = torch.zeros_like(points)
    for number in range(CLASSES // 2, CLASSES):
        inside = area & (classes == number)
        expected = density * float(inside.sum())
        if int((points & inside).sum()) > EXCESS * expected + DEVIATIONS * math.sqrt(expected):
            crowded |= classes == number
    return crowded


def are_spread_evenly(points: Tensor, area: Tensor) -> bool:
    """Return whether the numbers of points in the parts of an area scatter no more than chance explains."""
    height, width = points.shape
    rows, columns = max(1, height // CELLS), max(1, width // CELLS)

    def counted(x: Tensor) -> Tensor:
        return F.avg_pool2d(x.double()[None, None], (rows, columns), ceil_mode=True, divisor_override=1).flatten()

    found, sizes = counted(points & area), counted(area)
    expected = sizes * (float(found.sum()) / max(float(sizes.sum()), 1.0))
    usable = expected > 0.5
    degrees = int(usable.sum()) - 1
    if degrees < 1:
        return True
    dispersion = float(((found - expected).square() / expected)[usable].sum()) / degrees
    uneven = UNEVENNESS**2 * float(expected[usable].mean())
    return dispersion <= EXCESS + DEVIATIONS * math.sqrt(2 / degrees) + uneven


def are_apart_by_chance(points: Tensor, area: Tensor) -> bool:
    """Return whether the distances between points are those of points that know nothing of each other."""
    inside = points & area
    count, size = int(inside.sum()), int(area.sum())
    if count < 2:
        return True
    around = _pool(inside, 2 * NEAR + 1) - _pool(inside, 2 * NEAREST + 1)
    places = _pool(area, 2 * NEAR + 1) - _pool(area, 2 * NEAREST + 1)
    pairs = float(around[inside].double().sum()) / 2
    expected = float(places[inside].double().sum()) / 2 * (count - 1) / size
    margin = DEVIATIONS * math.sqrt(expected)
    if not expected / EXCESS - margin <= pairs <= EXCESS * expected + margin + 1:
        return False
    return not _is_lattice(inside, area)


def touch_by_chance(points: Tensor, area: Tensor) -> bool:
    """Return whether no more points touch each other than chance explains.

    Compression blurs an outlier, and its surroundings then stand apart, too.
    """
    inside = points & area
    count, size = int(inside.sum()), int(area.sum())
    pairs = float((_pool(inside, 3) - inside.float())[inside].double().sum()) / 2
    places = float((_pool(area, 3) - area.float())[inside].double().sum()) / 2
    expected = places * max(count - 1, 0) / max(size, 1)
    return pairs <= TOUCHING * expected + DEVIATIONS * math.sqrt(expected) + 1


def _is_lattice(points: Tensor, area: Tensor) -> bool:
    """Return whether some distance between points is far more frequent than chance makes it."""
    height, width = (min(side, LARGEST) for side in points.shape)
    top, left = (points.shape[0] - height) // 2, (points.shape[1] - width) // 2
    part = slice(top, top + height), slice(left, left + width)
    found, places = (_offsets(x[part]) for x in (points, area))
    density = float(points[part].sum()) / max(float(area[part].sum()), 1.0)
    expected = places * density**2
    # The largest of some thousand numbers deviates more than any one of them.
    return bool((found > EXCESS * expected + 2 * DEVIATIONS * expected.sqrt() + 2 * DEVIATIONS).any())


def _offsets(x: Tensor) -> Tensor:
    """Return the number of pairs of pixels by their distance, those of a half plane up to OFFSETS pixels."""
    size = [side + OFFSETS for side in x.shape]
    spectrum = torch.fft.rfft2(x.float(), s=size)
    pairs = torch.fft.irfft2(spectrum.abs().square(), s=size).round().clamp(min=0)
    near = torch.cat([pairs[: OFFSETS + 1, : OFFSETS + 1], pairs[: OFFSETS + 1, -OFFSETS:]], 1)
    near[0, 0] = 0  # a pixel and itself
    near[0, OFFSETS + 1 :] = 0  # the same pairs as in the other half
    near[:2, :2], near[1, -1] = 0, 0  # pixels that touch
    return near


def are_in_all_tones(points: Tensor, area: Tensor, tone: Tensor) -> bool:
    """Return whether the dark, the middle and the bright third of an area have their shares of the points.

    Args:
        points: The points.
        area: The area in which they count.
        tone: The brightness of the surroundings of each pixel, float (H, W).

    Returns:
        False also if the tones hardly differ, so that nothing can be said.
    """
    low, high = (float(q) for q in _sample(tone, area).quantile(torch.tensor([1 / 3, 2 / 3])))
    if high - low < LEAST_CONTRAST:
        return False
    count, size = int((points & area).sum()), float(area.sum())
    for third in (tone <= low, (tone > low) & (tone <= high), tone > high):
        expected = count * float((area & third).sum()) / size
        if int((points & area & third).sum()) < max(FEWEST, LEAST_OF_TONE * expected):
            return False
    return True
