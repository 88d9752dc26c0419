"""Pictures as data URLs within a number of bytes: exact if they fit, else compressed with loss, else shrunk as well."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from restorer.images.metadata import match_profile
from restorer.images.picture import Picture, reduce_depth, to_pil

__all__ = ["THUMBNAIL_SIDES", "Embedded", "browser_image", "embed", "embed_thumbnails"]

THUMBNAIL_SIDES = (240, 120, 60)
"""Largest sides of thumbnails, in pixels."""

MAX_SIDE = 16_000  # browsers cannot draw on a canvas of more than 16,384 pixels a side
MAX_PIXELS = 40_000_000  # of which a browser holds three copies to show a difference
MIN_SIDE = 16  # in pixels; a smaller preview shows nothing
PROFILE_BYTES = 10_000  # above which a colour profile is left out of a thumbnail
PREVIEW_QUALITY, THUMBNAIL_QUALITY = 90, 80


@dataclass(frozen=True)
class Embedded:
    """Pictures that belong together, encoded alike so that their differences are not those of the encoding.

    Args:
        urls: One data URL for each picture; empty if they do not fit.
        factor: The factor by which the pictures are shrunk.
        is_exact: Whether every pixel is as in the picture, at 8 bits per channel.
    """

    urls: tuple[str, ...] = ()
    factor: int = 1
    is_exact: bool = False

    @property
    def size(self) -> int:
        """Number of bytes of the data URLs."""
        return sum(map(len, self.urls))


def browser_image(picture: Picture) -> Image.Image:
    """Return a picture of any depth with 8 bits per channel and with nothing but its colour profile beside it."""
    image = to_pil(reduce_depth(replace(picture, exif=None, xmp=None, dpi=None), 8))
    image.info = {"icc_profile": picture.icc} if picture.icc else {}
    return image


def embed(images: Sequence[Image.Image], budget: int) -> Embedded:
    """Encode pictures within a number of bytes.

    Args:
        images: Images of mode L, LA, RGB or RGBA, as `browser_image` returns them.
        budget: The largest number of bytes of all data URLs together.

    Returns:
        PNG files if they fit, else JPEG files (WebP for transparent pictures), shrunk by the smallest whole factor that
        makes them fit; no URLs if the pictures do not even fit when their longest side has `MIN_SIDE` pixels.
    """
    factor = max(_needed_factor(image) for image in images)
    if factor == 1:
        exact = _encode_all(images, budget, None)
        if exact:
            return Embedded(exact, 1, True)
    longest = max(max(image.size) for image in images)
    while longest >= MIN_SIDE * factor or factor == 1:
        shrunk = [image.reduce(factor) if factor > 1 else image for image in images]
        urls = _encode_all([_with_profile(x, image) for x, image in zip(shrunk, images, strict=True)], budget)
        if urls:
            return Embedded(urls, factor)
        factor = max(factor + 1, math.floor(factor * 1.25))
    return Embedded()


def embed_thumbnails(images: Sequence[Image.Image], budget: int) -> Embedded:
    """Encode thumbnails within a number of bytes.

    Args:
        images: As for `embed`.
        budget: The largest number of bytes of all data URLs together.

    Returns:
        Thumbnails of the largest of the `THUMBNAIL_SIDES` that fits; no URLs if none fits.
    """
    for side in THUMBNAIL_SIDES:
        thumbnails = []
        for image in images:
            thumbnail = image.copy()
            thumbnail.thumbnail((side, side), Image.Resampling.LANCZOS)
            thumbnails.append(_with_profile(thumbnail, image, PROFILE_BYTES))
        if urls := _encode_all(thumbnails, budget, THUMBNAIL_QUALITY):
            return Embedded(urls)
    return Embedded()


def _needed_factor(image: Image.Image) -> int:
    """Return the factor by which an image must be shrunk for a browser to draw it."""
    by_area = math.ceil(math.sqrt(image.width * image.height / MAX_PIXELS))
    return max(1, by_area, math.ceil(max(image.size) / MAX_SIDE))


def _with_profile(image: Image.Image, source: Image.Image, max_bytes: int | None = None) -> Image.Image:
    """Give an image the colour profile of another, unless it is longer than a number of bytes."""
    profile = source.info.get("icc_profile")
    is_kept = profile and (max_bytes is None or len(profile) <= max_bytes)
    image.info = {"icc_profile": profile} if is_kept else {}
    return image


def _encode_all(
    images: Sequence[Image.Image], budget: int, quality: int | None = PREVIEW_QUALITY
) -> tuple[str, ...] | None:
    """Encode images as data URLs.

    Args:
        images: Images of mode L, LA, RGB or RGBA.
        budget: The largest number of bytes of all data URLs together.
        quality: The quality of JPEG and WebP files, from 0 to 100; None for PNG.

    Returns:
        The data URLs; None if they do not fit.
    """
    urls: list[str] = []
    left = budget
    for image in images:
        urls.append(_encode(image, quality))
        left -= len(urls[-1])
        if left < 0:
            return None
    return tuple(urls)


def _encode(image: Image.Image, quality: int | None) -> str:
    profile = image.info.get("icc_profile")
    buffer = io.BytesIO()
    if quality is None:
        name = "PNG"
        image.save(buffer, name, icc_profile=profile, compress_level=3)
    elif "A" in image.getbands():
        name = "WEBP"
        colour_profile, _ = match_profile(profile, 3)  # WebP stores gray as colour
        image.convert("RGBA").save(buffer, name, icc_profile=colour_profile or b"", quality=quality)
    else:
        name = "JPEG"
        image.save(buffer, name, icc_profile=profile, quality=quality, subsampling=0)
    return f"data:{Image.MIME[name]};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
