"""The options that the three restoring verbs share, and what their texts mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from restorer.errors import UsageError
from restorer.folders.options import Options
from restorer.limits import METHODS, check

INPUT, OUTPUT, SAMPLING, DEVICE, INTERFACE = "Input", "Output", "Sampling", "Model and device", "Interface"

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help="Pictures, folders (with -r), globs, or -")]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="PATH", help="File, folder/ or - for stdout", rich_help_panel=OUTPUT),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist", rich_help_panel=OUTPUT)]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave pictures out whose result exists", rich_help_panel=OUTPUT)
]
Recursive = Annotated[
    bool, typer.Option("-r", "--recursive", help="Every picture in the folders named", rich_help_panel=INPUT)
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a run over a folder: redo only what is missing", rich_help_panel=OUTPUT),
]
Log = Annotated[
    Path | None,
    typer.Option(
        "--manifest", metavar="FILE", help="The run's log", show_default="in the folder", rich_help_panel=OUTPUT
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and how long it takes", rich_help_panel=OUTPUT)
]
Include = Annotated[
    list[str], typer.Option("--include", metavar="GLOB", help="Of folders: only these", rich_help_panel=INPUT)
]
Exclude = Annotated[
    list[str], typer.Option("--exclude", metavar="GLOB", help="Of folders: not these", rich_help_panel=INPUT)
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="At most N pictures", rich_help_panel=INPUT)]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure", rich_help_panel=INPUT)]
MaxPixels = Annotated[
    int, typer.Option("--max-pixels", metavar="N", help="Refuse larger pictures", rich_help_panel=INPUT)
]
Show = Annotated[bool, typer.Option("--show", help="Before and after, in the terminal", rich_help_panel=INTERFACE)]
Steps = Annotated[
    int | None,
    typer.Option(
        "-s", "--steps", metavar="N", help="Network evaluations", show_default="by task", rich_help_panel=SAMPLING
    ),
]
Detail = Annotated[
    float | None,
    typer.Option(
        "--detail", metavar="A", help="0 faithful .. 1 natural", show_default="by task", rich_help_panel=SAMPLING
    ),
]
Method = Annotated[
    str, typer.Option("--method", metavar="NAME", help=" | ".join(METHODS), rich_help_panel=SAMPLING)
]  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Same seed, same noise field", rich_help_panel=SAMPLING)]
Sigma = Annotated[
    str, typer.Option("--sigma", metavar="S", help="Noise of the input: auto, or 0..255", rich_help_panel=SAMPLING)
]
Model = Annotated[
    str,
    typer.Option(
        "-m",
        "--model",
        metavar="NAME|PATH|REPO",
        help="photo, a model folder, or of the Hub: a name of `restore models list`, or ORG/NAME\\[@REV]\\[:FILE]",
        rich_help_panel=DEVICE,
    ),
]
Device = Annotated[
    str, typer.Option("-d", "--device", metavar="NAME", help="auto, cpu, cuda, cuda:N", rich_help_panel=DEVICE)
]
Precision = Annotated[
    str, typer.Option("--precision", metavar="NAME", help="auto, fp32, bf16, fp16", rich_help_panel=DEVICE)
]
Tile = Annotated[str, typer.Option("--tile", metavar="PX", help="auto, off or pixels", rich_help_panel=DEVICE)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a picture on stdout", rich_help_panel=INTERFACE)]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only the results' paths", rich_help_panel=INTERFACE)]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more", rich_help_panel=INTERFACE)]


def _sigma(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"sigma must be auto or a number from 0 to 255, not {text!r}") from None


def _tile(text: str) -> int | str:
    if text in ("auto", "off"):
        return text
    if not text.isdecimal() or int(text) < 64:
        raise UsageError(f"the tile must be auto, off or a side of at least 64 pixels, not {text!r}")
    return int(text)


def parse(command: str, **given: Any) -> Options:
    options = Options(command, **{**given, "sigma": _sigma(given["sigma"]), "tile": _tile(given["tile"])})
    check(sigma=options.sigma, steps=options.steps, detail=options.detail, method=options.method, seed=options.seed)
    policies = {"--overwrite": options.overwrite, "--skip-existing": options.skip_existing, "--resume": options.resume}
    if len(said := [name for name, given in policies.items() if given]) > 1:
        raise UsageError(f"{' and '.join(said)} exclude each other")
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"the limit is at least 1 picture, not {options.limit}")
    if options.max_pixels < 1:
        raise UsageError(f"--max-pixels is at least 1, not {options.max_pixels}")
    if options.json and (options.output == "-" or ("-" in options.inputs and options.output is None)):
        raise UsageError("the picture and --json cannot both go to standard output", "name a file with -o")
    return options
