r"""The noise of the data as that of the next level: texture comes back where a picture has some, and grain does not.

Where the data y = x + n are noisy, of covariance s_y^2 C, the prediction x0 of a level has lost texture together with
the noise. What was lost is in the residual y - x0. A step to the level s' makes it white, and carries it on:

    x' = x0 + s' k e,    e = C^-1/2 (y - x0) / s_y                      (DDIM, arXiv:2010.02502, with the noise of y)

If x0 were the truth, e would be white noise of variance 1, and x' with k = 1 exactly a state of level s'. As x0 is
smoother, e holds some texture, too, and the next evaluation returns what of it the prior takes for texture. With k > 1
it returns more than that, and with k < 1 less.

k follows the picture. Grain is seen in a sky and not in grass, and texture that is missing is missed in grass:

    k = smooth + (textured - smooth) w,    w = mean of f^2 / (f^2 + u^2 + (c s_y)^2)

Here f is the fine detail of x0, its luminance less the local mean, and the mean is one over the surroundings. It is the
share of pixels that have detail, and not how much, because an edge in a sky has much of it and does not hide grain.

A Gaussian picture tells how much texture that is. If x is N(0, v) and the noise is white, x0 = a y, and a level s'
makes it a' y with a' = v / (v + s'^2) (a + k s' (1 - a) / s_y). This tends to v / (v + s' s_y / k): the Wiener filter
for noise of variance s' s_y / k instead of s_y^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.degradations.degradation import Degradation

__all__ = ["DataNoise", "noised", "texture_weight"]

FINE, SURROUNDINGS = 5, 17
"""Sides in pixels of the squares that detail is compared with, and over which the share is averaged, twice."""

ROUNDING = 2 / 255 / math.sqrt(12)
"""u: the standard deviation of what rounding to 8 bits adds."""

VISIBLE = 0.015
"""c: the share of the deviation of strong noise above which a prediction's detail counts. It keeps a small part of the
detail that strong noise covers, and is not free of grain."""


@dataclass(frozen=True)
class DataNoise:
    """How the noise of the data is carried from level to level.

    Args:
        deviation: s_y, the standard deviation of the noise of the data, on the [-1, 1] scale.
        below: Level s' up to which the state of a level has the noise of the data, on the [-1, 1] scale. Predictions
            before it are corrected towards the data.
        smooth: k where the prediction is smooth, at least 0.
        textured: k where it is full of texture, at least 0.

    Raises:
        ValueError: A setting is out of range.
    """

    deviation: float
    below: float
    smooth: float
    textured: float

    def __post_init__(self) -> None:
        if not (self.deviation > 0 and self.below > 0 and self.smooth >= 0 and self.textured >= 0):
            raise ValueError("the deviation and the level must be positive, and the factors at least 0")

    def serves(self, after: float) -> bool:
        """Return whether the state of a level has the noise of the data."""
        return 0 < after <= self.below


def noised(x0: Tensor, y: Tensor, degradation: Degradation, after: float, settings: DataNoise) -> Tensor:
    """Return x' of the module docstring, the state of a level with the noise of the data.

    Args:
        x0: The prediction of the level before, (B, C, H, W) on [-1, 1].
        y: The data, shaped like x0.
        degradation: The degradation, which knows how to make the noise of the data white.
        after: The level, on the [-1, 1] scale.
        settings: How the noise is carried.
    """
    carried = degradation.whiten(y - x0).mul_(after / settings.deviation)
    if settings.smooth == settings.textured:
        return carried.mul_(settings.smooth).add_(x0)
    weight = texture_weight(x0, math.hypot(VISIBLE * settings.deviation, ROUNDING))
    return carried.mul_(torch.lerp(x0.new_tensor(settings.smooth), x0.new_tensor(settings.textured), weight)).add_(x0)


def texture_weight(x: Tensor, visible: float) -> Tensor:
    """Return w of the module docstring, (B, 1, H, W) in [0, 1].

    Args:
        x: Pictures, (B, C, H, W) on [-1, 1].
        visible: Fine detail that counts half, on the [-1, 1] scale.
    """
    luminance = x.mean(1, keepdim=True)
    square = (luminance - _local_mean(luminance, FINE)).square_()
    return _local_mean(_local_mean(square / (square + visible**2), SURROUNDINGS), SURROUNDINGS)


def _local_mean(x: Tensor, side: int) -> Tensor:
    """Return the mean over the square around each pixel, as far as it lies within the picture."""
    across = F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)
    return F.avg_pool2d(across, (side, 1), 1, (side // 2, 0), count_include_pad=False)
