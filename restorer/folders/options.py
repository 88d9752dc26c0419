"""The options that the restoring verbs share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restorer.errors import UsageError
from restorer.folders.in_place import check_backup_suffix
from restorer.folders.shard import Shard
from restorer.images.find import is_stream
from restorer.images.sizes import Region
from restorer.limits import FORMAT_OF_SUFFIX, FORMATS, MAX_PIXELS, check

__all__ = ["Options", "check_options"]

_ADDRESS = re.compile(r"ray://(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+):([1-9]\d{0,4})")


@dataclass(frozen=True)
class Options:
    """The options of one run of a restoring verb, checked.

    Args:
        command: The verb.
        inputs: Files, folders, glob patterns, or "-" for standard input.
        output: A file, a folder, or "-" for standard output; None for a file beside each input.
        overwrite: Whether existing results are replaced.
        skip_existing: Whether pictures with an existing result are skipped.
        recursive: Whether folders are allowed among the inputs.
        steps: Number of network evaluations; None for the default of the verb.
        detail: From 0 (faithful) to 1 (natural); None for the default of the verb.
        method: The preset of the reverse process.
        seed: The seed of the noise field.
        sigma: The noise of the input on the 0..255 scale; None to estimate it.
        model: The name, path or Hub repository of the model.
        device: A name of `restorer.models.load.resolve_device`.
        precision: "auto", "fp32", "bf16" or "fp16".
        tile: "auto", "off", or the side of a tile in pixels of the result.
        json: Whether one JSON object per picture is printed.
        quiet: Whether only the paths of the results are printed.
        verbose: Whether additional messages are printed.
        include: Glob patterns; if there are any, only matching pictures of a folder are restored.
        exclude: Glob patterns; matching pictures of a folder are left out.
        limit: Maximum number of pictures to restore; None for no limit.
        fail_fast: Whether the run stops at the first failure.
        max_pixels: Number of pixels above which a picture is refused.
        resume: Whether an earlier run is continued.
        manifest: The file of the log; None for the default file in the folder of the run.
        dry_run: Whether the run only prints a preview.
        show: Whether the picture and the result are drawn in the terminal.
        in_place: Whether each result replaces its picture.
        backup: The suffix under which a replaced picture is kept; None to keep none.
        region: The part of each picture that is restored and written; None for all of it.
        start: The path or Hub file of the network from whose result the reverse process starts; None for none.
        format: The format of the results, a key of `restorer.limits.FORMATS`; None for that of each picture.
        quality: The quality of results that are compressed with loss, 1 to 100; None for the default.
        keep_times: Whether results have the access and modification times of their pictures.
        shard: The part of the pictures that is restored; None for all of them.
        uncertainty: The file or folder for the maps of the uncertainty; None to make none.
        samples: Number of plausible results of each picture, the result itself included.
        cluster: The Ray cluster whose machines restore the pictures: "ray://HOST:PORT", "auto" for the one that runs on
            this machine, or "local" for one of this machine alone; None for this process.
        workers: Maximum number of workers in the cluster; None for as many as it has room for.
    """

    command: str
    inputs: list[str]
    output: str | None
    overwrite: bool
    skip_existing: bool
    recursive: bool
    steps: int | None
    detail: float | None
    method: str
    seed: int
    sigma: float | None
    model: str
    device: str
    precision: str
    tile: int | str
    json: bool
    quiet: bool
    verbose: bool
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    fail_fast: bool = False
    max_pixels: int = MAX_PIXELS
    resume: bool = False
    manifest: Path | None = None
    dry_run: bool = False
    show: bool = False
    in_place: bool = False
    backup: str | None = None
    keep_times: bool = False
    format: str | None = None
    quality: int | None = None
    region: Region | None = None
    shard: Shard | None = None
    start: str | None = None
    uncertainty: str | None = None
    samples: int = 1
    cluster: str | None = None
    workers: int | None = None

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
    def asked(self) -> dict[str, Any]:
        """What is wanted beside the results, as far as it is not the default."""
        has_map = {} if self.uncertainty is None else {"uncertainty": True}
        return has_map if self.samples == 1 else {**has_map, "samples": self.samples}

    @property
    def sampling(self) -> dict[str, Any]:
        """The keyword arguments, besides the prior, that the `prepare_...` functions of the restoring tasks share."""
        return {
            "sigma": self.sigma,
            "steps": self.steps,
            "detail": self.detail,
            "method": self.method,
            "seed": self.seed,
            **({} if self.region is None else {"region": self.region}),
        }


def check_options(options: Options) -> None:
    """Check options together.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    sampling = {name: getattr(options, name) for name in ("sigma", "steps", "detail", "method", "seed")}
    check(**sampling, started=options.start is not None)
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
