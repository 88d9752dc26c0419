"""What was done to a folder of pictures: a log of one JSON object a line, so that a run that ended in any way goes on.

    {"event": "begun",  "output": "a_denoised.png"}                         before a result is written
    {"event": "result", "output": "a_denoised.png", "status": "ok", ...}    after

A line is on the disk before the next thing happens. A result that has a `begun` but no `ok` may be there or not, and is
ours to replace; one that has neither is somebody else's. A failure that was not begun, as where something was refused,
leaves what is known of a result as it was. The last line may be torn; it counts as never written.
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

__all__ = ["MANIFEST", "Manifest", "fingerprint", "opened", "sweep"]

MANIFEST = ".restorer.jsonl"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")  # a result that is being written (images/writing.py)


def fingerprint(command: str, options: Mapping[str, Any], model: str, *inputs: str) -> str:
    """What a result depends on, and nothing that it does not: neither device nor precision, tile or threads.

    Args:
        command: the verb.
        options: what the user asked for; None where it was left to the program.
        model, inputs: SHA-256 of the model (its weights and configurations), of the picture, of its mask.

    Returns:
        "sha256:" and 64 hexadecimal digits.
    """
    content = {"command": command, "options": dict(options), "model": model, "inputs": inputs}
    return f"sha256:{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}"


class Manifest:
    """The log of one folder. Only who holds its lock may have one: see `opened`.

    Args:
        path: of the log; it need not exist.

    Raises:
        OutputError: it is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: dict[str, dict[str, Any]] = {}
        self._begun: set[str] = set()
        try:
            lines = path.read_bytes().splitlines() if path.exists() else []
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}", "name another with --manifest") from error
        for line in lines:
            with suppress(ValueError, RecursionError):
                content = json.loads(line)
                if isinstance(content, dict) and isinstance(content.get("output"), str):
                    self._remember(_absolute(path.parent / content["output"]), content)

    def is_ours(self, target: Path) -> bool:
        """Whether an earlier run began to write this result; one that was refused for what stood there did not."""
        return _absolute(target) in self._begun

    def is_done(self, target: Path, recipe: str) -> bool:
        """Whether this result is there, whole, and what this recipe (a `fingerprint`) gives."""
        last = self._last.get(_absolute(target), {})
        return last.get("status") == "ok" and last.get("recipe") == recipe and target.is_file()

    def begin(self, target: Path) -> None:
        """Say that this result is about to be written."""
        self._append(target, {"event": "begun"})

    def record(self, target: Path, result: Mapping[str, Any]) -> None:
        """Say what became of it."""
        self._append(target, result)

    def _append(self, target: Path, content: Mapping[str, Any]) -> None:
        # A path counts from the log's own folder where it can, so that both can be moved together.
        place, root = Path(_absolute(target)), Path(_absolute(self.path.parent))
        name = (place.relative_to(root) if place.is_relative_to(root) else place).as_posix()
        line = json.dumps({"schema": 1, **content, "output": name}, allow_nan=False) + "\n"
        try:
            with self.path.open("ab+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read() == b"\n" else f"\n{line}"  # the end of the last run tore its line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            hint = "free some space" if error.errno in _FULL else "see that its folder is there and can be written to"
            hint += "; --resume goes on"
            raise OutputError(f"{self.path} cannot be written: {error.strerror}", hint) from error
        self._remember(str(place), dict(content))

    def _remember(self, place: str, content: dict[str, Any]) -> None:
        if content.get("status") == "failed" and self._last.get(place, {}).get("status") == "ok":
            return  # nothing was begun: what was written before stands as it did
        self._last[place] = content
        if content.get("event") == "begun":
            self._begun.add(place)


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  (`resolve` would follow a link that is the result itself)


@contextmanager
def opened(path: Path) -> Iterator[Manifest]:
    """The manifest at `path`, with its lock held: a second run that would write to it is refused.

    The system gives the lock back when the process ends, however it ends.

    Raises:
        OutputError: another run holds it, or the place cannot be written.
    """
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist", "make it, or name another with --manifest")
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        hint = "wait for it, or name another folder with -o"
        raise OutputError(f"another run is writing to {path.parent}", hint) from None
    except OSError as error:
        raise OutputError(f"{path.parent} cannot be written: {error.strerror}", "name another with -o") from error
    try:
        yield Manifest(path)
    finally:
        lock.release()


def sweep(folders: Iterable[Path]) -> None:
    """Remove what a killed run left half written. Only with the lock held: a run at work has such files too."""
    for folder in folders:
        with suppress(OSError):
            for path in [path for path in folder.iterdir() if PARTIAL.fullmatch(path.name)]:
                path.unlink()
