"""The merging of logs: those of the shards of a run become one, from which `--resume` continues."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restorer.errors import OutputError, PictureError
from restorer.folders.manifest import Manifest, name_in_log, open_manifest, read_lines

__all__ = ["Merged", "merge_logs"]


@dataclass(frozen=True)
class Merged:
    """What a merged log says.

    Args:
        logs: Number of different logs.
        ok: Number of results that are done.
        failed: Number of results that failed.
        unfinished: Number of results that were begun and not ended.
    """

    logs: int
    ok: int
    failed: int
    unfinished: int


def merge_logs(logs: Sequence[Path], output: Path, *, overwrite: bool = False) -> Merged:
    """Merge logs into one, and return what it says.

    The lines stay as they are, in the order of the logs, except for the paths of the results, which become relative to
    the new log. Incomplete lines are left out. The new log appears under its name complete or not at all. It may be one
    of the logs.

    Args:
        logs: The logs.
        output: The new log.
        overwrite: Whether an existing file is replaced.

    Raises:
        PictureError: A log does not exist.
        OutputError: The new log exists or cannot be written, a log cannot be read, or a run is writing to one of them.
    """
    for log in logs:
        if not log.is_file():
            raise PictureError(f"the log {log} does not exist", "check the path")
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists", "add --overwrite, or name another file with -o")
    different = {log.resolve(): log for log in logs}
    with ExitStack() as stack:
        for log in {**different, output.resolve(): output}.values():
            stack.enter_context(open_manifest(log))  # which fails while a run is writing to it
        lines = [line for log in different.values() for line in _moved(log, output)]
        _write(output, lines)
    return _count(output, len(different))


def _moved(log: Path, output: Path) -> list[dict[str, Any]]:
    """Return the lines of a log as another log holds them."""
    lines = read_lines(log)
    return [{**line, "output": name_in_log(log.parent / line["output"], output)} for line in lines]


def _write(output: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write a log in one step.

    Raises:
        OutputError: It cannot be written.
    """
    partial = output.with_name(f".{os.urandom(8).hex()}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(f"{json.dumps(line, allow_nan=False)}\n".encode() for line in lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        hint = "name another file with -o"
        raise OutputError(f"{output} cannot be written: {error.strerror or error}", hint) from error


def _count(output: Path, logs: int) -> Merged:
    """Return what a log, merged from a number of others, says about its results in the end."""
    counts = Counter(Manifest(output).statuses())
    return Merged(logs, counts["ok"], counts["failed"], counts["begun"])
