"""Enlarging: at every step the picture is corrected so that shrinking it gives the input.

The input is a measurement of the large picture x,

    y = A x + n,    A Pillow's bicubic resampling, n the rounding to 8 bits or the noise of the input

and the correction of each step draws the prediction towards it (DDNM, Wang et al. 2023,
https://arxiv.org/abs/2212.00490). `detail` is the factor on the noise that is carried from step to step. If the input
has no noise, the last correction also takes the rounding and clipping of the written file into account.

A small picture is repaired first, which takes little time at its size: what compression did to a JPEG is undone
(`tasks/dejpeg.py`), as far as its file goes, white noise is removed (`tasks/denoise.py`), and so is the blur of a
picture that is softer than shrinking makes pictures (`tasks/soft.py`). What is left of the error is the noise of the
input. The prior alone, which the options may ask for, takes noise and softness as they are.

Noise is measured, and so is whether the picture is softer than shrinking makes pictures (`measurement/softness.py`).
What no shrinking can have made, such as a drawing, is believed less (`measurement/credible.py`), and so is a picture
that was shrunk without a filter (`measurement/aliasing.py`). A drawing (`measurement/drawn.py`) is enlarged faithfully
by default, because the network of the first answer has seen hardly any and draws halos beside lines.

A latent prior enlarges without such a measurement: it is sampled as it was trained, with the small picture as its
condition (`priors/latent.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.errors import ModelError, UsageError
from restorer.images.sizes import Enlargement, Region
from restorer.limits import SCALES, check
from restorer.measurement.aliasing import is_aliased
from restorer.measurement.drawn import AFTER_JPEG, is_drawn
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.softness import SOFT, estimate_softness
from restorer.measurement.white_noise import estimate_sigma, is_in_luminance
from restorer.models.feed_forward import FeedForward
from restorer.priors.latent import LatentPrior, ddim_plan, first_mean, latent_of
from restorer.priors.tiled import Tiled
from restorer.tasks.alpha import prepare_alpha
from restorer.tasks.common import (
    as_colour,
    check_picture,
    select_prior,
    to_unit,
    without_equal_channels,
)
from restorer.tasks.defaults import LATENT_STEPS
from restorer.tasks.dejpeg import can_be_restored, prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.enlarge import (
    DAMAGED_SIGMA,
    FIRST_DETAIL,
    MOST_SIGMA,
    SOFT_NOTE,
    EnlargeOptions,
    Found,
    enlarge,
    evaluations_of,
    first_course,
    margin_of,
    needs_detail_to_vary,
    of_size,
    shrinker,
)
from restorer.tasks.job import Job
from restorer.tasks.left_over import left_of_compression, left_of_noise
from restorer.tasks.region import Place
from restorer.tasks.soft import LEFT_OF_BLUR, blur_of_softness, undo_blur
from restorer.tasks.started import Begin, alone, check_start
from restorer.tasks.uncertain import Doubt

__all__ = ["LATENT_TILE", "check_latent_options", "prepare_upscale"]

ALPHA_NOTE = "the transparency is enlarged as a picture of its own, in as many steps"

LEAST_NOISE = 5.0
"""Least noise in levels that is claimed to be noise. A small picture holds much fine detail that looks like less."""

MOST_TEXTURE = 10.0
"""Noise in levels from which it is noise, even if the channels share it, as they share texture."""

DRAWN_NOTE = "the picture is a drawing: it is enlarged faithfully, as with --detail 0 (--detail 0.5 draws details)"

LATENT_TILE = 128
"""Side up to which latent super-resolution does not tile a small picture, in pixels: that of its published example."""

LATENT_METHODS = {"auto": 0.0, "ddim": 0.0, "ddpm": 1.0}
"""Value of eta in DDIM, by the method of latent super-resolution."""


def prepare_upscale(
    image: Tensor,
    scale: float | Enlargement = 4,
    *,
    sigma: float | None = 0.0,
    jpeg: Jpeg | None = None,
    alpha: Tensor | None = None,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    region: Region | None = None,
    start: FeedForward | None = None,
    prior: Prior | None = None,
) -> Job:
    """Prepare a job that enlarges a picture.

    Args:
        image: The picture, float (C, H, W) in [0, 1] with C = 1 or 3.
        scale: The factor, above 1 and at most 8, or the size of the result.
        sigma: As in `restorer.upscale`; None estimates it.
        jpeg: What is known of the file of the picture if it is a JPEG; None if it is not, or if it is to be taken as it
            is. It does not count beside a sigma above 0.
        alpha: The transparency of the picture, float (H, W) in [0, 1], which is enlarged as a picture of its own; None
            if there is none. A latent prior leaves it out.
        steps: As in `restorer.upscale`.
        detail: As in `restorer.upscale`.
        method: As in `restorer.upscale`.
        seed: As in `restorer.upscale`.
        region: The part of the picture that is enlarged and returned; None for all of it.
        start: The network from whose result the reverse process starts; None if it starts from the picture.
        prior: As in `restorer.upscale`.

    Raises:
        UsageError: A value is out of range or does not apply to the prior, the tensor is not a picture, or the region
            lies outside of it.
        ModelError: The prior or the network of the start cannot upscale.
    """
    check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, started=start is not None)
    size = scale if isinstance(scale, Enlargement) else Enlargement(scale)
    model = select_prior("upscale", prior)
    factor = size.factor(image.shape[-1], image.shape[-2])
    if start is not None:
        if size.scale is None and factor < start.scale in SCALES:
            factor = start.scale  # a result of given sides is shrunk from what the network makes
        check_start(start, "upscale", model, factor)
        if steps == 0:
            return _alone(start, image, Place.of(image, region, margin_of(factor)), size, model)
    if (latent := latent_of(model)) is not None:
        check_latent_options(latent, _exact_factor(size, image), sigma=sigma, steps=steps, detail=detail, method=method)
        return _prepare_latent(image, model, latent, steps or LATENT_STEPS, method, seed, region)
    options = EnlargeOptions(size, factor, steps, detail, method, seed, model)
    of_alpha = None if alpha is None else prepare_alpha(alpha, options, region)
    if start is not None:
        seen = Place.of(image, region, margin_of(factor)).seen(without_equal_channels(image))
        options = replace(options, begin=Begin(start, seen, steps))
    is_gray = len(without_equal_channels(image)) == 1
    drawn = not sigma and is_drawn(image)
    is_faithful = drawn and detail is None and start is None and first_course(options).is_expert
    options = replace(options, detail=0.0) if is_faithful else options
    if jpeg is not None and not sigma and can_be_restored(jpeg):
        job = _prepare_jpeg(image, jpeg, options, region, is_gray)
    elif _is_repaired_first(used := _noise_of(image) if sigma is None else sigma, options):
        job = replace(_prepare_noisy(image, used, options, region, is_gray), estimated=sigma is None)
    elif used == 0 and not drawn and (kernel := _blur_before(image, options)) is not None:
        job = _prepare_soft(image, kernel, options, region, is_gray).with_note(SOFT_NOTE)
        job = replace(job, estimated=sigma is None)
    else:
        place = Place.of(image, region, margin_of(factor))
        is_soft, is_judged = used == 0 and estimate_softness(image) >= SOFT, used <= MOST_SIGMA and not drawn
        found = Found(used, is_gray, is_soft, is_drawn=drawn, is_aliased=is_judged and is_aliased(image))
        job = enlarge(place.seen(image), place, options, found)
        part, estimated = place.exact(image), sigma is None
        job = _changed(job, lambda job: replace(job, image=part, estimated=estimated))
    job = _changed(job, lambda job: job.with_note(DRAWN_NOTE)) if is_faithful else job
    return job if of_alpha is None else _changed(job, lambda job: replace(job, alpha=of_alpha).with_note(ALPHA_NOTE))


def _changed(job: Job, change: Callable[[Job], Job]) -> Job:
    """Return a job with a change that the job which follows from its measurement has too."""
    measure = job.measure
    changed = change(job)
    return changed if measure is None else replace(changed, measure=lambda: change(measure()))


def _alone(start: FeedForward, image: Tensor, place: Place, size: Enlargement, model: Prior) -> Job:
    """Prepare a job whose result is that of a network by itself."""
    return alone(start, image, place, model, lambda made: of_size(made, place, place.scaled(start.scale), size))


def _exact_factor(size: Enlargement, image: Tensor) -> float:
    """Return the factor by which a picture is enlarged; that of its width if it is not the same in both axes."""
    return size.scale or size.size(image.shape[-1], image.shape[-2])[0] / image.shape[-1]


def _noise_of(image: Tensor) -> float:
    """Return the standard deviation of the noise of a small picture in levels; 0 for less than can be told apart."""
    sigma = estimate_sigma(image)
    is_texture = sigma < LEAST_NOISE or (sigma < MOST_TEXTURE and is_in_luminance(image, sigma))
    return 0.0 if is_texture else sigma


def _is_repaired_first(sigma: float, options: EnlargeOptions) -> bool:
    """Return whether noise is removed before the enlargement: the network of the first answer is better after it."""
    return sigma >= DAMAGED_SIGMA and options.begin is None and first_course(options).is_expert


def _prepare_noisy(image: Tensor, sigma: float, options: EnlargeOptions, region: Region | None, is_gray: bool) -> Job:
    """Prepare a job of two passes: one that removes white noise from a small picture, and one that enlarges it."""

    def denoise(window: Region | None, seed: int) -> Job:
        told: dict[str, Any] = {"outliers": "off", "detail": FIRST_DETAIL, "seed": seed}
        job = prepare_denoise(image, sigma, **told, region=window, prior=options.prior)
        return replace(job, noise=None, redo=None)

    return _prepare_repaired(image, denoise, left_of_noise(sigma), options, region, is_gray)


def _blur_before(image: Tensor, options: EnlargeOptions) -> Tensor | None:
    """Return the kernel of the blur that is undone before the enlargement; None if none is."""
    course = first_course(options)
    if options.begin is not None or not course.is_expert or course.share > 0:
        return None
    return blur_of_softness(image, options.prior)


def _prepare_soft(image: Tensor, kernel: Tensor, options: EnlargeOptions, region: Region | None, is_gray: bool) -> Job:
    """Prepare a job of two passes: one that undoes the blur of a small picture, and one that enlarges it."""

    def deblur(window: Region | None, seed: int) -> Job:
        job = undo_blur(image, kernel, seed, options.prior, window)
        return replace(job, sigma=0.0, redo=None)

    return _prepare_repaired(image, deblur, LEFT_OF_BLUR, options, region, is_gray, is_judged=False)


def _prepare_jpeg(image: Tensor, jpeg: Jpeg, options: EnlargeOptions, region: Region | None, is_gray: bool) -> Job:
    """Prepare a job of two passes: one that undoes the compression of a small picture, and one that enlarges it."""
    detail = FIRST_DETAIL if options.begin is None and first_course(options).is_expert else None

    def decompress(window: Region | None, seed: int) -> Job:
        job = prepare_dejpeg(image, jpeg, detail=detail, seed=seed, region=window, prior=options.prior)
        return replace(job, sigma=0.0, estimated=False)

    return _prepare_repaired(image, decompress, left_of_compression(jpeg), options, region, is_gray)


def _prepare_repaired(
    image: Tensor,
    repair: Callable[[Region | None, int], Job],
    left: float,
    options: EnlargeOptions,
    region: Region | None,
    is_gray: bool,
    *,
    is_judged: bool = True,
) -> Job:
    """Prepare a job of two passes: one that repairs a small picture, and one that enlarges it.

    Args:
        image: The small picture.
        repair: Returns the job of the first pass, for a part of the picture, None for all of it, and a seed.
        left: Standard deviation in levels of the error that it leaves.
        options: The options.
        region: As in `prepare_upscale`.
        is_gray: As in `Found`.
        is_judged: Whether the repaired picture is judged by whether it was shrunk without a filter.
    """
    place = Place.of(image, region, margin_of(options.factor))

    def enlarge_repaired(repaired: Tensor, used: Tiled) -> Job:
        # Tiles that were chosen for the small picture do not suit the large one.
        model = used if isinstance(options.prior, Tiled) else used.prior
        again = replace(options, prior=model)
        found = Found(
            left,
            is_gray,
            was_repaired=True,
            is_drawn=is_drawn(repaired, AFTER_JPEG),
            is_aliased=is_judged and is_aliased(repaired),
        )
        return enlarge(repaired, place, again, found).measured()

    course, begin = first_course(options), options.begin
    reseed: Callable[[int], Job] | None = None
    if begin is None and needs_detail_to_vary(course):

        def reseed(seed: int) -> Job:
            return _prepare_repaired(image, repair, left, options.sampled(seed), region, is_gray, is_judged=is_judged)

    return replace(
        repair(None if place.canvas is None else place.window, options.seed),
        detail=course.detail if begin is None else begin.detail(options.detail, options.method),
        second_pass=enlarge_repaired,
        second_pass_evaluations=evaluations_of(options, "repaired") if begin is None else begin.evaluations,
        starter=None if begin is None else begin.network,
        second_pass_size=(options.factor * place.window.height, options.factor * place.window.width),
        again=shrinker(place),
        doubt=Doubt("upscale", float(options.factor)),
        reseed=reseed,
    )


def check_latent_options(
    prior: LatentPrior,
    scale: float | None,
    *,
    sigma: float | None,
    steps: int | None,
    detail: float | None,
    method: str,
) -> None:
    """Check that the options apply to latent super-resolution, which is sampled as it was trained.

    Args:
        prior: The latent prior.
        scale: Enlargement factor; None if the sides of the result are given, which must then agree with the model.
        sigma: Value of the option `sigma`; None if it is to be measured, which this model does not need.
        steps: Number of network evaluations; None for the default.
        detail: Value of the option `detail`; None if it is not given.
        method: Value of the option `method`.

    Raises:
        UsageError: An option does not apply or is out of range. The message names it.
        ModelError: The condition of the network is not a colour picture.
    """
    if prior.condition_channels != 3:
        raise ModelError(
            f"the model takes a condition of {prior.condition_channels} channels, which is not a colour picture"
        )
    if scale is not None and scale != prior.factor:
        raise UsageError(
            f"this model enlarges by {prior.factor}, not by {scale:g}",
            f"use --scale {prior.factor}, or choose another --model",
        )
    if sigma:
        raise UsageError("--sigma does not apply to this model, which takes the picture as it is", "leave --sigma out")
    if detail is not None:
        raise UsageError("--detail does not apply to this model, whose results are samples", "leave --detail out")
    if method not in LATENT_METHODS:
        raise UsageError(
            f"this model has the methods {', '.join(LATENT_METHODS)}, but not {method}", "leave --method out"
        )
    if steps is not None and steps > prior.most_steps:
        raise UsageError(
            f"with this model, steps must lie between 1 and {prior.most_steps}, not {steps}",
            f"the default is --steps {LATENT_STEPS}",
        )


def _prepare_latent(
    image: Tensor, model: Prior, latent: LatentPrior, steps: int, method: str, seed: int, region: Region | None
) -> Job:
    """Prepare a job of latent super-resolution.

    The small picture has the size of the latents of the large one, and the network sees it beside them.

    Args:
        image: The small picture, float (C, H, W) in [0, 1].
        model: The prior as it was given, tiled or not.
        latent: The latent prior behind it.
        steps: Number of network evaluations.
        method: A key of LATENT_METHODS.
        seed: Seed of the noise field.
        region: The part that is enlarged; None for all of it.
    """
    channels, place = image.shape[0], Place.of(image, region)
    part, large = place.seen(image), place.scaled(latent.factor)
    plan = ddim_plan(latent.spec.schedule, steps, eta=LATENT_METHODS[method], seed=seed)
    return Job(
        model if isinstance(model, Tiled) else Tiled(model, LATENT_TILE, overlap=LATENT_TILE // 4),
        plan,
        place.exact(image),
        sigma=0.0,
        estimated=False,
        detail=1.0,
        start=first_mean(plan, (1, latent.channels, *part.shape[-2:])),
        finish=lambda picture, first: large.inner(to_unit(picture, channels)),
        condition=as_colour(part),
        canvas=place.canvas,
        doubt=Doubt("upscale", float(latent.factor)),
        notes=("shrinking the result does not give the input back with this model",),
    )
