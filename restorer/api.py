"""The Python API: the three tasks on Pillow images and tensors.

from restorer import load_prior, denoise, inpaint, upscale
clean = denoise(Image.open("noisy.png"))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step
from restorer.errors import UsageError
from restorer.images.files import from_pil, to_pil, to_tensor, with_result
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.upscale import prepare_upscale

__all__ = ["denoise", "inpaint", "upscale"]

AnyPicture = TypeVar("AnyPicture", Tensor, Image.Image)


def _restore(
    picture: AnyPicture,
    prepare: Callable[[Tensor], Job],
    on_step: Callable[[Step], None] | None,
    keep: np.ndarray | None = None,
) -> AnyPicture:
    """Run a job on a Pillow image or a tensor, and give back the same kind."""
    if isinstance(picture, Tensor):
        if not picture.is_floating_point():
            raise UsageError(f"a tensor holds floats in [0, 1], not {picture.dtype}", "divide by 255")
        job = prepare(picture.detach().float().cpu())
        if job.plan is None:
            return picture.clone()
        result = job.run(on_step).image.to(picture.device, picture.dtype)
        return result if keep is None else torch.where(torch.from_numpy(keep).to(picture.device), picture, result)
    if not isinstance(picture, Image.Image):
        raise UsageError(f"a picture is a PIL image or a float tensor, not {type(picture).__name__}")
    held = from_pil(picture)
    job = prepare(to_tensor(held))
    if job.plan is None:
        return to_pil(held)
    return to_pil(with_result(held, job.run(on_step).image, keep=keep))


def denoise(
    picture: AnyPicture,
    sigma: float | None = None,
    *,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> AnyPicture:
    """Remove noise.

    Args:
        picture: a PIL image, or a float tensor (C, H, W) in [0, 1] with C = 1 or 3, which is not clamped.
        sigma: standard deviation of its noise on the 0..255 scale; None to have it estimated; 0 gives it back.
        steps: network evaluations; `steps=1` alone, or `detail=0`, is the posterior mean.
        detail: 0 (faithful, smooth) .. 1 (natural texture); None for the measured default.
        method: a preset of the reverse process, one of `restorer.diffusion.plan.METHODS`.
        seed: of the noise field.
        prior: what `load_prior` gave; None for the embedded one.
        on_step: called with a `restorer.diffusion.reverse.Step` after every evaluation.

    Returns:
        The same kind, the same size.

    Raises:
        UsageError: a value out of range.
    """

    def prepare(image: Tensor) -> Job:
        return prepare_denoise(image, sigma, steps=steps, detail=detail, method=method, seed=seed, prior=prior)

    return _restore(picture, prepare, on_step)


def inpaint(
    picture: AnyPicture,
    mask: Any,
    *,
    sigma: float = 0.0,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> AnyPicture:
    """Fill holes; with sigma 0 every other pixel stays as it is, bit for bit.

    Args:
        picture: as in `denoise`; what it holds under the mask does not matter.
        mask: a PIL image, array or tensor (H, W) of the picture's size; non-zero = fill.
        sigma: noise of the known pixels, 0..255 scale; above 0 they are restored too.
        steps, detail, method, seed, prior, on_step: as in `denoise`; detail is the noise carried from step to step.

    Returns:
        The same kind, the same size.

    Raises:
        UsageError: a value out of range, or a mask of another size.
    """
    fill = np.asarray(mask.convert("L") if isinstance(mask, Image.Image) else mask) != 0
    fill = fill.reshape(fill.shape[-2:]) if fill.ndim > 2 and fill.size == math.prod(fill.shape[-2:]) else fill

    def prepare(image: Tensor) -> Job:
        hole = torch.from_numpy(fill)
        return prepare_inpaint(
            image, hole, sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, prior=prior
        )

    return _restore(picture, prepare, on_step, keep=~fill if sigma == 0 else None)


def upscale(
    picture: AnyPicture,
    scale: int = 4,
    *,
    sigma: float = 0.0,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> AnyPicture:
    """Enlarge; with sigma 0, shrinking the result by Pillow's bicubic filter gives the input back.

    With a prior of latent super-resolution it does not; the scale is then the model's own, and sigma, detail and most
    methods mean nothing.

    Args:
        picture: as in `denoise`.
        scale: 2, 3, 4 or 8.
        sigma: noise of the small picture, 0..255 scale.
        steps, detail, method, seed, prior, on_step: as in `inpaint`.

    Returns:
        The same kind, `scale` times as high and as wide.

    Raises:
        UsageError: a value out of range.
    """

    def prepare(image: Tensor) -> Job:
        return prepare_upscale(
            image, scale, sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, prior=prior
        )

    return _restore(picture, prepare, on_step)
