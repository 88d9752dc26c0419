r"""How soft a picture is: whether shrinking can have made it, or whether it was blurred or enlarged before.

A photograph that was shrunk has detail up to its finest frequencies, and its spectrum falls there as it falls below:
the density of energy at .35 to .45 cycles per pixel is e^-1.7 to e^-3.5 of that at .14 to .2. A blur multiplies the
spectrum by that of its kernel, exp(-4 pi^2 sigma^2 f^2) for a Gaussian, and lowers this ratio the more the wider it is.
The sharpest places of a picture carry most of the energy, so a background that is out of focus does not count.

Noise and compression add energy of their own at the finest frequencies. They hide how soft a picture is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from restorer.measurement.windows import WINDOW, hann, radial_frequency, windows_of

__all__ = ["SOFT", "estimate_softness"]

SOFT = 0.5
"""Estimate in pixels from which a picture is called soft. Of shrunk photographs none reaches it."""

MIDDLE, FINE = (0.14, 0.20), (0.35, 0.45)
"""Limits of the bands that are compared, in cycles per pixel."""

SHARP = -2.6
"""Logarithm of the ratio of their energies for a shrunk photograph, the median over many."""

DECAY = 4 * math.pi**2 * (sum(x * x for x in FINE) - sum(x * x for x in MIDDLE)) / 2
"""By how much a Gaussian blur of one pixel lowers this logarithm."""

ROUNDING = 1 / 12
"""Energy of the rounding to 8 bits at every frequency, in squared levels."""

LEAST_ENERGY = 0.5
"""Energy in the middle band, in squared levels, below which a picture has nothing to judge by."""

STRIDE = 16  # distance between windows in pixels
MOST_WINDOWS = 4096
LUMA = (0.299, 0.587, 0.114)


def estimate_softness(image: Tensor) -> float:
    """Return the standard deviation of the Gaussian blur that makes a shrunk photograph as soft as this picture.

    Args:
        image: float (C, H, W) in [0, 1], with C = 1 or 3.

    Returns:
        The standard deviation in pixels; 0 for a picture that is as sharp as a shrunk one, and for one that is too
        small or too plain to judge.
    """
    weights = torch.tensor(LUMA if len(image) == 3 else (1.0,), dtype=image.dtype, device=image.device)
    luma = 255 * (weights.view(-1, 1, 1) * image).sum(0, keepdim=True)
    if min(luma.shape[-2:]) < WINDOW:
        return 0.0
    windows = windows_of(luma, STRIDE)[:, 0]
    if len(windows) > MOST_WINDOWS:
        windows = windows[:: -(-len(windows) // MOST_WINDOWS)]
    windows = (windows - windows.mean((1, 2), keepdim=True)) * hann().to(windows)
    spectrum = (torch.fft.fft2(windows).abs().square().mean(0) / WINDOW**2).cpu()
    frequency = radial_frequency()

    def energy(low: float, high: float) -> float:
        return float(spectrum[(frequency >= low) & (frequency < high)].mean()) - ROUNDING

    middle, fine = energy(*MIDDLE), energy(*FINE)
    if middle < LEAST_ENERGY:
        return 0.0
    ratio = math.log(max(fine, ROUNDING / 100) / middle)
    return math.sqrt(max(0.0, SHARP - ratio) / DECAY)
