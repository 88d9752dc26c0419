"""Pictures as a browser shows them: PNG or JPEG with 8 bits per channel, and no larger than it can hold."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import NamedTuple

from PIL import Image

from restorer.images.picture import Picture, reduce_depth, to_pil

__all__ = ["PICTURE_PIXELS", "PREVIEW_PIXELS", "Shown", "encode"]

PICTURE_PIXELS = 40_000_000
"""Largest number of pixels that the page is shown of a picture."""

PREVIEW_PIXELS = 2_000_000
"""Largest number of pixels of a preview, which must not take longer than a step."""

LOSSLESS_PIXELS = 3_000_000  # above which a PNG would take too long
JPEG_OPTIONS = {"quality": 93, "subsampling": 0}


class Shown(NamedTuple):
    """A picture file for the browser.

    Attributes:
        data: The bytes of the file.
        kind: Its MIME type.
    """

    data: bytes
    kind: str


def encode(picture: Picture, max_pixels: int = PICTURE_PIXELS) -> Shown:
    """Encode a picture for the browser, with its colour profile.

    A picture of more pixels is shrunk by a whole factor.

    Args:
        picture: A picture of any depth.
        max_pixels: The largest number of pixels.
    """
    image = to_pil(reduce_depth(replace(picture, exif=None, xmp=None, dpi=None), 8))
    profile = image.info.get("icc_profile")
    factor = 1
    while image.width * image.height > max_pixels * factor**2:
        factor += 1
    image = image.reduce(factor) if factor > 1 else image
    buffer = io.BytesIO()
    if picture.alpha is None and image.width * image.height > LOSSLESS_PIXELS:
        image.save(buffer, "JPEG", icc_profile=profile, **JPEG_OPTIONS)
        return Shown(buffer.getvalue(), Image.MIME["JPEG"])
    image.save(buffer, "PNG", icc_profile=profile, compress_level=1)
    return Shown(buffer.getvalue(), Image.MIME["PNG"])
