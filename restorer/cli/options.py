"""The options that the restoring verbs share, their help texts, and the checks of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from restorer.errors import UsageError
from restorer.folders.extras import check_extras
from restorer.folders.in_place import check_backup_suffix
from restorer.folders.options import Options
from restorer.images.sizes import parse_region
from restorer.limits import FORMAT_OF_SUFFIX, FORMATS, METHODS, check

# The panels of the help.
INPUT, OUTPUT, SAMPLING, DEVICE, INTERFACE = "Input", "Output", "Sampling", "Model and device", "Interface"

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Pictures to restore: files, folders (with -r), glob patterns, or - for standard input",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="Where to write the results: a file, a folder (end its name with /), or - for standard output",
        show_default="beside the input",
        rich_help_panel=OUTPUT,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace results that already exist", rich_help_panel=OUTPUT)
]
SkipExisting = Annotated[
    bool,
    typer.Option("--skip-existing", help="Skip pictures whose result already exists", rich_help_panel=OUTPUT),
]
Recursive = Annotated[
    bool,
    typer.Option(
        "-r", "--recursive", help="Restore every picture in a folder and in its subfolders", rich_help_panel=INPUT
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue an earlier run over a folder: skip the pictures that its log lists as done",
        rich_help_panel=OUTPUT,
    ),
]
Log = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="File for the log of the run, which --resume reads",
        show_default="in the folder of the results",
        rich_help_panel=OUTPUT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="List what would be done, with the estimated time and memory, and write nothing",
        rich_help_panel=OUTPUT,
    ),
]
InPlace = Annotated[
    bool,
    typer.Option(
        "--in-place",
        help="Replace each picture by its result, in one step; a picture that was replaced before is skipped",
        rich_help_panel=OUTPUT,
    ),
]
Backup = Annotated[
    str | None,
    typer.Option(
        "--backup",
        metavar="SUFFIX",
        help="With --in-place, keep each picture under its name followed by this suffix, for instance .orig",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Format of the results: png, jpeg, webp, tiff, avif or bmp (default that of the picture)",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(
        "--quality",
        metavar="N",
        help="Quality of JPEG, WebP and AVIF results, 1 to 100 (default 95)",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
KeepTimes = Annotated[
    bool,
    typer.Option("--keep-times", help="Give results the modification times of their pictures", rich_help_panel=OUTPUT),
]
Include = Annotated[
    list[str],
    typer.Option(
        "--include",
        metavar="GLOB",
        help="In folders, restore only pictures whose name or path matches this pattern (repeatable)",
        rich_help_panel=INPUT,
    ),
]
Exclude = Annotated[
    list[str],
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="In folders, skip pictures whose name or path matches this pattern (repeatable)",
        rich_help_panel=INPUT,
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", help="Restore at most N pictures", rich_help_panel=INPUT)
]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Stop at the first picture that fails", rich_help_panel=INPUT)
]
MaxPixels = Annotated[
    int, typer.Option("--max-pixels", metavar="N", help="Refuse pictures of more than N pixels", rich_help_panel=INPUT)
]
Show = Annotated[
    bool,
    typer.Option("--show", help="Draw each picture and its result in the terminal", rich_help_panel=INTERFACE),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "-s",
        "--steps",
        metavar="N",
        help="Number of network evaluations: more are slower and, up to a point, better",
        show_default="depends on the task",
        rich_help_panel=SAMPLING,
    ),
]
RegionOption = Annotated[
    str | None,
    typer.Option(
        "--region",
        metavar="X,Y,W,H",
        help="Restore and write only this part: left, top, width and height in pixels",
        show_default="the whole picture",
        rich_help_panel=INPUT,
    ),
]
Uncertainty = Annotated[
    str | None,
    typer.Option(
        "--uncertainty",
        metavar="PATH",
        help="Also write how far each pixel may be off, as a 16-bit gray PNG: a file, or a folder for several pictures",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples",
        metavar="N",
        help="Write N plausible results of each picture, and their mean, beside the result",
        rich_help_panel=OUTPUT,
    ),
]
Detail = Annotated[
    float | None,
    typer.Option(
        "--detail",
        metavar="A",
        help="From 0 (most faithful, smooth) to 1 (natural texture, partly invented)",
        show_default="depends on the task",
        rich_help_panel=SAMPLING,
    ),
]
Method = Annotated[
    str,
    typer.Option("--method", metavar="NAME", help=f"Sampling method: {', '.join(METHODS)}", rich_help_panel=SAMPLING),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        help="Seed of the random noise: the same seed gives the same noise",
        rich_help_panel=SAMPLING,
    ),
]
Sigma = Annotated[
    str,
    typer.Option(
        "--sigma",
        metavar="S",
        help="Standard deviation of the noise in the input (0 to 255), or auto to estimate it",
        rich_help_panel=SAMPLING,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "-m",
        "--model",
        metavar="NAME|PATH|REPO",
        help="Model to use: photo (built in), the path of a model, a name from `restore models list`, or a "
        "repository of the Hugging Face Hub as ORG/NAME\\[@REV]\\[:FILE]",
        rich_help_panel=DEVICE,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "-d",
        "--device",
        metavar="NAME",
        help="Device to compute on: auto, cpu, cuda, cuda:N, mps or xpu",
        rich_help_panel=DEVICE,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="Floating-point precision of the network: auto, fp32, bf16 or fp16",
        rich_help_panel=DEVICE,
    ),
]
Tile = Annotated[
    str,
    typer.Option(
        "--tile",
        metavar="PX",
        help="Size of the tiles that large pictures are cut into: auto, off, or a side of at least 64 pixels",
        rich_help_panel=DEVICE,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object per picture to standard output", rich_help_panel=INTERFACE),
]
JsonReport = Annotated[
    bool, typer.Option("--json", help="Print JSON to standard output, for scripts", rich_help_panel=INTERFACE)
]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="Print only the paths of the results, and errors", rich_help_panel=INTERFACE),
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print more, such as the noise levels", rich_help_panel=INTERFACE)
]


def _parse_sigma(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"sigma must be auto or a number from 0 to 255, not {text!r}") from None


def _parse_tile(text: str) -> int | str:
    if text in ("auto", "off"):
        return text
    if not text.isdecimal() or int(text) < 64:
        raise UsageError(f"the tile must be auto, off, or a side of at least 64 pixels, not {text!r}")
    return int(text)


def _check_in_place(options: Options, policies: list[str]) -> None:
    """Check the options that say what happens to the pictures themselves.

    Raises:
        UsageError: Two options cannot be combined, or the suffix of the backups is not usable.
    """
    if options.backup is not None and not options.in_place:
        raise UsageError("--backup needs --in-place", "without it, no picture is replaced")
    if not options.in_place:
        return
    if options.region is not None:
        raise UsageError("--in-place and --region cannot be combined", "name another file with -o")
    if options.output is not None:
        raise UsageError("--in-place and --output cannot be combined")
    if policies:
        hint = "repeat the command after an interruption: what has been replaced is skipped"
        raise UsageError(f"--in-place and {policies[0]} cannot be combined", hint)
    if options.backup is not None:
        check_backup_suffix(options.backup)


def _check_format(options: Options) -> None:
    """Check the options that say in which format results are written.

    Raises:
        UsageError: A value is unknown or out of range, or two options contradict each other.
    """
    if options.quality is not None and not 1 <= options.quality <= 100:
        raise UsageError(f"quality must lie between 1 and 100, not {options.quality}")
    if options.format is None:
        return
    if options.format.lower() not in FORMATS:
        known = "png, jpeg, webp, tiff, avif or bmp"
        raise UsageError(f"unknown format {options.format!r}", f"use one of {known}")
    if options.in_place:
        raise UsageError("--in-place and --format cannot be combined", "a picture that is replaced keeps its format")
    suffix = "" if options.output is None else Path(options.output).suffix.lower()
    if suffix in FORMAT_OF_SUFFIX and FORMAT_OF_SUFFIX[suffix] != FORMATS[options.format.lower()]:
        raise UsageError(f"-o {options.output} and --format {options.format} contradict each other", "leave one out")


def parse(command: str, **values: Any) -> Options:
    """Check the options of a command line and return them as one value.

    Args:
        command: Name of the verb.
        values: Fields of `Options` by name, as Typer passes them; `sigma` and `tile` are still text.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    region = values.get("region")
    parsed = {
        "sigma": _parse_sigma(values["sigma"]),
        "tile": _parse_tile(values["tile"]),
        "region": None if region is None else parse_region(region),
    }
    options = Options(command, **{**values, **parsed})
    check(sigma=options.sigma, steps=options.steps, detail=options.detail, method=options.method, seed=options.seed)
    policies = {"--overwrite": options.overwrite, "--skip-existing": options.skip_existing, "--resume": options.resume}
    if len(chosen := [name for name, is_set in policies.items() if is_set]) > 1:
        raise UsageError(f"{' and '.join(chosen)} cannot be combined")
    _check_in_place(options, chosen)
    _check_format(options)
    check_extras(options)
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit must be at least 1, not {options.limit}")
    if options.max_pixels < 1:
        raise UsageError(f"--max-pixels must be at least 1, not {options.max_pixels}")
    if options.json and (options.output == "-" or ("-" in options.inputs and options.output is None)):
        raise UsageError("the picture and --json cannot both go to standard output", "name a file with -o")
    return options
