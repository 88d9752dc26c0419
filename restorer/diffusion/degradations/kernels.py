r"""Kernels of the blurs that have a name: a Gaussian, a lens out of focus, and a camera that moved.

    Gaussian    exp(-r^2 / 2 sigma^2), or exp(-u^2 / 2 s^2 - v^2 / 2 t^2) along and across an angle
    defocus     a disk: 1 for r <= radius
    motion      a line of a length at an angle, one pixel wide

Disks and lines are integrated over the area of each pixel. A kernel is a float tensor (2 a + 1, 2 b + 1) with the sum 1
and its origin in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["as_kernel", "defocus_kernel", "gaussian_kernel", "motion_kernel"]

PARTS = 16  # of a pixel's side, over which its area is integrated
REACH = 4  # standard deviations of a Gaussian


def gaussian_kernel(sigma: float, across: float | None = None, angle: float = 0.0) -> Tensor:
    """Return the kernel of a Gaussian blur.

    Args:
        sigma: Standard deviation in pixels, above 0: along the angle, if there is another one across it.
        across: Standard deviation across the angle, above 0; None for that along it, which leaves no angle.
        angle: The angle in degrees, anticlockwise from the horizontal.
    """
    if across is None:
        reach = max(1, math.ceil(REACH * sigma))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        kernel = taps[:, None] * taps
        return kernel / kernel.sum()
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    down, wide = (
        max(1, math.ceil(REACH * math.hypot(sigma * a, across * b))) for a, b in ((sine, cosine), (cosine, sine))
    )
    y, x = torch.meshgrid(torch.arange(-down, down + 1), torch.arange(-wide, wide + 1), indexing="ij")
    u, v = x * cosine - y * sine, x * sine + y * cosine  # y grows downwards
    kernel = torch.exp(-0.5 * ((u / sigma).square() + (v / across).square()))
    return kernel / kernel.sum()


def defocus_kernel(radius: float) -> Tensor:
    """Return the kernel of a lens that is out of focus.

    Args:
        radius: Radius of the disk in pixels, above 0.
    """
    return _by_area(lambda y, x: y.square() + x.square() <= radius**2, math.ceil(radius))


def motion_kernel(length: float, angle: float) -> Tensor:
    """Return the kernel of a camera that moved along a straight line while it exposed.

    Args:
        length: Length of the line in pixels, above 0.
        angle: Its angle in degrees, anticlockwise from the horizontal.
    """
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))

    def is_inside(y: Tensor, x: Tensor) -> Tensor:  # y grows downwards
        along, across = x * cosine - y * sine, x * sine + y * cosine
        return (along.abs() <= length / 2) & (across.abs() <= 0.5)

    return _by_area(is_inside, math.ceil(length / 2 + 0.5))


def _by_area(is_inside: Callable[[Tensor, Tensor], Tensor], reach: int) -> Tensor:
    """Return the share of each pixel that lies inside a shape, divided by the area of the shape."""
    side = 2 * reach + 1
    positions = (torch.arange(side * PARTS, dtype=torch.float64) + 0.5) / PARTS - reach - 0.5
    y, x = torch.meshgrid(positions, positions, indexing="ij")
    shares = is_inside(y, x).double().view(side, PARTS, side, PARTS).mean((1, 3))
    return _without_empty_borders((shares / shares.sum()).float())


def _without_empty_borders(kernel: Tensor) -> Tensor:
    """Return a kernel without rows and columns at its borders that hold nothing, as many on either side."""
    while kernel.shape[0] > 1 and not kernel[[0, -1]].any():
        kernel = kernel[1:-1]
    while kernel.shape[1] > 1 and not kernel[:, [0, -1]].any():
        kernel = kernel[:, 1:-1]
    return kernel


def as_kernel(values: Tensor) -> Tensor:
    """Return numbers as a kernel: with odd sides and the sum 1.

    The origin of a kernel with an even side is the pixel after its middle.

    Args:
        values: Numbers, (h, w), not negative, of which at least one is above 0.

    Raises:
        ValueError: They are others.
    """
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"a kernel has rows and columns, and not the shape {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or not float(values.sum()) > 0:
        raise ValueError("a kernel must hold finite numbers from 0, of which at least one is above 0")
    height, width = values.shape
    odd = F.pad(values.double(), (0, 1 - width % 2, 0, 1 - height % 2))
    return _without_empty_borders((odd / odd.sum()).float())
