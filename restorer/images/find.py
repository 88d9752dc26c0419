"""Pictures on the disk: what inputs name, and what folders hold."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from restorer.errors import PictureError, UsageError

__all__ = ["STDIO", "SUFFIXES", "asked", "collect"]

STDIO = Path("-")
SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"])


def collect(
    inputs: Iterable[str], *, recursive: bool, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[tuple[Path, Path | None]]:
    """(picture, folder it was found in or None) for every input, in a stable order, each picture once.

    Inputs are files, folders (with `recursive`), glob patterns that the shell did not expand, and "-".

    Args:
        include, exclude: patterns; of the pictures in folders those are left out whose name, and whose path from the
            folder on, no pattern of the first fits, where there is one, or any of the second does.

    Raises:
        UsageError: a folder without `recursive`.
        PictureError: an input that matches nothing, or a folder without pictures.
    """
    found: dict[Path, Path | None] = {}
    for name in inputs:
        path = Path(name)
        if path == STDIO or asked(path.is_file):
            found.setdefault(path, None)
        elif asked(path.is_dir):
            if not recursive:
                raise UsageError(f"{name} is a folder", "add -r to restore every picture in it")
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise PictureError(f"there are no pictures in {name}", f"known are {', '.join(sorted(SUFFIXES))}")
            wanted = [p for p in inside if _is_wanted(p.relative_to(path), include, exclude)]
            if not wanted:
                hint = "patterns are compared with names, and with paths inside the folder"
                raise PictureError(f"--include and --exclude leave none of {len(inside)} pictures in {name}", hint)
            for p in wanted:
                found.setdefault(p, path)
        elif matches := [p for p in map(Path, sorted(glob.glob(name, recursive=True))) if p.is_file()]:  # noqa: PTH207
            for p in matches:
                found.setdefault(p, None)
        else:
            raise PictureError(f"{name} does not exist", "check the path")
    return list(found.items())


def _is_wanted(place: PurePath, include: Sequence[str], exclude: Sequence[str]) -> bool:
    def fits(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns for name in (place.name, place.as_posix()))

    return (not include or fits(include)) and not fits(exclude)


def asked(question: Callable[[], bool]) -> bool:
    """Whether a path is something; no, if the system refuses to say: a name too long, a folder that is closed."""
    try:
        return question()
    except OSError:
        return False
