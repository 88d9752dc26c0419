"""The power law of the half width: its fit against known laws and a linear program, and the choice of its form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from restorer.diffusion.calibration import GAUSSIAN, PowerLaw
from restorer.evaluation.power_laws import Sample, choose_form, fit_law, judge, quantile_regression

SIDE = 60
ALL = (True, True, True)


def made(number: int, law: PowerLaw, *, has_hint: bool = True) -> Sample:
    """Return a picture whose errors are Gaussian, with the half width of a law, and whose maps are smooth and unlike.

    The factor of the law is that of the standard deviation.
    """
    generator = torch.Generator().manual_seed(number)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")

    def drawn(low: float, high: float) -> Tensor:
        angle, phase = (float(torch.rand(1, generator=generator)) for _ in range(2))
        wave = torch.sin(0.1 * (x * math.cos(6 * angle) + y * math.sin(6 * angle)) + 6 * phase)
        return torch.exp(math.log(low) + (wave + 1) / 2 * math.log(high / low))

    deviation, hint, variance = drawn(1, 8), drawn(1, 20), drawn(1, 900)
    error = law.half(deviation, variance, hint) * torch.randn(3, SIDE, SIDE, generator=generator)
    return Sample.of(error, deviation, variance, torch.ones(SIDE, SIDE, dtype=torch.bool), hint if has_hint else None)


def test_a_known_law_is_found() -> None:
    law = PowerLaw(1.5, 0.4, 0.6, 0.2)
    found = fit_law([made(i, law) for i in range(12)], ALL)
    assert found.factor == pytest.approx(1.5 * GAUSSIAN, rel=0.05)
    assert (found.deviation, found.hint, found.variance) == pytest.approx((0.4, 0.6, 0.2), abs=0.02)


def test_exponents_that_are_not_fitted_stay() -> None:
    samples = [made(i, PowerLaw(2.0)) for i in range(6)]
    plain = fit_law(samples, (False, False, False))
    assert (plain.deviation, plain.hint, plain.variance) == (1, 0, 0)
    assert plain.factor == pytest.approx(2 * GAUSSIAN, rel=0.03)
    assert fit_law(samples, (True, False, True)).hint == 0


def test_the_regression_is_that_of_a_linear_program() -> None:
    """min sum(level p + (1 - level) n) over design c + p - n = wanted, with p and n at least 0."""
    rng, level = np.random.default_rng(0), 0.9
    design = np.stack([rng.normal(size=400), np.ones(400)], 1)
    wanted = 2 * design[:, 0] - 1 + (1 + 0.5 * np.tanh(design[:, 0])) * rng.normal(size=400)
    cost = np.concatenate([np.zeros(2), np.full(400, level), np.full(400, 1 - level)])
    equal = np.concatenate([design, np.eye(400), -np.eye(400)], 1)
    expected = linprog(cost, A_eq=equal, b_eq=wanted, bounds=[(None, None)] * 2 + [(0, None)] * 800).x[:2]
    weight = torch.full((400,), 1 / 400, dtype=torch.float64)
    found = quantile_regression(torch.from_numpy(design), torch.from_numpy(wanted), weight, level)
    np.testing.assert_allclose(found.numpy(), expected, atol=0.08)
    below = float((torch.from_numpy(wanted) <= torch.from_numpy(design) @ found).double().mean())
    assert below == pytest.approx(level, abs=0.015)


def test_the_interval_score_is_least_for_the_right_width() -> None:
    samples = [made(i, PowerLaw(1.0)) for i in range(6)]
    scores = {k: judge(samples, [k * GAUSSIAN * s.deviation for s in samples])[0] for k in (0.7, 0.9, 1.0, 1.1, 1.4)}
    assert min(scores, key=lambda k: scores[k]) == 1.0
    # Of a Gaussian, h + E max(|e| - h, 0) / (1 - level) at the quantile is E[|e| | |e| > h].
    outside = math.exp(-(GAUSSIAN**2) / 2) / 0.05 / math.sqrt(2 * math.pi)
    assert scores[1.0] == pytest.approx(outside / math.sqrt(2 / math.pi), rel=0.03)


def by_one_factor(given: Sequence[Sample], others: Sequence[Sample]) -> list[Tensor]:
    """Return half widths as groups would give that all have the same factor, which is a little wrong."""
    return [1.3 * GAUSSIAN * s.deviation for s in others]


def test_a_map_is_used_only_if_it_tells_of_the_errors() -> None:
    told = [made(i, PowerLaw(1.0, 0.5, 0.7)) for i in range(8)]
    form = choose_form(told, by_one_factor)
    assert form is not None
    assert form[:2] == (True, True)
    unknown = [made(i, PowerLaw(1.0, 0.5), has_hint=False) for i in range(8)]
    form = choose_form(unknown, by_one_factor)
    assert form is not None
    assert not form[1]


def test_groups_stay_where_no_law_is_better() -> None:
    samples = [made(i, PowerLaw(1.0)) for i in range(8)]

    def stepped(s: Sample) -> Tensor:
        """A step that no power can follow."""
        return torch.where(s.variance > 30, 4.0, 1.0)

    wrong = [Sample(s.error * stepped(s), s.square * stepped(s) ** 2, s.deviation, s.variance, s.hint) for s in samples]
    assert choose_form(wrong, lambda _, others: [GAUSSIAN * stepped(s) * s.deviation for s in others]) is None
