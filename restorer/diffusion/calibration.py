r"""Calibration: from an estimated standard deviation to the half width of an interval that holds 90 % of the values.

An estimate u of the standard deviation of a pixel becomes the interval [x - h, x + h] with h = lambda u. The factor
lambda is found on pictures whose truth is known, by conformal risk control: the loss of a picture is the share of its
values that lie outside, and

    lambda = inf { l : n / (n + 1) R(l) + B / (n + 1) <= alpha },    R(l) = mean over n pictures of min(loss, B)

Then E[min(loss, B)] <= alpha for a further picture that is exchangeable with those n. The guarantee is one on the mean
over pictures like these under the same degradation. It holds neither for every picture nor for every pixel. The bound B
is 1 in the source; a lower one takes a picture of which more than half is missed for one of which half is, and makes
the intervals less cautious where pictures are few.

Factors are found for each kind of degradation, for several strengths of it, and for quarters of the local variance of
the result, because errors are underestimated in other proportions where a picture is flat and where it is textured.
Between strengths, factors are interpolated in the logarithm.

Where the derivative alone tells too little, a power law takes the place of the groups. It joins the estimate u with a
hint w, a second map that the run yields at no cost, and with the local variance v of the result:

    h = lambda u^a w^b (1 + v)^(c / 2)

The exponents are fitted (`restorer.evaluation.power_laws`), and lambda is found by conformal risk control.

Source:
    Angelopoulos, Bates, Fisch, Lei and Schuster 2024, "Conformal Risk Control", ICLR, https://arxiv.org/abs/2208.02814.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

__all__ = [
    "GAUSSIAN",
    "GROUPS",
    "LEVEL",
    "MOST_HALF_WIDTH",
    "Calibration",
    "Constants",
    "PowerLaw",
    "controlled_factor",
    "group_edges",
    "half_width",
    "inside",
]

LEVEL = 0.9
"""Share of the values that lie within their intervals."""

GAUSSIAN = 1.6449
"""Half width of the interval of a Gaussian of standard deviation 1 that holds LEVEL of it. It serves without constants.
"""

GROUPS = 4
"""Number of groups by local variance."""

MOST_LOSS = 0.5
"""B, the loss above which pictures do not differ."""

MOST_HALF_WIDTH = 255.0
"""Largest half width in levels: no value can be farther off."""

MOST_FACTOR = 1e3
ROUNDS = 60  # halvings of the interval in which a factor lies, in the logarithm
OUTSIDE = 1.5  # ratio to the nearest calibrated strength from which a strength counts as another one


@dataclass(frozen=True)
class PowerLaw:
    """The half width as a product of powers of maps.

    Args:
        factor: lambda, above 0.
        deviation: Exponent a of the estimated deviation.
        hint: Exponent b of the hint.
        variance: Exponent c of the local deviation of the result.
    """

    factor: float
    deviation: float = 1.0
    hint: float = 0.0
    variance: float = 0.0

    def half(self, deviation: Tensor, variance: Tensor, hint: Tensor | None) -> Tensor:
        """Return half widths in levels; the arguments are those of `half_width`. A hint of exponent 0 is not read."""
        found = self.factor * deviation**self.deviation
        if self.hint:
            assert hint is not None
            found = found * hint**self.hint
        return found * (1 + variance) ** (self.variance / 2) if self.variance else found


@dataclass(frozen=True)
class Constants:
    """The constants of one strength of a degradation.

    Args:
        strength: The strength.
        edges: Local variances in squared levels between the groups, increasing.
        factors: lambda of each group, one more than edges.
        pictures: Number n of the pictures that they were found on.
        law: The law that takes the place of the groups; None if there is none. The groups still serve results of which
            there is no hint, if the law asks for one.
        span: The least and the largest strength of those pictures; None if only their mean, `strength`, is known.
    """

    strength: float
    edges: tuple[float, ...]
    factors: tuple[float, ...]
    pictures: int
    law: PowerLaw | None = None
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Calibration:
    """All constants of a model.

    Args:
        kinds: The constants of each kind of degradation, by strength, increasing.
        data: What they were found on, in words.
        date: The day on which they were found, as in 2026-11-29.
        level: Share of the values that lie within their intervals.
    """

    kinds: Mapping[str, tuple[Constants, ...]] = field(default_factory=dict)
    data: str = ""
    date: str = ""
    level: float = LEVEL

    def at(self, kind: str, strength: float) -> Constants | None:
        """Return the constants of a kind at a strength, interpolated; None if the kind is not calibrated.

        A strength outside of the calibrated ones gets the constants of the nearest.
        """
        known = self.kinds.get(kind, ())
        if not known:
            return None
        for low, high in pairwise(known):
            if low.strength <= strength <= high.strength and low.strength < high.strength:
                share = math.log(strength / low.strength) / math.log(high.strength / low.strength)
                return _interpolated(low, high, share, strength)
        return known[0] if strength < known[0].strength else known[-1]

    def covers(self, kind: str, strength: float) -> bool:
        """Return whether a kind is calibrated at about this strength."""
        known = self.kinds.get(kind, ())
        if not known:
            return False
        low, high = known[0], known[-1]
        least = low.strength if low.span is None else low.span[0]
        return least / OUTSIDE <= strength <= (high.strength if high.span is None else high.span[1]) * OUTSIDE


def _interpolated(low: Constants, high: Constants, share: float, strength: float) -> Constants:
    """Return constants between two others, interpolated in the logarithm."""

    def between(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
        return tuple(x ** (1 - share) * y**share for x, y in zip(a, b, strict=True))

    law: PowerLaw | None = None
    if low.law is not None and high.law is not None:
        (factor,) = between([low.law.factor], [high.law.factor])
        pairs = zip(_exponents(low.law), _exponents(high.law), strict=True)
        law = PowerLaw(factor, *((1 - share) * a + share * b for a, b in pairs))
    pictures = min(low.pictures, high.pictures)
    return Constants(strength, between(low.edges, high.edges), between(low.factors, high.factors), pictures, law)


def _exponents(law: PowerLaw) -> tuple[float, float, float]:
    return law.deviation, law.hint, law.variance


def half_width(constants: Constants | None, deviation: Tensor, variance: Tensor, hint: Tensor | None = None) -> Tensor:
    """Return the half width of the interval of every pixel in levels, float32 (H, W), at most MOST_HALF_WIDTH.

    Args:
        constants: The constants; None for those of a Gaussian.
        deviation: Estimated standard deviations in levels, (H, W).
        variance: Local variances of the result in squared levels, (H, W).
        hint: A second map that tells of the errors, (H, W), above 0 where the deviation is; None if there is none.
    """
    if constants is None:
        return (GAUSSIAN * deviation).clamp(max=MOST_HALF_WIDTH)
    if constants.law is not None and (hint is not None or not constants.law.hint):
        half = constants.law.half(deviation, variance, hint)
        return torch.where(deviation > 0, half, 0.0).clamp(max=MOST_HALF_WIDTH)
    group = torch.bucketize(variance, torch.tensor(constants.edges, dtype=variance.dtype))
    return (torch.tensor(constants.factors)[group] * deviation).clamp(max=MOST_HALF_WIDTH)


def group_edges(variances: Tensor, groups: int = GROUPS) -> tuple[float, ...]:
    """Return the values between equal shares of local variances, increasing and above 0."""
    ordered = variances.flatten().sort().values
    edges: list[float] = []
    for number in range(1, groups):
        value = max(float(ordered[min(len(ordered) * number // groups, len(ordered) - 1)]), 1e-3)
        edges.append(max(value, edges[-1] * (1 + 1e-6)) if edges else value)
    return tuple(edges)


def controlled_factor(ratios: Sequence[Tensor], level: float = LEVEL) -> float:
    """Return lambda by conformal risk control.

    Args:
        ratios: For each picture the absolute errors over the estimated deviations, of any shape. Pictures without
            values are left out.
        level: Share of the values that are to lie within their intervals.

    Returns:
        The factor; MOST_FACTOR if the pictures are too few for the level.
    """
    kept = [r.flatten() for r in ratios if r.numel()]
    n = len(kept)

    def is_controlled(factor: float) -> bool:
        risk = sum(min(float((r > factor).double().mean()), MOST_LOSS) for r in kept)
        return (risk + MOST_LOSS) / (n + 1) <= 1 - level

    if not is_controlled(MOST_FACTOR):
        return MOST_FACTOR
    low, high = 1e-3, MOST_FACTOR
    for _ in range(ROUNDS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_controlled(middle) else (middle, high)
    return high


def inside(error: Tensor, half: Tensor) -> float:
    """Return the share of values whose error lies within the interval of their pixel.

    Args:
        error: Errors in levels, (C, ...).
        half: Half widths in levels, (...).
    """
    return float((error.abs() <= half).double().mean())
