"""The log of a run over a folder of pictures, from which an interrupted run can be resumed.

The log holds one JSON object per line:

    {"event": "begun",  "output": "a_denoised.png"}                         before a result is written
    {"event": "result", "output": "a_denoised.png", "status": "ok", ...}    afterwards

Each line is flushed to the disk before the run continues. A result with a `begun` line but no `ok` line may or may not
exist, and a resumed run may replace it; a file with neither line belongs to the user. A failure without a `begun` line,
for example because the run was refused, does not change the known state of a result. The last line may be cut short; it
is then ignored.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from restorer.errors import OutputError

__all__ = [
    "MANIFEST",
    "Manifest",
    "compute_fingerprint",
    "name_in_log",
    "open_manifest",
    "read_lines",
    "remove_partial_files",
]

MANIFEST = ".restorer.jsonl"
"""The default file name of the log, in the folder that the run belongs to."""

_DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PARTIAL_NAME = re.compile(r"\.[0-9a-f]{16}\.partial")  # the temporary files of images/writing.py


def compute_fingerprint(command: str, options: Mapping[str, Any], model: str, *inputs: str) -> str:
    """Return the fingerprint of everything that a result depends on.

    The device, the precision, the tile and the number of threads are deliberately not part of the fingerprint.

    Args:
        command: The verb.
        options: The options as the user gave them; None for an option that was left to the program.
        model: SHA-256 of the model, that is, of its weights and configurations.
        inputs: SHA-256 of the picture, followed by that of its mask if there is one.

    Returns:
        "sha256:" followed by 64 hexadecimal digits.
    """
    content = {"command": command, "options": dict(options), "model": model, "inputs": inputs}
    return f"sha256:{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}"


class Manifest:
    """The log of one folder.

    A process may write to a log only while it holds the lock of the log: see `open_manifest`.

    Args:
        path: The file of the log, which need not exist.
        earlier: Other logs, which need not exist either. What they say counts as said before.

    Raises:
        OutputError: A file exists and cannot be read.
    """

    def __init__(self, path: Path, earlier: Iterable[Path] = ()) -> None:
        self.path = path
        self._last: dict[str, dict[str, Any]] = {}  # absolute path of a result -> its last line
        self._begun: set[str] = set()
        for log in (*(other for other in earlier if other != path), path):
            for content in read_lines(log):
                self._remember(_absolute(log.parent / content["output"]), content)

    def has_begun(self, target: Path) -> bool:
        """Return whether a run has begun to write this result.

        A run that refused to replace an existing file has not begun to write it.
        """
        return _absolute(target) in self._begun

    def is_done(self, target: Path, fingerprint: str) -> bool:
        """Return whether this result exists, is complete, and has the given fingerprint."""
        return self.may_be_done(target) and self._last[_absolute(target)].get("recipe") == fingerprint

    def may_be_done(self, target: Path) -> bool:
        """Return whether this result exists and is complete, whatever it was made from."""
        return self._last.get(_absolute(target), {}).get("status") == "ok" and target.is_file()

    def statuses(self) -> list[str]:
        """Return what became of each result: "ok", "failed", or "begun" if it was not ended."""
        return [str(last.get("status", "begun")) for last in self._last.values()]

    def log_begin(self, target: Path) -> None:
        """Log that this result is about to be written.

        Raises:
            OutputError: The log cannot be written.
        """
        self._append(target, {"event": "begun"})

    def log_result(self, target: Path, result: Mapping[str, Any]) -> None:
        """Log the outcome of this result.

        Args:
            target: The file of the result.
            result: The fields of the line, among them `status`: "ok" or "failed".

        Raises:
            OutputError: The log cannot be written.
        """
        self._append(target, result)

    def _append(self, target: Path, content: Mapping[str, Any]) -> None:
        path, name = _absolute(target), name_in_log(target, self.path)
        line = json.dumps({"schema": 1, **content, "output": name}, allow_nan=False) + "\n"
        try:
            with self.path.open("ab+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read() == b"\n" else f"\n{line}"  # an earlier run left an incomplete line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            hint = (
                "free some space"
                if error.errno in _DISK_FULL_ERRORS
                else "check that its folder exists and is writable"
            )
            hint += ", then continue with --resume"
            raise OutputError(f"{self.path} cannot be written: {error.strerror}", hint) from error
        self._remember(path, dict(content))

    def _remember(self, path: str, content: dict[str, Any]) -> None:
        if content.get("status") == "failed" and self._last.get(path, {}).get("status") == "ok":
            return  # nothing was begun, so the earlier result is unchanged
        self._last[path] = content
        if content.get("event") == "begun":
            self._begun.add(path)


def name_in_log(target: Path, log: Path) -> str:
    """Return the name of a result in a log.

    It is relative to the folder of the log if possible, so that log and results can be moved together.
    """
    path, root = Path(_absolute(target)), Path(_absolute(log.parent))
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a log that are about a result; none if the file does not exist.

    Raises:
        OutputError: The file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        hint = "name another file with --manifest"
        raise OutputError(f"{path} cannot be read: {error.strerror}", hint) from error
    contents = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            content = json.loads(line)
            if isinstance(content, dict) and isinstance(content.get("output"), str):
                contents.append(content)
    return contents


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  (`resolve` would follow a result that is itself a link)


@contextmanager
def open_manifest(path: Path, earlier: Iterable[Path] = ()) -> Iterator[Manifest]:
    """Open a log and hold its lock, so that no second run can write to it.

    The system releases the lock when the process ends, however it ends.

    Args:
        path: The file of the log. The lock is a file beside it.
        earlier: As in `Manifest`.

    Raises:
        OutputError: Another run holds the lock, or the folder does not exist or is not writable.
    """
    if not path.parent.is_dir():
        hint = "create it, or name another file with --manifest"
        raise OutputError(f"the folder {path.parent} does not exist", hint)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        hint = "wait until it has ended, or name another folder with -o"
        raise OutputError(f"another run is writing to {path.parent}", hint) from None
    except OSError as error:
        hint = "name another folder with -o"
        raise OutputError(f"the folder {path.parent} cannot be written to: {error.strerror}", hint) from error
    try:
        yield Manifest(path, earlier)
    finally:
        lock.release()


def remove_partial_files(folders: Iterable[Path]) -> None:
    """Remove the incomplete files that a killed run has left in these folders.

    The caller must hold the lock of the log, because a run in progress has such files too.
    """
    for folder in folders:
        with suppress(OSError):
            for path in [path for path in folder.iterdir() if _PARTIAL_NAME.fullmatch(path.name)]:
                path.unlink()
