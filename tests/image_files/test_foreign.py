"""Raw photographs, pictures that need plug-ins, and files that are no pictures: read, or named for what they are."""

from __future__ import annotations

import contextlib
import importlib
import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
from PIL import Image

from restorer.errors import PictureError
from restorer.images import foreign
from restorer.images.files import load
from restorer.images.foreign import is_raw
from restorer.images.reading import read_size

HEIGHT, WIDTH = 64, 96


def dng(photometric: str = "cfa", version: bool = True) -> bytes:
    """Return a raw file: a small finished picture, and the values of a sensor in a directory below it."""
    sensor = (np.random.default_rng(0).random((HEIGHT, WIDTH)) * 4000 + 3000).astype(np.uint16)
    matrix = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)
    own = [(271, "s", 0, "ACME", True), (272, "s", 0, "One", True)]
    own += [(50706, "B", 4, (1, 4, 0, 0), True), (50708, "s", 0, "ACME One", True)] if version else []
    own += [(50721, "2i", 9, matrix, True), (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True), (50778, "H", 1, 21, True)]
    mosaic = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]
    levels = [(50714, "H", 1, 512, True), (50717, "I", 1, 16383, True)]
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as tiff:
        preview = np.zeros((40, 60, 3), np.uint8)
        tiff.write(preview, photometric="rgb", subfiletype=1, subifds=1, extratags=own, metadata=None)
        tiff.write(sensor, photometric=photometric, subfiletype=0, extratags=mosaic + levels, metadata=None)
    return buffer.getvalue()


BEGINNINGS = {
    "Fujifilm": b"FUJIFILMCCD-RAW 0201FF383501X-T2",
    "Canon CR3": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom",
    "Canon CRW": b"II\x1a\0\0\0HEAPCCDR\x02\0\x01\0",
    "Canon CR2": b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0",
    "Olympus": b"IIRO\x08\0\0\0",
    "Panasonic": b"IIU\0\x18\0\0\0",
    "Sigma": b"FOVb\0\0\x02\0",
    "Minolta": b"\0MRM\0\0\0\x10",
}


@pytest.fixture
def without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the extras unavailable."""
    absent = {"rawpy", "pillow_heif", "pillow_jxl"}
    original = importlib.import_module

    def import_module(name: str) -> ModuleType:
        if name in absent:
            raise ImportError(name)
        return original(name)

    monkeypatch.setattr(foreign.importlib, "import_module", import_module)


@pytest.mark.parametrize("maker", BEGINNINGS)
@pytest.mark.usefixtures("without_plugins")
def test_raw_files_of_all_makers_are_refused(maker: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.raw"
    path.write_bytes(BEGINNINGS[maker] + bytes(200))
    for read in (load, read_size):
        with pytest.raises(PictureError, match="is a raw file, of which only the preview can be read") as caught:
            read(path)
        assert "restorer[raw]" in caught.value.hint


@pytest.mark.parametrize(("photometric", "version"), [("cfa", True), ("cfa", False), ("minisblack", True)])
@pytest.mark.usefixtures("without_plugins")
def test_raw_files_that_are_tiff_files_are_refused(photometric: str, version: bool) -> None:
    data = dng(photometric, version)
    with Image.open(io.BytesIO(data)) as preview:
        assert preview.size == (60, 40)  # what a reader of TIFF files takes for the picture
    with pytest.raises(PictureError, match="is a raw file"):
        load(io.BytesIO(data))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.usefixtures("without_plugins")
def test_the_preview_of_a_raw_file_in_any_kind_of_tiff_is_not_taken(order: str, big: bool) -> None:
    with tifffile.TiffWriter(buffer := io.BytesIO(), byteorder=order, bigtiff=big) as tiff:
        tiff.write(np.zeros((40, 60, 3), np.uint8), photometric="rgb", subifds=1, subfiletype=1, metadata=None)
        pattern = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]
        tiff.write(np.zeros((80, 120), np.uint16), photometric=32803, extratags=pattern, metadata=None)
    with pytest.raises(PictureError, match="is a raw file"):
        load(io.BytesIO(buffer.getvalue()))


@pytest.mark.usefixtures("without_plugins")
def test_a_tiff_file_under_the_name_of_a_raw_file_may_be_its_preview(tmp_path: Path) -> None:
    for name, is_refused in (("a.MEF", True), ("a.3fr", True), ("a.tif", False)):
        Image.new("RGB", (8, 6)).save(tmp_path / name, "TIFF")
        for read in (load, read_size):
            with pytest.raises(PictureError, match="is a raw file") if is_refused else contextlib.nullcontext():
                read(tmp_path / name)


@pytest.mark.parametrize("maker", ["NIKON CORPORATION", "SONY", "ACME"])
def test_ordinary_tiff_files_are_no_raw_files(maker: str) -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as tiff:
        pages = np.zeros((30, 40, 3), np.uint8)
        tiff.write(pages, photometric="rgb", subifds=1, extratags=[(271, "s", 0, maker, True)], metadata=None)
        tiff.write(pages[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    assert not is_raw(buffer.getvalue())
    assert load(io.BytesIO(buffer.getvalue())).width == 40


def test_damaged_directories_do_not_hang() -> None:
    data = bytearray(dng())
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for at in rng.integers(4, len(data), 8):
            changed[at] = rng.integers(256)
        assert is_raw(bytes(changed)) in (True, False)
    loop = bytearray(b"II*\0\x08\0\0\0" + bytes(8))
    loop[10:14] = (8).to_bytes(4, "little")  # the next directory is the same one
    assert not is_raw(bytes(loop))


def test_raw_files_are_developed_by_rawpy(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "photo.dng"
    path.write_bytes(dng())
    picture = load(path)
    assert picture.pixels.shape == (HEIGHT, WIDTH, 3) and picture.pixels.dtype == np.uint16
    assert read_size(path) == (WIDTH, HEIGHT)
    assert picture.notes == ("the raw photograph was developed with the white balance of the camera",)
    exif = Image.Exif()
    exif.load(picture.exif or b"")
    assert exif[271] == "ACME" and 50706 not in exif and 330 not in exif
    path.write_bytes(dng()[:600])
    with pytest.raises(PictureError, match="is a raw file"):
        load(path)
    path.write_bytes(dng())
    with pytest.raises(PictureError, match="too large to be decoded safely"):
        load(path, max_pixels=1000)


@pytest.mark.parametrize(("module", "format"), [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_heic_and_jpeg_xl_are_read_by_plugins(module: str, format: str) -> None:
    plugin = pytest.importorskip(module)
    if format == "HEIF":
        plugin.register_heif_opener()
    image = Image.linear_gradient("L").resize((80, 50)).convert("RGB")
    exif = Image.Exif()
    exif[271] = "ACME"
    buffer = io.BytesIO()
    image.save(buffer, format, quality=95, exif=exif.tobytes())
    picture = load(io.BytesIO(buffer.getvalue()))
    assert picture.format == format and picture.lossy == (format == "HEIF")
    assert np.abs(picture.pixels.astype(int) - np.asarray(image)).max() < 12
    assert b"ACME" in (picture.exif or b"")


@pytest.mark.usefixtures("without_plugins")
@pytest.mark.parametrize(
    ("data", "kind", "hint"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "a HEIC picture, which needs pillow-heif", "restorer[heif]"),
        (b"\xff\x0a\xcb\x06", "a JPEG XL picture, which needs pillow-jxl-plugin", "restorer[jxl]"),
        (b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a", "a JPEG XL picture, which needs pillow-jxl-plugin", "restorer[jxl]"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2", "a video", "PNG"),
        (b"\0\0\0\x14ftypqt  ", "a video", "PNG"),
        (b"%PDF-1.7\n", "a PDF document", "PNG"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing", "PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript file", "PNG"),
        (b"PK\x03\x04", "an archive", "PNG"),
        (b"gimp xcf v011", "a GIMP file", "PNG"),
    ],
)
def test_other_files_are_named(data: bytes, kind: str, hint: str) -> None:
    with pytest.raises(PictureError) as caught:
        load(io.BytesIO(data + bytes(300)))
    assert str(caught.value) == f"standard input is {kind}" and hint in caught.value.hint


def test_unknown_bytes_are_no_picture() -> None:
    with pytest.raises(PictureError, match="is not a picture"):
        load(io.BytesIO(b"hello, world" * 20))
