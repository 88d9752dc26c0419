"""Damaged files: they are rejected with a message of one line, or read if only their metadata are damaged."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import (
    CASES,
    SRGB,
    deep_png_case,
    encode,
    make_png,
    png_chunk,
    random_bands,
    sample_exif,
    tiff_case,
)
from PIL import ExifTags, Image, features

from restorer.errors import PictureError, RestorerError
from restorer.images import reading, sources
from restorer.images.encoders import encode_tiff
from restorer.images.files import MAX_PIXELS, load
from restorer.images.reading import read_size

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
PNG, JPEG = encode(PHOTO, "PNG"), encode(PHOTO, "JPEG")
DEEP_PNG = deep_png_case(3).data
FLOAT_TIFF = tiff_case(random_bands(3, np.float32)).data
DEEP_TIFF = tiff_case(random_bands(3, np.uint16)).data


def assert_rejected(data: bytes | Path, **options: int) -> PictureError:
    """Check that a file is rejected, and return the error."""
    with pytest.raises(PictureError) as caught:
        load(data if isinstance(data, Path) else io.BytesIO(data), **options)
    assert_one_line(caught.value)
    return caught.value


def assert_one_line(error: RestorerError) -> None:
    """Check that the message and the hint are one line each."""
    assert "\n" not in str(error) and len(str(error)) < 500 and str(error).isprintable()
    assert error.hint and "\n" not in error.hint


def png_of(width: int, height: int, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    """Return a PNG file with 100 bytes of pixels, whatever its header declares."""
    return make_png(b"\0" * 100, width, height, depth, colour, interlaced=interlaced)


def png_without_pixels() -> bytes:
    """Return `PNG` without its pixels."""
    at = PNG.index(b"IDAT") - 4
    return PNG[:at] + png_chunk(b"IEND", b"")


def flip_byte(data: bytes, at: int) -> bytes:
    """Return the data with all bits of one byte inverted."""
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def set_tag(data: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF file with another value of a tag that is stored in the directory itself."""
    changed, (start,) = bytearray(data), struct.unpack_from("<I", data, 4)
    for i in range(struct.unpack_from("<H", data, start)[0]):
        at = start + 2 + 12 * i
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<H" if changed[at + 2] == 3 else "<I", changed, at + 8, value)
            return bytes(changed)
    raise AssertionError(f"no tag {tag}")


def bmp_of(width: int, height: int) -> bytes:
    """Return a BMP file whose header declares another size."""
    data = bytearray(encode(PHOTO, "BMP"))
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def jpeg_of(width: int, height: int) -> bytes:
    """Return a JPEG file whose header declares another size."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def own_tiff() -> bytes:
    """Return a TIFF file by the encoder of this package."""
    return encode_tiff(random_bands(3, np.float32), False)


BROKEN = {
    "empty": b"",
    "text": b"This is no picture.\nNot at all.\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "web page": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "vector drawing": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "zeros": bytes(5000),
    "ZIP archive": b"PK\x03\x04" + bytes(200),
    "wrong magic": b"\x88" + PNG[1:],
    "magic bytes only, png": PNG[:8],
    "magic bytes only, jpeg": JPEG[:2],
    "magic bytes only, tiff": b"II*\0",
    "magic bytes only, gif": b"GIF89a",
    "magic bytes only, webp": b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
    "header only, png": PNG[:33],
    "no pixels, png": png_without_pixels(),
    "wrong checksum of the header, png": flip_byte(PNG, 30),
    "wrong pixels, png": flip_byte(PNG, 60),
    "wrong pixels, 16-bit png": flip_byte(DEEP_PNG, len(DEEP_PNG) // 2),
    "width 0, png": png_of(0, 5),
    "height 0, png": png_of(5, 0),
    "size 0, jpeg": jpeg_of(0, 0),
    "width 0, bmp": bmp_of(0, 64),
    "unknown colour type, png": png_of(5, 5, 8, 5),
    "unknown depth, png": png_of(5, 5, 7, 2),
    "fewer pixels than declared, png": png_of(500, 500),
    "fewer pixels than declared, 16-bit png": png_of(500, 500, 16),
    "fewer pixels than declared, interlaced png": png_of(500, 500, 16, 2, interlaced=1),
    "fewer pixels than declared, bmp": bmp_of(640, 640),
    "bomb, png": png_of(100_000, 100_000),
    "bomb, 16-bit png": png_of(20_000, 20_000, 16),
    "bomb, jpeg": jpeg_of(65_000, 65_000),
    "bomb, bmp": bmp_of(100_000, 100_000),
    "bomb, tiff": set_tag(DEEP_TIFF, 257, 1 << 30),
    "bomb, float tiff": set_tag(FLOAT_TIFF, 257, 1 << 30),
    "size of 4 billion, png": png_of(0xFFFFFFFF, 0xFFFFFFFF),
    "fewer pixels than declared, tiff": set_tag(DEEP_TIFF, 257, 900),
    "fewer pixels than declared, float tiff": set_tag(FLOAT_TIFF, 257, 900),
    "fewer tiles than declared, tiff": set_tag(tiff_case(random_bands(3, np.uint16), tile=(16, 16)).data, 257, 900),
    "directory outside, tiff": b"II*\0\xff\xff\xff\x0f" + bytes(100),
    "directory empty, tiff": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
    "pixels outside, tiff": set_tag(DEEP_TIFF, 273, 1 << 28),
    "pixels outside, float tiff": set_tag(FLOAT_TIFF, 273, 1 << 28),
    "no pixels, float tiff": set_tag(FLOAT_TIFF, 279, 0),
    "unknown compression, tiff": set_tag(DEEP_TIFF, 259, 12345),
    "unknown compression, float tiff": set_tag(FLOAT_TIFF, 259, 12345),
    "LZW, float tiff": set_tag(FLOAT_TIFF, 259, 5),
    "wrong Deflate, float tiff": own_tiff()[:-400] + bytes(400),
    "unknown colour space, float tiff": set_tag(FLOAT_TIFF, 262, 32845),
    "1000 bands, tiff": set_tag(FLOAT_TIFF, 277, 1000),
    "size 0, gif": b"GIF89a" + bytes(7) + b";",
    "no frame, gif": b"GIF89a\x05\0\x05\0\0\0\0;",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    assert "standard input" in str(assert_rejected(BROKEN[name]))
    path = tmp_path / "broken.png"
    path.write_bytes(BROKEN[name])
    assert str(path) in str(assert_rejected(path))


def intact_files() -> dict[str, bytes]:
    """Return intact files of many kinds."""
    kinds = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"] + (["AVIF"] if features.check("avif") else [])
    files = {kind: encode(PHOTO, kind) for kind in kinds}
    files["PROGRESSIVE"] = encode(PHOTO, "JPEG", progressive=True)
    names = ("png 16 bits x 3", "png 16 bits x 2, interlaced", "tiff 16 bits x 3", "tiff float x 3", "tiff F", "png P")
    files |= {name: CASES[name]().data for name in names}
    return files | {"own tiff": own_tiff()}


@pytest.mark.parametrize("kind", intact_files())
def test_files_cut_short_anywhere(kind: str) -> None:
    """A file that is cut short is rejected, unless only metadata at its end are missing; then every pixel is read."""
    data = intact_files()[kind]
    complete = load(io.BytesIO(data))
    rejected = 0
    for share in np.linspace(0, 1, 24)[:-1]:
        try:
            picture = load(io.BytesIO(data[: int(share * len(data))]))
        except PictureError as error:
            assert_one_line(error)
            rejected += 1
        else:
            np.testing.assert_array_equal(picture.pixels, complete.pixels)
    assert rejected >= 12


@given(st.sampled_from(sorted(intact_files())), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_bytes_changed_at_random_never_raise_anything_else(kind: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(intact_files()[kind])
    for share, value in changes:
        data[int(share * (len(data) - 1))] = value
    try:
        load(io.BytesIO(bytes(data)), max_pixels=1_000_000)
    except PictureError as error:
        assert_one_line(error)


# --------------------------------------------------------------------------------------------------------------- limits


def test_the_limit_on_pixels_holds_for_every_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("png RGB", "png 16 bits x 3", "tiff 16 bits, planes", "tiff float x 3", "jpeg L", "gif P"):
        data = CASES[name]().data
        picture = load(io.BytesIO(data), max_pixels=11 * 14)
        assert picture.width * picture.height == 11 * 14
        error = assert_rejected(data, max_pixels=11 * 14 - 1)
        assert "too large" in str(error) and "--max-pixels" in error.hint
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert "too large" in str(assert_rejected(PNG))  # the program may have lowered Pillow's own limit


def test_a_higher_limit_lifts_pillow_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_PIXELS", 2 * 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert load(io.BytesIO(PNG), max_pixels=64 * 64).width == 64
    assert MAX_PIXELS == 2 * (1024 * 1024 * 1024 // 4 // 3)


def test_no_room_in_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(reading, "read_bands", run_out_of_memory)
    assert "memory" in str(assert_rejected(PNG))


# --------------------------------------------------------------------------------------------------------------- places


def test_places_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert "directory" in str(assert_rejected(folder))
    assert "no such file" in str(assert_rejected(tmp_path / "none.png"))
    assert_rejected(tmp_path / ("x" * 300 + ".png"))
    assert_rejected(tmp_path / "a\0b.png")
    assert r"two\nlines \x1b[31m.png" in str(assert_rejected(tmp_path / "two\nlines \x1b[31m.png"))
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert_rejected(tmp_path / "link.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert_rejected(tmp_path / "loop.png")

    def deny(_: Path) -> bytes:  # permissions do not stop the superuser, who may run the tests
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    assert "Permission denied" in str(assert_rejected(tmp_path / "closed.png"))


def test_a_device_that_fails() -> None:
    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(PictureError, match=r"standard input.*Input/output error"):
        load(Broken())


# ---------------------------------------------------------------------------------------------------- only the metadata


def png_with(*chunks: bytes) -> bytes:
    """Return `PNG` with chunks inserted after its header."""
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def with_wrong_checksum(chunk: bytes) -> bytes:
    """Return a chunk with a wrong checksum."""
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


DAMAGED_METADATA = {
    "profile with a wrong checksum": png_with(with_wrong_checksum(png_chunk(b"iCCP", b"x\0\0" + zlib.compress(SRGB)))),
    "profile that does not unpack": png_with(png_chunk(b"iCCP", b"x\0\0garbage")),
    "profile of random bytes": encode(PHOTO, "PNG", icc_profile=bytes(range(256))),
    "profile cut short": encode(PHOTO, "PNG", icc_profile=SRGB[:10]),
    "profile bomb": png_with(png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000)))),
    "text bomb": png_with(png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(3_000_000)))),
    "text with a wrong checksum": png_with(with_wrong_checksum(png_chunk(b"tEXt", b"Title\0x"))),
    "EXIF with a wrong checksum": png_with(with_wrong_checksum(png_chunk(b"eXIf", sample_exif().tobytes()[6:]))),
    "EXIF of random bytes": png_with(png_chunk(b"eXIf", bytes(range(200)))),
    "resolution cut short": png_with(png_chunk(b"pHYs", b"\0\0")),
    "gamma cut short": png_with(png_chunk(b"gAMA", b"\0")),
    "XMP that is not text": png_with(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe\xfd")),
    "EXIF of random bytes, jpeg": encode(PHOTO, "JPEG", exif=b"Exif\0\0" + bytes(range(200))),
    "EXIF that points outside, jpeg": encode(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "profile of random bytes, jpeg": encode(PHOTO, "JPEG", icc_profile=bytes(range(256))),
    "EXIF of random bytes, webp": encode(PHOTO, "WEBP", lossless=True, exif=bytes(range(200))),
    "profile of random bytes, webp": encode(PHOTO, "WEBP", lossless=True, icc_profile=bytes(range(256))),
    "profile of random bytes, tiff": encode(PHOTO, "TIFF", icc_profile=bytes(range(256))),
}


@pytest.mark.parametrize("name", DAMAGED_METADATA)
def test_damaged_metadata_do_not_cost_the_picture(name: str) -> None:
    picture = load(io.BytesIO(DAMAGED_METADATA[name]))
    np.testing.assert_array_equal(picture.pixels, load(io.BytesIO(JPEG if picture.format == "JPEG" else PNG)).pixels)
    if "profile" in name:
        assert picture.icc is None
    if "profile of random" in name or "checksum" in name:
        assert any("dropped" in note for note in picture.notes)


def test_damaged_metadata_of_a_deep_png_do_not_cost_its_depth() -> None:
    data = DEEP_PNG[:33] + with_wrong_checksum(png_chunk(b"tEXt", b"Title\0x")) + DEEP_PNG[33:]
    np.testing.assert_array_equal(load(io.BytesIO(data)).pixels, load(io.BytesIO(DEEP_PNG)).pixels)


def test_damaged_exif_of_a_float_tiff_does_not_cost_the_picture() -> None:
    values = random_bands(3, np.float32)
    buffer = io.BytesIO()
    tags = [(34665, 4, 1, 0xFFFFFF, True), (34853, 4, 1, 3, True)]
    tifffile.imwrite(buffer, values, photometric="rgb", extratags=tags)
    np.testing.assert_array_equal(load(io.BytesIO(buffer.getvalue())).pixels, values)


def test_the_size_of_a_png_is_told_by_its_header(tmp_path: Path) -> None:
    """The pixels of a PNG are not decoded, unless it has EXIF, which may follow them."""
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:50])
    assert read_size(path) == (30, 20)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert read_size(path) == (20, 30)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(PictureError):
        read_size(path)
