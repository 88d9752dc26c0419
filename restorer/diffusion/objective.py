r"""The training losses of a diffusion network, and the terms of the variational bound.

    L_simple = E || target - network(x_t, t) ||^2                                    (Ho et al. 2020, eq. 14)
    L_vlb    = L_T + sum_{t >= 1} L_t + L_0                                          (Ho et al. 2020, eq. 5)
        L_T    = KL( q(x_T | x_0) || N(0, I) )                                       `prior_term`
        L_t    = KL( q(x_{t-1} | x_t, x_0) || N(mu(x_t, x0_hat), Sigma) )            `vlb_term`, t >= 1
        L_0    = -log p(x_0 | x_1), a discretized Gaussian (eq. 13)                  `vlb_term`, t = 0
    L_hybrid = L_simple + 0.001 L_vlb                                                (Nichol & Dhariwal 2021, eq. 16)

Timesteps are counted from 0, as in `schedule.py`. L_t belongs to the reverse step that leaves x_t; papers that count
from 1 call it L_{t-1}. L_vlb is an upper bound on the negative log-likelihood of an 8-bit image. All terms are in bits
per dimension, where a dimension is one channel of one pixel.

Ho et al.: https://arxiv.org/abs/2006.11239. Nichol & Dhariwal: https://arxiv.org/abs/2102.09672.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from restorer.diffusion.schedule import Schedule

__all__ = [
    "PREDICTION_TYPES",
    "fixed_log_variance",
    "hybrid_loss",
    "min_snr_weight",
    "prior_term",
    "range_log_variance",
    "simple_loss",
    "target",
    "to_x0",
    "vlb_term",
]

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# Half the distance between two neighbouring 8-bit values on the [-1, 1] scale.
HALF_BIN = 1 / 255

# The weight of the bound in the hybrid loss (Nichol & Dhariwal 2021, section 3.1).
VLB_WEIGHT = 0.001


def _unknown_prediction_type(prediction_type: str) -> ValueError:
    """Return the error for a prediction type that does not exist."""
    return ValueError(f"unknown prediction_type {prediction_type!r}: it must be one of {', '.join(PREDICTION_TYPES)}")


# -- training targets and losses ---------------------------------------------------------------------------------------


def target(prediction_type: str, x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the value that the network is trained to predict from x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps.

        epsilon         eps                                         Ho et al. 2020, eq. 14
        v_prediction    v = sqrt(abar) eps - sqrt(1 - abar) x_0     Salimans & Ho 2022, appendix D
        sample          x_0

    Salimans & Ho: https://arxiv.org/abs/2202.00512.

    Args:
        prediction_type: One of PREDICTION_TYPES.
        x0: Clean images, (B, C, H, W).
        eps: The noise added to them, (B, C, H, W).
        alpha_bar: abar_t, broadcastable to the images: (B, 1, 1, 1).

    Returns:
        The target, (B, C, H, W).

    Raises:
        ValueError: The prediction type is unknown.
    """
    match prediction_type:
        case "epsilon":
            return eps
        case "v_prediction":
            return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
        case "sample":
            return x0
    raise _unknown_prediction_type(prediction_type)


def to_x0(prediction_type: str, output: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the estimate of x_0 that a network's output implies: the inverse of `target` for a given x_t.

        epsilon         (x_t - sqrt(1 - abar) output) / sqrt(abar)    Ho et al. 2020, eq. 4 solved for x_0
        v_prediction    sqrt(abar) x_t - sqrt(1 - abar) output        Salimans & Ho 2022, appendix D
        sample          output

    The estimate is not clipped.

    Args:
        prediction_type: One of PREDICTION_TYPES.
        output: The network's output, without the half that holds the variance, (B, C, H, W).
        x_t: The noisy images that the network received, (B, C, H, W).
        alpha_bar: abar_t, broadcastable to the images: (B, 1, 1, 1).

    Returns:
        The estimate of x_0, (B, C, H, W).

    Raises:
        ValueError: The prediction type is unknown.
    """
    match prediction_type:
        case "epsilon":
            return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
        case "v_prediction":
            return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
        case "sample":
            return output
    raise _unknown_prediction_type(prediction_type)


def simple_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return L_simple of each image, the mean square over all axes but the batch (Ho et al. 2020, eq. 14).

    Args:
        output: The network's output, without the half that holds the variance, (B, C, H, W).
        target: The result of `target`, (B, C, H, W).

    Returns:
        Losses, (B,).
    """
    return (output - target).square().flatten(1).mean(1)


def min_snr_weight(prediction_type: str, alpha_bar: Tensor, gamma: float | None) -> Tensor:
    """Return the Min-SNR-gamma weight of L_simple at each timestep.

    A squared error in x_0 has the weight min(SNR, gamma), where SNR = abar / (1 - abar) is the signal-to-noise ratio.
    An error in x_0 corresponds to an error in eps that is sqrt(SNR) times as large, and to an error in v that is
    sqrt(SNR + 1) times as large. The weights of the squared errors are therefore

        sample          min(SNR, gamma)
        epsilon         min(SNR, gamma) / SNR
        v_prediction    min(SNR, gamma) / (SNR + 1)

    Source: Hang et al. 2023, https://arxiv.org/abs/2303.09556, who use gamma = 5.

    Args:
        prediction_type: One of PREDICTION_TYPES.
        alpha_bar: abar_t in [0, 1), (B,) or (B, 1, 1, 1).
        gamma: The signal-to-noise ratio at which the weight stops growing; None gives every timestep the weight 1.

    Returns:
        Weights, (B,).

    Raises:
        ValueError: The prediction type is unknown.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise _unknown_prediction_type(prediction_type)
    if gamma is None:
        return torch.ones_like(alpha_bar).flatten()
    snr = (alpha_bar / (1 - alpha_bar)).flatten()
    match prediction_type:
        case "epsilon":
            return (gamma / snr).clamp(max=1)  # this form gives pure noise, SNR = 0, the weight 1 instead of nan
        case "v_prediction":
            return snr.clamp(max=gamma) / (snr + 1)
    return snr.clamp(max=gamma)


# -- the variance of the reverse step ----------------------------------------------------------------------------------


def fixed_log_variance(schedule: Schedule, t: Tensor, kind: str) -> Tensor:
    """Return the log variance of a reverse step whose variance is not learned (Ho et al. 2020, section 3.2).

    "small" is beta~_t of eq. 7, the lowest variance that the step can have; it is optimal if all data are one point.
    "large" is beta_t, which is optimal if the data are white noise. Because beta~_0 is 0 and has no logarithm, beta~_1
    takes its place, as in the papers' code.

    Args:
        schedule: The noise schedule.
        t: Timesteps, int64 (B,) in [0, T).
        kind: "small" or "large".

    Returns:
        Log variances, float64 (B, 1, 1, 1), on the device of t.

    Raises:
        ValueError: The kind is unknown.
    """
    index = t.cpu()
    if kind == "small":
        # The variance of the posterior does not depend on the images.
        zeros = torch.zeros(len(index), 1, 1, 1, dtype=torch.float64)
        variance = schedule.posterior(zeros, zeros, index.clamp(min=1)).variance
    elif kind == "large":
        variance = schedule.betas[index].view(-1, 1, 1, 1)
    else:
        raise ValueError(f"unknown variance {kind!r}: it must be one of small, large")
    return variance.log().to(t.device)


def range_log_variance(schedule: Schedule, t: Tensor, fraction: Tensor) -> Tensor:
    """Return the learned log variance, interpolated between log beta~_t and log beta_t.

    Source: Nichol & Dhariwal 2021, eq. 15.

    Args:
        schedule: The noise schedule.
        t: Timesteps, int64 (B,) in [0, T).
        fraction: (v + 1) / 2, where v is the second half of the network's output, (B, C, H, W). 0 stands for
            log beta~_t and 1 for log beta_t; the network may leave this range.

    Returns:
        Log variances, (B, C, H, W), in the precision of `fraction`.
    """
    low, high = (fixed_log_variance(schedule, t, kind).to(fraction) for kind in ("small", "large"))
    return low + fraction * (high - low)


# -- the terms of the bound --------------------------------------------------------------------------------------------


def _bits_per_dimension(nats: Tensor) -> Tensor:
    """Average nats per value, (B, C, H, W), to bits per dimension, (B,)."""
    return nats.flatten(1).mean(1) / math.log(2)


def _log_bin_probability(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log probability that a Gaussian assigns to the 8-bit value x0 (Ho et al. 2020, eq. 13).

    The value stands for the interval of width 2/255 around it. The intervals of -1 and 1 extend to infinity.

    The result is float64. In float32 the gradient of log_ndtr is wrong beyond some hundred standard deviations, and
    infinite soon after.
    """
    x0, mean, inverse_std = x0.double(), mean.double(), torch.exp(-log_variance.double() / 2)
    low, high = (x0 - HALF_BIN - mean) * inverse_std, (x0 + HALF_BIN - mean) * inverse_std
    # Phi(high) - Phi(low) = Phi(-low) - Phi(-high). The difference in the left tail is used, where log Phi is exact.
    is_right = low + high > 0
    below, above = torch.where(is_right, -high, low), torch.where(is_right, -low, high)
    log_above = torch.special.log_ndtr(above)
    inside = log_above + torch.log(-torch.expm1(torch.special.log_ndtr(below) - log_above))
    outside = torch.where(x0 < 0, torch.special.log_ndtr(high), torch.special.log_ndtr(-low))
    return torch.where(x0.abs() > 1 - HALF_BIN, outside, inside)


def vlb_term(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor, x0_hat: Tensor, log_variance: Tensor) -> Tensor:
    """Return the term L_t of the variational bound for each image.

        t > 0    KL( q(x_{t-1} | x_t, x_0) || N(mu(x_t, x0_hat), exp(log_variance)) ), with mu of eq. 7
        t = 0    -log p(x_0 | x_1), where p assigns to the 8-bit value x_0 its mass under N(x0_hat, exp(log_variance))

    Source: Ho et al. 2020, eq. 5 and 8 (L_{t-1} there) for t > 0, and eq. 13 for t = 0.

    Args:
        schedule: The noise schedule.
        x0: Images of 8-bit values on [-1, 1], (B, C, H, W).
        x_t: A sample from q(x_t | x_0), (B, C, H, W).
        t: Timesteps, int64 (B,) in [0, T).
        x0_hat: The network's estimate of x_0 given x_t, (B, C, H, W).
        log_variance: The log variance of the reverse step, broadcastable to x0.

    Returns:
        Bits per dimension, (B,), in the precision of x0.
    """
    log_variance = log_variance.to(x0)
    actual, model = schedule.posterior(x0, x_t, t), schedule.posterior(x0_hat, x_t, t)
    # `fixed_log_variance` avoids log 0 at t = 0. The divergence is discarded there, but its gradient must be finite.
    log_ratio = fixed_log_variance(schedule, t, "small").to(x0) - log_variance
    distance = (actual.mean - model.mean).square() * torch.exp(-log_variance)
    divergence = 0.5 * (torch.expm1(log_ratio) - log_ratio + distance)
    decoder = -_log_bin_probability(x0, model.mean, log_variance).to(x0)
    is_first = (t == 0).to(x0.device).view(-1, *[1] * (x0.ndim - 1))
    return _bits_per_dimension(torch.where(is_first, decoder, divergence))


def prior_term(schedule: Schedule, x0: Tensor) -> Tensor:
    """Return L_T = KL( q(x_T | x_0) || N(0, I) ), the divergence at the last step (Ho et al. 2020, eq. 5).

    Args:
        schedule: The noise schedule.
        x0: Clean images on [-1, 1], (B, C, H, W).

    Returns:
        Bits per dimension, (B,).
    """
    end = schedule.marginal(x0, torch.full((len(x0),), schedule.steps - 1))
    return _bits_per_dimension(0.5 * (end.mean.square() + end.variance - 1 - end.variance.log()))


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
    """Return L_hybrid = w_t L_simple + 0.001 L_vlb, estimated from one timestep per image.

    Source: Nichol & Dhariwal 2021, eq. 16.

    The mean is detached within the bound: L_simple alone trains the first half of the output, and L_vlb alone trains
    the variance.

    L_vlb is a sum over T terms, and t selects one of them. The term enters as L_t / p(t), whose expectation is the sum
    L_0 + ... + L_{T-1} in bits per dimension (L_T has no trainable parameters and is left out). With the uniform
    p(t) = 1 / T the weight of L_t is 0.001 T, which is the factor T / 1000 of the papers' code. L_simple is not divided
    by p(t), because the distribution of t is part of its definition.

    Args:
        schedule: The noise schedule.
        prediction_type: One of PREDICTION_TYPES.
        output: The network's output, (B, 2 C, H, W): the prediction, followed by v of the learned variance
            (`range_log_variance`).
        x0: Images of 8-bit values on [-1, 1], (B, C, H, W).
        eps: The noise added to them, (B, C, H, W).
        t: Timesteps, int64 (B,) in [0, T).
        gamma: As in `min_snr_weight`; None gives L_simple the weight w_t = 1.
        probability: The probability p(t) with which each t was drawn from 0 .. T - 1, (B,); None if it is uniform.

    Returns:
        Losses, (B,).

    Raises:
        ValueError: The prediction type is unknown.
    """
    prediction, v = output.chunk(2, dim=1)
    alpha_bar = schedule.alpha_bars[t.cpu()].to(x0).view(-1, 1, 1, 1)
    marginal = schedule.marginal(x0, t)
    x_t = marginal.mean + marginal.variance.sqrt() * eps
    simple = simple_loss(prediction, target(prediction_type, x0, eps, alpha_bar))
    x0_hat = to_x0(prediction_type, prediction.detach(), x_t, alpha_bar)
    term = vlb_term(schedule, x0, x_t, t, x0_hat, range_log_variance(schedule, t, (v + 1) / 2))
    inverse_probability = schedule.steps if probability is None else 1 / probability.to(x0)
    return min_snr_weight(prediction_type, alpha_bar, gamma) * simple + VLB_WEIGHT * inverse_probability * term
