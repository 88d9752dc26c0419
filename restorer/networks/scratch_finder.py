"""The network that tells scratches, dust and hairs from the thin structures of a scene.

Every pixel is described by fixed filters, and a small network gives the log odds that it is damaged. The filters say
what distinguishes damage from a scene:

    top-hats          what is brighter or darker than its surroundings, and narrower than 3, 5 or 9 pixels
    lines             the mean of the top-hats along the best of eight directions, across it, and over all of them
    surroundings      how much of the same there is nearby, as in grass, hair, letters and rain
    colour            how far each channel differs from the mean around the pixel; dust and bare paper have no colour
    sharpness         the steepest step beside the pixel, and the steps around

The top-hat is that of Meyer 1979 (Iterative image transformations for an automatic screening of cervical smears,
Journal of Histochemistry and Cytochemistry 27(1)): the picture less its opening, and its closing less the picture.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FEATURES", "REACH", "ScratchFinder", "describe"]

SIDES = (3, 5, 9)
"""Sides in pixels of the squares of the top-hats."""

DIRECTIONS = 8
HALF_LINE = 7  # pixels from the middle of a line to its end, at a dilation of 1
DILATIONS = (1, 2)
NEAR, FAR = 8, 40  # radii in pixels of the surroundings
NOISE = 2 / 255  # is added to every strength before its logarithm

FEATURES = 37
"""Number of the filters."""

REACH = 64
"""Pixels beyond which nothing changes the description of a pixel."""

HIDDEN = (40, 20)


class ScratchFinder(nn.Module):
    """The network of the module docstring."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("std", torch.ones(FEATURES))
        widths = (FEATURES, *HIDDEN)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(HIDDEN[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the log odds that each pixel is damaged, (B, H, W).

        Args:
            x: Pictures, float (B, 3, H, W) in [0, 1].
        """
        return self.decide(describe(x).permute(0, 2, 3, 1))

    def decide(self, described: Tensor) -> Tensor:
        """Return the log odds of pixels that are described by (..., FEATURES)."""
        return self.last(self.layers(((described - self.mean) / self.std).clamp(-5, 5)))[..., 0]


def describe(x: Tensor) -> Tensor:
    """Return the filters of the module docstring, (B, FEATURES, H, W).

    Args:
        x: Pictures, float (B, 3, H, W) in [0, 1].
    """
    gray = x.mean(1, keepdim=True)
    hats = torch.cat([_top_hat(sign * gray, side) for sign in (1, -1) for side in SIDES], 1)  # bright, then dark
    widest = torch.cat([hats[:, [2]], hats[:, [5]]], 1)
    lines = torch.cat([_lines(widest, dilation) for dilation in DILATIONS], 1)
    best = lines[:, [0, 1, 6, 7]]
    step = _largest(_steps(gray), 3)
    strengths = torch.cat(
        [
            hats,
            lines,
            _mean(hats[:, [1, 4]], NEAR),
            _mean(hats[:, [1, 4]], FAR),
            _mean(best[:, :2], NEAR),
            _mean(best, FAR),
            step,
            _mean(step, NEAR),
            _mean(step, FAR),
        ],
        1,
    )
    differences = x - _mean(x, NEAR)
    colours = torch.cat(
        [
            gray,
            _mean(gray, NEAR),
            differences.amin(1, keepdim=True),
            differences.amax(1, keepdim=True),
            x.amax(1, keepdim=True) - x.amin(1, keepdim=True),
            (x - x.mean(1, keepdim=True) - _mean(x - x.mean(1, keepdim=True), NEAR)).abs().amax(1, keepdim=True),
        ],
        1,
    )
    return torch.cat([(strengths.clamp(min=0) + NOISE).log(), colours], 1)


def _padded(x: Tensor, reach: int) -> Tensor:
    return F.pad(x, (reach,) * 4, mode="replicate")


def _largest(x: Tensor, side: int) -> Tensor:
    """Return the largest value in a square around each pixel, by doubling the windows that are compared."""
    for axis in (-1, -2):
        done = 1
        x = _padded_along(x, side // 2, axis)
        while done < side:
            step = min(done, side - done)
            x = torch.maximum(x.narrow(axis, 0, x.shape[axis] - step), x.narrow(axis, step, x.shape[axis] - step))
            done += step
    return x


def _padded_along(x: Tensor, reach: int, axis: int) -> Tensor:
    return F.pad(x, (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach), mode="replicate")


def _top_hat(x: Tensor, side: int) -> Tensor:
    """Return how much brighter than its opening by a square a plane is."""
    return x - _largest(-_largest(-x, side), side)


def _mean(x: Tensor, radius: int) -> Tensor:
    """Return the mean over a square around each pixel, by differences of running sums."""
    side = 2 * radius + 1
    for axis in (-1, -2):
        length = x.shape[axis]
        sums = F.pad(_padded_along(x, radius, axis), (1, 0, 0, 0) if axis == -1 else (0, 0, 1, 0)).cumsum(axis)
        x = (sums.narrow(axis, side, length) - sums.narrow(axis, 0, length)) / side
    return x


def _steps(gray: Tensor) -> Tensor:
    """Return the length of the gradient, by differences of neighbours."""
    padded = _padded(gray, 1)
    across, down = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return (across.square() + down.square()).sqrt() / 2


def _offsets(direction: int) -> list[tuple[int, int]]:
    """Return the rows and columns of the pixels of a line through the middle."""
    angle = math.pi * direction / DIRECTIONS
    return [
        (round(place * math.sin(angle)), round(place * math.cos(angle))) for place in range(-HALF_LINE, HALF_LINE + 1)
    ]


def _lines(hats: Tensor, dilation: int) -> Tensor:
    """Return the means of planes (B, 2, H, W) along the best line, across it, and over all lines, (B, 6, H, W)."""
    height, width = hats.shape[-2:]
    reach = HALF_LINE * dilation
    padded, along = _padded(hats, reach), hats.new_zeros(DIRECTIONS, *hats.shape)
    for direction in range(DIRECTIONS):
        for row, column in _offsets(direction):
            top, left = reach + row * dilation, reach + column * dilation
            along[direction] += padded[..., top : top + height, left : left + width]
    along /= 2 * HALF_LINE + 1
    best, which = along.max(0)
    across = along.gather(0, (which[None] + DIRECTIONS // 2) % DIRECTIONS)[0]
    return torch.cat([best, across, along.mean(0)], 1)
