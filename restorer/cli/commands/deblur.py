"""The restoring verb `deblur`."""

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
from restorer.folders.verbs import deblurring
from restorer.limits import JPEGS, MAX_PIXELS, NOISES

__all__ = ["register"]

KERNEL = "Blur"
"""The panel of the help that lists what says how the picture is blurred."""

DEBLUR_ONLY = ("gaussian", "defocus", "motion", "kernel", "noise", "strength", "jpeg")
"""The options of `deblur` that not every restoring verb has."""


def _deblur(
    inputs: Inputs,
    gaussian: Annotated[
        str | None,
        typer.Option(
            "--gaussian",
            metavar="S",
            help="Gaussian blur of this standard deviation in pixels, or SxT@A: S along the angle A, T across it",
            show_default=False,
            rich_help_panel=KERNEL,
        ),
    ] = None,
    defocus: Annotated[
        float | None,
        typer.Option(
            "--defocus",
            metavar="R",
            help="Lens out of focus: a disk of this radius in pixels",
            show_default=False,
            rich_help_panel=KERNEL,
        ),
    ] = None,
    motion: Annotated[
        str | None,
        typer.Option(
            "--motion",
            metavar="L@A",
            help="Camera that moved: a line of L pixels at A degrees, anticlockwise from the horizontal",
            show_default=False,
            rich_help_panel=KERNEL,
        ),
    ] = None,
    kernel: Annotated[
        Path | None,
        typer.Option(
            "--kernel",
            metavar="FILE",
            help="Kernel of the blur: a small picture, bright where light went, or a .npy file",
            show_default=False,
            rich_help_panel=KERNEL,
        ),
    ] = None,
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
    """Undo a blur: one that you describe, or else the one that is found in the picture. A sharp picture is copied.

    Borders, noise, JPEG compression and clipped highlights are taken as they are.

    Each result is written beside its input as INPUT_deblurred.

    restore deblur img.jpg  ·  restore deblur img.jpg --gaussian 1.6  ·  restore deblur img.png --motion 13@30
    """
    values = locals()
    own = {name: values.pop(name) for name in DEBLUR_ONLY}
    options = parse("deblur", **values)
    restore_all(options, deblurring(options, **own))


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("deblur", no_args_is_help=True)(_deblur)
