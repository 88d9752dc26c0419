"""GIF, JPEG 2000, Photoshop, BMP, QOI and PPM files: the metadata and the bits that Pillow leaves out.

Sources:
    Adobe, "XMP Specification" part 3: XMP in GIF, JPEG 2000 and Photoshop files.
    ISO/IEC 15444-1:2019, "JPEG 2000", annexes A.5 and I: the marker SIZ, and the boxes 'colr' and 'uuid'.
    Adobe, "Photoshop File Formats Specification": image resources.
    Microsoft, "BITMAPV5HEADER"; D. Szablewski, "The Quite OK Image Format"; the Netpbm manual, "ppm".
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image

from restorer.images import photoshop
from restorer.images.boxes import read_boxes
from restorer.images.pillow_modes import split_alpha
from restorer.images.supplement import Supplement

__all__ = ["read_older"]

_JP2_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_JP2_EXIF = b"JpgTiffExif->JP2"
_JP2_IPTC = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
_GIF_XMP, _GIF_XMP_END = b"\x21\xff\x0bXMP DataXMP", b"\x01\xff\xfe\xfd"
_RESOLUTION, _IPTC, _EXIF, _XMP = 1005, 1028, 1058, 1060  # Photoshop's image resources
_LINEAR = ((b"gAMA", (100_000).to_bytes(4, "big")),)
_PPM_HEADER = re.compile(rb"P([56])(?:\s+(?:#[^\n]*\n\s*)*)(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)\s")


def read_older(image: Image.Image, data: bytes) -> Supplement:
    """Return what a file holds besides what Pillow returns; nothing for other formats.

    Args:
        image: The file, opened but not loaded.
        data: Its bytes; empty if they are not known.
    """
    reader = _READERS.get(image.format or "")
    return reader(image, data) if reader is not None and data else Supplement()


def _exif(block: bytes) -> Image.Exif | None:
    """Return EXIF; None if there is none or it is damaged."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # metadata come from any program of any age
        exif.load(block.removeprefix(b"Exif\0\0"))
    return exif if len(exif) else None


def _read_gif(image: Image.Image, data: bytes) -> Supplement:
    start = data.find(_GIF_XMP)
    end = data.find(_GIF_XMP_END, start)
    # The packet is not divided into blocks; a trailer of falling numbers makes readers of blocks skip it.
    return Supplement(xmp=data[start + len(_GIF_XMP) : end]) if 0 <= start < end else Supplement()


def _read_jpeg2000(image: Image.Image, data: bytes) -> Supplement:
    found: dict[bytes, bytes] = {}
    icc = None
    for kind, content in read_boxes(data):
        if kind == b"uuid":
            found.setdefault(content[:16], content[16:])
        elif kind == b"jp2h":
            colours = [inner for name, inner in read_boxes(content) if name == b"colr" and inner[:1] == b"\2"]
            icc = colours[0][3:] if colours else None
    bits, at = 8, data.find(b"\xff\x4f\xff\x51")
    if 0 <= at < len(data) - 42:
        bits = (data[at + 42] & 0x7F) + 1
    is_cut = bits > 8 and image.mode not in ("I", "I;16")
    iptc = found.get(_JP2_IPTC, b"")
    return Supplement(
        depth=bits if is_cut else 0,
        exif=_exif(found.get(_JP2_EXIF, b"")),
        xmp=found.get(_JP2_XMP),
        icc=icc,
        captions=photoshop.from_captions(iptc) if iptc else b"",
        notes=(f"{bits} bits per channel are read as 8 bits",) if is_cut else (),
    )


def _read_photoshop(image: Image.Image, data: bytes) -> Supplement:
    found = {number: content for number, _, content in getattr(image, "resources", ())}
    dpi = None
    if len(resolution := found.get(_RESOLUTION, b"")) >= 12:  # fixed-point numbers of 32 bits, in pixels per inch
        across, down = (int.from_bytes(resolution[at : at + 4], "big") / 65536 for at in (0, 8))
        dpi = (across, down)
    iptc = found.get(_IPTC, b"")
    captions = photoshop.from_captions(iptc) if iptc else b""
    return Supplement(exif=_exif(found.get(_EXIF, b"")), xmp=found.get(_XMP), dpi=dpi, captions=captions)


def _read_bmp(image: Image.Image, data: bytes) -> Supplement:
    if data[:2] != b"BM" or len(data) < 138 or int.from_bytes(data[14:18], "little") < 124:
        return Supplement()
    if data[70:74] == b"DEBM":  # the profile is embedded
        at, size = struct.unpack_from("<II", data, 126)
        icc = data[14 + at : 14 + at + size]
        return Supplement(icc=icc if len(icc) == size > 128 else None)
    return Supplement()


def _read_qoi(image: Image.Image, data: bytes) -> Supplement:
    return Supplement(chunks=_LINEAR if data[13:14] == b"\1" else ())


def _read_ppm(image: Image.Image, data: bytes) -> Supplement:
    """Return the numbers of a file with more than 8 bits, which Pillow shortens in colour and widens in gray."""
    header = _PPM_HEADER.match(data)
    if header is None or not 255 < (white := int(header[4])) < 65536:
        return Supplement()
    width, height, channels = int(header[2]), int(header[3]), 1 if header[1] == b"5" else 3
    count = width * height * channels
    if len(data) - header.end() < 2 * count:
        raise ValueError("pixels are missing")
    values = np.frombuffer(data, ">u2", count, header.end()).reshape(height, width, channels).astype(np.uint32)
    bands = ((values * 65535 + white // 2) // white).clip(0, 65535).astype(np.uint16)
    return Supplement(split_alpha(bands), white.bit_length())


_READERS: dict[str, Callable[[Image.Image, bytes], Supplement]] = {
    "GIF": _read_gif,
    "JPEG2000": _read_jpeg2000,
    "PSD": _read_photoshop,
    "BMP": _read_bmp,
    "QOI": _read_qoi,
    "PPM": _read_ppm,
}
