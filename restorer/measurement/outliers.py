"""Values of single pixels that have nothing to do with the picture: hot and dead pixels, salt and pepper.

1. Each value gets a score that says how far it stands apart from its neighbours (`isolation.py`). Photographs have few
   scores above t, at most TEXTURE_SHARE (4 / t)^k, by the worst of a hundred. Values count as candidates from the
   score at which these are at most a tenth of all that are found.
2. The candidates are outliers only if where they lie is independent of the picture and of each other
   (`outlier_evidence.py`), and if no light can have made them: a light, such as a star, spreads over more than a pixel
   and shines in all channels. Bright points in the dark, or dark ones on white, that are alike in all channels, are no
   outliers unless there are others on other grounds.
3. Demosaicing spreads an outlier over its neighbours in one channel. The shape of this spot is the same everywhere, and
   its pixels belong to the outlier.
4. Where more than a percent of the pixels stand apart, outliers have neighbours that are outliers. The scores are
   computed again without them. If nearly all have the least or the largest value of the picture, which is salt and
   pepper, nothing else is an outlier, and these values need a lower score: as low as the values beside them, which the
   picture alone explains, are rarer.

In doubt nothing is found. A missed outlier leaves a dot, a false one destroys a star or an eye's reflection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.images.push_pull import push_pull
from restorer.measurement.isolation import Isolation, isolation, neighbourhood_median
from restorer.measurement.outlier_evidence import (
    are_apart_by_chance,
    are_in_all_tones,
    are_in_flat_areas,
    are_spread_evenly,
    crowded_classes,
    touch_by_chance,
)
from restorer.measurement.outlier_spots import LEAST_COUNT, SPOT, spot_shapes, with_spots
from restorer.measurement.white_noise import constant_areas

__all__ = ["Outliers", "find_outliers"]

LEAST_SIDE = 16
"""Least side of a picture in which outliers are looked for."""

LEAST_DIFFERENCE = 12.0
"""Difference from the neighbours, in levels, from which an outlier can be seen."""

LEAST_SCORE, TEXTURE_SHARE, REFERENCE = 3.0, 6e-4, 4.0
"""Least score of a candidate, and the share of scores above 4 in the most textured photographs."""

SPARSE_DECAY, DENSE_DECAY = 6.0, 4.0
"""How fast this share falls with the score: k in (4 / t)^k, with all neighbours and without the extreme ones."""

MOST_FALSE = 0.1
"""Largest share of the candidates that texture may explain."""

DENSE = 0.01
"""Share of the pixels that stand apart from which outliers are taken to lie side by side."""

CLIPPED, QUIETEST, SAMPLE = 32.0, 0.1, 100_000
"""Distance from black and white in levels at which noise is hardly clipped, the share of the picture that may have a
smaller scale than the least one, and the number of pixels by which that is found."""

DOT = 4
"""Distance in pixels up to which a dot may interrupt an area without variation."""

MOST_DENSE = 0.6
"""Largest share of outliers that is believed."""

SPIKE = 0.9
"""Share of the values that stand apart from which having the least or the largest value is what makes them outliers."""

MOST_FALSE_OF_SPIKE = 0.3
"""Largest share of extreme values of one score that the picture may explain. A hole that is none costs little here."""

BESIDE = 4
"""Number of values beside the extreme ones by which it is estimated how many of these are part of the picture."""

ROUNDS = 3
"""How often the scores of dense outliers are computed, each time without the outliers that were found."""

ALIKE = 0.35
"""Ratio of the differences in two channels from which they are alike, as those of lights are."""

MINORITY = 0.1
"""Share of dark points among bright ones, or the reverse, from which they are of both kinds."""

VISIBLE = 64.0
"""Distance in levels of a ground from white, or from black, at which white points, or black ones, are seen."""


@dataclass(frozen=True)
class Outliers:
    """The outliers of a picture.

    Args:
        values: The values that are outliers, bool (C, H, W). In a picture with equal channels, all channels are equal.
        kind: "none", "pixels" (a few, as of a sensor), "salt and pepper", or "impulses" (dense, and of any value).
        sureness: Share of them that are outliers by the estimate, 0..1. It is 0 if there are none.
    """

    values: Tensor
    kind: str
    sureness: float

    @property
    def pixels(self) -> Tensor:
        """The pixels with an outlier in any channel, bool (H, W)."""
        return self.values.any(0)

    @property
    def count(self) -> int:
        """The number of these pixels."""
        return int(self.pixels.sum())

    @property
    def share(self) -> float:
        """Their share of the picture, 0..1."""
        return self.count / self.pixels.numel()

    def describe(self) -> str:
        """Return the outliers in a few words, such as "312 outliers (0.1 %)"; an empty text if there are none."""
        if self.kind == "none":
            return ""
        share = f"{100 * self.share:.2g}" if self.share < 0.1 else f"{100 * self.share:.0f}"
        name = ", salt and pepper" if self.kind == "salt and pepper" else ""
        return f"outliers: {self.count} pixel{'s' if self.count > 1 else ''} ({share} %){name}"

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON output and the record of a result hold."""
        return {
            "kind": self.kind,
            "pixels": self.count,
            "share": round(self.share, 6),
            "sureness": round(self.sureness, 3),
        }


@dataclass(frozen=True)
class _Ground:
    """What a picture shows beside its outliers.

    Args:
        area: The pixels that count, bool (H, W).
        activity: How much their surroundings vary, float (H, W).
        tone: How bright their surroundings are, float (H, W) in levels.
    """

    area: Tensor
    activity: Tensor
    tone: Tensor


def find_outliers(image: Tensor, evidence: Tensor | None = None) -> Outliers:
    """Find the outliers of a picture.

    Args:
        image: The picture, float (C, H, W) in [0, 1] with C = 1 or 3.
        evidence: The pixels that count, bool (H, W); None for all of them.

    Returns:
        The outliers, of the kind "none" if nothing is sure enough.
    """
    nothing = Outliers(torch.zeros_like(image, dtype=torch.bool, device="cpu"), "none", 0.0)
    if min(image.shape[-2:]) < LEAST_SIDE:
        return nothing
    x = image.detach().float().cpu() * 255
    if bool((x == x[:1]).all()):
        x = x[:1]
    area = _area_that_counts(x)
    if evidence is not None:
        area &= evidence.cpu()
    if not bool(area.any()):
        return nothing
    first = isolation(x, trim=1)
    least = _noise_floor(x, first, area)
    first = replace(first, score=(x - first.median) / first.scale.clamp(min=least))
    apart = _differs(x, first) & area
    if not bool((apart & (first.score.abs() > REFERENCE)).any()):
        return nothing
    is_dense = float((apart & (first.score.abs() > REFERENCE)).any(0).float().mean()) > DENSE / 2
    found = _find_dense(x, first, area, least) if is_dense else _find_sparse(x, first.untrimmed(x, least), area)
    if found.kind == "none" or not 0 < found.share <= MOST_DENSE:
        return nothing
    return replace(found, values=found.values.expand(image.shape))


def _area_that_counts(x: Tensor) -> Tensor:
    """Return the pixels of a picture (C, H, W), bool (H, W), in which outliers are looked for.

    A frame around the picture is left out, which may have been added later, and so are black and white areas without
    any variation, in which few outliers are seen. A dot does not interrupt such an area.
    """
    plain = constant_areas(x)
    area = torch.zeros_like(plain)
    rows, columns = torch.nonzero(~plain, as_tuple=True)
    if len(rows) == 0:
        return area
    area[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1] = True
    clipped = plain & ((x <= x.min()).all(0) | (x >= x.max()).all(0))
    grown = F.max_pool2d(clipped[None].float(), 2 * DOT + 1, 1, DOT)
    closed = -F.max_pool2d(-F.pad(grown, (DOT,) * 4, value=1.0), 2 * DOT + 1, 1)
    return area & (closed[0] == 0)


def _noise_floor(x: Tensor, found: Isolation, area: Tensor) -> float:
    """Return a scale that hardly any part of the picture is below, in levels, without parts that are clipped.

    Noise that is clipped leaves single values that stand apart from many equal ones.
    """
    tone = found.median.mean(0)
    unclipped = area & (tone > CLIPPED) & (tone < 255 - CLIPPED)
    values = found.scale.mean(0)[unclipped if float(unclipped.sum()) > LEAST_SIDE**2 else area]
    step = max(1, len(values) // SAMPLE)
    return float(values[::step].quantile(QUIETEST))


def _differs(x: Tensor, found: Isolation) -> Tensor:
    """Return which values, bool (C, H, W), differ visibly from their neighbours."""
    return (x - found.median).abs() >= LEAST_DIFFERENCE


def _least_score(scores: Tensor, size: int, decay: float) -> float:
    """Return the score from which texture explains few of the points; infinity if there is none.

    Args:
        scores: The scores of the pixels that count and stand apart, (N,).
        size: Number of pixels that count.
        decay: As in `SPARSE_DECAY`.
    """
    ordered = scores[scores >= LEAST_SCORE].sort(descending=True).values
    texture = TEXTURE_SHARE * size * (REFERENCE / ordered) ** decay
    is_rare = texture <= MOST_FALSE * torch.arange(1, len(ordered) + 1)
    return float(ordered[is_rare].min()) if bool(is_rare.any()) else math.inf


def _ground(x: Tensor, outliers: Tensor, area: Tensor) -> _Ground:
    """Return what a picture shows where suspected outliers, bool (C, H, W), are replaced."""
    filled = torch.where(outliers, neighbourhood_median(x), x)
    scale = isolation(filled, trim=1).scale.mean(0)
    pooled = F.avg_pool2d(F.pad(torch.stack([scale, filled.mean(0)])[None], (4,) * 4, mode="reflect"), 9, 1)[0]
    return _Ground(area, pooled[0], pooled[1])


def _find_sparse(x: Tensor, found: Isolation, area: Tensor) -> Outliers:
    """Find outliers that lie apart from each other: single values, and spots of one colour."""
    score = torch.where(_differs(x, found) & area, found.score, 0.0)
    difference = x - found.median
    least, points = _candidates(score, area)
    values, false = torch.zeros_like(score, dtype=torch.bool), 0.0
    if bool(points.any()):
        outlying = (score.abs() >= max(LEAST_SCORE, least / 2)) & points
        ground, alike = _ground(x, outlying, area), _are_alike(difference)
        for group in (points & ~alike, points & alike):
            group = group & ~crowded_classes(group, area, ground.activity)
            spots = spot_shapes(x, difference, group)
            if not _are_random(group, ground) or _may_be_lights(group, spots, difference, ground):
                continue
            values |= with_spots(outlying & group, difference, group, spots)
            false += _false_count(least, area)
    if len(x) == 3:
        spots, more = _find_spots(torch.where(values, found.median, x), area)
        values, false = values | spots, false + more
    count = int(values.any(0).sum())
    return Outliers(values, "pixels" if count else "none", 1 - min(1.0, false / count) if count else 0.0)


def _candidates(score: Tensor, area: Tensor) -> tuple[float, Tensor]:
    """Return the least score of candidates, and the pixels, bool (H, W), that reach it in a channel."""
    strongest = score.abs().amax(0)
    least = _least_score(strongest[area], int(area.sum()), SPARSE_DECAY)
    points = strongest >= least
    return least, points if int(points.sum()) >= LEAST_COUNT else torch.zeros_like(points)


def _false_count(least: float, area: Tensor) -> float:
    """Return how many values of an area texture brings to a score."""
    return TEXTURE_SHARE * int(area.sum()) * (REFERENCE / least) ** SPARSE_DECAY


def _find_spots(x: Tensor, area: Tensor) -> tuple[Tensor, float]:
    """Find outliers that demosaicing has spread over a few pixels in one channel.

    A spot stands apart from what is two pixels away, in the difference of its channel from the two others. What a
    picture shows hardly varies over such a distance there.

    Args:
        x: The picture, (3, H, W) in levels.
        area: The pixels that count.

    Returns:
        The values, bool (3, H, W), and how many of the spots may be none.
    """
    nothing = torch.zeros_like(x, dtype=torch.bool), 0.0
    opponent = 1.5 * (x - x.mean(0))
    found = isolation(opponent, distance=SPOT)
    difference = opponent - found.median
    size = difference.abs()
    peak = (size == F.max_pool2d(size[None], 2 * SPOT + 1, 1, SPOT)[0]) & (size == size.amax(0))
    score = torch.where(peak & (size >= 2 * LEAST_DIFFERENCE) & area, found.score, 0.0)
    least, points = _candidates(score, area)
    if not bool(points.any()):
        return nothing
    ground = _ground(x, F.max_pool2d(points[None].float(), 3, 1, 1) > 0, area)
    points = points & ~crowded_classes(points, area, ground.activity)
    shapes = spot_shapes(x, difference, points)
    if not bool(shapes.any()) or not _are_random(points, ground):
        return nothing
    centres = points & (size == size.amax(0))
    return with_spots(centres, difference, points, shapes), _false_count(least, area)


def _are_random(points: Tensor, ground: _Ground) -> bool:
    """Return whether where points lie is independent of the picture and of each other."""
    if int(points.sum()) < LEAST_COUNT:
        return False
    calm = ground.area & (ground.activity <= ground.activity[ground.area].median())
    return (
        are_in_flat_areas(points, ground.area, ground.activity)
        and are_spread_evenly(points, calm)
        and are_apart_by_chance(points, calm)
        and are_apart_by_chance(points, ground.area)
    )


def _are_alike(difference: Tensor) -> Tensor:
    """Return where the channels differ from their neighbours in the same way, as lights do, bool (H, W)."""
    same_sign = (difference > 0).all(0) | (difference < 0).all(0)
    size = difference.abs()
    return same_sign & (size.amin(0) >= ALIKE * size.amax(0))


def _may_be_lights(points: Tensor, spots: Tensor, difference: Tensor, ground: _Ground) -> bool:
    """Return whether points may be lights, or dots on white paper, because most are alike in all channels.

    Args:
        points: The points, bool (H, W).
        spots: The shapes of their spots.
        difference: How the values differ from their neighbours, (C, H, W) in levels.
        ground: What the picture shows beside them.
    """
    if 2 * int((points & _are_alike(difference)).sum()) <= int(points.sum()):
        return False
    if bool(spots.any()):
        return True
    is_bright = difference.mean(0)[points] > 0
    bright, count = int(is_bright.sum()), len(is_bright)
    if min(bright, count - bright) >= max(3, MINORITY * count):
        return False
    seen = ground.tone < 255 - VISIBLE if 2 * bright > count else ground.tone > VISIBLE
    return not are_in_all_tones(points, ground.area & seen, ground.tone)


def _find_dense(x: Tensor, first: Isolation, area: Tensor, floor: float) -> Outliers:
    """Find outliers that are so many that they lie side by side."""
    nothing = Outliers(torch.zeros_like(x, dtype=torch.bool), "none", 0.0)
    is_extreme = (x == x.min()) | (x == x.max())
    apart = _differs(x, first) & area & (first.score.abs() > REFERENCE)
    is_spike = float(is_extreme[apart].float().mean()) >= SPIKE
    suspects, found = apart, first
    if is_spike:
        same = F.avg_pool2d(F.pad(is_extreme[None].float(), (2,) * 4, mode="reflect"), 5, 1)[0]
        suspects = is_extreme & (same < 0.75)
    for _ in range(ROUNDS):
        filled = _replaced(x, suspects)
        floor = min(floor, _noise_floor(filled, isolation(filled, trim=1), area))
        found = isolation(x, filled, trim=1, least=floor)
        suspects = _differs(x, found) & (found.score.abs() > REFERENCE)
        if is_spike:
            suspects = is_extreme & (found.score.abs() > REFERENCE / 2)
    score = torch.where(_differs(x, found) & area, found.score.abs(), 0.0)
    if is_spike:
        least, false = _least_score_of_spike(x, score, found.scale, is_extreme & area)
        values = (score >= least) & is_extreme
    else:
        strongest = score.amax(0)
        least = _least_score(strongest[area], int(area.sum()), DENSE_DECAY)
        values = score >= least
        false = TEXTURE_SHARE * int(area.sum()) * (REFERENCE / least) ** DENSE_DECAY / max(1, int(values.any(0).sum()))
    points = values.any(0)
    ground, difference = _ground(x, values, area), x - found.median
    if float(points.float().mean()) < DENSE / 2 or not _are_random(points, ground):
        return nothing
    if not is_spike and not touch_by_chance(points, area):
        return nothing
    if _may_be_lights(points, spot_shapes(x, difference, points), difference, ground):
        return nothing
    return Outliers(values, "salt and pepper" if is_spike else "impulses", 1 - min(1.0, false))


def _replaced(x: Tensor, suspects: Tensor) -> Tensor:
    """Return a picture (C, H, W) in which suspected values are replaced by means of the others around them."""
    filled = [push_pull(p[None] * ~s, (~s).float()[None])[0] for p, s in zip(x, suspects, strict=True)]
    return torch.stack(filled)


def _least_score_of_spike(x: Tensor, score: Tensor, scale: Tensor, is_extreme: Tensor) -> tuple[float, float]:
    """Return the score from which extreme values are outliers, and the share of them that are not.

    The values just beside the extreme ones show how often the picture reaches them. It would go on beyond, by about its
    scale over the score, and is clipped.

    Args:
        x: The picture, (C, H, W) in levels.
        score: The scores of the values that count, 0 for others.
        scale: The scales of the scores.
        is_extreme: The values that count and are the least or the largest of the picture.
    """
    low, high = float(x.min()), float(x.max())
    beside = ((x > low) & (x <= low + BESIDE)) | ((x < high) & (x >= high - BESIDE))
    clipped = torch.where(beside, (scale / score.clamp(min=1)).clamp(min=1), 0.0) / BESIDE
    for least in (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0):
        band = (score >= least) & (score < least + 0.5)
        false = float(clipped[band].sum()) / max(float((band & is_extreme).sum()), 1.0)
        if false <= MOST_FALSE_OF_SPIKE:
            chosen = score >= least
            return least, float(clipped[chosen].sum()) / max(float((chosen & is_extreme).sum()), 1.0)
    return math.inf, 1.0
