"""What is told of the uncertainty of a result: the half width of an interval for every pixel, and a line of words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from restorer.diffusion.calibration import LEVEL, half_width
from restorer.diffusion.uncertainty import local_variance
from restorer.models.load import calibration_of
from restorer.tasks.job import Job, Restored

__all__ = ["COPIED", "UNCALIBRATED", "Certainty", "certainty_of"]

FAR = 20.0
"""Levels by which a pixel may be off to be counted as one that may be far off."""

UNCALIBRATED = "the model has no constants, so that its uncertainty is not calibrated: restore evaluate --calibrate"
OTHER_STRENGTH = "the uncertainty was not calibrated at this strength: the constants of the nearest one are used"
COPIED = "the picture is copied, and nothing is known of its errors: its uncertainty is written as 0"

ROUNDS = 40  # halvings of the interval in which the common half width lies


@dataclass(frozen=True)
class Certainty:
    """How certain the pixels of a result are.

    Args:
        half: Half widths of the intervals in levels of 0..255, float32 (H, W): the share `level` of the values of the
            channels lies at most this far from the truth. They are 0 where the pixels are those of the input.
        calibrated: Whether they are calibrated.
        kind: What was done to the picture, a key of the constants; empty if nothing was restored.
        note: What the user should know; empty if there is nothing to say.
        level: Share of the values within the intervals, between 0 and 1.
    """

    half: Tensor
    calibrated: bool
    kind: str = ""
    note: str = ""
    level: float = LEVEL

    @property
    def restored(self) -> Tensor:
        """The half widths of the pixels that are not those of the input, (N,)."""
        return self.half[self.half > 0]

    @property
    def within(self) -> float:
        """Levels within which the share `level` of the restored values lies, if errors are Gaussian; 0 for none.

        It is the solution L of mean(erf(L / (s sqrt 2))) = level over the pixels, with s = half / z and z the half
        width of the interval of a Gaussian of standard deviation 1.
        """
        scale = self.restored.double() * (math.sqrt(2) / NormalDist().inv_cdf((1 + self.level) / 2))
        if not len(scale):
            return 0.0
        low, high = 0.0, float(self.restored.max())
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            is_enough = float(torch.erf(middle / scale).mean()) >= self.level
            low, high = (low, middle) if is_enough else (middle, high)
        return high

    @property
    def far_share(self) -> float:
        """Share of the restored pixels that may be off by FAR levels or more, 0..1."""
        return float((self.restored >= FAR).double().mean()) if len(self.restored) else 0.0

    def describe(self) -> str:
        """Return a line of words, such as "90 % of the pixels are within 3 levels; 4 % may be off by 20"."""
        if not len(self.restored):
            return "every pixel is that of the input"
        are_all = len(self.restored) == self.half.numel()
        subject = "the pixels" if are_all else "the filled pixels"
        text = f"{100 * self.level:g} % of {subject} are within {_in_words(self.within)}"
        if self.far_share >= 0.005:
            text += f"; {100 * self.far_share:.0f} % may be off by {FAR:.0f}"
        return text if self.calibrated else f"{text} (not calibrated)"

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON output holds."""
        restored = self.restored
        return {
            "level": self.level,
            "calibrated": self.calibrated,
            "kind": self.kind or None,
            "within": round(self.within, 2),
            "mean": round(float(restored.mean()), 2) if len(restored) else 0.0,
            "largest": round(float(restored.max()), 2) if len(restored) else 0.0,
            "off_by_20": round(self.far_share, 4),
            "words": self.describe(),
        }


def _in_words(levels: float) -> str:
    """Return a number of levels, rounded up so that it promises no more than is known."""
    number = math.ceil(levels) if levels >= 2.5 else math.ceil(10 * levels) / 10
    return f"{number:g} level{'' if number == 1 else 's'}"


def certainty_of(job: Job, restored: Restored | None) -> Certainty:
    """Return how certain a result is.

    Args:
        job: The job, whose prior has the constants.
        restored: Its result with the spread; None if the picture is copied.
    """
    if restored is None or restored.spread is None:
        height, width = job.image.shape[-2:]
        return Certainty(torch.zeros(height, width), False, note=COPIED)
    doubt, calibration = restored.spread.doubt, calibration_of(job.prior)
    constants = None if calibration is None else calibration.at(doubt.kind, doubt.strength)
    # Results are calibrated as files hold them.
    result = (restored.image.clamp(0, 1) * 255).round() / 255
    half = half_width(constants, restored.spread.deviation, local_variance(result), restored.spread.hint)
    if calibration is None or constants is None:
        return Certainty(half, False, doubt.kind, UNCALIBRATED)
    note = "" if calibration.covers(doubt.kind, doubt.strength) else OTHER_STRENGTH
    return Certainty(half, True, doubt.kind, note)
