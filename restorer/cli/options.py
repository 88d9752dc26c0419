"""The options that the restoring verbs share, their help texts, and the checks of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from restorer.errors import UsageError
from restorer.folders.extras import check_extras
from restorer.folders.options import Options, check_options
from restorer.folders.shard import Shard
from restorer.images.sizes import parse_region
from restorer.limits import METHODS

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
        help="Format of the results: png, jpeg, webp, tiff, avif, heic, jxl or bmp (default that of the picture)",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(
        "--quality",
        metavar="N",
        help="Quality of JPEG, WebP, AVIF, HEIC and JPEG XL results, 1 to 100 (default 95)",
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
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Restore only part I of N; each picture of a folder belongs to one part, on every machine",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Restore on the machines of a Ray cluster: ray://HOST:PORT, auto for the one that runs on this machine, "
        "or local for one of this machine alone",
        show_default=False,
        rich_help_panel=DEVICE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="With --cluster, use at most N workers, each with a GPU or a group of cores",
        show_default="as many as the cluster has room for",
        rich_help_panel=DEVICE,
    ),
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
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="FILE|REPO",
        help="Network of another program to start from, such as ESRGAN or LaMa: a .pth or .safetensors file, or "
        "ORG/NAME\\[@REV]:FILE on the Hugging Face Hub; --steps 0 is the network alone",
        show_default=False,
        rich_help_panel=DEVICE,
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


def parse(command: str, **values: Any) -> Options:
    """Check the options of a command line and return them as one value.

    Args:
        command: Name of the verb.
        values: Fields of `Options` by name, as Typer passes them; `sigma` and `tile` are still text.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    region, shard = values.get("region"), values.get("shard")
    parsed = {
        "sigma": _parse_sigma(values["sigma"]),
        "tile": _parse_tile(values["tile"]),
        "region": None if region is None else parse_region(region),
        "shard": None if shard is None else Shard.parse(shard),
    }
    options = Options(command, **{**values, **parsed})
    check_options(options)
    check_extras(options)
    return options
