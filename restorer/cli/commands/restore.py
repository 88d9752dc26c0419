"""The restoring verbs: `denoise`, `dejpeg`, `inpaint` and `upscale`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from restorer.cli.options import (
    SAMPLING,
    Backup,
    Cluster,
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
    ShardOption,
    Show,
    Sigma,
    SkipExisting,
    Start,
    Steps,
    Tile,
    Uncertainty,
    Verbose,
    Workers,
    parse,
)
from restorer.cli.restoring.run import restore_all
from restorer.cli.restoring.starting import prepare_start
from restorer.folders.verbs import dejpegging, denoising, inpainting, upscaling
from restorer.limits import CANDIDATES, JPEGS, MAX_PIXELS, NOISES, OUTLIERS, SCALES

__all__ = ["register"]

UPSCALE_ONLY = ("scale", "width", "height", "jpeg")
"""The options of `upscale` that the other verbs do not have."""


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
    outliers: Annotated[
        str,
        typer.Option(
            "--outliers",
            metavar="KIND",
            help=f"Whether to fill hot pixels, dead pixels, and salt and pepper: {', '.join(OUTLIERS)}",
            rich_help_panel=SAMPLING,
        ),
    ] = "auto",
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
    shard: ShardOption = None,
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
    start: Start = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    cluster: Cluster = None,
    workers: Workers = None,
    show: Show = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove noise, or what JPEG compression did.

    Each result is written beside its input as INPUT_denoised.

    restore denoise img.png  ·  restore denoise scan.jpg --sigma 30  ·  restore denoise photos/ -r -o clean/
    """
    shared = {name: value for name, value in locals().items() if name not in ("noise", "strength", "outliers", "jpeg")}
    options = parse("denoise", **shared)
    restore_all(options, denoising(options, noise=noise, strength=strength, outliers=outliers, jpeg=jpeg))


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
    shard: ShardOption = None,
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
    start: Start = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    cluster: Cluster = None,
    workers: Workers = None,
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
    restore_all(options, dejpegging(options))


def _inpaint(
    inputs: Inputs,
    mask: Annotated[
        Path,
        typer.Option(
            "--mask",
            metavar="FILE|FOLDER",
            help="Mask of the holes: white on black, strokes on transparency, or a copy of the picture with its holes "
            "erased; a folder of masks named like the pictures; alpha, the picture's own transparency; or scratches, "
            "the scratches, dust and hairs that are found in it",
            show_default=False,
        ),
    ],
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="Fill the other part of the mask")] = False,
    grow_by: Annotated[
        int | None,
        typer.Option(
            "--grow",
            metavar="PX",
            help="Pixels by which the holes are grown (default 1 for scratches and for soft edges in a JPEG, 0 "
            "otherwise)",
            show_default=False,
        ),
    ] = None,
    candidates: Annotated[
        int,
        typer.Option(
            "--candidates",
            metavar="N",
            help="Number of fillings of wide holes, of which the one that fits best is kept",
            rich_help_panel=SAMPLING,
        ),
    ] = CANDIDATES,
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
    shard: ShardOption = None,
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
    start: Start = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    cluster: Cluster = None,
    workers: Workers = None,
    show: Show = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fill holes. What the mask marks is filled, and every other pixel stays as it is.

    Each result is written beside its input as INPUT_inpainted.

    restore inpaint img.png --mask m.png  ·  restore inpaint scan.png --mask scratches
    """
    own = ("mask", "invert_mask", "grow_by", "candidates")
    options = parse("inpaint", **{name: value for name, value in locals().items() if name not in (*own, "own")})
    restore_all(
        options, inpainting(options, mask=mask, invert_mask=invert_mask, grow_by=grow_by, candidates=candidates)
    )


def _upscale(
    inputs: Inputs,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            metavar="F",
            help=f"Factor to enlarge by, above 1 and at most {max(SCALES)}: {', '.join(map(str, SCALES))} are exact",
            show_default="4, or that of --start",
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
    shard: ShardOption = None,
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
    start: Start = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    cluster: Cluster = None,
    workers: Workers = None,
    show: Show = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Enlarge pictures. Noise and JPEG compression are removed; shrinking any other result gives its input back.

    Each result is written beside its input as INPUT_x4, where 4 is the scale.

    restore upscale img.png  ·  restore upscale img.png --scale 2  ·  restore upscale img.png --steps 100
    """
    options = parse("upscale", **{name: value for name, value in locals().items() if name not in UPSCALE_ONLY})
    if scale is None and width is None and height is None:
        prepare_start(options)
    restore_all(options, upscaling(options, scale=scale, width=width, height=height, jpeg=jpeg))


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    for name, verb in (("denoise", _denoise), ("dejpeg", _dejpeg), ("inpaint", _inpaint), ("upscale", _upscale)):
        app.command(name, no_args_is_help=True)(verb)
