r"""The network that tells from the spectrum of a picture whether, and how, it was blurred.

A blur multiplies the spectrum of a sharp picture by that of its kernel. A disk and a line leave zeros there, on circles
and on parallel lines; a Gaussian leaves a slope that is steeper than that of photographs. The network sees the
logarithm of the energy at polar positions, angle by radius, in which a rotation is a shift:

    (2, ANGLES, RADII)  --convolutions, circular over the angles-->  one vector of features for each angle

From these vectors follow the width of the kernel in each direction and the direction of a motion. Their mean and their
maximum, with the spread of the radial profiles of the windows, tell the kind of the blur, the radius and the length.
The estimator is the mean of several networks, each of which sees the spectrum mirrored and turned by 90 degrees too.

Sources:
    Cannon 1976, "Blind Deconvolution of Spatially Invariant Image Blurs with Phase", IEEE Transactions on Acoustics,
        Speech, and Signal Processing 24(1): the mean log spectrum of windows, and the zeros of a defocus and a motion.
    Worrall, Garbin, Turmukhambetov and Brostow 2017, "Harmonic Networks", https://arxiv.org/abs/1612.04642: networks
        whose outputs turn with the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ANGLES",
    "KINDS",
    "LEVELS",
    "MAPS",
    "PROFILE",
    "RADII",
    "BlurEstimate",
    "BlurEstimator",
    "SpectrumNetwork",
]

ANGLES, RADII = 24, 28
"""Number of angles over half a turn, and of radii, at which a spectrum is sampled."""

MAPS = 2
"""Spectra of a picture: the logarithm of the mean energy of its windows, and the mean of the logarithm."""

LEVELS, PROFILE = (0.1, 0.3, 0.5, 0.7, 0.9), 24
"""Quantiles over the windows of the logarithm of their radial profiles, and the length of a profile."""

KINDS = ("none", "gaussian", "defocus", "motion", "other")
"""The kinds of blur that are told apart."""

WIDTHS = (16, 32, 48)  # channels of the convolutions
STRIDES = (1, 2, 2)  # of the convolutions along the radius
HIDDEN = 64


@dataclass(frozen=True)
class BlurEstimate:
    """The result for a batch of pictures.

    Args:
        kinds: Probabilities of KINDS, (B, 5).
        widths: Log of the standard deviation in pixels along each direction of a Gaussian, (B, ANGLES). The angle is
            anticlockwise from the horizontal.
        radius: Log of the radius in pixels of a defocus, (B,).
        length: Log of the length in pixels of a motion, (B,).
        directions: Probabilities of the direction of a motion, (B, ANGLES).
        spreads: Expected absolute errors of the logarithms: of the widths, the radius and the length, (B, 3).
    """

    kinds: Tensor
    widths: Tensor
    radius: Tensor
    length: Tensor
    directions: Tensor
    spreads: Tensor


@dataclass(frozen=True)
class Raw:
    """What one network returns: logits of the kinds and directions, logarithms of widths and of expected errors."""

    kinds: Tensor
    widths: Tensor
    scalars: Tensor
    directions: Tensor
    log_spreads: Tensor


class BlurEstimator(nn.Module):
    """The estimator of the module docstring. It is small, and runs in float32 on the CPU."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(SpectrumNetwork() for _ in range(members))

    def forward(self, maps: Tensor, profiles: Tensor) -> BlurEstimate:
        """Estimate the blur of a batch of pictures; the arguments are those of `SpectrumNetwork.forward`."""
        views = [
            turn(member(turned(maps, quarters, mirrored), profiles), quarters, mirrored)
            for member in self.members
            for quarters in (0, 1)
            for mirrored in (False, True)
        ]
        scalars = torch.stack([view.scalars for view in views]).mean(0)
        return BlurEstimate(
            kinds=torch.stack([view.kinds.softmax(1) for view in views]).mean(0),
            widths=torch.stack([view.widths for view in views]).mean(0),
            radius=scalars[:, 0],
            length=scalars[:, 1],
            directions=torch.stack([view.directions.softmax(1) for view in views]).mean(0),
            spreads=torch.stack([view.log_spreads.exp() for view in views]).mean(0),
        )


def turned(maps: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """Return spectra (B, C, ANGLES, ...) of the mirrored, then turned picture.

    Mirroring negates an angle; a quarter of a turn adds 90 degrees to it.
    """
    if mirrored:
        maps = maps.flip(2).roll(1, 2)
    return maps.roll(quarters * ANGLES // 2, 2)


def turn(raw: Raw, quarters: int, mirrored: bool) -> Raw:
    """Return results for a picture as it was, from those for the mirrored, then turned one."""

    def back(values: Tensor) -> Tensor:
        values = values.roll(-quarters * ANGLES // 2, 1)
        return values.flip(1).roll(1, 1) if mirrored else values

    return Raw(raw.kinds, back(raw.widths), raw.scalars, back(raw.directions), raw.log_spreads)


class SpectrumNetwork(nn.Module):
    """One of the networks of the module docstring."""

    map_mean: Tensor
    map_std: Tensor
    profile_mean: Tensor
    profile_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        channels = (MAPS + 1, *WIDTHS)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=(1, stride))
            for (before, after), stride in zip(pairwise(channels), STRIDES, strict=True)
        )
        self.dropout = nn.Dropout(0.1)
        self.column = nn.Conv1d(WIDTHS[-1] * (RADII // math.prod(STRIDES)), HIDDEN, 1)
        self.around = nn.ModuleList(nn.Conv1d(HIDDEN, HIDDEN, 3) for _ in range(2))
        self.per_angle = nn.Conv1d(2 * HIDDEN, 2, 1)
        self.profile = nn.Sequential(nn.Linear(len(LEVELS) * PROFILE + 1, 48), nn.ReLU())
        self.body = nn.Sequential(nn.Linear(2 * HIDDEN + 48, HIDDEN), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(HIDDEN, len(KINDS) + 2 + 3)
        self.register_buffer("map_mean", torch.zeros(MAPS, 1, RADII))
        self.register_buffer("map_std", torch.ones(MAPS, 1, RADII))
        self.register_buffer("profile_mean", torch.zeros(len(LEVELS) * PROFILE + 1))
        self.register_buffer("profile_std", torch.ones(len(LEVELS) * PROFILE + 1))

    def forward(self, maps: Tensor, profiles: Tensor) -> Raw:
        """Return the outputs for a batch of pictures.

        Args:
            maps: Log spectra, float32 (B, MAPS, ANGLES, RADII); see `restorer.measurement.blur_spectrum`.
            profiles: The spread of the profiles and the level of the spectrum, (B, len(LEVELS) * PROFILE + 1).
        """
        x = ((maps - self.map_mean) / self.map_std).clamp(-5, 5)
        radius = torch.linspace(-1, 1, RADII).expand(len(x), 1, ANGLES, RADII)
        x = torch.cat([x, radius], 1)
        for convolution in self.convolutions:
            x = F.pad(F.pad(x, (0, 0, 1, 1), mode="circular"), (1, 1, 0, 0), mode="replicate")
            x = F.relu(convolution(x))
        x = F.relu(self.column(self.dropout(x.transpose(2, 3).flatten(1, 2))))
        for convolution in self.around:
            x = x + F.relu(convolution(F.pad(x, (1, 1), mode="circular")))
        seen = self.profile(((profiles - self.profile_mean) / self.profile_std).clamp(-5, 5))
        body = self.body(torch.cat([x.mean(2), x.amax(2), seen], 1))
        angles = self.per_angle(torch.cat([x, body[:, :, None].expand_as(x)], 1))
        head = self.head(body)
        kinds, scalars, spreads = head.split((len(KINDS), 2, 3), 1)
        return Raw(kinds, angles[:, 0], scalars + math.log(4), angles[:, 1], spreads.clamp(-5, 1))
