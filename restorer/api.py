"""The Python API: denoise, dejpeg, deblur, inpaint and upscale pictures of many kinds, or repair what is found in them.

Example:
    from PIL import Image
    from restorer import denoise

    clean = denoise(Image.open("noisy.png"))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step
from restorer.errors import RestorerError, UsageError
from restorer.images.conversion import Given, check_values, is_batch, join, split, take
from restorer.images.files import alpha_mask, alpha_tensor, fit_mask, from_pil, load_mask
from restorer.images.kernel_files import load_kernel
from restorer.images.masks import grow as grow_mask
from restorer.images.sizes import Enlargement, Region, parse_region
from restorer.limits import CANDIDATES, check, check_denoising, real_number, whole_number
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.models.feed_forward import FeedForward
from restorer.models.starts import as_start
from restorer.tasks.auto import prepare_auto
from restorer.tasks.blind_deblur import prepare_blind_deblur
from restorer.tasks.certainty import certainty_of
from restorer.tasks.common import as_prior
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.repair import Repair
from restorer.tasks.scratches import SCRATCHES, scratch_mask
from restorer.tasks.uncertain import Asked
from restorer.tasks.upscale import prepare_upscale

__all__ = ["auto", "deblur", "dejpeg", "denoise", "inpaint", "upscale"]

OWN_TRANSPARENCY = "alpha"
"""The mask that stands for the transparency of the picture itself."""


@dataclass(frozen=True)
class Known:
    """The pixels of a picture that its result takes over.

    Args:
        pixels: bool (H, W), True where the values of the input are copied.
        reveals: Whether all other pixels become opaque, because it was their transparency that marked them.
    """

    pixels: np.ndarray
    reveals: bool = False

    def part(self, region: Region | None) -> np.ndarray:
        """Return those of a region; all of them if there is none."""
        return self.pixels if region is None else self.pixels[region.rows, region.columns]


OnStep = Callable[[Step], None] | None
AnyPrior = Prior | str | os.PathLike[str] | None
AnyStart = FeedForward | str | os.PathLike[str] | None


def _restore(
    picture: Any,
    prepare: Callable[[Given, int], tuple[Job, Known | None]],
    on_step: OnStep,
    region: Region | None,
    uncertainty: bool,
) -> Any:
    """Restore a picture, or the pictures of a batch one after the other, and return results of the same kind.

    Args:
        picture: As in `denoise`.
        prepare: Returns the job of a picture, and the pixels that are copied from the input, or None. Its
            arguments are the picture and its place in the batch.
        on_step: As in `denoise`.
        region: The part that is returned; None for all of it.
        uncertainty: As in `denoise`.

    Raises:
        UsageError: The picture is none, or `on_step` is no function.
    """
    if on_step is not None and not callable(on_step):
        raise UsageError(f"on_step must be a function, not {type(on_step).__name__}")
    if not is_batch(picture):
        return _restore_one(take(picture), 0, prepare, on_step, region, uncertainty)
    results = []
    for index, one in enumerate(split(picture)):
        try:
            results.append(_restore_one(take(one), index, prepare, on_step, region, uncertainty))
        except RestorerError as error:
            raise type(error)(f"picture {index} of the batch: {error}", error.hint) from error
    if not results and not isinstance(picture, (list, tuple)):
        raise UsageError("the batch holds no picture")
    if uncertainty:
        return join([result for result, _ in results], picture), [found for _, found in results]
    return join(results, picture)


def _restore_one(
    given: Given,
    index: int,
    prepare: Callable[[Given, int], tuple[Job, Known | None]],
    on_step: OnStep,
    region: Region | None,
    uncertainty: bool,
) -> Any:
    """Restore one picture; see `_restore`."""
    job, keep = prepare(given, index)
    if uncertainty and job.starter is not None:
        raise UsageError(
            "how far results of other networks may be off is not known: uncertainty and start cannot be combined",
            "leave out one of them",
        )
    job, part = replace(job, asked=Asked(spread=uncertainty)).measured(), given.part(region)
    restored = None if job.is_copy else job.run(on_step)
    if restored is None:
        result = part.unchanged()
    else:
        known, reveals = (None, False) if keep is None else (keep.part(region), keep.reveals)
        result = part.result(restored.image, known, restored.alpha, reveal=reveals)
    if not uncertainty:
        return result
    half = certainty_of(job, restored).half
    return result, half.to(given.value.device) if isinstance(given.value, Tensor) else half.numpy()


def _sampling(steps: Any, detail: Any, method: Any, seed: Any, start: Any, prior: Any) -> dict[str, Any]:
    """Return the options that all tasks share, as the functions that prepare a job take them.

    Raises:
        UsageError: A value is out of range or of the wrong type.
        ModelError: The prior or the network of the start cannot be loaded.
    """
    if not isinstance(method, str):
        raise UsageError(f"the method must be a name, not {type(method).__name__}")
    options: dict[str, Any] = {
        "steps": None if steps is None else whole_number("steps", steps),
        "detail": None if detail is None else real_number("detail", detail),
        "method": method,
        "seed": whole_number("the seed", seed),
    }
    check(**options, started=start is not None)
    return {**options, "start": as_start(start), "prior": as_prior(prior)}


def _sigma(sigma: Any) -> float | None:
    """Return the option `sigma` as a number; None measures the noise."""
    number = None if sigma is None else real_number("sigma", sigma)
    check(sigma=number)
    return number


def _region(region: Any) -> Region | None:
    return None if region is None else parse_region(region)


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
        jpeg: "auto" undoes JPEG compression that is stronger than the noise, as `dejpeg` does; "off" leaves it.
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
    level, part = _sigma(sigma), _region(region)
    factor = real_number("strength", strength)
    options = _sampling(steps, detail, method, seed, start, prior)
    check_denoising(
        sigma=level,
        noise=noise,
        strength=factor,
        outliers=outliers,
        jpeg=jpeg,
        steps=options["steps"] if start is None else None,
        detail=options["detail"],
    )

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given, level)
        found = find_jpeg(given.image, given.file) if jpeg == "auto" and level is None else None
        measuring: dict[str, Any] = {"noise": noise, "strength": factor, "evidence": given.visible, "jpeg": found}
        return prepare_denoise(given.image, level, outliers=outliers, region=part, **measuring, **options), None

    return _restore(picture, prepare, on_step, part, uncertainty)


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
    part, options = _region(region), _sampling(steps, detail, method, seed, start, prior)

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given)
        return prepare_dejpeg(given.image, find_jpeg(given.image, given.file), region=part, **options), None

    return _restore(picture, prepare, on_step, part, uncertainty)


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
    level, factor, blur, part = _sigma(sigma), real_number("strength", strength), _kernel(kernel), _region(region)
    options = _sampling(steps, detail, method, seed, start, prior)
    check_denoising(sigma=level, noise=noise, strength=factor, jpeg=jpeg)

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given, level)
        found = find_jpeg(given.image, given.file) if jpeg == "auto" and level is None else None
        measuring: dict[str, Any] = {"noise": noise, "strength": factor, "evidence": given.visible, "jpeg": found}
        if blur is None:
            return prepare_blind_deblur(given.image, sigma=level, region=part, **measuring, **options), None
        return prepare_deblur(given.image, blur, sigma=level, region=part, **measuring, **options), None

    return _restore(picture, prepare, on_step, part, uncertainty)


def _kernel(kernel: Any) -> Tensor | None:
    """Return a kernel that was passed as numbers or as the path of a file; None if none was."""
    if kernel is None:
        return None
    if isinstance(kernel, (str, os.PathLike)):
        return load_kernel(Path(kernel))
    try:
        return torch.as_tensor(kernel).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"the kernel must be numbers or a path, not {type(kernel).__name__}"
        raise UsageError(message, "pass an array (h, w)") from error


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
    margin = None if grow is None else whole_number("grow", grow)
    number = whole_number("candidates", candidates)
    check(grow=margin, candidates=number)
    level, part, options = _sigma(sigma), _region(region), _sampling(steps, detail, method, seed, start, prior)
    masks = _masks_of(picture, mask)

    def prepare(given: Given, index: int) -> tuple[Job, Known | None]:
        own = mask if masks is None else masks[index]
        is_alpha = _is_own_transparency(own)
        fill = _transparent(given, margin) if is_alpha else _holes(given, own, margin, options["prior"])
        if fill.shape == given.size:
            check_values(given, level, fill)
        job = prepare_inpaint(
            given.image, torch.from_numpy(fill), sigma=level, candidates=number, region=part, **options
        )
        return job, Known(~fill, is_alpha) if job.sigma == 0 else None

    return _restore(picture, prepare, on_step, part, uncertainty)


def _masks_of(picture: Any, mask: Any) -> Sequence[Any] | None:
    """Return the masks of the pictures of a batch; None if one mask serves all.

    Raises:
        UsageError: There is another number of masks than of pictures.
    """
    is_stack = isinstance(mask, (np.ndarray, Tensor)) and mask.ndim >= 3 and mask.shape[0] > 1
    if not is_batch(picture) or not (is_stack or isinstance(mask, (list, tuple))):
        return None
    if len(mask) != len(picture):
        raise UsageError(f"there are {len(mask)} masks, but {len(picture)} pictures", "use one mask, or one for each")
    return list(mask)


def _is_own_transparency(mask: Any) -> bool:
    """Return whether a mask is "alpha". A file or a folder of that name is the mask instead."""
    return isinstance(mask, str) and mask == OWN_TRANSPARENCY and not Path(mask).exists()


def _transparent(given: Given, margin: int | None) -> np.ndarray:
    """Return the pixels of a picture that are not opaque, bool (H, W)."""
    return np.zeros(given.size, bool) if given.source is None else alpha_mask(given.source, margin=margin).fill


def _holes(given: Given, mask: Any, margin: int | None, prior: Prior | None) -> np.ndarray:
    """Return the pixels to fill, bool (H, W); `inpaint` says what a mask may be."""
    if isinstance(mask, Image.Image):
        return fit_mask(from_pil(mask), given.size, margin=margin, picture=given.source).fill
    if isinstance(mask, str) and mask == SCRATCHES and not Path(mask).exists():
        return scratch_mask(given.image, given.visible, margin=margin, prior=prior).fill
    if isinstance(mask, (str, os.PathLike)):
        return load_mask(Path(os.fsdecode(mask)), given.size, margin=margin, picture=given.source).fill
    try:
        values = np.asarray(mask.detach().cpu().float() if isinstance(mask, Tensor) else mask)
        fill = np.asarray(values != 0, dtype=bool)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UsageError("the mask cannot be understood: it must be an image, a path, an array or a tensor") from error
    if values.dtype.kind not in "biuf":
        raise UsageError(f"the mask must be an image, a path, an array or a tensor, not {type(mask).__name__}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UsageError("the mask contains nan", "mark what is to be filled by 1, and the rest by 0")
    if fill.ndim > 2 and fill.size == given.size[0] * given.size[1] and fill.size:
        fill = fill.reshape(given.size)  # an axis of length 1 for the channel
    if fill.shape != given.size:
        raise UsageError(f"the mask is {fill.shape}, but the picture is {given.size}", "use a mask (H, W)")
    return grow_mask(fill, margin) if margin else fill


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
    check_denoising(jpeg=jpeg)
    level, part, options = _sigma(sigma), _region(region), _sampling(steps, detail, method, seed, start, prior)
    network: FeedForward | None = options["start"]
    if network is not None and scale is None and width is None and height is None:
        network.check("upscale")
        scale = network.scale
    size = Enlargement.of(scale, width, height)

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given, level)
        found = find_jpeg(given.image, given.file) if jpeg == "auto" and not level else None
        alpha = None if given.source is None else alpha_tensor(given.source)
        return prepare_upscale(given.image, size, sigma=level, jpeg=found, alpha=alpha, region=part, **options), None

    return _restore(picture, prepare, on_step, part, uncertainty)


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
    size, part = None if scale is None else Enlargement.of(scale), _region(region)
    options = _sampling(None, detail, "auto", seed, None, prior)
    chosen = {name: options[name] for name in ("detail", "seed", "prior")}
    leave = {
        "scratches": no_scratches,
        "outliers": no_outliers,
        "noise": no_noise,
        "jpeg": no_jpeg,
        "blur": no_blur,
    }
    without = [name for name, is_left in leave.items() if is_left]

    def prepare(given: Given, index: int) -> tuple[Job, None]:
        check_values(given)
        job = prepare_auto(
            given.image,
            scale=size,
            without=without,
            evidence=given.visible,
            jpeg=find_jpeg(given.image, given.file),  # known, so that it is allowed for, even if it is left
            alpha=None if size is None or given.source is None else alpha_tensor(given.source),
            region=part,
            **chosen,
        ).measured()
        if on_found is not None:
            on_found(job.repairs or ())
        return job, None

    return _restore(picture, prepare, on_step, part, uncertainty=False)
