"""Plans make the requested number of evaluations, use the published levels, and refuse impossible settings."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from restorer.diffusion.plan import METHODS, Plan, add_corrector_steps, add_jumps, log_levels, make_plan
from restorer.diffusion.schedule import Schedule

PUBLISHED = [name for name in METHODS if name != "auto"]
AUTO = Plan(sigmas=(3.0, 1.0, 0.0), zeta=(1.0, 1.0), kappa=0.7, extrapolation=1.0, fresh_start=False, seed=11)


def count_rises(plan: Plan) -> int:
    """Return the number of transitions to a higher level."""
    return sum(after > before for before, after in pairwise(plan.sigmas))


def timesteps(plan: Plan) -> np.ndarray:
    """Return t of the linear schedule at every level but the last."""
    return Schedule("linear").t_at(torch.tensor(plan.sigmas[:-1], dtype=torch.float64)).numpy()


@pytest.mark.parametrize("method", PUBLISHED)
@pytest.mark.parametrize(("start", "end"), [(80.0, 0.02), (0.5, 0.02)])
def test_a_plan_costs_the_steps_it_was_given(method: str, start: float, end: float) -> None:
    for steps in [*range(1, 61), 250]:
        plan = make_plan(method, AUTO, start=start, end=end, steps=steps)
        stays = sum(after == before for before, after in pairwise(plan.sigmas))
        falls = sum(after < before for before, after in pairwise(plan.sigmas))
        assert falls + stays == plan.evaluations == steps
        assert stays == ((steps - 1) // 2 if method == "langevin" else 0)
        assert len(plan.sigmas) - 1 == falls + stays + count_rises(plan) == len(plan.zeta)
        assert min(plan.sigmas[:-1]) > 0 and plan.sigmas[-1] == 0
        assert plan.sigmas[0] == pytest.approx(start, rel=1e-6)
        assert max(plan.sigmas) == plan.sigmas[0]
        assert steps == 1 or plan.sigmas[-2] == pytest.approx(end, rel=1e-6)


def test_repaint_jumps_back() -> None:
    """Jumps follow every five transitions, as many as the steps allow, and lead back to the start of the five."""
    for steps, expected in ((15, 0), (16, 1), (26, 2), (60, 5), (250, 24)):
        plan = make_plan("repaint", AUTO, start=80.0, end=0.02, steps=steps)
        assert count_rises(plan) == expected
        for i, (before, after) in enumerate(pairwise(plan.sigmas)):
            if after > before:
                assert after == plan.sigmas[i - 5]
                assert plan.zeta[i] == 1
    assert all(
        count_rises(make_plan(m, AUTO, start=80.0, end=0.02, steps=60)) == 0 for m in PUBLISHED if m != "repaint"
    )


def test_jumps_by_hand() -> None:
    """Algorithm 1 of RePaint, written out: each stretch of three transitions is passed twice until no jump is left."""
    assert add_jumps([9, 8, 7, 6, 5, 4, 3, 2, 1], 2, 3) == [9, 8, 7, 6, 9, 8, 7, 6, 5, 4, 3, 6, 5, 4, 3, 2, 1]
    assert add_jumps([5, 4, 3, 2, 1], 0, 2) == [5, 4, 3, 2, 1]


def test_langevin_stays() -> None:
    """A DDPM step leads to every level but the first, and one Langevin step with r = .16 follows it."""
    plan = make_plan("langevin", AUTO, start=80.0, end=0.02, steps=41)
    np.testing.assert_allclose(plan.sigmas[:-1], np.repeat(np.geomspace(80, 0.02, 21), 2)[1:], rtol=1e-12)
    for (before, after), zeta in zip(pairwise(plan.sigmas), plan.zeta, strict=True):
        assert zeta == pytest.approx(4 * 0.16**2 if after == before else 1 - (after / before) ** 2, abs=1e-12)


def test_corrector_steps_by_hand() -> None:
    assert add_corrector_steps([5, 4, 3], 2, 1) == [5, 4, 4, 3, 3]
    assert add_corrector_steps([5, 4, 3], 3, 2) == [5, 4, 4, 3, 3, 3]
    assert add_corrector_steps([5, 4, 3], 0, 2) == [5, 4, 3]


@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
def test_levels_of_a_schedule(name: str) -> None:
    """With as many steps as the schedule has, ddpm is that of the paper. Fewer steps are uniform in its t."""
    schedule = Schedule(name, 200)
    ends = {"start": schedule.sigma_max, "end": schedule.sigma_min}
    plan = make_plan("ddpm", AUTO, **ends, steps=200, schedule=schedule, variance="large")
    assert plan.schedule == schedule and plan.variance == "large"
    np.testing.assert_allclose(plan.sigmas, [*schedule.sigmas.flip(0), 0], rtol=1e-11)
    one = torch.ones(199, 1, 1, 1, dtype=torch.float64)
    t = torch.arange(199, 0, -1)
    variance = schedule.posterior(one, one, t).variance.flatten() / schedule.alpha_bars[t - 1]
    np.testing.assert_allclose(np.multiply(plan.zeta, np.square(plan.sigmas[1:]))[:-1], variance, rtol=1e-9)
    few = make_plan("ddim", AUTO, **ends, steps=20, schedule=schedule)
    t = schedule.t_at(torch.tensor(few.sigmas[:-1], dtype=torch.float64))
    np.testing.assert_allclose(t, np.linspace(199, 0, 20), atol=1e-9)
    stays = make_plan("langevin", AUTO, **ends, steps=39, schedule=schedule)
    np.testing.assert_allclose(stays.sigmas[:-1], np.repeat(few.sigmas[:-1], 2)[1:], rtol=1e-12)


def test_spacings_are_the_published_ones() -> None:
    """Levels are uniform in log sigma for ddpm and ddim, in t for ddnm and repaint, and in sqrt(t) for diffpir."""
    for method in ("ddpm", "ddim"):
        plan = make_plan(method, AUTO, start=80.0, end=0.02, steps=30)
        np.testing.assert_allclose(plan.sigmas[:-1], np.geomspace(80, 0.02, 30), rtol=1e-12)
    for method, power in (("ddnm", 1), ("diffpir", 2)):
        t = timesteps(make_plan(method, AUTO, start=80.0, end=0.02, steps=30)) ** (1 / power)
        np.testing.assert_allclose(t, np.linspace(t[0], t[-1], 30), atol=1e-5)
    falls = timesteps(make_plan("repaint", AUTO, start=80.0, end=0.02, steps=60))
    np.testing.assert_allclose(np.diff(np.unique(falls.round(6))), np.ptp(falls) / 34, atol=1e-5)


def test_shares_of_fresh_noise_are_the_published_ones() -> None:
    plans = {m: make_plan(m, AUTO, start=80.0, end=0.02, steps=20) for m in PUBLISHED}
    for method in ("ddpm", "repaint"):
        plan = plans[method]
        for (before, after), zeta in zip(pairwise(plan.sigmas), plan.zeta, strict=True):
            assert zeta == pytest.approx(1 - (after / before) ** 2 if after < before else 1.0, abs=1e-12)
    assert set(plans["ddim"].zeta) == {0.0}
    assert set(plans["ddnm"].zeta) == {0.85**2}
    assert set(plans["diffpir"].zeta) == {0.3}
    assert set(make_plan("diffpir", AUTO, start=80.0, end=0.02, steps=20, holes=True).zeta) == {1.0}


def test_ddpm_share_is_the_posterior_variance_of_the_schedule() -> None:
    """The loop's sqrt(zeta) sigma' is the standard deviation of q(x_{t-1} | x_t, x_0) divided by sqrt(abar_{t-1})."""
    schedule = Schedule("squaredcos_cap_v2")
    t = torch.arange(1, 1000, 37)
    one = torch.ones(len(t), 1, 1, 1, dtype=torch.float64)
    variance = schedule.posterior(one, one, t).variance.flatten() / schedule.alpha_bars[t - 1]
    for now, before, expected in zip(schedule.sigmas[t], schedule.sigmas[t - 1], variance, strict=True):
        plan = make_plan("ddpm", AUTO, start=float(now), end=float(before), steps=2)
        assert plan.zeta[0] * plan.sigmas[1] ** 2 == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("method", PUBLISHED)
def test_what_a_method_takes_from_the_task(method: str) -> None:
    plan = make_plan(method, AUTO, start=80.0, end=0.02, steps=7)
    assert (plan.kappa, plan.seed, plan.fresh_start) == (AUTO.kappa, AUTO.seed, AUTO.fresh_start)
    assert plan.extrapolation == 0
    assert plan.eps_from == ("predicted" if method == "ddnm" else "corrected")
    assert plan.prior_variance == (1.0 if method in ("ddpm", "ddim", "langevin") else math.inf)


def test_auto_is_the_plan_of_the_task() -> None:
    assert make_plan("auto", AUTO, start=1.0, end=0.1, steps=5) is AUTO


@pytest.mark.parametrize(("method", "steps"), [("ddpm", 0), ("ddpm", -3), ("auto", 0), ("euler", 10), ("", 10)])
def test_unknown_methods_and_no_steps_are_refused(method: str, steps: int) -> None:
    with pytest.raises(ValueError):
        make_plan(method, AUTO, start=80.0, end=0.02, steps=steps)


def test_log_levels() -> None:
    assert log_levels(7.0, 0.1, 1) == [7.0]
    np.testing.assert_allclose(log_levels(100.0, 0.01, 5), [100, 10, 1, 0.1, 0.01], rtol=1e-12)


@pytest.mark.parametrize(
    "fields",
    [
        {"sigmas": (0.0,), "zeta": ()},  # no evaluation
        {"sigmas": (), "zeta": ()},
        {"zeta": (1.0,)},  # one number is missing
        {"zeta": (1.0, 1.0, 1.0)},
        {"sigmas": (1.0, 0.5, 0.1)},  # does not end at 0
        {"sigmas": (1.0, 0.0, 0.0)},  # reaches 0 before the end
        {"sigmas": (-1.0, 0.5, 0.0)},
        {"sigmas": (math.inf, 0.5, 0.0)},
        {"sigmas": (math.nan, 0.5, 0.0)},
        {"zeta": (1.1, 1.0)},
        {"zeta": (-0.1, 1.0)},
        {"zeta": (math.nan, 1.0)},
        {"kappa": 1.5},
        {"kappa": math.nan},
        {"extrapolation": -1.0},
        {"prior_variance": 0.0},
        {"prior_variance": math.nan},
        {"eps_from": "x0"},
        {"variance": "middle"},
        {"variance": "learned"},  # without a schedule
    ],
    ids=str,
)
def test_impossible_plans_are_refused(fields: dict) -> None:
    good = {"sigmas": (1.0, 0.5, 0.0), "zeta": (1.0, 1.0)}
    assert Plan(**good).evaluations == 2
    with pytest.raises(ValueError):
        Plan(**{**good, **fields})


def test_rises_are_free_and_stays_are_not() -> None:
    assert Plan(sigmas=(1.0, 0.5, 0.5, 0.5, 0.0), zeta=(1.0,) * 4).evaluations == 4
    assert Plan(sigmas=(1.0, 0.5, 1.0, 0.5, 0.0), zeta=(1.0,) * 4).evaluations == 3
