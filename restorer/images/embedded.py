"""What a file holds beside the picture: gain maps, videos, depth maps and further pictures.

A JPEG file may go on after the picture has ended. Telephones append the brightness that a screen of high dynamic range
adds (a gain map, itself a JPEG), a video of the moment, or a map of distances. The gain map of Ultra HDR is kept: it
stays valid for the restored picture, and it is turned and enlarged together with it. Everything else is named.

Sources:
    Android, "Ultra HDR Image Format" 1.1, and ISO 21496-1:2025: gain maps.
    CIPA DC-007 (2009), "Multi-Picture Format", 5.2.3: the index of the pictures of a file.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from restorer.images.endings import describe_rest
from restorer.images.jpeg_file import MOST_SIDE, SOI, JpegFile, make_segment, parse_jpeg

__all__ = ["Companions", "find_companions", "scaled_gain_map", "turned_gain_map", "with_gain_map"]

XMP = b"http://ns.adobe.com/xap/1.0/\0"
ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
MPF = b"MPF\0"
APP0, APP1, APP2, APP11, APP15 = 0xE0, 0xE1, 0xE2, 0xEB, 0xEF
_KNOWN = {  # segments that are kept, or that are about the old pixels: thumbnails, the quality, the order of colours
    APP0: (b"JFIF\0", b"JFXX\0", b"AVI1"),
    APP1: (b"Exif\0", b"http://ns.adobe.com/"),
    APP2: (b"ICC_PROFILE\0", MPF, ISO_GAIN_MAP),
    0xEC: (b"Ducky", b"[picture info]"),
    0xED: (b"Photoshop 3.0\0", b"Adobe_Photoshop2.5"),
    0xEE: (b"Adobe",),
}
_LENGTH = re.compile(
    rb'(Item:Semantic\s*=\s*"GainMap"[^>]*?Item:Length\s*=\s*")\d+|(Item:Length\s*=\s*")\d+("[^>]*GainMap)'
)


@dataclass(frozen=True)
class Companions:
    """What a JPEG file holds beside the picture.

    Args:
        gain_map: The JPEG file of the gain map; None if there is none.
        gain_map_version: The content of the picture's own ISO 21496-1 segment; empty if there is none.
        names: What else there is, in words.
    """

    gain_map: bytes | None = None
    gain_map_version: bytes = b""
    names: tuple[str, ...] = ()


def find_companions(data: bytes) -> Companions:
    """Return what a file holds beside the picture; nothing if it is not a JPEG file."""
    parts = parse_jpeg(data)
    if parts is None:
        following = describe_rest(data)
        return Companions(names=(following,) if following else ())
    packet = next(parts.payloads(APP1, XMP), b"")
    version = next(parts.payloads(APP2, ISO_GAIN_MAP), b"")
    pictures, names = list[bytes](), list[str]()
    gain_map, at = None, parts.end
    rest = data[at:]
    while rest.strip(b"\0\xff\r\n"):
        start = rest.find(SOI + b"\xff")
        if start < 0 or (0 <= rest.find(b"ftyp") < start):
            break
        inner = parse_jpeg(rest[start:])
        if inner is None or not inner.has_end:
            break
        picture, rest = rest[start : start + inner.end], rest[start + inner.end :]
        if gain_map is None and _is_gain_map(inner, packet):
            gain_map = picture
        else:
            pictures.append(picture)
    if b"ftyp" in rest[:64] or b"MotionPhoto" in packet or b"MicroVideo" in packet:
        names.append("a video")
    elif rest.strip(b"\0\xff\r\n"):
        names.append(f"{len(rest):,} bytes after the picture")
    if b"GDepth:" in packet or b'"Depth"' in packet or b"DepthMap" in packet:
        names.append("a depth map")
    elif pictures:
        names.append("another picture" if len(pictures) == 1 else f"{len(pictures)} further pictures")
    if any(True for _ in parts.payloads(APP1, b"http://ns.adobe.com/xmp/extension/\0")):
        names.append("extended XMP")
    names += _other_data(parts)
    return Companions(gain_map, version, tuple(names))


def _other_data(parts: JpegFile) -> list[str]:
    """Return what the segments of other programs hold, in words."""
    names, markers = [], set[int]()
    for marker, content in parts.segments:
        if not APP0 <= marker <= APP15 or content.startswith(_KNOWN.get(marker, ())):
            continue
        if marker == APP11 and b"jumb" in content[:40]:
            names.append("content credentials")
        else:
            markers.add(marker - APP0)
    if markers:
        names.append(f"data of other programs ({', '.join(f'APP{n}' for n in sorted(markers))})")
    return list(dict.fromkeys(names))


def _is_gain_map(picture: JpegFile, packet: bytes) -> bool:
    """Return whether a picture that follows another one is its gain map.

    Args:
        picture: The parts of its file.
        packet: The XMP packet of the first picture.
    """
    own = next(picture.payloads(APP1, XMP), b"")
    is_iso = any(True for _ in picture.payloads(APP2, ISO_GAIN_MAP))
    return is_iso or b"hdrgm:" in own or (b"GainMap" in packet and b"hdrgm:" in packet)


def turned_gain_map(data: bytes, orientation: int) -> bytes:
    """Return a gain map turned as the picture was, with its metadata.

    Args:
        data: The JPEG file of the gain map.
        orientation: The orientation tag of the picture, 1..8; 1 changes nothing.
    """
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    if orientation not in turns:
        return data
    return _changed_gain_map(data, lambda image: image.transpose(turns[orientation]))


def scaled_gain_map(data: bytes, across: float, down: float) -> bytes:
    """Return a gain map enlarged as the picture was, with its metadata.

    Args:
        data: The JPEG file of the gain map.
        across: The factor by which the picture has become wider.
        down: The factor by which it has become higher.
    """

    def enlarged(image: Image.Image) -> Image.Image:
        sides = round(image.width * across), round(image.height * down)
        size = [min(max(side, 1), MOST_SIDE) for side in sides]
        return image.resize(size, Image.Resampling.BICUBIC)

    return _changed_gain_map(data, enlarged)


def _changed_gain_map(data: bytes, change: Callable[[Image.Image], Image.Image]) -> bytes:
    """Return a gain map whose pixels are changed, with its metadata; unchanged if it is damaged."""
    parts = parse_jpeg(data)
    if parts is None:
        return data
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        options = {} if image.mode == "L" else {"subsampling": 0}
        change(image).save(buffer, "JPEG", quality=95, **options)
    metadata = [make_segment(m, c) for m, c in parts.segments if m in (APP1, APP2) and not c.startswith(MPF)]
    changed = buffer.getvalue()
    return changed[:2] + b"".join(metadata) + changed[2:]


def with_gain_map(picture: bytes, gain_map: bytes, version: bytes) -> bytes:
    """Return the JPEG file of a picture together with its gain map.

    Args:
        picture: The JPEG file of the picture, with an XMP packet that speaks of the gain map, or without one.
        gain_map: The JPEG file of the gain map.
        version: The content of the picture's ISO 21496-1 segment; empty for none.
    """
    size = str(len(gain_map)).encode()

    def replaced(match: re.Match[bytes]) -> bytes:
        return match[1] + size if match[1] else match[2] + size + match[3]

    parts = parse_jpeg(picture)
    assert parts is not None
    start, kept = 2, b""
    while picture[start : start + 1] == b"\xff" and 0xE0 <= picture[start + 1] <= 0xEF:
        length = 2 + int.from_bytes(picture[start + 2 : start + 4], "big")
        content = picture[start + 4 : start + length]
        kept += make_segment(picture[start + 1], _LENGTH.sub(replaced, content) if XMP in content else content)
        start += length
    kept += make_segment(APP2, ISO_GAIN_MAP + version) if version else b""
    index_length = len(make_segment(APP2, MPF + _picture_index(0, 0, 0)))
    first = 2 + len(kept) + index_length + len(picture) - start
    base = 2 + len(kept) + 4 + len(MPF)  # offsets count from the byte order mark of the index
    index = make_segment(APP2, MPF + _picture_index(first, len(gain_map), first - base))
    return picture[:2] + kept + index + picture[start:] + gain_map


def _picture_index(first: int, second: int, offset: int) -> bytes:
    """Return the index of two pictures: their lengths, and the offset of the second one."""
    entries = struct.pack("<IIIHH", 0x20030000, first, 0, 0, 0) + struct.pack("<IIIHH", 0, second, offset, 0, 0)
    tags = [(0xB000, 7, 4, b"0100"), (0xB001, 4, 1, struct.pack("<I", 2)), (0xB002, 7, 32, struct.pack("<I", 50))]
    directory = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + struct.pack("<I", 0) + entries
