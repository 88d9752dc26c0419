"""The enlargement of one picture, or of one part of it, without regard to where it comes from.

`upscale.py` prepares it for pictures and for JPEG files, and `alpha.py` for transparency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.diffusion.prior import Prior
from restorer.images.resampling import resample
from restorer.images.sizes import Enlargement
from restorer.measurement.credible import find_credible
from restorer.priors.experts import State
from restorer.tasks.common import as_colour, degrader, to_unit
from restorer.tasks.defaults import EXPERT
from restorer.tasks.enlarging_plan import course_of
from restorer.tasks.job import Job, with_default_tiles
from restorer.tasks.region import MARGIN, Place
from restorer.tasks.uncertain import Doubt

__all__ = ["MOST_SIGMA", "EnlargeOptions", "Found", "enlarge", "margin_of"]

QUANTIZATION = (2 / 255) ** 2 / 12
"""Variance of the rounding to 8 bits, on the [-1, 1] scale."""

MOST_SIGMA = 4.0
"""Standard deviation of noise in levels above which noise hides whether shrinking can have made the picture."""

LEAST_MARGIN = 16
"""Least number of pixels around a region of a small picture that are enlarged with it."""

DAMAGED_SIGMA = 1.0
"""Error of the input in levels from which it counts as damaged."""

SOFT_NOTE = (
    "the picture is softer than shrinking makes pictures: it is enlarged and sharpened, and shrinking the result does "
    "not give it back (--detail 0 keeps it as it is)"
)

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


@dataclass(frozen=True)
class Found:
    """What was found out about a small picture.

    Args:
        sigma: Standard deviation of its error, on the 0..255 scale: of noise, or of compression.
        is_gray: Whether the channels of the whole picture are equal.
        is_soft: Whether it is softer than shrinking makes pictures.
    """

    sigma: float
    is_gray: bool
    is_soft: bool = False


def margin_of(factor: int) -> int:
    """Return the pixels around a region of a small picture that are enlarged with it."""
    return max(LEAST_MARGIN, math.ceil(MARGIN / factor))


def enlarge(part: Tensor, place: Place, options: EnlargeOptions, found: Found) -> Job:
    """Return the job that enlarges a part of a picture.

    Args:
        part: The window of the place, float (C, h, w) in [0, 1].
        place: The place of the part in the whole small picture.
        options: The options.
        found: What was found out about the whole small picture.
    """
    scale, large, sigma = options.factor, place.scaled(options.factor), found.sigma
    reduced = part[:1] if found.is_gray else part
    channels = reduced.shape[0]
    degradation, y = Bicubic(scale), as_colour(reduced)
    credible = find_credible(y, degradation) if sigma <= MOST_SIGMA else None
    y = y if credible is None else credible.data
    settings = options.steps, options.detail, options.method, options.seed
    is_damaged = sigma >= DAMAGED_SIGMA or credible is not None
    state: State = "damaged" if is_damaged else "soft" if found.is_soft else "clean"
    course = course_of(options.prior, scale, *settings, state=state)
    # The network of the first answer was trained on interpolated pictures, as they are.
    is_sharpened = course.is_expert and state == "soft" and course.share == 0
    start = _interpolated(as_colour(reduced), scale) if course.is_expert else degradation.pseudo_inverse(y)
    model = with_default_tiles(course.prior, *start.shape[-2:])

    def finish(x: Tensor, first: Tensor) -> Tensor:
        # A gray picture is finished in one channel, so that rounding the mean of three cannot undo the correction.
        mixed = torch.lerp(x, first.to(x), course.share) if course.share else x
        result = mixed.mean(1, keepdim=True) if channels == 1 else mixed
        result = result if sigma > 0 or is_sharpened else degradation.finish(result, y[:, :channels])
        result = result if credible is None else credible.limit(result)
        return _of_size(to_unit(result, channels), place, large, options.size).expand(len(part), -1, -1)

    job = Job(
        model,
        course.plan,
        part,
        sigma,
        False,
        course.detail,
        start,
        finish,
        degradation=None if is_sharpened else degradation,
        y=y,
        noise_variance=max((2 * sigma / 255) ** 2, QUANTIZATION),
        canvas=large.canvas,
        again=degrader(degradation) if place.canvas is None else None,
        doubt=Doubt("upscale", float(scale)),
    )
    if course.is_expert and course.detail <= EXPERT.detail:  # which draws no noise
        sampled = replace(options, detail=1.0)
        job = replace(job, reseed=lambda seed: enlarge(part, place, replace(sampled, seed=seed), found))
    job = job if credible is None else job.with_note(DOUBTED)
    return job.with_note(SOFT_NOTE) if is_sharpened else job


def _interpolated(y: Tensor, scale: int) -> Tensor:
    """Return a small picture (B, C, h, w) enlarged by the bicubic filter, (B, C, h s, w s), not clipped."""
    for axis in (-2, -1):
        length = scale * y.shape[axis]
        y = resample(y, axis, length, y.shape[axis], first=0, count=length)
    return y


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
