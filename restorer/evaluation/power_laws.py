r"""The power law that tells the half width of an interval from several maps, and how well it does.

The half width is h = lambda u^a w^b (1 + v)^(c / 2), as in `restorer.diffusion.calibration.PowerLaw`. The exponents are
those of quantile regression in the logarithm: with the absolute error e of a value and r = log(e / h), they minimize
the mean over the pictures of

    rho(r) = level max(r, 0) + (1 - level) max(-r, 0)

whose minimum is reached where the share `level` of the values lies within h, in every direction that the exponents can
move it. The logarithm makes pictures with large and with small errors count alike. The problem is convex, and Newton's
method solves it once rho has been rounded off near 0. Errors below the rounding to 8 bits count as that rounding.

Which maps are worth their exponents is decided by cross-validation over two halves of the pictures. Laws are compared
by the interval score, which rises with the width and with what lies outside, and by the rank correlation with the
squared error, picture by picture: of the laws whose score is within TIE of the best, the one with the largest rank
correlation is taken. The width at equal coverage would not do, because it lets intervals that are too narrow in one
picture make up for those that are too wide in another.

Sources:
    Gneiting and Raftery 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation", Journal of the American
        Statistical Association 102, section 6.2, https://doi.org/10.1198/016214506000001437.
    Koenker and Bassett 1978, "Regression Quantiles", Econometrica 46(1), https://doi.org/10.2307/1913643.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from restorer.diffusion.calibration import LEVEL, PowerLaw
from restorer.diffusion.uncertainty import LEAST_VARIANCE, local_mean
from restorer.evaluation.map_figures import rank_correlation

__all__ = ["FORMS", "Sample", "choose_form", "fit_law", "judge"]

FORMS: tuple[tuple[bool, bool, bool], ...] = (
    (False, False, False),
    (True, False, False),
    (True, True, False),
    (True, False, True),
    (True, True, True),
)
"""Which exponents of a law are fitted: those of the deviation, of the hint and of the local variance."""

TIE = 0.01
"""Share of the interval score that is no difference."""

PER_PICTURE = 3000
"""Number of pixels of a picture, at most, that exponents are fitted on."""

ROUNDED = 0.1  # the width of the part of rho near 0 that is rounded off
ROUNDS = 60


@dataclass(frozen=True)
class Sample:
    """The unknown pixels of a restoration whose errors are known, all in one row.

    Args:
        error: Absolute errors in levels, (C, N).
        square: Means of the squared error over the channels and over 9x9 pixels, (N,).
        deviation: Estimated standard deviations in levels, (N,).
        variance: Local variances of the result in squared levels, (N,).
        hint: The second map that tells of the errors, (N,); None if there is none.
    """

    error: Tensor
    square: Tensor
    deviation: Tensor
    variance: Tensor
    hint: Tensor | None

    @classmethod
    def of(cls, error: Tensor, deviation: Tensor, variance: Tensor, unknown: Tensor, hint: Tensor | None) -> Sample:
        """Return the unknown pixels of maps of shape (H, W), and of errors of shape (C, H, W)."""
        square = local_mean(error.square().mean(0), unknown.float())
        rest = None if hint is None else hint[unknown]
        return cls(error[:, unknown].abs(), square[unknown], deviation[unknown], variance[unknown], rest)

    @property
    def maps(self) -> Tensor:
        """The logarithms of the maps, (N, 3); those of a missing hint are 0."""
        hint = torch.ones_like(self.deviation) if self.hint is None else self.hint
        return torch.stack([self.deviation.log(), hint.log(), (1 + self.variance).log() / 2], 1).double()

    def thinned(self) -> Sample:
        """Return the same with at most PER_PICTURE pixels."""
        every = slice(None, None, len(self.deviation) // PER_PICTURE | 1)  # odd: the period of JPEG blocks is even
        hint = None if self.hint is None else self.hint[every]
        return Sample(self.error[:, every], self.square[every], self.deviation[every], self.variance[every], hint)


def fit_law(samples: Sequence[Sample], form: tuple[bool, bool, bool], level: float = LEVEL) -> PowerLaw:
    """Return the law that fits pictures best; its factor is that of the share `level` of their values.

    Args:
        samples: The pictures. All of them have a hint if its exponent is fitted.
        form: Which exponents are fitted. Otherwise that of the deviation is 1, and the others are 0.
        level: Share of the values that are to lie within their intervals.
    """
    thin = [s.thinned() for s in samples if len(s.deviation)]
    least = LEAST_VARIANCE**0.5
    maps = torch.cat([s.maps.repeat(len(s.error), 1) for s in thin])
    wanted = torch.cat([s.error.clamp(min=least).log().double().flatten() for s in thin])
    weight = torch.cat([torch.full((s.error.numel(),), 1 / s.error.numel(), dtype=torch.float64) for s in thin])
    free = [i for i, is_free in enumerate(form) if is_free]
    fixed = torch.zeros(len(wanted), dtype=torch.float64) if form[0] else maps[:, 0]
    design = torch.cat([maps[:, free], torch.ones(len(wanted), 1, dtype=torch.float64)], 1)
    found = quantile_regression(design, wanted - fixed, weight / weight.sum(), level)
    exponents = [0.0 if form[0] else 1.0, 0.0, 0.0]
    for number, value in zip(free, found[:-1].tolist(), strict=True):
        exponents[number] = value
    return PowerLaw(float(found[-1].exp()), *exponents)


def quantile_regression(design: Tensor, wanted: Tensor, weight: Tensor, level: float) -> Tensor:
    """Return the coefficients of the linear function below which the share `level` of values lies.

    Args:
        design: What the function is made of, float64 (N, K).
        wanted: The values, (N,).
        weight: Their weights, (N,).
        level: The share.

    Returns:
        The coefficients, (K,).
    """

    def loss(coefficients: Tensor) -> float:
        rest = (wanted - design @ coefficients) / ROUNDED
        smooth = ROUNDED * torch.nn.functional.softplus(rest)
        return float((weight * (smooth - (1 - level) * ROUNDED * rest)).sum())

    ridge = 1e-9 * torch.eye(design.shape[1], dtype=torch.float64)
    weighted = design * weight[:, None]
    found = torch.linalg.solve(design.T @ weighted + ridge, weighted.T @ wanted)
    reached = loss(found)
    for _ in range(ROUNDS):
        above = torch.sigmoid((wanted - design @ found) / ROUNDED)
        slope = weighted.T @ (1 - level - above)
        curve = weighted.T @ (design * (above * (1 - above) / ROUNDED)[:, None]) + ridge
        step, share = torch.linalg.solve(curve, slope), 1.0
        while share > 1e-6 and (value := loss(found - share * step)) > reached:
            share /= 2
        if share <= 1e-6 or reached - value < 1e-12:
            break
        found, reached = found - share * step, value
    return found


def judge(samples: Sequence[Sample], halves: Sequence[Tensor], level: float = LEVEL) -> tuple[float, float]:
    """Return how good intervals are, and how well they tell where the errors are.

    Args:
        samples: Pictures that did not give the law.
        halves: The half width of their pixels in levels, (N,) each.
        level: The share of the values that is to lie within them.

    Returns:
        The mean over the pictures of the interval score, h + max(e - h, 0) / (1 - level), over the mean error of the
        picture, and that of the rank correlation of the half width with the squared error.
    """
    scores, ranks = [], []
    for s, half in zip(samples, halves, strict=True):
        score = half + (s.error - half).clamp(min=0) / (1 - level)
        scores.append(float(score.mean()) / max(float(s.error.mean()), LEAST_VARIANCE**0.5))
        ranks.append(rank_correlation(half.numpy(), s.square.numpy()))
    known = [rank for rank in ranks if not math.isnan(rank)]
    return sum(scores) / len(scores), sum(known) / max(len(known), 1)


def choose_form(
    samples: Sequence[Sample], grouped: Callable[[Sequence[Sample], Sequence[Sample]], Sequence[Tensor]]
) -> tuple[bool, bool, bool] | None:
    """Return the form of the law that is worth most on pictures that did not give it; None if groups are better.

    Args:
        samples: The pictures.
        grouped: Returns the half widths of the second pictures by groups that the first ones give.
    """
    halves = [list(samples[0::2]), list(samples[1::2])]
    has_hint = all(s.hint is not None for s in samples)
    judged: dict[tuple[bool, bool, bool] | None, tuple[float, float]] = {}
    for form in (None, *(f for f in FORMS if has_hint or not f[1])):
        told: list[Tensor] = []
        for mine, others in (halves, halves[::-1]):
            if form is None:
                told += grouped(others, mine)
            else:
                law = fit_law(others, form)
                told += [law.half(s.deviation, s.variance, s.hint) for s in mine]
        judged[form] = judge(halves[0] + halves[1], told)
    best = min(score for score, _ in judged.values())
    kept = [form for form, (score, _) in judged.items() if score <= (1 + TIE) * best]
    return max(kept, key=lambda form: judged[form][1])
