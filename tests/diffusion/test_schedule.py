"""The forward process agrees with diffusers, with its own transitions, and with published timesteps."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restorer.diffusion.schedule import BETA_SCHEDULES, Schedule, alpha_bar_of

SCHEDULES = {name: Schedule(name) for name in BETA_SCHEDULES}
LATENT = Schedule("scaled_linear", beta_start=0.0015, beta_end=0.0155)  # latent super-resolution


def picture(value: float) -> torch.Tensor:
    """Return an image of one pixel with this value, float64 (1, 1, 1, 1)."""
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), LATENT], ids=str)
def test_schedules_are_those_of_diffusers(diffusers: ModuleType, schedule: Schedule) -> None:
    oracle = diffusers.DDPMScheduler(
        beta_schedule=schedule.name, beta_start=schedule.beta_start, beta_end=schedule.beta_end
    )
    torch.testing.assert_close(schedule.betas, oracle.betas.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(schedule.alpha_bars, oracle.alphas_cumprod.double(), rtol=1e-5, atol=1e-6)
    # diffusers multiplies in float32, which loses 1 - abar at the lowest noise levels.
    sigmas = ((1 - oracle.alphas_cumprod) / oracle.alphas_cumprod).double().sqrt()
    torch.testing.assert_close(schedule.sigmas[20:], sigmas[20:], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("schedule", "last"),
    [(SCHEDULES["linear"], 4.04e-5), (LATENT, 6.69e-4), (SCHEDULES["squaredcos_cap_v2"], 2.43e-9)],
    ids=str,
)
def test_last_alpha_bar_is_the_published_one(schedule: Schedule, last: float) -> None:
    assert float(schedule.alpha_bars[-1]) == pytest.approx(last, rel=2e-3)


def test_linear_schedule_spans_the_published_noise_levels() -> None:
    """sigma ranges from .01 (t = 0) to 157 (t = 999), and abar at 25/255 and 50/255 has the published values."""
    linear = SCHEDULES["linear"]
    assert linear.sigma_min == pytest.approx(0.01, rel=1e-4)
    assert linear.sigma_max == pytest.approx(157, abs=0.5)
    shares = alpha_bar_of(torch.tensor([2 * 25 / 255, 2 * 50 / 255], dtype=torch.float64))
    assert shares.tolist() == pytest.approx([0.963, 0.867], abs=1e-3)


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), Schedule("linear", 50, 1e-3, 0.3)], ids=str)
def test_the_marginal_is_the_transitions_one_after_another(schedule: Schedule) -> None:
    """Composing q(x_t | x_{t-1}) gives q(x_t | x_0): mean and variance shrink, and the variance grows by beta."""
    mean, variance = picture(0.7), picture(0.0)
    for t in range(schedule.steps):
        at = torch.tensor([t])
        step = schedule.transition(mean, at)
        shrink = schedule.transition(picture(1.0), at).mean
        mean, variance = step.mean, shrink**2 * variance + step.variance
        marginal = schedule.marginal(picture(0.7), at)
        torch.testing.assert_close(marginal.mean, mean, rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(marginal.variance, variance, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=str)
@pytest.mark.parametrize("t", [1, 2, 40, 500, 998, 999])
def test_the_posterior_is_bayes_rule(schedule: Schedule, t: int) -> None:
    """Mean and variance agree with the quadrature of q(x_{t-1} | x_0) q(x_t | x_{t-1}) on a grid of x_{t-1}."""
    x0, x_t = 0.4, -0.3
    posterior = schedule.posterior(picture(x0), picture(x_t), torch.tensor([t]))
    before = schedule.marginal(picture(x0), torch.tensor([t - 1]))
    beta = 1 - float(schedule.alpha_bars[t] / schedule.alpha_bars[t - 1])
    # The product is no wider than the narrower factor, and its mean lies between the means of the factors.
    means = (float(before.mean), x_t / math.sqrt(1 - beta))
    margin = 12 * math.sqrt(min(float(before.variance), beta / (1 - beta)))
    z = torch.linspace(min(means) - margin, max(means) + margin, 200_001, dtype=torch.float64)
    log_p = -((z - before.mean.flatten()) ** 2) / (2 * before.variance.flatten())
    log_p = log_p - (x_t - math.sqrt(1 - beta) * z) ** 2 / (2 * beta)
    p = (log_p - log_p.max()).exp()
    p = p / p.sum()
    mean = float((p * z).sum())
    variance = float((p * (z - mean) ** 2).sum())
    assert float(posterior.mean) == pytest.approx(mean, rel=1e-6, abs=1e-9)
    assert float(posterior.variance) == pytest.approx(variance, rel=1e-6)


def test_the_posterior_at_the_first_step_is_the_picture() -> None:
    posterior = SCHEDULES["linear"].posterior(picture(0.4), picture(-0.3), torch.tensor([0]))
    assert float(posterior.mean) == pytest.approx(0.4, abs=1e-12)
    assert float(posterior.variance) == 0


def test_each_item_of_a_batch_has_its_own_timestep() -> None:
    linear, t = SCHEDULES["linear"], torch.tensor([0, 500, 999])
    x = torch.ones(3, 2, 4, 5)
    marginal = linear.marginal(x, t)
    assert marginal.mean.shape == x.shape and marginal.mean.dtype == x.dtype
    torch.testing.assert_close(marginal.mean[:, 0, 0, 0].double(), linear.alpha_bars[t].sqrt())
    torch.testing.assert_close(marginal.variance.flatten().double(), 1 - linear.alpha_bars[t])


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), Schedule("linear", 2), Schedule("linear", 37)], ids=str)
def test_integers_at_the_nodes(schedule: Schedule) -> None:
    t = torch.arange(schedule.steps)
    assert torch.equal(schedule.t_at(schedule.sigmas), t.double())
    torch.testing.assert_close(schedule.sigma_at(t), schedule.sigmas, rtol=1e-12, atol=0)
    assert bool((schedule.sigmas.diff() > 0).all())
    torch.testing.assert_close(alpha_bar_of(schedule.sigmas), schedule.alpha_bars, rtol=1e-9, atol=0)


@settings(deadline=None, max_examples=60)
@given(t=st.floats(0, 999), name=st.sampled_from(BETA_SCHEDULES))
def test_from_t_to_sigma_and_back(t: float, name: str) -> None:
    schedule = SCHEDULES[name]
    sigma = schedule.sigma_at(torch.tensor(t, dtype=torch.float64))
    assert float(schedule.t_at(sigma)) == pytest.approx(t, abs=2e-6)
    low = min(int(t), 998)
    fraction = t - low  # log sigma is linear between two levels of the schedule
    expected = schedule.sigmas[low].log() * (1 - fraction) + schedule.sigmas[low + 1].log() * fraction
    assert float(sigma.log()) == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize(
    ("name", "sigma", "t", "digit"),
    [
        *[("linear", 2 * s / 255, t, 0.05) for s, t in ((5, 7.7), (10, 19.7), (15, 31.9), (25, 56.2), (50, 114.4))],
        *[("linear", 2 * s / 255, t, 0.5) for s, t in ((75, 167), (100, 214))],
        *[("squaredcos_cap_v2", 2 * s / 255, t, 0.5) for s, t in ((15, 67), (25, 116), (50, 231))],
        # The published timesteps of this row are truncated to integers, not rounded.
        *[("linear", s, t + 0.5, 0.5) for s, t in ((1, 258), (2, 395), (5, 565), (10, 673), (20, 768))],
    ],
)
def test_published_timesteps_of_noise_levels(name: str, sigma: float, t: float, digit: float) -> None:
    """Timesteps agree with the table of notes/methods.md 2.6 to its last digit. A noise of s levels is 2 s / 255."""
    found = float(SCHEDULES[name].t_at(torch.tensor(sigma, dtype=torch.float64)))
    assert found == pytest.approx(t, abs=digit)


def test_beyond_the_schedule_is_its_end() -> None:
    linear = SCHEDULES["linear"]
    assert linear.t_at(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]
    torch.testing.assert_close(linear.sigma_at(torch.tensor([-5.0, 2000.0])), linear.sigmas[[0, -1]])


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "sigmoid"},
        {"steps": 1},
        {"steps": 0},
        {"beta_start": 0.0},
        {"beta_end": 1.0},
        {"beta_start": -1e-4},
        {"beta_end": math.nan},
    ],
    ids=str,
)
def test_impossible_schedules_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError):
        Schedule(**fields)
