"""The reverse loop, compared with closed forms.

For Gaussian pixels x_0 ~ N(mu, v I) every step is affine, so the result is an affine map of the start, the data, the
mean and each field of noise. `affine_map` derives the coefficients of this map independently, in float64. Its moments
are compared with the exact posterior, and `reverse` is compared with it coefficient by coefficient. In addition, the
results of three samplers of diffusers are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from gaussian import GaussianPrior
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from restorer.diffusion import reverse as module
from restorer.diffusion.degradations.degradation import Degradation
from restorer.diffusion.degradations.pointwise import Identity, Mask
from restorer.diffusion.objective import range_log_variance
from restorer.diffusion.plan import METHODS, Plan, make_plan
from restorer.diffusion.prior import Prediction, Prior
from restorer.diffusion.reverse import NoiseField, NotFiniteError, Step, learned_fraction, reverse
from restorer.diffusion.schedule import Schedule
from restorer.priors.tiled import Tiled

V, S_Y = 0.25, 0.5
START, DATA, MEAN, FIRST_NOISE = range(4)  # positions of the coefficients of an affine map


def alpha_bar(sigma: float) -> float:
    """Return abar of a noise level."""
    return 1 / (1 + sigma**2)


def count_fields(plan: Plan) -> int:
    """Count the fields of noise of a run: at the start, at each rise, and at each step that adds fresh noise."""
    steps = zip(pairwise(plan.sigmas), plan.zeta, strict=True)
    return int(plan.fresh_start) + sum(b > a or (plan.kappa * b > 0 and zeta > 0) for (a, b), zeta in steps)


def affine_map(plan: Plan, *, v: float = V, s_y: float | None = S_Y, fraction: float = 0.0) -> np.ndarray:
    """Derive the coefficients of the result on (start, data, mean, noise 1, noise 2, ...).

    Args:
        plan: The plan.
        v: Variance of the prior.
        s_y: Standard deviation of the noise of the data; None if nothing is measured.
        fraction: Where a learned variance lies at every step, from log beta~ (0) to log beta (1).
    """
    basis = np.eye(FIRST_NOISE + count_fields(plan))
    fields = iter(basis[FIRST_NOISE:])
    x, std, last = basis[START].copy(), plan.sigmas[0], None
    shares = {"small": 0.0, "large": 1.0, "learned": fraction}
    if plan.fresh_start:
        std *= plan.kappa
        x += std * next(fields)
    for (now, after), zeta in zip(pairwise(plan.sigmas), plan.zeta, strict=True):
        if after > now:
            x = x + plan.kappa * math.sqrt(after**2 - now**2) * next(fields)
            std, last = plan.kappa * after, None
            continue
        predicted = (x / now**2 + basis[MEAN] / v) / (1 / now**2 + 1 / v)
        corrected = predicted
        is_corrected = after > 0 or plan.correct_last
        if s_y == 0 and is_corrected:
            corrected = basis[DATA]
        elif s_y is not None and is_corrected:
            trust = 1 / now**2 + 1 / plan.prior_variance  # precision of the prediction
            corrected = (trust * predicted + basis[DATA] / s_y**2) / (trust + 1 / s_y**2)
        estimate = corrected
        if last is not None and after > 0:
            before, previous = last
            step, step_before = math.log(now) - math.log(after), math.log(before) - math.log(now)
            estimate = corrected + plan.extrapolation * min(1, step / (2 * step_before)) * (corrected - previous)
        last = (now, corrected) if after < now else None
        if plan.kappa * after > 0:
            # As in the papers, beta = 1 - abar / abar' and beta~ = beta (1 - abar') / (1 - abar). A Langevin step is
            # expressed by its step size.
            widening = (((1 - alpha_bar(now)) / (1 - alpha_bar(after))) ** shares[plan.variance]) ** 0.5
            clean = estimate if plan.eps_from == "corrected" else predicted
            step_size = zeta * now**2 / 2
            kept = math.sqrt(1 - zeta) if after < now else 1 - step_size / now**2
            fresh = math.sqrt(zeta) * widening if after < now else math.sqrt(2 * step_size) / now
            implied = (x - clean) / std if kept > 0 else 0
            x = estimate + plan.kappa * after * kept * implied
            if zeta > 0:
                x = x + plan.kappa * after * fresh * next(fields)
        else:
            x = estimate
        std = plan.kappa * after
    return x


def probe(
    plan: Plan,
    patch: pytest.MonkeyPatch,
    degradation: Degradation | None,
    s_y: float,
    make: Callable[[Tensor], Prior] = lambda mean: GaussianPrior(mean, V),
) -> np.ndarray:
    """Measure the coefficients of `affine_map` in one run of `reverse`.

    Column k of the picture is that of a run whose k-th input is 1 and whose other inputs are 0.

    Args:
        plan: The plan.
        patch: Replaces the noise field.
        degradation: The degradation; None if nothing is measured.
        s_y: Standard deviation of the noise of the data.
        make: Makes the prior for a mean.

    Returns:
        The coefficients of each row of the picture, (2, coefficients).
    """
    columns = FIRST_NOISE + count_fields(plan)
    inputs = torch.eye(columns, dtype=torch.float64)[:, None, None, None, :].expand(columns, 1, 1, 2, columns)
    # Two more columns have all inputs at 1 and all at 0, to check that the map is linear.
    inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1]), torch.zeros_like(inputs[..., :1])], dim=-1)
    fields = iter(inputs[FIRST_NOISE:])

    class UnitFields:
        """A noise field that returns the unit inputs in turn."""

        def __init__(self, seed: int, canvas: object) -> None:
            assert seed == plan.seed and canvas is None

        def like(self, x: Tensor) -> Tensor:
            return next(fields)

    patch.setattr(module, "NoiseField", UnitFields)
    prior = make(inputs[MEAN])
    y = None if degradation is None else inputs[DATA]
    x = reverse(prior, degradation, y, plan, inputs[START], noise_variance=s_y**2)
    assert next(fields, None) is None, "fewer fields of noise were drawn than the plan implies"
    response = x[0, 0].numpy()
    np.testing.assert_allclose(response[:, -2], response[:, :-2].sum(1), atol=1e-6)
    np.testing.assert_allclose(response[:, -1], 0, atol=1e-12)
    return response[:, :-2]


def check(plan: Plan) -> None:
    """Check that `reverse` is `affine_map` with no, all and half of the pixels measured, with and without noise."""
    with pytest.MonkeyPatch.context() as patch:
        free, noisy, exact = (affine_map(plan, s_y=s) for s in (None, S_Y, 0.0))
        mask = Mask(torch.tensor([[[[True], [False]]]]))
        for degradation, s_y, rows in (
            (None, S_Y, (free, free)),
            (Identity(), S_Y, (noisy, noisy)),
            (mask, S_Y, (noisy, free)),
            (mask, 0.0, (exact, free)),
        ):
            np.testing.assert_allclose(probe(plan, patch, degradation, s_y), np.stack(rows), rtol=1e-6, atol=1e-6)


def make_constant_plan(sigmas: list[float], zeta: float = 0.5, **fields: object) -> Plan:
    """Return a plan with the same zeta at every transition."""
    return Plan(sigmas=tuple(sigmas), zeta=(zeta,) * (len(sigmas) - 1), **fields)


def preset(method: str, steps: int, **fields: object) -> Plan:
    """Return the plan of a method from 80 to 0.02."""
    auto = make_constant_plan([1.0, 0.0], **fields)
    return make_plan(method, auto, start=80.0, end=0.02, steps=steps)


# -- the affine map is the posterior -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "steps", "variance", "within"),
    [("ddpm", 200, 0.956, 0.06), ("ddim", 200, 0.977, 0.06), ("ddpm", 2000, 0.993, 0.01), ("ddim", 2000, 0.995, 0.01)],
)
def test_the_law_tends_to_the_posterior(method: str, steps: int, variance: float, within: float) -> None:
    """For s_y .5 and v .25 the posterior is N((mu + y) / 2, .125). The shares of its variance were derived by hand."""
    plan = preset(method, steps)
    found = affine_map(Plan(plan.sigmas, plan.zeta, prior_variance=V))
    precision = 1 / V + 1 / S_Y**2
    share = float((found[FIRST_NOISE:] ** 2).sum()) * precision
    assert share == pytest.approx(variance, abs=0.002)
    assert share == pytest.approx(1, abs=within)
    assert found[DATA] == pytest.approx(1 / S_Y**2 / precision, rel=0.01)
    assert found[MEAN] == pytest.approx(1 / V / precision, rel=0.01)
    assert abs(found[START]) < 0.01


def test_langevin_tends_to_the_posterior() -> None:
    """With data, the score is that of the corrected estimate, so the posterior is the same, N((mu + y) / 2, .125)."""
    plan = preset("langevin", 2000)
    found = affine_map(Plan(plan.sigmas, plan.zeta, prior_variance=V))
    assert float((found[FIRST_NOISE:] ** 2).sum()) == pytest.approx(0.125, rel=0.01)
    assert found[DATA] == pytest.approx(0.5, rel=0.01)
    assert found[MEAN] == pytest.approx(0.5, rel=0.01)


def test_langevin_alone_comes_to_rest() -> None:
    """At one level, from a wrong start, x tends to N(mu, v + s^2), whose score the prior gives.

    Euler steps of size e = zeta s^2 / 2 have a variance that is wrong by the factor 1 / (1 - e / (2 (v + s^2))).
    """
    sigma, zeta = 0.5, 0.1
    plan = Plan((sigma,) * 400 + (0.0,), (zeta,) * 400)
    found = affine_map(plan, s_y=None)
    # The last evaluation is the posterior mean, mu + v / (v + s^2) (x - mu).
    shrink = V / (V + sigma**2)
    bias = 1 / (1 - zeta * sigma**2 / 2 / (2 * (V + sigma**2)))
    assert float((found[FIRST_NOISE:] ** 2).sum()) == pytest.approx(shrink**2 * (V + sigma**2) * bias, rel=1e-6)
    assert found[MEAN] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("method", ["ddpm", "ddim", "langevin"])
def test_with_nothing_measured_the_law_tends_to_the_prior(method: str) -> None:
    found = affine_map(preset(method, 1000), s_y=None)
    assert found[MEAN] == pytest.approx(1, abs=0.01)
    assert float((found[FIRST_NOISE:] ** 2).sum()) == pytest.approx(V, rel=0.02)


# -- reverse is the affine map -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"kappa": 0.6}, {"kappa": 0.0}, {"fresh_start": False}], ids=str)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "auto"])
def test_every_preset_is_its_affine_map(method: str, fields: dict) -> None:
    check(preset(method, 30, **fields))


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_two_hundred_levels_are_their_affine_map(method: str) -> None:
    plan = preset(method, 200)
    with pytest.MonkeyPatch.context() as patch:
        found = probe(plan, patch, Identity(), S_Y)
    np.testing.assert_allclose(found, np.stack([affine_map(plan)] * 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "plan",
    [
        make_constant_plan([0.4, 0.0], fresh_start=False),
        make_constant_plan([3.0, 1.0, 0.3, 0.0], zeta=0.0, fresh_start=False, extrapolation=1.0),
        make_constant_plan([3.0, 1.0, 0.3, 0.1, 0.0], zeta=1.0, kappa=0.0, prior_variance=math.inf),
        make_constant_plan([3.0, 1.0, 0.3, 0.1, 0.0], zeta=0.3, kappa=0.5, extrapolation=0.5, eps_from="predicted"),
        make_constant_plan([3.0, 1.0, 0.3, 0.0], zeta=0.0, kappa=0.3, fresh_start=False, correct_last=False),
        make_constant_plan([3.0, 2.9, 0.3, 0.2, 0.0], zeta=0.3, extrapolation=1.0),  # the extrapolation is capped at 1
        make_constant_plan(
            [3.0, 1.0, 3.0, 1.0, 0.3, 2.0, 0.1, 0.0], zeta=0.2, kappa=0.8, extrapolation=1.0, prior_variance=V
        ),
        make_constant_plan([3.0, 1.0, 3.0, 1.0, 0.3, 0.0], zeta=1.0, kappa=0.0),
        make_constant_plan([3.0, 1.0, 0.3, 0.0], zeta=0.4, variance="large"),
        make_constant_plan([3.0, 3.0, 3.0, 1.0, 0.3, 0.3, 0.0], zeta=0.1, extrapolation=1.0),  # Langevin steps
        make_constant_plan([3.0, 1.0, 1.0, 0.3, 0.3, 0.0], zeta=0.3, kappa=0.5, eps_from="predicted", variance="large"),
        make_constant_plan([3.0, 1.0, 1.0, 1.0, 0.3, 0.0], zeta=1.0, kappa=0.0),
    ],
    ids=str,
)
def test_every_field_is_its_affine_map(plan: Plan) -> None:
    check(plan)


OWN = Schedule("linear", 40, 1e-3, 0.3)


class LearnedVariance(GaussianPrior):
    """A prior whose reverse variance lies at `fraction` between log beta~_t (0) and log beta_t (1) of OWN."""

    def __init__(self, mu: float | Tensor, fraction: float) -> None:
        super().__init__(mu, V)
        self.fraction = fraction

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        t = int((OWN.sigmas - float(sigma)).abs().argmin())
        now, before = OWN.alpha_bars[t], OWN.alpha_bars[t - 1]
        beta = OWN.betas[t]
        tilde = (1 - before) / (1 - now) * beta
        value = self.fraction * math.log(beta) + (1 - self.fraction) * math.log(tilde)
        return Prediction(super().predict(x, sigma).x0, torch.full_like(x, value) if t else torch.zeros_like(x))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0, 1.2, -0.1])
@pytest.mark.parametrize("every", [1, 4])
def test_a_learned_variance_is_its_affine_map(every: int, fraction: float) -> None:
    """The variance is that of the network, in units of x_{t-1}, on its own steps and on longer ones."""
    sigmas = (*OWN.sigmas.flip(0)[::every].tolist(), 0.0)
    zeta = tuple(1 - (b / a) ** 2 for a, b in pairwise(sigmas))
    plan = Plan(sigmas, zeta, variance="learned", schedule=OWN)
    with pytest.MonkeyPatch.context() as patch:
        found = probe(plan, patch, None, 0.0, make=lambda mean: LearnedVariance(mean, fraction))
    np.testing.assert_allclose(
        found, np.stack([affine_map(plan, s_y=None, fraction=fraction)] * 2), rtol=1e-6, atol=1e-6
    )
    for extreme, variance in ((0.0, "small"), (1.0, "large")):
        same = affine_map(Plan(sigmas, zeta, variance=variance), s_y=None)
        np.testing.assert_allclose(affine_map(plan, s_y=None, fraction=extreme), same, rtol=1e-12)


@pytest.mark.parametrize("t", [0, 1, 7, 39])
def test_the_learned_fraction_undoes_equation_15(t: int) -> None:
    """The fraction is (v + 1) / 2 for the output v of the network, for one pixel of each v."""
    fraction = torch.tensor([0.0, 0.25, 1.0, 1.5], dtype=torch.float64).view(1, 1, 1, 4)
    log_variance = range_log_variance(OWN, torch.tensor([t]), fraction)
    torch.testing.assert_close(learned_fraction(log_variance, float(OWN.sigmas[t]), OWN), fraction, rtol=0, atol=1e-9)


def test_a_variance_that_was_never_learned() -> None:
    plan = Plan((3.0, 1.0, 0.0), (0.5, 0.5), variance="learned", schedule=OWN)
    with pytest.raises(ValueError, match="has not learned a variance"):
        reverse(GaussianPrior(), None, None, plan, torch.zeros(1, 3, 4, 4))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw any plan whose level does not rise at the first transition."""
    sigmas = [10 ** draw(st.floats(-1, 1))]
    factors = st.floats(-1, 0.6).filter(lambda f: abs(f) > 0.02) | st.just(0.0)
    for factor in draw(st.lists(factors, max_size=6)):
        fall = -abs(factor) if len(sigmas) == 1 else factor
        sigmas.append(sigmas[-1] * 10**fall)
    share = st.sampled_from([0.0, 0.3, 1.0]) | st.floats(0, 1)
    return Plan(
        sigmas=(*sigmas, 0.0),
        zeta=tuple(draw(share) for _ in sigmas),
        kappa=draw(st.sampled_from([0.0, 0.5, 1.0])),
        prior_variance=draw(st.sampled_from([V, 1.0, math.inf])),
        extrapolation=draw(st.sampled_from([0.0, 0.5, 1.0])),
        eps_from=draw(st.sampled_from(["corrected", "predicted"])),
        variance=draw(st.sampled_from(["small", "large"])),
        fresh_start=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@settings(deadline=None, max_examples=60)
@given(plan=plans())
def test_any_plan_is_its_affine_map(plan: Plan) -> None:
    check(plan)


# -- other implementations ---------------------------------------------------------------------------------------------


def test_ddpm_is_ancestral_sampling_of_diffusers(diffusers) -> None:
    """The results of algorithm 2 of Ho et al. 2020 agree on all steps of a schedule of 40, with the same noise."""
    schedule, shape = Schedule("linear", 40, 1e-3, 0.3), (2, 3, 4, 5)
    sigmas = (*schedule.sigmas.flip(0).tolist(), 0.0)
    zeta = tuple(1 - (b / a) ** 2 for a, b in pairwise(sigmas))
    prior = GaussianPrior(0.3, V)
    ours = reverse(prior, None, None, Plan(sigmas, zeta, seed=5), torch.zeros(shape))

    reference = diffusers.DDPMScheduler(
        40, beta_start=1e-3, beta_end=0.3, variance_type="fixed_small", clip_sample=False, prediction_type="sample"
    )
    generator = torch.Generator().manual_seed(5)
    a = reference.alphas_cumprod.sqrt()
    x = a[-1] * sigmas[0] * torch.randn(shape, generator=generator)
    for t in reversed(range(40)):
        x0 = prior.denoise(x / a[t], float(schedule.sigmas[t]))
        x = reference.step(x0, t, x, generator=generator).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize(("variance", "theirs"), [("large", "fixed_large"), ("learned", "learned_range")])
def test_other_variances_are_those_of_diffusers(variance: str, theirs: str, every: int, diffusers) -> None:
    """Ancestral sampling with beta_t and with a learned variance agrees on all steps and on every fourth."""
    reference = diffusers.DDPMScheduler(
        40, beta_start=1e-3, beta_end=0.3, variance_type=theirs, clip_sample=False, prediction_type="sample"
    )
    reference.set_timesteps(40 // every)
    shape, prior = (2, 3, 4, 5), LearnedVariance(0.3, 0.7)
    sigmas = OWN.sigmas[reference.timesteps].tolist()
    zeta = tuple(1 - (b / a) ** 2 for a, b in pairwise([*sigmas, 0.0]))
    plan = Plan((*sigmas, 0.0), zeta, variance=variance, schedule=OWN, seed=5)
    ours = reverse(prior, None, None, plan, torch.zeros(shape))

    generator = torch.Generator().manual_seed(5)
    a = reference.alphas_cumprod.sqrt()
    x = a[reference.timesteps[0]] * sigmas[0] * torch.randn(shape, generator=generator)
    for t, sigma in zip(reference.timesteps, sigmas, strict=True):
        x0 = prior.denoise(x / a[t], sigma)
        output = torch.cat([x0, torch.full_like(x0, 2 * 0.7 - 1)], 1) if variance == "learned" else x0
        x = reference.step(output, int(t), x, generator=generator).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


def test_ddim_is_that_of_diffusers(diffusers) -> None:
    """The results of Song et al. 2021 with eta = 0 agree on every fourth step of a schedule of 40."""
    reference = diffusers.DDIMScheduler(
        40, beta_start=1e-3, beta_end=0.3, clip_sample=False, prediction_type="sample", set_alpha_to_one=True
    )
    reference.set_timesteps(10)
    levels = ((1 - reference.alphas_cumprod) / reference.alphas_cumprod).double().sqrt()[reference.timesteps]
    prior, start = GaussianPrior(0.3, V), torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    plan = make_constant_plan([*levels.tolist(), 0.0], zeta=0.0, fresh_start=False)
    ours = reverse(prior, None, None, plan, start)

    a = reference.alphas_cumprod.sqrt()
    x = a[reference.timesteps[0]] * start
    for t, sigma in zip(reference.timesteps, levels, strict=True):
        x = reference.step(prior.denoise(x / a[t], float(sigma)), int(t), x).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


def test_extrapolation_is_dpm_solver(diffusers) -> None:
    """The results are those of DPM-Solver++ 2M (midpoint), on levels whose steps shrink, so that the cap never acts."""
    reference = diffusers.DPMSolverMultistepScheduler(
        solver_order=2, algorithm_type="dpmsolver++", solver_type="midpoint", prediction_type="sample",
        final_sigmas_type="zero", lower_order_final=True,
    )  # fmt: skip
    reference.set_timesteps(20)
    sigmas = reference.sigmas.double().tolist()
    steps = [math.log(a / b) for a, b in pairwise(sigmas[:-1])]
    assert all(after < 2 * before for before, after in pairwise(steps))
    prior, start = GaussianPrior(0.3, V), torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    plan = make_constant_plan(sigmas, zeta=0.0, fresh_start=False, extrapolation=1.0)
    ours = reverse(prior, None, None, plan, sigmas[0] * start)

    scale = [1 / math.sqrt(1 + s**2) for s in sigmas]
    x = scale[0] * sigmas[0] * start
    for t, sigma, a in zip(reference.timesteps, sigmas, scale, strict=False):
        x = reference.step(prior.denoise(x / a, sigma), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


# -- with the real noise -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "kappa"), [("ddpm", 1.0), ("ddim", 1.0), ("repaint", 0.6), ("langevin", 1.0)])
def test_a_run_has_the_moments_of_its_law(method: str, kappa: float) -> None:
    """For 200,000 pixels of real noise, the variance agrees to 1.5 % and the mean to four standard errors."""
    plan = preset(method, 30, kappa=kappa, seed=3)
    y = torch.full((1, 1, 400, 500), 0.8)
    x = reverse(GaussianPrior(-0.4, V), Identity(), y, plan, torch.zeros_like(y), noise_variance=S_Y**2)
    expected = affine_map(plan)
    variance = float((expected[FIRST_NOISE:] ** 2).sum())
    assert float(x.double().var()) == pytest.approx(variance, rel=0.015)
    mean = 0.8 * expected[DATA] - 0.4 * expected[MEAN]
    assert float(x.double().mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / x.numel()))
    # The noise is white: neighbouring pixels are uncorrelated.
    white = (x - x.mean())[0, 0] / math.sqrt(variance)
    assert abs(float((white[:, 1:] * white[:, :-1]).mean())) < 4 / math.sqrt(x.numel())


class Spy(GaussianPrior):
    """A Gaussian prior that lists its inputs."""

    def __init__(self) -> None:
        super().__init__(0.1, V)
        self.seen: list[tuple[Tensor, float]] = []

    def predict(self, x, sigma, condition=None):
        self.seen.append((x.clone(), float(sigma)))
        return super().predict(x, sigma, condition)


@pytest.mark.parametrize("kappa", [1.0, 0.4])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("auto", "ddnm")])
def test_known_pixels_are_noised_again_at_every_step(method: str, kappa: float) -> None:
    """At level s the network sees the known pixels plus white noise of standard deviation kappa s."""
    generator = torch.Generator().manual_seed(2)
    y = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    known = torch.rand(1, 1, 64, 64, generator=generator) < 0.5
    plan, spy = preset(method, 20, kappa=kappa), Spy()
    x = reverse(spy, Mask(known), torch.where(known, y, math.nan), plan, torch.where(known, y, 0.0))
    where = known.expand_as(y)
    assert len(spy.seen) == 20
    for seen, sigma in spy.seen:
        noise = (seen - y)[where]
        assert float(noise.std()) == pytest.approx(kappa * sigma, rel=0.04)
        assert abs(float(noise.mean())) < 5 * kappa * sigma / math.sqrt(len(noise))
    assert torch.equal(x[where], y[where])
    assert not torch.equal(x[~where], y[~where]) and bool(x.isfinite().all())


def test_ddnm_keeps_the_noise_that_the_network_saw() -> None:
    """Known pixels are the data plus noise, of which .85 is drawn anew and the rest is the earlier (x - x0) / sigma."""
    y = torch.full((1, 1, 100, 100), 0.5)
    plan, spy = preset("ddnm", 12), Spy()
    reverse(spy, Mask(torch.ones(1, 1, 100, 100)), y, plan, y)
    for (before, high), (seen, sigma) in pairwise(spy.seen):
        kept = math.sqrt(1 - 0.85**2) * (before - GaussianPrior(0.1, V).denoise(before, high)) / high
        fresh = (seen - y) / sigma - kept
        assert float(fresh.std()) == pytest.approx(0.85, rel=0.04)
        assert abs(float(fresh.mean())) < 0.05


def test_the_noise_field_depends_on_seed_and_shape_alone() -> None:
    x = torch.zeros(1, 3, 5, 7)
    field, again = NoiseField(4), NoiseField(4)
    torch.manual_seed(123)  # the global generator has no influence
    first, second = field.like(x), field.like(x)
    torch.manual_seed(321)
    assert torch.equal(first, again.like(x + 9)) and torch.equal(second, again.like(x))
    assert not torch.equal(first, second)
    assert not torch.equal(first, NoiseField(5).like(x))
    assert first.shape == x.shape
    double = NoiseField(4).like(x.double())
    assert double.dtype == torch.float64 and torch.equal(double.float(), first)
    assert torch.equal(first, torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(4)))


def test_a_seed_a_picture() -> None:
    """Each picture of a batch has the noise that it would have alone."""
    x = torch.zeros(3, 1, 5, 7)
    several = NoiseField((4, 9, 2))
    alone = [NoiseField(seed) for seed in (4, 9, 2)]
    for _ in range(2):
        field = several.like(x)
        assert all(torch.equal(field[k : k + 1], single.like(x[:1])) for k, single in enumerate(alone))


def test_the_noise_field_is_white() -> None:
    field = NoiseField(0).like(torch.zeros(1, 1, 500, 500)).double()
    assert float(field.mean()) == pytest.approx(0, abs=0.01)
    assert float(field.var()) == pytest.approx(1, abs=0.015)
    assert float((field**4).mean()) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("method", ["ddpm", "repaint", "ddnm"])
def test_tiles_do_not_change_the_noise(method: str) -> None:
    """A prior that looks at single pixels gives the same picture whole and in tiles, which share the same noise."""
    y = torch.rand(1, 3, 20, 33, generator=torch.Generator().manual_seed(8)) * 2 - 1
    known = y[:, :1] > 0
    plan, whole, tiled = preset(method, 20, seed=6), Spy(), Spy()
    x = reverse(whole, Mask(known), y, plan, torch.zeros_like(y))
    in_tiles = reverse(Tiled(tiled, 12, overlap=5, batch=2), Mask(known), y, plan, torch.zeros_like(y))
    assert len(tiled.seen) > 2 * len(whole.seen)
    torch.testing.assert_close(in_tiles, x, rtol=0, atol=1e-5)
    assert torch.equal(tiled.seen[0][0][:1], whole.seen[0][0][..., :12, :12])


def test_the_seed_decides() -> None:
    plans = [preset("ddpm", 5, seed=seed) for seed in (1, 1, 2)]
    a, b, c = (reverse(GaussianPrior(), None, None, plan, torch.zeros(1, 3, 4, 4)) for plan in plans)
    assert torch.equal(a, b) and not torch.equal(a, c)


# -- reports and errors ------------------------------------------------------------------------------------------------


def test_every_evaluation_is_reported() -> None:
    plan, spy, steps = preset("repaint", 20), Spy(), []
    y = torch.full((2, 3, 4, 4), 0.2)
    reverse(spy, Identity(), y, plan, y, noise_variance=S_Y**2, on_step=steps.append)
    assert [(s.index, s.total) for s in steps] == [(k + 1, 20) for k in range(20)]
    assert [s.sigma for s in steps] == [sigma for _, sigma in spy.seen]
    for step, (x, sigma) in zip(steps, spy.seen, strict=True):
        x0 = GaussianPrior(0.1, V).denoise(x, sigma)
        torch.testing.assert_close(step.x0, x0)
        torch.testing.assert_close(step.corrected, Identity().correct(x0, y, S_Y**2, sigma**2), rtol=1e-5, atol=1e-6)


def test_what_a_listener_raises_ends_the_run() -> None:
    spy = Spy()

    def stop(step: Step) -> None:
        if step.index == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reverse(spy, None, None, preset("ddpm", 9), torch.zeros(1, 3, 4, 4), on_step=stop)
    assert len(spy.seen) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_network_that_breaks_down_is_noticed(value: float) -> None:
    class Broken(Spy):
        """A prior whose fourth prediction contains one value that is not finite."""

        def predict(self, x, sigma, condition=None):
            prediction = super().predict(x, sigma, condition)
            if len(self.seen) == 4:
                prediction.x0[0, 0, 1, 2] = value
            return prediction

    broken = Broken()
    with pytest.raises(NotFiniteError):
        reverse(broken, None, None, preset("ddpm", 9), torch.zeros(1, 3, 4, 4))
    assert len(broken.seen) == 4


def test_the_start_is_left_alone() -> None:
    start, y = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    for fresh in (True, False):
        reverse(GaussianPrior(), Identity(), y, preset("ddpm", 4, fresh_start=fresh), start, noise_variance=0.1)
    assert not start.any() and bool((y == 1).all())


class Slanted(GaussianPrior):
    """A Gaussian prior with an error that grows to the right and downwards and does not depend on the picture."""

    mirrors = True

    def __init__(self, slant: float = 0.1) -> None:
        super().__init__()
        self.slant, self.seen = slant, list[Tensor]()

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        self.seen.append(x.clone())
        across, down = torch.linspace(-1, 1, x.shape[-1]), torch.linspace(-1, 1, x.shape[-2])[:, None]
        x0 = super().predict(x, sigma).x0
        return Prediction(x0 + self.slant * (across + down), x0.sin())


MIRRORING = Plan((0.5, 0.3, 0.2, 0.1, 0.05, 0.0), (1.0,) * 5, mirrored=True)


def test_each_evaluation_is_mirrored_otherwise() -> None:
    """The orientations are: unchanged, left to right, upside down, both, and again. The result does not change."""
    start = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    mirrored, upright = Slanted(0.0), Slanted(0.0)
    result = reverse(mirrored, None, None, MIRRORING, start)
    assert torch.equal(result, reverse(upright, None, None, replace(MIRRORING, mirrored=False), start))
    expected = [x.flip(dims) for x, dims in zip(upright.seen, (*module.MIRRORS, ()), strict=True)]
    assert all(torch.equal(x, y) for x, y in zip(mirrored.seen, expected, strict=True))


def test_what_is_wrong_in_one_position_averages_out() -> None:
    """The error is smaller in a deterministic process, where the errors of all evaluations add up."""
    start, plan = torch.zeros(1, 3, 8, 8), replace(MIRRORING, zeta=(0.0,) * 5)
    truth = reverse(GaussianPrior(), None, None, plan, start)
    upright, mirrored = (
        float((reverse(Slanted(), None, None, p, start) - truth).square().mean())
        for p in (replace(plan, mirrored=False), plan)
    )
    assert mirrored < 0.8 * upright


@pytest.mark.parametrize("dims", module.MIRRORS)
def test_answers_are_turned_back(dims: tuple[int, ...]) -> None:
    """x0 and the log variance are mirrored back, for pictures at levels of their own."""
    prior = Slanted()
    mirrored = prior.mirrored(dims)
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    sigma = torch.tensor([0.3, 0.7])
    answer, expected = mirrored.predict(x, sigma), prior.predict(x.flip(dims), sigma)
    assert mirrored.mirrors and torch.equal(prior.seen[0], x.flip(dims))
    assert torch.equal(answer.x0, expected.x0.flip(dims)) and expected.log_variance is not None
    assert answer.log_variance is not None and torch.equal(answer.log_variance, expected.log_variance.flip(dims))


def one_thread(count: int) -> ThreadPoolExecutor:
    """Return a pool of one thread."""
    return ThreadPoolExecutor(1)


def no_thread(count: int) -> ThreadPoolExecutor:
    """Raise the error of an interpreter that is about to exit."""
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("pool", [one_thread, no_thread])
def test_large_noise_fields_are_drawn_by_many_threads_and_depend_on_none(
    monkeypatch: pytest.MonkeyPatch, pool: Callable[[int], ThreadPoolExecutor]
) -> None:
    """All parts and fields are white and uncorrelated, and one thread, inference mode and batches give the same."""
    like, seeds = torch.zeros(1, 3, 300, 1001), (5, 6)
    assert like.numel() > 3 * module.PART
    field = NoiseField(5)
    first, second = field.like(like), field.like(like)
    with torch.inference_mode(), monkeypatch.context() as patch:
        patch.setattr(module, "ThreadPoolExecutor", pool)
        again = NoiseField(5)
        assert torch.equal(again.like(like), first) and torch.equal(again.like(like), second)
        both = NoiseField(seeds).like(like.expand(2, -1, -1, -1))
        assert torch.equal(both[:1], first) and both.shape == (2, *like.shape[1:])
    parts = [first.flatten()[: 3 * module.PART].view(3, -1), second.flatten()[: 3 * module.PART].view(3, -1)]
    rows = torch.cat([*parts, both[1].flatten()[: 3 * module.PART].view(3, -1)]).double()
    bound = 5 / math.sqrt(module.PART)  # bound of means and correlations; the variances scatter sqrt(2) times as much
    assert float(rows.mean(1).abs().max()) < bound
    covariance = rows @ rows.T / module.PART - torch.eye(9)
    assert float(covariance.abs().max()) < math.sqrt(2) * bound
    assert first.dtype == torch.float32 and NoiseField(5).like(like.double()).dtype == torch.float64
