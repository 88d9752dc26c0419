"""Metrics of a picture's closeness to the truth and of its texture.

All pictures are tensors (..., H, W) in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BANDS", "SSIM_WINDOW", "high_energy", "psnr", "ssim", "texture", "texture_by_band", "to_y"]

SSIM_WINDOW = 11  # side in pixels: a Gaussian of standard deviation 1.5, cut off at 3.5 standard deviations

# Octaves of spatial frequency in cycles per pixel, each above the first bound and up to the second. A picture that is
# enlarged four times knows nothing above 1/8; the last band reaches to the corner of the spectrum.
BANDS = ((1 / 16, 1 / 8), (1 / 8, 1 / 4), (1 / 4, math.inf))

SSIM_ROWS = 128  # rows of windows that are computed together


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB over all values, for a peak of 1; inf for equal pictures."""
    error = float((picture.double() - truth.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(picture: Tensor, truth: Tensor) -> float:
    """Return the structural similarity, at most 1, which equal pictures reach.

    This is eq. 13 of Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", with
    the constants of its section III-C: a Gaussian window of 11 x 11 pixels and standard deviation 1.5, variances
    weighted by the window without Bessel's correction, K1 = 0.01, K2 = 0.03, peak 1. The result is the mean over all
    channels (H, W), and over the windows that lie completely inside the picture. The same call in scikit-image is
    structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1).

    Raises:
        ValueError: A side is shorter than the window.
    """
    if min(picture.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels")
    distance = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=picture.device) - SSIM_WINDOW // 2
    weights = torch.exp(-0.5 * (distance / 1.5) ** 2)
    weights = weights / weights.sum()

    x, y = (z.reshape(-1, 1, *z.shape[-2:]) for z in (picture, truth))
    height, width = (extent - SSIM_WINDOW + 1 for extent in x.shape[-2:])
    total = 0.0
    for top in range(0, height, SSIM_ROWS):  # a strip at a time, because the terms take much more memory than a picture
        bottom = min(top + SSIM_ROWS, height) + SSIM_WINDOW - 1
        total += float(_similarity(x[..., top:bottom, :].double(), y[..., top:bottom, :].double(), weights).sum())
    return total / (x.shape[0] * height * width)


def _similarity(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the similarity of each window of pictures (B, 1, H, W), given the weights along a side of the window."""

    def mean(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)


def to_y(picture: Tensor) -> Tensor:
    """Convert a colour picture (3, H, W) to its luma, on which super-resolution is compared (ITU-R BT.601).

    Returns:
        (1, H, W) in [16/255, 235/255].
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=picture.dtype, device=picture.device).view(3, 1, 1)
    return ((weights * picture).sum(0, keepdim=True) + 16) / 255


def texture(picture: Tensor, truth: Tensor) -> float:
    """Return the high-frequency energy relative to the truth: 1 for as much texture, 0 for a smooth picture."""
    return high_energy(picture) / high_energy(truth)


def high_energy(picture: Tensor) -> float:
    """Return the energy of the Fourier coefficients above a quarter of a cycle per pixel (half the Nyquist frequency).

    The picture is multiplied by a Hann window, so that its borders do not count.
    """
    return _energies(picture, [(0.25, math.inf)])[0]


def texture_by_band(picture: Tensor, truth: Tensor) -> tuple[float | None, ...]:
    """Return the energy of the luma in each of BANDS relative to the truth; None where the truth has none.

    Args:
        picture: float (3, H, W).
        truth: The picture that it is compared with, of the same shape.
    """
    pairs = zip(*(_energies(to_y(x), BANDS) for x in (picture, truth)), strict=True)
    return tuple(energy / reference if reference > 0 else None for energy, reference in pairs)


def _energies(picture: Tensor, bands: Sequence[tuple[float, float]]) -> list[float]:
    """Return the energies of the Fourier coefficients whose frequency lies in each band, (above, up to).

    The picture is multiplied by a Hann window, so that its borders do not count.
    """
    height, width = picture.shape[-2:]
    window = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)[None, :]
    centred = picture.float() - picture.float().mean((-2, -1), keepdim=True)
    spectrum = torch.fft.fft2(centred * window).abs().square()
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :])
    return [float(spectrum[..., (radius > above) & (radius <= to)].sum()) for above, to in bands]
