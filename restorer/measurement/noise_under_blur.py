"""The noise of a blurred picture where the blur has left nothing else: at the frequencies that its kernel takes away.

The usual estimate of white noise looks at the finest detail. Noise that a camera has smoothed, or a compression has
cut off there, is stronger at the frequencies at which deblurring amplifies it most. A blur is itself a way to see it:
where the response of its kernel is almost zero, what is in the spectrum was added after the blur.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["noise_under_blur"]

SIDE = 32  # side in pixels of the windows whose spectra are taken
STRIDE = 16  # pixels between neighbouring windows

TAKEN_AWAY = 0.08
"""Response of the kernel below which a frequency counts as taken away."""

NEIGHBOURS = 1
"""Frequencies on either side to which the taper of a window spreads energy: the response must be low there, too."""

BANDS, LEAST_COUNT = 8, 6
"""Number of bands from frequency 0 to 1/2, and of frequencies that one must have to be judged."""

QUIET = 0.3
"""Quantile of the windows that is taken for the noise: the others may have edges whose energy spreads."""

EXPONENTIAL = 0.97
"""Quantile QUIET of the mean of some tens of energies of pure noise, as a share of the expected one."""


def noise_under_blur(image: Tensor, kernel: Tensor, evidence: Tensor | None = None) -> float:
    """Return the standard deviation of white noise as strong as the noise is where it is strongest, in levels.

    Args:
        image: The blurred picture, float (C, H, W) in [0, 1].
        kernel: The kernel of its blur, (h, w), which is not larger than the picture.
        evidence: bool (H, W), the pixels that count; None for all of them.

    Returns:
        The standard deviation on the 0..255 scale, of the channel that has most; 0.0 if no window counts, or if the
        kernel takes nothing away.
    """
    if min(image.shape[-2:]) < SIDE:
        return 0.0
    taper = torch.hann_window(SIDE, periodic=False, dtype=torch.float64)
    window = taper[:, None] * taper
    windows = _windows(255 * image.double())
    if evidence is not None:
        windows = windows[(_windows(evidence.double()[None]) == 1).flatten(1).all(1)]
    if len(windows) == 0:
        return 0.0
    windows = (windows - windows.mean((-2, -1), keepdim=True)) * window
    energy = torch.fft.fft2(windows).abs().square() / window.square().sum()
    down, across = torch.meshgrid(torch.fft.fftfreq(SIDE), torch.fft.fftfreq(SIDE), indexing="ij")
    radius, free = torch.hypot(down, across), _taken_away(kernel)
    found = 0.0
    for band in range(BANDS):
        chosen = free & (radius >= band / (2 * BANDS)) & (radius < (band + 1) / (2 * BANDS))
        if int(chosen.sum()) >= LEAST_COUNT:
            by_window = energy[..., chosen].mean(-1)  # (windows, C)
            found = max(found, float(by_window.quantile(QUIET, 0).max()) / EXPONENTIAL)
    return found**0.5


def _windows(image: Tensor) -> Tensor:
    """Return the windows of a picture (C, H, W), (N, C, SIDE, SIDE)."""
    parts = image.unfold(-2, SIDE, STRIDE).unfold(-2, SIDE, STRIDE)
    return parts.permute(1, 2, 0, 3, 4).flatten(0, 1)


def _taken_away(kernel: Tensor) -> Tensor:
    """Return the frequencies of a window at which a kernel leaves almost nothing, bool (SIDE, SIDE)."""
    fine = 4 * SIDE  # the response between the frequencies of the window counts as well
    size = max(fine, fine * -(-max(kernel.shape) // fine))
    response = torch.fft.fft2((kernel / kernel.sum()).double(), s=(size, size)).abs()
    step = size // SIDE
    reach = NEIGHBOURS * step
    padded = F.pad(response[None, None], (reach, reach, reach, reach), mode="circular")
    return F.max_pool2d(padded, 2 * reach + 1, stride=1)[0, 0][::step, ::step] < TAKEN_AWAY
