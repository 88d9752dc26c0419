"""HEIC files: the pictures of telephones, read and written by pillow-heif with every bit that it handles.

Pillow's plug-in returns 8 bits per channel. `read_deep` asks the library itself for the 10 or 12 bits of the file.
Results are written as telephones write their pictures, with 4:2:0 chroma and at most 10 bits, because many readers
decode nothing else.

Sources:
    ISO/IEC 23008-12:2022, "Image File Format": auxiliary images and thumbnails.
    ITU-T H.273 (2024): the numbers of colour primaries and of transfer characteristics.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["MAX_BITS", "colour_chunk", "encode_heif", "find_nclx", "heif_companions", "read_deep"]

MAX_BITS = 10
"""Bits per channel of results with more than 8."""

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_LOSSLESS = 100  # the quality at which the chroma keeps its resolution
_RGB_MATRIX = 0  # H.273: red, green and blue are stored as they are
_PLAIN_PRIMARIES = frozenset({1, 2})  # those of sRGB, or unspecified
_PLAIN_TRANSFERS = frozenset({1, 2, 6, 13, 14, 15})  # sRGB, the curves that are shown as sRGB is, or unspecified


def read_deep(data: bytes) -> tuple[np.ndarray, int] | None:
    """Return the numbers of a HEIC file that has more than 8 bits per channel.

    Args:
        data: The file.

    Returns:
        uint16 (H, W, C) over the whole range, upright, with C from 1 to 4, and the bits of the file; None for a file
        of 8 bits.
    """
    file: Any = importlib.import_module("pillow_heif").open_heif(
        io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False
    )
    bits = int(file.info.get("bit_depth", 8))
    if bits <= 8:
        return None
    values = np.asarray(file)
    bands = values if values.ndim == 3 else values[..., None]
    return _rescale(bands, (1 << bits) - 1, 65535), bits


def _rescale(values: np.ndarray, old: int, new: int) -> np.ndarray:
    """Return whole numbers from 0 to `old` as numbers from 0 to `new`, rounded to the nearest, as uint16."""
    return ((values.astype(np.uint32) * new + old // 2) // old).astype(np.uint16)


def encode_heif(bands: np.ndarray, *, quality: int, chunks: Mapping[bytes, bytes], **metadata: Any) -> bytes:
    """Return a HEIC file.

    Args:
        bands: uint8 or uint16 (H, W, C), with C from 1 to 4; alpha is the last of 2 or 4 bands.
        quality: From 1 to 100, at which nothing is lost.
        chunks: The PNG chunks of the picture, of which `cICP` names the colour space.
        metadata: The arguments `icc_profile`, `exif` and `xmp`, as far as there are any.

    Returns:
        The bytes of the file; uint16 is rounded to `MAX_BITS` bits.

    Raises:
        RuntimeError: The encoder refuses the picture.
    """
    height, width, channels = bands.shape
    mode, options = _MODES[channels], dict[str, Any](metadata)
    if bands.dtype == np.uint16:
        shift = 16 - MAX_BITS  # the encoder drops the lower bits
        bands = _rescale(bands, 65535, (1 << MAX_BITS) - 1) << shift
        mode, options["bit_depth"] = f"{mode};16", MAX_BITS
    if (named := chunks.get(b"cICP")) is not None and len(named) == 4:
        options |= {"color_primaries": named[0], "transfer_characteristics": named[1], "full_range_flag": 1}
    if quality == _LOSSLESS:
        options |= {"quality": -1, "chroma": 444, "matrix_coefficients": _RGB_MATRIX}
        named_too = "color_primaries" in options
        options |= {} if named_too else {"color_primaries": 1, "transfer_characteristics": 13, "full_range_flag": 1}
    else:
        options |= {"quality": quality, "chroma": 420}
        options |= {"matrix_coefficients": 6} if "color_primaries" in options else {}
    buffer = io.BytesIO()
    pixels = np.ascontiguousarray(bands).astype(bands.dtype.newbyteorder("<"), copy=False).tobytes()
    importlib.import_module("pillow_heif").encode(mode, (width, height), pixels, buffer, **options)
    return buffer.getvalue()


def heif_companions(info: Mapping[Any, Any]) -> list[str]:
    """Return what a HEIC file holds beside the picture, in words, except further pictures and thumbnails.

    Args:
        info: What the plug-in has read beside the pixels.
    """
    names = ["a depth map"] if info.get("depth_images") else []
    kinds = [str(kind).lower() for kind in info.get("aux") or {}]
    names += ["a gain map"] if any("gainmap" in kind for kind in kinds) else []
    others = [kind for kind in kinds if "gainmap" not in kind and "alpha" not in kind and "depth" not in kind]
    return names + ([f"{len(others)} auxiliary images" if len(others) > 1 else "an auxiliary image"] if others else [])


def find_nclx(data: bytes) -> tuple[int, int] | None:
    """Return the primaries and the transfer characteristics of an AVIF file by H.273; None if it does not name any.

    Args:
        data: The file.
    """
    at = data.find(b"colrnclx")
    if at < 0 or at + 12 > len(data):
        return None
    return int.from_bytes(data[at + 8 : at + 10], "big"), int.from_bytes(data[at + 10 : at + 12], "big")


def colour_chunk(named: tuple[int, int] | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return the PNG chunk `cICP` for a colour space by H.273; nothing for sRGB, and for a space that has no name.

    Args:
        named: The primaries and the transfer characteristics.
    """
    if named is None or not all(0 <= number < 256 for number in named):
        return ()
    if named[0] in _PLAIN_PRIMARIES and named[1] in _PLAIN_TRANSFERS:
        return ()
    return ((b"cICP", bytes([*named, 0, 1])),)
