"""The step of `auto` that enlarges a picture, if that is asked for.

The blur of a picture that is softer than shrinking makes pictures is undone before. At a detail of 0, at which the
result is to give the picture back, the blur is looked for in the enlarged picture instead, where it is as many times
wider, and is undone if it is sure and wide, as in a picture that is not enlarged.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.sizes import Region
from restorer.measurement.aliasing import is_aliased
from restorer.measurement.drawn import is_drawn
from restorer.measurement.softness import SOFT, estimate_softness
from restorer.tasks.blind_deblur import find_blur
from restorer.tasks.common import without_equal_channels
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.defaults import DEBLUR
from restorer.tasks.enlarge import (
    FIRST_DETAIL,
    SOFT_NOTE,
    EnlargeOptions,
    Found,
    enlarge,
    evaluations_of,
    first_course,
    margin_of,
    shrinker,
    state_of,
)
from restorer.tasks.enlarging_plan import course_of
from restorer.tasks.finding import Finding, Left, Seen
from restorer.tasks.finding_blur import is_wide
from restorer.tasks.job import Job
from restorer.tasks.passes import Pass, chained, everything
from restorer.tasks.region import Place
from restorer.tasks.soft import LEFT_OF_BLUR, blur_of_softness, undo_blur

__all__ = ["LEFT_SOFT", "SHARPENED", "enlarge_options", "enlarged_size", "find_size_step"]

SHARPENED = "the enlarged picture is sharpened, so that shrinking the result does not give the picture back"
LEFT_SOFT = "the enlarged picture is soft, and is left so, because no blur is sure"


def find_size_step(seen: Seen) -> Finding | None:
    """Enlarge the picture if that is asked for. A picture that is softer than shrinking makes pictures is sharpened."""
    if seen.scale is None:
        return None
    size, (height, width) = seen.scale, seen.image.shape[-2:]
    factor, is_gray = size.factor(width, height), len(without_equal_channels(seen.image)) == 1
    drawn, aliased = not seen.found and is_drawn(seen.image), not seen.found and is_aliased(seen.image)
    softness = 0.0 if seen.found or drawn or "blur" in seen.without else estimate_softness(seen.image)
    is_soft, by = softness >= SOFT, size.scale or size.size(width, height)[0] / width
    sharpened = course_of(seen.prior, factor, None, seen.detail, "auto", seen.seed, state="soft")
    is_sharpened = is_soft and sharpened.is_expert and sharpened.share == 0
    is_deblurred = is_soft and seen.detail == 0
    kernel = blur_of_softness(seen.image, seen.prior) if is_sharpened else None

    def prepare(detail: float | None, left: Left) -> Pass:
        detail = 0.0 if drawn and detail is None else detail
        is_expert = first_course(enlarge_options(seen, detail, seen.prior)).is_expert
        # The prior alone is better if it believes a picture whose noise was removed.
        sigma = left.sigma if is_expert or left.was_compressed else 0.0
        sigma = sigma if kernel is None else LEFT_OF_BLUR
        is_repaired = kernel is not None or left.was_compressed or left.was_noisy
        found = Found(sigma, is_gray, is_soft, is_repaired, is_drawn=drawn, is_aliased=aliased)
        state = state_of(found, is_doubted=False)
        course = course_of(seen.prior, factor, None, detail, "auto", seen.seed, state=state)

        def begin(image: Tensor, prior: Prior, region: Region | None) -> Job:
            place = Place.of(seen.image, region, margin_of(factor))
            part = place.seen(image) if image.shape == seen.image.shape else image
            options = enlarge_options(seen, detail, prior)
            return replace(enlarge(part, place, options, found), image=place.exact(seen.image))

        whole = Place.of(seen.image, None)
        enlarging = Pass(
            begin,
            evaluations_of(enlarge_options(seen, detail, seen.prior), state),
            course.detail,
            partial(_window, seen.image, factor),
            enlarged_size(seen, whole),
            shrinker(whole),
        )
        if kernel is not None:
            return _once_deblurred(seen, kernel, enlarging)
        return _then_deblurred(seen, enlarging, detail) if is_deblurred else enlarging

    words = f"a blur of about {softness:.1f} pixels" if is_sharpened or is_deblurred else ""
    then = ", then deblur" if is_deblurred else ""
    before = FIRST_DETAIL if first_course(enlarge_options(seen, seen.detail, seen.prior)).is_expert else 0.0
    return Finding(words, f"upscale by {by:.3g}{then}", prepare, noise_detail=before, jpeg_detail=before)


def enlarge_options(seen: Seen, detail: float | None, prior: Prior) -> EnlargeOptions:
    """Return the options of the enlargement of a picture whose size is given."""
    assert seen.scale is not None
    factor = seen.scale.factor(seen.image.shape[-1], seen.image.shape[-2])
    return EnlargeOptions(seen.scale, factor, None, detail, "auto", seen.seed, prior)


def enlarged_size(seen: Seen, place: Place) -> tuple[int, int] | None:
    """Return the height and width of what the model computes for an enlargement of a place; None for no enlargement."""
    if seen.scale is None:
        return None
    factor = seen.scale.factor(place.width, place.height)
    return factor * place.window.height, factor * place.window.width


def _window(image: Tensor, factor: int, region: Region | None) -> Region | None:
    """Return the part of a picture from which a region is enlarged; None for all of it."""
    place = Place.of(image, region, margin_of(factor))
    return None if place.canvas is None else place.window


def _once_deblurred(seen: Seen, kernel: Tensor, enlarging: Pass) -> Pass:
    """Return the pass that undoes the blur of a soft picture, and then enlarges it."""

    def deblur(image: Tensor, prior: Prior, region: Region | None) -> Job:
        return undo_blur(image, kernel, seen.seed, prior, region).with_note(SOFT_NOTE)

    return _in_turn(Pass(deblur, DEBLUR.steps, FIRST_DETAIL, everything), enlarging, enlarging)


def _then_deblurred(seen: Seen, enlarging: Pass, detail: float | None) -> Pass:
    """Return the pass that enlarges a picture faithfully, and then undoes a blur that is sure.

    Args:
        seen: The small picture.
        enlarging: The pass that enlarges it.
        detail: The detail of the deblurring.
    """

    def deblur(image: Tensor, prior: Prior, region: Region | None) -> Job:
        assert seen.scale is not None
        part = None if region is None else seen.scale.part(region, seen.image.shape[-1], seen.image.shape[-2])
        blur = find_blur(image, None, prior)
        is_undone = blur is not None and is_wide(blur) and blur.is_sure
        kernel = blur.kernel() if blur is not None and is_undone else torch.ones(1, 1)
        job = prepare_deblur(image, kernel, sigma=0.0, detail=detail, seed=seen.seed, region=part, prior=prior)
        return replace(job, notes=(SHARPENED if is_undone else LEFT_SOFT,), again=None)

    undo = Pass(deblur, DEBLUR.steps, DEBLUR.detail if detail is None else detail, everything)
    return _in_turn(enlarging, undo, enlarging)


def _in_turn(first: Pass, second: Pass, enlarging: Pass) -> Pass:
    """Return the pass that does two, of which one enlarges."""
    return Pass(
        partial(chained, (first, second)),
        first.evaluations + second.evaluations,
        second.detail,
        everything,
        enlarging.size,
        enlarging.again,
    )
