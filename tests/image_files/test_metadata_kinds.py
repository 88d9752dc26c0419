"""Thirty kinds of metadata over all formats of results: each is kept, adapted to the new size, or named in a note."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import ExifTags, Image, ImageCms, features
from PIL.PngImagePlugin import PngInfo

from restorer.images.files import Picture, load, with_result
from restorer.images.foreign import PLUGINS, load_plugins
from restorer.images.jpeg_file import make_segment
from restorer.images.writing import save

FORMATS = [name for name in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP") if name != "AVIF" or features.check("avif")]
FORMATS += [PLUGINS[name].format for name in load_plugins()]
WIDTH, HEIGHT = 48, 32
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmp:Rating="4" exif:PixelXDimension="48">'
    b"<dc:title>A title</dc:title></rdf:Description></x:xmpmeta>"
)
CAPTIONS = b"8BIM\x04\x04\0\0\0\0\0\x13\x1c\x02\x78\x00\x0eCaption by Doe\0"

Read = Callable[[Picture], Any]


@dataclass(frozen=True)
class Kind:
    """One kind of metadata.

    Args:
        data: A file that has it.
        read: Returns its value in a picture, or something else where there is none.
        expected: The value by the factor by which the picture is enlarged.
        word: What a note calls it where a format cannot hold it.
    """

    data: bytes
    read: Read
    expected: Callable[[int], Any]
    word: str


def encode(format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((WIDTH, HEIGHT)).convert("RGB").save(buffer, format, **options)
    return buffer.getvalue()


def exif_kind(
    tag: int, value: Any, ifd: int | None = None, expected: Callable[[int], Any] | None = None, word: str = "EXIF"
) -> Kind:
    exif = Image.Exif()
    directory = exif if ifd is None else exif.get_ifd(ifd)
    directory[tag] = value

    def read(picture: Picture) -> Any:
        block = Image.Exif()
        block.load(picture.exif or b"")
        upright = 1 if tag == ExifTags.Base.Orientation else None  # which a missing tag says, too
        return (block if ifd is None else block.get_ifd(ifd)).get(tag, upright)

    return Kind(encode(exif=exif.tobytes()), read, expected or (lambda factor: value), word)


def chunk_kind(kind: bytes, content: bytes, word: str) -> Kind:
    data = encode("PNG")
    made = len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return Kind(
        data[:33] + made + data[33:],
        lambda picture: dict(picture.attachments.chunks).get(kind),
        lambda factor: content,
        word,
    )


def text_kind(key: str, value: str, *, international: bool = False) -> Kind:
    info = PngInfo()
    (info.add_itxt if international else info.add_text)(key, value)
    return Kind(encode("PNG", pnginfo=info), lambda p: p.text.get(key), lambda factor: value, f"texts ({key}")


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "big") for value in values)


def captioned() -> bytes:
    data = encode()
    return data[:2] + make_segment(0xED, b"Photoshop 3.0\0" + CAPTIONS) + data[2:]


E, D, G = ExifTags.Base, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
KINDS: dict[str, Kind] = {
    "make": exif_kind(E.Make, "Maker"),
    "model": exif_kind(E.Model, "Model 1"),
    "artist": exif_kind(E.Artist, "Doe"),
    "copyright": exif_kind(E.Copyright, "(c) Doe"),
    "description": exif_kind(E.ImageDescription, "A harbor"),
    "software": exif_kind(E.Software, "Camera 2.1"),
    "date": exif_kind(E.DateTime, "2020:02:02 02:02:02"),
    "rating": exif_kind(0x4746, 4),
    "date of the exposure": exif_kind(E.DateTimeOriginal, "2020:01:01 01:01:01", D),
    "offset of the time": exif_kind(E.OffsetTimeOriginal, "+02:00", D),
    "exposure": exif_kind(E.ExposureTime, 0.25, D),
    "sensitivity": exif_kind(E.ISOSpeedRatings, 800, D),
    "lens": exif_kind(E.LensModel, "50 mm", D),
    "comment of the user": exif_kind(E.UserComment, b"ASCII\0\0\0hello", D),
    "note of the maker": exif_kind(E.MakerNote, b"opaque bytes of the maker", D),
    "place": exif_kind(2, (52.0, 30.0, 15.0), G),
    "altitude": exif_kind(6, 34.0, G),
    "orientation": exif_kind(E.Orientation, 3, expected=lambda factor: 1),
    "width in EXIF": exif_kind(E.ExifImageWidth, WIDTH, D, lambda factor: WIDTH * factor),
    "place of the subject": exif_kind(0x9214, (10, 8, 6, 4), D, lambda f: (10 * f, 8 * f, 6 * f, 4 * f)),
    "pixels of the sensor": exif_kind(0xA20E, 3000.0, D, lambda factor: 3000.0 * factor),
    "colour profile": Kind(encode(icc_profile=SRGB), lambda p: p.icc, lambda factor: SRGB, "colour profile"),
    "XMP": Kind(encode(xmp=XMP), lambda p: b"A title" in (p.xmp or b""), lambda factor: True, "XMP"),
    "width in XMP": Kind(
        encode(xmp=XMP),
        lambda p: (p.xmp or b"").partition(b'Dimension="')[2].partition(b'"')[0],
        lambda factor: str(WIDTH * factor).encode(),
        "XMP",
    ),
    "resolution": Kind(encode(dpi=(300, 300)), lambda p: p.dpi and round(p.dpi[0]), lambda factor: 300, "resolution"),
    "captions": Kind(captioned(), lambda p: p.attachments.captions, lambda factor: CAPTIONS, "IPTC captions"),
    "comment": Kind(
        encode(comment=b"a comment"), lambda p: p.text.get("Comment"), lambda factor: "a comment", "Comment"
    ),
    "text": text_kind("Author", "Doe"),
    "international text": text_kind("Title", "Häfen 港", international=True),
    "gAMA": chunk_kind(b"gAMA", numbers(100_000), "gamma"),
    "cHRM": chunk_kind(b"cHRM", numbers(31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), "primaries"),
    "cICP": chunk_kind(b"cICP", bytes([9, 16, 0, 1]), "colour space"),
    "mDCV": chunk_kind(b"mDCV", bytes(range(24)), "mastering"),
    "cLLI": chunk_kind(b"cLLI", bytes(range(8)), "light levels"),
    "another chunk": chunk_kind(b"prVt", b"private", "prVt"),
}


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_kept_or_named(name: str, format: str, factor: int) -> None:
    kind = KINDS[name]
    picture = load(io.BytesIO(kind.data))
    assert kind.read(picture) == kind.expected(1)
    colour = torch.from_numpy(picture.pixels).permute(2, 0, 1) / 255 * 0.9
    result = with_result(picture, colour.repeat_interleave(factor, 1).repeat_interleave(factor, 2))
    notes = (*result.notes, *save(result, stream := io.BytesIO(), format))
    is_kept = kind.read(load(io.BytesIO(stream.getvalue()))) == kind.expected(factor)
    assert is_kept or any(kind.word in note for note in notes)
    # The format that the file had holds what the file held.
    assert is_kept or format != picture.format


def test_there_are_thirty_kinds() -> None:
    assert len(KINDS) >= 30
