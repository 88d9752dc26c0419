"""The enlargement of one picture, or of one part of it, without regard to where it comes from.

`upscale.py` prepares it for pictures and for JPEG files, and `alpha.py` for transparency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.diffusion.prior import Prior
from restorer.images.resampling import resample
from restorer.images.sizes import Enlargement
from restorer.measurement.credible import find_credible
from restorer.tasks.common import as_colour, conditioned_plan, to_unit
from restorer.tasks.defaults import UPSCALE
from restorer.tasks.job import Job, with_default_tiles
from restorer.tasks.region import MARGIN, Place

__all__ = ["MOST_SIGMA", "EnlargeOptions", "enlarge", "margin_of"]

QUANTIZATION = (2 / 255) ** 2 / 12
"""Variance of the rounding to 8 bits, on the [-1, 1] scale."""

MOST_SIGMA = 4.0
"""Standard deviation of noise in levels above which noise hides whether shrinking can have made the picture."""

LEAST_MARGIN = 16
"""Least number of pixels around a region of a small picture that are enlarged with it."""

DOUBTED = (
    "parts of the picture are sharper than shrinking makes them, as drawings and screenshots are: they are enlarged "
    "more softly, and shrinking the result does not give them back"
)


@dataclass(frozen=True)
class EnlargeOptions:
    """The options of an enlargement. Their meaning is that of the arguments of `prepare_upscale`.

    Args:
        factor: The factor by which the diffusion model enlarges; a result of another size is shrunk from there.
    """

    size: Enlargement
    factor: int
    steps: int | None
    detail: float | None
    method: str
    seed: int
    prior: Prior


def margin_of(factor: int) -> int:
    """Return the pixels around a region of a small picture that are enlarged with it."""
    return max(LEAST_MARGIN, math.ceil(MARGIN / factor))


def enlarge(part: Tensor, place: Place, options: EnlargeOptions, sigma: float, *, is_gray: bool) -> Job:
    """Return the job that enlarges a part of a picture.

    Args:
        part: The window of the place, float (C, h, w) in [0, 1].
        place: The place of the part in the whole small picture.
        options: The options.
        sigma: Standard deviation of the noise, on the 0..255 scale.
        is_gray: Whether the channels of the whole picture are equal.
    """
    scale, large = options.factor, place.scaled(options.factor)
    reduced = part[:1] if is_gray else part
    channels = reduced.shape[0]
    degradation, y = Bicubic(scale), as_colour(reduced)
    credible = find_credible(y, degradation) if sigma <= MOST_SIGMA else None
    y = y if credible is None else credible.data
    start = degradation.pseudo_inverse(y)
    model = with_default_tiles(options.prior, *start.shape[-2:])

    def finish(x: Tensor, first: Tensor) -> Tensor:
        # A gray picture is finished in one channel, so that rounding the mean of three cannot undo the correction.
        result = x.mean(1, keepdim=True) if channels == 1 else x
        result = result if sigma > 0 else degradation.finish(result, y[:, :channels])
        result = result if credible is None else credible.limit(result)
        return _of_size(to_unit(result, channels), place, large, options.size).expand(len(part), -1, -1)

    settings = options.steps, options.detail, options.method, options.seed
    plan, used_detail = conditioned_plan(model, UPSCALE[scale], *settings, holes=False)
    job = Job(
        model,
        plan,
        part,
        sigma,
        False,
        used_detail,
        start,
        finish,
        degradation=degradation,
        y=y,
        noise_variance=max((2 * sigma / 255) ** 2, QUANTIZATION),
        canvas=large.canvas,
    )
    return job if credible is None else job.with_note(DOUBTED)


def _of_size(x: Tensor, place: Place, large: Place, size: Enlargement) -> Tensor:
    """Return the region of a result in the size that was asked for, float (C, H', W') in [0, 1].

    Args:
        x: The window of the picture as the model has enlarged it, (C, H, W).
        place: The place of the window in the small picture.
        large: The same in the enlarged picture.
        size: The size of the result.
    """
    wide, high = size.size(place.width, place.height)
    if (wide, high) == (large.width, large.height):
        return large.inner(x)
    part = size.part(place.region, place.width, place.height)
    for axis, length, of, first, count, offset in (
        (-2, high, large.height, part.top, part.height, large.window.top),
        (-1, wide, large.width, part.left, part.width, large.window.left),
    ):
        x = resample(x, axis, length, of, first=first, count=count, offset=offset)
    return x.clamp(0, 1)
