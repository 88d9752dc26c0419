"""The options that the restoring verbs share: what is restored, where the results go, and what computes them."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from restorer.errors import UsageError
from restorer.folders.in_place import check_backup_suffix
from restorer.folders.shard import Shard
from restorer.images.find import is_stream
from restorer.images.sizes import Region, parse_region
from restorer.limits import FORMAT_OF_SUFFIX, FORMATS, MAX_PIXELS, whole_number
from restorer.tasks.option import DEVICE, INPUT, INTERFACE, OUTPUT, option
from restorer.tasks.options import SamplingOptions

__all__ = ["Options", "check_options", "own_names"]

_ADDRESS = re.compile(r"ray://(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+):([1-9]\d{0,4})")


_STANDARD_OUTPUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def _read_output(text: str) -> str:
    """Return the output that a text stands for: "-" for what the system calls standard output."""
    return "-" if text in _STANDARD_OUTPUT else text


def _parse_tile(value: Any) -> int | str:
    if isinstance(value, str) and value in ("auto", "off"):
        return value
    side = (int(value) if value.isdecimal() else 0) if isinstance(value, str) else whole_number("the tile", value)
    if side < 64:
        raise UsageError(f"the tile must be auto, off, or a side of at least 64 pixels, not {value!r}")
    return side


@dataclass(frozen=True, kw_only=True)
class Options(SamplingOptions):
    """The options of one run that the restoring verbs share, beside those of the task itself.

    Each verb has a class of its own in `restorer.folders.verb_options`. None for an option that is not declared
    otherwise means that it is not used; None for `limit`, `region`, `shard` and `workers` sets no limit.

    Args:
        command: The verb.
        inputs: Files, folders, glob patterns, or "-" for standard input.
    """

    command: str = ""
    inputs: list[str]
    output: str | None = option(
        None,
        "Where to write the results: a file, a folder (end its name with /), or - for standard output",
        "PATH",
        OUTPUT,
        short="-o",
        shown_default="beside the input",
        read=_read_output,
    )
    overwrite: bool = option(False, "Replace results that already exist", panel=OUTPUT)
    skip_existing: bool = option(False, "Skip pictures whose result already exists", panel=OUTPUT)
    resume: bool = option(
        False, "Continue an earlier run over a folder: skip the pictures that its log lists as done", panel=OUTPUT
    )
    manifest: Path | None = option(
        None,
        "File for the log of the run, which --resume reads",
        "FILE",
        OUTPUT,
        shown_default="in the folder of the results",
    )
    dry_run: bool = option(
        False, "List what would be done, with the estimated time and memory, and write nothing", panel=OUTPUT
    )
    in_place: bool = option(
        False,
        "Replace each picture by its result, in one step; a picture that was replaced before is skipped",
        panel=OUTPUT,
    )
    backup: str | None = option(
        None,
        "With --in-place, keep each picture under its name followed by this suffix, for instance .orig",
        "SUFFIX",
        OUTPUT,
        shown_default=False,
    )
    keep_times: bool = option(False, "Give results the modification times of their pictures", panel=OUTPUT)
    format: str | None = option(
        None,
        "Format of the results: png, jpeg, webp, tiff, avif, heic, jxl or bmp (default that of the picture)",
        "NAME",
        OUTPUT,
        shown_default=False,
        result=str,
    )
    quality: int | None = option(
        None,
        "Quality of JPEG, WebP, AVIF, HEIC and JPEG XL results, 1 to 100 (default 95)",
        "N",
        OUTPUT,
        shown_default=False,
        result=int,
    )
    uncertainty: str | None = option(
        None,
        "Also write how far each pixel may be off, as a 16-bit gray PNG: a file, or a folder for several pictures",
        "PATH",
        OUTPUT,
        shown_default=False,
        result=bool,
    )
    samples: int = option(
        1, "Write N plausible results of each picture, and their mean, beside the result", "N", OUTPUT, result=int
    )
    recursive: bool = option(False, "Restore every picture in a folder and in its subfolders", panel=INPUT, short="-r")
    include: tuple[str, ...] = option(
        (), "In folders, restore only pictures whose name or path matches this pattern (repeatable)", "GLOB", INPUT
    )
    exclude: tuple[str, ...] = option(
        (), "In folders, skip pictures whose name or path matches this pattern (repeatable)", "GLOB", INPUT
    )
    limit: int | None = option(None, "Restore at most N pictures", "N", INPUT)
    shard: Shard | None = option(
        None,
        "Restore only part I of N; each picture of a folder belongs to one part, on every machine",
        "I/N",
        INPUT,
        shown_default=False,
        read=Shard.parse,
    )
    fail_fast: bool = option(False, "Stop at the first picture that fails", panel=INPUT)
    max_pixels: int = option(MAX_PIXELS, "Refuse pictures of more than N pixels", "N", INPUT)
    region: Region | None = option(
        None,
        "Restore and write only this part: left, top, width and height in pixels",
        "X,Y,W,H",
        INPUT,
        shown_default="the whole picture",
        read=parse_region,
        take=parse_region,
        result=tuple,
    )
    model: str = option(
        "photo",
        "Model to use: photo (built in), the path of a model, a name from `restore models list`, or a "
        "repository of the Hugging Face Hub as ORG/NAME\\[@REV]\\[:FILE]",
        "NAME|PATH|REPO",
        DEVICE,
        short="-m",
    )
    start: str | None = option(
        None,
        "Network of another program to start from, such as ESRGAN or LaMa: a .pth or .safetensors file, or "
        "ORG/NAME\\[@REV]:FILE on the Hugging Face Hub; --steps 0 is the network alone",
        "FILE|REPO",
        DEVICE,
        shown_default=False,
    )
    device: str = option(
        "auto", "Device to compute on: auto, cpu, cuda, cuda:N, mps or xpu", "NAME", DEVICE, short="-d"
    )
    precision: str = option("auto", "Floating-point precision of the network: auto, fp32, bf16 or fp16", "NAME", DEVICE)
    tile: int | str = option(
        "auto",
        "Size of the tiles that large pictures are cut into: auto, off, or a side of at least 64 pixels",
        "PX",
        DEVICE,
        read=_parse_tile,
        take=_parse_tile,
    )
    cluster: str | None = option(
        None,
        "Restore on the machines of a Ray cluster: ray://HOST:PORT, auto for the one that runs on this machine, "
        "or local for one of this machine alone",
        "ADDRESS",
        DEVICE,
        shown_default=False,
    )
    workers: int | None = option(
        None,
        "With --cluster, use at most N workers, each with a GPU or a group of cores",
        "N",
        DEVICE,
        shown_default="as many as the cluster has room for",
    )
    show: bool = option(False, "Draw each picture and its result in the terminal", panel=INTERFACE)
    json: bool = option(False, "Print one JSON object per picture to standard output", panel=INTERFACE)
    quiet: bool = option(False, "Print only the paths of the results, and errors", panel=INTERFACE, short="-q")
    verbose: bool = option(False, "Print more, such as the noise levels", panel=INTERFACE, short="-v")

    @property
    def suffix(self) -> str:
        """The suffix of every result; "" for that of each picture."""
        return "" if self.format is None else FORMATS[self.format.lower()]

    @property
    def encoding(self) -> dict[str, Any]:
        """The options about the format of the results that are given."""
        given = {"format": self.format, "quality": self.quality}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def own(self) -> dict[str, Any]:
        """The options of the verb alone, as the record of a result holds them."""
        shared = {each.name for each in fields(Options)}
        values = {name: getattr(self, name) for name in own_names(type(self)) if name not in shared}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @property
    def asked(self) -> dict[str, Any]:
        """The options of the run that results depend on, as far as they are given, as the fingerprint holds them."""
        counting = [(each, each.metadata["option"].result) for each in fields(Options) if "option" in each.metadata]
        return {
            each.name: result(value)
            for each, result in counting
            if result is not None and (value := getattr(self, each.name)) != each.default
        }


def own_names(kind: type) -> list[str]:
    """Return the names of the options that a command declares itself, in order, some of which others have too."""
    return [name for each in kind.__mro__ if not issubclass(Options, each) for name in inspect.get_annotations(each)]


def check_options(options: Options) -> None:
    """Check options together.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    options.check(started=options.start is not None)
    policies = {"--overwrite": options.overwrite, "--skip-existing": options.skip_existing, "--resume": options.resume}
    if len(chosen := [name for name, is_set in policies.items() if is_set]) > 1:
        raise UsageError(f"{' and '.join(chosen)} cannot be combined")
    _check_in_place(options, chosen)
    _check_format(options)
    _check_cluster(options)
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit must be at least 1, not {options.limit}")
    if options.shard is not None and any(is_stream(Path(name)) for name in options.inputs):
        raise UsageError("--shard needs files or folders, and a pipe is neither")
    if options.max_pixels < 1:
        raise UsageError(f"--max-pixels must be at least 1, not {options.max_pixels}")
    if options.json and (options.output == "-" or ("-" in options.inputs and options.output is None)):
        raise UsageError("the picture and --json cannot both go to standard output", "name a file with -o")


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


def _check_cluster(options: Options) -> None:
    """Check the options about a cluster.

    Raises:
        UsageError: The address has another form, or an option cannot be combined with a cluster.
    """
    if options.cluster is None:
        if options.workers is not None:
            raise UsageError("--workers needs --cluster", "without it, this process restores the pictures")
        return
    if options.cluster not in ("auto", "local") and _ADDRESS.fullmatch(options.cluster) is None:
        raise UsageError(f"a cluster is auto, local or ray://HOST:PORT, not {options.cluster!r}")
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"--workers must be at least 1, not {options.workers}")
    if options.output == "-" or any(is_stream(Path(name)) for name in options.inputs):
        raise UsageError("--cluster needs files or folders, and a pipe is neither")
    if options.show:
        raise UsageError("--cluster and --show cannot be combined", "no pixels come back from the workers")
    if options.device.strip().lower() not in ("auto", "cpu", "cuda"):
        hint = "use auto, cpu or cuda: each worker is given a GPU"
        raise UsageError(f"--device {options.device} and --cluster cannot be combined", hint)


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
        known = "png, jpeg, webp, tiff, avif, heic, jxl or bmp"
        raise UsageError(f"unknown format {options.format!r}", f"use one of {known}")
    if options.in_place:
        raise UsageError("--in-place and --format cannot be combined", "a picture that is replaced keeps its format")
    suffix = "" if options.output is None else Path(options.output).suffix.lower()
    if suffix in FORMAT_OF_SUFFIX and FORMAT_OF_SUFFIX[suffix] != FORMATS[options.format.lower()]:
        raise UsageError(f"-o {options.output} and --format {options.format} contradict each other", "leave one out")
