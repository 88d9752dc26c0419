"""Every common kind of file: each mode in each format survives each kind of result without loss."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from picture_files import (
    CASES,
    DPI,
    SRGB,
    XMP,
    Case,
    converted_case,
    encode,
    palette_image,
    plain_case,
    random_bands,
    sample_exif,
)
from PIL import ExifTags, Image, ImageCms, features

from restorer.errors import UsageError
from restorer.images.encoders import encode_png, encode_tiff
from restorer.images.files import Picture, from_pil, load, load_mask, reduce_depth, to_pil, to_tensor, with_result
from restorer.images.pillow_modes import estimate_levels, turn_upright
from restorer.images.writing import save, target_format, written_depth

NAMES = [name for name in CASES if features.check("avif") or not name.startswith("avif")]
OUTPUT = {"GIF": "PNG"}  # GIF holds only 256 colours, so the command line writes PNG instead


def decode(data: bytes) -> Picture:
    """Read a picture from the bytes of a file."""
    return load(io.BytesIO(data))


def write(picture: Picture, format: str) -> tuple[bytes, tuple[str, ...]]:
    """Return the bytes of the written file, and the notes."""
    notes = save(picture, stream := io.BytesIO(), format)
    return stream.getvalue(), notes


def decode_independently(data: bytes, format: str) -> np.ndarray:
    """Return (H, W, C) as another library reads it; gray with alpha in a PNG becomes RGBA."""
    if format == "TIFF":
        bands = tifffile.imread(io.BytesIO(data))
    elif format == "PNG":
        bands = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        bands = bands if bands.ndim == 2 else bands[..., [2, 1, 0, 3][: bands.shape[-1]]]
    else:
        with Image.open(io.BytesIO(data)) as image:
            bands = np.asarray(image)
    return bands if bands.ndim == 3 else bands[..., None]


def expected_bands(picture: Picture, data: bytes, format: str) -> np.ndarray:
    """Return the bands of a picture in the layout of `decode_independently`."""
    colour = picture.pixels if picture.channels == 3 else picture.pixels[..., None]
    if format == "WEBP" or (format == "PNG" and picture.alpha is not None):
        colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
    return colour if picture.alpha is None else np.concatenate([colour, picture.alpha[..., None]], axis=-1)


def assert_metadata(case: Case, data: bytes, format: str) -> None:
    """Check that a file has the metadata of a case."""
    again = decode(data)
    assert again.icc == case.icc
    if case.has_exif:
        exif = Image.Exif()
        exif.load(again.exif or b"")
        assert exif[ExifTags.Base.Make] == "Maker" and exif[ExifTags.Base.Model] == "Model 1"
        assert exif[ExifTags.Base.DateTime] == "2020:01:02 03:04:05"
        assert float(exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime]) == pytest.approx(0.01)
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
    if case.has_dpi:
        assert again.dpi == pytest.approx(DPI, abs=0.02)
    if format == "TIFF":
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            tags = file.pages[0].tags
            assert (tags[34675].value if case.icc else None) == case.icc


# ---------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_file_is_read(name: str) -> None:
    case = CASES[name]()
    picture = decode(case.data)
    assert picture.format == case.format and picture.pixels.dtype == case.colour.dtype
    assert picture.depth in (8, 16, 32)
    if case.lossy:
        assert picture.pixels.shape == case.colour.shape
        assert np.abs(picture.pixels.astype(int) - case.colour).mean() < 3
    else:
        np.testing.assert_array_equal(picture.pixels, case.colour)
    if case.alpha is None:
        assert picture.alpha is None
    elif not case.lossy:
        assert picture.alpha is not None and picture.alpha.dtype == case.colour.dtype
        np.testing.assert_array_equal(picture.alpha, case.alpha)
    assert_metadata(case, case.data, "")
    x = to_tensor(picture)
    assert x.dtype == torch.float32 and 0 <= float(x.min()) and float(x.max()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_done_gives_the_file(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    picture = decode(case.data)
    data, notes = write(picture, case.format)
    assert data == case.data and notes == ("nothing has changed: the file is copied as it is",)
    if picture.pixels.dtype in (np.uint8, np.uint16) and picture.alpha is None:
        unchanged = with_result(picture, to_tensor(picture))
        assert write(unchanged, case.format)[0] == case.data
    other = "PNG" if case.format == "TIFF" else "TIFF"
    data, notes = write(picture, other)
    again = decode(data)
    if picture.bits <= 16 or other == "TIFF":
        np.testing.assert_array_equal(again.pixels, picture.pixels)
        assert notes == ()
    else:
        assert again.bits == 16 and "rounded to 16 bits" in notes[0]
    assert written_depth(picture, other) == again.bits


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_picture_keeps_depth_alpha_and_metadata(name: str) -> None:
    case = CASES[name]()
    picture = decode(case.data)
    black, white = picture.levels
    result = with_result(picture, 1 - to_tensor(picture))
    expected = (black + white - picture.pixels.astype(np.float64)).astype(picture.pixels.dtype)
    if picture.alpha is not None:
        hidden = picture.alpha == 0
        expected[hidden] = picture.pixels[hidden]  # these are kept bit for bit, whatever the network makes of them
        np.testing.assert_array_equal(result.pixels[hidden], picture.pixels[hidden])
        np.testing.assert_array_equal(result.alpha, picture.alpha)
    if result.bits == 32:
        np.testing.assert_allclose(result.pixels.astype(float), expected.astype(float), atol=1e-6 * (white - black))
    else:
        np.testing.assert_array_equal(result.pixels, expected)
    assert_written(case, result, OUTPUT.get(case.format, case.format))


@pytest.mark.parametrize("name", NAMES)
def test_an_enlarged_picture_keeps_depth_alpha_and_metadata(name: str) -> None:
    case = CASES[name]()
    picture = decode(case.data)
    twice = to_tensor(replace(picture, alpha=None)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    result = with_result(picture, twice)
    expected = picture.pixels.repeat(2, axis=0).repeat(2, axis=1)
    if result.bits == 32:
        black, white = picture.levels
        np.testing.assert_allclose(
            result.pixels.astype(float), expected.astype(float), atol=1e-6 * max(white - black, white)
        )
    else:
        np.testing.assert_array_equal(result.pixels, expected)
    if picture.alpha is not None:
        assert result.alpha is not None and result.alpha.dtype == picture.alpha.dtype
        size = result.width, result.height
        if picture.bits == 8:
            resampled = np.asarray(Image.fromarray(picture.alpha).resize(size, Image.Resampling.LANCZOS))
            np.testing.assert_array_equal(result.alpha, resampled)
        else:
            opacity = Image.fromarray((picture.alpha / picture.opaque).astype(np.float32))
            resampled = np.asarray(opacity.resize(size, Image.Resampling.LANCZOS)).clip(0, 1)
            np.testing.assert_allclose(result.alpha / picture.opaque, resampled, atol=1e-5)
    assert_written(case, result, OUTPUT.get(case.format, case.format))


def assert_written(case: Case, result: Picture, format: str) -> None:
    """Check that a result is written completely, by reading the file with another library and with this one."""
    data, _ = write(result, format)
    assert data != case.data
    if format not in ("JPEG", "AVIF"):
        bands = decode_independently(data, format)
        assert bands.dtype == result.pixels.dtype
        np.testing.assert_array_equal(bands, expected_bands(result, data, format))
        again = decode(data)
        assert again.bits == result.bits == written_depth(result, format)
        if result.alpha is not None:
            np.testing.assert_array_equal(again.alpha, result.alpha)
    assert_metadata(case, data, format)


@pytest.mark.parametrize("name", ["png RGBA", "tiff 16 bits x 4", "tiff float x 2", "webp RGBA", "png P and alpha"])
def test_hidden_colour_has_no_influence_at_any_depth(name: str) -> None:
    picture = decode(CASES[name]().data)
    assert picture.alpha is not None
    other = picture.pixels.copy()
    other[picture.alpha == 0] = 0
    assert torch.equal(to_tensor(picture), to_tensor(replace(picture, pixels=other)))


# ---------------------------------------------------------------------------------------------------------- conversions


def test_what_a_format_cannot_hold_is_said() -> None:
    deep = decode(CASES["tiff 16 bits x 3"]().data)
    for format in ("JPEG", "WEBP", "BMP"):
        data, notes = write(deep, format)
        assert "8 bits per channel: 16-bit values are rounded" in notes[0]
        expected = np.rint(deep.pixels / 257)
        if format != "JPEG":
            np.testing.assert_array_equal(decode_independently(data, format), expected)
        assert np.abs(decode_independently(data, format) - expected).mean() < 12 and written_depth(deep, format) == 8
    real = decode(CASES["tiff F to 12 and below 0"]().data)
    data, notes = write(real, "PNG")
    assert "floating-point values are rounded to 16 bits" in notes[0]
    black, white = real.levels
    expected = (real.pixels - black) / (white - black) * 65535
    np.testing.assert_allclose(decode_independently(data, "PNG")[..., 0], expected, atol=0.51)


def test_metadata_that_a_format_cannot_hold_are_named() -> None:
    source = encode(
        Image.new("RGB", (4, 4)), "JPEG", icc_profile=SRGB, exif=sample_exif(), xmp=XMP, dpi=DPI, comment=b"hi"
    )
    picture = decode(source)
    assert picture.text == {"Comment": "hi"}
    (note,) = write(picture, "BMP")[1]
    assert all(label in note for label in ("colour profile", "EXIF", "XMP", "Comment")) and "resolution" not in note
    assert "resolution" in write(picture, "GIF")[1][-1]
    assert "Comment" in write(picture, "TIFF")[1][0]
    data, notes = write(picture, "PNG")
    assert notes == () and decode(data).text == {"Comment": "hi"}
    data, notes = write(replace(picture, original=None), "JPEG")
    assert notes == () and decode(data).text == {"Comment": "hi"}


def test_texts_of_a_png_are_kept() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Title", "a title")
    info.add_itxt("Author", "作者")
    for image in (Image.new("RGB", (3, 3)), Image.fromarray(random_bands(1, np.uint16))):
        picture = decode(encode(image, "PNG", pnginfo=info))
        assert picture.text == {"Title": "a title", "Author": "作者"}
        assert decode(write(replace(picture, original=None), "PNG")[0]).text == picture.text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.02], (0, 1)),
        ([0.0, 1.0], (0, 1)),
        ([0.0, 200.0], (0, 255)),
        ([0.0, 100.0], (0, 100)),
        ([0.0, 1.7], (0, 1.7)),
        ([-0.5, 60_000.0], (-0.5, 65535)),
        ([0.0, 70_000.0], (0, 70_000)),
        ([np.nan, np.inf], (0, 1)),
        ([0.0, 0.0], (0, 1)),
    ],
)
def test_black_and_white_of_floats(values: list[float], expected: tuple[float, float]) -> None:
    assert estimate_levels(np.array(values, np.float32)) == pytest.approx(expected)
    picture = from_pil(Image.fromarray(np.array([values], np.float32)))
    assert picture.levels == pytest.approx(expected) and picture.depth == 32
    assert "taken as black" in picture.notes[0]
    assert to_pil(picture).mode == "F"


def test_values_that_are_no_numbers_are_black_and_said() -> None:
    picture = from_pil(Image.fromarray(np.array([[0.25, np.nan, -np.inf, 1.0]], np.float32)))
    assert "2 values are not finite" in picture.notes[1]
    assert to_tensor(picture).tolist() == [[[0.25, 0.0, 0.0, 1.0]]]
    result = with_result(picture, torch.tensor([[[0.5, 0.5, 0.5, 0.5]]]))
    assert result.pixels.tolist() == [[0.5] * 4]


def test_twelve_bits_and_white_is_zero() -> None:
    packed = np.frombuffer(bytes([0xFF, 0xF0, 0x00, 0x80, 0x01, 0x23]), np.uint8)
    head = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: 6}
    tags = Image.Exif()
    tags.endian = "<"
    tags.update(head)
    picture = decode(tags.tobytes()[6:] + packed.tobytes())
    assert picture.pixels.tolist() == [[0xFFFF, 0x0000, 0x8008, 0x1231]] and "12 bits" in picture.notes[0]
    values = random_bands(1, np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="miniswhite")
    np.testing.assert_array_equal(decode(buffer.getvalue()).pixels, 65535 - values)


def test_colour_multiplied_by_alpha_is_divided_by_it() -> None:
    alpha = np.array([[65535, 32768, 0]], np.uint16)
    colour = np.array([[[60000, 100, 7], [20000, 32768, 1], [0, 0, 0]]], np.uint16)
    bands = np.concatenate([colour, alpha[..., None]], axis=-1)
    for planar in ("contig", "separate"):
        buffer = io.BytesIO()
        stored = bands if planar == "contig" else np.moveaxis(bands, -1, 0)
        tifffile.imwrite(buffer, stored, photometric="rgb", extrasamples=["assocalpha"], planarconfig=planar)
        picture = decode(buffer.getvalue())
        np.testing.assert_array_equal(picture.alpha, alpha)
        assert picture.pixels[0].tolist() == [[60000, 100, 7], [39999, 65535, 2], [0, 0, 0]]


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_other_colour_spaces_are_converted_and_that_is_said(mode: str) -> None:
    assert decode(converted_case(mode, "TIFF").data).notes == (f"{mode} is read as RGB",)


def test_cmyk_goes_through_its_profile_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CMYK picture with a usable profile is read through it; the profile and its result are stand-ins."""
    result = Image.new("RGB", (3, 2), (1, 2, 3))
    monkeypatch.setattr(ImageCms, "profileToProfile", lambda *_, **__: result)
    data = encode(Image.new("CMYK", (3, 2)), "TIFF", icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:])
    picture = decode(data)
    assert picture.pixels[0, 0].tolist() == [1, 2, 3] and picture.icc is None
    assert picture.notes == ("CMYK is converted to sRGB by its colour profile",)


def test_extra_bands_are_left_out_and_said() -> None:
    buffer = io.BytesIO()
    bands = np.concatenate([random_bands(4, np.uint16), random_bands(3, np.uint16)], axis=-1)
    tifffile.imwrite(buffer, bands, photometric="rgb", extrasamples=["unassalpha"] + ["unspecified"] * 3)
    picture = decode(buffer.getvalue())
    np.testing.assert_array_equal(picture.pixels, bands[..., :3])
    np.testing.assert_array_equal(picture.alpha, bands[..., 3])
    assert any("3 bands" in note for note in picture.notes)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_of_several_pictures_the_first_is_used_and_that_is_said(format: str) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    picture = decode(data)
    assert picture.pixels[0, 0].tolist() == [255, 0, 0] and "only the first of 3" in picture.notes[0]
    buffer = io.BytesIO()
    stack = np.stack([random_bands(3, np.float32, seed=i) for i in range(3)])
    tifffile.imwrite(buffer, stack, photometric="rgb")
    deep = decode(buffer.getvalue())
    np.testing.assert_array_equal(deep.pixels, stack[0])
    assert "only the first of 3" in deep.notes[0]


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_of_ten_bits_is_said_to_be_reduced() -> None:
    data = plain_case("RGB", "AVIF").data
    at = data.index(b"av1C") + 6
    picture = decode(data)
    assert picture.depth == 8 and not any("bits" in note for note in picture.notes)
    from restorer.images.boxed import _avif_bits

    flagged = bytearray(data)
    flagged[at] |= 0x40
    assert _avif_bits(data) == 8 and _avif_bits(bytes(flagged)) == 10
    flagged[at] |= 0x20
    assert _avif_bits(bytes(flagged)) == 12


# ---------------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "tifffile"])
def test_deep_pictures_are_turned_too(kind: str, orientation: int) -> None:
    bands = random_bands(3, np.uint16)
    stored = Image.fromarray(np.arange(bands[..., 0].size, dtype=np.int32).reshape(bands.shape[:2]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.info["exif"] = exif.tobytes()
    from PIL import ImageOps

    upright = bands.reshape(-1, 3)[np.asarray(ImageOps.exif_transpose(stored))]
    np.testing.assert_array_equal(turn_upright(bands, orientation), upright)
    if kind == "PNG":
        data = encode_png(bands, exif=exif.tobytes())
    elif kind == "TIFF":
        data = encode_tiff(bands, False, exif=exif.tobytes())
    else:
        other = io.BytesIO()
        tifffile.imwrite(
            other,
            np.moveaxis(bands, -1, 0),
            photometric="rgb",
            planarconfig="separate",
            extratags=[(274, 3, 1, orientation, True)],
        )
        data = other.getvalue()
    picture = decode(data)
    np.testing.assert_array_equal(picture.pixels, upright)
    block = Image.Exif()
    block.load(picture.exif or b"")
    assert block[ExifTags.Base.Orientation] == 1
    again = decode(write(replace(picture, original=None), "PNG" if kind == "PNG" else "TIFF")[0])
    np.testing.assert_array_equal(again.pixels, upright)


# ------------------------------------------------------------------------------------------------------------- encoders


@given(arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))))
@settings(max_examples=40, deadline=None)
def test_png_of_16_bits_against_opencv(bands: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_independently(encode_png(bands), "PNG"), bands)


@given(
    st.sampled_from([np.uint8, np.uint16, np.uint32, np.int32, np.float32]).flatmap(
        lambda kind: arrays(kind, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)))
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_tiff_of_any_type_against_tifffile(bands: np.ndarray, big_endian: bool) -> None:
    exif = Image.Exif()
    exif.endian = ">" if big_endian else "<"
    exif[ExifTags.Base.Make] = "Maker"
    data = encode_tiff(bands, bands.shape[-1] in (2, 4), exif=exif.tobytes())
    # Pillow misreads big-endian numbers of 32 bits, so the encoder does not write them.
    assert data[:2] == (b"MM" if big_endian and bands.itemsize < 4 else b"II")
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)).reshape(bands.shape), bands)


def test_a_tiff_of_several_strips_is_read_by_all() -> None:
    rng = np.random.default_rng(0)
    bands = rng.integers(0, 256, (700, 900, 3), dtype=np.uint8)
    data = encode_tiff(bands, False, icc_profile=SRGB)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert len(file.pages[0].dataoffsets) == 2
    np.testing.assert_array_equal(decode_independently(data, "TIFF"), bands)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), -1)[..., ::-1], bands)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), bands)


def test_a_tiff_beyond_4_gb_is_refused_before_it_is_built() -> None:
    vast = np.broadcast_to(np.zeros((1, 1, 3), np.uint16), (30_000, 30_000, 3))
    with pytest.raises(UsageError, match="larger than 4 GB"):
        save(Picture(vast), io.BytesIO(), "TIFF")


# ----------------------------------------------------------------------------------------------------- other properties


def test_masks_of_any_depth() -> None:
    fill = np.zeros((6, 5), bool)
    fill[2:4, 1:3] = True
    for image in (fill, fill * np.uint16(65535), fill.astype(np.float32), fill.astype(np.int32)):
        data = encode(Image.fromarray(image), "TIFF")
        np.testing.assert_array_equal(load_mask(io.BytesIO(data), (6, 5)).fill, fill)
    deep = encode(Image.fromarray(np.array([[32767, 32896]], np.uint16)), "PNG")
    assert load_mask(io.BytesIO(deep), (1, 2)).fill.tolist() == [[False, True]]


def test_reduced_to_eight_bits_as_the_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(reduce_depth(Picture(values), 8).pixels, np.rint(values / 257))
    assert reduce_depth(Picture(values), 16).pixels is values


def test_sixteen_bits_survive_the_tensor() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = Picture(values)
    np.testing.assert_array_equal(with_result(picture, to_tensor(picture)).pixels, values)


def test_a_palette_stays_one_where_nothing_changes() -> None:
    image, _, _ = palette_image()
    data = encode(image, "PNG", transparency=bytes([0, 128]))
    kept, _ = write(decode(data), "PNG")
    with Image.open(io.BytesIO(kept)) as again:
        assert again.mode == "P" and again.info["transparency"] == bytes([0, 128])
    changed = with_result(decode(data), torch.zeros(3, *np.asarray(image).shape))
    with Image.open(io.BytesIO(write(changed, "PNG")[0])) as again:
        assert again.mode == "RGBA"
    assert "palette colours are read as RGB" in changed.notes


@pytest.mark.parametrize("name", ["png 16 bits x 4", "tiff float x 4", "tiff 16 bits x 2", "png P and key"])
def test_transparency_of_any_depth_does_not_go_into_a_jpeg(name: str) -> None:
    picture = decode(CASES[name]().data)
    with pytest.raises(UsageError) as caught:
        target_format(picture, Path("a.jpg"))
    assert "PNG" in caught.value.hint and "background" in caught.value.hint
    assert picture.alpha is not None
    opaque = replace(picture, alpha=np.full_like(picture.alpha, picture.opaque), original=None)
    assert decode(write(opaque, "JPEG")[0]).alpha is None


def test_pillow_images_come_back_in_their_depth() -> None:
    for values in (
        random_bands(1, np.uint16),
        random_bands(1, np.float32),
        random_bands(1, np.uint16).astype(np.int32),
    ):
        image = Image.fromarray(values)
        picture = from_pil(image)
        assert to_pil(picture).mode == image.mode
        np.testing.assert_array_equal(np.asarray(to_pil(picture)), values)
    assert to_pil(Picture(random_bands(3, np.uint16))).mode == "RGB"
    lazy = Image.open(io.BytesIO(CASES["png 16 bits x 3"]().data))
    reduced_by_pillow = from_pil(lazy)
    assert reduced_by_pillow.depth == 16 and reduced_by_pillow.bits == 8
    assert any("16 bits per channel" in note for note in reduced_by_pillow.notes)


def test_bands_beside_the_colour_are_named() -> None:
    """A decoder that knows only colour leaves them out, and the note says how many."""
    rng = np.random.default_rng(0)
    for bands, extra, dropped in ((5, ["unspecified"] * 2, 2), (4, ["unspecified"], 1), (4, ["unassalpha"], 0)):
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer, rng.integers(0, 256, (9, 8, bands), dtype=np.uint8), photometric="rgb", extrasamples=extra
        )
        notes = [note for note in decode(buffer.getvalue()).notes if "bands besides the colour" in note]
        assert notes == ([f"{dropped} bands besides the colour are left out"] if dropped else [])


def test_a_profile_that_is_cut_short_is_named_and_kept() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for length in (200, len(profile)):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 9)).save(buffer, "PNG", icc_profile=profile[:length])
        picture = decode(buffer.getvalue())
        assert picture.icc == profile[:length]
        assert any("cut short" in note for note in picture.notes) is (length < len(profile))
