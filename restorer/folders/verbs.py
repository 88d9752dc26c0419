"""The restoring verbs: what each of them does with one picture of a run."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restorer.errors import PictureError, UsageError
from restorer.folders.blur_options import NOT_GIVEN, BlurOptions
from restorer.folders.options import Options
from restorer.folders.paths import Item, find_mask
from restorer.folders.picture import Kept, Verb
from restorer.folders.starting import load_requested_start, scale_of_start
from restorer.images.find import STDIO, is_stream
from restorer.images.sizes import Enlargement, Geometry
from restorer.images.streams import stream_bytes
from restorer.limits import CANDIDATES, OWN_SCRATCHES, OWN_TRANSPARENCY, check, check_denoising

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.images.files import Picture
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks.job import Job

    Prepared = tuple[Job, Kept | None]

__all__ = ["VERBS", "deblurring", "dejpegging", "denoising", "inpainting", "repairing", "upscaling"]


def denoising(
    options: Options, *, noise: str = "auto", strength: float = 1.0, outliers: str = "auto", jpeg: str = "auto"
) -> Verb:
    """Return the verb `denoise`. The arguments are its options, of which `options` are those of all verbs.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    check_denoising(
        sigma=options.sigma,
        noise=noise,
        strength=strength,
        outliers=outliers,
        jpeg=jpeg,
        steps=options.steps if options.start is None else None,  # a start has detail in a single step too
        detail=options.detail,
    )

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.files import visible_pixels
        from restorer.measurement.earlier_jpeg import find_jpeg
        from restorer.tasks.denoise import prepare_denoise

        job = prepare_denoise(
            image,
            noise=noise,
            strength=strength,
            outliers=outliers,
            evidence=visible_pixels(picture),
            jpeg=find_jpeg(image, picture.original) if jpeg == "auto" and options.sigma is None else None,
            start=load_requested_start(options),
            prior=prior,
            **options.sampling,
        )
        return job, None

    whole = Geometry(region=options.region)
    measured = (("noise", noise), ("strength", strength), ("outliers", outliers), ("jpeg", jpeg))
    return Verb(f"denoised{whole.tag}", prepare, extra_options=measured, geometry=whole)


def dejpegging(options: Options) -> Verb:
    """Return the verb `dejpeg`."""

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.measurement.earlier_jpeg import find_jpeg
        from restorer.tasks.dejpeg import prepare_dejpeg

        sampling = {name: value for name, value in options.sampling.items() if name != "sigma"}
        known, start = find_jpeg(image, picture.original), load_requested_start(options)
        return prepare_dejpeg(image, known, start=start, prior=prior, **sampling), None

    whole = Geometry(region=options.region)
    return Verb(f"dejpegged{whole.tag}", prepare, geometry=whole)


def deblurring(
    options: Options,
    *,
    gaussian: float | str | None = None,
    defocus: float | None = None,
    motion: str | None = None,
    kernel: Path | None = None,
    noise: str = "auto",
    strength: float = 1.0,
    jpeg: str = "auto",
) -> Verb:
    """Return the verb `deblur`; see `denoising`. The blur is found in each picture if none is given.

    Raises:
        UsageError: A value is out of range, or several blurs are given.
        PictureError: The file of the kernel does not exist.
    """
    check_denoising(sigma=options.sigma, noise=noise, strength=strength, jpeg=jpeg)
    blur = BlurOptions.of(gaussian, defocus, motion, kernel)

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.files import visible_pixels
        from restorer.measurement.earlier_jpeg import find_jpeg
        from restorer.tasks.blind_deblur import prepare_blind_deblur
        from restorer.tasks.deblur import prepare_deblur

        measuring: dict[str, Any] = {
            "noise": noise,
            "strength": strength,
            "evidence": visible_pixels(picture),
            "jpeg": find_jpeg(image, picture.original) if jpeg == "auto" and options.sigma is None else None,
            "start": load_requested_start(options),
        }
        if blur is None:
            return prepare_blind_deblur(image, prior=prior, **measuring, **options.sampling), None
        return prepare_deblur(image, blur.make(), prior=prior, **measuring, **options.sampling), None

    given = NOT_GIVEN if blur is None else blur.recorded()
    measured = (("noise", noise), ("strength", strength), ("jpeg", jpeg))
    part = Geometry(region=options.region)
    return Verb(f"deblurred{part.tag}", prepare, extra_options=(*given.items(), *measured), geometry=part)


def inpainting(
    options: Options,
    *,
    mask: Path,
    invert_mask: bool = False,
    grow_by: int | None = None,
    candidates: int = CANDIDATES,
) -> Verb:
    """Return the verb `inpaint`; see `denoising`. `grow_by` is the option `--grow`.

    Raises:
        UsageError: A value is out of range.
        PictureError: The mask does not exist.
    """
    own = {"mask": str(mask), "invert_mask": invert_mask, "grow": grow_by, "candidates": candidates}
    check(grow=grow_by, candidates=candidates)
    is_own = str(mask) in (OWN_TRANSPARENCY, OWN_SCRATCHES) and not mask.exists()
    if not is_own and not mask.exists():
        raise PictureError(f"the mask {mask} does not exist", "check the path")

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        import torch

        from restorer.images.files import alpha_mask, load_mask, visible_pixels
        from restorer.tasks.inpaint import prepare_inpaint
        from restorer.tasks.scratches import scratch_mask

        path = None if is_own else find_mask(mask, item)
        if is_own and str(mask) == OWN_SCRATCHES:
            loaded = scratch_mask(image, visible_pixels(picture), invert=invert_mask, margin=grow_by, prior=prior)
            reveals = False
        elif path is None or (picture.alpha is not None and item.source != STDIO and path.samefile(item.source)):
            loaded, reveals = alpha_mask(picture, invert=invert_mask, margin=grow_by), True
        else:
            size, limit = (picture.height, picture.width), options.max_pixels
            source = io.BytesIO(stream_bytes(path)) if is_stream(path) else path
            loaded = load_mask(source, size, invert_mask, limit, margin=grow_by, picture=picture)
            reveals = False
        hole, start = torch.from_numpy(loaded.fill), load_requested_start(options)
        job = prepare_inpaint(image, hole, candidates=candidates, start=start, prior=prior, **options.sampling)
        known = ~loaded.fill
        if options.region is not None:
            known = known[options.region.rows, options.region.columns]
        return job.with_note(loaded.note), None if job.sigma else Kept(known, reveals)

    finder = None if is_own else lambda item: find_mask(mask, item)
    whole = Geometry(region=options.region)
    tag, extra = f"inpainted{whole.tag}", tuple(own.items())
    return Verb(tag, prepare, extra_options=extra, find_mask=finder, geometry=whole)


def upscaling(
    options: Options,
    *,
    scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    jpeg: str = "auto",
) -> Verb:
    """Return the verb `upscale`; see `denoising`.

    Raises:
        UsageError: A value is out of range.
        ModelError: The factor is to be that of the start, which cannot be loaded, or does not enlarge.
        DeviceError: The same, and the machine does not have the device.
    """
    if options.start is not None and scale is None and width is None and height is None:
        scale = scale_of_start(options)
    size = Enlargement.of(scale, width, height)
    check_denoising(jpeg=jpeg)

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.files import alpha_tensor
        from restorer.measurement.earlier_jpeg import find_jpeg
        from restorer.tasks.upscale import prepare_upscale

        known = find_jpeg(image, picture.original) if jpeg == "auto" and not options.sigma else None
        given: dict[str, Any] = {"jpeg": known, "alpha": alpha_tensor(picture), "start": load_requested_start(options)}
        return prepare_upscale(image, size, prior=prior, **given, **options.sampling), None

    def check_model(prior: UNetPrior | Tiled) -> None:
        from restorer.priors.latent import latent_of
        from restorer.tasks.upscale import check_latent_options

        if (start := load_requested_start(options)) is not None:
            start.check("upscale", size.scale and size.factor(1000, 1000))
        if (latent := latent_of(prior)) is not None:
            sampling = {name: value for name, value in options.sampling.items() if name not in ("seed", "region")}
            check_latent_options(latent, size.scale, **sampling)

    whole = Geometry(size, options.region)
    own = (*size.options(), ("jpeg", jpeg))
    return Verb(f"{size.tag}{whole.tag}", prepare, check_model, extra_options=own, geometry=whole)


def repairing(
    options: Options,
    *,
    scale: float | None = None,
    no_scratches: bool = False,
    no_outliers: bool = False,
    no_noise: bool = False,
    no_jpeg: bool = False,
    no_blur: bool = False,
) -> Verb:
    """Return the verb `auto`, which does several repairs in one pass; see `denoising`.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    if options.in_place and scale is not None:
        raise UsageError("--in-place and --scale cannot be combined", "name a folder with -o")
    left_alone = {
        "scratches": no_scratches,
        "outliers": no_outliers,
        "noise": no_noise,
        "jpeg": no_jpeg,
        "blur": no_blur,
    }
    size = None if scale is None else Enlargement.of(scale)

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.files import alpha_tensor, visible_pixels
        from restorer.measurement.earlier_jpeg import find_jpeg
        from restorer.tasks.auto import prepare_auto

        job = prepare_auto(
            image,
            scale=size,
            without=[name for name, is_left in left_alone.items() if is_left],
            evidence=visible_pixels(picture),
            jpeg=find_jpeg(image, picture.original),  # known, so that it is allowed for, even if it is left
            alpha=None if size is None else alpha_tensor(picture),
            detail=options.detail,
            seed=options.seed,
            region=options.region,
            prior=prior,
        )
        return job, None

    whole = Geometry(size, options.region)
    given = (("scale", None),) if size is None else size.options()
    own = (*given, *((f"no_{name}", is_left) for name, is_left in left_alone.items()))
    return Verb(f"restored{whole.tag}", prepare, extra_options=own, geometry=whole, is_planned=True)


VERBS: dict[str, Callable[..., Verb]] = {
    "denoise": denoising,
    "dejpeg": dejpegging,
    "deblur": deblurring,
    "inpaint": inpainting,
    "upscale": upscaling,
    "auto": repairing,
}
"""The functions that return the verbs, by their names."""
