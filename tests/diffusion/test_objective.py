"""The training targets and the variational bound agree with closed forms and with quadrature on Gaussian pixels.

If the pixels x_0 ~ N(mu, v) are independent, every quantity is known: E[x_0 | x_t] is linear in x_t, and the chain
x_0, x_1, ... is a Gaussian process, so that p(x_{t-1} | x_t) follows from Bayes' rule without eq. 6 and 7.
"""

from __future__ import annotations

import math
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from restorer.diffusion.objective import (
    PREDICTION_TYPES,
    fixed_log_variance,
    hybrid_loss,
    min_snr_weight,
    prior_term,
    range_log_variance,
    simple_loss,
    target,
    to_x0,
    vlb_term,
)
from restorer.diffusion.schedule import Schedule
from restorer.diffusion.variational_bound import Bound, variational_bound

LINEAR, COSINE = Schedule("linear"), Schedule("squaredcos_cap_v2")
SHORT = Schedule("linear", 60, 1e-3, 0.3)
LEVELS = np.arange(256) / 127.5 - 1


def column(values: np.ndarray | Tensor | list[float]) -> Tensor:
    """Return numbers as images of one pixel, float64 (B, 1, 1, 1)."""
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal values, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def upper_tail(z: np.ndarray) -> np.ndarray:
    """Return 1 - Phi(z)."""
    return np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in np.ravel(z)]).reshape(np.shape(z))


class GaussianPixels:
    """Independent pixels N(mu, std^2), rounded to 8 bits. The outermost values hold the mass of the tails."""

    def __init__(self, mu: float, std: float) -> None:
        self.mu, self.v = mu, std**2
        edges = (np.arange(1, 256) - 0.5) / 127.5 - 1
        z = np.concatenate([[-np.inf], (edges - mu) / std, [np.inf]])
        right = z[:-1] + z[1:] > 0
        mass = np.where(right, upper_tail(z[:-1]) - upper_tail(z[1:]), upper_tail(-z[1:]) - upper_tail(-z[:-1]))
        kept = mass > 1e-12
        self.x0, self.mass = LEVELS[kept], mass[kept]

    @property
    def bits(self) -> float:
        """The negative log-likelihood in bits per pixel."""
        return float(-(self.mass * np.log2(self.mass)).sum())

    def sample(self, *shape: int) -> Tensor:
        """Return images of such pixels, float64: every quantile of the distribution once, in random order."""
        count = math.prod(shape)
        values = self.x0[np.searchsorted(self.mass.cumsum() / self.mass.sum(), (np.arange(count) + 0.5) / count)]
        return torch.from_numpy(np.random.default_rng(0).permutation(values)).reshape(shape)

    def predict(self, schedule: Schedule, x_t: Tensor, t: Tensor, kind: str = "optimal") -> tuple[Tensor, Tensor]:
        """Return E[x_0 | x_t] and the log variance of the reverse step.

        The variance is one of the fixed ones, or for "optimal" Var[x_{t-1} | x_t] = beta~ + w^2 Var[x_0 | x_t], where w
        is the factor of x_0 in eq. 7.
        """
        a = schedule.alpha_bars[t].view(-1, 1, 1, 1)
        x0_hat = (self.v * a.sqrt() * x_t + (1 - a) * self.mu) / (self.v * a + 1 - a)
        if kind != "optimal":
            return x0_hat, fixed_log_variance(schedule, t, kind)
        one = torch.ones(len(t), 1, 1, 1, dtype=torch.float64)
        step = schedule.posterior(one, 0 * one, t)
        return x0_hat, (step.variance + step.mean**2 * self.v * (1 - a) / (self.v * a + 1 - a)).log()

    def expected_terms(self, schedule: Schedule, kind: str = "optimal") -> np.ndarray:
        """Return E[vlb_term] at every t, summed over the values by mass and over x_t by Gauss-Hermite quadrature."""
        terms = np.zeros(schedule.steps)
        for t in range(schedule.steps):
            # For a given x_0 a divergence is quadratic in x_t, so that three nodes are exact.
            nodes, weights = np.polynomial.hermite_e.hermegauss(60 if t == 0 else 3)
            x0, noise = (column(g.ravel()) for g in np.meshgrid(self.x0, nodes, indexing="ij"))
            at = torch.full((len(x0),), t)
            x_t = schedule.alpha_bars[t].sqrt() * x0 + (1 - schedule.alpha_bars[t]).sqrt() * noise
            found = vlb_term(schedule, x0, x_t, at, *self.predict(schedule, x_t, at, kind))
            terms[t] = (np.outer(self.mass, weights / weights.sum()).ravel() * found.numpy()).sum()
        return terms


# -- targets and weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_picture_comes_back_from_its_target(kind: str) -> None:
    """`to_x0` is the inverse of `target`."""
    x0, eps = random(4, 3, 5, 6), random(4, 3, 5, 6, seed=1)
    alpha_bar = column([0.9999, 0.7, 0.1, 1e-4])
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    back = to_x0(kind, target(kind, x0, eps, alpha_bar), x_t, alpha_bar)
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-12)


def test_targets_are_those_of_diffusers(diffusers: ModuleType) -> None:
    t = torch.tensor([0, 300, 999])
    oracle = diffusers.DDPMScheduler()
    x0, eps = random(3, 3, 4, 4).float(), random(3, 3, 4, 4, seed=1).float()
    alpha_bar = LINEAR.alpha_bars[t].view(-1, 1, 1, 1).float()
    v = target("v_prediction", x0, eps, alpha_bar)
    torch.testing.assert_close(v, oracle.get_velocity(x0, eps, t), rtol=0, atol=1e-5)
    assert target("epsilon", x0, eps, alpha_bar) is eps and target("sample", x0, eps, alpha_bar) is x0


def test_unknown_names_are_refused() -> None:
    x = random(2, 1, 2, 2)
    for call in (
        lambda: target("score", x, x, column([0.5, 0.5])),
        lambda: to_x0("score", x, x, column([0.5, 0.5])),
        lambda: min_snr_weight("score", column([0.5]), None),
        lambda: fixed_log_variance(LINEAR, torch.tensor([3]), "medium"),
    ):
        with pytest.raises(ValueError, match="unknown"):
            call()


def test_the_simple_loss_is_a_mean_square_for_each_picture() -> None:
    output = torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 2.0)])
    values = torch.zeros(2, 3, 2, 2)
    values[1, 0] = 5  # the squared errors of the three channels are 9, 4 and 4
    assert simple_loss(output, values).tolist() == pytest.approx([0, 17 / 3])


def test_min_snr_weights_by_their_definition() -> None:
    """With gamma = 5 the SNR 20 is cut off, the SNR 2 is kept, and the SNR 0 is pure noise."""
    snr = torch.tensor([20.0, 2.0, 0.0], dtype=torch.float64)
    alpha_bar = column(snr / (1 + snr))
    assert min_snr_weight("sample", alpha_bar, 5.0).tolist() == pytest.approx([5, 2, 0])
    assert min_snr_weight("epsilon", alpha_bar, 5.0).tolist() == pytest.approx([5 / 20, 1, 1])
    assert min_snr_weight("v_prediction", alpha_bar, 5.0).tolist() == pytest.approx([5 / 21, 2 / 3, 0])
    assert min_snr_weight("epsilon", alpha_bar, None).tolist() == [1, 1, 1]


def test_min_snr_losses_agree_between_parametrizations() -> None:
    """An error in x_0 has the same weighted loss as the errors in eps and v that it implies."""
    x0, eps, wrong = (random(5, 3, 4, 4, seed=s) for s in range(3))
    alpha_bar = column([0.9999, 0.95, 0.8, 0.3, 0.001])
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    implied = (x_t - alpha_bar.sqrt() * wrong) / (1 - alpha_bar).sqrt()
    losses = [
        min_snr_weight(kind, alpha_bar, 5.0)
        * simple_loss(target(kind, wrong, implied, alpha_bar), target(kind, x0, eps, alpha_bar))
        for kind in PREDICTION_TYPES
    ]
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-9, atol=0)
    torch.testing.assert_close(losses[1], losses[2], rtol=1e-9, atol=0)


# -- variances ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 2, 100, 999])
def test_variances_are_those_of_diffusers(diffusers: ModuleType, t: int) -> None:
    """The variances agree with those of diffusers, whose float32 limits the precision of beta~ at small t."""
    at, fraction = torch.tensor([t]), torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(t))
    for kind in ("small", "large"):
        oracle = diffusers.DDPMScheduler(variance_type=f"fixed_{kind}")._get_variance(t)
        assert float(fixed_log_variance(LINEAR, at, kind)) == pytest.approx(math.log(oracle), abs=1e-3)
    oracle = diffusers.DDPMScheduler(variance_type="learned_range")
    expected = oracle._get_variance(t, predicted_variance=2 * fraction - 1)
    torch.testing.assert_close(range_log_variance(LINEAR, at, fraction), expected, rtol=0, atol=1e-3)


def test_the_learned_range_reaches_from_beta_tilde_to_beta() -> None:
    t = torch.tensor([0, 1, 500, 999])
    b, a = COSINE.betas.numpy(), COSINE.alpha_bars.numpy()
    small = [math.log((1 - a[s - 1]) / (1 - a[s]) * b[s]) for s in (1, 1, 500, 999)]  # beta~_1 in place of beta~_0 = 0
    large = [math.log(b[s]) for s in (0, 1, 500, 999)]
    ends = [range_log_variance(COSINE, t, torch.full((4, 1, 1, 1), f, dtype=torch.float64)) for f in (0, 1, 0.25)]
    assert ends[0].flatten().tolist() == pytest.approx(small, abs=1e-9)
    assert ends[1].flatten().tolist() == pytest.approx(large, abs=1e-9)
    assert ends[2].flatten().tolist() == pytest.approx(np.multiply(0.75, small) + np.multiply(0.25, large), abs=1e-9)


# -- the decoder -------------------------------------------------------------------------------------------------------


def decoder_bits(x0: np.ndarray, mean: float, log_variance: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the decoder term of each value in bits, (B,)."""
    pictures, t = column(x0).to(dtype), torch.zeros(len(x0), dtype=torch.int64)
    return vlb_term(LINEAR, pictures, pictures, t, torch.full_like(pictures, mean), column([log_variance]))


@settings(deadline=None, max_examples=100)
@given(mean=st.floats(-1.5, 1.5), log_variance=st.floats(-30, 5))
def test_the_256_values_have_probability_one_together(mean: float, log_variance: float) -> None:
    bits = decoder_bits(LEVELS, mean, log_variance)
    assert bool(bits.isfinite().all()) and float(bits.min()) > -1e-12
    assert float((-bits * math.log(2)).exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("z", [10, 100, 1e4, 1e8])
@pytest.mark.parametrize("side", [-1, 1])
def test_the_decoder_far_out(z: float, side: int) -> None:
    """The mass of a bin is nearly the tail beyond its nearer edge, Phi(-z) ~ pdf(z) / z (1 - 1 / z^2 + 3 / z^4)."""
    std = 0.5 / z
    level = LEVELS[128]
    bits = decoder_bits(np.array([level]), level + side * (1 / 255 + 0.5), 2 * math.log(std))
    share = -math.expm1(-z * (2 / 255) / std - (2 / 255 / std) ** 2 / 2)  # nearly the share before the farther edge
    log_tail = -(z**2) / 2 - math.log(z * math.sqrt(2 * math.pi)) + math.log1p(-1 / z**2 + 3 / z**4)
    assert float(bits) == pytest.approx(-(log_tail + math.log(share)) / math.log(2), rel=1e-4 if z == 10 else 1e-8)


@pytest.mark.parametrize("log_variance", [-30.0, -9.0, 5.0])
def test_the_decoder_in_single_precision(log_variance: float) -> None:
    """The term is correct, and its gradient finite, for standard deviations from 3e-7 to 12."""
    exact = decoder_bits(LEVELS, 0.1234, log_variance)
    torch.testing.assert_close(
        decoder_bits(LEVELS, 0.1234, log_variance, torch.float32).double(), exact, rtol=1e-4, atol=2e-3
    )
    mean = torch.full((256, 1, 1, 1), 0.1234, requires_grad=True)
    learned = torch.tensor(log_variance, requires_grad=True)
    x0 = column(LEVELS).float()
    vlb_term(LINEAR, x0, x0, torch.zeros(256, dtype=torch.int64), mean, learned.view(1, 1, 1, 1)).sum().backward()
    assert mean.grad is not None and bool(mean.grad.isfinite().all())
    assert learned.grad is not None and bool(learned.grad.isfinite())


# -- the terms, by quadrature ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "kind"), [(LINEAR, "optimal"), (COSINE, "large"), (SHORT, "small"), (SHORT, "optimal")], ids=str
)
def test_every_divergence_is_its_quadrature(schedule: Schedule, kind: str) -> None:
    """Bayes' rule on a grid of x_{t-1} gives the divergence.

    q is the product of the two forward densities, and p follows from the joint Gaussian of x_{t-1} and x_t.
    """
    pixels = GaussianPixels(0.2, 0.1)
    found = pixels.expected_terms(schedule, kind)
    betas = schedule.betas.numpy()
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    x0, noise = pixels.x0[:, None, None], nodes[None, :, None]
    grid = np.linspace(-8, 8, 81)
    for t in range(1, schedule.steps):
        b, before = betas[t], np.prod(1 - betas[:t])
        x_t = math.sqrt(before * (1 - b)) * x0 + math.sqrt(1 - before * (1 - b)) * noise
        precision = 1 / (1 - before) + (1 - b) / b
        centre = (math.sqrt(before) * x0 / (1 - before) + math.sqrt(1 - b) * x_t / b) / precision
        x = centre + grid / math.sqrt(precision)
        log_q = -((x - math.sqrt(before) * x0) ** 2) / (2 * (1 - before)) - (x_t - math.sqrt(1 - b) * x) ** 2 / (2 * b)
        cell = (grid[1] - grid[0]) / math.sqrt(precision)
        log_q -= np.log(np.exp(log_q).sum(-1, keepdims=True) * cell)
        # x_{t-1} ~ N(sqrt(abar) mu, v'), and x_t = sqrt(1 - b) x_{t-1} + sqrt(b) noise. Regressing x_{t-1} on x_t gives
        # the mean and the variance of p.
        v = before * pixels.v + 1 - before
        gain = math.sqrt(1 - b) * v / ((1 - b) * v + b)
        mean = math.sqrt(before) * pixels.mu + gain * (x_t - math.sqrt((1 - b) * before) * pixels.mu)
        variance = {
            "optimal": b * v / ((1 - b) * v + b),
            "large": b,
            "small": b * (1 - before) / (1 - before * (1 - b)),
        }
        log_p = -((x - mean) ** 2) / (2 * variance[kind]) - math.log(2 * math.pi * variance[kind]) / 2
        divergence = (np.exp(log_q) * (log_q - log_p)).sum(-1) * cell / math.log(2)
        assert found[t] == pytest.approx(float(pixels.mass @ divergence @ weights), abs=1e-4), t


@pytest.mark.parametrize(
    ("schedule", "mu", "std"), [(LINEAR, 0.2, 0.1), (COSINE, 0.8, 0.25), (SHORT, -0.9, 0.2)], ids=str
)
def test_the_decoder_term_is_its_quadrature(schedule: Schedule, mu: float, std: float) -> None:
    """The decoder integrates the posterior density of x_0 given x_1 over each bin, and the tails over the outermost."""
    pixels = GaussianPixels(mu, std)
    a = 1 - float(schedule.betas[0])
    noise = np.linspace(-8, 8, 161)
    weights = np.exp(-(noise**2) / 2) / np.exp(-(noise**2) / 2).sum()
    points, lengths = np.polynomial.legendre.leggauss(200)
    expected = 0.0
    for x0, mass in zip(pixels.x0, pixels.mass, strict=True):
        low = -1.5 if x0 == -1 else x0 - 1 / 255
        high = 1.5 if x0 == 1 else x0 + 1 / 255
        x = (low + high) / 2 + (high - low) / 2 * points
        x_1 = math.sqrt(a) * x0 + math.sqrt(1 - a) * noise[:, None]
        mean = mu + math.sqrt(a) * pixels.v / (a * pixels.v + 1 - a) * (x_1 - math.sqrt(a) * mu)
        variance = pixels.v * (1 - a) / (a * pixels.v + 1 - a)
        density = np.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        expected -= mass * (weights @ np.log2(density @ lengths * (high - low) / 2))
    assert pixels.expected_terms(Schedule("linear", 2, 1 - a, 0.5))[0] == pytest.approx(expected, abs=1e-4)


def test_the_prior_term_is_its_quadrature() -> None:
    schedule = Schedule("linear", 20, 1e-3, 0.2)  # x_T is far from pure noise: abar_T is .11
    a = math.prod(1 - beta for beta in schedule.betas.tolist())
    x = np.linspace(-12, 12, 20_001)
    values = np.array([[-1.0, 0.3], [0.5, 1.0]])
    expected = []
    for value in values.ravel():
        log_q = -((x - math.sqrt(a) * value) ** 2) / (2 * (1 - a)) - math.log(2 * math.pi * (1 - a)) / 2
        log_p = -(x**2) / 2 - math.log(2 * math.pi) / 2
        expected.append((np.exp(log_q) * (log_q - log_p)).sum() * (x[1] - x[0]) / math.log(2))
    found = prior_term(schedule, torch.from_numpy(values).view(2, 1, 1, 2))
    assert found.tolist() == pytest.approx([np.mean(expected[:2]), np.mean(expected[2:])], abs=1e-9)


def test_single_precision_is_enough() -> None:
    """Each of a thousand terms, and their sum, is the same in float32 as in float64."""
    t = torch.arange(1000)
    x0 = torch.from_numpy(np.random.default_rng(0).choice(LEVELS, (1000, 1, 4, 4)))
    marginal = LINEAR.marginal(x0, t)
    x_t = marginal.mean + marginal.variance.sqrt() * random(1000, 1, 4, 4, seed=1)
    x0_hat, log_variance = GaussianPixels(0.0, 0.25).predict(LINEAR, x_t, t)
    exact = vlb_term(LINEAR, x0, x_t, t, x0_hat, log_variance)
    single = vlb_term(LINEAR, x0.float(), x_t.float(), t, x0_hat.float(), log_variance).double()
    torch.testing.assert_close(single, exact, rtol=1e-3, atol=1e-6)
    assert float(single.sum()) == pytest.approx(float(exact.sum()), rel=1e-4)


# -- the bound ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=str)
@pytest.mark.parametrize(("mu", "std"), [(0.1, 0.25), (-0.3, 0.1), (0.0, 0.03)])
def test_with_the_optimal_variance_the_bound_is_the_likelihood(schedule: Schedule, mu: float, std: float) -> None:
    """The bound is at most .01 bits above -log2 P of the values, and never below."""
    pixels = GaussianPixels(mu, std)
    prior = float(torch.from_numpy(pixels.mass) @ prior_term(schedule, column(pixels.x0)))
    assert 0 <= prior + pixels.expected_terms(schedule).sum() - pixels.bits < 0.01


def test_the_bound_of_drawn_pictures_is_their_likelihood() -> None:
    """With one sample of 50 of the 1000 timesteps and 51,200 pixels, the standard error is about .008 bits."""
    pixels, progress = GaussianPixels(0.1, 0.25), []
    x0 = pixels.sample(1600, 1, 4, 8)
    bound = variational_bound(
        lambda x_t, t: pixels.predict(COSINE, x_t, t),
        COSINE,
        x0,
        generator=torch.Generator().manual_seed(0),
        timesteps=50,
        on_term=lambda done, total: progress.append((done, total)),
    )
    assert bound.total == pytest.approx(pixels.bits, abs=0.03)
    assert progress == [(k, 50) for k in range(1, 51)]


def biased_network(c: float, x0: Tensor, schedule: Schedule):
    """Return a network with the error c at every pixel and the small variance, so that no term depends on the noise."""
    return lambda x_t, t: (x0 + c, fixed_log_variance(schedule, t, "small"))


def test_every_term_stands_in_its_place() -> None:
    """For an error c, L_t is c^2 / 2 times the decrease of the SNR.

    Source: Kingma et al. 2021, https://arxiv.org/abs/2107.00630.
    """
    x0 = torch.from_numpy(LEVELS[1:-1].copy()[:96]).view(2, 3, 4, 4)
    bound = variational_bound(biased_network(0.05, x0, SHORT), SHORT, x0, generator=torch.Generator())
    a = SHORT.alpha_bars
    snr = a / (1 - a)
    expected = (snr[:-1] - snr[1:]) / 2 * 0.05**2 / math.log(2)
    torch.testing.assert_close(bound.steps[1:], expected, rtol=1e-9, atol=0)
    std = math.exp(float(fixed_log_variance(SHORT, torch.tensor([0]), "small")) / 2)
    tails = upper_tail(np.array([0.05 - 1 / 255, 0.05 + 1 / 255]) / std)
    assert bound.decoder == pytest.approx(-math.log2(tails[0] - tails[1]), rel=1e-9)
    assert bound.prior == pytest.approx(float(prior_term(SHORT, x0).mean()))
    assert bound.kl == pytest.approx(float(expected.sum()))
    assert bound.total == pytest.approx(bound.prior + bound.kl + bound.decoder)


@pytest.mark.parametrize("timesteps", [2, 7, 59])
def test_a_part_of_the_timesteps_gives_the_same_sum(timesteps: int) -> None:
    """With some of the timesteps, the mean over 20,000 images is the whole sum within its standard error."""
    x0 = torch.zeros(20_000, 1, 1, 1, dtype=torch.float64)
    predict = biased_network(0.05, x0, SHORT)
    whole = variational_bound(biased_network(0.05, x0[:1], SHORT), SHORT, x0[:1], generator=torch.Generator())
    part = variational_bound(predict, SHORT, x0, generator=torch.Generator().manual_seed(1), timesteps=timesteps)
    places = sorted({0, 1, *(1 + np.flatnonzero(np.diff(part.steps.numpy()))), SHORT.steps})
    terms = whole.steps.numpy()
    variance = sum((end - first) ** 2 * terms[first:end].var() for first, end in pairwise(places))
    assert len(places) == timesteps + 1
    assert abs(part.kl - whole.kl) < 4 * math.sqrt(variance / len(x0)) + 1e-12
    assert part.decoder == pytest.approx(whole.decoder, rel=1e-12)


@pytest.mark.parametrize("timesteps", [0, 1, 61])
def test_impossible_numbers_of_timesteps(timesteps: int) -> None:
    x0 = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="between 2 and 60"):
        variational_bound(biased_network(0, x0, SHORT), SHORT, x0, generator=torch.Generator(), timesteps=timesteps)


def test_the_seed_decides() -> None:
    pixels = GaussianPixels(0, 0.2)
    x0 = pixels.sample(2, 1, 4, 4)

    def once(seed: int) -> Bound:
        generator = torch.Generator().manual_seed(seed)
        return variational_bound(lambda x, t: pixels.predict(SHORT, x, t), SHORT, x0, generator=generator, timesteps=5)

    assert torch.equal(once(3).steps, once(3).steps) and not torch.equal(once(3).steps, once(4).steps)


# -- the hybrid loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_bound_does_not_train_the_mean(kind: str) -> None:
    """The gradient of the first half is that of L_simple, and the gradient of the second half is 0.001 T dL_t/dv.

    For t > 0 the latter has a closed form.
    """
    t = torch.tensor([0, 1, 30, 59])
    x0, eps = column([-1, 0.2, 0.6, 1]).round(decimals=3), random(4, 1, 1, 1)
    output = (0.3 * random(4, 2, 1, 1, seed=2)).requires_grad_()
    hybrid_loss(SHORT, kind, output, x0, eps, t, gamma=5.0).sum().backward()
    assert output.grad is not None
    a = SHORT.alpha_bars[t].view(-1, 1, 1, 1)
    prediction, v = (half.detach().requires_grad_() for half in output.chunk(2, dim=1))
    (min_snr_weight(kind, a, 5.0) * simple_loss(prediction, target(kind, x0, eps, a))).sum().backward()
    torch.testing.assert_close(output.grad[:, :1], prediction.grad, rtol=1e-9, atol=0)

    low, high = (fixed_log_variance(SHORT, t, k) for k in ("small", "large"))
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    x0_hat = to_x0(kind, prediction.detach(), x_t, a)
    distance = (SHORT.posterior(x0, x_t, t).mean - SHORT.posterior(x0_hat, x_t, t).mean) ** 2
    log_variance = low + (v.detach() + 1) / 2 * (high - low)
    slope = 0.5 * (1 - (low.exp() + distance) * (-log_variance).exp()) * (high - low) / 2
    expected = 0.001 * SHORT.steps * slope / math.log(2)
    torch.testing.assert_close(output.grad[1:, 1:], expected[1:], rtol=1e-9, atol=1e-15)
    assert bool(output.grad[0, 1].abs() > 0)


@pytest.mark.parametrize("uniform", [True, False])
def test_the_hybrid_loss_is_unbiased(uniform: bool) -> None:
    """The mean over t, weighted by p(t), is the mean of L_simple plus 0.001 times the whole sum of L_vlb."""
    t = torch.arange(SHORT.steps)
    p = torch.full((60,), 1 / 60, dtype=torch.float64) if uniform else torch.softmax(random(60), 0)
    x0 = column(LEVELS[np.arange(60) * 4])
    eps, output = random(60, 1, 1, 1), 0.3 * random(60, 2, 1, 1, seed=2)
    loss = hybrid_loss(SHORT, "v_prediction", output, x0, eps, t, probability=None if uniform else p)
    a = SHORT.alpha_bars.view(-1, 1, 1, 1)
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    log_variance = range_log_variance(SHORT, t, (output[:, 1:] + 1) / 2)
    terms = vlb_term(SHORT, x0, x_t, t, a.sqrt() * x_t - (1 - a).sqrt() * output[:, :1], log_variance)
    simple = simple_loss(output[:, :1], a.sqrt() * eps - (1 - a).sqrt() * x0)
    assert float((p * loss).sum()) == pytest.approx(float((p * simple).sum() + 0.001 * terms.sum()), rel=1e-9)
