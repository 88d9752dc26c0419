"""Estimation of white Gaussian noise from one picture.

White noise has the same variance s^2 in every direction of the space of patches. Photographs extend in few of these
directions, and only weakly where they are flat. The method therefore is:

1. In a colour picture the green channel is measured. A mean of the channels, scaled such that white noise stays at s,
   would make the texture sqrt(3) times as strong. Chroma would contain little texture, but JPEG compression smooths
   chroma, and with it the noise that is to be measured.
2. Patches of 8x8 pixels are transformed by the orthonormal DCT. White noise is independent between coefficients, so
   *choosing* the patches with the least energy in the low frequencies (0 < u + v <= 9) does not bias the variance
   *measured* in the high frequencies (Ponomarenko et al., An automatic approach to lossy compression of AVIRIS images,
   IGARSS 2007; Colom and Buades, Analysis and Extension of the Ponomarenko et al. Method, IPOL 2013).
3. The covariance of the high frequencies over the chosen patches has eigenvalues of s^2, and larger ones for the
   remaining texture. The largest eigenvalues are removed until the mean of the rest equals their median (Chen, Zhu and
   Heng, An Efficient Statistical Method for Image Noise Level Estimation, ICCV 2015), up to a tolerance of K/n for K
   dimensions and n patches: even without any texture, the eigenvalues of a sample scatter by that much around s^2,
   skewed upwards.
4. A file clips at 0 and 255, which hides noise. Patches whose mean is near either end are left out as long as enough
   others remain; the effect of the remaining clipping is undone with the closed-form variance of a clipped normal
   variable (`clipping.py`).
5. Areas without any variation, such as a frame, a caption or a background that was cut out, are no evidence: noise was
   never there, or it was removed. Patches that touch such an area are left out. The patches that remain decide only if
   they are noisy everywhere, because white noise leaves no patch quiet. In drawings and screenshots some are quiet,
   and there the estimate from all patches stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.measurement.clipping import sigma_before_clipping

__all__ = [
    "constant_areas",
    "estimate_sigma",
    "is_in_luminance",
    "is_white",
    "white_estimates",
]

PATCH = 8  # side of a patch in pixels
THIN = 3  # width in pixels of the narrowest area without variation that is recognized
MAX_LOW_FREQUENCY = 9  # largest u + v of the coefficients by which the patches are chosen
FLAT_SHARE = 0.01  # share of the patches that is measured
MIN_MEASURED = 200  # smallest number of patches that is measured
MAX_PATCHES = 60_000  # largest number of patches that is examined, which bounds the time for any size
CANDIDATE_FACTOR = 2  # number of patches to choose from, as a multiple of those measured
MARGIN_SIGMAS = 2.5  # a mean is near 0 or 255 if it is closer than this many standard deviations
MIN_MARGIN = 16.0  # smallest such distance on the 0..255 scale, used while the estimate of the noise is still 0
QUIET = 0.1  # a patch is quiet if the mean square of its high frequencies is below this share of the noise variance
MAX_QUIET_SHARE = 0.005  # white noise leaves 4e-6 of the patches quiet (chi-square, K = 15), a screenshot .15
LEAST_WHITE = 2.0  # standard deviation in levels below which texture decides how an estimate changes with the scale
# Which multiples of the estimate the others may be if the noise is white. Clipping takes away from the luminance, and
# more from the difference of the channels, in which it cannot be seen. The bounds hold for 15 to 50 levels on CBSD68.
COARSE_RANGE, LUMINANCE_RANGE, CHROMA_RANGE = (0.8, 1.3), (0.68, 1.3), (0.42, 1.25)
LEAST_CHROMA = 0.3  # share of noise that the difference of the channels tells of, below which it may be texture


def estimate_sigma(image: Tensor, evidence: Tensor | None = None) -> float:
    """Estimate the standard deviation of the white Gaussian noise in a picture.

    Below about 32x32 pixels the estimate is rough and rather too low. Noise that is not white (from a camera's own
    processing, or after resizing) is underestimated. The result is deterministic.

    Args:
        image: float (C, H, W) in [0, 1].
        evidence: bool (H, W), the pixels that count; None for all of them. Pixels whose colour was made up, as under
            transparency, should not count.

    Returns:
        The standard deviation on the 0..255 scale; 0.0 for flat pictures, for pictures with a side below 8, and where
        too little is left that counts.
    """
    channels, height, width = image.shape
    if min(height, width) < PATCH:
        return 0.0
    plane = image[channels // 2].detach().float().cpu().clamp(0, 1) * 255
    stride = math.ceil(math.sqrt((height - PATCH + 1) * (width - PATCH + 1) / MAX_PATCHES))
    means = F.avg_pool2d(plane[None], PATCH, stride).flatten().numpy()
    coefficients = _dct(_patches(plane, stride))
    frequency = torch.arange(PATCH)[:, None] + torch.arange(PATCH)
    low = coefficients[:, (frequency > 0) & (frequency <= MAX_LOW_FREQUENCY)].square().sum(1).numpy()
    high = coefficients[:, frequency > MAX_LOW_FREQUENCY].double().numpy()
    counts = np.ones(len(low), bool) if evidence is None else ~_patches_that_touch(~evidence.cpu(), stride)
    varied = counts & ~_patches_that_touch(_constant_areas(plane), stride)
    if not varied.all():
        sigma = _estimate_where(varied, means, low, high)
        if sigma == 0 or _is_noisy_everywhere(means[varied], high[varied], sigma):
            return sigma
    return _estimate_where(counts, means, low, high)


def is_white(image: Tensor, sigma: float, evidence: Tensor | None = None) -> bool:
    """Return whether the noise of a picture is white, by estimates that agree only for white noise.

    The mean of 2x2 pixels halves white noise, and coarse noise hardly at all. In a colour picture, the mean of the
    channels divides independent noise by sqrt(3), and the difference of green from the others has its share of it.

    Args:
        image: As in `estimate_sigma`.
        sigma: The result of `estimate_sigma`.
        evidence: As in `estimate_sigma`.

    Returns:
        False for weak noise, which is not told from texture in this way.
    """
    if sigma < LEAST_WHITE:
        return False
    counted = None if evidence is None else F.avg_pool2d(evidence[None].float().cpu(), 2)[0] > 1 - 1e-6
    picture = image.detach().float().cpu().clamp(0, 1)
    others = [(2 * estimate_sigma(F.avg_pool2d(picture, 2), counted), COARSE_RANGE)]
    if len(picture) == 3 and not bool((picture == picture[:1]).all()):
        luminance = picture.mean(0)
        others.append((math.sqrt(3) * estimate_sigma(luminance[None], evidence), LUMINANCE_RANGE))
        others.append((_sigma_of_chroma(picture, evidence), CHROMA_RANGE))
    return all(low <= other / sigma <= high for other, (low, high) in others)


def is_in_luminance(image: Tensor, sigma: float) -> bool:
    """Return whether what was taken for noise is hardly in the differences of the channels, as fine texture is.

    Of 73 photographs of CBSD68 and Set5, shrunk to a quarter, four are so full of texture that `estimate_sigma` is 5 to
    8. The difference of green from the others tells of at most 0.13 of that, but of 0.43 of independent noise.

    Args:
        image: As in `estimate_sigma`.
        sigma: The result of `estimate_sigma`, above 0.

    Returns:
        False for a gray picture, whose channels do not tell.
    """
    picture = image.detach().float().cpu().clamp(0, 1)
    if len(picture) == 1 or bool((picture == picture[:1]).all()):
        return False
    return _sigma_of_chroma(picture, None) < LEAST_CHROMA * sigma


def _sigma_of_chroma(picture: Tensor, evidence: Tensor | None) -> float:
    """Return the noise of each channel by the difference of green from the others, if it is independent in them."""
    red, green, blue = picture
    return estimate_sigma(((red - 2 * green + blue) / 4 + 0.5)[None], evidence) / (math.sqrt(6) / 4)


def white_estimates(image: Tensor, evidence: Tensor | None = None) -> Tensor:
    """Return estimates of white noise that agree if the noise is white, and that other noise and texture set apart.

    Args:
        image: As in `estimate_sigma`.
        evidence: As in `estimate_sigma`.

    Returns:
        Standard deviations in levels, (6,): of the picture and of its means over 2x2 and 4x4 pixels, times 2 and 4, and
        of luminance, red against blue and green against magenta, each for noise of the same strength in all channels.
    """
    red, green, blue = image.detach().float().cpu().clamp(0, 1).expand(3, -1, -1)
    found = []
    for factor in (1, 2, 4):
        counted = None if evidence is None else F.avg_pool2d(evidence[None].float().cpu(), factor)[0] > 1 - 1e-6
        found.append(factor * estimate_sigma(F.avg_pool2d(green[None], factor), counted))
    for plane, norm in (((red + green + blue) / 3, 3**-0.5), ((red - blue) / 2 + 0.5, 2**-0.5)):
        found.append(estimate_sigma(plane[None], evidence) / norm)
    return torch.tensor([*found, _sigma_of_chroma(torch.stack([red, green, blue]), evidence)])


def _estimate_where(chosen: np.ndarray, means: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return the estimate from some of the patches; 0.0 if they are too few.

    Args:
        chosen: bool (N,), the patches to use.
        means: See `_iterate_estimate`.
        low: See `_iterate_estimate`.
        high: See `_iterate_estimate`.
    """
    if chosen.all():
        return _iterate_estimate(means, low, high)
    if chosen.sum() < MIN_MEASURED:
        return 0.0
    return _iterate_estimate(means[chosen], low[chosen], high[chosen])


def constant_areas(image: Tensor) -> Tensor:
    """Return the pixels of a picture in areas without any variation, which hold no noise.

    Args:
        image: float (C, H, W).

    Returns:
        bool (H, W), the pixels that lie in a rectangle, 8x3 or 3x8, of equal values in each channel.
    """
    found = [_constant_areas(plane) for plane in image]
    return torch.stack(found).all(0)


def _constant_areas(plane: Tensor) -> Tensor:
    """Return the pixels, bool (H, W), that lie in a rectangle of equal values, 8x3 or 3x8: wider than a thin border."""
    same_as_right, same_as_below = plane[:, 1:] == plane[:, :-1], plane[1:] == plane[:-1]
    found = torch.zeros_like(plane, dtype=torch.bool)
    for height, width in ((PATCH, THIN), (THIN, PATCH)):
        if plane.shape[0] < height or plane.shape[1] < width:
            continue
        rows = _combine(_combine(same_as_right, width - 1, 1, torch.logical_and), height, 0, torch.logical_and)
        columns = _combine(same_as_below, height - 1, 0, torch.logical_and)[:, : rows.shape[1]]
        corners = rows & columns  # the top left pixels of the rectangles
        padded = F.pad(corners, (width - 1, width - 1, height - 1, height - 1))
        found |= _combine(_combine(padded, height, 0, torch.logical_or), width, 1, torch.logical_or)
    return found


def _patches_that_touch(pixels: Tensor, stride: int) -> np.ndarray:
    """Return which of the patches, in the order of `_patches`, contain any of the pixels (H, W): bool (N,)."""
    touched = _combine(_combine(pixels, PATCH, 0, torch.logical_or), PATCH, 1, torch.logical_or)
    return touched[::stride, ::stride].flatten().numpy()


def _combine(x: Tensor, size: int, dim: int, operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine the values of every window along an axis by an operation such as a maximum, in log2(size) passes.

    Args:
        x: Tensor of any shape.
        size: Length of a window.
        dim: The axis, which becomes shorter by size - 1.
        operation: An associative operation for which f(x, x) = x.
    """
    covered = 1
    while covered < size:
        step = min(covered, size - covered)
        length = x.shape[dim] - step
        x = operation(x.narrow(dim, 0, length), x.narrow(dim, step, length))
        covered += step
    return x


def _is_noisy_everywhere(means: np.ndarray, high: np.ndarray, sigma: float) -> bool:
    """Return whether hardly any patch is too quiet for noise of a standard deviation.

    Patches near black and white do not count, because clipping quiets them.

    Args:
        means: (N,), the means of the patches on the 0..255 scale.
        high: (N, K), their coefficients of the high frequencies.
        sigma: The standard deviation on the 0..255 scale.
    """
    unclipped = np.minimum(means, 255 - means) >= max(MIN_MARGIN, MARGIN_SIGMAS * sigma)
    if not unclipped.any():
        return True
    quiet = (high[unclipped] ** 2).mean(1) < QUIET * sigma**2
    return float(quiet.mean()) <= MAX_QUIET_SHARE


def _iterate_estimate(means: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Repeat steps 2 to 4 until the estimate is stable.

    The steps are repeated because the noise decides which means are too near the ends.

    Args:
        means: (N,), the means of the patches on the 0..255 scale.
        low: (N,), their energy in the low frequencies.
        high: (N, K), their coefficients of the high frequencies.

    Returns:
        The standard deviation of the noise on the 0..255 scale.
    """
    count = max(MIN_MEASURED, int(FLAT_SHARE * low.size))
    distance = np.minimum(means, 255 - means)
    sigma = 0.0
    for _ in range(5):
        candidates = np.flatnonzero(distance >= max(MIN_MARGIN, MARGIN_SIGMAS * sigma))
        if candidates.size < CANDIDATE_FACTOR * count:
            candidates = np.argsort(-distance, kind="stable")[: CANDIDATE_FACTOR * count]
        flattest = candidates[np.argsort(low[candidates], kind="stable")[:count]]
        chosen = high[flattest]
        eigenvalues = np.linalg.eigvalsh(chosen.T @ chosen / len(chosen))
        variance = _noise_eigenvalue(eigenvalues, len(eigenvalues) / len(chosen))
        previous, sigma = sigma, sigma_before_clipping(variance, means[flattest])
        if abs(sigma - previous) <= 0.01 * sigma:
            break
    return sigma


def _patches(plane: Tensor, stride: int) -> Tensor:
    """Return all patches (N, 8, 8) of a plane (H, W) on a grid, row by row in the order of `avg_pool2d`."""
    return plane.unfold(0, PATCH, stride).unfold(1, PATCH, stride).reshape(-1, PATCH, PATCH)


def _dct(patches: Tensor) -> Tensor:
    """Return the orthonormal DCT-II of patches (N, n, n)."""
    n = patches.shape[-1]
    i = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * i + 1) * i[:, None] / (2 * n)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    basis = basis.to(patches.dtype)
    return basis @ patches @ basis.T


def _noise_eigenvalue(eigenvalues: np.ndarray, tolerance: float) -> float:
    """Return the mean of the smallest eigenvalues, as many as have a mean near their median (Chen et al.).

    Args:
        eigenvalues: (K,), in any order; negative ones count as 0.
        tolerance: how far the mean may exceed the median, as a share of the median.
    """
    ascending = np.sort(eigenvalues).clip(min=0)
    for count in range(len(ascending), 1, -1):
        mean = float(ascending[:count].mean())
        if mean <= float(np.median(ascending[:count])) * (1 + tolerance):
            return mean
    return float(ascending[0])
