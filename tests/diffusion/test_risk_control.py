"""Conformal risk control and the constants that come of it."""

from __future__ import annotations

import math

import pytest
import torch

from restorer.diffusion.calibration import (
    GAUSSIAN,
    MOST_FACTOR,
    MOST_HALF_WIDTH,
    MOST_LOSS,
    Calibration,
    Constants,
    PowerLaw,
    controlled_factor,
    group_edges,
    half_width,
    inside,
)


def test_the_factor_is_the_least_one_that_controls_the_risk() -> None:
    """It is compared with the definition on a grid of all values at which the risk changes."""
    generator = torch.Generator().manual_seed(0)
    ratios = [torch.rand(50, generator=generator) * scale for scale in (0.5, 1.0, 2.0, 4.0) * 6]
    n = len(ratios)

    def risk(factor: float) -> float:
        losses = [min(float((r > factor).float().mean()), MOST_LOSS) for r in ratios]
        return n / (n + 1) * sum(losses) / n + MOST_LOSS / (n + 1)

    candidates = torch.cat(ratios).sort().values.tolist()
    expected = next(factor for factor in candidates if risk(factor) <= 0.1)
    assert controlled_factor(ratios) == pytest.approx(expected, rel=1e-6)


def test_a_further_picture_is_covered_on_the_mean() -> None:
    """The guarantee itself: over many draws of 20 pictures and a further one, at most 10 % of it are missed."""
    generator = torch.Generator().manual_seed(1)
    missed = []
    for _ in range(300):
        scales = torch.exp(0.5 * torch.randn(21, generator=generator))
        ratios = [scale * torch.randn(100, generator=generator).abs() for scale in scales]
        missed.append(float((ratios[-1] > controlled_factor(ratios[:-1])).float().mean()))
    mean = sum(missed) / len(missed)
    assert 0.06 < mean < 0.1 + 0.01


def test_too_few_pictures_give_the_largest_factor() -> None:
    assert controlled_factor([torch.ones(5)] * 3) == MOST_FACTOR
    assert controlled_factor([torch.ones(5), torch.ones(0)] * 5) == pytest.approx(1.0)
    assert controlled_factor([]) == MOST_FACTOR


LOW = Constants(10.0, (1.0, 4.0), (1.0, 2.0, 4.0), 30)
HIGH = Constants(40.0, (4.0, 16.0), (4.0, 2.0, 1.0), 20)
BOTH = Calibration({"denoise": (LOW, HIGH)})


def test_constants_are_interpolated_in_the_logarithm() -> None:
    middle = BOTH.at("denoise", 20.0)
    assert middle is not None
    assert middle.edges == pytest.approx((2.0, 8.0))
    assert middle.factors == pytest.approx((2.0, 2.0, 2.0))
    assert middle.pictures == 20
    lowest = BOTH.at("denoise", 10.0)
    assert lowest is not None
    assert lowest.factors == pytest.approx(LOW.factors)


@pytest.mark.parametrize(("strength", "expected"), [(1.0, LOW), (100.0, HIGH)])
def test_a_strength_outside_gets_the_nearest_constants(strength: float, expected: Constants) -> None:
    assert BOTH.at("denoise", strength) == expected


def test_what_is_covered() -> None:
    assert BOTH.covers("denoise", 8.0)
    assert BOTH.covers("denoise", 55.0)
    assert not BOTH.covers("denoise", 5.0)
    assert not BOTH.covers("denoise", 80.0)
    assert not BOTH.covers("deblur", 10.0)
    assert BOTH.at("deblur", 10.0) is None


def test_what_is_covered_goes_by_the_strengths_of_the_pictures() -> None:
    one = Calibration({"camera": (Constants(16.0, (1.0,), (1.0, 1.0), 30, span=(3.0, 60.0)),)})
    assert one.covers("camera", 2.5)
    assert one.covers("camera", 80.0)
    assert not one.covers("camera", 1.5)
    assert not one.covers("camera", 100.0)


def test_one_calibrated_strength_serves_all() -> None:
    single = Calibration({"narrow": (LOW,)})
    assert single.at("narrow", 3.0) == single.at("narrow", 30.0) == LOW


def test_the_half_width_has_the_factor_of_its_group() -> None:
    variance = torch.tensor([[0.5, 2.0, 100.0]])
    found = half_width(LOW, torch.full((1, 3), 3.0), variance)
    assert found.tolist() == [[3.0, 6.0, 12.0]]
    plain = half_width(None, torch.full((1, 3), 3.0), variance)
    torch.testing.assert_close(plain, torch.full((1, 3), 3 * GAUSSIAN))
    assert float(half_width(LOW, torch.full((1, 3), 1e6), variance).max()) == MOST_HALF_WIDTH


def test_a_law_takes_the_place_of_the_groups() -> None:
    law = PowerLaw(2.0, 0.5, 1.5, 1.0)
    constants = Constants(10.0, (1.0, 4.0), (1.0, 2.0, 4.0), 30, law)
    deviation, variance, hint = (
        torch.tensor([[4.0, 9.0, 0.0]]),
        torch.tensor([[3.0, 8.0, 3.0]]),
        torch.full((1, 3), 4.0),
    )
    found = half_width(constants, deviation, variance, hint)
    # lambda u^a w^b sqrt(1 + v); what is known stays known
    torch.testing.assert_close(found, torch.tensor([[2 * 2 * 8 * 2.0, 2 * 3 * 8 * 3.0, 0.0]]))
    assert float(half_width(constants, deviation, variance, 1e6 * hint).max()) == MOST_HALF_WIDTH


def test_without_a_hint_the_groups_serve() -> None:
    deviation, variance = torch.full((1, 3), 3.0), torch.tensor([[0.5, 2.0, 100.0]])
    asks = Constants(10.0, (1.0, 4.0), (1.0, 2.0, 4.0), 30, PowerLaw(9.0, 1.0, 0.5))
    assert half_width(asks, deviation, variance).tolist() == [[3.0, 6.0, 12.0]]
    asks_nothing = Constants(10.0, (1.0, 4.0), (1.0, 2.0, 4.0), 30, PowerLaw(9.0))
    assert half_width(asks_nothing, deviation, variance).tolist() == [[27.0, 27.0, 27.0]]


def test_half_widths_of_laws_are_interpolated_in_the_logarithm() -> None:
    rows = [Constants(s, (1.0,), (1.0, 1.0), 30, PowerLaw(f, a, b, c)) for s, f, a, b, c in LAWS]
    maps = torch.full((1, 1), 5.0), torch.full((1, 1), 80.0), torch.full((1, 1), 2.0)
    both = Calibration({"denoise": tuple(rows)})
    low, middle, high = (float(half_width(both.at("denoise", s), *maps)) for s in (10.0, 20.0, 40.0))
    assert middle == pytest.approx(math.sqrt(low * high))
    without = Constants(40.0, (1.0,), (1.0, 1.0), 30)
    found = Calibration({"denoise": (rows[0], without)}).at("denoise", 20.0)
    assert found is not None and found.law is None


LAWS = ((10.0, 2.0, 1.0, 0.0, 0.1), (40.0, 5.0, 0.2, 0.6, 0.0))
"""Strength, factor and exponents."""


def test_the_gaussian_factor_holds_nine_tenths() -> None:
    assert math.erf(GAUSSIAN / math.sqrt(2)) == pytest.approx(0.9, abs=1e-4)


def test_groups_are_equal_and_edges_increase() -> None:
    values = torch.rand(4000)
    edges = group_edges(values)
    shares = torch.bincount(torch.bucketize(values, torch.tensor(edges))) / len(values)
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.01, rtol=0)
    flat = group_edges(torch.zeros(10))
    assert flat[0] > 0
    assert flat[0] < flat[1] < flat[2]


def test_the_share_inside_counts_channels() -> None:
    error = torch.tensor([[1.0, -3.0], [2.0, 0.0], [-1.0, 5.0]])
    assert inside(error, torch.tensor([1.0, 3.0])) == pytest.approx(4 / 6)
