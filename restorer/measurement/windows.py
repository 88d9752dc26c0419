"""Windows of a picture, and what each of them says about noise.

Values are on the 0..255 scale. The axes of colour are orthonormal, so that white noise has the same strength in each:

    (1, 1, 1) / sqrt(3)     luminance
    (1, 0, -1) / sqrt(2)    red against blue
    (1, -2, 1) / sqrt(6)    green against magenta, which texture leaves alone most of all
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from restorer.networks.noise_estimator import BANDS, FEATURES

__all__ = [
    "WINDOW",
    "band_energies",
    "band_masks",
    "describe",
    "hann",
    "opponent_axes",
    "radial_frequency",
    "windows_of",
]

WINDOW = 32
"""Side of a window in pixels."""

CHUNK = 512  # windows that are transformed together, which bounds the memory
LEAST_ENERGY = 1e-3  # squared levels; less is described as this much


@cache
def opponent_axes() -> Tensor:
    """Return the axes of colour as the rows of an orthonormal matrix, (3, 3)."""
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    return axes / axes.norm(dim=1, keepdim=True)


@cache
def hann() -> Tensor:
    """Return a Hann window (32, 32) whose mean square is 1, by which a window is multiplied before its transform."""
    taper = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64)
    taper = taper[:, None] * taper
    return (taper / taper.square().mean().sqrt()).float()


@cache
def radial_frequency() -> Tensor:
    """Return the distance from 0 of each frequency of a window, in cycles per pixel, (32, 32)."""
    frequency = torch.fft.fftfreq(WINDOW)
    return torch.hypot(frequency[:, None], frequency)


@cache
def band_masks() -> Tensor:
    """Return which frequencies each band holds, float (6, 32, 32) of 0 and 1. The mean of a window is in none."""
    radius = radial_frequency()
    return torch.stack([((radius >= low) & (radius < high) & (radius > 0)).float() for low, high in pairwise(BANDS)])


def windows_of(x: Tensor, step: int) -> Tensor:
    """Return the windows of a picture on a grid.

    Args:
        x: (C, H, W) with sides of at least 32.
        step: Distance between neighbouring windows in pixels.

    Returns:
        (N, C, 32, 32), row by row.
    """
    return x.unfold(1, WINDOW, step).unfold(2, WINDOW, step).permute(1, 2, 0, 3, 4).flatten(0, 1)


def band_energies(windows: Tensor) -> Tensor:
    """Return the energy per Fourier coefficient of windows by axis of colour and band.

    Args:
        windows: (N, 3, 32, 32) in the channels red, green and blue.

    Returns:
        (N, 3, 6) in squared levels. White noise of standard deviation s has s^2 everywhere.
    """
    return torch.cat([_energies_of(_transform(part)) for part in windows.split(CHUNK)])


@cache
def _band_weights() -> Tensor:
    """Return the weights by which the powers of `rfft2` are summed to the mean of each band, (32 * 17, 6)."""
    masks = band_masks()
    half = (masks / masks.sum((1, 2), keepdim=True))[..., : WINDOW // 2 + 1].clone()
    half[..., 1 : WINDOW // 2] *= 2  # the other half of the frequencies has the same power
    return half.flatten(1).T.contiguous()


def _transform(windows: Tensor) -> Tensor:
    """Return the tapered half spectrum of windows (N, 3, 32, 32) in the axes of colour, complex (N, 3, 32, 17)."""
    opponent = torch.einsum("ai,nihw->nahw", opponent_axes(), windows)
    opponent -= opponent.mean((2, 3), keepdim=True)
    return torch.fft.rfft2(opponent.mul_(hann())) / WINDOW


def _energies_of(spectra: Tensor) -> Tensor:
    """Return the energy by axis and band, (N, 3, 6), of half spectra (N, 3, 32, 17)."""
    power = torch.view_as_real(spectra).square().sum(-1)
    return power.flatten(2) @ _band_weights()


def describe(pixels: Tensor, denoised: Tensor) -> Tensor:
    """Return the features of windows that the network for noise looks at.

    Args:
        pixels: Windows of the picture, (N, 3, 32, 32).
        denoised: The same windows after denoising.

    Returns:
        (N, FEATURES): log energies of the residual, of the denoised content and of the pixels, and the mean colour in
        [0, 1].
    """
    if len(pixels) == 0:  # Fourier transforms of nothing fail
        return torch.zeros(0, FEATURES)
    return torch.cat([_describe(*part) for part in zip(pixels.split(CHUNK), denoised.split(CHUNK), strict=True)])


def _describe(pixels: Tensor, denoised: Tensor) -> Tensor:
    """Return the features of some windows; see `describe`."""
    noisy, clean = _transform(pixels), _transform(denoised)
    energies = [
        _energies_of(spectra).clamp(min=LEAST_ENERGY).log().flatten(1) for spectra in (noisy - clean, clean, noisy)
    ]
    return torch.cat([*energies, denoised.mean((2, 3)) / 255], 1)
