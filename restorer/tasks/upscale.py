"""Enlarging: at every step the picture is corrected so that shrinking it gives the input.

The input is a measurement of the large picture x,

    y = A x + n,    A Pillow's bicubic resampling, n the rounding to 8 bits or the noise of the input

and the correction of each step draws the prediction towards it (DDNM, Wang et al. 2023,
https://arxiv.org/abs/2212.00490). `detail` is the factor on the noise that is carried from step to step. If the input
has no noise, the last correction also takes the rounding and clipping of the written file into account.

A small JPEG is believed as far as its file goes: what compression did to it is undone first (`tasks/dejpeg.py`), which
takes little time at the small size, and what is left of the error is the noise of the input.

What no shrinking can have made, such as a drawing, is believed less (`measurement/credible.py`).

A latent prior enlarges without such a measurement: it is sampled as it was trained, with the small picture as its
condition (`priors/latent.py`).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.diffusion.prior import Prior
from restorer.errors import ModelError, UsageError
from restorer.limits import check
from restorer.measurement.credible import find_credible
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.white_noise import estimate_sigma
from restorer.priors.latent import LatentPrior, ddim_plan, first_mean, latent_of
from restorer.priors.tiled import Tiled
from restorer.tasks.common import (
    as_colour,
    check_picture,
    conditioned_plan,
    select_prior,
    to_unit,
    without_equal_channels,
)
from restorer.tasks.defaults import LATENT_STEPS, UPSCALE
from restorer.tasks.dejpeg import can_be_restored, prepare_dejpeg
from restorer.tasks.job import Job, with_default_tiles

__all__ = ["LATENT_TILE", "check_latent_options", "prepare_upscale"]

QUANTIZATION = (2 / 255) ** 2 / 12
"""Variance of the rounding to 8 bits, on the [-1, 1] scale."""

MOST_SIGMA = 4.0
"""Standard deviation of noise in levels above which noise hides whether shrinking can have made the picture."""

DOUBTED = (
    "parts of the picture are sharper than shrinking makes them, as drawings and screenshots are: they are enlarged "
    "more softly, and shrinking the result does not give them back"
)

LEFT_OVER = 0.25
"""Standard deviation of the error that is left when compression has been undone, as a share of what it was."""

LATENT_TILE = 128
"""Side up to which latent super-resolution does not tile a small picture, in pixels: that of its published example."""

LATENT_METHODS = {"auto": 0.0, "ddim": 0.0, "ddpm": 1.0}
"""Value of eta in DDIM, by the method of latent super-resolution."""


def prepare_upscale(
    image: Tensor,
    scale: int = 4,
    *,
    sigma: float | None = 0.0,
    jpeg: Jpeg | None = None,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
) -> Job:
    """Prepare a job that enlarges a picture.

    Args:
        image: The picture, float (C, H, W) in [0, 1] with C = 1 or 3.
        scale: As in `restorer.upscale`.
        sigma: As in `restorer.upscale`; None estimates it.
        jpeg: What is known of the file of the picture if it is a JPEG; None if it is not, or if it is to be taken as it
            is. It does not count beside a sigma above 0.
        steps: As in `restorer.upscale`.
        detail: As in `restorer.upscale`.
        method: As in `restorer.upscale`.
        seed: As in `restorer.upscale`.
        prior: As in `restorer.upscale`.

    Raises:
        UsageError: A value is out of range or does not apply to the prior, or the tensor is not a picture.
        ModelError: The prior cannot upscale.
    """
    check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, scale=scale)
    model = select_prior("upscale", prior)
    if (latent := latent_of(model)) is not None:
        check_latent_options(latent, scale, sigma=sigma, steps=steps, detail=detail, method=method)
        return _prepare_latent(image, model, latent, steps or LATENT_STEPS, method, seed)
    if jpeg is not None and sigma == 0 and can_be_restored(jpeg):
        return _prepare_jpeg(image, scale, jpeg, steps=steps, detail=detail, method=method, seed=seed, prior=model)
    reduced = without_equal_channels(image)
    channels = reduced.shape[0]
    estimated, sigma = sigma is None, estimate_sigma(image) if sigma is None else sigma
    degradation, y = Bicubic(scale), as_colour(reduced)
    credible = find_credible(y, degradation) if sigma <= MOST_SIGMA else None
    y = y if credible is None else credible.data
    start = degradation.pseudo_inverse(y)
    model = with_default_tiles(model, *start.shape[-2:])

    def finish(x: Tensor, first: Tensor) -> Tensor:
        # A gray picture is finished in one channel, so that rounding the mean of three cannot undo the correction.
        result = x.mean(1, keepdim=True) if channels == 1 else x
        result = result if sigma > 0 else degradation.finish(result, y[:, :channels])
        result = result if credible is None else credible.limit(result)
        return to_unit(result, channels).expand(len(image), -1, -1)

    plan, used_detail = conditioned_plan(model, UPSCALE[scale], steps, detail, method, seed, holes=False)
    job = Job(
        model,
        plan,
        image,
        sigma,
        estimated,
        used_detail,
        start,
        finish,
        degradation=degradation,
        y=y,
        noise_variance=max((2 * sigma / 255) ** 2, QUANTIZATION),
    )
    return job if credible is None else job.with_note(DOUBTED)


def _prepare_jpeg(
    image: Tensor,
    scale: int,
    jpeg: Jpeg,
    *,
    steps: int | None,
    detail: float | None,
    method: str,
    seed: int,
    prior: Prior,
) -> Job:
    """Prepare a job of two passes: one that undoes the compression of a small picture, and one that enlarges it."""
    sigma = LEFT_OVER * jpeg.sigma

    def enlarge(restored: Tensor, used: Tiled) -> Job:
        # Tiles that were chosen for the small picture do not suit the large one.
        model = used if isinstance(prior, Tiled) else used.prior
        return prepare_upscale(
            restored, scale, sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, prior=model
        )

    plan, used_detail = conditioned_plan(prior, UPSCALE[scale], steps, detail, method, seed, holes=False)
    return replace(
        prepare_dejpeg(image, jpeg, seed=seed, prior=prior),
        sigma=0.0,
        estimated=False,
        detail=used_detail,
        second_pass=enlarge,
        second_pass_evaluations=plan.evaluations,
    )


def check_latent_options(
    prior: LatentPrior, scale: int, *, sigma: float | None, steps: int | None, detail: float | None, method: str
) -> None:
    """Check that the options apply to latent super-resolution, which is sampled as it was trained.

    Args:
        prior: The latent prior.
        scale: Enlargement factor.
        sigma: Value of the option `sigma`; None if it is to be estimated.
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
    if scale != prior.factor:
        raise UsageError(
            f"this model enlarges by {prior.factor}, not by {scale}",
            f"use --scale {prior.factor}, or choose another --model",
        )
    if sigma != 0:
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


def _prepare_latent(image: Tensor, model: Prior, latent: LatentPrior, steps: int, method: str, seed: int) -> Job:
    """Prepare a job of latent super-resolution.

    The small picture has the size of the latents of the large one, and the network sees it beside them.

    Args:
        image: The small picture, float (C, H, W) in [0, 1].
        model: The prior as it was given, tiled or not.
        latent: The latent prior behind it.
        steps: Number of network evaluations.
        method: A key of LATENT_METHODS.
        seed: Seed of the noise field.
    """
    channels = image.shape[0]
    plan = ddim_plan(latent.spec.schedule, steps, eta=LATENT_METHODS[method], seed=seed)
    return Job(
        model if isinstance(model, Tiled) else Tiled(model, LATENT_TILE, overlap=LATENT_TILE // 4),
        plan,
        image,
        sigma=0.0,
        estimated=False,
        detail=1.0,
        start=first_mean(plan, (1, latent.channels, *image.shape[-2:])),
        finish=lambda picture, first: to_unit(picture, channels),
        condition=as_colour(image),
        notes=("shrinking the result does not give the input back with this model",),
    )
