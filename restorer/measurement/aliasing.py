r"""Whether a small picture was shrunk without a filter, so that fine structure has become stairs and dots.

A filter that shrinks along both axes takes most from the frequencies that are high along both. At the highest ones, the
bicubic filter leaves a quarter of the energy along each axis, and a sixteenth in the corner of the spectrum. The
logarithms of two ratios tell what is left of the energy E there:

    log E(corner) - log E(sides)     corner: |f_x| and |f_y| >= .4;  sides: one of them >= .4, the other .09 to .25
    log E(corner) - log E(middle)    middle: |f| from .14 to .2

Of 480 pictures made by the bicubic filter from 120 photographs of CBSD68, Set5 and the training data, two to six times
smaller, none is above both bounds below, and none of those that the Lanczos filter makes. Above both are 74 % of the
same pictures if every n-th pixel is taken (nearest neighbour), and 12 % if squares of pixels are averaged.

White noise has as much energy everywhere. The plainest windows of the picture tell how much there is, and this is
taken off before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from restorer.measurement.windows import WINDOW, hann, radial_frequency, windows_of

__all__ = ["estimate_aliasing", "is_aliased"]

LEAST = (-0.7, -3.4)
"""Logarithms of the two ratios from which a picture counts as shrunk without a filter."""

HIGH = 0.4
"""Least frequency along an axis that counts as high, in cycles per pixel."""

LOW, MIDDLE = (0.09, 0.25), (0.14, 0.2)
"""Limits of the frequencies of the other axis at the sides, and of those in the middle."""

PLAINEST = 0.1
"""Share of the windows by which the noise is told."""

LEAST_ENERGY = 16.0
"""Energy at the sides, in squared levels, below which there is nothing to judge by."""

ROUNDING = 1 / 12  # energy of the rounding to 8 bits at every frequency, in squared levels
STRIDE = 16  # distance between windows in pixels
MOST_WINDOWS = 4096
LUMA = (0.299, 0.587, 0.114)


def is_aliased(image: Tensor) -> bool:
    """Return whether a picture was shrunk without a filter, float (C, H, W) in [0, 1] with C = 1 or 3."""
    return all(found > least for found, least in zip(estimate_aliasing(image), LEAST, strict=True))


def estimate_aliasing(image: Tensor) -> tuple[float, float]:
    """Return the logarithms of the two ratios of the module docstring.

    Args:
        image: float (C, H, W) in [0, 1], with C = 1 or 3.

    Returns:
        The logarithms; -inf for a picture that is too small or too plain to judge.
    """
    weights = torch.tensor(LUMA if len(image) == 3 else (1.0,), dtype=image.dtype, device=image.device)
    luma = 255 * (weights.view(-1, 1, 1) * image).sum(0, keepdim=True)
    if min(luma.shape[-2:]) < WINDOW:
        return -math.inf, -math.inf
    windows = windows_of(luma, STRIDE)[:, 0]
    if len(windows) > MOST_WINDOWS:
        windows = windows[:: -(-len(windows) // MOST_WINDOWS)]
    windows = (windows - windows.mean((1, 2), keepdim=True)) * hann().to(windows)
    energy = (torch.fft.fft2(windows).abs().square() / WINDOW**2).cpu()
    frequency, radius = torch.fft.fftfreq(WINDOW).abs(), radial_frequency()
    is_high, is_low = frequency >= HIGH, (frequency >= LOW[0]) & (frequency <= LOW[1])
    corner = energy[:, is_high[:, None] & is_high].mean(1)
    sides = energy[:, (is_high[:, None] & is_low) | (is_low[:, None] & is_high)].mean()
    middle = energy[:, (radius >= MIDDLE[0]) & (radius < MIDDLE[1])].mean()
    noise = max(float(corner.quantile(PLAINEST)), ROUNDING)
    left = math.log(max(float(corner.mean()) - noise, ROUNDING / 100))
    if float(sides) - noise < LEAST_ENERGY or float(middle) <= noise:
        return -math.inf, -math.inf
    return left - math.log(float(sides) - noise), left - math.log(float(middle) - noise)
