"""JPEG XL files: what the plug-in of Pillow does not read, and how it writes results.

The plug-in decodes 8 bits per channel, except 16 bits of gray, without a word about the bits that the file has; it
leaves out XMP and everything that is compressed with Brotli; and its writer takes every picture for sRGB. This module
reads the header and the boxes of a file itself, and converts a picture to sRGB before it is written.

Sources:
    ISO/IEC 18181-1:2024, "JPEG XL core coding system", annex D: SizeHeader, ImageMetadata.
    ISO/IEC 18181-2:2024, "JPEG XL file format": the boxes 'Exif', 'xml ', 'brob' and 'jxlc'.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from restorer.images.boxes import read_boxes

__all__ = ["JxlFile", "encode_jxl", "parse_jxl", "to_srgb"]

CODESTREAM, SIGNATURE = b"\xff\x0a", b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a"
_LARGEST_PACKET = 16_000_000  # bytes of metadata after they are decompressed
_LOSSLESS = 100
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC


@dataclass(frozen=True)
class JxlFile:
    """What the header and the boxes of a file say.

    Args:
        bits: Bits per channel; 0 if the header cannot be read.
        is_animated: Whether it holds an animation.
        exif: The EXIF block, which begins with the header of TIFF; empty if there is none.
        xmp: The XMP packet; empty if there is none.
        has_unread: Whether there are metadata that are compressed with Brotli and cannot be read without it.
    """

    bits: int = 0
    is_animated: bool = False
    exif: bytes = b""
    xmp: bytes = b""
    has_unread: bool = False


def parse_jxl(data: bytes) -> JxlFile:
    """Return what the header and the boxes of a JPEG XL file say, as far as they can be read."""
    if data.startswith(CODESTREAM):
        return JxlFile(*_parse_header(data))
    exif, xmp, has_unread, stream = b"", b"", False, b""
    for kind, content in read_boxes(data):
        if kind == b"brob":
            opened = _decompress(content[4:])
            if opened is None:
                has_unread = has_unread or content[:4] in (b"Exif", b"xml ")
                continue
            kind, content = content[:4], opened
        if kind == b"Exif" and not exif:
            exif = content[4 + int.from_bytes(content[:4], "big") :]  # the number says where the TIFF header begins
        elif kind == b"xml " and not xmp:
            xmp = content
        elif kind == b"jxlc" and not stream:
            stream = content
        elif kind == b"jxlp" and len(stream) < 64:  # the header may be cut anywhere
            stream += content[4:]
    return JxlFile(*_parse_header(stream), exif, xmp, has_unread)


def _decompress(content: bytes) -> bytes | None:
    """Return what is compressed with Brotli; None if it is damaged or the library is not installed."""
    try:
        decoder: Any = importlib.import_module("brotli").Decompressor()
        opened = bytearray()
        for at in range(0, len(content), 4096):
            opened += decoder.process(content[at : at + 4096])
            if len(opened) > _LARGEST_PACKET:
                return None
        return bytes(opened) if decoder.is_finished() else None
    except Exception:  # the errors of the library have no common class
        return None


class _Bits:
    """The bits of a codestream, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def read(self, count: int) -> int:
        """Return the next bits as a number; EOFError if there are too few."""
        if count > self._left:
            raise EOFError
        value = self._number & ((1 << count) - 1)
        self._number >>= count
        self._left -= count
        return value

    def choose(self, *choices: tuple[int, int]) -> int:
        """Return a number in one of four encodings, each given by an offset and a number of further bits."""
        offset, count = choices[self.read(2)]
        return offset + self.read(count)


def _parse_header(stream: bytes) -> tuple[int, bool]:
    """Return the bits per channel, 0 if they cannot be read, and whether there is an animation."""
    bits = _Bits(stream[2:64])
    is_animated = False
    with contextlib.suppress(EOFError):
        _skip_size(bits)
        if bits.read(1):  # everything else has its default
            return 8, False
        if bits.read(1):
            bits.read(3)  # orientation, which the decoder applies
            if bits.read(1):
                _skip_size(bits)
            if bits.read(1):
                return 0, False  # a preview, which no known encoder writes
            is_animated = bool(bits.read(1))
            if is_animated:
                bits.choose((100, 0), (1000, 0), (1, 10), (1, 30))
                bits.choose((1, 0), (1001, 0), (1, 8), (1, 10))
                bits.choose((0, 0), (0, 3), (0, 16), (0, 32))
                bits.read(1)
        if bits.read(1):
            return bits.choose((32, 0), (16, 0), (24, 0), (1, 6)), is_animated
        return bits.choose((8, 0), (10, 0), (12, 0), (1, 6)), is_animated
    return 0, is_animated


def _skip_size(bits: _Bits) -> None:
    """Read over a SizeHeader."""
    is_small = bits.read(1)

    def side() -> None:
        if is_small:
            bits.read(5)
        else:
            bits.choose((1, 9), (1, 13), (1, 18), (1, 30))

    side()
    if not bits.read(3):  # no ratio of the sides is given
        side()


def to_srgb(bands: np.ndarray, icc: bytes) -> tuple[np.ndarray, str]:
    """Convert the colours of a picture to sRGB.

    Args:
        bands: uint8 (H, W, C), with C from 1 to 4, or uint16 (H, W, 1); alpha is the last of 2 or 4 bands.
        icc: Its colour profile.

    Returns:
        The bands, and a note on what becomes of the profile.
    """
    colours = 1 if bands.shape[-1] < 3 else 3
    mode = "L" if colours == 1 else "RGB"
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = " ".join(ImageCms.getProfileDescription(profile).split())[:60]
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", _INTENT)
        if _is_identity(transform, mode):
            return bands, f"JXL results are in sRGB and need no colour profile, so that {name!r} is left out"
        if bands.dtype != np.uint8:
            curve = np.asarray(transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None])))[0, :, 0]
            shade = np.interp(bands.astype(np.float64) / 257, np.arange(256), curve)
            return np.rint(257 * shade).astype(np.uint16), _converted_note(name)
        plain = np.ascontiguousarray(bands[..., 0] if colours == 1 else bands[..., :3])
        changed = np.asarray(transform.apply(Image.fromarray(plain)))[..., :colours]
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return bands, "the colour profile cannot be applied and is dropped: JXL results are in sRGB"
    return np.concatenate([changed, bands[..., colours:]], axis=-1), _converted_note(name)


def _converted_note(name: str) -> str:
    return f"JXL results are in sRGB: the colours are converted from the profile {name!r}"


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a transform leaves every colour within one level."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = levels[None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    changed = np.asarray(transform.apply(Image.fromarray(grid))).astype(int)
    expected = grid[..., None] if mode == "L" else grid
    return bool(np.abs(changed - expected).max() <= 1)


def encode_jxl(bands: np.ndarray, *, quality: int | None, exif: bytes | None = None, xmp: bytes | None = None) -> bytes:
    """Return a JPEG XL file.

    Args:
        bands: uint8 (H, W, C), with C from 1 to 4, or uint16 (H, W, 1), in sRGB; alpha is the last of 2 or 4 bands.
        quality: From 1 to 100, at which nothing is lost; None loses nothing either.
        exif: EXIF block, with or without the prefix that JPEG files have.
        xmp: XMP packet.

    Raises:
        RuntimeError: The encoder refuses the picture.
    """
    importlib.import_module("pillow_jxl")  # it registers the writer
    image = Image.fromarray(bands[..., 0] if bands.shape[-1] == 1 else bands)
    options: dict[str, Any] = {"lossless": True} if quality in (None, _LOSSLESS) else {"quality": quality}
    if exif:
        options["exif"] = bytes(4) + exif.removeprefix(b"Exif\0\0")  # four bytes say where the TIFF header begins
    buffer = io.BytesIO()
    image.save(buffer, "JXL", **options, **({"xmp": xmp} if xmp else {}))
    return buffer.getvalue()
