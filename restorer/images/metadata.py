"""Metadata of a picture file: EXIF, XMP, colour profile and resolution.

Metadata are kept as they are, except for entries that would be wrong in a new file: the orientation that has already
been applied, the thumbnail of the old picture, and the layout of the old pixels.
"""

from __future__ import annotations

import re
from typing import Any

from PIL import ExifTags, Image

__all__ = [
    "adapt_exif",
    "add_dpi_to_exif",
    "add_record_to_exif",
    "match_profile",
    "read_record",
    "read_resolution",
    "remove_orientation",
]

_XMP_ORIENTATION = re.compile(rb'\s*tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')

# Tags that describe how the pixels are stored in the old file, not what they show. In a new file they are wrong at
# best. They come from the TIFF 6.0 baseline, tiles and embedded JPEG; 301, 340 and 341 are in the number format of the
# old file; the last line is ImageJ and Photoshop, which also store the old pixels. XMP and the colour profile are tags
# as well, but they are kept separately.
_LAYOUT_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 301, 317, 320, 322, 323}
    | {324, 325, 330, 332, 334, 338, 339, 340, 341, 347, 513, 514, 529, 530, 531, 532, 700, 34675}
    | {34377, 37724, 50838, 50839}
)
_INCH, _CENTIMETRE = 2, 3


def adapt_exif(block: bytes, size: tuple[int, int], is_oriented: bool = False) -> bytes | None:
    """Return the EXIF block of an upright picture, without layout tags and thumbnail.

    The thumbnail is in the second directory, which Pillow does not write.

    Args:
        block: EXIF of the file.
        size: width and height of the picture.
        is_oriented: whether a decoder has already applied the orientation tag and removed it.

    Returns:
        The new block, or None if nothing remains. Its orientation is 1 if `block` has one or `is_oriented` is set.
    """
    exif = _parse_exif(block)
    has_orientation = is_oriented or ExifTags.Base.Orientation in exif
    for tag in _LAYOUT_TAGS.intersection(exif):
        del exif[tag]
    if has_orientation:
        exif[ExifTags.Base.Orientation] = 1
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, value in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True):
        if tag in details:
            details[tag] = value
    return exif.tobytes() if len(exif) else None


def add_dpi_to_exif(block: bytes | None, dpi: tuple[float, float] | None) -> bytes | None:
    """Return the EXIF block with the resolution, for formats that have no field of their own for it.

    Args:
        block: EXIF, or None if there is none yet.
        dpi: pixels per inch, horizontal and vertical; None leaves the block as it is.
    """
    if dpi is None:
        return block
    exif = _parse_exif(block or b"")
    exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = dpi
    exif[ExifTags.Base.ResolutionUnit] = _INCH
    return exif.tobytes()


def add_record_to_exif(block: bytes | None, record: str) -> bytes:
    """Return the EXIF block with the provenance record in ImageHistory, the TIFF/EP tag for the edits of a picture."""
    exif = _parse_exif(block or b"")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ImageHistory] = record
    return exif.tobytes()


def read_record(block: bytes | None) -> str:
    """Return the record that `add_record_to_exif` wrote.

    Returns:
        The record; '' if the block has no ImageHistory or another program wrote it.
    """
    if not block:
        return ""
    history = _parse_exif(block).get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ImageHistory, "")
    text = history.decode("ascii", "replace") if isinstance(history, bytes) else str(history)
    return text.rstrip("\0") if '"restorer":' in text else ""


def _parse_exif(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block)
    return exif


def remove_orientation(packet: bytes | str | None) -> bytes | None:
    """Return an XMP packet without its orientation; None if there is no packet."""
    if not packet:
        return None
    return _XMP_ORIENTATION.sub(b"", packet.encode() if isinstance(packet, str) else bytes(packet))


def match_profile(icc: bytes | None, channels: int) -> tuple[bytes | None, str]:
    """Return the colour profile if it matches the picture, or None and a note that says why it is dropped.

    Bytes 16-19 of a profile name its colour space (ICC.1:2022, 7.2.6). A profile of another space would give wrong
    colours.

    Args:
        icc: colour profile, or None.
        channels: 1 for a gray picture, 3 for colour.

    Returns:
        The profile or None, and a note or ''.
    """
    if not icc:
        return None, ""
    space = icc[16:20]
    if space == (b"GRAY" if channels == 1 else b"RGB "):
        return icc, ""
    kind = space.decode("ascii", "replace").strip()
    kind = kind if kind.isalnum() else "damaged"
    return None, f"the {kind} colour profile does not match {'gray' if channels == 1 else 'RGB'} and is dropped"


def read_resolution(value: Any, exif: bytes | None) -> tuple[float, float] | None:
    """Return the resolution from a format's own field, or from EXIF if the format has no such field.

    Args:
        value: pixels per inch as the decoder reports them; any type, None if absent.
        exif: EXIF of the picture.

    Returns:
        Pixels per inch, horizontal and vertical. None if the resolution is absent or a placeholder: TIFF files without
        a resolution contain (1, 1).
    """
    if value is None and exif:
        tags = _parse_exif(exif)
        horizontal, vertical = tags.get(ExifTags.Base.XResolution), tags.get(ExifTags.Base.YResolution)
        unit = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(tags.get(ExifTags.Base.ResolutionUnit, _INCH))
        value = (horizontal, vertical) if unit else None
    else:
        unit = 1.0
    try:
        x, y = (float(v) * (unit or 1.0) for v in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < 1e6 and 1 < y < 1e6 else None
