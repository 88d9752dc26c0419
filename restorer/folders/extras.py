"""What a run writes beside its results: maps of their uncertainty, and further samples.

    --uncertainty PATH      PATH itself for one picture that is named; a folder for several: {result}_uncertainty.png
    --samples N             {result}_sample1 ... {result}_sampleN and {result}_mean, beside the result

The first sample is the result itself, so that only the others are written. Sample k has the seed of the run and k - 1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from restorer.errors import OutputError, UsageError
from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.images.find import STDIO

__all__ = ["MAX_SAMPLES", "check_extras", "check_targets", "map_path", "sample_paths"]

MAX_SAMPLES = 64
"""Largest number of samples of a picture."""

STARTED = (
    "how far the results of other networks may be off is not known, so --uncertainty and --start cannot be combined"
)
"""Why there is no map for a result that starts from that of another network."""


SEVERAL = "how far the errors of several repairs add up is not known, so auto takes no --uncertainty"
"""Why there is no map for a result of several repairs."""


def check_extras(options: Options) -> None:
    """Check the options about what is written beside the results.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    if not 1 <= options.samples <= MAX_SAMPLES:
        raise UsageError(f"samples must lie between 1 and {MAX_SAMPLES}, not {options.samples}")
    if options.samples > 1 and options.in_place:
        raise UsageError("--samples and --in-place cannot be combined", "name a folder with -o")
    if options.samples > 1 and (options.output == "-" or ("-" in options.inputs and options.output is None)):
        raise UsageError("samples cannot go to standard output", "name a file with -o")
    if options.samples > 1 and options.start is not None and options.steps == 0:
        raise UsageError("a network by itself draws no samples", "leave out --samples or --steps 0")
    if options.uncertainty is not None and options.command == "auto":
        raise UsageError(SEVERAL, "leave out --uncertainty, or use the commands of the repairs")
    if options.uncertainty is not None and options.start is not None:
        raise UsageError(STARTED, "leave out --uncertainty or --start")
    if options.uncertainty in ("-", ""):
        raise UsageError(
            "the map of the uncertainty cannot go to standard output", "name a file: --uncertainty map.png"
        )


def _is_folder(options: Options, items: Sequence[Item]) -> bool:
    """Return whether the maps of a run go into a folder."""
    path = options.uncertainty or ""
    is_named = path.endswith(("/", os.sep)) or Path(path).is_dir()
    return is_named or len(items) > 1 or any(item.root is not None for item in items)


def map_path(item: Item, options: Options, items: Sequence[Item]) -> Path | None:
    """Return the file for the map of a picture; None if no map is wanted.

    Args:
        item: The picture.
        options: The options of the run.
        items: All pictures of the run.
    """
    if options.uncertainty is None:
        return None
    if not _is_folder(options, items):
        return Path(options.uncertainty)
    place = Path()
    if item.root is not None and item.source.is_relative_to(item.root):
        place = item.source.parent.relative_to(item.root)
    name = item.source.stem if item.target == STDIO else item.target.stem
    return Path(options.uncertainty) / place / f"{name}_uncertainty.png"


def sample_paths(item: Item, options: Options) -> list[Path]:
    """Return the files for the samples after the first, and for the mean of all; empty if none are wanted."""
    if options.samples < 2:
        return []
    names = [*(f"sample{number}" for number in range(2, options.samples + 1)), "mean"]
    return [item.target.with_name(f"{item.target.stem}_{name}{item.target.suffix}") for name in names]


def check_targets(items: Sequence[Item], options: Options) -> None:
    """Check, before anything is computed, that what is written beside the results can be written.

    Raises:
        OutputError: A file exists, or is that of a picture or of a result.
        UsageError: Two pictures would have one map, or the name does not end in .png.
    """
    taken = {path for item in items for path in (item.source, item.target)}
    extra: dict[Path, Item] = {}
    for item in items:
        path = map_path(item, options, items)
        if path is not None and path.suffix.lower() != ".png":
            hint = "end the name of a file with .png, and that of a folder with /"
            raise UsageError(f"the map of the uncertainty is a PNG file, not {path.name}", hint)
        for each in (*([] if path is None else [path]), *sample_paths(item, options)):
            if each in extra:
                raise UsageError(f"{each} would be written for two pictures", "restore them one at a time")
            if each in taken:
                raise OutputError(f"{each} is a picture or a result of this run", "name another file")
            if each.exists() and not (options.overwrite or options.resume or options.skip_existing):
                raise OutputError(f"{each} exists", "add --overwrite, or name another file")
            extra[each] = item
