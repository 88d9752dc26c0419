"""Image files that are damaged on purpose, each made from a seed.

A file of a common kind is split into the parts that its format prescribes, damaged where a decoder notices it late
(checksums and lengths are corrected more often than not), and joined again. The same seed gives the same bytes, except
for the creation date in the colour profile.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from picture_files import CASES, DPI, SRGB, XMP, encode, png_chunk, random_bands, sample_exif
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from restorer.images.foreign import load_plugins
from restorer.images.reading import from_pil
from restorer.images.writing import save

__all__ = ["BOXED_SUFFIXES", "Mutant", "base_files", "mask_files", "mutant", "operations_for"]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
TIFF_TAGS = (  # first the layout of the pixels, then metadata
    *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 324, 325, 330, 338, 339, 347),
    *(282, 296, 700, 33432, 34665, 34675, 34853, 37510, 40965, 65000, 0, 65535),
)
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
BOXED_SUFFIXES = {"HEIF": ".heic", "JXL": ".jxl"}
Parts = list[bytes]
Rng = random.Random


class Mutant(NamedTuple):
    """A damaged file.

    Attributes:
        name: file name, which contains the seed and the name of the undamaged file.
        data: the bytes of the file.
    """

    name: str
    data: bytes


# ------------------------------------------------------------------------------------------------------ undamaged files


@cache
def base_files() -> dict[str, tuple[str, bytes]]:
    """Return the undamaged pictures: name -> (suffix, file).

    They are all kinds that `picture_files` makes, and some files with every kind of metadata.
    """
    files = {}
    for name, make in CASES.items():
        if "avif" not in name or features.check("avif"):
            case = make()
            files[name] = (SUFFIXES.get(case.format, f".{case.format.lower()}"), case.data)
    suffixes = SUFFIXES | BOXED_SUFFIXES
    return files | {name: (suffixes[name.split()[0]], data) for name, data in _rich_files().items()}


def _rich_files() -> dict[str, bytes]:
    """Return files with every kind of metadata, with several frames, and with various TIFF compressions."""
    photo = Image.fromarray(random_bands(3)).resize((29, 23))
    exif, texts = sample_exif().tobytes(), PngInfo()
    for key, text, packed in (("Title", "a", False), ("Comment", "b" * 50, True), ("Caption", "\u0444" * 20, True)):
        (texts.add_text if text.isascii() else texts.add_itxt)(key, text, zip=packed)  # type: ignore[operator]
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    metadata = {"exif": exif, "icc_profile": SRGB, "dpi": DPI}

    def encoded(format: str, **options: Any) -> bytes:
        several = {"append_images": [photo.rotate(angle) for angle in (90, 180)]} if "save_all" in options else {}
        # Each file is made from a copy, because Pillow's JPEG writer leaves traces in an image.
        return encode(photo.copy(), format, **options, **several)

    colour_chunks = (b"gAMA", bytes(3) + b"\1"), (b"cICP", bytes([9, 16, 0, 1])), (b"cLLI", bytes(8)), (b"prVt", b"p")
    plain_png, resource = encoded("PNG"), b"8BIM\x04\x04\0\0\0\0\0\x06\x1c\x02\x78\0\x01x"
    captions = b"\xff\xed" + (len(resource) + 16).to_bytes(2, "big") + b"Photoshop 3.0\0" + resource
    gain_map = encode(photo.convert("L").resize((14, 11)), "JPEG", xmp=b'<x hdrgm:Version="1.0"/>')
    claims = b'<x hdrgm:Version="1.0"><Container:Directory Item:Semantic="GainMap" Item:Length="7"/></x>'
    return {
        "PNG colour": plain_png[:33] + b"".join(png_chunk(*chunk) for chunk in colour_chunks) + plain_png[33:],
        "JPEG captions": encoded("JPEG")[:2] + captions + encoded("JPEG")[2:],
        "JPEG gain map": encoded("JPEG", xmp=claims, **metadata) + gain_map,
        "JPEG video": encoded("JPEG", xmp=b'<x GCamera:MotionPhoto="1"/>') + b"\0\0\0\x18ftypmp42" + bytes(90),
        "TIFF captions": encoded("TIFF", tiffinfo={34377: resource, 33723: resource[12:]}),
        "PNG all": encoded("PNG", pnginfo=texts, **metadata),
        "PNG animated": encoded("PNG", **metadata, save_all=True),
        "JPEG all": encoded("JPEG", xmp=XMP, comment="c", **metadata),
        "JPEG progressive": encoded("JPEG", progressive=True, restart_marker_blocks=2, **metadata),
        "JPEG several": encoded("MPO", save_all=True),
        "WEBP all": encoded("WEBP", xmp=XMP, **metadata),
        "WEBP animated": encoded("WEBP", lossless=True, xmp=XMP, **metadata, save_all=True),
        "GIF animated": encoded("GIF", comment="c", transparency=2, save_all=True),
        **_boxed_files(photo, metadata),
        "TIFF several": encoded("TIFF", **metadata, save_all=True),
        **{f"TIFF {how}": encoded("TIFF", compression=how) for how in ("tiff_lzw", "jpeg", "packbits")},
    }


def _boxed_files(photo: Image.Image, metadata: dict[str, Any]) -> dict[str, bytes]:
    """Return HEIC and JPEG XL files with every kind of metadata, as far as the plug-ins are installed."""
    picture = replace(from_pil(photo), exif=metadata["exif"], icc=metadata["icc_profile"], xmp=XMP)
    deep = replace(picture, pixels=picture.pixels.astype(np.uint16) * 257)
    files = {}
    for format in load_plugins():
        for name, made in {"all": picture, "deep": deep}.items():
            save(made, buffer := io.BytesIO(), format)
            files[f"{format} {name}"] = buffer.getvalue()
    return files


@cache
def mask_files() -> dict[str, tuple[str, bytes]]:
    """Return the undamaged masks: name -> (suffix, file).

    The masks have the size of the pictures that `picture_files` makes, and a sixth of each is white.
    """
    fill = np.zeros((11, 14), np.uint8)
    fill[3:8, 4:9] = 255
    files = {f"mask {kind}": (SUFFIXES[kind], encode(Image.fromarray(fill), kind)) for kind in SUFFIXES}
    clear = Image.fromarray(np.stack([fill, fill], -1))
    deep = Image.fromarray(fill.astype(np.uint16) * 257)
    return files | {
        "mask 1": (".png", encode(Image.fromarray(fill > 0), "PNG")),
        "mask LA": (".png", encode(clear, "PNG")),
        "mask I;16": (".png", encode(deep, "PNG")),
        "mask F": (".tif", encode(Image.fromarray(fill / np.float32(255)), "TIFF")),
    }


def mutant(seed: int, masks: bool = False) -> Mutant:
    """Return the damaged file of a seed; with `masks` set it is a mask."""
    rng = Rng(seed)
    files = mask_files() if masks else base_files()
    base = rng.choice(sorted(files))
    suffix, data = files[base]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        operation = rng.choice(operations_for(data))
        data = operation(data, rng)
    name = "".join(c if c.isalnum() else "-" for c in base)
    return Mutant(f"{seed:06}-{name}{suffix}", data)


def operations_for(data: bytes) -> list[Callable[[bytes, Rng], bytes]]:
    """Return the operations that damage a file of the given format.

    Operations on the structure of the format occur more often than operations on arbitrary bytes.
    """
    if data.startswith(PNG_MAGIC):
        own = [_break_png_chunks, _break_png_chunks, _break_png_header, _break_png_pixels, _break_png_metadata]
    elif data.startswith(b"\xff\xd8"):
        own = [_break_jpeg_segments, _break_jpeg_segments, _break_jpeg_header, _break_jpeg_metadata]
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        own = [_break_tiff_entry, _break_tiff_entry, _break_tiff_entry, _break_tiff_chain]
    elif data.startswith(b"RIFF"):
        own = [_break_webp_chunks, _break_webp_chunks, _break_webp_metadata]
    elif data.startswith(b"GIF8"):
        own = [_break_gif_blocks, _break_gif_header]
    elif data[4:8] in (b"ftyp", b"JXL "):
        own = [_break_avif_boxes, _break_avif_field, _break_avif_field]
    elif data.startswith(b"BM"):
        own = [_break_bmp_header, _break_bmp_header]
    else:
        own = []
    return [*own, flip_bytes, flip_bytes, _rearrange_bytes, _set_number]


# ----------------------------------------------------------------------------------------------------------- any format


def flip_bytes(data: bytes, rng: Rng) -> bytes:
    """Change up to eight bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        changed[rng.randrange(len(data))] ^= rng.randint(1, 255)
    return bytes(changed)


def _rearrange_bytes(data: bytes, rng: Rng) -> bytes:
    """Cut the file short, remove or repeat a piece, or insert foreign bytes."""
    a, b = sorted(rng.randint(0, len(data)) for _ in range(2))
    foreign = rng.choice((rng.randbytes(rng.randint(1, 40)), bytes(rng.randint(1, 40)), b"\xff" * rng.randint(1, 9)))
    near = min(b, a + rng.randint(1, 16))
    return rng.choice(
        (data[:b], data[:a] + data[near:], data[:b] + data[a:], data[:a] + foreign + data[a:], data + foreign)
    )


def _set_number(data: bytes, rng: Rng) -> bytes:
    """Write an extreme number of two or four bytes in either byte order.

    The place is often near the start, where headers are.
    """
    offset = rng.randrange(max(1, min(len(data), rng.choice((32, 128, 1 << 30)))))
    form = rng.choice(("<I", ">I", "<H", ">H"))
    number = struct.pack(form, rng.choice(EXTREMES) & (0xFFFFFFFF if form[1] == "I" else 0xFFFF))
    return data[:offset] + number + data[offset + len(number) :]


def _change_parts(parts: Parts, rng: Rng, change: Callable[[bytes, Rng], bytes]) -> Parts:
    """Remove, repeat or move one part, or change it with the function `change`."""
    if not parts:
        return parts
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    action = rng.randrange(6)
    if action == 0:
        return parts[:i] + parts[i + 1 :]
    if action == 1:
        return [*parts[:j], parts[i], *parts[j:]]
    if action == 2:
        rest = parts[:i] + parts[i + 1 :]
        return [*rest[:j], parts[i], *rest[j:]]
    return [*parts[:i], change(parts[i], rng), *parts[i + 1 :]]


def _change_body(body: bytes, rng: Rng) -> bytes:
    """Change bytes of a body by one of the operations for any format."""
    return rng.choice((flip_bytes, _rearrange_bytes, _set_number))(body, rng)


def _break_exif(rng: Rng) -> bytes:
    """Return EXIF as cameras write it, damaged in the same ways as a TIFF file."""
    block = sample_exif().tobytes().removeprefix(b"Exif\0\0")
    for _ in range(rng.randint(1, 3)):
        block = rng.choice((_break_tiff_entry, _break_tiff_entry, _break_tiff_chain, flip_bytes, _rearrange_bytes))(
            block, rng
        )
    return block


def _break_profile(rng: Rng) -> bytes:
    """Return a damaged colour profile."""
    return rng.choice((_change_body(SRGB, rng), SRGB[:20], SRGB[:16] + b"\0\xff\x1b[" + SRGB[20:], b""))


def _break_xmp(rng: Rng) -> bytes:
    """Return a damaged XMP packet."""
    return rng.choice((_change_body(XMP, rng), b"\xff\xfe" + XMP, XMP * 900, b"\0", XMP.replace(b"6", b"\xd0")))


# ------------------------------------------------------------------------------------------------------------------ PNG


def _split_png(data: bytes) -> Parts:
    """Return the type and body of each chunk (PNG, third edition, 5.3)."""
    chunks, at = [], len(PNG_MAGIC)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at + 4 : end])
        at = end + 4
    return chunks


def _join_png(chunks: Parts, rng: Rng | None = None) -> bytes:
    """Join chunks with correct checksums; with `rng` given, a third of the files have one wrong checksum."""
    parts = [png_chunk(chunk[:4].ljust(4, b"x"), chunk[4:]) for chunk in chunks]
    if rng is not None and parts and rng.random() < 1 / 3:
        i = rng.randrange(len(parts))
        parts[i] = parts[i][:-1] + bytes([parts[i][-1] ^ 1])
    return PNG_MAGIC + b"".join(parts)


def _break_png_chunks(data: bytes, rng: Rng) -> bytes:
    """Remove, repeat, move or change a chunk."""

    def change(chunk: bytes, rng: Rng) -> bytes:
        return chunk[:4] + _change_body(chunk[4:], rng)

    return _join_png(_change_parts(_split_png(data), rng, change), rng)


def _break_png_header(data: bytes, rng: Rng) -> bytes:
    """Change the size, depth, colour type, compression, filter or interlacing in the header."""
    chunks = _split_png(data)
    if not chunks or len(chunks[0]) != 17:
        return data
    head = list(struct.unpack(">II5B", chunks[0][4:]))
    i = rng.randrange(7)
    common = (1, 2, 3, 4, 8, 16, 255)
    head[i] = rng.choice((*EXTREMES, 15, 30)) if i < 2 else rng.choice(common)
    return _join_png([b"IHDR" + struct.pack(">II5B", *head), *chunks[1:]])


def _break_png_pixels(data: bytes, rng: Rng) -> bytes:
    """Change the rows and compress them again, so that the decoder gets as far as the filters."""
    chunks = _split_png(data)
    try:
        rows = zlib.decompress(b"".join(c[4:] for c in chunks if c[:4] == b"IDAT"))
    except zlib.error:
        return data
    compressed = b"IDAT" + zlib.compress(_change_body(rows, rng))
    return _join_png([c for c in chunks if c[:4] not in (b"IDAT", b"IEND")] + [compressed, b"IEND"])


def _break_png_metadata(data: bytes, rng: Rng) -> bytes:
    """Insert a chunk of damaged metadata."""
    bomb = zlib.compress(bytes(2_000_000))
    text = rng.choice((b"\xff\xfe", b"", b"x" * 3000, "\u0444".encode(), b"\x1b[31m\r\n"))
    keys = (b"", b"Title", b"T\xefl", b"k" * 200, b"Raw profile type exif", b"XML:com.adobe.xmp", b"restorer")
    key = rng.choice(keys)
    chunk = rng.choice(
        (
            b"eXIf" + _break_exif(rng),
            b"iCCP" + b"n\0\0" + zlib.compress(_break_profile(rng)),
            b"iCCP" + b"n\0" + rng.randbytes(9),
            b"iTXt" + key + b"\0" + rng.choice((b"\0\0", b"\1\0", b"\1\7")) + b"\0\0" + rng.choice((text, bomb)),
            b"zTXt" + key + b"\0\0" + rng.choice((bomb, zlib.compress(text), text)),
            b"tEXt" + key + rng.choice((b"\0", b"")) + text,
            rng.choice((b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tRNS", b"PLTE", b"tIME", b"acTL", b"fcTL", b"bKGD"))
            + rng.randbytes(rng.choice((0, 1, 2, 6, 8, 9, 26, 32))),
        )
    )
    chunks = _split_png(data)
    at = rng.randint(0, len(chunks))
    return _join_png([*chunks[:at], chunk, *chunks[at:]])


# ----------------------------------------------------------------------------------------------------------------- JPEG


def _split_jpeg(data: bytes) -> Parts:
    """Return the segments up to the scan, with their markers; the last part is the scan and everything after it."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    """Return a segment with its marker and length."""
    return struct.pack(">BBH", 0xFF, marker, min(len(body) + 2, 0xFFFF)) + body[:65533]


def _break_jpeg_segments(data: bytes, rng: Rng) -> bytes:
    """Remove, repeat, move or change a segment."""

    def change(part: bytes, rng: Rng) -> bytes:
        if len(part) < 5 or part[1] == 0xDA:
            return _change_body(part, rng)
        return _jpeg_segment(part[1], _change_body(part[4:], rng))

    return b"".join(_change_parts(_split_jpeg(data), rng, change))


def _break_jpeg_header(data: bytes, rng: Rng) -> bytes:
    """Change the size, precision, number of components, or the sampling of one component (ITU-T T.81, B.2.2)."""
    parts = _split_jpeg(data)
    for i, part in enumerate(parts):
        if part[:1] == b"\xff" and part[1:2] in (b"\xc0", b"\xc1", b"\xc2") and len(part) > 11:
            at = rng.choice((4, 5, 7, 9, 11))
            number = struct.pack(">H", rng.choice(EXTREMES) & 0xFFFF)[: 2 if at in (5, 7) else 1]
            number = bytes([rng.choice((0, 1, 2, 3, 4, 8, 12, 0x22, 0x41, 0xFF))]) if at not in (5, 7) else number
            parts[i] = part[:at] + number + part[at + len(number) :]
    return b"".join(parts)


def _break_jpeg_metadata(data: bytes, rng: Rng) -> bytes:
    """Insert a segment of damaged metadata."""
    body = rng.choice(
        (
            (0xE1, b"Exif\0\0" + _break_exif(rng)),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _break_xmp(rng)),
            (0xE2, b"ICC_PROFILE\0" + rng.choice((b"\1\1", b"\0\0", b"\1\3", b"")) + _break_profile(rng)),
            (0xE2, b"MPF\0" + _break_exif(rng)),
            (0xED, b"Photoshop 3.0\0" + rng.choice((b"8BIM\x04\x04", b"8BIM\x03\xed")) + rng.randbytes(12)),
            (0xEE, b"Adobe" + rng.randbytes(rng.choice((2, 7, 7)))),
            (0xE0, b"JFIF\0" + rng.randbytes(rng.choice((2, 9)))),
            (0xFE, rng.choice((b"", b"\xff\xfe", b"\x1b[31m", b"c" * 65533))),
            (0xDD, rng.randbytes(rng.choice((1, 2)))),
        )
    )
    parts = _split_jpeg(data)
    at = rng.randint(1, max(1, len(parts) - 1))
    return b"".join([*parts[:at], _jpeg_segment(*body), *parts[at:]])


# ----------------------------------------------------------------------------------------------------------------- TIFF


def _find_tiff_directory(data: bytes) -> tuple[str, bool, int, int]:
    """Find the first directory.

    Returns:
        The byte order, whether offsets have eight bytes, where the entries begin, and their number.
    """
    order, big = "<" if data[:1] == b"I" else ">", data[2:3] == b"+" or data[3:4] == b"+"
    try:
        (start,) = struct.unpack_from(order + "Q", data, 8) if big else struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    except struct.error:
        return order, big, 0, 0
    return order, big, start + (8 if big else 2), min(count, 100)


def _break_tiff_entry(data: bytes, rng: Rng) -> bytes:
    """Change the tag, type, count or value of one entry of the directory, or overwrite the entry with the next one."""
    order, big, start, count = _find_tiff_directory(data)
    size, form = (20, "HHQQ") if big else (12, "HHII")
    at = start + size * rng.randrange(count) if count else len(data)
    if at + 2 * size > len(data):
        return _change_body(data, rng)
    tag, kind, number, value = struct.unpack_from(order + form, data, at)
    action = rng.randrange(7)
    if action == 0:
        kind = rng.choice((*range(20), 0xFFFF))
    elif action == 1:
        number = rng.choice((*EXTREMES, 3, 4))
    elif action in (2, 3):
        tag = rng.choice(TIFF_TAGS)
    elif action == 4:
        tag, kind, number, value = struct.unpack_from(order + form, data, at + size)
    else:  # one number of four bytes, or one or two of two bytes
        small = struct.pack(order + "HH", *(rng.choice((*range(9), 16, 32, 64, 32773, 0xFFFF)) for _ in range(2)))
        value = rng.choice((*EXTREMES, *struct.unpack(order + "I", small) * 8))
    changed = bytearray(data)
    struct.pack_into(order + form, changed, at, tag, kind, number, value)
    return bytes(changed)


def _break_tiff_chain(data: bytes, rng: Rng) -> bytes:
    """Make the first directory point to itself as the next one, or to something that is not a directory."""
    order, big, start, count = _find_tiff_directory(data)
    at, form = start + (20 if big else 12) * count, order + ("Q" if big else "I")
    if not start or at + struct.calcsize(form) > len(data):
        return _change_body(data, rng)
    changed = bytearray(data)
    struct.pack_into(form, changed, at, rng.choice((start - (8 if big else 2), 4, len(data) - 2, *EXTREMES)))
    return bytes(changed)


# ------------------------------------------------------------------------------------------------- WebP, GIF, AVIF, BMP


def _split_webp(data: bytes) -> Parts:
    """Return the type, length and body of each chunk (RFC 9649, 2.3)."""
    parts, at = [], 12
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        end += end % 2
        parts.append(data[at:end])
        at = end
    return parts


def _webp_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and padding."""
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _join_webp(parts: Parts, rng: Rng) -> bytes:
    """Join chunks; a fifth of the files have a wrong length."""
    body = b"WEBP" + b"".join(parts)
    size = len(body) if rng.random() < 0.8 else rng.choice(EXTREMES)
    return b"RIFF" + struct.pack("<I", size) + body


def _break_webp_chunks(data: bytes, rng: Rng) -> bytes:
    """Remove, repeat, move or change a chunk."""

    def change(part: bytes, rng: Rng) -> bytes:
        return _webp_chunk(part[:4], _change_body(part[8:], rng))

    return _join_webp(_change_parts(_split_webp(data), rng, change), rng)


def _break_webp_metadata(data: bytes, rng: Rng) -> bytes:
    """Insert damaged metadata and announce them in the flags of the extended header (RFC 9649, 2.7)."""
    parts = [part for part in _split_webp(data) if part[:4] not in (b"VP8X", b"ICCP", b"EXIF", b"XMP ")]
    size = rng.choice((13, 13, 28, 0, 0xFFFFFF))
    head = bytes([0x2C | rng.choice((0, 2, 16)), 0, 0, 0]) + struct.pack("<I", size)[:3] + struct.pack("<I", 10)[:3]
    tail = [_webp_chunk(b"EXIF", _break_exif(rng)), _webp_chunk(b"XMP ", _break_xmp(rng))]
    return _join_webp([_webp_chunk(b"VP8X", head), _webp_chunk(b"ICCP", _break_profile(rng)), *parts, *tail], rng)


def _break_gif_blocks(data: bytes, rng: Rng) -> bytes:
    """Change extensions and pictures, split where each begins; the lengths of the blocks inside are not corrected."""
    if len(data) < 14:
        return data
    head = 13 + (3 << (data[10] % 8 + 1) if data[10] & 0x80 else 0)
    places = [i for i in range(head, len(data) - 1) if data[i - 1] == 0 and data[i] in b"!,;"]
    cuts = [head, *places, len(data)]
    parts = [data[a:b] for a, b in pairwise(cuts)]
    return data[:head] + b"".join(_change_parts(parts, rng, _change_body))


def _break_gif_header(data: bytes, rng: Rng) -> bytes:
    """Change the size of the screen or of the first picture, or the flags of a colour table."""
    first = data.find(b",", 13)
    at = rng.choice((6, 8, 10, 11, first + 1, first + 5, first + 7, first + 9, first + 10))
    number = struct.pack("<H", rng.choice(EXTREMES) & 0xFFFF)[: 1 if at in (10, 11, first + 9, first + 10) else 2]
    return data[:at] + number + data[at + len(number) :]


def _split_avif(data: bytes) -> Parts:
    """Return the boxes (ISO/IEC 14496-12, 4.2)."""
    parts, at = [], 0
    while at + 8 <= len(data):
        end = at + max(8, int.from_bytes(data[at : at + 4], "big"))
        parts.append(data[at:end])
        at = end
    return parts


def _break_avif_boxes(data: bytes, rng: Rng) -> bytes:
    """Remove, repeat, move or change a box."""

    def change(box: bytes, rng: Rng) -> bytes:
        body = _change_body(box[8:], rng)
        return struct.pack(">I", len(body) + 8) + box[4:8] + body

    return b"".join(_change_parts(_split_avif(data), rng, change))


def _break_avif_field(data: bytes, rng: Rng) -> bytes:
    """Change a number after the name of an inner box: a size of the picture, a length, an offset or an item."""
    names = (b"ispe", b"pixi", b"av1C", b"colr", b"iloc", b"iinf", b"infe", b"ipma", b"irot", b"pitm", b"auxC", b"mdat")
    places = [data.find(name) for name in names if name in data]
    if not places:
        return data
    at = rng.choice(places) + rng.choice((-4, 4, 5, 8, 9, 12, 14, 16))
    number = rng.choice((struct.pack(">I", rng.choice(EXTREMES)), bytes([rng.randrange(256)])))
    return data[: max(at, 0)] + number + data[max(at, 0) + len(number) :]


def _break_bmp_header(data: bytes, rng: Rng) -> bytes:
    """Change the offset of the pixels, the kind of header, the size, depth, compression or number of colours."""
    at = rng.choice((10, 14, 18, 22, 26, 28, 30, 46))
    form = "<H" if at in (26, 28) else "<I"
    usual = (0, 1, 3, 4, 8, 12, 16, 24, 32, 40, 52, 56, 64, 108, 124)
    number = struct.pack(form, rng.choice((*usual, *EXTREMES)) & (0xFFFF if form == "<H" else 0xFFFFFFFF))
    return data[:at] + number + data[at + len(number) :]
