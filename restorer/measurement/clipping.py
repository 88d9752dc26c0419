"""The clipping of noise at the ends of the range, by the closed forms of a doubly censored normal variable.

A file holds clip(x + sigma n, 0, 1) with n ~ N(0, 1). Clipping takes variance from the noise of dark and bright places,
and moves their mean.

Source:
    Foi 2009, "Clipped noisy images: Heteroskedastic modeling and practical denoising", Signal Processing 89(12).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["clipped_variance_share", "expected_when_clipped", "sigma_before_clipping", "undo_clipping"]

CHUNK = 1 << 20  # values whose clipping is undone together, because double precision needs much memory


def sigma_before_clipping(variance: float, means: np.ndarray) -> float:
    """Return the sigma of the noise that has the given variance on average once it is clipped to 0..255.

    Args:
        variance: variance of the clipped noise.
        means: (N,), the means of the patches after clipping, on the 0..255 scale.
    """
    observed = math.sqrt(variance)
    sigma = observed
    for _ in range(8):
        if sigma < 0.5:  # the effect of clipping is smaller than that of rounding
            break
        sigma = observed / math.sqrt(max(0.2, float(clipped_variance_share(means, sigma).mean())))
    return sigma


def clipped_variance_share(means: np.ndarray, sigma: float) -> np.ndarray:
    """Return the variance of clip(N(m, sigma^2), 0, 255) over sigma^2, a doubly censored normal variable.

    Args:
        means: means of the clipped variable, on the 0..255 scale.
        sigma: standard deviation before clipping.

    Returns:
        An array of the shape of `means`.
    """
    m = np.linspace(-3 * sigma, 255 + 3 * sigma, 512)
    a, b = -m / sigma, (255 - m) / sigma
    below_black, below_white = _normal_cdf(a), _normal_cdf(b)
    pdf_a, pdf_b = (np.exp(-t * t / 2) / math.sqrt(2 * math.pi) for t in (a, b))
    inside = below_white - below_black
    mean = 255 * (1 - below_white) + m * inside + sigma * (pdf_a - pdf_b)
    square = 255**2 * (1 - below_white) + (m * m + sigma**2) * inside + 2 * m * sigma * (pdf_a - pdf_b)
    square += sigma**2 * (a * pdf_a - b * pdf_b)
    return np.interp(means, mean, (square - mean**2) / sigma**2)


def _normal_cdf(t: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.from_numpy(t)).numpy()


def expected_when_clipped(x: Tensor, sigma: float) -> Tensor:
    """Return E[clip(x + sigma n, 0, 1)], n ~ N(0, 1), the average value of a noisy pixel in a file.

    Clipping raises black and lowers white by sigma / sqrt(2 pi) at the ends (eq. 7).

    Args:
        x: float tensor in [0, 1] without noise.
        sigma: standard deviation of the noise on the same scale.

    Returns:
        A tensor of the shape of `x`.
    """
    low, high = -x / sigma, (1 - x) / sigma
    inside = torch.special.ndtr(high) - torch.special.ndtr(low)
    densities = torch.exp(-(low**2) / 2) - torch.exp(-(high**2) / 2)
    return x * inside + sigma / math.sqrt(2 * math.pi) * densities + 1 - torch.special.ndtr(high)


def undo_clipping(mean: Tensor, sigma: float) -> Tensor:
    """Invert `expected_when_clipped`.

    A denoiser that treats clipped noise as white noise returns the mean of the clipped picture; this function recovers
    the picture without noise from that mean.

    Args:
        mean: float tensor, means after clipping on the [0, 1] scale.
        sigma: standard deviation of the noise on the same scale.

    Returns:
        The values x in [0, 1] for which `expected_when_clipped` is `mean`, or the nearest end of that range; a tensor
        of the shape, type and device of `mean`.
    """
    grid = torch.linspace(0, 1, 4096, dtype=torch.float64)
    grid_means, grid_values = expected_when_clipped(grid, sigma).numpy(), grid.numpy()
    flat = mean.detach().cpu().float().flatten()
    result = torch.empty_like(flat)
    for target, source in zip(result.split(CHUNK), flat.split(CHUNK), strict=True):
        target.copy_(torch.from_numpy(np.interp(source.numpy(), grid_means, grid_values)))
    return result.view(mean.shape).to(mean)
