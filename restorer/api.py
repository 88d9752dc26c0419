"""The Python API: denoise, dejpeg, deblur, inpaint and upscale pictures of many kinds, or repair what is found in them.

Example:
    from PIL import Image
    from restorer import denoise

    clean = denoise(Image.open("noisy.png"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from restorer.errors import UsageError
from restorer.images.conversion import Given, check_values
from restorer.limits import CANDIDATES
from restorer.tasks.job import Job
from restorer.tasks.mask_arguments import holes_of, is_own_transparency, masks_of
from restorer.tasks.options import (
    AutoOptions,
    DeblurOptions,
    DejpegOptions,
    DenoiseOptions,
    InpaintOptions,
    UpscaleOptions,
)
from restorer.tasks.preparing import auto_job, deblur_job, dejpeg_job, denoise_job, inpaint_job, sized_by, upscale_job
from restorer.tasks.python_calls import AnyPrior, AnyStart, Known, OnStep, kernel_of, options_of, restore_given
from restorer.tasks.repair import Repair

__all__ = ["auto", "deblur", "dejpeg", "denoise", "inpaint", "upscale"]


def denoise(
    picture: Any,
    sigma: float | None = None,
    *,
    noise: str = "auto",
    strength: float = 1.0,
    outliers: str = "auto",
    jpeg: str = "auto",
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    region: Sequence[int] | str | None = None,
    start: AnyStart = None,
    prior: AnyPrior = None,
    on_step: OnStep = None,
    uncertainty: bool = False,
) -> Any:
    """Remove noise, or what JPEG compression did where there is no noise beyond it.

    Args:
        picture: A PIL image; the path of a file; an array (H, W) or (H, W, C) or a tensor (C, H, W) of uint8, uint16,
            or floats in [0, 1]; or a batch: a list of pictures, a tensor (N, C, H, W) or an array (N, H, W, C). Noise
            may reach beyond 0 and 1, and is not clamped.
        sigma: Standard deviation of white noise on the 0..255 scale, for floats too; 0 returns the picture unchanged.
            None measures the noise, white or not.
        noise: The noise that may be found: "auto" looks for both kinds, "white" and "camera" for one of them, and "off"
            removes no noise.
        strength: Factor on the noise that is measured: more than 1 removes more.
        outliers: "auto" fills hot pixels, dead pixels, and salt and pepper, unless `sigma` is 0 or there is a `start`;
            "off" leaves them.
        jpeg: "auto" undoes JPEG compression that is stronger than the noise, as `dejpeg` does, or together with noise
            that was compressed; "off" leaves it.
        steps: Number of network evaluations; None selects the default. `steps=1` alone, like `detail=0`, returns the
            posterior mean.
        detail: 0 (faithful and smooth) .. 1 (natural texture); None selects the default.
        method: Preset of the reverse process, one of `restorer.diffusion.plan.METHODS`.
        seed: Seed of the noise field, an integer from 0.
        region: Left, top, width and height in pixels of the part that is restored and returned, nearly as it would be
            within the whole; None for all of it.
        start: A network that restores in a single pass, from whose result the reverse process starts: the result of
            `load_start`, or what it takes, a path or a file of the Hub. `steps=0` returns that result. None starts from
            the picture.
        prior: The result of `load_prior`, or what it takes: a name or a path. None selects the embedded prior.
        on_step: Called with a `restorer.diffusion.reverse.Step` after every network evaluation.
        uncertainty: Whether the uncertainty is returned as well. It takes two more evaluations, and for `inpaint` and
            `upscale` 4 to 8 times the time. It cannot be combined with `start`.

    Returns:
        The restored picture, of the same kind and size as the input; a PIL image for a path. A batch comes back in its
        own kind of container, each picture as it would be alone. With `uncertainty`, the result and a map: for every
        pixel the half width, in levels of 0..255, of the interval that holds 90 % of the values of its channels. The
        map is float32 (H, W), a tensor for tensors and otherwise an array; for a batch, there is a list of maps.

    Raises:
        UsageError: A value is out of range or of the wrong type, the values of a float picture are not on the scale of
            [0, 1], or the region lies outside the picture.
        PictureError: A file cannot be read.
        ModelError: The prior cannot be loaded or cannot denoise, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """
    options, others = options_of(DenoiseOptions, locals())

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given, options.sigma)
        return denoise_job(options, given, **others), None

    return restore_given(picture, prepare, on_step, others["region"], uncertainty)


def dejpeg(
    picture: Any,
    *,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    region: Sequence[int] | str | None = None,
    start: AnyStart = None,
    prior: AnyPrior = None,
    on_step: OnStep = None,
    uncertainty: bool = False,
) -> Any:
    """Remove the blocks and the ringing of JPEG compression. Compressing the result again gives the picture back.

    Args:
        picture: As in `denoise`. The tables are those of the file of a path, or of a PIL image that was opened from
            one; those of any other picture are found in its pixels, if it was a JPEG before.
        steps: Number of network evaluations; None selects the default.
        detail: 0 (the mean of all pictures that the file may stand for) .. 1 (one of them); None selects the default.
        method: As in `denoise`.
        seed: As in `denoise`.
        region: As in `denoise`.
        start: As in `denoise`.
        prior: As in `denoise`.
        on_step: As in `denoise`.
        uncertainty: As in `denoise`.

    Returns:
        As in `denoise`; the input itself if no compression is found.

    Raises:
        UsageError: As in `denoise`.
        PictureError: A file cannot be read.
        ModelError: The prior cannot restore pictures, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """
    options, others = options_of(DejpegOptions, locals())

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given)
        return dejpeg_job(options, given, **others), None

    return restore_given(picture, prepare, on_step, others["region"], uncertainty)


def deblur(
    picture: Any,
    kernel: Any = None,
    *,
    sigma: float | None = None,
    noise: str = "auto",
    strength: float = 1.0,
    jpeg: str = "auto",
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    region: Sequence[int] | str | None = None,
    start: AnyStart = None,
    prior: AnyPrior = None,
    on_step: OnStep = None,
    uncertainty: bool = False,
) -> Any:
    """Undo a blur, one that is known or one that is found.

    Args:
        picture: As in `denoise`.
        kernel: The kernel of the blur: numbers (h, w) from 0 as an array or a tensor, which are divided by their sum,
            or the path of a file as the option `--kernel` takes it. `restorer.diffusion.degradations.kernels` makes
            those of a Gaussian, a defocus and a motion. None finds the blur, and returns a picture in which there is
            none, or one of another kind, as it is.
        sigma: Standard deviation of white noise on the 0..255 scale; None measures the noise, white or not.
        noise: As in `denoise`.
        strength: As in `denoise`.
        jpeg: "auto" first undoes the JPEG compression of the picture, as `denoise` does; "off" leaves it.
        steps: Number of network evaluations of the deblurring; None selects the default.
        detail: 0 (faithful and smooth) .. 1 (natural texture); None selects the default.
        method: As in `denoise`.
        seed: As in `denoise`.
        region: As in `denoise`.
        start: As in `denoise`.
        prior: As in `denoise`.
        on_step: As in `denoise`.
        uncertainty: As in `denoise`.

    Returns:
        As in `denoise`.

    Raises:
        UsageError: As in `denoise`, or the kernel is none, or it is larger than the picture.
        PictureError: A file cannot be read.
        ModelError: The prior cannot restore pictures, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """
    options, others = options_of(DeblurOptions, locals(), kernel=None)
    blur = kernel_of(kernel)

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given, options.sigma)
        return deblur_job(options, blur, given, **others), None

    return restore_given(picture, prepare, on_step, others["region"], uncertainty)


def inpaint(
    picture: Any,
    mask: Any,
    *,
    grow: int | None = None,
    sigma: float | None = 0.0,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    candidates: int = CANDIDATES,
    region: Sequence[int] | str | None = None,
    start: AnyStart = None,
    prior: AnyPrior = None,
    on_step: OnStep = None,
    uncertainty: bool = False,
) -> Any:
    """Fill holes. If sigma is 0, all other pixels stay as they are, bit for bit.

    Args:
        picture: As in `denoise`. The values under the mask are ignored.
        mask: What to fill. Of an array or a tensor (H, W) of the size of the picture, the non-zero values. A PIL image
            or the path of a file is understood as the command understands it (`restorer.images.mask_meaning`): white on
            black, strokes of any colour on transparency, or a copy of the picture with its holes erased. "alpha" is the
            transparency of the picture itself, and what is filled becomes opaque. "scratches" stands for the scratches,
            dust and hairs that are found in the picture. A file of such a name is the mask instead. One mask serves all
            pictures of a batch; a list of masks, or an array or tensor (N, H, W), has one for each.
        grow: Pixels by which the holes are grown. None selects 1 for scratches, and for a mask image with soft edges
            and a picture that was opened from a JPEG file, and 0 otherwise.
        sigma: Standard deviation of the noise of the known pixels on the 0..255 scale. If it is above 0, the known
            pixels are restored too.
        steps: Number of network evaluations; None selects the default.
        detail: Share of the noise that is carried from step to step, 0 (faithful and smooth) .. 1 (natural texture);
            None selects the default.
        method: As in `denoise`.
        seed: As in `denoise`.
        candidates: Number of fillings of wide holes, of which the one that fits best is kept.
        region: As in `denoise`.
        start: As in `denoise`.
        prior: As in `denoise`.
        on_step: As in `denoise`.
        uncertainty: As in `denoise`.

    Returns:
        As in `denoise`.

    Raises:
        UsageError: As in `denoise`, or the mask has another size than the picture, or nothing in it tells where
            the holes are.
        PictureError: The file of a picture or of a mask cannot be read.
        ModelError: The prior cannot inpaint, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """
    options, others = options_of(InpaintOptions, locals(), mask=Path())
    masks = masks_of(picture, mask)

    def prepare(given: Given, index: int) -> tuple[Job, Known | None]:
        own = mask if masks is None else masks[index]
        fill = holes_of(given, own, options.grow, others["prior"])
        if fill.shape == given.size:
            check_values(given, options.sigma, fill)
        job = inpaint_job(options, fill, given, **others)
        return job, Known(~fill, is_own_transparency(own)) if job.sigma == 0 else None

    return restore_given(picture, prepare, on_step, others["region"], uncertainty)


def upscale(
    picture: Any,
    scale: float | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    sigma: float | None = None,
    jpeg: str = "auto",
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    region: Sequence[int] | str | None = None,
    start: AnyStart = None,
    prior: AnyPrior = None,
    on_step: OnStep = None,
    uncertainty: bool = False,
) -> Any:
    """Enlarge. Shrinking the result by Pillow's bicubic filter gives the input back, unless it is noisy or a JPEG.

    A prior of latent super-resolution does not give the input back. It fixes the scale, does not use `sigma` and
    `detail`, and accepts few methods.

    Args:
        picture: As in `denoise`.
        scale: Enlargement factor, above 1 and at most 8. For a factor other than 2, 3, 4 and 8, the picture is
            enlarged by the next larger of these and shrunk; shrinking the result then gives the input back less
            exactly. None is 4, or the factor of `start`, unless a side is given. A start has to enlarge by the
            factor itself, or by that next larger one.
        width: Width of the result in pixels, instead of a scale; the height follows.
        height: Height of the result. With both, the result is the largest one that fits inside them.
        sigma: Standard deviation of the noise of the small picture on the 0..255 scale. None measures it, and takes
            less than 5 levels for detail; 0 takes the picture as it is.
        jpeg: "auto" undoes the JPEG compression of the small picture if there is any and no sigma is given; "off" takes
            its pixels as they are.
        steps: Number of network evaluations; None selects the default.
        detail: As in `inpaint`.
        method: As in `denoise`.
        seed: As in `denoise`.
        region: As in `denoise`.
        start: As in `denoise`.
        prior: As in `denoise`.
        on_step: As in `denoise`.
        uncertainty: As in `denoise`.

    Returns:
        The enlarged picture, as in `denoise`. The transparency of a picture is enlarged as a picture of its own.

    Raises:
        UsageError: As in `denoise`, or the result would be no enlargement, or one by more than 8.
        PictureError: A file cannot be read.
        ModelError: The prior cannot upscale, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """
    options, others = options_of(UpscaleOptions, locals())
    if others["start"] is not None and not options.has_size:
        options = sized_by(others["start"], options)

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given, options.sigma)
        return upscale_job(options, given, **others), None

    return restore_given(picture, prepare, on_step, others["region"], uncertainty)


def auto(
    picture: Any,
    scale: float | None = None,
    *,
    no_scratches: bool = False,
    no_outliers: bool = False,
    no_noise: bool = False,
    no_jpeg: bool = False,
    no_blur: bool = False,
    detail: float | None = None,
    seed: int = 0,
    region: Sequence[int] | str | None = None,
    prior: AnyPrior = None,
    on_found: Callable[[tuple[Repair, ...]], None] | None = None,
    on_step: OnStep = None,
) -> Any:
    """Repair what is surely wrong with a picture: scratches, noise, compression, blur and, with a scale, its size.

    The picture is measured once, and nothing is rounded between the repairs.

    Args:
        picture: As in `denoise`.
        scale: Factor by which the picture is enlarged, too, as in `upscale`; None keeps its size.
        no_scratches: Whether scratches, dust, hairs and creases are left.
        no_outliers: Whether outliers, such as hot pixels, are left.
        no_noise: Whether noise is left.
        no_jpeg: Whether JPEG compression is left.
        no_blur: Whether a blur is left, and a picture that is softer than shrinking makes pictures is enlarged as it
            is.
        detail: As in `denoise`, for the last repair. Those before it are as faithful as possible. None selects the
            default of the last repair.
        seed: As in `denoise`.
        region: As in `denoise`.
        prior: As in `denoise`.
        on_found: Called before the work with what was found, a `restorer.tasks.repair.Repair` for each repair.
        on_step: As in `denoise`.

    Returns:
        As in `denoise`; the input itself if nothing is found.

    Raises:
        UsageError: As in `denoise`, or the scale is out of range.
        PictureError: A file cannot be read.
        ModelError: The prior works on latents, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """
    if on_found is not None and not callable(on_found):
        raise UsageError(f"on_found must be a function, not {type(on_found).__name__}")
    options, others = options_of(AutoOptions, locals())

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given)
        job = auto_job(options, given, **others).measured()
        if on_found is not None:
            on_found(job.repairs or ())
        return job, None

    return restore_given(picture, prepare, on_step, others["region"], uncertainty=False)
