"""Pixels that Pillow has no mode for: 16-bit colour, and TIFF files of any number type and layout.

Pillow decodes 16-bit colour but keeps only one byte of each number. It decides which byte that is by the name of the
packing ("RGB;16B" or "RGB;16L"), so decoding a file once under each name yields both bytes. `tifffile` reads the files
that Pillow cannot open at all: floating-point colour, 16-bit gray with alpha, and separate colour planes.
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

__all__ = [
    "TIFF_MAGIC",
    "Tiff",
    "check_strips",
    "raw_mode",
    "read_sixteen_bit_bands",
    "read_tiff",
    "unpremultiply",
    "use_native_byte_order",
]

for library in ("PIL", "tifffile"):  # without a handler, their log messages would appear on the terminal
    logging.getLogger(library).addHandler(logging.NullHandler())

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first four bytes of a TIFF file: little- and big-endian, with 32-bit and with 64-bit offsets (BigTIFF)."""

_MAX_SAMPLES = 16
_NATIVE_PACKINGS = {  # packings in the byte order of a file -> packings in the byte order of this machine
    **{"F;32F": "F;32NF", "F;32BF": "F;32NF"},
    **{"I;32S": "I;32NS", "I;32BS": "I;32NS", "I;16S": "I;16NS", "I;16BS": "I;16NS"},
}
_ASSOCIATED, _UNASSOCIATED = 1, 2  # TIFF 6.0, ExtraSamples: whether the colour is multiplied by alpha
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # PhotometricInterpretation


def check_strips(tags: Mapping[int, Any]) -> None:
    """Check that a TIFF file has as many strips or tiles as its size needs.

    Pillow leaves missing strips and tiles black.

    Args:
        tags: the directory of the file.

    Raises:
        ValueError: strips or tiles are missing.
    """
    # The tags give the size of the stored pixels; Pillow's own size is that of the upright picture.
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    if TiffImagePlugin.STRIPOFFSETS in tags:
        needed = math.ceil(height / (tags.get(TiffImagePlugin.ROWSPERSTRIP) or height))
        present = len(tags[TiffImagePlugin.STRIPOFFSETS])
    else:
        across = math.ceil(width / tags[TiffImagePlugin.TILEWIDTH])
        needed = across * math.ceil(height / tags[TiffImagePlugin.TILELENGTH])
        present = len(tags[TiffImagePlugin.TILEOFFSETS])
    if present < needed:
        raise ValueError("pixels are missing")


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for the packing of the pixels in the file; '' for an image that is not tied to a file."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def use_native_byte_order(image: Image.Image) -> None:
    """Make Pillow read numbers that libtiff has unpacked in the byte order of this machine.

    libtiff delivers them in that order. Pillow (13.0) knows this only for unsigned 16-bit numbers, and reverses the
    bytes of all others if the byte order of the file is a different one.

    Args:
        image: an image that is opened but not loaded; it is modified in place.
    """
    file: Any = image  # an `ImageFile`, which is tied to its bytes
    if raw_mode(image) in _NATIVE_PACKINGS and file.tile[0].codec_name == "libtiff":
        file.tile = [tile._replace(args=(_NATIVE_PACKINGS[tile.args[0]], *tile.args[1:])) for tile in file.tile]


def read_sixteen_bit_bands(image: Image.Image, data: bytes) -> np.ndarray:
    """Return the pixels of a file with 16-bit colour, or 16-bit gray with alpha, as uint16 (H, W, C).

    Args:
        image: the file, opened but not loaded.
        data: the bytes of the file.
    """
    raw = raw_mode(image)
    if raw == "LA;16B":  # four bytes per pixel, as in RGBA, so that one decoding keeps them all
        return _load_with_packing(image, "RGBA").view(">u2").astype(np.uint16)
    packing, order = raw[:-1].replace("RGBa", "RGBA"), raw[-1]
    first = _load_with_packing(image, f"{packing}B")
    with Image.open(io.BytesIO(data), formats=[image.format or ""]) as reopened:
        second = _load_with_packing(reopened, f"{packing}L")
    is_big_endian = order == "B" or (order == "N" and sys.byteorder == "big")
    high, low = (first, second) if is_big_endian else (second, first)
    bands = high.astype(np.uint16) << 8
    bands |= low
    return unpremultiply(bands, 65535) if raw.startswith("RGBa") else bands


def _load_with_packing(image: Image.Image, raw: str) -> np.ndarray:
    """Return uint8 (H, W, C), decoded as if the packing of the pixels had the given name."""
    file: Any = image  # an `ImageFile`, which is tied to its bytes
    file.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in file.tile
    ]
    file.load()
    return np.asarray(file)


def unpremultiply(bands: np.ndarray, opaque: float) -> np.ndarray:
    """Divide the colour by the alpha that it was multiplied by.

    Args:
        bands: (H, W, C) of integers or floats; the last band is alpha.
        opaque: the value of full opacity.

    Returns:
        A new array of the same shape and type. Integers are rounded and limited to 0..`opaque`; colour is 0 where
        alpha is 0.
    """
    alpha = bands[..., -1:].astype(np.float64)
    colour = bands[..., :-1] * (opaque / np.maximum(alpha, np.finfo(np.float64).tiny))
    straight = np.where(alpha > 0, colour, 0)
    if bands.dtype.kind != "f":
        straight = np.rint(straight.clip(0, opaque))
    return np.concatenate([straight.astype(bands.dtype), bands[..., -1:]], axis=-1)


class Tiff(NamedTuple):
    """The first picture of a TIFF file as `tifffile` reads it.

    Attributes:
        bands: (H, W, C), not turned upright, in a type that a `Picture` can have; C is 1 or 3, or one more with alpha.
        frames: number of pictures in the file.
        notes: one line for each thing that was left out or converted.
    """

    bands: np.ndarray
    frames: int
    notes: tuple[str, ...]


def read_tiff(data: bytes, name: str, max_pixels: int) -> Tiff:
    """Read the first picture of a TIFF file that Pillow cannot open.

    Args:
        data: the bytes of the file.
        name: what error messages call the file.
        max_pixels: the largest number of pixels that is decoded.

    Raises:
        PictureError: the colours or the compression of the file are not supported.
        Image.DecompressionBombError: the picture has more than `max_pixels`.
        Exception: any exception, if the file is damaged.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        if page.imagelength * page.imagewidth > max_pixels:
            raise Image.DecompressionBombError
        is_known = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        if not is_known or page.imagedepth != 1 or page.samplesperpixel > _MAX_SAMPLES:
            raise PictureError(f"{name}: this kind of TIFF is not supported", "save it as plain RGB or gray first")
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True) if n > 0]
        if len(ends) < max(1, math.prod(page.chunked)) or max(ends) > len(data):
            raise ValueError("pixels are missing")
        try:
            bands = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            hint = "save it without compression or with Deflate, or run: pip install imagecodecs"
            raise PictureError(f"{name}: this TIFF compression is not supported", hint) from error
        return _interpret_samples(page, bands, len(file.pages))


def _interpret_samples(page: Any, bands: np.ndarray, frames: int) -> Tiff:
    """Convert the samples of a page to gray or RGB, with alpha if there is any."""
    if page.planarconfig == 2 and bands.ndim == 3:
        bands = np.moveaxis(bands, 0, -1)
    bands, note = _convert_type(bands.reshape(page.imagelength, page.imagewidth, -1))
    colours = 3 if page.photometric == _RGB else 1
    if bands.shape[-1] < colours:
        raise ValueError("colours are missing")
    extra = tuple(page.extrasamples)
    has_alpha = bands.shape[-1] > colours and (not extra or extra[0] in (_ASSOCIATED, _UNASSOCIATED))
    kept = colours + has_alpha
    dropped = bands.shape[-1] - kept
    extra_note = f"{dropped} bands besides the colour are left out" if dropped else ""
    bands = bands[..., :kept].copy()
    white = 1.0 if bands.dtype.kind == "f" else float(np.iinfo(bands.dtype).max)
    if page.photometric == _WHITE_IS_ZERO:
        bands[..., 0] = white - bands[..., 0]
    if has_alpha and extra and extra[0] == _ASSOCIATED:
        bands = unpremultiply(bands, white)
    return Tiff(bands, frames, tuple(n for n in (note, extra_note) if n))


def _convert_type(bands: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the bands in a type that a `Picture` can have, and a note if floats are converted; '' if not.

    Raises:
        ValueError: no such type can hold the numbers.
    """
    kind, size = bands.dtype.kind, bands.dtype.itemsize
    native = bands.astype(bands.dtype.newbyteorder("="), copy=False)
    if kind == "u" and size <= 4:
        return native, ""
    if kind == "i" and size <= 4:
        return native.astype(np.int32), ""
    if kind == "f":
        note = "" if size == 4 else f"{8 * size}-bit floating-point values are read as 32-bit values"
        return native.astype(np.float32), note
    raise ValueError(f"pixels of type {bands.dtype} are not supported")
