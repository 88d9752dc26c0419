"""What a picture file holds besides what Pillow returns: a value that the readers of the formats fill in."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from restorer.images.pillow_modes import Bands

__all__ = ["Supplement"]


@dataclass(frozen=True)
class Supplement:
    """What a file holds besides what Pillow returns.

    Args:
        bands: The numbers, if Pillow would shorten them; None for its own.
        depth: Bits per channel in the file; 0 if they are those of the numbers.
        exif: The metadata, if Pillow does not return them as they hold for its pixels; None for its own.
        xmp: The XMP packet, if Pillow does not return it; None for its own.
        icc: The colour profile, if Pillow does not return it; None for its own.
        dpi: Pixels per inch, if Pillow does not return them; None for its own.
        captions: IPTC captions, if Pillow does not return them.
        chunks: The colour space as a PNG chunk, if no colour profile tells it.
        notes: One line for each thing that is not kept.
    """

    bands: Bands | None = None
    depth: int = 0
    exif: Image.Exif | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    captions: bytes = b""
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    notes: tuple[str, ...] = ()
