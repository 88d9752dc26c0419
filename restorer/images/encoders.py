"""Arrays -> PNG and TIFF files of any depth.

Pillow writes no 16-bit colour and compresses a TIFF through libtiff, which cannot write the sub-directories of EXIF
(exposure, GPS). Here Pillow writes the metadata, of a stand-in or of a directory, and the pixels are put beside
them: differences to the left neighbour, compressed by zlib. Both are what the formats prescribe; nothing is chosen
by content, because the lower byte of a photograph's 16 bits is noise that no filter shrinks.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

__all__ = ["png_bytes", "tiff_bytes"]

_LEVEL = 4  # of zlib: twice as fast as 6 for 1 % more bytes on 16-bit photographs
_SUB = 1  # PNG filter type: difference to the left
_STRIP = 1 << 20  # bytes of pixels compressed together
_PNG_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_TIFF_LIMIT = (1 << 32) - (1 << 24)  # offsets are 32 bits wide


def png_bytes(bands: np.ndarray, **options: Any) -> bytes:
    """A PNG of uint16 (H, W, C), C from 1 to 4; `options` are those of Pillow's writer (profile, EXIF, ...)."""
    height, width, channels = bands.shape
    stand_in = io.BytesIO()
    Image.new(_PNG_MODES[channels], (1, 1)).save(stand_in, "PNG", **options)
    data, at = stand_in.getvalue(), 8
    out = io.BytesIO()
    out.write(data[:at])
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if kind == b"IHDR":  # width, height, depth, colour type as in the stand-in, compression, filter, interlace
            body = struct.pack(">2I", width, height) + bytes([16, body[9]]) + body[10:]
        elif kind == b"IDAT":
            body = zlib.compress(_png_rows(bands).tobytes(), _LEVEL)
        PngImagePlugin.putchunk(out, kind, body)
        at = end
    return out.getvalue()


def _png_rows(bands: np.ndarray) -> np.ndarray:
    """Rows of bytes, each after its filter type (PNG, third edition, 9.2: bytes are subtracted, not numbers)."""
    height, width, channels = bands.shape
    pixel = 2 * channels
    raw = bands.astype(">u2").view(np.uint8).reshape(height, width * pixel)
    rows = np.empty((height, 1 + width * pixel), np.uint8)
    rows[:, 0] = _SUB
    rows[:, 1 : 1 + pixel] = raw[:, :pixel]
    np.subtract(raw[:, pixel:], raw[:, :-pixel], out=rows[:, 1 + pixel :])
    return rows


def tiff_bytes(
    bands: np.ndarray,
    has_alpha: bool,
    exif: bytes | None = None,
    icc_profile: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """A TIFF of unsigned, signed or float numbers (H, W, C), compressed (Deflate), with all of its metadata.

    Raises:
        ValueError: the file would be larger than the format can address.
    """
    height, width, channels = bands.shape
    if bands.nbytes > _TIFF_LIMIT:
        raise ValueError("it would be larger than 4 GB")
    tags = Image.Exif()
    tags.load(exif or b"")
    if bands.itemsize > 2:
        tags.endian = "<"  # Pillow, and who reads by it, turns packed numbers of 32 bits round if they are big-endian
    rows = max(1, _STRIP // max(1, bands[:1].nbytes))
    order: Literal["<", ">"] = "<" if tags.endian == "<" else ">"  # of the directory, as Pillow will write it
    strips = [zlib.compress(_tiff_rows(bands[i : i + rows], order), _LEVEL) for i in range(0, height, rows)]
    counts = [len(strip) for strip in strips]
    layout: dict[int, Any] = {
        TiffImagePlugin.IMAGEWIDTH: width,
        TiffImagePlugin.IMAGELENGTH: height,
        TiffImagePlugin.BITSPERSAMPLE: (8 * bands.itemsize,) * channels,
        TiffImagePlugin.SAMPLEFORMAT: ({"u": 1, "i": 2, "f": 3}[bands.dtype.kind],) * channels,
        TiffImagePlugin.SAMPLESPERPIXEL: channels,
        TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 2 if channels > 2 else 1,
        TiffImagePlugin.PLANAR_CONFIGURATION: 1,
        TiffImagePlugin.COMPRESSION: 8,
        TiffImagePlugin.PREDICTOR: 1 if bands.dtype.kind == "f" else 2,
        TiffImagePlugin.ROWSPERSTRIP: rows,
        TiffImagePlugin.STRIPBYTECOUNTS: tuple(counts),
        TiffImagePlugin.STRIPOFFSETS: tuple(np.cumsum([0, *counts[:-1]]).tolist()),  # Pillow adds the directory's end
    }
    if has_alpha:
        layout[TiffImagePlugin.EXTRASAMPLES] = 2  # not multiplied into the colour
    if dpi:
        layout |= {TiffImagePlugin.X_RESOLUTION: dpi[0], TiffImagePlugin.Y_RESOLUTION: dpi[1]}
        layout[TiffImagePlugin.RESOLUTION_UNIT] = 2  # inches
    if icc_profile:
        layout[TiffImagePlugin.ICCPROFILE] = icc_profile
    if xmp:
        layout[TiffImagePlugin.XMP] = xmp
    for tag, value in layout.items():
        tags[tag] = value
    return tags.tobytes().removeprefix(b"Exif\0\0") + b"".join(strips)


def _tiff_rows(bands: np.ndarray, order: Literal["<", ">"]) -> bytes:
    """Integers as differences to the left (TIFF 6.0, section 14), in a byte order."""
    rows = np.array(bands, order="C")
    if rows.dtype.kind != "f":
        rows = rows.view(f"u{rows.itemsize}")  # differences wrap around
        rows[:, 1:] -= rows[:, :-1].copy()
    return rows.astype(rows.dtype.newbyteorder(order), copy=False).tobytes()
