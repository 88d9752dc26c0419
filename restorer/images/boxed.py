"""HEIC, AVIF and JPEG XL: what the plug-ins of Pillow leave out when they read files that consist of boxes."""

from __future__ import annotations

import contextlib

from PIL import ExifTags, Image

from restorer.images.heif_file import colour_chunk, find_nclx, heif_companions, read_deep
from restorer.images.jxl_file import parse_jxl
from restorer.images.pillow_modes import split_alpha
from restorer.images.supplement import Supplement

__all__ = ["read_boxed"]


def read_boxed(image: Image.Image, data: bytes) -> Supplement:
    """Return what a HEIC, AVIF or JPEG XL file holds besides what the plug-in returns; nothing for other formats.

    Args:
        image: The file, opened but not loaded.
        data: Its bytes; empty if they are not known.
    """
    if image.format == "HEIF":
        return _read_heif(image, data)
    if image.format == "AVIF" and data:
        bits = _avif_bits(data)
        notes = (f"{bits} bits per channel are read as 8 bits",) if bits > 8 else ()
        named = () if image.info.get("icc_profile") else colour_chunk(find_nclx(data))
        return Supplement(depth=bits, chunks=named, notes=notes)
    return _read_jxl(image, data) if image.format == "JXL" and data else Supplement()


def _read_heif(image: Image.Image, data: bytes) -> Supplement:
    names = heif_companions(image.info)
    notes = [f"not kept of what lies beside the picture in the file: {', '.join(names)}"] if names else []
    nclx = image.info.get("nclx_profile") or {}
    named = (int(nclx.get("color_primaries", 2)), int(nclx.get("transfer_characteristics", 2)))
    chunks = () if image.info.get("icc_profile") else colour_chunk(named)
    bits = int(image.info.get("bit_depth", 8))
    deep = read_deep(data) if bits > 8 and data else None
    if deep is not None:
        return Supplement(split_alpha(deep[0]), deep[1], chunks=chunks, notes=tuple(notes))
    notes += [f"{bits} bits per channel are read as 8 bits"] if bits > 8 else []
    return Supplement(depth=bits, chunks=chunks, notes=tuple(notes))


def _read_jxl(image: Image.Image, data: bytes) -> Supplement:
    file, notes, exif = parse_jxl(data), [], None
    kept = 16 if image.mode == "I;16" else 32 if image.mode == "F" else 8
    if file.bits > kept:
        notes.append(f"{file.bits} bits per channel are read as {kept} bits")
    if file.is_animated:
        notes.append("only the first picture of the animation is used")
    if getattr(image, "jpeg", None):  # the plug-in returns the JPEG file that was compressed, with its metadata
        return Supplement(depth=file.bits, notes=tuple(notes))
    if file.exif:
        exif = Image.Exif()
        with contextlib.suppress(Exception):  # damaged metadata are a reason to drop them
            exif.load(file.exif)
            if ExifTags.Base.Orientation in exif:
                exif[ExifTags.Base.Orientation] = 1  # the decoder has applied what the codestream says
    if file.has_unread:
        notes.append("the compressed metadata are dropped: to keep them, run: pip install brotli")
    return Supplement(None, file.bits, exif, file.xmp or None, notes=tuple(notes))


def _avif_bits(data: bytes) -> int:
    """Return the bits per channel of an AVIF file.

    The flags high_bitdepth and twelve_bit of the codec's configuration give them (AV1-ISOBMFF, 2.3.3).
    """
    start = data.find(b"av1C")
    flags = data[start + 6] if 0 <= start < len(data) - 6 else 0
    return 8 + 2 * bool(flags & 0x40) + 2 * bool(flags & 0x40 and flags & 0x20)
