"""The restoring verbs: what each of them does with one picture of a run."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from restorer.errors import UsageError
from restorer.folders.blur_options import BlurOptions
from restorer.folders.options import Options
from restorer.folders.paths import Item, find_mask
from restorer.folders.picture import Kept, Verb
from restorer.folders.starting import load_requested_start, scale_of_start
from restorer.folders.verb_options import Auto, Deblur, Dejpeg, Denoise, Inpaint, Upscale
from restorer.images.find import STDIO, absence, is_stream
from restorer.images.sizes import Geometry
from restorer.images.streams import stream_bytes
from restorer.limits import OWN_SCRATCHES, OWN_TRANSPARENCY

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.images.files import Picture
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks.job import Job

    Prepared = tuple[Job, Kept | None]

__all__ = ["VERBS", "deblurring", "dejpegging", "denoising", "inpainting", "repairing", "upscaling"]


def _common(options: Options, prior: UNetPrior | Tiled) -> dict[str, Any]:
    """Return what all jobs but that of `auto` are prepared with."""
    return {"region": options.region, "start": load_requested_start(options), "prior": prior}


def denoising(options: Denoise) -> Verb:
    """Return the verb `denoise`."""

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.conversion import Given
        from restorer.tasks.preparing import denoise_job

        return denoise_job(options, Given(None, image, picture), **_common(options, prior)), None

    whole = Geometry(region=options.region)
    return Verb(f"denoised{whole.tag}", prepare, extra_options=options.own, geometry=whole)


def dejpegging(options: Dejpeg) -> Verb:
    """Return the verb `dejpeg`."""

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.conversion import Given
        from restorer.tasks.preparing import dejpeg_job

        return dejpeg_job(options, Given(None, image, picture), **_common(options, prior)), None

    whole = Geometry(region=options.region)
    return Verb(f"dejpegged{whole.tag}", prepare, geometry=whole)


def deblurring(options: Deblur) -> Verb:
    """Return the verb `deblur`. The blur is found in each picture if none is given.

    Raises:
        UsageError: The blur is out of range, or several are given.
        PictureError: The file of the kernel does not exist.
    """
    blur = BlurOptions.of(options.gaussian, options.defocus, options.motion, options.kernel)

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.conversion import Given
        from restorer.tasks.preparing import deblur_job

        kernel = None if blur is None else blur.make()
        return deblur_job(options, kernel, Given(None, image, picture), **_common(options, prior)), None

    own = {**options.own, **({} if blur is None else blur.recorded())}
    part = Geometry(region=options.region)
    return Verb(f"deblurred{part.tag}", prepare, extra_options=own, geometry=part)


def inpainting(options: Inpaint) -> Verb:
    """Return the verb `inpaint`.

    Raises:
        PictureError: The mask does not exist.
    """
    mask, invert_mask = options.mask, options.invert_mask
    is_own = str(mask) in (OWN_TRANSPARENCY, OWN_SCRATCHES) and not mask.exists()
    if not is_own and not mask.exists():
        raise absence(mask, f"the mask {mask}")

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.conversion import Given
        from restorer.images.files import alpha_mask, load_mask, visible_pixels
        from restorer.tasks.preparing import inpaint_job
        from restorer.tasks.scratches import scratch_mask

        path = None if is_own else find_mask(mask, item)
        if is_own and str(mask) == OWN_SCRATCHES:
            loaded = scratch_mask(image, visible_pixels(picture), invert=invert_mask, margin=options.grow, prior=prior)
            reveals = False
        elif path is None or (picture.alpha is not None and item.source != STDIO and path.samefile(item.source)):
            loaded, reveals = alpha_mask(picture, invert=invert_mask, margin=options.grow), True
        else:
            size, limit = (picture.height, picture.width), options.max_pixels
            source = io.BytesIO(stream_bytes(path)) if is_stream(path) else path
            loaded = load_mask(source, size, invert_mask, limit, margin=options.grow, picture=picture)
            reveals = False
        job = inpaint_job(options, loaded.fill, Given(None, image, picture), **_common(options, prior))
        known = ~loaded.fill
        if options.region is not None:
            known = known[options.region.rows, options.region.columns]
        return job.with_note(loaded.note), None if job.sigma else Kept(known, reveals)

    finder = None if is_own else lambda item: find_mask(mask, item)
    whole = Geometry(region=options.region)
    return Verb(f"inpainted{whole.tag}", prepare, extra_options=options.own, find_mask=finder, geometry=whole)


def upscaling(options: Upscale) -> Verb:
    """Return the verb `upscale`.

    Raises:
        UsageError: A value is out of range.
        ModelError: The factor is to be that of the start, which cannot be loaded, or does not enlarge.
        DeviceError: The same, and the machine does not have the device.
    """
    if options.start is not None and not options.has_size:
        options = replace(options, scale=scale_of_start(options))
    size = options.size

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.conversion import Given
        from restorer.tasks.preparing import upscale_job

        return upscale_job(options, Given(None, image, picture), **_common(options, prior)), None

    def check_model(prior: UNetPrior | Tiled) -> None:
        from restorer.priors.latent import latent_of
        from restorer.tasks.upscale import check_latent_options

        if (start := load_requested_start(options)) is not None:
            start.check("upscale", size.scale and size.factor(1000, 1000))
        if (latent := latent_of(prior)) is not None:
            sampling = {name: value for name, value in options.sampling.items() if name != "seed"}
            check_latent_options(latent, size.scale, **sampling)

    whole = Geometry(size, options.region)
    own = {"jpeg": options.jpeg, **dict(size.options())}
    return Verb(f"{size.tag}{whole.tag}", prepare, check_model, extra_options=own, geometry=whole)


def repairing(options: Auto) -> Verb:
    """Return the verb `auto`, which does several repairs in one pass.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    if options.in_place and options.scale is not None:
        raise UsageError("--in-place and --scale cannot be combined", "name a folder with -o")
    size = options.size

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.conversion import Given
        from restorer.tasks.preparing import auto_job

        return auto_job(options, Given(None, image, picture), region=options.region, prior=prior), None

    whole = Geometry(size, options.region)
    own = {**options.own, **dict(() if size is None else size.options())}
    return Verb(f"restored{whole.tag}", prepare, extra_options=own, geometry=whole, is_planned=True)


VERBS: dict[str, Callable[..., Verb]] = {
    "denoise": denoising,
    "dejpeg": dejpegging,
    "deblur": deblurring,
    "inpaint": inpainting,
    "upscale": upscaling,
    "auto": repairing,
}
"""The functions that return the verbs from their options, by their names."""
