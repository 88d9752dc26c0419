"""The restoring verbs: `denoise`, `dejpeg`, `inpaint` and `upscale`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from restorer.cli.options import (
    SAMPLING,
    Backup,
    Detail,
    Device,
    DryRun,
    Exclude,
    FailFast,
    Format,
    Include,
    InPlace,
    Inputs,
    Json,
    KeepTimes,
    Limit,
    Log,
    MaxPixels,
    Method,
    Model,
    Output,
    Overwrite,
    Precision,
    Quality,
    Quiet,
    Recursive,
    RegionOption,
    Resume,
    Samples,
    Seed,
    Show,
    Sigma,
    SkipExisting,
    Steps,
    Tile,
    Uncertainty,
    Verbose,
    parse,
)
from restorer.cli.restoring.run import restore_all
from restorer.errors import PictureError
from restorer.folders.paths import Item, find_mask
from restorer.folders.picture import Kept, Verb
from restorer.images.find import STDIO, is_stream
from restorer.images.sizes import Enlargement, Geometry
from restorer.images.streams import stream_bytes
from restorer.limits import JPEGS, MAX_PIXELS, NOISES, SCALES, check, check_denoising

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.images.files import Picture
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks.job import Job

    Prepared = tuple[Job, Kept | None]

__all__ = ["register"]

UPSCALE_ONLY = ("scale", "width", "height", "jpeg")
"""The options of `upscale` that the other verbs do not have."""

OWN_TRANSPARENCY = "alpha"
"""The mask that stands for the picture's own transparency."""


def _denoise(
    inputs: Inputs,
    sigma: Sigma = "auto",
    noise: Annotated[
        str,
        typer.Option(
            "--noise",
            metavar="KIND",
            help=f"Noise to look for: {', '.join(NOISES)}",
            rich_help_panel=SAMPLING,
        ),
    ] = "auto",
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="F",
            help="Factor on the measured noise: 1.3 removes more, 0.7 less",
            rich_help_panel=SAMPLING,
        ),
    ] = 1.0,
    jpeg: Annotated[
        str,
        typer.Option(
            "--jpeg",
            metavar="KIND",
            help=f"Whether to undo JPEG compression where there is no noise beyond it: {', '.join(JPEGS)}",
            rich_help_panel=SAMPLING,
        ),
    ] = "auto",
    output: Output = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    resume: Resume = False,
    manifest: Log = None,
    dry_run: DryRun = False,
    in_place: InPlace = False,
    backup: Backup = None,
    keep_times: KeepTimes = False,
    format: Format = None,
    quality: Quality = None,
    recursive: Recursive = False,
    include: Include = [],  # noqa: B006  (Typer passes a new list for each command)
    exclude: Exclude = [],  # noqa: B006
    limit: Limit = None,
    fail_fast: FailFast = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    region: RegionOption = None,
    uncertainty: Uncertainty = None,
    samples: Samples = 1,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    show: Show = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove noise, or what JPEG compression did.

    Each result is written beside its input as INPUT_denoised.

    restore denoise img.png  ·  restore denoise scan.jpg --sigma 30  ·  restore denoise photos/ -r -o clean/
    """
    shared = {name: value for name, value in locals().items() if name not in ("noise", "strength", "jpeg")}
    options = parse("denoise", **shared)
    check_denoising(
        sigma=options.sigma, noise=noise, strength=strength, jpeg=jpeg, steps=options.steps, detail=options.detail
    )

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.files import visible_pixels
        from restorer.measurement.earlier_jpeg import find_jpeg
        from restorer.tasks.denoise import prepare_denoise

        job = prepare_denoise(
            image,
            noise=noise,
            strength=strength,
            evidence=visible_pixels(picture),
            jpeg=find_jpeg(image, picture.original) if jpeg == "auto" and options.sigma is None else None,
            prior=prior,
            **options.sampling,
        )
        return job, None

    whole = Geometry(region=options.region)
    measured = (("noise", noise), ("strength", strength), ("jpeg", jpeg))
    restore_all(options, Verb(f"denoised{whole.tag}", prepare, extra_options=measured, geometry=whole))


def _dejpeg(
    inputs: Inputs,
    output: Output = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    resume: Resume = False,
    manifest: Log = None,
    dry_run: DryRun = False,
    in_place: InPlace = False,
    backup: Backup = None,
    keep_times: KeepTimes = False,
    format: Format = None,
    quality: Quality = None,
    recursive: Recursive = False,
    include: Include = [],  # noqa: B006  (Typer passes a new list for each command)
    exclude: Exclude = [],  # noqa: B006
    limit: Limit = None,
    fail_fast: FailFast = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    region: RegionOption = None,
    uncertainty: Uncertainty = None,
    samples: Samples = 1,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    show: Show = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove the blocks and the ringing of JPEG compression. Compressing a result again gives its input back.

    Each result is written beside its input as INPUT_dejpegged.

    restore dejpeg img.jpg  ·  restore dejpeg img.jpg -o img.png  ·  restore dejpeg photos/ -r -o clean/
    """
    options = parse("dejpeg", sigma="0", **locals())

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.measurement.earlier_jpeg import find_jpeg
        from restorer.tasks.dejpeg import prepare_dejpeg

        sampling = {name: value for name, value in options.sampling.items() if name != "sigma"}
        return prepare_dejpeg(image, find_jpeg(image, picture.original), prior=prior, **sampling), None

    whole = Geometry(region=options.region)
    restore_all(options, Verb(f"dejpegged{whole.tag}", prepare, geometry=whole))


def _inpaint(
    inputs: Inputs,
    mask: Annotated[
        Path,
        typer.Option(
            "--mask",
            metavar="FILE|FOLDER",
            help="Mask of the holes: white on black, strokes on transparency, or a copy of the picture with its holes "
            "erased; a folder of masks named like the pictures; or alpha, the picture's own transparency",
            show_default=False,
        ),
    ],
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="Fill the other part of the mask")] = False,
    grow_by: Annotated[
        int | None,
        typer.Option(
            "--grow",
            metavar="PX",
            help="Pixels by which the holes are grown (default 1 for soft edges in a JPEG, 0 otherwise)",
            show_default=False,
        ),
    ] = None,
    sigma: Sigma = "0",
    output: Output = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    resume: Resume = False,
    manifest: Log = None,
    dry_run: DryRun = False,
    in_place: InPlace = False,
    backup: Backup = None,
    keep_times: KeepTimes = False,
    format: Format = None,
    quality: Quality = None,
    recursive: Recursive = False,
    include: Include = [],  # noqa: B006  (Typer passes a new list for each command)
    exclude: Exclude = [],  # noqa: B006
    limit: Limit = None,
    fail_fast: FailFast = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    region: RegionOption = None,
    uncertainty: Uncertainty = None,
    samples: Samples = 1,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    show: Show = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fill holes. What the mask marks is filled, and every other pixel stays as it is.

    Each result is written beside its input as INPUT_inpainted.

    restore inpaint img.png --mask m.png  ·  restore inpaint photos/ -r --mask masks/ -o filled/
    """
    own = {"mask": str(mask), "invert_mask": invert_mask, "grow": grow_by}
    options = parse(
        "inpaint", **{k: v for k, v in locals().items() if k not in ("own", "mask", "invert_mask", "grow_by")}
    )
    check(grow=grow_by)
    is_alpha = str(mask) == OWN_TRANSPARENCY and not mask.exists()
    if not is_alpha and not mask.exists():
        raise PictureError(f"the mask {mask} does not exist", "check the path")

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        import torch

        from restorer.images.files import alpha_mask, load_mask
        from restorer.tasks.inpaint import prepare_inpaint

        path = None if is_alpha else find_mask(mask, item)
        if path is None or (picture.alpha is not None and item.source != STDIO and path.samefile(item.source)):
            loaded, reveals = alpha_mask(picture, invert=invert_mask, margin=grow_by), True
        else:
            size, limit = (picture.height, picture.width), options.max_pixels
            source = io.BytesIO(stream_bytes(path)) if is_stream(path) else path
            loaded = load_mask(source, size, invert_mask, limit, margin=grow_by, picture=picture)
            reveals = False
        job = prepare_inpaint(image, torch.from_numpy(loaded.fill), prior=prior, **options.sampling)
        known = ~loaded.fill
        if options.region is not None:
            known = known[options.region.rows, options.region.columns]
        return job.with_note(loaded.note), None if job.sigma else Kept(known, reveals)

    finder = None if is_alpha else lambda item: find_mask(mask, item)
    whole = Geometry(region=options.region)
    tag, extra = f"inpainted{whole.tag}", tuple(own.items())
    restore_all(options, Verb(tag, prepare, extra_options=extra, find_mask=finder, geometry=whole))


def _upscale(
    inputs: Inputs,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            metavar="F",
            help=f"Factor to enlarge by, above 1 and at most {max(SCALES)}: {', '.join(map(str, SCALES))} are exact",
            show_default="4",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            "--width", metavar="PX", help="Width of the results, instead of a factor", show_default="by the scale"
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(
            "--height", metavar="PX", help="Height of the results; with --width, both fit", show_default="by the scale"
        ),
    ] = None,
    sigma: Sigma = "auto",
    jpeg: Annotated[
        str,
        typer.Option(
            "--jpeg",
            metavar="KIND",
            help=f"Whether to undo JPEG compression first: {', '.join(JPEGS)}",
            rich_help_panel=SAMPLING,
        ),
    ] = "auto",
    output: Output = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    resume: Resume = False,
    manifest: Log = None,
    dry_run: DryRun = False,
    keep_times: KeepTimes = False,
    format: Format = None,
    quality: Quality = None,
    recursive: Recursive = False,
    include: Include = [],  # noqa: B006  (Typer passes a new list for each command)
    exclude: Exclude = [],  # noqa: B006
    limit: Limit = None,
    fail_fast: FailFast = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    region: RegionOption = None,
    uncertainty: Uncertainty = None,
    samples: Samples = 1,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    show: Show = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Enlarge pictures. Noise and JPEG compression are removed; shrinking the result of any other picture gives it back.

    Each result is written beside its input as INPUT_x4, where 4 is the scale.

    restore upscale img.png  ·  restore upscale img.png --scale 2  ·  restore upscale img.png --steps 100
    """
    options = parse("upscale", **{name: value for name, value in locals().items() if name not in UPSCALE_ONLY})
    size = Enlargement.of(scale, width, height)
    check_denoising(jpeg=jpeg)

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.files import alpha_tensor
        from restorer.measurement.earlier_jpeg import find_jpeg
        from restorer.tasks.upscale import prepare_upscale

        known = find_jpeg(image, picture.original) if jpeg == "auto" and not options.sigma else None
        alpha = alpha_tensor(picture)
        return prepare_upscale(image, size, jpeg=known, alpha=alpha, prior=prior, **options.sampling), None

    def check_model(prior: UNetPrior | Tiled) -> None:
        from restorer.priors.latent import latent_of
        from restorer.tasks.upscale import check_latent_options

        if (latent := latent_of(prior)) is not None:
            sampling = {name: value for name, value in options.sampling.items() if name not in ("seed", "region")}
            check_latent_options(latent, size.scale, **sampling)

    whole = Geometry(size, options.region)
    own = (*size.options(), ("jpeg", jpeg))
    restore_all(options, Verb(f"{size.tag}{whole.tag}", prepare, check_model, extra_options=own, geometry=whole))


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    for name, verb in (("denoise", _denoise), ("dejpeg", _dejpeg), ("inpaint", _inpaint), ("upscale", _upscale)):
        app.command(name, no_args_is_help=True)(verb)
