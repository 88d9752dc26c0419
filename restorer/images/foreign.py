"""Files that Pillow does not read: raw photographs, HEIC, JPEG XL, and files that are no pictures.

A raw file holds what the sensor saw, and beside it a small finished picture for the screen of the camera. A reader of
TIFF files finds that preview and takes it for the picture. So raw files are recognized first. They are developed by
rawpy, and the other formats are read by plug-ins of Pillow, where these are installed; otherwise the message names the
extra that brings them.

Sources:
    Adobe, "Digital Negative (DNG) Specification" 1.7: DNGVersion, SubIFDs, and the colour filter array.
    ISO/IEC 14496-12:2022: the brands of files that consist of boxes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from restorer.errors import PictureError
from restorer.images.kinds import KINDS

__all__ = ["PLUGINS", "Plugin", "check_kind", "develop", "is_raw", "load_plugins", "raw_size"]

_MAKERS = (  # how the files of makers begin that do not use TIFF
    b"FUJIFILMCCD-RAW",
    b"IIU\0\x18\0\0\0",  # Panasonic RW2
    b"IIRO\x08\0\0\0",  # Olympus ORF
    b"IIRS\x08\0\0\0",
    b"MMOR\0\0\0\x08",
    b"II\x1a\0\0\0HEAPCCDR",  # Canon CRW
    b"\0MRM",  # Minolta MRW
    b"FOVb",  # Sigma X3F
    b"IIIIwaR",  # Phase One
    b"MMMMRaw",
)
_SUB_DIRECTORIES, _DNG_VERSION, _PHOTOMETRIC, _COMPRESSION = 330, 50706, 262, 259
_SENSOR_VALUES = frozenset({32803, 34892})  # a colour filter array, and linear values of a sensor
_SENSOR_COMPRESSIONS = frozenset(  # Nikon, Sony, Pentax, Samsung, Epson, Kodak, Panasonic
    {34713, 32767, 65535, 32769, 32770, 32772, 65000, 32867, 34316}
)
_PHASE_ONE = (b"IIII", b"MMMM")  # what follows the header of TIFF
_MAX_DIRECTORIES = 32
_TIFF, _BIG_TIFF = (b"II*\0", b"MM\0*"), (b"II+\0", b"MM\0+")
_WHOLE_NUMBERS = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 13: (4, "I"), 16: (8, "Q"), 18: (8, "Q")}  # bytes by the type

_BRANDS = {
    "a raw photograph": (b"crx ",),
    "a HEIC picture": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "a video": (
        b"isom",
        b"iso2",
        b"iso4",
        b"iso5",
        b"iso6",
        b"mp41",
        b"mp42",
        b"avc1",
        b"qt  ",
        b"M4V ",
        b"3gp4",
        b"3gp5",
    ),
}
_BEGINNINGS = {
    "a PDF document": (b"%PDF",),
    "a PostScript file": (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "a video": (b"\x1aE\xdf\xa3", b"\0\0\x01\xba"),
    "a JPEG XL picture": (b"\xff\x0a", b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a"),
    "an archive": (b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!", b"\x1f\x8b"),
    "a GIMP file": (b"gimp xcf",),
    "an OpenEXR file": (b"v/1\x01",),
    "a Radiance HDR file": (b"#?RADIANCE", b"#?RGBE"),
    "a JPEG XR picture": (b"II\xbc\x01",),
    "a large Photoshop document": (b"8BPS\0\2",),
    "an MNG animation": (b"\x8aMNG", b"\x8bJNG"),
    "a sound recording": (b"ID3", b"OggS", b"fLaC"),
    "the second half of a file of a Mac, without the picture": (b"\0\5\x16\7", b"\0\5\x16\0"),
    "a pointer of Git LFS, without the picture": (b"version https://git-lfs",),
    "a Microsoft Office document": (b"\xd0\xcf\x11\xe0",),
    "a program": (b"MZ", b"\x7fELF"),
}


@dataclass(frozen=True)
class Plugin:
    """A plug-in of Pillow that an extra installs.

    Args:
        format: Pillow's name of its format.
        title: The usual name of the format.
        package: The name of the package.
        extra: The extra that brings it.
    """

    format: str
    title: str
    package: str
    extra: str


PLUGINS = {
    "HEIF": Plugin("HEIF", "HEIC", "pillow-heif", "heif"),
    "JXL": Plugin("JXL", "JPEG XL", "pillow-jxl-plugin", "jxl"),
}
"""The plug-ins by Pillow's names of their formats."""

_EMPTY = "holds nothing but zeros"
_DEVELOP_FIRST = "develop it first, or let the program do it: pip install 'restorer[raw]'"


def is_raw(data: bytes, name: str = "") -> bool:
    """Return whether a file is a raw photograph of a camera.

    Args:
        data: The file, or its beginning.
        name: Its name. A file of the format TIFF with the suffix of raw photographs is one, whatever it holds.
    """
    if data.startswith(_MAKERS) or data[4:12] == b"ftypcrx ":
        return True
    if data[:4] not in (*_TIFF, *_BIG_TIFF):
        return False
    if data[8:11] == b"CR\x02" or data[8:12] in _PHASE_ONE or _has_sensor_values(data):
        return True
    return PurePath(name).suffix.lower() in KINDS["raw"].suffixes


def _has_sensor_values(data: bytes) -> bool:
    """Return whether a directory of a TIFF file describes values of a sensor."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[:4] in _BIG_TIFF
    waiting, seen = [_number(data, order, 8 if is_big else 4, is_big)], set[int]()
    while waiting and len(seen) < _MAX_DIRECTORIES:
        at = waiting.pop()
        if at is None or not 8 <= at < len(data) or at in seen:
            continue
        seen.add(at)
        tags, following = _read_directory(data, order, at, is_big)
        if _DNG_VERSION in tags or _SENSOR_VALUES.intersection(tags.get(_PHOTOMETRIC, ())):
            return True
        if _SENSOR_COMPRESSIONS.intersection(tags.get(_COMPRESSION, ())):
            return True
        waiting += [following, *tags.get(_SUB_DIRECTORIES, ())]
    return False


def _number(data: bytes, order: str, at: int, is_big: bool) -> int | None:
    """Return the offset at a place, which has eight bytes in BigTIFF; None beyond the end."""
    size = 8 if is_big else 4
    return struct.unpack_from(order + "Q" if is_big else order + "I", data, at)[0] if at + size <= len(data) else None


def _read_directory(data: bytes, order: str, at: int, is_big: bool) -> tuple[dict[int, tuple[int, ...]], int | None]:
    """Return the whole numbers of a directory by their tags, and where the next directory begins."""
    head, length, room = (8, 20, 8) if is_big else (2, 12, 4)  # bytes of the count, of an entry, of a value in it
    if at + head > len(data):
        return {}, None
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
    tags: dict[int, tuple[int, ...]] = {}
    count = min(count, len(data) // length)
    for entry in range(at + head, min(at + head + length * count, len(data) - length + 1), length):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if is_big else "HHI"), data, entry)
        size, letter = _WHOLE_NUMBERS.get(kind, (0, ""))
        if not size or number > 64:
            continue
        place = entry + length - room
        if size * number > room:
            place = _number(data, order, place, is_big) or 0
        if place + size * number <= len(data):
            tags[tag] = struct.unpack_from(f"{order}{number}{letter}", data, place)
    return tags, _number(data, order, at + head + length * count, is_big)


def develop(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    """Develop a raw photograph, with the white balance of the camera.

    Args:
        data: The file.
        name: What error messages call it.
        max_pixels: The largest number of pixels that is decoded.

    Returns:
        uint16 (H, W, 3), upright, in sRGB.

    Raises:
        PictureError: rawpy is not installed, or cannot read the file.
        PIL.Image.DecompressionBombError: The photograph has more pixels.
    """
    with _opened(data, name, max_pixels) as raw:
        return np.ascontiguousarray(raw.postprocess(use_camera_wb=True, output_bps=16))


def raw_size(data: bytes, name: str, max_pixels: int) -> tuple[int, int]:
    """Return the width and height that a raw photograph has when it is developed; `develop` lists the errors."""
    with _opened(data, name, max_pixels) as raw:
        sizes = raw.sizes
        width, height = sizes.iwidth, sizes.iheight
        return (height, width) if sizes.flip in (5, 6) else (width, height)


@contextlib.contextmanager
def _opened(data: bytes, name: str, max_pixels: int) -> Iterator[Any]:
    """Open a raw photograph, and convert the errors that rawpy raises while it is open."""
    try:
        rawpy: Any = importlib.import_module("rawpy")
    except ImportError:
        message = f"{name} is a raw file, of which only the preview can be read"
        raise PictureError(message, _DEVELOP_FIRST) from None
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            if raw.sizes.iwidth * raw.sizes.iheight > max_pixels:
                raise Image.DecompressionBombError
            yield raw
    except Image.DecompressionBombError:
        raise
    except Exception as error:  # the errors of LibRaw have no class outside rawpy
        text = error.args[0] if error.args else ""
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        reason = " ".join(text.split())[:120] or type(error).__name__
        message = f"{name} is a raw file that cannot be developed: {reason}"
        raise PictureError(message, "develop it with another program first") from error


def _kind_of_text(data: bytes) -> str:
    """Return what a file of text or of nothing is; '' for anything else."""
    start = data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data.strip(b"\0"):
        return _EMPTY
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    is_text = b"\0" not in data[:1000] and start.isascii() and all(b >= 32 or b in b"\t\r\n\f" for b in start)
    return "not a picture but text" if is_text and len(start) > 3 else ""


def load_plugins() -> tuple[str, ...]:
    """Register the plug-ins of Pillow that are installed, and return Pillow's names of their formats."""
    formats = []
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
        formats.append("HEIF")
    except Exception:  # it is not installed, or does not fit this system
        pass
    try:
        importlib.import_module("pillow_jxl")
        formats.append("JXL")
    except Exception:
        pass
    return tuple(formats)


def check_kind(data: bytes, name: str) -> None:
    """Raise an error that says what a file is, if it is something other than a picture that can be read.

    Args:
        data: The beginning of the file at least.
        name: What the error message calls it.

    Raises:
        PictureError: The file is of a kind that is known.
    """
    brand = data[8:12] if data[4:8] == b"ftyp" else None
    kinds = [kind for kind, brands in _BRANDS.items() if brand in brands]
    kinds += [kind for kind, beginnings in _BEGINNINGS.items() if data.startswith(beginnings)]
    if data[:4] == b"RIFF" and data[8:12] in (b"AVI ", b"WAVE"):
        kinds.append("a video" if data[8:12] == b"AVI " else "a sound recording")
    if (text := _kind_of_text(data)) and not kinds:
        kinds.append(text)
    if not kinds:
        return
    kind = kinds[0]
    plugin = next((plugin for plugin in PLUGINS.values() if kind == f"a {plugin.title} picture"), None)
    if plugin is not None and plugin.format in load_plugins():
        raise PictureError(f"{name} is {kind} that is damaged or cut short", "copy or download the file again")
    if kind == _EMPTY:
        raise PictureError(f"{name} {kind}: its content is lost", "copy the file again from where it is whole")
    if plugin is not None:
        message = f"{name} is {kind}, which needs {plugin.package}"
        raise PictureError(message, f"pip install 'restorer[{plugin.extra}]', or convert it to PNG or JPEG first")
    raise PictureError(f"{name} is {kind}", "use PNG, JPEG, WebP, TIFF or another supported format")
