"""HEIC, AVIF and JPEG XL: what the plug-ins of Pillow leave out is read, written or named."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from picture_files import SRGB, sample_exif
from PIL import ExifTags, Image, ImageCms, features

from restorer.images.files import Picture, load, reduce_depth, with_result
from restorer.images.heif_file import colour_chunk
from restorer.images.jxl_file import JxlFile, parse_jxl, to_srgb
from restorer.images.metadata import read_resolution
from restorer.images.writing import save, written_depth

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmp:Rating="4"/></x:xmpmeta>'
HEIGHT, WIDTH = 24, 40


@pytest.fixture
def heif() -> object:
    return pytest.importorskip("pillow_heif")


@pytest.fixture
def jxl() -> object:
    return pytest.importorskip("pillow_jxl")


def ramp(channels: int, dtype: type = np.uint8) -> np.ndarray:
    """Return (H, W, C): soft slopes over the whole range, another one in each channel."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    slopes = [x / (WIDTH - 1), y / (HEIGHT - 1), (x + y) / (WIDTH + HEIGHT - 2), 1 - x / (WIDTH - 1)]
    return np.stack([np.rint(slopes[i] * np.iinfo(dtype).max) for i in range(channels)], -1).astype(dtype)


def picture(channels: int, dtype: type = np.uint8, **more: object) -> Picture:
    bands = ramp(channels, dtype)
    alpha = bands[..., -1] if channels in (2, 4) else None
    colour = bands[..., : channels - (alpha is not None)]
    return Picture(colour[..., 0] if channels < 3 else colour, alpha, **more)


def written(picture: Picture, format: str, **options: int) -> tuple[bytes, tuple[str, ...]]:
    notes = save(picture, buffer := io.BytesIO(), format, **options)
    return buffer.getvalue(), notes


# ---------------------------------------------------------------------------------------------------------------- HEIC


@pytest.mark.parametrize(("channels", "mode"), [(1, "gray"), (2, "colour"), (3, "colour"), (4, "colour")])
def test_heic_keeps_colour_transparency_and_metadata(channels: int, mode: str, heif: object) -> None:
    exif = sample_exif().tobytes()
    data, notes = written(picture(channels, icc=None, exif=exif, xmp=XMP, dpi=(300, 300)), "HEIC")
    found = load(io.BytesIO(data))
    expected = ramp(channels).astype(int)
    colour = found.pixels if found.pixels.ndim == 3 else found.pixels[..., None]
    assert notes == () and found.format == "HEIF" and found.lossy and colour.shape[2] == (1 if mode == "gray" else 3)
    # Chroma of half the size loses 12 levels at the borders of these slopes.
    assert np.abs(colour - expected[..., : 1 if channels < 3 else 3]).max() <= 12
    assert (found.alpha is None) == (channels in (1, 3))
    if found.alpha is not None:
        assert np.abs(found.alpha.astype(int) - expected[..., -1]).max() <= 3
    block = Image.Exif()
    block.load(found.exif or b"")
    assert block[ExifTags.Base.Make] == "Maker" and b'Rating="4"' in (found.xmp or b"")
    assert read_resolution(None, found.exif) == pytest.approx((300, 300))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_heic_of_quality_100_loses_nothing(channels: int, heif: object) -> None:
    data, _ = written(picture(channels, icc=SRGB if channels > 1 else None), "HEIC", quality=100)
    found = load(io.BytesIO(data))
    assert np.array_equal(found.pixels, picture(channels).pixels)
    assert found.icc == (SRGB if channels > 1 else None)


def test_sixteen_bits_become_ten_in_heic_and_are_read_as_sixteen(heif: object) -> None:
    deep = picture(3, np.uint16)
    assert written_depth(deep, "HEIF") == 10
    data, notes = written(deep, "HEIC", quality=100)
    assert notes == ("HEIF is written with at most 10 bits per channel: 16-bit values are rounded to 10 bits",)
    found = load(io.BytesIO(data))
    assert found.pixels.dtype == np.uint16 and found.depth == 10
    assert np.abs(found.pixels.astype(int) - deep.pixels).max() <= round(65535 / 1023 / 2)
    assert found.pixels.min() == 0 and found.pixels.max() == 65535


def test_the_colour_space_of_a_png_is_that_of_the_heic_file(heif: object) -> None:
    space = (b"cICP", bytes([9, 16, 0, 1]))  # BT.2020 with the curve of HDR10
    base = picture(3)
    base = replace(base, attachments=replace(base.attachments, chunks=(space,)))
    data, notes = written(base, "HEIC")
    found = load(io.BytesIO(data))
    assert notes == () and found.attachments.chunks == (space,)
    again, _ = written(with_result(found, torch.full((3, HEIGHT, WIDTH), 0.5)), "PNG")
    assert load(io.BytesIO(again)).attachments.chunks == (space,)
    assert np.abs(found.pixels.astype(int) - base.pixels).max() <= 12  # the matrix that the file names is the used one


def test_what_lies_beside_a_heic_picture_is_named(heif: object, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = written(picture(3), "HEIC")
    from restorer.images import boxed

    info = {"depth_images": [object()], "aux": {"urn:com:apple:photo:2020:aux:hdrgainmap": [7], "urn:x:matte": [8]}}
    original = boxed.heif_companions
    monkeypatch.setattr(boxed, "heif_companions", lambda found: original({**found, **info}))
    (note,) = load(io.BytesIO(data)).notes
    assert note.endswith("in the file: a depth map, a gain map, an auxiliary image")


# ---------------------------------------------------------------------------------------------------------------- AVIF


@pytest.mark.parametrize(
    ("named", "kept"), [((1, 13), False), ((1, 1), False), ((2, 2), False), ((9, 16), True), ((12, 13), True)]
)
def test_the_colour_space_of_an_avif_file_is_kept(named: tuple[int, int], kept: bool) -> None:
    if not features.check("avif"):
        pytest.skip("Pillow has no AVIF")
    data, _ = written(picture(3), "AVIF")
    at = data.index(b"colrnclx") + 8
    data = data[:at] + named[0].to_bytes(2, "big") + named[1].to_bytes(2, "big") + data[at + 4 :]
    chunk = (b"cICP", bytes([*named, 0, 1]))
    assert load(io.BytesIO(data)).attachments.chunks == ((chunk,) if kept else ())
    assert colour_chunk((300, 16)) == colour_chunk(None) == ()


# ------------------------------------------------------------------------------------------------------------- JPEG XL


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (2, np.uint8), (3, np.uint8), (4, np.uint8), (1, np.uint16)]
)
def test_jxl_loses_nothing(channels: int, dtype: type, jxl: object) -> None:
    base = picture(channels, dtype, exif=sample_exif().tobytes(), xmp=XMP, dpi=(300, 300))
    data, notes = written(base, "JXL")
    found = load(io.BytesIO(data))
    assert notes == () and np.array_equal(found.pixels, base.pixels)
    assert (found.alpha is None) == (base.alpha is None)
    assert found.alpha is None or np.array_equal(found.alpha, base.alpha)
    assert found.xmp == XMP and read_resolution(None, found.exif) == pytest.approx((300, 300))
    # The four bytes before the TIFF header are those of ISO/IEC 18181-2; without them, strict readers fail.
    assert b"Exif\0\0\0\0MM\0*" in data


def test_a_quality_makes_jxl_lossy(jxl: object) -> None:
    noise = Picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    sizes = {quality: len(written(noise, "JXL", quality=quality)[0]) for quality in (40, 90, 100)}
    assert sizes[40] < 0.7 * sizes[90] < 0.7 * sizes[100]
    assert len(written(replace(noise, lossy=True), "JXL")[0]) < sizes[100]  # a lossy picture is stored lossily


def test_sixteen_bits_of_colour_are_rounded_in_jxl_and_named(jxl: object) -> None:
    _, notes = written(picture(3, np.uint16), "JXL")
    assert notes == ("JXL is written with at most 8 bits per channel: 16-bit values are rounded to 8 bits",)


def wide_profile() -> bytes:
    """Return the profile of a space whose red is sRGB's green: its tags point to each other's content."""
    swapped = bytearray(SRGB)
    end = 132 + 12 * int.from_bytes(SRGB[128:132], "big")
    at = {SRGB[i : i + 4]: i + 4 for i in range(132, end, 12)}  # where the place of a tag's content is
    red, green = at[b"rXYZ"], at[b"gXYZ"]
    swapped[red : red + 8], swapped[green : green + 8] = SRGB[green : green + 8], SRGB[red : red + 8]
    return bytes(swapped)


def test_jxl_is_in_srgb(jxl: object) -> None:
    plain, (note,) = written(picture(3, icc=SRGB), "JXL")
    assert note.endswith("is left out") and np.array_equal(load(io.BytesIO(plain)).pixels, picture(3).pixels)
    data, (note,) = written(picture(4, icc=wide_profile()), "JXL")
    found = load(io.BytesIO(data))
    assert "converted from the profile" in note
    # What the profile calls red is shown as green.
    assert np.abs(found.pixels.astype(int) - ramp(3)[..., [1, 0, 2]]).max() <= 2
    assert found.alpha is not None and np.array_equal(found.alpha, ramp(4)[..., 3])
    _, (note,) = written(picture(3, icc=SRGB[:130]), "JXL")
    assert "cannot be applied" in note


def test_gray_is_converted_by_the_curve_of_its_profile() -> None:
    gray = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert to_srgb(ramp(1), gray)[1] != ""  # a profile of colour does not fit gray


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def test_boxes_of_jxl_files(jxl: object, monkeypatch: pytest.MonkeyPatch) -> None:
    brotli = pytest.importorskip("brotli")
    data, _ = written(picture(3), "JXL")
    assert data.startswith(b"\xff\x0a") and parse_jxl(data) == JxlFile(bits=8)
    head = b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a" + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Maker"
    packed = box(b"brob", b"Exif" + brotli.compress(bytes(4) + exif.tobytes()[6:]))
    whole = head + packed + box(b"brob", b"xml " + brotli.compress(XMP)) + box(b"jxlc", data)
    found = load(io.BytesIO(whole))
    block = Image.Exif()
    block.load(found.exif or b"")
    assert found.pixels.shape == (HEIGHT, WIDTH, 3)  # the decoder turns pictures by the codestream, not by EXIF
    assert block[ExifTags.Base.Make] == "Maker" and block[ExifTags.Base.Orientation] == 1 and found.xmp == XMP
    monkeypatch.setitem(sys.modules, "brotli", None)
    found = load(io.BytesIO(whole))
    assert found.exif is None and "pip install brotli" in found.notes[0]


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        # SizeHeader of 8x8 pixels, then ImageMetadata: all_default, extra_fields, float_sample, U32 of the bits
        ("1 00000 100  1", (8, False)),
        ("1 00000 100  0 0 0 00", (8, False)),
        ("1 00000 100  0 0 0 10", (10, False)),
        ("1 00000 100  0 0 0 11 111100", (16, False)),
        ("1 00000 100  0 0 1 10", (16, False)),
        ("1 00000 100  0 1 000 0 0 1 00 00 00 0 0 00", (8, True)),
        ("1 00000 100  0 1 000 0 0 1 00 00 00", (0, True)),
    ],
)
def test_the_header_of_a_codestream(bits: str, expected: tuple[int, bool]) -> None:
    digits = bits.replace(" ", "")  # the lowest bit of each number comes first
    count = -(-len(digits) // 8)
    number = int(digits[::-1], 2)
    found = parse_jxl(b"\xff\x0a" + number.to_bytes(count, "little"))
    if expected[0]:
        assert (found.bits, found.is_animated) == expected
    else:
        assert found.is_animated


def test_what_of_a_deep_jxl_is_lost_is_named(jxl: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from restorer.images import boxed

    data, _ = written(picture(3), "JXL")
    monkeypatch.setattr(boxed, "parse_jxl", lambda data: JxlFile(bits=16, is_animated=True))
    found = load(io.BytesIO(data))
    assert found.depth == 16
    assert found.notes == (
        "16 bits per channel are read as 8 bits",
        "only the first picture of the animation is used",
    )
    assert reduce_depth(found, 8) is found
