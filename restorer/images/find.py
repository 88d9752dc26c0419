"""The search for pictures on the disk: the files that the inputs of a command name and that folders contain.

A folder is searched with its subfolders. What belongs to the system (thumbnails of file servers, bins, hidden files) is
passed over, and so is everything that is not a picture; `Search.passed_over` lists it with its kind. The order is
natural: img2.png comes before img10.png, on every system.
"""

from __future__ import annotations

import errno
import glob
import importlib.util
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path, PurePath

from restorer.errors import PictureError, UsageError
from restorer.images.kinds import KINDS, describe_counts, folder_kind, is_own_file, kind_of

__all__ = [
    "STDIO",
    "SUFFIXES",
    "Search",
    "collect",
    "content_suffix",
    "is_descriptor",
    "is_loop",
    "is_stream",
    "natural_key",
    "picture_suffixes",
    "safe_check",
    "search",
    "search_all",
]

BEGINNINGS = {  # of the formats that results may have
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".tif": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ".bmp": (b"BM",),
    ".gif": (b"GIF87a", b"GIF89a"),
}

STDIO = Path("-")
"""The path that stands for standard input or standard output."""

FORMAT_SUFFIXES: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "MPO": (".mpo",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "ICO": (".ico",),
    "PCX": (".pcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "QOI": (".qoi",),
    "PSD": (".psd",),
    "DDS": (".dds",),
}
"""The usual suffixes of each format that `restorer.images.reading` always reads."""

SUFFIXES = frozenset(suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes)
"""The suffixes, in lower case, of the files in a folder that are always taken for pictures."""

OPTIONAL_SUFFIXES = {
    "pillow_heif": KINDS["heic"].suffixes,
    "pillow_jxl": frozenset([".jxl"]),
    "rawpy": KINDS["raw"].suffixes,
}
"""Further suffixes of pictures, by the module that must be installed to read them."""

_BEGINNING_BYTES = 1 << 20  # of a file, in which a raw photograph is recognized
# The names that systems give to what a process has open.
_DESCRIPTOR = re.compile(r"/dev/(stdin|fd/\d+)|/proc/(self|thread-self|\d+)/fd/\d+")
_STDIN_NAMES = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


@dataclass(frozen=True)
class Search:
    """What the inputs of a command name.

    Args:
        pictures: The pictures, each with the input folder in which it was found, or None if it was named itself.
        unwanted: The pictures in folders that the patterns leave out, with their input folders.
        passed_over: The other files and folders in the folders that were searched, each with the name of its kind
            in `restorer.images.kinds.KINDS`.
        failed: The inputs and subfolders that cannot be searched, or that name no picture, each with the reason.
    """

    pictures: list[tuple[Path, Path | None]] = field(default_factory=list)
    unwanted: list[tuple[Path, Path | None]] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)
    failed: list[tuple[Path, PictureError]] = field(default_factory=list)


@cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the files in a folder that are taken for pictures on this machine."""
    installed = (suffixes for module, suffixes in OPTIONAL_SUFFIXES.items() if importlib.util.find_spec(module))
    return SUFFIXES.union(*installed)


def collect(
    inputs: Iterable[str], *, recursive: bool, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[tuple[Path, Path | None]]:
    """Return every picture that the inputs name, once and in a stable order.

    Args:
        inputs: As in `search_all`.
        recursive: As in `search_all`.
        include: As in `search_all`.
        exclude: As in `search_all`.

    Returns:
        A list of pairs: the picture, and the input folder that contains it or None.

    Raises:
        UsageError: An input is a folder and `recursive` is not set.
        PictureError: An input matches nothing or cannot be searched, a folder contains no pictures, or the patterns
            select none of them.
    """
    found = search_all(inputs, recursive=recursive, include=include, exclude=exclude)
    if found.failed:
        raise found.failed[0][1]
    return found.pictures


def search_all(
    inputs: Iterable[str], *, recursive: bool, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Search:
    """Return what the inputs name: every picture once, in the order of the inputs, and in natural order within each.

    The patterns of `include` and `exclude` apply to the files in folders only. They are matched against the name of a
    file and against its path relative to the folder.

    Args:
        inputs: Files, folders, glob patterns that the shell has not expanded, pipes, and "-" for standard input.
        recursive: Whether folders are allowed; all of their subfolders are searched as well.
        include: Patterns; if there are any, a file in a folder must match at least one of them.
        exclude: Patterns; a file in a folder that matches any of them is left out.

    Raises:
        UsageError: An input is a folder and `recursive` is not set.
    """
    result = Search()
    seen: set[Path] = set()
    resolve = cache(Path.resolve)  # of the folders, each of which holds many pictures
    for name in inputs:
        found = search(name, recursive=recursive, include=include, exclude=exclude)
        for path, root in found.pictures:
            # One that is named in two ways is found once; a link is a picture of its own.
            place = path if is_stream(path) else resolve(path.parent) / path.name
            if place not in seen:
                seen.add(place)
                result.pictures.append((path, root))
        result.unwanted.extend(found.unwanted)
        result.passed_over.extend(found.passed_over)
        result.failed.extend(found.failed)
    result.passed_over[:] = dict.fromkeys(result.passed_over)
    return _without_second_names(result, seen)


def _without_second_names(found: Search, places: set[Path]) -> Search:
    """Return what was found, without links in folders to pictures that were found themselves.

    Args:
        found: What was found.
        places: The absolute paths of the pictures.
    """
    kept: list[tuple[Path, Path | None]] = []
    for path, root in found.pictures:
        if root is not None and path.is_symlink() and path.resolve() in places:
            found.passed_over.append((path, "link"))
        else:
            kept.append((path, root))
    return replace(found, pictures=kept)


def search(name: str, *, recursive: bool, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Search:
    """Return what one input names; see `search_all`."""
    path = STDIO if name in _STDIN_NAMES else Path(name)
    if path == STDIO or safe_check(path.is_file) or is_stream(path):
        return Search([(path, None)])
    if safe_check(path.is_dir):
        if not recursive:
            raise UsageError(f"{name} is a folder", "add -r to restore every picture in it")
        return _search_folder(path, include, exclude)
    matches = [p for p in map(Path, glob.glob(name, recursive=True)) if safe_check(p.is_file)]  # noqa: PTH207
    if matches:
        return Search([(p, None) for p in sorted(matches, key=natural_key)])
    if safe_check(path.exists):
        error = PictureError(f"{name} is a device or a socket", "name a picture, a folder or a pipe")
    elif glob.has_magic(name):
        error = PictureError(f"no file matches {name}", "check the pattern")
    else:
        error = absence(path, name)
    return Search(failed=[(path, error)])


def absence(path: Path, name: str) -> PictureError:
    """Return the error for a path that leads to nothing, which is called by a name in the message."""
    if is_loop(path):
        return PictureError(f"{name} is a link that leads back to itself", "name the file that it should lead to")
    if safe_check(path.is_symlink):
        return PictureError(f"{name} is a link to {path.readlink()}, which does not exist", "check where it leads")
    return PictureError(f"{name} does not exist", "check the path")


def _search_folder(folder: Path, include: Sequence[str], exclude: Sequence[str]) -> Search:
    """Return what a folder and its subfolders hold."""
    result = Search()
    inside: list[Path] = []
    for path, kind in sorted(_walk(folder, result.failed), key=lambda found: natural_key(found[0])):
        if not kind:
            inside.append(path)
        elif _is_wanted(path.relative_to(folder), include, exclude):
            result.passed_over.append((path, kind))
    for path in inside:
        if _is_wanted(path.relative_to(folder), include, exclude):
            result.pictures.append((path, folder))
        else:
            result.unwanted.append((path, folder))
    if not inside and not result.failed:
        counts = Counter(kind for _, kind in result.passed_over)
        hint = f"it holds {describe_counts(counts)}" if counts else "it is empty, or all that it holds is left out"
        result.failed.append((folder, PictureError(f"there are no pictures in {folder}", hint)))
    elif inside and not result.pictures:
        hint = "patterns are matched against file names and against paths inside the folder"
        message = f"--include and --exclude leave none of the {len(inside)} pictures in {folder}"
        result.failed.append((folder, PictureError(message, hint)))
    return result


def _walk(folder: Path, failed: list[tuple[Path, PictureError]]) -> Iterator[tuple[Path, str]]:
    """Yield the files in a folder and its subfolders, and the folders that are not searched, in any order.

    Args:
        folder: The folder.
        failed: Receives the folders that the system does not list.

    Yields:
        The path, and the name of its kind; "" for a picture.
    """
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                listed = list(entries)
        except OSError as error:
            failed.append((place, PictureError(f"the folder {place} cannot be searched: {error.strerror}", "")))
            continue
        for entry in listed:
            path = place / entry.name
            if safe_check(partial(entry.is_dir, follow_symlinks=False)):
                if kind := folder_kind(entry.name, _status(entry)):
                    yield path, kind
                else:
                    waiting.append(path)
            elif not is_own_file(entry.name):
                yield path, _kind_of_entry(entry)


def _kind_of_entry(entry: os.DirEntry[str]) -> str:
    """Return the kind of a file, or "" if it is taken for a picture."""
    kind = kind_of(entry.name, _status(entry))
    if kind in ("hidden", "system"):
        return kind
    if not safe_check(entry.is_file):  # of a link, what it points to
        return "link" if entry.is_symlink() else "special"
    suffix = PurePath(entry.name).suffix.lower()
    if suffix in SUFFIXES:
        return ""
    if kind == "heic" and content_suffix(Path(entry.path)):
        return ""  # telephones and services send JPEG files under the names of HEIC files
    return "" if suffix in picture_suffixes() and _looks_like(Path(entry.path), kind) else kind


def _looks_like(path: Path, kind: str) -> bool:
    """Return whether a file with the suffix of an optional format begins as files of its kind do.

    Such suffixes have other uses, too, and a file that is something else is no picture that failed.
    """
    from restorer.images.foreign import is_raw

    try:
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING_BYTES)
    except OSError:
        return True  # the reader says why
    if kind == "raw":
        return is_raw(beginning)
    return beginning[4:8] == b"ftyp" or beginning.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL "))


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of an entry on the systems that mark hidden files in it."""
    if os.name == "posix" and not hasattr(os.stat_result, "st_flags"):
        return None
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None


def natural_key(path: PurePath) -> tuple[object, ...]:
    """Return a key that sorts paths naturally: numbers by their value, letters without regard to case.

    The order depends on nothing but the names. Names that differ in case or in composed letters alone are ordered by
    their code points.
    """
    return tuple(_name_key(part) for part in path.parts), path.parts


def _name_key(name: str) -> tuple[tuple[object, ...], tuple[object, ...]]:
    pure = PurePath(name)
    return _text_key(pure.stem), _text_key(pure.suffix)


def _text_key(text: str) -> tuple[object, ...]:
    """Return the text as a tuple in which every second item is a number."""
    pieces = re.split(r"(\d+)", unicodedata.normalize("NFC", text).casefold())
    return tuple(int(piece) if i % 2 else piece for i, piece in enumerate(pieces))


def _is_wanted(path: PurePath, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Return whether the patterns select a file, given its path relative to the folder."""

    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns for name in (path.name, path.as_posix()))

    return (not include or matches(include)) and not matches(exclude)


def content_suffix(path: Path) -> str:
    """Return the suffix of a picture file by its content, such as ".png"; "" if the beginning does not tell.

    Args:
        path: A regular file.
    """
    with suppress(OSError), path.open("rb") as file:
        start = file.read(16)
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return ".webp"
        if start[4:12] in (b"ftypavif", b"ftypavis"):
            return ".avif"
        return next((suffix for suffix, beginnings in BEGINNINGS.items() if start.startswith(beginnings)), "")
    return ""


def is_stream(path: Path) -> bool:
    """Return whether a path stands for something that can be read only once: standard input or a pipe.

    A process substitution of the shell, such as <(cat n.png), is a pipe that the process has open.
    """
    return path == STDIO or safe_check(path.is_fifo) or (is_descriptor(path) and safe_check(path.is_file))


def is_descriptor(path: Path) -> bool:
    """Return whether a path is the system's name of something that a process has open, which is no name of a file."""
    return _DESCRIPTOR.fullmatch(path.as_posix()) is not None


def is_loop(path: Path) -> bool:
    """Return whether a path cannot be followed because it leads through links that lead back to themselves."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    except ValueError:
        return False
    return False


def safe_check(predicate: Callable[[], bool]) -> bool:
    """Return the result of a predicate on a path, or False if the system refuses to answer.

    The system refuses, for example, if the name is too long, contains a null character, or a folder is not accessible.

    Args:
        predicate: A bound method such as `path.is_dir`.
    """
    try:
        return predicate()
    except (OSError, ValueError):
        return False
