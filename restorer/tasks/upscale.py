"""Enlarge."""

from __future__ import annotations

from torch import Tensor

from restorer.diffusion.degradations import Bicubic
from restorer.diffusion.prior import Prior
from restorer.errors import ModelError, UsageError
from restorer.limits import check
from restorer.measurement.white_noise import estimate_sigma
from restorer.priors.latent import LatentPrior, ddim_plan, first_mean, latent_of
from restorer.priors.tiled import Tiled
from restorer.tasks.common import as_colour, check_picture, conditioned_plan, prior_for, to_unit
from restorer.tasks.defaults import LATENT_STEPS, UPSCALE
from restorer.tasks.job import Job, tiled

__all__ = ["check_latent", "prepare_upscale"]

QUANTIZATION = (2 / 255) ** 2 / 12  # variance of rounding to 8 bits, on the [-1, 1] scale
LATENT_TILE = 128  # side of a small picture that latent super-resolution does not cut: that of its published example
LATENT_METHODS = {"auto": 0.0, "ddim": 0.0, "ddpm": 1.0}  # eta of DDIM


def prepare_upscale(
    image: Tensor,
    scale: int = 4,
    *,
    sigma: float | None = 0.0,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
) -> Job:
    """Decide how to enlarge. Arguments as `restorer.upscale`, `image` a float tensor (C, H, W) in [0, 1]."""
    check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, scale=scale)
    model = prior_for("upscale", prior)
    if (latent := latent_of(model)) is not None:
        check_latent(latent, scale, sigma=sigma, steps=steps, detail=detail, method=method)
        return _latent_upscale(image, model, latent, steps or LATENT_STEPS, method, seed)
    channels = image.shape[0]
    estimated, sigma = sigma is None, estimate_sigma(image) if sigma is None else sigma
    degradation, y = Bicubic(scale), as_colour(image)
    start = degradation.pseudo_inverse(y)
    model = tiled(model, *start.shape[-2:])

    def finish(x: Tensor, first: Tensor) -> Tensor:
        if sigma > 0:
            return to_unit(x, channels)
        # On one channel for gray, so that rounding the mean of three cannot undo it.
        gray = x.mean(1, keepdim=True) if channels == 1 else x
        return to_unit(degradation.finish(gray, y[:, :channels]), channels)

    plan, used = conditioned_plan(model, UPSCALE[scale], steps, detail, method, seed, holes=False)
    return Job(
        model,
        plan,
        image,
        sigma,
        estimated,
        used,
        start,
        finish,
        degradation=degradation,
        y=y,
        noise_variance=max((2 * sigma / 255) ** 2, QUANTIZATION),
    )


def check_latent(
    prior: LatentPrior, scale: int, *, sigma: float | None, steps: int | None, detail: float | None, method: str
) -> None:
    """Refuse what means nothing to latent super-resolution, which is sampled as it was trained.

    Raises:
        UsageError: naming the option. ModelError: the network does not see colour pictures.
    """
    if prior.condition_channels != 3:
        raise ModelError(f"the model takes a condition of {prior.condition_channels} channels: that is no picture")
    if scale != prior.factor:
        raise UsageError(
            f"this model enlarges by {prior.factor}, not by {scale}", f"--scale {prior.factor}, or another --model"
        )
    if sigma != 0:
        raise UsageError("--sigma means nothing to this model: it takes the picture as it is", "leave it out")
    if detail is not None:
        raise UsageError("--detail means nothing to this model: its results are samples", "leave it out")
    if method not in LATENT_METHODS:
        text = f"this model is sampled by {', '.join(LATENT_METHODS)}, not by {method}"
        raise UsageError(text, "leave --method out")
    if steps is not None and steps > prior.most_steps:
        raise UsageError(
            f"steps must lie between 1 and {prior.most_steps} with this model, not {steps}", f"{LATENT_STEPS} are usual"
        )


def _latent_upscale(image: Tensor, model: Prior, latent: LatentPrior, steps: int, method: str, seed: int) -> Job:
    """Latent super-resolution: the small picture is as large as the latents of the large one, and seen beside them."""
    channels, small = image.shape[0], as_colour(image)
    plan = ddim_plan(latent.spec.schedule, steps, eta=LATENT_METHODS[method], seed=seed)
    side = LATENT_TILE
    return Job(
        model if isinstance(model, Tiled) else Tiled(model, side, overlap=side // 4),
        plan,
        image,
        sigma=0.0,
        estimated=False,
        detail=1.0,
        start=first_mean(plan, (1, latent.channels, *image.shape[-2:])),
        finish=lambda picture, first: to_unit(picture, channels),
        condition=small,
        notes=("shrinking the result does not give the input back with this model",),
    )
