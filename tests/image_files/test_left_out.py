"""What Pillow leaves out of older formats is read, and what follows or damages a picture is said."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from picture_files import SRGB, encode, png_chunk, sample_exif
from PIL import ExifTags, Image

from restorer.errors import PictureError
from restorer.images.endings import describe_rest
from restorer.images.files import load
from restorer.images.jpeg_file import make_segment
from restorer.images.photoshop import from_captions

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmp:Rating="4"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x78\x00\x03Cap"
WIDTH, HEIGHT = 24, 16
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
EXIF = sample_exif().tobytes()[6:]  # without the prefix of JPEG files


def made(format: str, **options: object) -> bytes:
    return encode(Image.fromarray(RGB), format, **options)


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def maker(exif: bytes | None) -> str:
    block = Image.Exif()
    block.load(exif or b"")
    return str(block[ExifTags.Base.Make])


# ------------------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("format", ["GIF87a", "GIF89a"])
def test_the_xmp_of_a_gif(format: str) -> None:
    trailer = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    data = format.encode() + made("GIF")[6:-1] + b"\x21\xff\x0bXMP DataXMP" + XMP + trailer + b";"
    found = load(io.BytesIO(data))
    assert found.xmp == XMP and not any("bytes after" in note for note in found.notes)


def test_the_metadata_of_a_jpeg_2000_file() -> None:
    boxes = (
        box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + XMP)
        + box(b"uuid", b"JpgTiffExif->JP2" + EXIF)
        + box(b"uuid", bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38") + IPTC)
    )
    found = load(io.BytesIO(made("JPEG2000") + boxes))
    assert found.xmp == XMP and maker(found.exif) == "Maker" and found.attachments.captions == from_captions(IPTC)


def test_the_profile_of_a_jpeg_2000_file() -> None:
    data = made("JPEG2000")
    at = data.index(b"jp2h") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    inner = data[at + 8 : at + length]
    inner = inner[: inner.index(b"colr") - 4] + box(b"colr", b"\2\0\0" + SRGB)
    assert load(io.BytesIO(data[:at] + box(b"jp2h", inner) + data[at + length :])).icc == SRGB


def photoshop_file(*resources: tuple[int, bytes]) -> bytes:
    listed = b"".join(
        b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + content + b"\0" * (len(content) % 2)
        for number, content in resources
    )
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, HEIGHT, WIDTH, 8, 3) + bytes(4)
    return head + struct.pack(">I", len(listed)) + listed + bytes(4) + b"\0\0" + RGB.transpose(2, 0, 1).tobytes()


def test_the_metadata_of_a_photoshop_file() -> None:
    inches = struct.pack(">IHHIHH", 300 << 16, 1, 1, 150 << 16, 1, 1)
    found = load(io.BytesIO(photoshop_file((1005, inches), (1028, IPTC), (1058, EXIF), (1060, XMP))))
    assert np.array_equal(found.pixels, RGB)
    assert (found.xmp, maker(found.exif), found.dpi) == (XMP, "Maker", (300.0, 150.0))
    assert found.attachments.captions == from_captions(IPTC)


def bitmap(kind: bytes, profile: bytes) -> bytes:
    pixels = RGB[::-1, :, ::-1].tobytes()  # rows of 72 bytes need no padding
    head = struct.pack("<IiiHHIIiiII", 124, WIDTH, HEIGHT, 1, 24, 0, len(pixels), 2835, 2835, 0, 0) + bytes(16) + kind
    head += bytes(36 + 12) + struct.pack("<IIII", 4, 124 + len(pixels), len(profile), 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 138) + head + pixels + profile


def test_the_profile_of_a_bitmap() -> None:
    assert load(io.BytesIO(bitmap(b"DEBM", SRGB))).icc == SRGB
    assert load(io.BytesIO(bitmap(b"DEBM", SRGB)[:-9])).icc is None  # it is cut off
    assert load(io.BytesIO(bitmap(b"BGRs", SRGB))).icc is None


def test_linear_values_in_a_qoi_file_are_linear_in_a_png() -> None:
    data = made("QOI")
    assert load(io.BytesIO(data)).attachments.chunks == ((b"gAMA", (100_000).to_bytes(4, "big")),) * (data[13] == 1)
    srgb, linear = (data[:13] + bytes([flag]) + data[14:] for flag in (0, 1))
    assert load(io.BytesIO(srgb)).attachments.chunks == ()
    assert load(io.BytesIO(linear)).attachments.chunks == ((b"gAMA", (100_000).to_bytes(4, "big")),)


def test_each_comment_of_a_jpeg_is_kept() -> None:
    data = made("JPEG")
    data = data[:2] + make_segment(0xFE, b"first") + make_segment(0xFE, "zweiter Übertrag".encode()) + data[2:]
    assert load(io.BytesIO(data)).text["Comment"] == "first\nzweiter Übertrag"


# ----------------------------------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("white", [256, 1023, 4095, 65535])
@pytest.mark.parametrize("comment", [b"", b"# by a scanner\n"])
def test_deep_ppm_files(channels: int, white: int, comment: bytes) -> None:
    values = np.random.default_rng(1).integers(0, white + 1, (HEIGHT, WIDTH, channels)).astype(">u2")
    values[0, 0], values[0, 1] = 0, white
    head = b"P%d\n%s%d %d\n%d\n" % (5 if channels == 1 else 6, comment, WIDTH, HEIGHT, white)
    found = load(io.BytesIO(head + values.tobytes()))
    expected = np.rint(values.astype(float) * 65535 / white).astype(np.uint16)
    assert found.pixels.dtype == np.uint16 and found.notes == ()
    assert np.array_equal(found.pixels, expected[..., 0] if channels == 1 else expected)
    with pytest.raises(PictureError, match="cut short"):
        load(io.BytesIO(head + values.tobytes()[:-1]))


def test_deep_jpeg_2000_colour_is_named() -> None:
    data = bytearray(made("JPEG2000"))
    at = data.index(b"\xff\x4f\xff\x51") + 42
    assert data[at] == 7  # 8 bits
    data[at] = 15
    try:
        notes = load(io.BytesIO(bytes(data))).notes
    except PictureError:  # the numbers no longer fit the header
        return
    assert "16 bits per channel are read as 8 bits" in notes


# ------------------------------------------------------------------------------------------------- what lies beside it


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize(("rest", "words"), [(b"PK\3\4 and more", "13 bytes"), (bytes(40), ""), (b"\r\n", "")])
def test_bytes_after_a_picture_are_named(format: str, rest: bytes, words: str) -> None:
    notes = load(io.BytesIO(made(format) + rest)).notes
    assert any(f"{words} after the picture" in note for note in notes) == bool(words)
    assert not any("after the picture" in note for note in load(io.BytesIO(made(format))).notes)


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP"])
def test_a_file_cut_anywhere_has_no_rest(format: str) -> None:
    data = made(format, save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    assert describe_rest(data) == "" and describe_rest(data + b"x") == "1 bytes after the picture"
    for end in range(0, len(data), 7):
        assert describe_rest(data[:end]) == ""


@pytest.mark.parametrize(
    ("marker", "content", "words"),
    [
        (0xEB, b"JP\0\1\0\0\0\1\0\0\0\x40jumb" + bytes(52), "content credentials"),
        (0xEB, b"HDR_RI ver=11", "data of other programs (APP11)"),
        (0xE4, b"Samsung", "data of other programs (APP4)"),
        (0xE2, b"FPXR\0", "data of other programs (APP2)"),
        (0xEC, b"Ducky\0\1\0\4\0\0\0d\0\0", ""),
        (0xEE, b"Adobe\0d\0\0\0\0\1", ""),
        (0xE0, b"JFXX\0\x13", ""),
    ],
)
def test_segments_of_other_programs_are_named(marker: int, content: bytes, words: str) -> None:
    data = made("JPEG")
    notes = load(io.BytesIO(data[:2] + make_segment(marker, content) + data[2:])).notes
    assert notes == ((f"not kept of what lies beside the picture in the file: {words}",) if words else ())


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_wrong_checksum_of_the_pixels_is_said() -> None:
    """Pillow compares no checksum of the pixels, and a damaged stream may well be one that can be decoded."""
    head = png_chunk(b"IHDR", struct.pack(">2I5B", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    right, wrong = (png_chunk(b"IDAT", zlib.compress(found)) for found in (rows, b"\0" + bytes(range(72)) + rows[73:]))
    start, end = b"\x89PNG\r\n\x1a\n" + head, png_chunk(b"IEND", b"")
    data = start + right + end
    assert load(io.BytesIO(data)).notes == ()
    found = load(io.BytesIO(start + wrong[:-4] + right[-4:] + end))
    assert not np.array_equal(found.pixels, RGB) and "part of the picture may be wrong" in found.notes[0]
    found = load(io.BytesIO(data[:-12]))
    assert np.array_equal(found.pixels, RGB) and found.notes == (
        "the file lacks its end, but all of its pixels are there",
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html>sign in</html>", "is a web page"),
        (b"\xef\xbb\xbf\r\n<html>", "is a web page"),
        (b'{"error": "not found"}', "is not a picture but text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (bytes(5000), "holds nothing but zeros"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X        ", "second half of a file of a Mac"),
        (b"RIFF\x10\0\0\0AVI LIST", "is a video"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "is a sound recording"),
        (b"MZ\x90\0\3\0", "is a program"),
        (b"8BPS\0\2" + bytes(30), "is a large Photoshop document"),
        (bytes(range(256)), "is not a picture"),
    ],
)
def test_what_a_file_is_instead_of_a_picture(data: bytes, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        load(io.BytesIO(data))


def test_a_png_for_telephones_of_apple_is_named() -> None:
    data = made("PNG")
    data = data[:8] + png_chunk(b"CgBI", b"\x50\0\x20\6") + data[8:]
    with pytest.raises(PictureError, match=r"standard input is a PNG file .* \(CgBI\)"):
        load(io.BytesIO(data))
