"""Pixels that Pillow has no mode for: 16-bit colour, and TIFF files of any number type and layout.

Pillow decodes 16-bit colour but keeps the upper byte only. Which byte that is, it takes from the name of the packing
("RGB;16B", "RGB;16L"); so a file decoded once as each gives both bytes. What Pillow cannot open at all goes to
`tifffile`: floating-point colour, 16-bit gray with alpha, planes one after the other.
"""

from __future__ import annotations

import io
import logging
import math
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from restorer.errors import PictureError

__all__ = ["TIFF_MAGIC", "Tiff", "check_strips", "raw_mode", "sixteen_bit_bands", "tiff_bands", "use_own_byte_order"]

for library in ("PIL", "tifffile"):  # their remarks would reach the terminal
    logging.getLogger(library).addHandler(logging.NullHandler())

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_SAMPLES = 16
_OWN_ORDER = {  # names of packings, as in a file and in this machine
    **{"F;32F": "F;32NF", "F;32BF": "F;32NF"},
    **{"I;32S": "I;32NS", "I;32BS": "I;32NS", "I;16S": "I;16NS", "I;16BS": "I;16NS"},
}
_ASSOCIATED, _UNASSOCIATED = 1, 2  # TIFF 6.0, ExtraSamples: colour is or is not multiplied by alpha
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # PhotometricInterpretation


def check_strips(tags: Mapping[int, Any]) -> None:
    """Raise ValueError if a TIFF has fewer strips or tiles than its size needs: Pillow leaves what is missing black."""
    # As the pixels lie in the file: Pillow's own size is that of the turned picture.
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    if TiffImagePlugin.STRIPOFFSETS in tags:
        need = math.ceil(height / (tags.get(TiffImagePlugin.ROWSPERSTRIP) or height))
        have = len(tags[TiffImagePlugin.STRIPOFFSETS])
    else:
        across = math.ceil(width / tags[TiffImagePlugin.TILEWIDTH])
        need = across * math.ceil(height / tags[TiffImagePlugin.TILELENGTH])
        have = len(tags[TiffImagePlugin.TILEOFFSETS])
    if have < need:
        raise ValueError("pixels are missing")


def raw_mode(image: Image.Image) -> str:
    """How the pixels are packed in the file; '' for an image that is no longer tied to one."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def use_own_byte_order(image: Image.Image) -> None:
    """Have numbers that libtiff unpacks taken in this machine's order, which is how it gives them.

    Pillow (13.0) knows that only of 16 bits without a sign, and turns others round where the file's order is another.
    `image` is the file opened and not yet loaded.
    """
    file: Any = image  # an `ImageFile`, tied to its bytes
    if raw_mode(image) in _OWN_ORDER and file.tile[0].codec_name == "libtiff":
        file.tile = [tile._replace(args=(_OWN_ORDER[tile.args[0]], *tile.args[1:])) for tile in file.tile]


def sixteen_bit_bands(image: Image.Image, data: bytes) -> np.ndarray:
    """uint16 (H, W, C) of a file of 16-bit colour. `image` is the file opened and not yet loaded, `data` its bytes."""
    raw = raw_mode(image)
    if raw == "LA;16B":  # four bytes a pixel, like RGBA: nothing is thrown away
        return _loaded_as(image, "RGBA").view(">u2").astype(np.uint16)
    packing, order = raw[:-1].replace("RGBa", "RGBA"), raw[-1]
    first = _loaded_as(image, f"{packing}B")
    with Image.open(io.BytesIO(data), formats=[image.format or ""]) as again:
        second = _loaded_as(again, f"{packing}L")
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    high, low = (first, second) if big else (second, first)
    bands = high.astype(np.uint16) << 8
    bands |= low
    return divided(bands, 65535) if raw.startswith("RGBa") else bands


def _loaded_as(image: Image.Image, raw: str) -> np.ndarray:
    """uint8 (H, W, C): the pixels as they are with another name for their packing."""
    file: Any = image  # an `ImageFile`, tied to its bytes
    file.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in file.tile
    ]
    file.load()
    return np.asarray(file)


def divided(bands: np.ndarray, opaque: float) -> np.ndarray:
    """Colour freed of the alpha (last band) it was multiplied by."""
    alpha = bands[..., -1:].astype(np.float64)
    colour = bands[..., :-1] * (opaque / np.maximum(alpha, np.finfo(np.float64).tiny))
    free = np.where(alpha > 0, colour, 0)
    if bands.dtype.kind != "f":
        free = np.rint(free.clip(0, opaque))
    return np.concatenate([free.astype(bands.dtype), bands[..., -1:]], axis=-1)


class Tiff(NamedTuple):
    """The first picture of a TIFF file by `tifffile`.

    `bands`: (H, W, C), not turned upright, in a type that a `Picture` can have; C is 1 or 3, one more with alpha.
    `frames`: pictures in the file. `notes`: what was left out or converted.
    """

    bands: np.ndarray
    frames: int
    notes: tuple[str, ...]


def tiff_bands(data: bytes, name: str, most_pixels: int) -> Tiff:
    """The first picture of a TIFF file that Pillow cannot open.

    Raises:
        PictureError: its colours or its compression are not supported.
        Image.DecompressionBombError: it has more than `most_pixels`.
        Exception: anything, if the file is damaged.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        if page.imagelength * page.imagewidth > most_pixels:
            raise Image.DecompressionBombError
        known = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        if not known or page.imagedepth != 1 or page.samplesperpixel > _MOST_SAMPLES:
            raise PictureError(f"{name}: TIFF of this kind is not supported", "save it as plain RGB or gray first")
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True) if n > 0]
        if len(ends) < max(1, math.prod(page.chunked)) or max(ends) > len(data):
            raise ValueError("pixels are missing")
        try:
            bands = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            hint = "save it without compression or with Deflate, or: pip install imagecodecs"
            raise PictureError(f"{name}: its TIFF compression cannot be read", hint) from error
        return _meant(page, bands, len(file.pages))


def _meant(page: Any, bands: np.ndarray, frames: int) -> Tiff:
    """The samples of a page as gray or RGB, and alpha."""
    if page.planarconfig == 2 and bands.ndim == 3:
        bands = np.moveaxis(bands, 0, -1)
    bands, note = _held(bands.reshape(page.imagelength, page.imagewidth, -1))
    colours = 3 if page.photometric == _RGB else 1
    if bands.shape[-1] < colours:
        raise ValueError("colours are missing")
    extra = tuple(page.extrasamples)
    has_alpha = bands.shape[-1] > colours and (not extra or extra[0] in (_ASSOCIATED, _UNASSOCIATED))
    kept = colours + has_alpha
    dropped = bands.shape[-1] - kept
    left_out = f"{dropped} bands beside the colour are left out" if dropped else ""
    bands = bands[..., :kept].copy()
    top = 1.0 if bands.dtype.kind == "f" else float(np.iinfo(bands.dtype).max)
    if page.photometric == _WHITE_IS_ZERO:
        bands[..., 0] = top - bands[..., 0]
    if has_alpha and extra and extra[0] == _ASSOCIATED:
        bands = divided(bands, top)
    return Tiff(bands, frames, tuple(n for n in (note, left_out) if n))


def _held(bands: np.ndarray) -> tuple[np.ndarray, str]:
    """In one of the types a `Picture` has, and a note if that takes a conversion."""
    kind, size = bands.dtype.kind, bands.dtype.itemsize
    native = bands.astype(bands.dtype.newbyteorder("="), copy=False)
    if kind == "u" and size <= 4:
        return native, ""
    if kind == "i" and size <= 4:
        return native.astype(np.int32), ""
    if kind == "f":
        note = "" if size == 4 else f"{8 * size}-bit floating-point values are taken as 32-bit ones"
        return native.astype(np.float32), note
    raise ValueError(f"pixels of type {bands.dtype} are not supported")
