"""Deblurring with a known kernel: at every step the picture is corrected so that blurring it gives the input.

The input is a measurement of the sharp picture x,

    y = M P K x + n

with the convolution K, the part P of it that the input shows, and without the highlights that M drops because they were
clipped. x is larger than the input: what lies outside was blurred in, and is restored as far as the data tell it, then
cut off (`diffusion/degradations/blur.py`).

The reverse process starts at a high level from the input, corrected once, and carries little noise or none: this is the
half-quadratic splitting of DPIR (Zhang et al. 2021, "Plug-and-Play Image Restoration With Deep Denoiser Prior",
https://arxiv.org/abs/2008.13751). Its trust in the data is the same for all kernels; here it depends on how much noise
the kernel makes a correction amplify. `detail` is the share of the noise that is carried from step to step.

Noise that is not white, and JPEG compression, are removed first, and what is left of the error is the noise of the
deblurring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import as_kernel
from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Canvas
from restorer.errors import UsageError
from restorer.images.sizes import Region
from restorer.limits import check
from restorer.measurement.jpeg import Jpeg
from restorer.models.feed_forward import FeedForward
from restorer.priors.tiled import Tiled
from restorer.tasks.common import as_colour, check_picture, degrader, select_prior, to_unit, without_equal_channels
from restorer.tasks.defaults import DEBLUR
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.job import Job
from restorer.tasks.left_over import left_for_deblurring
from restorer.tasks.region import MARGIN, Place
from restorer.tasks.started import DEBLUR_STARTED, alone, begun_from, check_start
from restorer.tasks.tiles import with_default_tiles
from restorer.tasks.uncertain import Doubt

__all__ = ["prepare_deblur"]

CLIPPED = 254.5 / 255
"""Value in [0, 1] from which a highlight counts as clipped."""

BISECTIONS = 12
"""Number of halvings by which the trust in the data is found, to a thousandth."""

SHARP = "the kernel is a single point: the picture is copied"


def prepare_deblur(
    image: Tensor,
    kernel: Tensor,
    *,
    sigma: float | None = None,
    noise: str = "auto",
    strength: float = 1.0,
    jpeg: Jpeg | None = None,
    evidence: Tensor | None = None,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    region: Region | None = None,
    start: FeedForward | None = None,
    prior: Prior | None = None,
) -> Job:
    """Prepare a job that undoes a blur.

    Args:
        image: The picture, float (C, H, W) in [0, 1] with C = 1 or 3.
        kernel: The kernel of the blur, (h, w), not negative; it is divided by its sum.
        sigma: Standard deviation of the noise on the 0..255 scale; None measures it.
        noise: As in `restorer.denoise`.
        strength: As in `restorer.denoise`.
        jpeg: What is known of the file of the picture if it is a JPEG; None if it is not, or if it is to be taken as it
            is.
        evidence: As in `prepare_denoise`.
        steps: Number of network evaluations of the deblurring; None for the default.
        detail: 0 (faithful and smooth) .. 1 (natural texture); None for the default.
        method: As in `restorer.denoise`.
        seed: As in `restorer.denoise`.
        region: The part of the picture that is returned; None for all of it. Noise and compression are measured, and
            removed, on the whole picture.
        start: The network from whose result the reverse process starts; None if it starts from the picture.
        prior: As in `restorer.denoise`.

    Raises:
        UsageError: A value is out of range, the tensor is not a picture, or the kernel is none or does not fit into the
            picture.
        ModelError: The prior or the network of the start cannot restore pictures.
    """
    check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, started=start is not None)
    try:
        known_kernel = as_kernel(kernel)
    except ValueError as error:
        raise UsageError(str(error), "give the kernel as a small picture, bright where light went") from error
    if known_kernel.shape[0] > image.shape[-2] or known_kernel.shape[1] > image.shape[-1]:
        size = f"{known_kernel.shape[1]}x{known_kernel.shape[0]}"
        raise UsageError(f"the kernel of {size} pixels is larger than the picture", "use a smaller kernel")
    model = select_prior("deblur", prior)
    if start is not None:
        check_start(start, "deblur", model)
        if steps == 0:
            return alone(start, image, Place.of(image, region), model)
    sharpen = partial(_deblur, kernel=known_kernel, steps=steps, detail=detail, method=method, seed=seed, region=region)

    def begin(job: Job) -> Job:
        """Return the job that starts from the result of the network, if there is one."""
        if start is None or job.plan is None:
            return job
        place = Place.of(image, region, MARGIN + max(known_kernel.shape))
        seen = place.seen(without_equal_channels(image))
        return _begun(job, start, seen, steps=steps, detail=detail, method=method)

    if sigma is not None:
        direct = sharpen(image, sigma=sigma, prior=model)
        return direct if start is None else replace(direct, measure=lambda: begin(direct), starter=start)
    first = prepare_denoise(
        image,
        None,
        noise=noise,
        strength=strength,
        outliers="off",
        jpeg=jpeg,
        evidence=evidence,
        seed=seed,
        prior=model,
    )

    def measure() -> Job:
        found = first.measured()
        kind = None if found.noise is None else found.noise.kind
        if found.plan is None or kind == "white":
            direct = begin(sharpen(image, sigma=found.sigma, prior=model))
            return replace(direct, estimated=True, noise=found.noise, jpeg=found.jpeg)
        left = left_for_deblurring(found.noise, found.jpeg)

        def again(restored: Tensor, used: Tiled) -> Job:
            return sharpen(restored, sigma=left, is_white=False, prior=used if isinstance(model, Tiled) else used.prior)

        job = again(image, found.prior)
        count = 0 if job.plan is None else job.plan.evaluations
        if start is not None and job.plan is not None:
            count = steps or DEBLUR_STARTED.steps
        return replace(
            found,
            detail=job.detail,
            second_pass=lambda restored, used: begin(again(restored, used)),
            second_pass_evaluations=count,
            starter=start,
            again=job.again,
        )

    if first.measure is None and start is None:
        return measure()
    return replace(first, measure=measure, starter=start)


def _begun(job: Job, start: FeedForward, seen: Tensor, *, steps: int | None, detail: float | None, method: str) -> Job:
    """Return a job that starts from the result of a network. What lies outside of the picture starts as without it.

    Args:
        job: The job, whose plan is known.
        start: The network.
        seen: What it sees: the window of the blurred picture, (C, h, w) in [0, 1].
        steps: Number of evaluations of the prior; None for the default.
        detail: The detail, 0..1; None for the default.
        method: One of METHODS.
    """
    assert job.plan is not None and isinstance(job.degradation, Blur)
    (down, across), level, answer = job.degradation.reach, job.plan.sigmas[-2], start(seen)
    mean = job.start.clone()
    mean[..., down : down + seen.shape[-2], across : across + seen.shape[-1]] = as_colour(answer.picture)
    begun = begun_from(job, mean, DEBLUR_STARTED, unit=level, steps=steps, detail=detail, method=method)
    assert begun.plan is not None
    highest, next_one = begun.plan.sigmas[0], begun.plan.sigmas[1] or level
    # As in the task without a start, a step corrects for the level of the next one.
    variance = level**2 * (highest / next_one) ** 2 / DEBLUR.trusts[0]
    return replace(begun, noise_variance=variance, starter=start, notes=(*job.notes, *answer.notes))


def _deblur(
    image: Tensor,
    *,
    kernel: Tensor,
    sigma: float,
    prior: Prior,
    steps: int | None,
    detail: float | None,
    method: str,
    seed: int,
    region: Region | None,
    is_white: bool = True,
) -> Job:
    """Prepare a job that undoes a blur, of a picture with noise of a known strength, which may not be white."""
    reduced = without_equal_channels(image)
    channels, place = len(reduced), Place.of(image, region, MARGIN + max(kernel.shape))
    part, y = place.exact(image), as_colour(place.seen(reduced))
    is_clipped = y >= 2 * CLIPPED - 1
    known = ~is_clipped if bool(is_clipped.any()) and not bool(is_clipped.all()) else None
    degradation = Blur(kernel, known)
    down, across = degradation.reach
    used = DEBLUR.detail if detail is None else detail
    start = _continued(y, down, across)
    model = with_default_tiles(prior, *start.shape[-2:])
    job = Job(model, None, part, sigma, False, used, y, lambda x, first: part)
    if kernel.numel() == 1:
        return job.with_note(SHARP)
    # The noise of a gray picture is the same in three channels, which is sqrt(3) times as much along the gray axis.
    assumed = max(sigma * DEBLUR.caution, DEBLUR.least) * (math.sqrt(3) if channels == 1 else 1)
    count, s_y = steps or DEBLUR.steps, 2 * assumed / 255
    first, last = max(2 * DEBLUR.first / 255, 2 * s_y), s_y
    levels = tuple(log_levels(first, last, count)) if count > 1 else (math.sqrt(first * last),)
    ratio = levels[0] / levels[1] if count > 1 else first / last
    auto = Plan(
        (*levels, 0.0),
        zeta=(1.0,) * count,
        kappa=DEBLUR.most_carried * used if method == "auto" else used,
        prior_variance=math.inf,
        correct_last=False,
        fresh_start=used > 0,
        mirrored=model.mirrors,
        seed=seed,
    )
    canvas = place.canvas and Canvas(
        image.shape[-2] + 2 * down, image.shape[-1] + 2 * across, place.window.top, place.window.left
    )
    # A step corrects for the level of the next one, at which its result is denoised.
    trust = _trust(degradation, s_y, levels) if is_white else DEBLUR.trusts[0]
    noise_variance = s_y**2 * ratio**2 / trust

    def cut(x: Tensor) -> Tensor:
        return place.inner(x[..., down : down + y.shape[-2], across : across + y.shape[-1]])

    def finish(x: Tensor, first: Tensor) -> Tensor:
        return to_unit(cut(x), channels).expand(part.shape)

    return replace(
        job,
        plan=make_plan(method, auto, start=levels[0], end=levels[-1], steps=count),
        start=degradation.correct(start, y, noise_variance, levels[0] ** 2),
        finish=finish,
        degradation=degradation,
        y=y,
        noise_variance=noise_variance,
        canvas=canvas,
        again=degrader(Blur(kernel)),
        doubt=Doubt("deblur", _radius(kernel), at=0.5, cut=cut, is_gray=channels == 1, canvas=canvas),
    )


def _trust(blur: Blur, s_y: float, levels: Sequence[float]) -> float:
    """Return the ratio of r^2 to sigma^2 at the level sigma at which a corrected picture is denoised, for white noise.

    The more the data are trusted, the more of their noise a correction amplifies, and passes on to a network that
    expects white noise of the level. The trust is raised above the least while that is a small share of the level.

    Args:
        blur: The blur.
        s_y: Standard deviation of the noise of the data.
        levels: The noise levels, on the same scale.
    """

    def share(trust: float) -> float:
        return sum(blur.noise_passed(s_y**2, trust * level**2) / level**2 for level in levels) / len(levels)

    low, high = DEBLUR.trusts
    if share(high) <= DEBLUR.passed:
        return high
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if share(middle) > DEBLUR.passed else (middle, high)
    return low


def _radius(kernel: Tensor) -> float:
    """Return the standard deviation in pixels along an axis, as the root of the mean square, of a normalized kernel."""
    total, variance = float(kernel.sum()), 0.0
    for axis in (0, 1):
        profile = kernel.double().sum(1 - axis) / total
        place = torch.arange(len(profile), dtype=torch.float64)
        variance += float((profile * (place - (profile * place).sum()).square()).sum()) / 2
    return math.sqrt(variance)


def _continued(y: Tensor, down: int, across: int) -> Tensor:
    """Return a picture continued beyond its borders by its mirror image."""
    mode = "reflect" if down < y.shape[-2] and across < y.shape[-1] else "replicate"
    return F.pad(y, (across, across, down, down), mode=mode)
