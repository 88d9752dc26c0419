"""Chunks of PNG files that Pillow neither reads nor writes.

Source: W3C, "Portable Network Graphics (PNG) Specification (Third Edition)", 2025: chapter 11 for the chunks, and 14.2
for what a program that changes the image may copy.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from restorer.images.jpeg_damage import NO_END

__all__ = [
    "COLOUR_SPACE",
    "describe_colour_chunks",
    "describe_other_chunks",
    "describe_png_damage",
    "kept_chunks",
    "lost_chunks",
    "with_chunks",
]

SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOUR_SPACE = frozenset({b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI"})
"""The chunks that say which colours the numbers stand for."""

_HANDLED = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"pHYs"}
)
_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})  # the number of frames is said
_MEANINGLESS = frozenset({b"sBIT", b"hIST", b"sPLT", b"tIME"})  # about the old numbers, their palette and their age
_GEOMETRY = frozenset({b"sTER", b"oFFs"})  # valid as long as the size is
_LABELS = {b"gAMA": "gamma", b"cHRM": "primaries", b"cICP": "colour space", b"mDCV": "mastering display"}
_LABELS |= {b"cLLI": "light levels"}

Chunk = tuple[bytes, bytes]


def _chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the type and the content of each chunk of a PNG file, as long as they are whole."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if len(content) < length:
            return
        if int.from_bytes(data[at + 8 + length : at + 12 + length], "big") == zlib.crc32(kind + content):
            yield kind, content
        at += 12 + length


def describe_png_damage(data: bytes) -> str:
    """Return what is wrong with a PNG file that can be decoded; '' if nothing is, or for any other file.

    Pillow does not compare the checksums of the pixels, and it needs no end.

    Args:
        data: The whole file.
    """
    at = len(SIGNATURE)
    while data.startswith(SIGNATURE) and at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND":
            return ""
        checksum = data[end : end + 4]
        if kind == b"IDAT" and len(checksum) == 4 and zlib.crc32(data[at + 4 : end]) != int.from_bytes(checksum, "big"):
            return "the file is damaged: the checksum of its pixels is wrong, so part of the picture may be wrong"
        at = end + 4
    return NO_END if data.startswith(SIGNATURE) else ""


def kept_chunks(data: bytes) -> tuple[Chunk, ...]:
    """Return the chunks of a PNG file that stay true when its pixels change, and that Pillow does not keep.

    These are the chunks of the colour space, those of the place of the image, and all unknown ones whose type says that
    they are safe to copy.

    Args:
        data: The whole file; of any other file nothing is kept.
    """
    if not data.startswith(SIGNATURE):
        return ()
    return tuple(
        (kind, content)
        for kind, content in _chunks(data)
        if kind in COLOUR_SPACE | _GEOMETRY or (kind not in _known() and kind[:1].islower() and kind[3:4].islower())
    )


def lost_chunks(data: bytes) -> tuple[str, ...]:
    """Return the types of the chunks of a PNG file that its result does not have, without those that say nothing."""
    if not data.startswith(SIGNATURE):
        return ()
    found = {kind for kind, _ in _chunks(data)}
    return tuple(sorted(k.decode("latin-1") for k in found if k not in _known() | _GEOMETRY and not k[3:4].islower()))


def _known() -> frozenset[bytes]:
    return COLOUR_SPACE | _HANDLED | _ANIMATION | _MEANINGLESS


def with_chunks(data: bytes, chunks: Iterable[Chunk]) -> bytes:
    """Return a PNG file with further chunks, which come before its palette and its pixels."""
    end = len(SIGNATURE) + 25  # the header has 13 bytes
    present = {kind for kind, _ in _chunks(data)}
    added = [
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
        if kind not in present
    ]
    return data[:end] + b"".join(added) + data[end:]


def describe_colour_chunks(chunks: Iterable[Chunk]) -> list[str]:
    """Return what the chunks of the colour space say, in words; nothing for those that say that it is sRGB."""
    found = dict(chunks)
    is_usual = b"sRGB" in found or (found.get(b"gAMA") == _SRGB_GAMMA and found.get(b"cHRM") in (None, _SRGB_PRIMARIES))
    is_usual = is_usual and b"cICP" not in found
    names = [label for kind, label in _LABELS.items() if kind in found]
    return [name for name in names if not (is_usual and name in ("gamma", "primaries"))]


def describe_other_chunks(chunks: Iterable[Chunk]) -> list[str]:
    """Return a text with the types of the chunks that are not about the colour space; nothing if there are none."""
    kinds = sorted({kind.decode("latin-1") for kind, _ in chunks if kind not in COLOUR_SPACE})
    return [f"PNG chunks ({', '.join(kinds)[:60]})"] if kinds else []


_SRGB_GAMMA = (45455).to_bytes(4, "big")
_SRGB_PRIMARIES = b"".join(n.to_bytes(4, "big") for n in (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
