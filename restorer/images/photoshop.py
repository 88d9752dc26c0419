"""Photoshop's image resources, in which JPEG files hold IPTC captions, and the forms that other formats give them.

Sources:
    Adobe, "Photoshop File Formats Specification": image resource blocks.
    IPTC, "Information Interchange Model" 4.2: captions, which are one of these resources.
    ImageMagick and ExifTool, for the texts "Raw profile type iptc" of PNG files.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator

__all__ = [
    "IPTC_TAG",
    "PNG_KEY",
    "RESOURCES_TAG",
    "captions",
    "from_captions",
    "from_png_text",
    "kept_resources",
    "png_text",
]

IPTC_TAG, RESOURCES_TAG = 33723, 34377  # of TIFF
PNG_KEY = "Raw profile type iptc"
CAPTIONS = 0x0404
_SIGNATURE = b"8BIM"
_STALE = frozenset(  # about the old pixels, or kept elsewhere: resolution, thumbnails, profile, EXIF, XMP
    {0x03ED, 0x0409, 0x040C, 0x040F, 0x0422, 0x0423, 0x0424, 0x0400, 0x03F0, 0x0411}
)


def _resources(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the number, the content and all bytes of each resource, as long as they are whole."""
    at = 0
    while data[at : at + 4] == _SIGNATURE and at + 12 <= len(data):
        name_end = at + 6 + (data[at + 6] + 2) // 2 * 2  # a length and a name, together of an even length
        start = name_end + 4
        size = int.from_bytes(data[name_end:start], "big")
        content = data[start : start + size]
        if len(content) < size:
            return
        end = start + size + size % 2
        yield int.from_bytes(data[at + 4 : at + 6], "big"), content, data[at:end].ljust(end - at, b"\0")
        at = end


def kept_resources(data: bytes) -> bytes:
    """Return the resources that stay true when the pixels change, in the order of the file."""
    return b"".join(whole for number, _, whole in _resources(data) if number not in _STALE)


def captions(data: bytes) -> bytes:
    """Return the IPTC captions among resources; empty if there are none."""
    return next((content for number, content, _ in _resources(data) if number == CAPTIONS), b"")


def from_captions(data: bytes) -> bytes:
    """Return IPTC captions as a resource."""
    padded = data + b"\0" * (len(data) % 2)
    return _SIGNATURE + CAPTIONS.to_bytes(2, "big") + b"\0\0" + len(data).to_bytes(4, "big") + padded


def png_text(data: bytes) -> str:
    """Return resources as the text of a PNG file under PNG_KEY."""
    digits = binascii.hexlify(data).decode("ascii")
    lines = [digits[i : i + 72] for i in range(0, len(digits), 72)]
    return "\n".join(["", "iptc", f"{len(data):8d}", *lines]) + "\n"


def from_png_text(text: str) -> bytes:
    """Return the resources that a PNG file holds as text; empty if the text is malformed."""
    try:
        data = binascii.unhexlify("".join(text.split()[2:]))
    except (binascii.Error, ValueError):
        return b""
    return kept_resources(data if data.startswith(_SIGNATURE) else from_captions(data))
