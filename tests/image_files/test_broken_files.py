"""Files broken in every way: refused in one line, or, if only their metadata are broken, read all the same."""

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
from picture_files import CASES, SRGB, deep_png, encoded, numbers, png, png_chunk, some_exif, tiff
from PIL import ExifTags, Image, features

from restorer.errors import PictureError, RestorerError
from restorer.images import reading
from restorer.images.encoders import tiff_bytes
from restorer.images.files import MAX_PIXELS, load
from restorer.images.reading import size_of

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
PNG, JPEG = encoded(PHOTO, "PNG"), encoded(PHOTO, "JPEG")
DEEP_PNG = deep_png(3).data
FLOAT_TIFF = tiff(numbers(3, np.float32)).data
DEEP_TIFF = tiff(numbers(3, np.uint16)).data


def assert_refused(data: bytes | Path, **options: int) -> PictureError:
    with pytest.raises(PictureError) as caught:
        load(data if isinstance(data, Path) else io.BytesIO(data), **options)
    assert_one_line(caught.value)
    return caught.value


def assert_one_line(error: RestorerError) -> None:
    assert "\n" not in str(error) and len(str(error)) < 500 and str(error).isprintable()
    assert error.hint and "\n" not in error.hint


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    return png(b"\0" * 100, width, height, depth, colour, interlaced=interlaced)


def without_idat() -> bytes:
    at = PNG.index(b"IDAT") - 4
    return PNG[:at] + png_chunk(b"IEND", b"")


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def retagged(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag that stands in the directory itself."""
    where, (start,) = bytearray(data), struct.unpack_from("<I", data, 4)
    for i in range(struct.unpack_from("<H", data, start)[0]):
        at = start + 2 + 12 * i
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<H" if where[at + 2] == 3 else "<I", where, at + 8, value)
            return bytes(where)
    raise AssertionError(f"no tag {tag}")


def bmp(width: int, height: int) -> bytes:
    data = bytearray(encoded(PHOTO, "BMP"))
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def jpeg_of(width: int, height: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def own_tiff() -> bytes:
    return tiff_bytes(numbers(3, np.float32), False)


BROKEN = {
    "empty": b"",
    "text": b"This is no picture.\nNot at all.\n",
    "program for printers": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "page of the web": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "vector drawing": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "zeros": bytes(5000),
    "archive": b"PK\x03\x04" + bytes(200),
    "wrong magic": b"\x88" + PNG[1:],
    "magic only, png": PNG[:8],
    "magic only, jpeg": JPEG[:2],
    "magic only, tiff": b"II*\0",
    "magic only, gif": b"GIF89a",
    "magic only, webp": b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
    "head only, png": PNG[:33],
    "no pixels, png": without_idat(),
    "wrong checksum of the head, png": flipped(PNG, 30),
    "wrong pixels, png": flipped(PNG, 60),
    "wrong pixels, 16-bit png": flipped(DEEP_PNG, len(DEEP_PNG) // 2),
    "width 0, png": ihdr(0, 5),
    "height 0, png": ihdr(5, 0),
    "size 0, jpeg": jpeg_of(0, 0),
    "width 0, bmp": bmp(0, 64),
    "unknown colour type, png": ihdr(5, 5, 8, 5),
    "unknown depth, png": ihdr(5, 5, 7, 2),
    "fewer pixels than said, png": ihdr(500, 500),
    "fewer pixels than said, 16-bit png": ihdr(500, 500, 16),
    "fewer pixels than said, interlaced png": ihdr(500, 500, 16, 2, interlaced=1),
    "fewer pixels than said, bmp": bmp(640, 640),
    "bomb, png": ihdr(100_000, 100_000),
    "bomb, 16-bit png": ihdr(20_000, 20_000, 16),
    "bomb, jpeg": jpeg_of(65_000, 65_000),
    "bomb, bmp": bmp(100_000, 100_000),
    "bomb, tiff": retagged(DEEP_TIFF, 257, 1 << 30),
    "bomb, float tiff": retagged(FLOAT_TIFF, 257, 1 << 30),
    "size of 4 billion, png": ihdr(0xFFFFFFFF, 0xFFFFFFFF),
    "fewer pixels than said, tiff": retagged(DEEP_TIFF, 257, 900),
    "fewer pixels than said, float tiff": retagged(FLOAT_TIFF, 257, 900),
    "fewer tiles than said, tiff": retagged(tiff(numbers(3, np.uint16), tile=(16, 16)).data, 257, 900),
    "directory outside, tiff": b"II*\0\xff\xff\xff\x0f" + bytes(100),
    "directory empty, tiff": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
    "pixels outside, tiff": retagged(DEEP_TIFF, 273, 1 << 28),
    "pixels outside, float tiff": retagged(FLOAT_TIFF, 273, 1 << 28),
    "no pixels, float tiff": retagged(FLOAT_TIFF, 279, 0),
    "unknown compression, tiff": retagged(DEEP_TIFF, 259, 12345),
    "unknown compression, float tiff": retagged(FLOAT_TIFF, 259, 12345),
    "LZW, float tiff": retagged(FLOAT_TIFF, 259, 5),
    "wrong Deflate, float tiff": own_tiff()[:-400] + bytes(400),
    "unknown colours, float tiff": retagged(FLOAT_TIFF, 262, 32845),
    "1000 bands, tiff": retagged(FLOAT_TIFF, 277, 1000),
    "size 0, gif": b"GIF89a" + bytes(7) + b";",
    "no frame, gif": b"GIF89a\x05\0\x05\0\0\0\0;",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    assert "standard input" in str(assert_refused(BROKEN[name]))
    path = tmp_path / "broken.png"
    path.write_bytes(BROKEN[name])
    assert str(path) in str(assert_refused(path))


def whole() -> dict[str, bytes]:
    kinds = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"] + (["AVIF"] if features.check("avif") else [])
    files = {kind: encoded(PHOTO, kind) for kind in kinds}
    files["PROGRESSIVE"] = encoded(PHOTO, "JPEG", progressive=True)
    names = ("png 16 bits x 3", "png 16 bits x 2, interlaced", "tiff 16 bits x 3", "tiff float x 3", "tiff F", "png P")
    files |= {name: CASES[name]().data for name in names}
    return files | {"own tiff": own_tiff()}


@pytest.mark.parametrize("kind", whole())
def test_files_cut_short_anywhere(kind: str) -> None:
    """What is missing may be metadata at the end; then every pixel is still there."""
    data = whole()[kind]
    entire = load(io.BytesIO(data))
    refused = 0
    for share in np.linspace(0, 1, 24)[:-1]:
        try:
            picture = load(io.BytesIO(data[: int(share * len(data))]))
        except PictureError as error:
            assert_one_line(error)
            refused += 1
        else:
            np.testing.assert_array_equal(picture.pixels, entire.pixels)
    assert refused >= 12


@given(st.sampled_from(sorted(whole())), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_bytes_changed_at_random_never_raise_anything_else(kind: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(whole()[kind])
    for share, value in changes:
        data[int(share * (len(data) - 1))] = value
    try:
        load(io.BytesIO(bytes(data)), max_pixels=1_000_000)
    except PictureError as error:
        assert_one_line(error)


# ------------------------------------------------------------------------------------------------------------- limits


def test_the_limit_on_pixels_holds_for_every_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("png RGB", "png 16 bits x 3", "tiff 16 bits, planes", "tiff float x 3", "jpeg L", "gif P"):
        data = CASES[name]().data
        picture = load(io.BytesIO(data), max_pixels=11 * 14)
        assert picture.width * picture.height == 11 * 14
        error = assert_refused(data, max_pixels=11 * 14 - 1)
        assert "too large" in str(error) and "--max-pixels" in error.hint
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert "too large" in str(assert_refused(PNG))  # Pillow's own limit, where a program has lowered it


def test_a_higher_limit_lifts_pillow_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_PIXELS", 2 * 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert load(io.BytesIO(PNG), max_pixels=64 * 64).width == 64
    assert MAX_PIXELS == 2 * (1024 * 1024 * 1024 // 4 // 3)


def test_no_room_in_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(reading, "bands_of", full)
    assert "memory" in str(assert_refused(PNG))


# ------------------------------------------------------------------------------------------------------------- places


def test_places_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert "directory" in str(assert_refused(folder))
    assert "no such file" in str(assert_refused(tmp_path / "none.png"))
    assert_refused(tmp_path / ("x" * 300 + ".png"))
    assert_refused(tmp_path / "a\0b.png")
    assert r"two\nlines \x1b[31m.png" in str(assert_refused(tmp_path / "two\nlines \x1b[31m.png"))
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert_refused(tmp_path / "link.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert_refused(tmp_path / "loop.png")

    def denied(_: Path) -> bytes:  # the super-user, who runs many a test, is denied nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "Permission denied" in str(assert_refused(tmp_path / "closed.png"))


def test_a_device_that_fails() -> None:
    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(PictureError, match=r"standard input.*Input/output error"):
        load(Broken())


# --------------------------------------------------------------------------------------------------- only the metadata


def png_with(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def wrong(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


DAMAGED_METADATA = {
    "profile with a wrong checksum": png_with(wrong(png_chunk(b"iCCP", b"x\0\0" + zlib.compress(SRGB)))),
    "profile that does not unpack": png_with(png_chunk(b"iCCP", b"x\0\0garbage")),
    "profile of random bytes": encoded(PHOTO, "PNG", icc_profile=bytes(range(256))),
    "profile cut short": encoded(PHOTO, "PNG", icc_profile=SRGB[:10]),
    "profile bomb": png_with(png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000)))),
    "text bomb": png_with(png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(3_000_000)))),
    "text with a wrong checksum": png_with(wrong(png_chunk(b"tEXt", b"Title\0x"))),
    "EXIF with a wrong checksum": png_with(wrong(png_chunk(b"eXIf", some_exif().tobytes()[6:]))),
    "EXIF of random bytes": png_with(png_chunk(b"eXIf", bytes(range(200)))),
    "resolution cut short": png_with(png_chunk(b"pHYs", b"\0\0")),
    "gamma cut short": png_with(png_chunk(b"gAMA", b"\0")),
    "XMP that is no text": png_with(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe\xfd")),
    "EXIF of random bytes, jpeg": encoded(PHOTO, "JPEG", exif=b"Exif\0\0" + bytes(range(200))),
    "EXIF that points outside, jpeg": encoded(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "profile of random bytes, jpeg": encoded(PHOTO, "JPEG", icc_profile=bytes(range(256))),
    "EXIF of random bytes, webp": encoded(PHOTO, "WEBP", lossless=True, exif=bytes(range(200))),
    "profile of random bytes, webp": encoded(PHOTO, "WEBP", lossless=True, icc_profile=bytes(range(256))),
    "profile of random bytes, tiff": encoded(PHOTO, "TIFF", icc_profile=bytes(range(256))),
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
    data = DEEP_PNG[:33] + wrong(png_chunk(b"tEXt", b"Title\0x")) + DEEP_PNG[33:]
    np.testing.assert_array_equal(load(io.BytesIO(data)).pixels, load(io.BytesIO(DEEP_PNG)).pixels)


def test_damaged_exif_of_a_float_tiff_does_not_cost_the_picture() -> None:
    values = numbers(3, np.float32)
    buffer = io.BytesIO()
    tags = [(34665, 4, 1, 0xFFFFFF, True), (34853, 4, 1, 3, True)]
    tifffile.imwrite(buffer, values, photometric="rgb", extratags=tags)
    np.testing.assert_array_equal(load(io.BytesIO(buffer.getvalue())).pixels, values)


def test_the_size_of_a_png_is_told_by_its_header(tmp_path: Path) -> None:
    """Its pixels are not decoded, unless it carries a turn, which may stand behind them."""
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert size_of(path) == (30, 20)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert size_of(path) == (20, 30)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(PictureError):
        size_of(path)
