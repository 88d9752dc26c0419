"""The enlargement of one picture, or of one part of it, without regard to where it comes from.

`upscale.py` prepares it for pictures and for JPEG files, and `alpha.py` for transparency.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.diffusion.prior import Prior
from restorer.images.resampling import resample
from restorer.images.sizes import Enlargement
from restorer.measurement.credible import find_credible
from restorer.measurement.drawn import find_limits
from restorer.priors.experts import State
from restorer.priors.tiled import Tiled
from restorer.tasks.common import as_colour, to_unit
from restorer.tasks.defaults import EXPERT
from restorer.tasks.enlarging_plan import Course, course_of, stages_of
from restorer.tasks.job import Job
from restorer.tasks.region import MARGIN, Place
from restorer.tasks.started import UPSCALE_STARTED, Begin, begun_from
from restorer.tasks.tiles import with_default_tiles
from restorer.tasks.uncertain import Doubt

__all__ = [
    "DAMAGED_SIGMA",
    "FIRST_DETAIL",
    "MOST_SIGMA",
    "SOFT_NOTE",
    "EnlargeOptions",
    "Found",
    "enlarge",
    "evaluations_of",
    "first_course",
    "margin_of",
    "needs_detail_to_vary",
    "of_size",
    "shrinker",
    "state_of",
]

QUANTIZATION = (2 / 255) ** 2 / 12
"""Variance of the rounding to 8 bits, on the [-1, 1] scale."""

MOST_SIGMA = 4.0
"""Standard deviation of noise in levels above which noise hides whether shrinking can have made the picture."""

LEAST_MARGIN = 16
"""Least number of pixels around a region of a small picture that are enlarged with it."""

DAMAGED_SIGMA = 1.0
"""Error of the input in levels from which it counts as damaged."""

FIRST_DETAIL = 1.0
"""Detail of the repair before an enlargement by the network of the first answer. What the repair smooths away cannot be
enlarged, and noise that it leaves is taken away with the rest."""

LEAST_TOLERANCE, TOLERANCE = 2.0, 4.0
"""Range in levels up to which the pixels of a ground differ after an earlier repair, and the same for each level of the
error that it has left."""

SOFT_NOTE = (
    "the picture is softer than shrinking makes pictures: it is enlarged and sharpened, and shrinking the result does "
    "not give it back (--detail 0 keeps it as it is)"
)

DOUBTED = (
    "parts of the picture are sharper than shrinking makes them: they are followed less closely, so that shrinking the "
    "result does not give them back exactly"
)


@dataclass(frozen=True)
class EnlargeOptions:
    """The options of an enlargement. Their meaning is that of the arguments of `prepare_upscale`.

    Args:
        factor: The factor by which the diffusion model enlarges; a result of another size is shrunk from there.
        begin: The network from whose result the reverse process starts; None if it starts from the picture.
    """

    size: Enlargement
    factor: int
    steps: int | None
    detail: float | None
    method: str
    seed: int
    prior: Prior
    begin: Begin | None = None

    @property
    def settings(self) -> tuple[int | None, float | None, str, int]:
        """The number of steps, the detail, the method and the seed of a course; with a start, those of the prior."""
        if self.begin is not None:
            return None, 0.0, self.method, self.seed
        return self.steps, self.detail, self.method, self.seed

    def sampled(self, seed: int) -> EnlargeOptions:
        """Return the options of a sample beside a result that draws little noise: all detail, in the default steps.

        The steps of the result, which may be one, do not suit it.
        """
        return replace(self, detail=1.0, steps=None, seed=seed)


@dataclass(frozen=True)
class Found:
    """What was found out about a small picture.

    Args:
        sigma: Standard deviation of its error, on the 0..255 scale: of noise, or of compression.
        is_gray: Whether the channels of the whole picture are equal.
        is_soft: Whether it is softer than shrinking makes pictures.
        was_repaired: Whether noise was removed from it, or a compression undone.
        is_drawn: Whether it is a drawing.
        is_aliased: Whether it was shrunk without a filter.
        was_enlarged: Whether it is itself the result of an enlargement, which needs no judgement.
    """

    sigma: float
    is_gray: bool
    is_soft: bool = False
    was_repaired: bool = False
    is_drawn: bool = False
    is_aliased: bool = False
    was_enlarged: bool = False


def margin_of(factor: int) -> int:
    """Return the pixels around a region of a small picture that are enlarged with it."""
    return max(LEAST_MARGIN, math.ceil(MARGIN / factor))


def evaluations_of(options: EnlargeOptions, state: State = "clean") -> int:
    """Return the number of evaluations that an enlargement takes.

    Args:
        options: The options.
        state: What is known of the small picture.
    """
    steps, detail, method, seed = options.settings
    stages = stages_of(options.prior, options.factor, steps, detail, method)
    courses = (
        course_of(options.prior, factor, own, detail, method, seed, state=state if number == 0 else "clean")
        for number, (factor, own) in enumerate(stages)
    )
    return sum(course.plan.evaluations for course in courses)


def first_course(options: EnlargeOptions) -> Course:
    """Return the course of the first pass, for a picture without noise; the detail is that of all passes."""
    steps, detail, method, seed = options.settings
    factor, own = stages_of(options.prior, options.factor, steps, detail, method)[0]
    return course_of(options.prior, factor, own, detail, method, seed, state="clean")


def enlarge(part: Tensor, place: Place, options: EnlargeOptions, found: Found, mean: Tensor | None = None) -> Job:
    """Return the job that enlarges a part of a picture, in two passes where the factor is a large one.

    Args:
        part: As in `_enlarge_once`.
        place: As in `_enlarge_once`.
        options: The options.
        found: What was found out about the whole small picture.
        mean: As in `_enlarge_once`.
    """
    steps, detail, method, _ = options.settings
    stages = stages_of(options.prior, options.factor, steps, detail, method)
    if len(stages) == 1 or options.begin is not None:
        return _enlarge_once(part, place, options, found, mean)
    (first, first_steps), (second, second_steps) = stages
    window = Place(place.height, place.width, place.window, place.window)
    job = _enlarge_once(part, window, replace(options, size=Enlargement(first), factor=first, steps=first_steps), found)

    def enlarge_again(enlarged: Tensor, used: Tiled) -> Job:
        # Tiles that were chosen for the smaller picture do not suit the larger one.
        model = used if isinstance(options.prior, Tiled) else used.prior
        again = replace(options, factor=second, steps=second_steps, prior=model)
        known = Found(0.0, found.is_gray, is_drawn=found.is_drawn, was_enlarged=True)
        return _enlarge_once(enlarged, place.scaled(first), again, known, origin=place).measured()

    def sampled(seed: int) -> Job:
        is_quiet = needs_detail_to_vary(first_course(options))
        return enlarge(part, place, options.sampled(seed) if is_quiet else replace(options, seed=seed), found)

    return replace(
        job,
        second_pass=enlarge_again,
        second_pass_evaluations=evaluations_of(options)
        - evaluations_of(replace(options, factor=first, steps=first_steps)),
        second_pass_size=(options.factor * place.window.height, options.factor * place.window.width),
        reseed=sampled,
        again=shrinker(place),
        doubt=Doubt("upscale", float(options.factor)),
    )


def _enlarge_once(
    part: Tensor,
    place: Place,
    options: EnlargeOptions,
    found: Found,
    mean: Tensor | None = None,
    origin: Place | None = None,
) -> Job:
    """Return the job that enlarges a part of a picture in one pass.

    Args:
        part: The window of the place, float (C, h, w) in [0, 1].
        place: The place of the part in the whole small picture.
        options: The options.
        found: What was found out about the whole small picture.
        mean: What the network of `options.begin` makes of the part, (1, 3, H, W) on [-1, 1]; None to evaluate it when
            the job is measured.
        origin: The place in the picture before an earlier enlargement, to which the size of the result refers; None if
            there was none.
    """
    scale, large, sigma = options.factor, place.scaled(options.factor), found.sigma
    reduced = part[:1] if found.is_gray else part
    channels = reduced.shape[0]
    degradation, y = Bicubic(scale), as_colour(reduced)
    is_judged = sigma <= MOST_SIGMA and not found.was_enlarged
    credible = find_credible(y, degradation, is_aliased=found.is_aliased) if is_judged else None
    doubt = None if credible is None else credible.doubt
    limits = (
        find_limits(y, tolerance=tolerance_of(found), everywhere=found.is_drawn, doubt=doubt) if mean is None else None
    )
    if credible is not None:
        # What shrinking cannot have made is left as the network has made it, if there is one.
        y = credible.data if mean is None else torch.lerp(y, degradation.measure(mean), credible.doubt)
    state = state_of(found, is_doubted=credible is not None)
    course = course_of(options.prior, scale, *options.settings, state=state)
    # The network of the first answer was trained on interpolated pictures, as they are.
    is_sharpened = course.is_expert and state == "soft" and course.share == 0
    height, width = (scale * side for side in part.shape[-2:])
    start = _resized(as_colour(reduced), height, width) if course.is_expert else degradation.pseudo_inverse(y)
    model = with_default_tiles(course.prior, *start.shape[-2:])

    def finish(x: Tensor, first: Tensor) -> Tensor:
        # A gray picture is finished in one channel, so that rounding the mean of three cannot undo the correction.
        mixed = torch.lerp(x, first.to(x), course.share) if course.share else x
        result = mixed.mean(1, keepdim=True) if channels == 1 else mixed
        result = result if sigma > 0 or is_sharpened else degradation.finish(result, y[:, :channels])
        result = result if credible is None or mean is not None else credible.limit(result)
        result = result if limits is None else limits.apply(result)
        return of_size(to_unit(result, channels), origin or place, large, options.size).expand(len(part), -1, -1)

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
        again=shrinker(place),
        doubt=Doubt("upscale", float(scale)),
    )
    if options.begin is not None:
        return job if mean is not None else _begun(job, part, place, options, found)
    if needs_detail_to_vary(course):
        job = replace(job, reseed=lambda seed: _enlarge_once(part, place, options.sampled(seed), found))
    job = job if credible is None else job.with_note(DOUBTED)
    return job.with_note(SOFT_NOTE) if is_sharpened else job


def needs_detail_to_vary(course: Course) -> bool:
    """Return whether results of a course draw little noise or none, so that samples beside them need more detail."""
    return course.is_expert and course.detail <= EXPERT.detail


def tolerance_of(found: Found) -> float:
    """Return the range in levels up to which neighbouring pixels of a small picture count as equal."""
    if found.was_repaired:
        return max(LEAST_TOLERANCE, TOLERANCE * found.sigma)
    return LEAST_TOLERANCE if found.was_enlarged else 0.0


def state_of(found: Found, *, is_doubted: bool) -> State:
    """Return what the network of the first answer is told of a picture."""
    if found.was_repaired:
        return "repaired"
    if is_doubted or found.sigma >= DAMAGED_SIGMA:
        return "damaged"
    return "soft" if found.is_soft else "clean"


def _begun(job: Job, part: Tensor, place: Place, options: EnlargeOptions, found: Found) -> Job:
    """Return a job that starts from the result of a network, which is evaluated when the job is measured."""
    assert options.begin is not None
    network, picture, steps = options.begin.network, options.begin.picture, options.begin.steps

    def measure() -> Job:
        answer = network(picture)
        mean = as_colour(answer.picture)
        begun = enlarge(part, place, options, found, mean)
        begun = begun_from(
            begun, mean, UPSCALE_STARTED, unit=1.0, steps=steps, detail=options.detail, method=options.method
        )
        return replace(begun, starter=network, notes=(*begun.notes, *answer.notes))

    return replace(job, measure=measure, starter=network)


def shrinker(place: Place) -> Callable[[Tensor], Tensor] | None:
    """Return the function that shrinks a result to the size of the small picture, as Pillow's bicubic filter does.

    Args:
        place: The place of the part in the small picture.

    Returns:
        The function, from (C, H, W) to (C, h, w); None if the result is a part of the picture, because the filter
        reaches beyond it.
    """
    if (place.region.width, place.region.height) != (place.width, place.height):
        return None
    return partial(_resized, height=place.height, width=place.width)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    """Return a picture (..., H, W) resized by the bicubic filter, (..., height, width), not clipped."""
    for axis, length in ((-2, height), (-1, width)):
        x = resample(x, axis, length, x.shape[axis], first=0, count=length)
    return x


def of_size(x: Tensor, place: Place, large: Place, size: Enlargement) -> Tensor:
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
