"""What was found out about the noise of a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Noise"]

STRONGER = 1.35
"""Ratio of the noise in shadows and highlights from which it is called stronger in one of them."""


@dataclass(frozen=True)
class Noise:
    """The noise of a picture: its kind, its strength, and what else can be said in a few words.

    Args:
        kind: "white", "camera" (coarse or coloured), or "none" if there is none that can be told from texture.
        sigma: Standard deviation over all pixels and channels, on the 0..255 scale; 0 for "none".
        estimated: Whether it was measured, not given by the user.
        strength: The factor on the measured standard deviation that `sigma` contains.
        probability: Probability that there is more noise than about a level, 0..1; None if it was not computed.
        correlation: Correlation of the luminance of neighbouring pixels, -1..1; nan for noise that is not "camera".
        chroma: Share of the variance that is colour, 0..1, two thirds for white noise; nan as above.
        shadows: Ratio of the standard deviations in the dark and in the bright parts; nan if it is not known.
    """

    kind: str
    sigma: float
    estimated: bool
    strength: float = 1.0
    probability: float | None = None
    correlation: float = math.nan
    chroma: float = math.nan
    shadows: float = math.nan

    def describe(self) -> str:
        """Return the noise in a few words, such as "camera noise of 6.1 levels, coarse, stronger in the shadows"."""
        if self.kind == "none":
            return "no noise that can be told from texture"
        words = [f"{self.kind} noise of {self.sigma:.1f} levels"]
        if self.kind == "camera":
            if self.correlation >= 0.3:
                words.append("coarse" if self.correlation < 0.8 else "very coarse")
            if self.chroma >= 0.75:
                words.append("mostly colour")
            elif self.chroma <= 0.1:
                words.append("without colour")
            if self.shadows >= STRONGER:
                words.append("stronger in the shadows")
            elif self.shadows <= 1 / STRONGER:
                words.append("stronger in the highlights")
        return ", ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON output and the record of a result hold; numbers that are not known are None."""

        def known(value: float | None) -> float | None:
            return None if value is None or math.isnan(value) else round(value, 2)

        return {
            "kind": self.kind,
            "sigma": known(self.sigma),
            "estimated": self.estimated,
            "probability": known(self.probability),
            "correlation": known(self.correlation),
            "chroma": known(self.chroma),
            "shadows": known(self.shadows),
        }
