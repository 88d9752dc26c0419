"""What follows a picture in its file, in the formats that say where the picture ends.

Editors that overwrite a longer file leave its rest behind, and other programs append archives or data of their own.
"""

from __future__ import annotations

__all__ = ["describe_rest"]

_PNG = b"\x89PNG\r\n\x1a\n"


def describe_rest(data: bytes) -> str:
    """Return what follows the picture in a PNG, GIF or WebP file, in words; '' if it is nothing but padding.

    Args:
        data: The whole file.
    """
    end = _end_of_png(data) or _end_of_gif(data) or _end_of_webp(data)
    rest = b"" if end is None else data[end:]
    if not rest.strip(b"\0\xff\r\n"):
        return ""
    return f"{len(rest):,} bytes after the picture"


def _end_of_png(data: bytes) -> int | None:
    """Return where a PNG file ends by its chunks; None if its end is missing, or it is another file."""
    at = len(_PNG)
    while data.startswith(_PNG) and at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IEND":
            return end
        at = end
    return None


def _end_of_webp(data: bytes) -> int | None:
    """Return where a WebP file ends by the length of its RIFF chunk; None for other files."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    size = int.from_bytes(data[4:8], "little")
    return 8 + size + size % 2


def _end_of_gif(data: bytes) -> int | None:
    """Return where a GIF file ends by its blocks (GIF89a, appendix A); None if its end is missing."""
    if not data.startswith((b"GIF87a", b"GIF89a")) or len(data) < 14:
        return None
    at = 13 + _table(data[10])
    while at < len(data):
        kind = data[at]
        if kind == 0x3B:  # the trailer
            return at + 1
        if kind == 0x2C and at + 10 < len(data):  # an image: a descriptor, a table of colours, the length of its codes
            at += 10 + _table(data[at + 9]) + 1
        elif kind == 0x21:  # an extension
            at += 2
        else:
            return None
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return None


def _table(flags: int) -> int:
    """Return the bytes of the table of colours that flags announce."""
    return 3 << (flags % 8 + 1) if flags & 0x80 else 0
