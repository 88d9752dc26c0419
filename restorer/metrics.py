"""How close a picture is to the truth, and whether it has the truth's texture. Tensors (..., H, W) in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["high_energy", "psnr", "texture", "to_y"]


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all values, peak 1; inf where they are equal."""
    error = float((picture.double() - truth.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


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
