"""The jobs of the restoring verbs for one picture, as their options say. Python functions and runs share them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restorer.images.conversion import Given
from restorer.images.files import alpha_tensor
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.models.feed_forward import FeedForward
from restorer.tasks.auto import prepare_auto
from restorer.tasks.blind_deblur import prepare_blind_deblur
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.options import (
    AutoOptions,
    DeblurOptions,
    DejpegOptions,
    DenoiseOptions,
    InpaintOptions,
    UpscaleOptions,
)
from restorer.tasks.upscale import prepare_upscale

__all__ = ["auto_job", "deblur_job", "dejpeg_job", "denoise_job", "inpaint_job", "sized_by", "upscale_job"]

# `common` holds the region, the start and the prior, as the `prepare_...` functions take them.


def denoise_job(options: DenoiseOptions, given: Given, **common: Any) -> Job:
    """Return the job of `denoise`."""
    measuring = _measuring(options, given, is_compressed=options.sigma != 0)
    return prepare_denoise(given.image, outliers=options.outliers, **measuring, **options.sampling, **common)


def dejpeg_job(options: DejpegOptions, given: Given, **common: Any) -> Job:
    """Return the job of `dejpeg`."""
    sampling = {name: value for name, value in options.sampling.items() if name != "sigma"}
    return prepare_dejpeg(given.image, find_jpeg(given.image, given.file), **sampling, **common)


def deblur_job(options: DeblurOptions, kernel: Tensor | None, given: Given, **common: Any) -> Job:
    """Return the job of `deblur`; without a kernel, it finds the blur."""
    measuring = _measuring(options, given, is_compressed=options.sigma is None)
    if kernel is None:
        return prepare_blind_deblur(given.image, **measuring, **options.sampling, **common)
    return prepare_deblur(given.image, kernel, **measuring, **options.sampling, **common)


def inpaint_job(options: InpaintOptions, fill: np.ndarray, given: Given, **common: Any) -> Job:
    """Return the job of `inpaint`, which fills the pixels where `fill`, bool (H, W), is True."""
    holes = torch.from_numpy(fill)
    return prepare_inpaint(given.image, holes, candidates=options.candidates, **options.sampling, **common)


def sized_by(start: FeedForward, options: UpscaleOptions) -> UpscaleOptions:
    """Return the options of `upscale` with the scale by which a start enlarges.

    Raises:
        ModelError: The start does not enlarge.
    """
    start.check("upscale")
    return replace(options, scale=start.scale)


def upscale_job(options: UpscaleOptions, given: Given, **common: Any) -> Job:
    """Return the job of `upscale`."""
    alpha = None if given.source is None else alpha_tensor(given.source)
    jpeg = find_jpeg(given.image, given.file) if options.jpeg == "auto" and not options.sigma else None
    return prepare_upscale(given.image, options.size, jpeg=jpeg, alpha=alpha, **options.sampling, **common)


def auto_job(options: AutoOptions, given: Given, **common: Any) -> Job:
    """Return the job of `auto`."""
    return prepare_auto(
        given.image,
        scale=options.size,
        without=options.without,
        evidence=given.visible,
        jpeg=find_jpeg(given.image, given.file),  # known, so that it is allowed for, even if it is left
        alpha=None if options.size is None or given.source is None else alpha_tensor(given.source),
        detail=options.detail,
        seed=options.seed,
        **common,
    )


def _measuring(options: DenoiseOptions | DeblurOptions, given: Given, *, is_compressed: bool) -> dict[str, Any]:
    """Return what `denoise` and `deblur` are told about what they measure.

    Args:
        options: The options of the command.
        given: The picture.
        is_compressed: Whether its compression counts, unless the options say that it is left.
    """
    jpeg = find_jpeg(given.image, given.file) if options.jpeg == "auto" and is_compressed else None
    return {"noise": options.noise, "strength": options.strength, "evidence": given.visible, "jpeg": jpeg}
