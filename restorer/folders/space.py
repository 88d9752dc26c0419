"""The disk space that the results of a run will take, estimated before the work from the headers of the pictures.

How well a picture can be compressed is not known beforehand, so there are two figures: what photographs take on
average, which is printed, and the least that the results can take, by which a run is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.errors import OutputError, UsageError
from restorer.folders.paths import Item
from restorer.images.find import STDIO, is_stream
from restorer.images.sizes import UNCHANGED, Geometry
from restorer.machine.memory import human_bytes

if TYPE_CHECKING:
    from restorer.images.headers import Header

__all__ = ["BYTES_PER_PIXEL", "Need", "check_space", "estimate_bytes", "estimate_needs", "free_space"]

BYTES_PER_PIXEL = {
    ".png": 1.6,
    ".jpg": 0.8,
    ".webp": 1.3,
    ".tif": 1.8,
    ".bmp": 3.0,
    ".avif": 0.6,
    ".heic": 0.7,
    ".jxl": 1.1,
}
"""Bytes per pixel of a result in 8-bit colour by its suffix: means of the photographs in tests/images."""

LOSSY_WEBP = 0.45  # bytes per pixel of a WebP file with loss, which a lossy picture becomes
# A result takes at least this share of the estimate, or of the size of a compressed input if that is less: noise that
# is removed, and drawings, are compressed better than photographs. The size of other inputs does not tell what they
# show.
LEAST_SHARE = 0.25
LEAST_SHARE_OF_UNKNOWN = 0.02
_COMPRESSED = frozenset(["PNG", "JPEG", "MPO", "WEBP", "AVIF", "JPEG2000", "GIF"])
_UNCOMPRESSED = frozenset([".bmp"])
_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif", ".heif": ".heic", ".hif": ".heic"}
_SIXTEEN_BITS = frozenset([".png", ".tif"])


@dataclass(frozen=True)
class Need:
    """The disk space that one result takes.

    Args:
        item: The picture.
        header: The header of the picture.
        expected: The estimated bytes of the result.
        least: The fewest bytes that the result can take beyond a file that it replaces.
    """

    item: Item
    header: Header
    expected: int
    least: int


def estimate_bytes(header: Header, suffix: str, scale: float = 1) -> int:
    """Return about how many bytes a result takes.

    Args:
        header: The header of the picture.
        suffix: The suffix of the result.
        scale: The factor by which the sides of the result are larger.
    """
    suffix = _SAME.get(suffix.lower(), suffix.lower())
    rate = BYTES_PER_PIXEL.get(suffix, BYTES_PER_PIXEL[".png"])
    if suffix == ".webp" and header.format in ("JPEG", "MPO"):
        rate = LOSSY_WEBP
    depth = header.bits / 8 if suffix in _SIXTEEN_BITS else 1
    return round(header.pixels * scale**2 * rate * min(header.channels, 4) / 3 * depth)


def estimate_needs(items: Iterable[Item], geometry: Geometry = UNCHANGED, *, keeps_input: bool = True) -> list[Need]:
    """Return the disk space of each result that goes into a file and whose picture has a header that can be read.

    Args:
        items: The pictures.
        geometry: How the size of a result follows from that of its picture.
        keeps_input: Whether a picture that its result replaces is kept as a backup.
    """
    needs = []
    for item in items:
        from restorer.images.headers import read_header  # which imports Pillow

        if item.target == STDIO or is_stream(item.target):
            continue
        if is_stream(item.source) or (header := read_header(item.source)) is None:
            continue
        with suppress(UsageError):  # which the run reports for the picture
            scale = geometry.ratio(header.width, header.height)
            needs.append(_need_of(item, header, scale, keeps_input=keeps_input))
    return needs


def _need_of(item: Item, header: Header, scale: float, *, keeps_input: bool) -> Need:
    """Return the disk space of one result, whose sides are larger by a factor; see `estimate_needs`."""
    expected = estimate_bytes(header, item.target.suffix, scale)
    size, replaced = _size(item.source), _size(item.target)
    if keeps_input and item.target == item.source:
        replaced = 0
    return Need(item, header, expected, max(_least_bytes(header, item, expected, size * scale**2) - replaced, 0))


def _least_bytes(header: Header, item: Item, expected: int, size: float) -> int:
    """Return the fewest bytes that a result can take.

    Args:
        header: The header of the picture.
        item: The picture.
        expected: The estimated bytes of the result.
        size: The bytes of the picture, as many times as its result has pixels for each of its own.
    """
    if item.target.suffix.lower() in _UNCOMPRESSED:
        return expected
    share = LEAST_SHARE if header.format in _COMPRESSED else LEAST_SHARE_OF_UNKNOWN
    return round(share * min(expected, size))


def check_space(needs: Sequence[Need]) -> list[str]:
    """Check that the results fit on the disks that they go to.

    Args:
        needs: What the results take, as `estimate_needs` returns it.

    Returns:
        A note for each disk that the results fit on only if they are smaller than estimated.

    Raises:
        OutputError: The results certainly do not fit on a disk.
    """
    disks: dict[int, list[Need]] = {}
    for need in needs:
        if (place := _existing(need.item.target.parent)) is not None:
            with suppress(OSError):
                disks.setdefault(place.stat().st_dev, []).append(need)
    notes = []
    for on_disk in disks.values():
        folder = on_disk[0].item.target.parent
        free, expected = free_space(folder), sum(need.expected for need in on_disk)
        if free is None:
            continue
        what = f"the {'result takes' if len(on_disk) == 1 else f'{len(on_disk)} results take'}"
        if sum(need.least for need in on_disk) > free:
            message = f"{what} about {human_bytes(expected)}, but only {human_bytes(free)} are free in {folder}"
            raise OutputError(message, "free some space, or name another folder with -o")
        if expected > free:
            notes.append(f"{what} about {human_bytes(expected)}, and only {human_bytes(free)} are free in {folder}")
    return notes


def free_space(folder: Path) -> int | None:
    """Return the free bytes on the disk of a folder, which need not exist yet; None if the system does not tell."""
    place = _existing(folder)
    with suppress(OSError):
        return None if place is None else shutil.disk_usage(place).free
    return None


def _existing(folder: Path) -> Path | None:
    """Return the nearest existing folder at or above a path."""
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100  (the folder need not exist, so that no link is followed)
    return next((place for place in (absolute, *absolute.parents) if place.is_dir()), None)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
