"""What a file says about its picture: EXIF, XMP, colour profile, resolution. Kept as they are, but where they would
be wrong of the new file: the turn that has been made, the thumbnail of the old picture, how the old pixels lay."""

from __future__ import annotations

import re
from typing import Any

from PIL import ExifTags, Image

__all__ = [
    "adapted_exif",
    "exif_with_dpi",
    "exif_with_record",
    "fitting_profile",
    "record_in",
    "resolution",
    "without_orientation",
]

_XMP_ORIENTATION = re.compile(rb'\s*tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')

# Tags that say how the pixels lay in the old file (TIFF 6.0 baseline, tiles, embedded JPEG; 301, 340, 341 in its own
# number format; the last line: ImageJ and Photoshop, which keep the old pixels too), not what they show.
# In a new file they are wrong at best. XMP and the colour profile are tags too, and are carried apart.
_LAYOUT_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 301, 317, 320, 322, 323}
    | {324, 325, 330, 332, 334, 338, 339, 340, 341, 347, 513, 514, 529, 530, 531, 532, 700, 34675}
    | {34377, 37724, 50838, 50839}
)
_INCH, _CENTIMETRE = 2, 3


def adapted_exif(block: bytes, size: tuple[int, int], turned: bool = False) -> bytes | None:
    """EXIF of an upright picture of `size` (width, height): without layout and thumbnail.

    The orientation becomes 1 where there was one, or where `turned` says that a decoder has taken it away. Pillow
    writes no second directory, and that is where the thumbnail is.
    """
    exif = _parsed(block)
    turned = turned or ExifTags.Base.Orientation in exif
    for tag in _LAYOUT_TAGS.intersection(exif):
        del exif[tag]
    if turned:
        exif[ExifTags.Base.Orientation] = 1
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, value in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True):
        if tag in details:
            details[tag] = value
    return exif.tobytes() if len(exif) else None


def exif_with_dpi(block: bytes | None, dpi: tuple[float, float] | None) -> bytes | None:
    """EXIF that states the resolution, for formats without a field of their own for it."""
    if dpi is None:
        return block
    exif = _parsed(block or b"")
    exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = dpi
    exif[ExifTags.Base.ResolutionUnit] = _INCH
    return exif.tobytes()


def exif_with_record(block: bytes | None, record: str) -> bytes:
    """EXIF that says how the picture was made, in ImageHistory (a tag of TIFF/EP for what was done to it)."""
    exif = _parsed(block or b"")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ImageHistory] = record
    return exif.tobytes()


def record_in(block: bytes | None) -> str:
    """What `exif_with_record` wrote; '' if the history is another program's, or there is none."""
    if not block:
        return ""
    history = _parsed(block).get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ImageHistory, "")
    text = history.decode("ascii", "replace") if isinstance(history, bytes) else str(history)
    return text.rstrip("\0") if '"restorer":' in text else ""


def _parsed(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block)
    return exif


def without_orientation(packet: bytes | str | None) -> bytes | None:
    """An XMP packet that no longer asks for a turn."""
    if not packet:
        return None
    return _XMP_ORIENTATION.sub(b"", packet.encode() if isinstance(packet, str) else bytes(packet))


def fitting_profile(icc: bytes | None, channels: int) -> tuple[bytes | None, str]:
    """Bytes 16-19 of a profile name its colour space (ICC.1:2022, 7.2.6); one of another space would mislead."""
    if not icc:
        return None, ""
    space = icc[16:20]
    if space == (b"GRAY" if channels == 1 else b"RGB "):
        return icc, ""
    kind = space.decode("ascii", "replace").strip()
    kind = kind if kind.isalnum() else "damaged"
    return None, f"the {kind} colour profile does not fit {'gray' if channels == 1 else 'RGB'} and is dropped"


def resolution(value: Any, exif: bytes | None) -> tuple[float, float] | None:
    """Pixels an inch, from a format's own field, else from EXIF.

    None if absent or a placeholder: TIFF files without a resolution say (1, 1).
    """
    if value is None and exif:
        tags = _parsed(exif)
        across, down = tags.get(ExifTags.Base.XResolution), tags.get(ExifTags.Base.YResolution)
        unit = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(tags.get(ExifTags.Base.ResolutionUnit, _INCH))
        value = (across, down) if unit else None
    else:
        unit = 1.0
    try:
        x, y = (float(v) * (unit or 1.0) for v in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < 1e6 and 1 < y < 1e6 else None
