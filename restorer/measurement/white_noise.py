"""How strong is the noise, and what does clipping make of it? White Gaussian noise, from one picture.

White noise has the same variance s^2 in every direction of the space of patches; photographs fill few directions, and
those weakly where they are flat. So:

1. Of a colour picture the green channel is measured. A mean of the channels, scaled to keep white noise at s, would
   show the texture sqrt(3) times as strong; chroma would show little of it, but JPEG has smoothed chroma, and with it
   the noise that one wants to see.
2. Patches of 8x8 go through the orthonormal DCT. White noise is independent between coefficients, therefore *choosing*
   the patches with the least energy in the low part (0 < u + v <= 9) does not bias the variance *measured* in the high
   part (Ponomarenko et al., An automatic approach to lossy compression of AVIRIS images, IGARSS 2007; Colom and
   Buades, Analysis and Extension of the Ponomarenko et al. Method, IPOL 2013).
3. The covariance of the high part over the chosen patches has eigenvalues s^2, and larger ones for what texture is
   left. The largest are removed until the mean of the rest equals their median (Chen, Zhu and Heng, An Efficient
   Statistical Method for Image Noise Level Estimation, ICCV 2015), to within K/n for K dimensions and n patches: the
   eigenvalues of a sample scatter by as much around s^2, skewed upwards, without any texture.
4. A file clips at 0 and 255, which hides noise. Patches whose mean is near either end are left out while enough others
   remain; what clipping is left is undone with the variance of a clipped normal variable in closed form.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["estimate_sigma", "expected_when_clipped", "undo_clipping"]

PATCH = 8
LOW_PART = 9  # largest u + v of the coefficients that choose the patches
FLATTEST = 0.01  # share of the patches that is measured
FEWEST, MOST = 200, 60_000  # patches measured at least, patches looked at: bounds the time for any size
CENTRAL = 2  # patches to choose from, as a multiple of those measured
MARGIN = 2.5  # in standard deviations: nearer to 0 or 255 than this, a mean is "near either end"
NO_LEVEL = 16.0  # the same on the 0..255 scale, before the noise is known
ONCE = 1 << 20  # values whose clipping is undone at once: in double precision, which a large picture has no room for


def estimate_sigma(image: Tensor) -> float:
    """Standard deviation, on the 0..255 scale, of white Gaussian noise in `image`, a float (C, H, W) in [0, 1].

    0.0 for flat pictures and for those with a side below 8; below about 32x32 pixels the estimate is rough and rather
    too low. Noise that is not white (from a camera's own processing, or after resizing) is underestimated. The result
    is deterministic.
    """
    channels, height, width = image.shape
    if min(height, width) < PATCH:
        return 0.0
    plane = image[channels // 2].detach().float().cpu().clamp(0, 1) * 255
    stride = math.ceil(math.sqrt((height - PATCH + 1) * (width - PATCH + 1) / MOST))
    means = F.avg_pool2d(plane[None], PATCH, stride).flatten().numpy()
    coefficients = _dct(_patches(plane, stride))
    order = torch.arange(PATCH)[:, None] + torch.arange(PATCH)
    low = coefficients[:, (order > 0) & (order <= LOW_PART)].square().sum(1).numpy()
    return _settle(means, low, coefficients[:, order > LOW_PART].double().numpy())


def _settle(means: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Steps 2 to 4, repeated because which means are too near the ends depends on the noise.

    Shapes: `means` (N,) of the patches, `low` (N,) energy, `high` (N, K) coefficients.
    """
    count = max(FEWEST, int(FLATTEST * low.size))
    distance = np.minimum(means, 255 - means)
    sigma = 0.0
    for _ in range(5):
        central = np.flatnonzero(distance >= max(NO_LEVEL, MARGIN * sigma))
        if central.size < CENTRAL * count:
            central = np.argsort(-distance, kind="stable")[: CENTRAL * count]
        flattest = central[np.argsort(low[central], kind="stable")[:count]]
        chosen = high[flattest]
        eigenvalues = np.linalg.eigvalsh(chosen.T @ chosen / len(chosen))
        variance = _noise_eigenvalue(eigenvalues, len(eigenvalues) / len(chosen))
        before, sigma = sigma, _unclipped(variance, means[flattest])
        if abs(sigma - before) <= 0.01 * sigma:
            break
    return sigma


def _patches(plane: Tensor, stride: int) -> Tensor:
    """All (N, 8, 8) patches of an (H, W) plane on a grid, row by row as `avg_pool2d` takes them."""
    return plane.unfold(0, PATCH, stride).unfold(1, PATCH, stride).reshape(-1, PATCH, PATCH)


def _dct(patches: Tensor) -> Tensor:
    """Orthonormal DCT-II of (N, n, n) patches."""
    n = patches.shape[-1]
    i = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * i + 1) * i[:, None] / (2 * n)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    basis = basis.to(patches.dtype)
    return basis @ patches @ basis.T


def _noise_eigenvalue(eigenvalues: np.ndarray, tolerance: float) -> float:
    """Mean of the smallest eigenvalues, as many as have it at their median to within `tolerance` (Chen et al.)."""
    ascending = np.sort(eigenvalues).clip(min=0)
    for count in range(len(ascending), 1, -1):
        mean = float(ascending[:count].mean())
        if mean <= float(np.median(ascending[:count])) * (1 + tolerance):
            return mean
    return float(ascending[0])


def _unclipped(variance: float, means: np.ndarray) -> float:
    """The sigma whose noise, clipped to 0..255 around the given clipped means, has this variance on average."""
    observed = math.sqrt(variance)
    sigma = observed
    for _ in range(8):
        if sigma < 0.5:  # clipping is within the rounding then
            break
        sigma = observed / math.sqrt(max(0.2, float(_kept_share(means, sigma).mean())))
    return sigma


def _kept_share(means: np.ndarray, sigma: float) -> np.ndarray:
    """Variance of clip(N(m, sigma^2), 0, 255) over sigma^2, by the clipped mean: the doubly censored normal."""
    m = np.linspace(-3 * sigma, 255 + 3 * sigma, 512)
    a, b = -m / sigma, (255 - m) / sigma
    below, under = _normal_cdf(a), _normal_cdf(b)
    pa, pb = (np.exp(-t * t / 2) / math.sqrt(2 * math.pi) for t in (a, b))
    inside = under - below
    mean = 255 * (1 - under) + m * inside + sigma * (pa - pb)
    square = 255**2 * (1 - under) + (m * m + sigma**2) * inside + 2 * m * sigma * (pa - pb)
    square += sigma**2 * (a * pa - b * pb)
    return np.interp(means, mean, (square - mean**2) / sigma**2)


def _normal_cdf(t: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.from_numpy(t)).numpy()


def expected_when_clipped(x: Tensor, sigma: float) -> Tensor:
    """E[clip(x + sigma n, 0, 1)], n ~ N(0, 1): what noise and a file format together make of x in [0, 1], on average.

    Black is lifted and white dulled, by sigma / sqrt(2 pi) at the ends (Foi 2009, "Clipped noisy images:
    Heteroskedastic modeling and practical denoising", eq. 7).
    """
    low, high = -x / sigma, (1 - x) / sigma
    inside = torch.special.ndtr(high) - torch.special.ndtr(low)
    densities = torch.exp(-(low**2) / 2) - torch.exp(-(high**2) / 2)
    return x * inside + sigma / math.sqrt(2 * math.pi) * densities + 1 - torch.special.ndtr(high)


def undo_clipping(mean: Tensor, sigma: float) -> Tensor:
    """The x in [0, 1] whose `expected_when_clipped` is `mean`; sigma on the scale of the picture.

    A denoiser that takes clipped noise for white gives the mean of the clipped picture; this takes it back.
    """
    grid = torch.linspace(0, 1, 4096, dtype=torch.float64)
    values, places = expected_when_clipped(grid, sigma).numpy(), grid.numpy()
    flat = mean.detach().cpu().float().flatten()
    found = torch.empty_like(flat)
    for part, wanted in zip(found.split(ONCE), flat.split(ONCE), strict=True):
        part.copy_(torch.from_numpy(np.interp(wanted.numpy(), values, places)))
    return found.view(mean.shape).to(mean)
