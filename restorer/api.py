"""The Python API: denoise, dejpeg, inpaint and upscale Pillow images and tensors.

Example:
    from PIL import Image
    from restorer import denoise

    clean = denoise(Image.open("noisy.png"))
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step
from restorer.errors import UsageError
from restorer.images.files import fit_mask, from_pil, load_mask, to_pil, to_tensor, visible_pixels, with_result
from restorer.images.masks import grow as grow_mask
from restorer.limits import check, check_denoising
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.upscale import prepare_upscale

__all__ = ["dejpeg", "denoise", "inpaint", "upscale"]

AnyPicture = TypeVar("AnyPicture", Tensor, Image.Image)


def _restore(
    picture: AnyPicture,
    prepare: Callable[[Tensor, Tensor | None], Job],
    on_step: Callable[[Step], None] | None,
    keep: np.ndarray | None = None,
) -> AnyPicture:
    """Run a job on a Pillow image or a tensor, and return the result as the same type.

    Args:
        picture: As in `denoise`.
        prepare: Makes the job of a float32 tensor (C, H, W) in [0, 1] on the CPU, and of the visible pixels, bool
            (H, W), or None if all are visible.
        on_step: As in `denoise`.
        keep: bool (H, W), True at the pixels that the result copies from the input; None copies none.

    Raises:
        UsageError: The picture is neither a Pillow image nor a float tensor.
    """
    if isinstance(picture, Tensor):
        if not picture.is_floating_point():
            raise UsageError(
                f"a tensor must hold floats in [0, 1], not {picture.dtype}", "convert it to float and divide it by 255"
            )
        job = prepare(picture.detach().float().cpu(), None).measured()
        if job.plan is None:
            return picture.clone()
        result = job.run(on_step).image.to(picture.device, picture.dtype)
        return result if keep is None else torch.where(torch.from_numpy(keep).to(picture.device), picture, result)
    if not isinstance(picture, Image.Image):
        raise UsageError(f"the picture must be a PIL image or a float tensor, not {type(picture).__name__}")
    source = from_pil(picture)
    job = prepare(to_tensor(source), visible_pixels(source)).measured()
    if job.plan is None:
        return to_pil(source)
    return to_pil(with_result(source, job.run(on_step).image, keep=keep))


def denoise(
    picture: AnyPicture,
    sigma: float | None = None,
    *,
    noise: str = "auto",
    strength: float = 1.0,
    jpeg: str = "auto",
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> AnyPicture:
    """Remove noise, or what JPEG compression did where there is no noise beyond it.

    Args:
        picture: A PIL image, or a float tensor (C, H, W) in [0, 1] with C = 1 or 3. Values of a tensor outside this
            range are not clamped.
        sigma: Standard deviation of white noise on the 0..255 scale; 0 returns the picture unchanged. None measures the
            noise, white or not.
        noise: The noise that may be found: "auto" looks for both kinds, "white" and "camera" for one of them, and "off"
            removes no noise.
        strength: Factor on the noise that is measured: more than 1 removes more.
        jpeg: "auto" undoes JPEG compression that is stronger than the noise, as `dejpeg` does; "off" leaves it.
        steps: Number of network evaluations; None selects the default. `steps=1` alone, like `detail=0`, returns the
            posterior mean.
        detail: 0 (faithful and smooth) .. 1 (natural texture); None selects the default.
        method: Preset of the reverse process, one of `restorer.diffusion.plan.METHODS`.
        seed: Seed of the noise field, an integer from 0.
        prior: The result of `load_prior`; None selects the embedded prior.
        on_step: Called with a `restorer.diffusion.reverse.Step` after every network evaluation.

    Returns:
        The restored picture, of the same type and size as the input.

    Raises:
        UsageError: A value is out of range.
        ModelError: The prior cannot denoise, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """

    check_denoising(jpeg=jpeg)

    def prepare(image: Tensor, visible: Tensor | None) -> Job:
        return prepare_denoise(
            image,
            sigma,
            noise=noise,
            strength=strength,
            evidence=visible,
            jpeg=find_jpeg(image, _file_of(picture)) if jpeg == "auto" and sigma is None else None,
            steps=steps,
            detail=detail,
            method=method,
            seed=seed,
            prior=prior,
        )

    return _restore(picture, prepare, on_step)


def dejpeg(
    picture: AnyPicture,
    *,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> AnyPicture:
    """Remove the blocks and the ringing of JPEG compression. Compressing the result again gives the picture back.

    Args:
        picture: As in `denoise`. The tables are those of the file of a PIL image that was opened from one; those of any
            other picture are found in its pixels, if it was a JPEG before.
        steps: Number of network evaluations; None selects the default.
        detail: 0 (the mean of all pictures that the file may stand for) .. 1 (one of them); None selects the default.
        method: As in `denoise`.
        seed: As in `denoise`.
        prior: As in `denoise`.
        on_step: As in `denoise`.

    Returns:
        The restored picture, of the same type and size as the input; the input itself if no compression is found.

    Raises:
        UsageError: A value is out of range.
        ModelError: The prior cannot restore pictures, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """

    def prepare(image: Tensor, visible: Tensor | None) -> Job:
        jpeg = find_jpeg(image, _file_of(picture))
        return prepare_dejpeg(image, jpeg, steps=steps, detail=detail, method=method, seed=seed, prior=prior)

    return _restore(picture, prepare, on_step)


def _file_of(picture: Tensor | Image.Image) -> bytes | None:
    """Return the JPEG file that a Pillow image was opened from; None if there is none, or the image was changed."""
    name = getattr(picture, "filename", "")
    if not isinstance(picture, JpegImageFile) or not name:
        return None
    # The file may have been removed or replaced by anything since the image was opened.
    with contextlib.suppress(OSError, SyntaxError, ValueError, TypeError):
        data = Path(os.fsdecode(name)).read_bytes()
        with JpegImageFile(io.BytesIO(data)) as image:
            is_alike = (image.mode, image.size) == (picture.mode, picture.size)
            return data if is_alike and ImageChops.difference(image, picture).getbbox() is None else None
    return None


def inpaint(
    picture: AnyPicture,
    mask: Any,
    *,
    grow: int | None = None,
    sigma: float = 0.0,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> AnyPicture:
    """Fill holes. If sigma is 0, all other pixels stay as they are, bit for bit.

    Args:
        picture: As in `denoise`. The values under the mask are ignored.
        mask: What to fill. Of an array or a tensor (H, W) of the size of the picture, the non-zero values. A PIL image
            or the path of a file is understood as the command understands it (`restorer.images.mask_meaning`): white on
            black, strokes of any colour on transparency, or a copy of the picture with its holes erased.
        grow: Pixels by which the holes are grown. None selects 1 for a mask image with soft edges and a picture that
            was opened from a JPEG file, and 0 otherwise.
        sigma: Standard deviation of the noise of the known pixels on the 0..255 scale. If it is above 0, the known
            pixels are restored too.
        steps: Number of network evaluations; None selects the default.
        detail: Share of the noise that is carried from step to step, 0 (faithful and smooth) .. 1 (natural texture);
            None selects the default.
        method: As in `denoise`.
        seed: As in `denoise`.
        prior: As in `denoise`.
        on_step: As in `denoise`.

    Returns:
        The filled picture, of the same type and size as the input.

    Raises:
        UsageError: A value is out of range, the mask has another size than the picture, or nothing in it tells where
            the holes are.
        PictureError: The file of the mask cannot be read.
        ModelError: The prior cannot inpaint, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """
    check(grow=grow)
    fill = _holes(picture, mask, grow)

    def prepare(image: Tensor, visible: Tensor | None) -> Job:
        hole = torch.from_numpy(fill)
        return prepare_inpaint(
            image, hole, sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, prior=prior
        )

    return _restore(picture, prepare, on_step, keep=~fill if sigma == 0 else None)


def _holes(picture: Tensor | Image.Image, mask: Any, margin: int | None) -> np.ndarray:
    """Return the pixels to fill, bool (H, W); `inpaint` says what a mask may be."""
    if not isinstance(mask, (Image.Image, str, os.PathLike)):
        fill = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask) != 0
        fill = fill.reshape(fill.shape[-2:]) if fill.ndim > 2 and fill.size == math.prod(fill.shape[-2:]) else fill
        return grow_mask(fill, margin) if margin and fill.ndim == 2 else fill
    source = None
    if isinstance(picture, Tensor):
        size = (picture.shape[-2], picture.shape[-1])
    else:
        source = replace(from_pil(picture), lossy=isinstance(picture, JpegImageFile))
        size = (source.height, source.width)  # turned upright
    if isinstance(mask, Image.Image):
        return fit_mask(from_pil(mask), size, margin=margin, picture=source).fill
    return load_mask(Path(mask), size, margin=margin, picture=source).fill


def upscale(
    picture: AnyPicture,
    scale: int = 4,
    *,
    sigma: float = 0.0,
    jpeg: str = "auto",
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> AnyPicture:
    """Enlarge. Shrinking the result by Pillow's bicubic filter gives the input back, unless it is noisy or a JPEG.

    A prior of latent super-resolution does not give the input back. It fixes the scale, does not use `sigma` and
    `detail`, and accepts few methods.

    Args:
        picture: As in `denoise`.
        scale: Enlargement factor: 2, 3, 4 or 8.
        sigma: Standard deviation of the noise of the small picture on the 0..255 scale.
        jpeg: "auto" first undoes the JPEG compression of the small picture, as `dejpeg` does, if sigma is 0; "off"
            takes its pixels as they are.
        steps: Number of network evaluations; None selects the default.
        detail: As in `inpaint`.
        method: As in `denoise`.
        seed: As in `denoise`.
        prior: As in `denoise`.
        on_step: As in `denoise`.

    Returns:
        The enlarged picture, of the same type as the input and `scale` times as high and as wide.

    Raises:
        UsageError: A value is out of range.
        ModelError: The prior cannot upscale, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """

    check_denoising(jpeg=jpeg)

    def prepare(image: Tensor, visible: Tensor | None) -> Job:
        return prepare_upscale(
            image,
            scale,
            sigma=sigma,
            jpeg=find_jpeg(image, _file_of(picture)) if jpeg == "auto" and sigma == 0 else None,
            steps=steps,
            detail=detail,
            method=method,
            seed=seed,
            prior=prior,
        )

    return _restore(picture, prepare, on_step)
