"""What is believed of the noise that was measured: whether it is noise, of which kind, and whether compression is all.

The pixels, the network that tells noise from texture, and the coefficients of a JPEG file each say something. Where
they disagree, the mistake that costs less is made: noise that is missed stays, and texture that is taken for noise is
lost.
"""

from __future__ import annotations

import math

from restorer.measurement.camera_noise import CameraNoise
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.jpeg_noise import NoiseBefore
from restorer.measurement.noise import Noise

__all__ = [
    "SURE",
    "is_before",
    "is_believed",
    "is_changed",
    "is_explained",
    "least_white_sigma",
    "looks_white",
    "may_be_texture",
]

LEAST_PROBABILITY, LEAST_PROBABILITY_OF_GRAY, GRAY = 0.9, 0.98, 0.1
"""Probability from which camera noise is removed. A missed one costs little; a texture taken for noise is destroyed.
Noise with less colour than a share of GRAY is more like the texture of gray things, such as stone and wood."""

LIKELY = 0.5
"""Probability below which weak white noise is not believed either."""

POSSIBLE = 0.2
"""Probability from which camera noise is removed where the estimate of white noise says that there is noise."""

SURE = 0.97
"""Probability from which the median estimate of the strength is used, and not the cautious one."""

LEAST_CAMERA_SIGMA, LEAST_WHITE_SIGMA = 1.3, 1.0
"""Standard deviations in levels from which noise is removed. Weaker noise is hardly seen, and is mostly texture."""

SURE_WHITE_SIGMA = 5.0
"""Standard deviation of white noise that is not an estimate from texture: photographs without noise reach 3.9."""

MAX_WHITE_CORRELATION, LEAST_WHITE_CHROMA, WHITE_SHARE = 0.25, 0.2, 0.75
"""Noise is taken for white, although it was measured, up to this correlation of neighbours, from this share of colour,
and if the estimate of white noise is at least this share of it. In coarse noise that estimate finds at most half."""

MOST_EXPLAINED = 1.3
"""Standard deviation of noise up to which compression explains it, as a multiple of the error that it expects."""

MOST_CHANGED = {"camera": 3.0, "white": 1.3}
"""Standard deviation of noise up to which compression has changed it, as a multiple of the error that it expects."""

LEAST_CHROMA = 0.03
"""Share of colour from which noise of a colour picture is sure. That of a sensor has more, and the fine texture of
stone or grass has less."""

KNOWN_QUALITY = 50
"""JPEG quality from which the noise estimator tells noise from compression by itself, because it was trained on it."""

COARSE, COLOURED = 0.75, 0.75
"""Correlation of neighbours and share of colour from which the luminance of a JPEG file need not show camera noise."""

LEAST_PROBABILITIES_BEFORE = {"wide": 0.03, "even": 0.4, "found": 0.8}
LEAST_PROBABILITIES_OF_FEW = {"wide": 0.9, "even": 0.9, "found": 0.985}
"""Probabilities from which noise is removed that the coefficients of a JPEG file show in flat blocks. Where these
blocks agree about its strength, and the more where half of all blocks do, it is hardly texture. Small pictures have
too few blocks for that."""


def is_believed(found: CameraNoise, white_sigma: float) -> bool:
    """Return whether camera noise is sure and strong enough to be removed unasked.

    Noise whose white part alone is strong needs less of a probability.

    Args:
        found: The noise that was measured.
        white_sigma: The estimate of white noise, on the 0..255 scale.
    """
    usual = LEAST_PROBABILITY_OF_GRAY if found.chroma < GRAY else LEAST_PROBABILITY
    least = POSSIBLE if white_sigma >= SURE_WHITE_SIGMA else usual
    return found.probability >= least and found.cautious >= LEAST_CAMERA_SIGMA


def looks_white(found: CameraNoise, white_sigma: float, *, is_gray: bool) -> bool:
    """Return whether what was measured is white noise, of which texture has misled the quicker test.

    Args:
        found: The noise that was measured.
        white_sigma: The estimate of white noise, on the 0..255 scale.
        is_gray: Whether the picture has no colour, so that its noise has none.
    """
    has_colour = is_gray or found.chroma >= LEAST_WHITE_CHROMA
    return has_colour and found.correlation <= MAX_WHITE_CORRELATION and white_sigma >= WHITE_SHARE * found.sigma


def least_white_sigma(probability: float | None) -> float:
    """Return the standard deviation in levels from which white noise is removed unasked.

    Args:
        probability: Probability of noise; None if it is not known.
    """
    return SURE_WHITE_SIGMA if probability is not None and probability < LIKELY else LEAST_WHITE_SIGMA


def is_before(found: CameraNoise, before: NoiseBefore | None, *, is_coarse: bool) -> bool:
    """Return whether noise is removed together with the compression, by what the coefficients of the file show.

    Args:
        found: The noise that was measured in the pixels.
        before: That of the coefficients; None if they show none.
        is_coarse: Whether the pixels alone tell how coarse noise is removed. White noise is removed as the file shows
            it in any case.
    """
    is_shown = before is not None and (before.is_white or not is_coarse)
    return is_shown and found.probability >= _least_probability(before)


def is_explained(noise: Noise, jpeg: Jpeg, before: NoiseBefore | None) -> bool:
    """Return whether the compression of a file explains all noise that was found in its pixels.

    Args:
        noise: What was found.
        jpeg: What is known of the file.
        before: The noise that its coefficients show; None if they show none.
    """
    if noise.kind == "camera" and jpeg.quality >= KNOWN_QUALITY and not _is_contradicted(noise, before):
        return False
    return noise.sigma <= MOST_EXPLAINED * jpeg.sigma * noise.strength


def is_changed(noise: Noise, jpeg: Jpeg) -> bool:
    """Return whether noise that compression does not explain was changed by it, or is in part its traces.

    Where several repairs are done, the compression is then undone before noise is looked for again. Stronger noise is
    removed from the picture as it is.

    Args:
        noise: What was found in the pixels.
        jpeg: What is known of the file.
    """
    return noise.sigma <= MOST_CHANGED[noise.kind] * jpeg.sigma * noise.strength


def may_be_texture(noise: Noise, *, is_colour: bool) -> bool:
    """Return whether camera noise without colour was found in a colour picture, whose texture may be taken for it.

    A command that is to remove noise removes it all the same; one that is to find out what a picture needs leaves it.
    """
    return noise.kind == "camera" and is_colour and noise.chroma < LEAST_CHROMA


def _is_contradicted(noise: Noise, before: NoiseBefore | None) -> bool:
    """Return whether the coefficients of the file speak against camera noise that was found in the pixels.

    Very coarse noise is in no coefficient that is looked at, and colour is not looked at.
    """
    is_looked_at = noise.correlation < COARSE and noise.chroma < COLOURED
    return is_looked_at and (noise.probability or 0.0) < _least_probability(before)


def _least_probability(before: NoiseBefore | None) -> float:
    """Return the probability of noise from which the noise is believed that a file shows; infinite if it shows none."""
    if before is None:
        return math.inf
    least = LEAST_PROBABILITIES_OF_FEW if before.is_of_few else LEAST_PROBABILITIES_BEFORE
    return least["wide" if before.is_wide else "even" if before.is_even else "found"]
