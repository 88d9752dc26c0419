"""Metadata of a picture file: EXIF, XMP, colour profile and resolution.

Metadata are kept as they are, except for entries that would be wrong in a new file: the orientation that has already
been applied, the thumbnail of the old picture, and the layout of the old pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from PIL import ExifTags, Image

__all__ = [
    "RECORD",
    "adapt_exif",
    "add_dpi_to_exif",
    "add_record_to_exif",
    "describe_cut_profile",
    "keep_standard_tags",
    "match_profile",
    "read_record",
    "read_resolution",
]

RECORD = "restorer"
"""The key of the provenance record among the texts of a picture; in files other than PNG the record is in EXIF."""

# Tags that describe how the pixels are stored in the old file, not what they show. In a new file they are wrong at
# best. They come from the TIFF 6.0 baseline, tiles and embedded JPEG; 301, 340 and 341 are in the number format of the
# old file; the last line is ImageJ and Photoshop, which also store the old pixels. XMP, IPTC and the colour profile are
# tags as well, but they are kept separately.
_LAYOUT_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 301, 317, 320, 322, 323}
    | {324, 325, 330, 332, 334, 338, 339, 340, 341, 347, 513, 514, 529, 530, 531, 532, 700, 34675}
    | {33723, 34377, 37724, 50838, 50839}
)
_DESCRIPTIVE_TAGS = frozenset({269, 270, 271, 272, 285, 305, 306, 315, 316, 33432})  # names, dates, authors
_INCH, _CENTIMETRE = 2, 3
_SUBJECT_AREA, _FOCAL_PLANE_X, _FOCAL_PLANE_Y = 0x9214, 0xA20E, 0xA20F


def adapt_exif(
    block: bytes,
    size: tuple[int, int],
    is_oriented: bool = False,
    *,
    old: tuple[int, int] | None = None,
    move: Callable[[tuple[int, ...]], tuple[int, ...] | None] | None = None,
) -> bytes | None:
    """Return the EXIF block of an upright picture, without layout tags and thumbnail.

    The thumbnail is in the second directory, which Pillow does not write.

    Args:
        block: EXIF of the file.
        size: width and height of the picture.
        is_oriented: whether a decoder has already applied the orientation tag and removed it.
        old: width and height of the picture that the block describes; None if it has the same size.
        move: returns where the subject lies now, or None if it does not lie in the picture any more; see `subject.py`.

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
    if move is not None:
        _move_subject(details, move)
    if old is not None and old != size:
        _scale_positions(details, size[0] / old[0], size[1] / old[1])
    return exif.tobytes() if len(exif) else None


def _move_subject(details: Any, move: Callable[[tuple[int, ...]], tuple[int, ...] | None]) -> None:
    """Move the place of the subject in the details of an EXIF block, which are changed."""
    for tag in (ExifTags.Base.SubjectLocation, _SUBJECT_AREA):
        values = details.get(tag)
        if not (isinstance(values, tuple) and 2 <= len(values) <= 4 and all(isinstance(v, int) for v in values)):
            continue
        moved = move(values)
        if moved is None:
            del details[tag]
        else:
            details[tag] = tuple(min(65535, max(0, v)) for v in moved)


def _scale_positions(details: Any, across: float, down: float) -> None:
    """Scale what the details of an EXIF block give in pixels: the place of the subject, and the pixels of the sensor.

    Args:
        details: the directory, which is changed.
        across: the factor by which the picture has become wider.
        down: the factor by which it has become higher.
    """
    for tag in (ExifTags.Base.SubjectLocation, _SUBJECT_AREA):
        values = details.get(tag)
        if isinstance(values, tuple) and all(isinstance(v, int) for v in values):
            # a point; a point and a diameter; or a point, a width and a height
            factors = (across, down, across, down)
            details[tag] = tuple(min(65535, round(v * f)) for v, f in zip(values, factors, strict=False))
    for tag, factor in ((_FOCAL_PLANE_X, across), (_FOCAL_PLANE_Y, down)):
        with contextlib.suppress(Exception):  # a number of any type, from any camera
            if tag in details:
                details[tag] = float(details[tag]) * factor


def keep_standard_tags(exif: Image.Exif) -> Image.Exif:
    """Return the tags of EXIF without those of the format of a raw file, which describe its sensor and its preview."""
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS.intersection(exif):
        kept[tag] = exif[tag]
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if entries := dict(exif.get_ifd(directory)):
            entries.pop(ExifTags.Base.MakerNote, None)  # its offsets count from the beginning of the raw file
            kept.get_ifd(directory).update(entries)
    return kept


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


def describe_cut_profile(icc: bytes | None) -> str:
    """Return a note on a colour profile that is shorter than its header says (ICC.1:2022, 7.2.2); '' if it is not."""
    if not icc or (size := int.from_bytes(icc[:4], "big")) <= len(icc):
        return ""
    return f"the colour profile is cut short, {len(icc)} of {size} bytes, and is kept as it is"


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
