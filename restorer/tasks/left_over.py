"""What a first repair leaves of an error, as the noise for which the repair after it allows.

What is left is not white noise, so it matters what the next repair does with it. `tests/bench/left_over.py CBSD68
--first 1 --every 5` removes camera noise of 6 to 22 levels, JPEG compression, or both, from four blurred pictures each,
and deblurs them for several strengths of noise:

    removed           left, as a share of the error    best for a deblurring
    camera noise      .40 to .56                       .3 of the noise; .5 is .1 to .2 dB below
    compression       .67 to .79                       .5 to 1 of the error of the compression
    both              .37 to .53                       .3 to .7 of the error of the compression; 1 is 0 to .3 dB below

Too little costs up to 2 dB, and too much a few tenths, so the shares here lie at the upper end: half of the noise, and
all of the error of a compression, which leaves structure at the edges of its blocks and beside edges. An enlargement
amplifies nothing. What it takes for noise it takes away, and most of what is left is texture that is missing, and is no
noise.
"""

from __future__ import annotations

from restorer.measurement.jpeg import Jpeg
from restorer.measurement.noise import Noise

__all__ = ["left_for_deblurring", "left_of_compression", "left_of_noise"]

NOISE = 0.5
"""Share of the noise that is left when it has been removed."""

COMPRESSION = 1.0
"""Share of the error of a compression for which a deblurring allows."""

ENLARGED = 0.25
"""Share of either for which an enlargement allows."""


def left_for_deblurring(noise: Noise | None, jpeg: Jpeg | None) -> float:
    """Return the noise for which a deblurring allows after noise and compression were removed, in levels.

    Args:
        noise: The noise that was removed; None if none was.
        jpeg: The compression that was undone, or that the noise has hidden; None if there was none.
    """
    removed = 0.0 if noise is None else NOISE * noise.sigma
    return removed if jpeg is None else max(removed, COMPRESSION * jpeg.sigma)


def left_of_compression(jpeg: Jpeg) -> float:
    """Return the noise for which an enlargement allows after a compression was undone, in levels."""
    return ENLARGED * jpeg.sigma


def left_of_noise(sigma: float) -> float:
    """Return the noise for which an enlargement allows after white noise of sigma levels was removed, in levels."""
    return ENLARGED * sigma
