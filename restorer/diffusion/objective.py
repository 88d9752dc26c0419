r"""What a diffusion network is trained on, and the variational bound that says how good it is.

    L_simple = E || target - network(x_t, t) ||^2                                    (Ho et al. 2020, eq. 14)
    L_vlb    = L_T + sum_{t >= 1} L_t + L_0                                          (Ho et al. 2020, eq. 5)
        L_T    = KL( q(x_T | x_0) || N(0, I) )                                       `prior_term`
        L_t    = KL( q(x_{t-1} | x_t, x_0) || N(mu(x_t, x0_hat), Sigma) )            `vlb_term`, t >= 1
        L_0    = -log p(x_0 | x_1), a discretized Gaussian (eq. 13)                  `vlb_term`, t = 0
    L_hybrid = L_simple + 0.001 L_vlb                                                (Nichol & Dhariwal 2021, eq. 16)

Timesteps count from 0 as in `schedule.py`: L_t belongs to the reverse step that leaves x_t, and is L_{t-1} in papers
that count from 1. L_vlb bounds the negative log-likelihood of an 8-bit picture from above; it is given in bits per
dimension, a dimension being one channel of one pixel.

Ho et al.: https://arxiv.org/abs/2006.11239. Nichol & Dhariwal: https://arxiv.org/abs/2102.09672.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from restorer.diffusion.schedule import Schedule

__all__ = [
    "PREDICTION_TYPES",
    "Bound",
    "fixed_log_variance",
    "hybrid_loss",
    "min_snr_weight",
    "prior_term",
    "range_log_variance",
    "simple_loss",
    "target",
    "to_x0",
    "variational_bound",
    "vlb_term",
]

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# Half the distance between neighbouring 8-bit values on [-1, 1].
HALF_BIN = 1 / 255

# The weight of the bound in the hybrid loss (Nichol & Dhariwal 2021, section 3.1).
VLB_WEIGHT = 0.001


def _unknown(prediction_type: str) -> ValueError:
    return ValueError(f"unknown prediction_type {prediction_type!r}: one of {', '.join(PREDICTION_TYPES)}")


# -- what the network is trained on ------------------------------------------------------------------------------------


def target(prediction_type: str, x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network is trained to say of x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps.

    "epsilon" is the noise (Ho et al. 2020, eq. 14), "v_prediction" is v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans
    & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D), "sample" the clean picture.

    Args:
        prediction_type: one of PREDICTION_TYPES.
        x0, eps: clean pictures and the noise put on them, (B, C, H, W).
        alpha_bar: abar_t, broadcastable to them: (B, 1, 1, 1).

    Raises:
        ValueError: the prediction type is unknown.
    """
    match prediction_type:
        case "epsilon":
            return eps
        case "v_prediction":
            return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
        case "sample":
            return x0
    raise _unknown(prediction_type)


def to_x0(prediction_type: str, output: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """The clean picture that a network's output stands for: the inverse of `target`, given x_t.

    epsilon: (x_t - sqrt(1 - abar) output) / sqrt(abar), Ho et al. 2020, eq. 4 solved for x_0. v_prediction: sqrt(abar)
    x_t - sqrt(1 - abar) output, Salimans & Ho 2022, appendix D. Nothing is clipped.

    Args:
        prediction_type: one of PREDICTION_TYPES.
        output: of the network, without the half that holds the variance, (B, C, H, W).
        x_t: the noisy picture that it saw, (B, C, H, W).
        alpha_bar: abar_t, broadcastable to them: (B, 1, 1, 1).

    Raises:
        ValueError: the prediction type is unknown.
    """
    match prediction_type:
        case "epsilon":
            return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
        case "v_prediction":
            return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
        case "sample":
            return output
    raise _unknown(prediction_type)


def simple_loss(output: Tensor, target: Tensor) -> Tensor:
    """L_simple of each picture: the mean square over everything but the batch, (B,). Ho et al. 2020, eq. 14."""
    return (output - target).square().flatten(1).mean(1)


def min_snr_weight(prediction_type: str, alpha_bar: Tensor, gamma: float | None) -> Tensor:
    """Min-SNR-gamma: the weight of L_simple at each timestep (Hang et al. 2023, https://arxiv.org/abs/2303.09556).

    In terms of an error in x_0 the weight is min(SNR, gamma), with SNR = abar / (1 - abar). An error in eps is one in
    x_0 times sqrt(SNR), an error in v one times sqrt(SNR + 1), hence min(SNR, gamma) / SNR and min(SNR, gamma) /
    (SNR + 1) for them. The paper uses gamma = 5.

    Args:
        prediction_type: one of PREDICTION_TYPES.
        alpha_bar: abar_t in [0, 1), (B,) or (B, 1, 1, 1).
        gamma: where the signal-to-noise ratio is cut off; None weighs every timestep by 1.

    Returns:
        Weights, (B,).

    Raises:
        ValueError: the prediction type is unknown.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise _unknown(prediction_type)
    if gamma is None:
        return torch.ones_like(alpha_bar).flatten()
    snr = (alpha_bar / (1 - alpha_bar)).flatten()
    match prediction_type:
        case "epsilon":
            return (gamma / snr).clamp(max=1)  # written so that pure noise, SNR = 0, has the weight 1
        case "v_prediction":
            return snr.clamp(max=gamma) / (snr + 1)
    return snr.clamp(max=gamma)


# -- the variance of the reverse step ----------------------------------------------------------------------------------


def fixed_log_variance(schedule: Schedule, t: Tensor, kind: str) -> Tensor:
    """The log variance of the reverse step where it is not learned (Ho et al. 2020, section 3.2).

    "small" is beta~_t, eq. 7, the least that the step can have (data that are one point); "large" is beta_t, the
    optimum for data that are white noise. beta~_0 is 0; beta~_1 stands in its place, as the papers' code has it.

    Args:
        schedule: the noise schedule.
        t: timesteps, int64 (B,) in [0, T).
        kind: "small" or "large".

    Returns:
        float64 (B, 1, 1, 1), where t is.

    Raises:
        ValueError: the kind is unknown.
    """
    at = t.cpu()
    if kind == "small":
        # A posterior's variance does not depend on the pictures.
        nothing = torch.zeros(len(at), 1, 1, 1, dtype=torch.float64)
        variance = schedule.posterior(nothing, nothing, at.clamp(min=1)).variance
    elif kind == "large":
        variance = schedule.betas[at].view(-1, 1, 1, 1)
    else:
        raise ValueError(f"unknown variance {kind!r}: one of small, large")
    return variance.log().to(t.device)


def range_log_variance(schedule: Schedule, t: Tensor, fraction: Tensor) -> Tensor:
    """The learned log variance, between log beta~ (fraction 0) and log beta (1). Nichol & Dhariwal 2021, eq. 15.

    Args:
        schedule: the noise schedule.
        t: timesteps, int64 (B,) in [0, T).
        fraction: (v + 1) / 2 with v the second half of the network's output, (B, C, H, W); it may leave [0, 1].

    Returns:
        (B, C, H, W), in fraction's precision.
    """
    low, high = (fixed_log_variance(schedule, t, kind).to(fraction) for kind in ("small", "large"))
    return low + fraction * (high - low)


# -- the terms of the bound --------------------------------------------------------------------------------------------


def _bits(nats: Tensor) -> Tensor:
    """Nats, one for each value of a picture, to bits per dimension: (B, ...) to (B,)."""
    return nats.flatten(1).mean(1) / math.log(2)


def _log_bin(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The log probability of x0's bin of 2/255 under a Gaussian; the bins at -1 and 1 are open outwards (eq. 13).

    In float64: in float32 the gradient of log_ndtr is wrong beyond some hundred standard deviations, and soon infinite.
    """
    x0, mean, inverse_std = x0.double(), mean.double(), torch.exp(-log_variance.double() / 2)
    low, high = (x0 - HALF_BIN - mean) * inverse_std, (x0 + HALF_BIN - mean) * inverse_std
    # Phi(high) - Phi(low) = Phi(-low) - Phi(-high): of the two take the one in the left tail, where log Phi is exact.
    right = low + high > 0
    below, above = torch.where(right, -high, low), torch.where(right, -low, high)
    log_above = torch.special.log_ndtr(above)
    inside = log_above + torch.log(-torch.expm1(torch.special.log_ndtr(below) - log_above))
    outside = torch.where(x0 < 0, torch.special.log_ndtr(high), torch.special.log_ndtr(-low))
    return torch.where(x0.abs() > 1 - HALF_BIN, outside, inside)


def vlb_term(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor, x0_hat: Tensor, log_variance: Tensor) -> Tensor:
    """One term of the bound for each picture, in bits per dimension: L_{t-1} of Ho et al. 2020, eq. 5 and 8.

    For t > 0 it is KL( q(x_{t-1} | x_t, x_0) || N(mu(x_t, x0_hat), exp(log_variance)) ), with mu the mean of eq. 7. For
    t = 0 it is -log p(x_0 | x_1), the probability of x_0's own bin under N(x0_hat, exp(log_variance)), eq. 13.

    Args:
        schedule: the noise schedule.
        x0: pictures of 8-bit values on [-1, 1], (B, C, H, W); its precision is that of the result.
        x_t: a draw from q(x_t | x_0), (B, C, H, W).
        t: timesteps, int64 (B,) in [0, T).
        x0_hat: the network's estimate of x0 given x_t, (B, C, H, W).
        log_variance: of the reverse step, broadcastable to x0.

    Returns:
        (B,)
    """
    log_variance = log_variance.to(x0)
    actual, model = schedule.posterior(x0, x_t, t), schedule.posterior(x0_hat, x_t, t)
    # At t = 0 this stand-in for log 0 keeps the divergence, which is not used there, and its gradient finite.
    log_ratio = fixed_log_variance(schedule, t, "small").to(x0) - log_variance
    distance = (actual.mean - model.mean).square() * torch.exp(-log_variance)
    divergence = 0.5 * (torch.expm1(log_ratio) - log_ratio + distance)
    decoder = -_log_bin(x0, model.mean, log_variance).to(x0)
    first = (t == 0).to(x0.device).view(-1, *[1] * (x0.ndim - 1))
    return _bits(torch.where(first, decoder, divergence))


def prior_term(schedule: Schedule, x0: Tensor) -> Tensor:
    """KL( q(x_T | x_0) || N(0, I) ) at the last step: L_T of Ho et al. 2020, eq. 5, in bits per dimension, (B,)."""
    end = schedule.marginal(x0, torch.full((len(x0),), schedule.steps - 1))
    return _bits(0.5 * (end.mean.square() + end.variance - 1 - end.variance.log()))


def hybrid_loss(
    schedule: Schedule,
    prediction_type: str,
    output: Tensor,
    x0: Tensor,
    eps: Tensor,
    t: Tensor,
    *,
    gamma: float | None = None,
    probability: Tensor | None = None,
) -> Tensor:
    """L_hybrid = w_t L_simple + 0.001 L_vlb, each from the one t drawn for a picture. Nichol & Dhariwal 2021, eq. 16.

    Within the bound the mean is detached: L_simple alone trains the first half of the output, L_vlb the variance.

    L_vlb is a sum over T terms, of which one is drawn. It enters as L_t / p(t), so that its expectation is the sum
    L_0 + ... + L_{T-1} in bits per dimension (without L_T, which holds nothing to learn). With the uniform p(t) = 1 / T
    the weight of L_t is 0.001 T: the T / 1000 of the papers' code. L_simple is not reweighted by p(t): how t is drawn
    is part of its definition.

    Args:
        schedule: the noise schedule.
        prediction_type: one of PREDICTION_TYPES.
        output: of the network, (B, 2 C, H, W): the prediction, then v of the learned range (`range_log_variance`).
        x0: pictures of 8-bit values on [-1, 1], (B, C, H, W).
        eps: the noise put on them, (B, C, H, W).
        t: timesteps, int64 (B,) in [0, T).
        gamma: of `min_snr_weight`; None weighs L_simple by w_t = 1.
        probability: p(t), that with which each t was drawn among 0 .. T - 1, (B,); None where that is uniform.

    Returns:
        (B,)

    Raises:
        ValueError: the prediction type is unknown.
    """
    prediction, v = output.chunk(2, dim=1)
    alpha_bar = schedule.alpha_bars[t.cpu()].to(x0).view(-1, 1, 1, 1)
    noised = schedule.marginal(x0, t)
    x_t = noised.mean + noised.variance.sqrt() * eps
    simple = simple_loss(prediction, target(prediction_type, x0, eps, alpha_bar))
    x0_hat = to_x0(prediction_type, prediction.detach(), x_t, alpha_bar)
    term = vlb_term(schedule, x0, x_t, t, x0_hat, range_log_variance(schedule, t, (v + 1) / 2))
    terms = schedule.steps if probability is None else 1 / probability.to(x0)
    return min_snr_weight(prediction_type, alpha_bar, gamma) * simple + VLB_WEIGHT * terms * term


# -- the bound ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """The variational bound of a set of pictures, term by term, in bits per dimension (Ho et al. 2020, eq. 5).

    Args:
        prior: L_T, the mean over the pictures.
        steps: L_0 .. L_{T-1}, each the mean over the pictures, float64 (T,). The first is the decoder's.
    """

    prior: float
    steps: Tensor

    @property
    def decoder(self) -> float:
        """L_0, the cost of the 8-bit values given x_1."""
        return float(self.steps[0])

    @property
    def kl(self) -> float:
        """The sum of the divergences L_1 .. L_{T-1}."""
        return float(self.steps[1:].sum())

    @property
    def total(self) -> float:
        """The bound on the negative log-likelihood."""
        return self.prior + self.kl + self.decoder


def _strata(steps: int, count: int) -> list[int]:
    """Bounds of `count` ranges that make up 0 .. steps - 1: the first holds 0 alone, the later ones widen.

    The terms of pictures fall off about as 1 / t. For Gaussian pixels, 50 ranges of 1000 steps and one picture, this
    spacing leaves a standard error of 0.05 bits where equal ranges leave 3.7.
    """
    return [0] + [max(round(1 + (steps - 1) * (i / (count - 1)) ** 3), i + 1) for i in range(count)]


@torch.no_grad()
def variational_bound(
    predict: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    schedule: Schedule,
    x0: Tensor,
    *,
    generator: torch.Generator,
    timesteps: int | None = None,
    on_term: Callable[[int, int], None] | None = None,
) -> Bound:
    """L_vlb of Ho et al. 2020, eq. 5, by one draw of x_t for each picture and timestep.

    Where `timesteps` is smaller than T, 1 .. T - 1 is cut into timesteps - 1 ranges, short ones where t is small. Each
    picture draws one t from each range, uniformly, and the term found stands for every t of the range: `kl` and `total`
    stay unbiased, and an entry of `steps` is an estimate of its range's mean. t = 0 is always evaluated itself.

    Args:
        predict: (x_t, t) to (x0_hat, log variance of the reverse step), with x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t)
            eps shaped like x0, t int64 (B,) beside it, and the log variance broadcastable to x0.
        schedule: the noise schedule.
        x0: pictures of 8-bit values on [-1, 1], float (B, C, H, W).
        generator: of the noise and the timesteps.
        timesteps: how many are evaluated, 2 .. T; None for all.
        on_term: called with (evaluations done, evaluations in all) after each; what it raises ends the run.

    Raises:
        ValueError: `timesteps` lies outside 2 .. T.
    """
    count = schedule.steps if timesteps is None else timesteps
    if not 2 <= count <= schedule.steps:
        raise ValueError(f"between 2 and {schedule.steps} timesteps can be evaluated, not {count}")
    steps = torch.zeros(schedule.steps, dtype=torch.float64)
    for done, (first, end) in enumerate(pairwise(_strata(schedule.steps, count)), start=1):
        t = torch.randint(first, end, (len(x0),), generator=generator, device=generator.device).to(x0.device)
        eps = torch.randn(x0.shape, generator=generator, device=generator.device, dtype=x0.dtype).to(x0.device)
        noised = schedule.marginal(x0, t)
        x_t = noised.mean + noised.variance.sqrt() * eps
        x0_hat, log_variance = predict(x_t, t)
        steps[first:end] = vlb_term(schedule, x0, x_t, t, x0_hat, log_variance).double().mean().cpu()
        if on_term is not None:
            on_term(done, count)
    return Bound(float(prior_term(schedule, x0).double().mean()), steps)
