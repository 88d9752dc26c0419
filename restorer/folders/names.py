"""The names of results: unique, the same on every system, and the same in every run over the same pictures.

A result is called after its picture: a.jpg gives a_denoised.jpg. Where two pictures would give one name, both get a
longer one, so that neither depends on which of them is restored first:

    a.gif, a.png                 -> a_gif_denoised.png, a_png_denoised.png     the ending of the picture
    one/a.png, two/a.png         -> one_a_denoised.png, two_a_denoised.png     the folder of the picture
    anything else                -> a_denoised.png, a-2_denoised.png           a number, in natural order

Names that differ in case alone count as one name, because many file systems do not tell them apart.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from restorer.images.find import is_stream, natural_key

__all__ = ["Named", "choose_names", "reserved_reason"]

MAX_NAME_BYTES = 255  # of a file name, if the file system does not say
_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))]
)
_FORBIDDEN = '<>:"|?*'  # in a file name on Windows; slashes separate names


@dataclass(frozen=True)
class Named:
    """A picture, and the parts of the path of its result.

    Args:
        source: The picture.
        root: The input folder in which it was found; None if it was named itself.
        folder: The folder of the result.
        stem: The name of the result without its tag and suffix.
        tag: The last part of the name, for instance "denoised".
        suffix: The suffix of the result, for instance ".png".
    """

    source: Path
    root: Path | None
    folder: Path
    stem: str
    tag: str
    suffix: str

    @property
    def path(self) -> Path:
        """The path of the result. A name that is too long for the file system is cut, and a hash keeps it unique."""
        rest = f"_{self.tag}{self.suffix}"
        limit = _name_limit(self.folder)
        if len(os.fsencode(self.stem + rest)) <= limit:
            return self.folder / (self.stem + rest)
        mark = f"-{hashlib.sha256(os.fsencode(self.stem)).hexdigest()[:8]}"
        stem, room = self.stem, limit - len(os.fsencode(mark + rest))
        while len(os.fsencode(stem)) > room:
            stem = stem[:-1]
        return self.folder / (stem + mark + rest)

    @property
    def key(self) -> str:
        """The path as file systems compare it that know neither case nor composed letters."""
        return unicodedata.normalize("NFC", str(self.path)).casefold()

    def with_ending(self) -> Named:
        """Return the same with the suffix of the picture in the name."""
        ending = self.source.suffix.removeprefix(".")
        return replace(self, stem=f"{self.stem}_{ending}") if ending else self

    def with_folder(self) -> Named:
        """Return the same with the name of the picture's folder in front."""
        place = self.source.parent if self.root is None else self.root
        name = place.name if place.name not in ("", "..") else place.resolve().name
        return replace(self, stem=f"{name}_{self.stem}") if name and not is_stream(self.source) else self


def choose_names(named: Sequence[Named]) -> list[Path]:
    """Return the path of each result, all of them different, in the order given.

    Args:
        named: The pictures with the plain names of their results.
    """
    found = list(named)
    for lengthen in (Named.with_ending, Named.with_folder):
        found = _lengthen_equal(found, lengthen)
    used = {each.key for each in found}
    for group in _equal(found):
        for index in sorted(group, key=lambda i: (_order(found[i].source), i))[1:]:
            number = 2
            while (longer := replace(found[index], stem=f"{found[index].stem}-{number}")).key in used:
                number += 1
            used.add(longer.key)
            found[index] = longer
    return [each.path for each in found]


def _order(source: Path) -> tuple[object, ...]:
    """Return a key for the order of pictures; pipes stay in the order in which they are named."""
    return ((), ()) if is_stream(source) else natural_key(source)


def _lengthen_equal(named: Sequence[Named], lengthen: Callable[[Named], Named]) -> list[Named]:
    """Return the names, with those that are equal lengthened if that tells any of them apart."""
    result = list(named)
    for group in _equal(named):
        longer = [lengthen(named[i]) for i in group]
        if len({each.key for each in longer}) > 1:
            for i, each in zip(group, longer, strict=True):
                result[i] = each
    return result


def _equal(named: Sequence[Named]) -> list[list[int]]:
    """Return the indices of results with one name, in groups of at least two."""
    groups: dict[str, list[int]] = {}
    for index, each in enumerate(named):
        groups.setdefault(each.key, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _name_limit(folder: Path) -> int:
    """Return the number of bytes that a file name in a folder, which need not exist yet, may have."""
    if hasattr(os, "pathconf"):
        for place in (folder, *folder.parents):
            with suppress(OSError, ValueError):
                return os.pathconf(place, "PC_NAME_MAX")
    return MAX_NAME_BYTES


def reserved_reason(path: PurePath, *, windows: bool = os.name == "nt") -> str:
    """Return why a system cannot have a file of this name, or "" if it can.

    Windows keeps the names of devices for itself, with any suffix, and drops dots and spaces at the end of a name.

    Args:
        path: The path of the file.
        windows: Whether the rules of Windows apply.
    """
    if not windows:
        return ""
    name = path.name
    if name.split(".")[0].rstrip(" ").casefold() in _RESERVED:
        return "is the name of a device"
    if name.endswith((".", " ")):
        return "ends with a dot or a space"
    if any(c in _FORBIDDEN or ord(c) < 32 for c in name):
        return f"holds one of the characters {' '.join(_FORBIDDEN)}, or a control character"
    return ""
