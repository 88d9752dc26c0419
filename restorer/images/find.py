"""The search for pictures on the disk: the files that the inputs of a command name and that folders contain."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from restorer.errors import PictureError, UsageError

__all__ = ["STDIO", "SUFFIXES", "collect", "safe_check"]

STDIO = Path("-")
"""The path that stands for standard input or standard output."""

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"])
"""The suffixes, in lower case, of the files in a folder that are taken for pictures."""


def collect(
    inputs: Iterable[str], *, recursive: bool, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[tuple[Path, Path | None]]:
    """Return every picture that the inputs name, once and in a stable order.

    The patterns of `include` and `exclude` apply to the pictures in folders only. They are matched against the name of
    a picture and against its path relative to the folder.

    Args:
        inputs: files, folders, glob patterns that the shell has not expanded, and "-" for standard input.
        recursive: whether folders are allowed; all of their subfolders are searched as well.
        include: patterns; if there are any, a picture in a folder must match at least one of them.
        exclude: patterns; a picture in a folder that matches any of them is left out.

    Returns:
        A list of pairs: the picture, and the input folder that contains it or None.

    Raises:
        UsageError: an input is a folder and `recursive` is not set.
        PictureError: an input matches nothing, a folder contains no pictures, or the patterns select none of them.
    """
    found: dict[Path, Path | None] = {}
    for name in inputs:
        path = Path(name)
        if path == STDIO or safe_check(path.is_file):
            found.setdefault(path, None)
        elif safe_check(path.is_dir):
            if not recursive:
                raise UsageError(f"{name} is a folder", "add -r to restore every picture in it")
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                hint = f"the supported suffixes are {', '.join(sorted(SUFFIXES))}"
                raise PictureError(f"there are no pictures in {name}", hint)
            wanted = [p for p in inside if _is_wanted(p.relative_to(path), include, exclude)]
            if not wanted:
                hint = "patterns are matched against file names and against paths inside the folder"
                raise PictureError(f"--include and --exclude leave none of the {len(inside)} pictures in {name}", hint)
            for p in wanted:
                found.setdefault(p, path)
        elif matches := [p for p in map(Path, sorted(glob.glob(name, recursive=True))) if p.is_file()]:  # noqa: PTH207
            for p in matches:
                found.setdefault(p, None)
        else:
            raise PictureError(f"{name} does not exist", "check the path")
    return list(found.items())


def _is_wanted(path: PurePath, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Return whether the patterns select a picture, given its path relative to the folder."""

    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns for name in (path.name, path.as_posix()))

    return (not include or matches(include)) and not matches(exclude)


def safe_check(predicate: Callable[[], bool]) -> bool:
    """Return the result of a predicate on a path, or False if the system refuses to answer.

    The system refuses, for example, if the name is too long or a folder is not accessible.

    Args:
        predicate: a bound method such as `path.is_dir`.
    """
    try:
        return predicate()
    except OSError:
        return False
