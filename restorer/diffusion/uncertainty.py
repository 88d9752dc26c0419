r"""The uncertainty of a restored picture: how far each pixel of it may be from the truth.

A denoiser tells its own uncertainty. For x_t = x + n with white noise n of standard deviation sigma, the posterior mean
D(x_t) = E[x | x_t] and the posterior covariance are linked by the second-order formula of Tweedie,

    Cov[x | x_t] = sigma^2 dD / dx_t

Only the diagonal is needed. With random signs z, whose covariance is I,

    diag(dD / dx_t) = E[ z * (dD / dx_t) z ],    (dD / dx_t) z = (D(x_t + c z) - D(x_t)) / c + O(c)

where * multiplies entry by entry (Hutchinson's estimator). D(x_t) is known from the run, so each probe costs one
evaluation. What the other entries of the derivative add is noise of mean 0, and the mean over a neighbourhood removes
most of it.

Where nothing is measured that a derivative could tell, as inside of holes, the variance of several samples takes its
place. Both are estimates of a variance, and neither is a promise: `calibration.py` turns them into intervals.

Sources:
    Manor and Michaeli 2024, "On the Posterior Distribution in Denoising: Application to Uncertainty Quantification",
        ICLR, https://arxiv.org/abs/2309.13598: moments of the posterior from evaluations of the denoiser.
    Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
        Communications in Statistics 19(2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.reverse import Canvas, NoiseField

__all__ = ["LEAST_VARIANCE", "PROBES", "SIDE", "local_mean", "local_variance", "posterior_variance"]

PROBES = 2
"""Number of evaluations that the derivative takes."""

STEP = 0.25
"""The length c of a probe, as a share of sigma."""

SIDE = 9
"""Side in pixels of the neighbourhood over which an estimate is averaged."""

LEAST_VARIANCE = 1 / 12
"""Least variance of a pixel, in squared levels: that of the rounding to 8 bits."""

_SEED_OF_PROBES = 0x5A6E


def posterior_variance(
    denoise: Callable[[Tensor], Tensor],
    x: Tensor,
    x0: Tensor,
    sigma: float,
    *,
    probes: int = PROBES,
    is_gray: bool = False,
    seed: int = 0,
    canvas: Canvas | None = None,
) -> Tensor:
    """Estimate the variance of the clean picture around its posterior mean, pixel by pixel.

    Single values of the estimate are rough and may be negative; `local_mean` makes them useful.

    Args:
        denoise: The posterior mean D of a noisy picture, (B, C, H, W) to (B, C, H, W).
        x: The noisy picture, float (B, C, H, W) on [-1, 1].
        x0: D(x).
        sigma: Standard deviation of its noise, on the [-1, 1] scale.
        probes: Number of further evaluations of D.
        is_gray: Whether the variance of the mean of the channels is estimated, and not the mean of their variances.
        seed: Seed of the random signs.
        canvas: The larger picture of whose signs a part is taken; None if x is the whole picture.

    Returns:
        Float (H, W), in squared levels of 0..255.
    """
    signs, length, total = NoiseField(seed ^ _SEED_OF_PROBES, canvas), STEP * sigma, torch.zeros_like(x)
    for _ in range(probes):
        z = _signs(signs, x, is_gray=is_gray)
        total += z * (denoise(torch.add(x, z, alpha=length)) - x0) / length
    # Equal signs in C channels give the sum over all pairs of channels, which is C times the variance of their mean.
    share = 1 / x.shape[1] if is_gray else 1.0
    return total.mean((0, 1)) * (share * (127.5 * sigma) ** 2 / probes)


def _signs(field: NoiseField, like: Tensor, *, is_gray: bool) -> Tensor:
    """Return random signs in the shape of a picture; equal in all channels for a gray one."""
    drawn = field.like(like)
    drawn = drawn[:, :1].expand_as(drawn) if is_gray else drawn
    return torch.where(drawn < 0, -1.0, 1.0).to(like.dtype)


def local_mean(x: Tensor, weight: Tensor | None = None, side: int = SIDE) -> Tensor:
    """Return the mean over the square around each pixel, as far as it lies within the picture.

    Args:
        x: A map, float (H, W).
        weight: Weights of the pixels, float (H, W), at least 0; None to count all of them. The mean over a square
            without weight is 0.
        side: Side of the square in pixels, odd.
    """

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[None, None], side, 1, side // 2, count_include_pad=False)[0, 0]

    if weight is None:
        return mean(x)
    # The sums of a sliding window leave a trace of what has left it.
    return torch.where(mean(weight) > 1e-6, mean(x * weight) / mean(weight).clamp(min=1e-6), 0.0)


def local_variance(picture: Tensor) -> Tensor:
    """Return the variance of a picture within the square around each pixel, averaged over the channels.

    Args:
        picture: float (C, H, W) in [0, 1].

    Returns:
        Float (H, W), in squared levels of 0..255, at least 0.
    """
    total = torch.zeros(picture.shape[-2:], dtype=torch.float32)
    for channel in picture:  # one at a time saves memory
        # The mean is taken off first, so that the difference of the squares stays exact.
        levels = 255 * channel.float()
        levels = levels - levels.mean()
        total += (local_mean(levels.square()) - local_mean(levels).square()).clamp_(min=0)
    return total / len(picture)
