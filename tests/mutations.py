"""Picture files broken on purpose, each made from a number: the same seed, the same bytes.

A file of every kind that people have is taken apart as its format prescribes, damaged where a decoder will notice late
(checksums and lengths are mended more often than not), and put together again.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from picture_files import CASES, DPI, SRGB, XMP, encoded, numbers, png_chunk, some_exif
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

__all__ = ["Mutant", "bases", "mask_bases", "mutant"]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
TIFF_TAGS = (  # layout of the pixels, then metadata
    *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 324, 325, 330, 338, 339, 347),
    *(282, 296, 700, 33432, 34665, 34675, 34853, 37510, 40965, 65000, 0, 65535),
)
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
Parts = list[bytes]
Rng = random.Random


class Mutant(NamedTuple):
    """A broken file: its name, which tells the seed and what it was made from, and its bytes."""

    name: str
    data: bytes


# -------------------------------------------------------------------------------------------------- what is broken


@cache
def bases() -> dict[str, tuple[str, bytes]]:
    """name -> (suffix, file): every kind that `picture_files` makes, and some with all the metadata there are."""
    files = {}
    for name, make in CASES.items():
        if "avif" not in name or features.check("avif"):
            case = make()
            files[name] = (SUFFIXES.get(case.format, f".{case.format.lower()}"), case.data)
    return files | {name: (SUFFIXES[name.split()[0]], data) for name, data in _rich().items()}


def _rich() -> dict[str, bytes]:
    photo = Image.fromarray(numbers(3)).resize((29, 23))
    exif, texts = some_exif().tobytes(), PngInfo()
    for key, text, packed in (("Title", "a", False), ("Comment", "b" * 50, True), ("Caption", "\u0444" * 20, True)):
        (texts.add_text if text.isascii() else texts.add_itxt)(key, text, zip=packed)  # type: ignore[operator]
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    metadata = {"exif": exif, "icc_profile": SRGB, "dpi": DPI}

    def made(format: str, **options: Any) -> bytes:  # of copies: Pillow's JPEG writer leaves traces in an image
        several = {"append_images": [photo.rotate(angle) for angle in (90, 180)]} if "save_all" in options else {}
        return encoded(photo.copy(), format, **options, **several)

    return {
        "PNG all": made("PNG", pnginfo=texts, **metadata),
        "PNG animated": made("PNG", **metadata, save_all=True),
        "JPEG all": made("JPEG", xmp=XMP, comment="c", **metadata),
        "JPEG progressive": made("JPEG", progressive=True, restart_marker_blocks=2, **metadata),
        "JPEG several": made("MPO", save_all=True),
        "WEBP all": made("WEBP", xmp=XMP, **metadata),
        "WEBP animated": made("WEBP", lossless=True, xmp=XMP, **metadata, save_all=True),
        "GIF animated": made("GIF", comment="c", transparency=2, save_all=True),
        "TIFF several": made("TIFF", **metadata, save_all=True),
        **{f"TIFF {how}": made("TIFF", compression=how) for how in ("tiff_lzw", "jpeg", "packbits")},
    }


@cache
def mask_bases() -> dict[str, tuple[str, bytes]]:
    """The same, but masks: of the size of the pictures that `picture_files` makes, a third of it white."""
    fill = np.zeros((11, 14), np.uint8)
    fill[3:8, 4:9] = 255
    files = {f"mask {kind}": (SUFFIXES[kind], encoded(Image.fromarray(fill), kind)) for kind in SUFFIXES}
    clear = Image.fromarray(np.stack([fill, fill], -1))
    deep = Image.fromarray(fill.astype(np.uint16) * 257)
    return files | {
        "mask 1": (".png", encoded(Image.fromarray(fill > 0), "PNG")),
        "mask LA": (".png", encoded(clear, "PNG")),
        "mask I;16": (".png", encoded(deep, "PNG")),
        "mask F": (".tif", encoded(Image.fromarray(fill / np.float32(255)), "TIFF")),
    }


def mutant(seed: int, masks: bool = False) -> Mutant:
    """The broken file of a number."""
    rng = Rng(seed)
    files = mask_bases() if masks else bases()
    base = rng.choice(sorted(files))
    suffix, data = files[base]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        how = rng.choice(_ways(data))
        data = how(data, rng)
    name = "".join(c if c.isalnum() else "-" for c in base)
    return Mutant(f"{seed:06}-{name}{suffix}", data)


def _ways(data: bytes) -> list[Callable[[bytes, Rng], bytes]]:
    """What can be done to a file, by what it is; its own structure is broken more often than any byte of it."""
    if data.startswith(PNG_MAGIC):
        own = [_png_parts, _png_parts, _png_head, _png_pixels, _png_metadata]
    elif data.startswith(b"\xff\xd8"):
        own = [_jpeg_parts, _jpeg_parts, _jpeg_head, _jpeg_metadata]
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        own = [_tiff_entry, _tiff_entry, _tiff_entry, _tiff_next]
    elif data.startswith(b"RIFF"):
        own = [_webp_parts, _webp_parts, _webp_metadata]
    elif data.startswith(b"GIF8"):
        own = [_gif_parts, _gif_head]
    elif data[4:8] == b"ftyp":
        own = [_avif_parts, _avif_inside, _avif_inside]
    elif data.startswith(b"BM"):
        own = [_bmp_head, _bmp_head]
    else:
        own = []
    return [*own, bytes_flipped, bytes_flipped, _shuffled_bytes, _number_set]


# ------------------------------------------------------------------------------------------------------ any file


def bytes_flipped(data: bytes, rng: Rng) -> bytes:
    """Up to eight bytes are others."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        changed[rng.randrange(len(data))] ^= rng.randint(1, 255)
    return bytes(changed)


def _shuffled_bytes(data: bytes, rng: Rng) -> bytes:
    """Cut short, or a piece is gone, doubled, or something foreign is between."""
    a, b = sorted(rng.randint(0, len(data)) for _ in range(2))
    foreign = rng.choice((rng.randbytes(rng.randint(1, 40)), bytes(rng.randint(1, 40)), b"\xff" * rng.randint(1, 9)))
    near = min(b, a + rng.randint(1, 16))
    return rng.choice(
        (data[:b], data[:a] + data[near:], data[:b] + data[a:], data[:a] + foreign + data[a:], data + foreign)
    )


def _number_set(data: bytes, rng: Rng) -> bytes:
    """An extreme number, of two or four bytes in any order; more often near the beginning, where headers are."""
    where = rng.randrange(max(1, min(len(data), rng.choice((32, 128, 1 << 30)))))
    form = rng.choice(("<I", ">I", "<H", ">H"))
    number = struct.pack(form, rng.choice(EXTREMES) & (0xFFFFFFFF if form[1] == "I" else 0xFFFF))
    return data[:where] + number + data[where + len(number) :]


def _parts_changed(parts: Parts, rng: Rng, inside: Callable[[bytes, Rng], bytes]) -> Parts:
    """One is gone, doubled, elsewhere, or changed within."""
    if not parts:
        return parts
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    what = rng.randrange(6)
    if what == 0:
        return parts[:i] + parts[i + 1 :]
    if what == 1:
        return [*parts[:j], parts[i], *parts[j:]]
    if what == 2:
        rest = parts[:i] + parts[i + 1 :]
        return [*rest[:j], parts[i], *rest[j:]]
    return [*parts[:i], inside(parts[i], rng), *parts[i + 1 :]]


def _body_changed(body: bytes, rng: Rng) -> bytes:
    return rng.choice((bytes_flipped, _shuffled_bytes, _number_set))(body, rng)


def _broken_exif(rng: Rng) -> bytes:
    """A directory as cameras write it, after the same treatment as any TIFF."""
    block = some_exif().tobytes().removeprefix(b"Exif\0\0")
    for _ in range(rng.randint(1, 3)):
        block = rng.choice((_tiff_entry, _tiff_entry, _tiff_next, bytes_flipped, _shuffled_bytes))(block, rng)
    return block


def _broken_profile(rng: Rng) -> bytes:
    return rng.choice((_body_changed(SRGB, rng), SRGB[:20], SRGB[:16] + b"\0\xff\x1b[" + SRGB[20:], b""))


def _broken_xmp(rng: Rng) -> bytes:
    return rng.choice((_body_changed(XMP, rng), b"\xff\xfe" + XMP, XMP * 900, b"\0", XMP.replace(b"6", b"\xd0")))


# ---------------------------------------------------------------------------------------------------------- PNG


def _png_chunks(data: bytes) -> Parts:
    """Type and body of each chunk (PNG, third edition, 5.3)."""
    chunks, at = [], len(PNG_MAGIC)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at + 4 : end])
        at = end + 4
    return chunks


def _png_of(chunks: Parts, rng: Rng | None = None) -> bytes:
    """With right checksums, but for one in a third of the files if there is an `rng`."""
    made = [png_chunk(chunk[:4].ljust(4, b"x"), chunk[4:]) for chunk in chunks]
    if rng is not None and made and rng.random() < 1 / 3:
        i = rng.randrange(len(made))
        made[i] = made[i][:-1] + bytes([made[i][-1] ^ 1])
    return PNG_MAGIC + b"".join(made)


def _png_parts(data: bytes, rng: Rng) -> bytes:
    def inside(chunk: bytes, rng: Rng) -> bytes:
        return chunk[:4] + _body_changed(chunk[4:], rng)

    return _png_of(_parts_changed(_png_chunks(data), rng, inside), rng)


def _png_head(data: bytes, rng: Rng) -> bytes:
    """Another size, depth, colour type, interlacing."""
    chunks = _png_chunks(data)
    if not chunks or len(chunks[0]) != 17:
        return data
    head = list(struct.unpack(">II5B", chunks[0][4:]))
    i = rng.randrange(7)
    near = (1, 2, 3, 4, 8, 16, 255)
    head[i] = rng.choice((*EXTREMES, 15, 30)) if i < 2 else rng.choice(near)
    return _png_of([b"IHDR" + struct.pack(">II5B", *head), *chunks[1:]])


def _png_pixels(data: bytes, rng: Rng) -> bytes:
    """The packed rows are changed, and packed again, so that the decoder comes as far as the filters."""
    chunks = _png_chunks(data)
    try:
        rows = zlib.decompress(b"".join(c[4:] for c in chunks if c[:4] == b"IDAT"))
    except zlib.error:
        return data
    packed = b"IDAT" + zlib.compress(_body_changed(rows, rng))
    return _png_of([c for c in chunks if c[:4] not in (b"IDAT", b"IEND")] + [packed, b"IEND"])


def _png_metadata(data: bytes, rng: Rng) -> bytes:
    bomb = zlib.compress(bytes(2_000_000))
    text = rng.choice((b"\xff\xfe", b"", b"x" * 3000, "\u0444".encode(), b"\x1b[31m\r\n"))
    keys = (b"", b"Title", b"T\xefl", b"k" * 200, b"Raw profile type exif", b"XML:com.adobe.xmp", b"restorer")
    key = rng.choice(keys)
    chunk = rng.choice(
        (
            b"eXIf" + _broken_exif(rng),
            b"iCCP" + b"n\0\0" + zlib.compress(_broken_profile(rng)),
            b"iCCP" + b"n\0" + rng.randbytes(9),
            b"iTXt" + key + b"\0" + rng.choice((b"\0\0", b"\1\0", b"\1\7")) + b"\0\0" + rng.choice((text, bomb)),
            b"zTXt" + key + b"\0\0" + rng.choice((bomb, zlib.compress(text), text)),
            b"tEXt" + key + rng.choice((b"\0", b"")) + text,
            rng.choice((b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tRNS", b"PLTE", b"tIME", b"acTL", b"fcTL", b"bKGD"))
            + rng.randbytes(rng.choice((0, 1, 2, 6, 8, 9, 26, 32))),
        )
    )
    chunks = _png_chunks(data)
    at = rng.randint(0, len(chunks))
    return _png_of([*chunks[:at], chunk, *chunks[at:]])


# --------------------------------------------------------------------------------------------------------- JPEG


def _jpeg_segments(data: bytes) -> Parts:
    """Marker and content of each segment up to the scan, which is the last part with all that follows."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, min(len(body) + 2, 0xFFFF)) + body[:65533]


def _jpeg_parts(data: bytes, rng: Rng) -> bytes:
    def inside(part: bytes, rng: Rng) -> bytes:
        if len(part) < 5 or part[1] == 0xDA:
            return _body_changed(part, rng)
        return _jpeg_segment(part[1], _body_changed(part[4:], rng))

    return b"".join(_parts_changed(_jpeg_segments(data), rng, inside))


def _jpeg_head(data: bytes, rng: Rng) -> bytes:
    """Another size, precision, number of components, or sampling of one (ITU-T T.81, B.2.2)."""
    parts = _jpeg_segments(data)
    for i, part in enumerate(parts):
        if part[:1] == b"\xff" and part[1:2] in (b"\xc0", b"\xc1", b"\xc2") and len(part) > 11:
            at = rng.choice((4, 5, 7, 9, 11))
            number = struct.pack(">H", rng.choice(EXTREMES) & 0xFFFF)[: 2 if at in (5, 7) else 1]
            number = bytes([rng.choice((0, 1, 2, 3, 4, 8, 12, 0x22, 0x41, 0xFF))]) if at not in (5, 7) else number
            parts[i] = part[:at] + number + part[at + len(number) :]
    return b"".join(parts)


def _jpeg_metadata(data: bytes, rng: Rng) -> bytes:
    body = rng.choice(
        (
            (0xE1, b"Exif\0\0" + _broken_exif(rng)),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _broken_xmp(rng)),
            (0xE2, b"ICC_PROFILE\0" + rng.choice((b"\1\1", b"\0\0", b"\1\3", b"")) + _broken_profile(rng)),
            (0xE2, b"MPF\0" + _broken_exif(rng)),
            (0xED, b"Photoshop 3.0\0" + rng.choice((b"8BIM\x04\x04", b"8BIM\x03\xed")) + rng.randbytes(12)),
            (0xEE, b"Adobe" + rng.randbytes(rng.choice((2, 7, 7)))),
            (0xE0, b"JFIF\0" + rng.randbytes(rng.choice((2, 9)))),
            (0xFE, rng.choice((b"", b"\xff\xfe", b"\x1b[31m", b"c" * 65533))),
            (0xDD, rng.randbytes(rng.choice((1, 2)))),
        )
    )
    parts = _jpeg_segments(data)
    at = rng.randint(1, max(1, len(parts) - 1))
    return b"".join([*parts[:at], _jpeg_segment(*body), *parts[at:]])


# --------------------------------------------------------------------------------------------------------- TIFF


def _tiff_place(data: bytes) -> tuple[str, bool, int, int]:
    """Byte order, whether offsets have eight bytes, where the first directory's entries begin, and their number."""
    order, big = "<" if data[:1] == b"I" else ">", data[2:3] == b"+" or data[3:4] == b"+"
    try:
        (start,) = struct.unpack_from(order + "Q", data, 8) if big else struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    except struct.error:
        return order, big, 0, 0
    return order, big, start + (8 if big else 2), min(count, 100)


def _tiff_entry(data: bytes, rng: Rng) -> bytes:
    """One entry of the directory has another tag, type, count or value, or is the copy of its neighbour."""
    order, big, start, count = _tiff_place(data)
    size, form = (20, "HHQQ") if big else (12, "HHII")
    at = start + size * rng.randrange(count) if count else len(data)
    if at + 2 * size > len(data):
        return _body_changed(data, rng)
    tag, kind, number, value = struct.unpack_from(order + form, data, at)
    what = rng.randrange(7)
    if what == 0:
        kind = rng.choice((*range(20), 0xFFFF))
    elif what == 1:
        number = rng.choice((*EXTREMES, 3, 4))
    elif what in (2, 3):
        tag = rng.choice(TIFF_TAGS)
    elif what == 4:
        tag, kind, number, value = struct.unpack_from(order + form, data, at + size)
    else:  # one number of four bytes, or one or two of two bytes
        small = struct.pack(order + "HH", *(rng.choice((*range(9), 16, 32, 64, 32773, 0xFFFF)) for _ in range(2)))
        value = rng.choice((*EXTREMES, *struct.unpack(order + "I", small) * 8))
    changed = bytearray(data)
    struct.pack_into(order + form, changed, at, tag, kind, number, value)
    return bytes(changed)


def _tiff_next(data: bytes, rng: Rng) -> bytes:
    """After the first directory comes itself, or something that is none."""
    order, big, start, count = _tiff_place(data)
    at, form = start + (20 if big else 12) * count, order + ("Q" if big else "I")
    if not start or at + struct.calcsize(form) > len(data):
        return _body_changed(data, rng)
    changed = bytearray(data)
    struct.pack_into(form, changed, at, rng.choice((start - (8 if big else 2), 4, len(data) - 2, *EXTREMES)))
    return bytes(changed)


# ------------------------------------------------------------------------------------- WebP, GIF, AVIF, BMP


def _webp_chunks(data: bytes) -> Parts:
    """Type, length and body of each (RFC 9649, 2.3)."""
    parts, at = [], 12
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        end += end % 2
        parts.append(data[at:end])
        at = end
    return parts


def _webp_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _webp_of(parts: Parts, rng: Rng) -> bytes:
    body = b"WEBP" + b"".join(parts)
    size = len(body) if rng.random() < 0.8 else rng.choice(EXTREMES)
    return b"RIFF" + struct.pack("<I", size) + body


def _webp_parts(data: bytes, rng: Rng) -> bytes:
    def inside(part: bytes, rng: Rng) -> bytes:
        return _webp_chunk(part[:4], _body_changed(part[8:], rng))

    return _webp_of(_parts_changed(_webp_chunks(data), rng, inside), rng)


def _webp_metadata(data: bytes, rng: Rng) -> bytes:
    """Broken blocks, announced in the flags of the extended header (RFC 9649, 2.7)."""
    parts = [part for part in _webp_chunks(data) if part[:4] not in (b"VP8X", b"ICCP", b"EXIF", b"XMP ")]
    size = rng.choice((13, 13, 28, 0, 0xFFFFFF))
    head = bytes([0x2C | rng.choice((0, 2, 16)), 0, 0, 0]) + struct.pack("<I", size)[:3] + struct.pack("<I", 10)[:3]
    tail = [_webp_chunk(b"EXIF", _broken_exif(rng)), _webp_chunk(b"XMP ", _broken_xmp(rng))]
    return _webp_of([_webp_chunk(b"VP8X", head), _webp_chunk(b"ICCP", _broken_profile(rng)), *parts, *tail], rng)


def _gif_parts(data: bytes, rng: Rng) -> bytes:
    """Extensions and pictures, split where each begins; lengths of the blocks within stay as they fall."""
    if len(data) < 14:
        return data
    head = 13 + (3 << (data[10] % 8 + 1) if data[10] & 0x80 else 0)
    places = [i for i in range(head, len(data) - 1) if data[i - 1] == 0 and data[i] in b"!,;"]
    cuts = [head, *places, len(data)]
    parts = [data[a:b] for a, b in pairwise(cuts)]
    return data[:head] + b"".join(_parts_changed(parts, rng, _body_changed))


def _gif_head(data: bytes, rng: Rng) -> bytes:
    """Another size of the screen or of the first picture, another table of colours."""
    first = data.find(b",", 13)
    at = rng.choice((6, 8, 10, 11, first + 1, first + 5, first + 7, first + 9, first + 10))
    number = struct.pack("<H", rng.choice(EXTREMES) & 0xFFFF)[: 1 if at in (10, 11, first + 9, first + 10) else 2]
    return data[:at] + number + data[at + len(number) :]


def _boxes(data: bytes) -> Parts:
    """ISO/IEC 14496-12, 4.2."""
    parts, at = [], 0
    while at + 8 <= len(data):
        end = at + max(8, int.from_bytes(data[at : at + 4], "big"))
        parts.append(data[at:end])
        at = end
    return parts


def _avif_parts(data: bytes, rng: Rng) -> bytes:
    def inside(box: bytes, rng: Rng) -> bytes:
        body = _body_changed(box[8:], rng)
        return struct.pack(">I", len(body) + 8) + box[4:8] + body

    return b"".join(_parts_changed(_boxes(data), rng, inside))


def _avif_inside(data: bytes, rng: Rng) -> bytes:
    """A number after the name of a box deep inside: a size of the picture, a length, a place, an item."""
    names = (b"ispe", b"pixi", b"av1C", b"colr", b"iloc", b"iinf", b"infe", b"ipma", b"irot", b"pitm", b"auxC", b"mdat")
    places = [data.find(name) for name in names if name in data]
    if not places:
        return data
    at = rng.choice(places) + rng.choice((-4, 4, 5, 8, 9, 12, 14, 16))
    number = rng.choice((struct.pack(">I", rng.choice(EXTREMES)), bytes([rng.randrange(256)])))
    return data[: max(at, 0)] + number + data[max(at, 0) + len(number) :]


def _bmp_head(data: bytes, rng: Rng) -> bytes:
    """Another place of the pixels, kind of header, size, depth, compression or number of colours."""
    at = rng.choice((10, 14, 18, 22, 26, 28, 30, 46))
    form = "<H" if at in (26, 28) else "<I"
    usual = (0, 1, 3, 4, 8, 12, 16, 24, 32, 40, 52, 56, 64, 108, 124)
    number = struct.pack(form, rng.choice((*usual, *EXTREMES)) & (0xFFFF if form == "<H" else 0xFFFFFFFF))
    return data[:at] + number + data[at + len(number) :]
