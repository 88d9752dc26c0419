"""The restoring verb `auto`: several repairs in one pass."""

from __future__ import annotations

from typing import Annotated

import typer

from restorer.cli.options import (
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
    Model,
    Output,
    Overwrite,
    Precision,
    Quality,
    Quiet,
    Recursive,
    RegionOption,
    Resume,
    Seed,
    ShardOption,
    Show,
    SkipExisting,
    Tile,
    Verbose,
    Workers,
    parse,
)
from restorer.cli.restoring.run import restore_all
from restorer.folders.verbs import repairing
from restorer.limits import MAX_PIXELS, SCALES

__all__ = ["register"]

REPAIRS = "Repairs"
"""The panel of the help that lists what may be repaired."""

AUTO_ONLY = ("scale", "no_scratches", "no_outliers", "no_noise", "no_jpeg", "no_blur")
"""The options of `auto` alone."""


def _auto(
    inputs: Inputs,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            metavar="F",
            help=f"Enlarge by this factor, too, above 1 and at most {max(SCALES)}",
            show_default=False,
            rich_help_panel=REPAIRS,
        ),
    ] = None,
    no_scratches: Annotated[
        bool, typer.Option("--no-scratches", help="Leave scratches, dust, hairs and creases", rich_help_panel=REPAIRS)
    ] = False,
    no_outliers: Annotated[
        bool, typer.Option("--no-outliers", help="Leave hot pixels, and salt and pepper", rich_help_panel=REPAIRS)
    ] = False,
    no_noise: Annotated[bool, typer.Option("--no-noise", help="Leave noise", rich_help_panel=REPAIRS)] = False,
    no_jpeg: Annotated[
        bool, typer.Option("--no-jpeg", help="Leave what JPEG compression did", rich_help_panel=REPAIRS)
    ] = False,
    no_blur: Annotated[
        bool, typer.Option("--no-blur", help="Leave blur, also while enlarging", rich_help_panel=REPAIRS)
    ] = False,
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
    uncertainty: Annotated[str | None, typer.Option("--uncertainty", metavar="PATH", hidden=True)] = None,
    detail: Detail = None,
    seed: Seed = 0,
    model: Model = "photo",
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
    """Find and repair what is wrong in one pass: scratches, outliers, noise, JPEG, blur and, with --scale, the size.

    Each result is written beside its input as INPUT_restored. What is not sure is left; --dry-run prints the plan.

    restore auto img.jpg  ·  restore auto img.jpg --scale 2  ·  restore auto photos/ -r --dry-run
    """
    values = locals()
    own = {name: values.pop(name) for name in AUTO_ONLY}
    options = parse("auto", sigma="auto", steps=None, method="auto", **values)
    restore_all(options, repairing(options, **own))


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("auto", no_args_is_help=True)(_auto)
