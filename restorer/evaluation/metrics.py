"""How close a picture is to the truth, and whether it has the truth's texture. Tensors (..., H, W) in [0, 1]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SSIM_WINDOW", "high_energy", "psnr", "ssim", "texture", "to_y"]

SSIM_WINDOW = 11  # pixels: a Gaussian of standard deviation 1.5, cut off beyond 3.5 of them


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all values, peak 1; inf where they are equal."""
    error = float((picture.double() - truth.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(picture: Tensor, truth: Tensor) -> float:
    """Structural similarity, at most 1, where they are equal; each channel (H, W) on its own, the mean of all.

    Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", eq. 13, with the
    constants of its section III-C: a Gaussian window of 11 x 11 pixels and standard deviation 1.5, variances weighted
    by it without Bessel's correction, K1 = 0.01, K2 = 0.03, peak 1. The mean is over the windows that lie wholly inside
    the picture. scikit-image: structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1).

    Raises:
        ValueError: a side is shorter than the window.
    """
    if min(picture.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM takes pictures of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels")
    distance = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=picture.device) - SSIM_WINDOW // 2
    weights = torch.exp(-0.5 * (distance / 1.5) ** 2)
    weights = weights / weights.sum()

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))

    x, y = (z.double().reshape(-1, 1, *z.shape[-2:]) for z in (picture, truth))
    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return float((luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean())


def to_y(picture: Tensor) -> Tensor:
    """The luma (1, H, W) on [16/255, 235/255] on which super-resolution is compared (ITU-R BT.601); (3, H, W) in."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=picture.dtype, device=picture.device).view(3, 1, 1)
    return ((weights * picture).sum(0, keepdim=True) + 16) / 255


def texture(picture: Tensor, truth: Tensor) -> float:
    """High-frequency energy relative to the truth: 1 where there is as much of it, 0 where everything is smooth."""
    return high_energy(picture) / high_energy(truth)


def high_energy(picture: Tensor) -> float:
    """The energy of the Fourier coefficients beyond a quarter of a cycle a pixel (half the Nyquist frequency).

    Under a Hann window, so that borders do not count.
    """
    height, width = picture.shape[-2:]
    window = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)[None, :]
    centred = picture.float() - picture.float().mean((-2, -1), keepdim=True)
    spectrum = torch.fft.fft2(centred * window).abs().square()
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :])
    return float(spectrum[..., radius > 0.25].sum())
