"""What the beginning of a picture file says, read without its pixels: format, size, number of pictures, and record."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from restorer.images.find import FORMAT_SUFFIXES
from restorer.images.metadata import RECORD, read_record

__all__ = ["Header", "read_header"]


@dataclass(frozen=True)
class Header:
    """What the beginning of a picture file says.

    Args:
        format: Pillow's name of the format; "MPO" for a JPEG file that holds several.
        width: The width of the upright picture in pixels.
        height: The height of the upright picture in pixels.
        channels: The number of channels, with alpha.
        bits: About how many bits a channel has: 8, 16 or 32.
        frames: The number of pictures in the file.
        record: The provenance record of the file; "" if there is none.
    """

    format: str
    width: int
    height: int
    channels: int
    bits: int
    frames: int = 1
    record: str = ""

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.width * self.height


def read_header(path: Path) -> Header | None:
    """Return what the beginning of a picture file says; None if it cannot be told without decoding the file.

    Args:
        path: A file that can be read repeatedly.
    """
    Image.init()
    formats = [name for name in FORMAT_SUFFIXES if name in Image.OPEN]
    with suppress(Exception), warnings.catch_warnings():  # decoders raise nearly anything; the reader reports it
        warnings.simplefilter("ignore")
        with Image.open(path, formats=formats) as image:
            return _describe(image)
    return None


def _describe(image: Image.Image) -> Header:
    exif = None
    with suppress(Exception):  # damaged metadata
        if image.format != "PNG" or "exif" in image.info:  # or else Pillow would decode a PNG to look for EXIF
            exif = image.getexif()
    is_on_its_side = exif is not None and exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    width, height = image.size[::-1] if is_on_its_side else image.size
    record = image.info.get(RECORD, "")
    if not record and exif is not None:
        with suppress(Exception):
            record = read_record(exif.tobytes())
    bands = image.getbands()
    bits = 32 if image.mode in ("F", "I") else 16 if "16" in image.mode else 8
    frames = 1
    with suppress(Exception):
        frames = int(getattr(image, "n_frames", 1))
    return Header(image.format or "", width, height, len(bands), bits, frames, str(record))
