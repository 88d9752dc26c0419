"""What the three tasks do unless told otherwise: the constants, and why they are what they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DENOISE", "INPAINT", "INPAINT_WIDE", "LATENT_STEPS", "UPSCALE", "WIDE", "Defaults"]


@dataclass(frozen=True)
class Defaults:
    """What a task does unless told otherwise; measured with tests/bench/figures.py.

    Args:
        steps, detail: as the options of these names.
        start: highest noise level, [-1, 1] scale; denoise starts at the level of its noise instead.
        prior_variance, extrapolation: see `Plan`.
        zeta: share of fresh noise.
        inflation: by how much the noise carried exceeds what the network is told. It makes up for a network that takes
            texture for noise (S_noise in Karras et al. 2022, https://arxiv.org/abs/2206.00364, section 4).
    """

    steps: int
    detail: float
    zeta: float
    start: float = math.nan
    prior_variance: float = 1.0
    extrapolation: float = 0.0
    inflation: float = 0.0


DENOISE = Defaults(steps=4, detail=0.8, zeta=0.0, extrapolation=1.0)
# Narrow holes are all but known from their rims: little noise, drawn anew, is best, and a low level to begin with. A
# wide one has an inside that must be made up: the deterministic process from a high level keeps texture there.
INPAINT = Defaults(steps=20, detail=0.4, zeta=1.0, start=0.4, extrapolation=0.5)
INPAINT_WIDE = Defaults(steps=20, detail=1.0, zeta=0.0, start=3.0, extrapolation=1.0, inflation=0.02)
WIDE = 25  # pixels: a hole that holds a square of this side is wide
# The more is missing, the more the second order brings; at x2 it costs.
UPSCALE = {
    2: Defaults(steps=15, detail=0.5, zeta=1.0, start=0.4),
    3: Defaults(steps=10, detail=0.5, zeta=1.0, start=0.4, extrapolation=1.0),
    4: Defaults(steps=12, detail=0.5, zeta=1.0, start=0.4, extrapolation=1.0),
    8: Defaults(steps=10, detail=0.5, zeta=1.0, start=0.8, extrapolation=1.0),
}
LATENT_STEPS = 100  # of latent super-resolution, as published
