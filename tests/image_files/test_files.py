"""Image files: round trips are exact, nothing is half written, and bad files are rejected in one line."""

from __future__ import annotations

import errno
import io
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from restorer.errors import OutputError, PictureError, RestorerError, UsageError
from restorer.images import writing
from restorer.images.files import (
    Picture,
    from_pil,
    load,
    load_mask,
    to_pil,
    to_tensor,
    with_result,
)
from restorer.images.writing import save, target_format, written_depth

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]  # only the colour space in the header is ever read
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" b="kept"/></x:xmpmeta>'
SIZES = [(1, 1), (7, 513), (16, 24)]
LOSSLESS = ["png", "webp", "tiff"]


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random uint8 values of the given shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(image: Image.Image, format: str, **options: object) -> io.BytesIO:
    """Return an image as a file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    buffer.seek(0)
    return buffer


def sample_exif(orientation: int | None = None) -> Image.Exif:
    """Return EXIF with a camera, a date, an exposure time and a GPS reference."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.DateTime] = "2020:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    return exif


def parse_exif(exif: bytes | None) -> Image.Exif:
    """Return a parsed EXIF block."""
    block = Image.Exif()
    block.load(exif or b"")
    return block


# ---------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_plain_mode_survives_every_lossless_format(tmp_path: Path, mode: str, suffix: str, size) -> None:
    height, width = size
    bands = random_pixels(height, width, len(Image.new(mode, (1, 1)).getbands()))
    image = Image.fromarray(bands[..., 0] if mode == "L" else bands)
    picture = from_pil(image)
    assert (picture.height, picture.width, picture.channels) == (height, width, 1 if mode[0] == "L" else 3)
    path = tmp_path / f"ein Bild – 写真.{suffix}"
    save(picture, path)
    again = load(path)
    pixels = again.pixels if again.channels == picture.channels else again.pixels[..., 0]  # WebP stores gray as RGB
    np.testing.assert_array_equal(pixels, picture.pixels)
    assert again.channels == picture.channels or suffix == "webp"
    if "A" in mode:
        np.testing.assert_array_equal(again.alpha, bands[..., -1])
    else:
        assert again.alpha is None
    assert not again.lossy and again.notes == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_round_trip_is_close_and_keeps_its_kind(channels: int) -> None:
    ramp = np.linspace(0, 255, 40 * 30).reshape(30, 40).astype(np.uint8)
    picture = Picture(ramp if channels == 1 else np.stack([ramp, ramp[::-1], 255 - ramp], axis=2))
    stream = io.BytesIO()
    save(picture, stream, "jpg")
    stream.seek(0)
    with Image.open(stream) as image:
        assert image.mode == ("L" if channels == 1 else "RGB")
        if channels == 3:
            assert [component[1:3] for component in image.layer] == [(1, 1)] * 3  # 4:4:4
    stream.seek(0)
    again = load(stream)
    assert again.lossy and again.format == "JPEG"
    assert np.abs(again.pixels.astype(int) - picture.pixels).mean() < 2


def test_other_modes_are_converted_and_say_so() -> None:
    bits = load(encode(Image.fromarray(np.array([[True, False]])), "PNG"))
    assert bits.pixels.tolist() == [[255, 0]] and bits.mode == "1" and "black and white" in bits.notes[0]
    red = Image.new("CMYK", (3, 2), (0, 255, 255, 0))
    cmyk = load(encode(red, "TIFF", icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:]))  # an unusable profile
    assert cmyk.pixels[0, 0].tolist() == [255, 0, 0] and cmyk.icc is None
    assert len(cmyk.notes) == 2 and "CMYK" in cmyk.notes[0] and "CMYK" in cmyk.notes[1]
    premultiplied = from_pil(Image.new("RGBA", (2, 2), (200, 100, 50, 128)).convert("RGBa"))
    assert premultiplied.alpha is not None and premultiplied.alpha[0, 0] == 128


def test_palette_and_key_transparency_become_alpha() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    opaque = load(encode(palette, "PNG"))
    assert opaque.pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]] and opaque.alpha is None and opaque.mode == "P"
    keyed = load(encode(palette, "PNG", transparency=1))
    assert keyed.alpha is not None and keyed.alpha.tolist() == [[255, 0]]
    assert keyed.pixels.tolist() == opaque.pixels.tolist()
    gray = load(encode(Image.fromarray(np.array([[7, 8]], dtype=np.uint8)), "PNG", transparency=7))
    assert gray.channels == 1 and gray.alpha is not None and gray.alpha.tolist() == [[0, 255]]
    rgb = load(encode(Image.new("RGB", (1, 1), (7, 8, 9)), "PNG", transparency=(7, 8, 9)))
    assert rgb.alpha is not None and rgb.alpha.tolist() == [[0]] and rgb.pixels.tolist() == [[[7, 8, 9]]]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        picture = load(encode(frames[0], format, save_all=True, append_images=frames[1:], **options))
        assert picture.pixels[0, 0].tolist() == [255, 0, 0]
        assert "only the first of 2" in picture.notes[0]


def test_lossy_webp_is_told_from_lossless() -> None:
    image = Image.fromarray(random_pixels(20, 20, 4))
    for lossless in (True, False):
        for options in ({}, {"icc_profile": SRGB, "exif": sample_exif()}):
            picture = load(encode(image, "WEBP", lossless=lossless, **options))
            assert picture.lossy is not lossless
    stream = io.BytesIO()
    save(load(encode(image, "WEBP", lossless=False)), stream)
    stream.seek(0)
    assert load(stream).lossy


# ------------------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_metadata_survives(tmp_path: Path, suffix: str) -> None:
    source = encode(Image.new("RGB", (8, 6)), "JPEG", exif=sample_exif(), icc_profile=SRGB, dpi=(300, 300), xmp=XMP)
    picture = replace(load(source), original=None)
    path = tmp_path / f"out.{suffix}"
    assert save(picture, path) == ()
    again = load(path)
    assert again.icc == SRGB
    exif = parse_exif(again.exif)
    assert exif[ExifTags.Base.Make] == "Maker" and exif[ExifTags.Base.DateTime] == "2020:01:02 03:04:05"
    assert float(exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime]) == pytest.approx(0.01)
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
    assert again.xmp is not None and b'b="kept"' in again.xmp and b"Orientation" not in again.xmp
    assert again.dpi == pytest.approx((300, 300), abs=0.02)


def test_tiff_is_compressed_where_its_metadata_allow(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    save(Picture(np.zeros((200, 200, 3), dtype=np.uint8), exif=exif.tobytes(), xmp=b"<x/>"), tmp_path / "a.tif")
    assert (tmp_path / "a.tif").stat().st_size < 10_000
    again = load(tmp_path / "a.tif")
    assert again.xmp == b"<x/>" and parse_exif(again.exif)[ExifTags.Base.Make] == "Maker"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, format: str, orientation: int) -> None:
    """A picture that is stored under the inverse turn is read upright; its flat 8x8 blocks survive JPEG compression."""
    upright = np.kron(np.array([[0, 80, 160], [40, 120, 250]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))
    turn = Image.Transpose
    inverse = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    stored = Image.fromarray(upright).convert("RGB")
    stored = stored.transpose(inverse[orientation]) if orientation > 1 else stored
    exif = sample_exif(orientation)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = stored.width
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "JPEG" else {}
    picture = load(encode(stored, format, exif=exif.tobytes(), xmp=XMP, **options))
    assert np.abs(picture.pixels[..., 0].astype(int) - upright).max() <= 2
    for _ in range(2):
        assert parse_exif(picture.exif)[ExifTags.Base.Orientation] == 1
        assert b"Orientation" not in (picture.xmp or b"")
        assert parse_exif(picture.exif).get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] == 24
        path = tmp_path / f"o.{format.lower()}"
        save(picture, path, overwrite=True)
        picture = load(path)
        assert np.abs(picture.pixels[..., 0].astype(int) - upright).max() <= 3


def test_the_embedded_thumbnail_is_dropped() -> None:
    thumbnail = encode(Image.fromarray(random_pixels(16, 16)), "JPEG").getvalue()
    entries = [(0x0201, 4, 1, 8 + 2 + 12 + 4 + 2 + 24 + 4), (0x0202, 4, 1, len(thumbnail))]
    first = struct.pack("<H", 1) + struct.pack("<HHI4s", 0x010F, 2, 4, b"abc\0") + struct.pack("<I", 8 + 18)
    second = struct.pack("<H", 2) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0\0\0\0"
    exif = b"Exif\0\0II*\0\x08\0\0\0" + first + second + thumbnail
    picture = load(encode(Image.new("L", (9, 9)), "JPEG", exif=exif))
    assert picture.exif is not None and parse_exif(picture.exif)[ExifTags.Base.Make] == "abc"
    assert thumbnail not in picture.exif and len(picture.exif) < 100


def test_a_profile_of_another_colour_space_is_dropped() -> None:
    gray = load(encode(Image.new("L", (2, 2)), "PNG", icc_profile=SRGB))
    assert gray.icc is None and "RGB colour profile" in gray.notes[0]
    fitting = load(encode(Image.new("L", (2, 2)), "PNG", icc_profile=GRAY))
    assert fitting.icc == GRAY and fitting.notes == ()
    coloured = with_result(fitting, torch.zeros(3, 2, 2))
    assert coloured.icc is None and "GRAY colour profile" in coloured.notes[0]
    notes = save(fitting, stream := io.BytesIO(), "webp")
    assert len(notes) == 1 and load(io.BytesIO(stream.getvalue())).icc is None


def test_metadata_too_large_for_jpeg_is_dropped_with_a_note() -> None:
    exif = sample_exif()
    exif[ExifTags.Base.ImageDescription] = "x" * 70_000
    picture = load(encode(Image.new("RGB", (2, 2)), "PNG", exif=exif))
    (note,) = save(picture, stream := io.BytesIO(), "jpeg")
    assert "too large" in note and load(io.BytesIO(stream.getvalue())).exif is None


def test_placeholder_resolution_is_none() -> None:
    assert load(encode(Image.new("L", (2, 2)), "TIFF")).dpi is None


# -------------------------------------------------------------------------------------------------------------- tensors


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]), st.booleans(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_tensor_round_trip_is_exact_even_under_transparency(h, w, channels, has_alpha, seed) -> None:
    pixels = random_pixels(h, w, channels, seed=seed)
    alpha = random_pixels(h, w, seed=seed + 1) // 128 * 255 if has_alpha else None
    picture = Picture(pixels[..., 0] if channels == 1 else pixels, alpha)
    x = to_tensor(picture)
    assert x.shape == (channels, h, w) and x.dtype == torch.float32
    assert float(x.min()) >= 0 and float(x.max()) <= 1
    back = with_result(picture, x)
    np.testing.assert_array_equal(back.pixels, picture.pixels)
    np.testing.assert_array_equal(back.alpha, alpha)


@given(st.integers(1, 33), st.integers(1, 33), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_hidden_colour_has_no_influence(h: int, w: int, seed: int) -> None:
    alpha = (random_pixels(h, w, seed=seed) // 128).astype(np.uint8) * 200
    visible = random_pixels(h, w, 3, seed=seed + 1)
    tensors = []
    for hidden in (0, 255):
        pixels = np.where(alpha[..., None] > 0, visible, hidden).astype(np.uint8)
        tensors.append(to_tensor(Picture(pixels, alpha)))
    assert torch.equal(*tensors)
    is_visible = torch.from_numpy(alpha > 0)
    colour = torch.from_numpy(visible.astype(np.float32) / 255).permute(2, 0, 1)
    assert torch.equal(tensors[0][:, is_visible], colour[:, is_visible])


def test_bled_colour_is_that_of_the_nearest_side_and_within_range() -> None:
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:, :8], pixels[:, -8:], pixels[:, 8:-8] = (200, 0, 0), (0, 0, 200), (0, 255, 0)
    alpha = np.zeros((32, 64), dtype=np.uint8)
    alpha[:, :8] = alpha[:, -8:] = 255
    x = to_tensor(Picture(pixels, alpha)) * 255
    assert float(x[1].max()) == 0
    assert float((x[0] + x[2]).sub(200).abs().max()) < 0.01  # a mixture of the two colours everywhere
    assert float(x[0, :, 8].min()) > 150 and float(x[2, :, -9].min()) > 150
    red = x[0].mean(0)
    assert float((red[1:] - red[:-1]).max()) < 0.01  # red decreases from one side to the other


def test_nothing_visible_gives_neutral_gray() -> None:
    assert to_tensor(Picture(random_pixels(3, 4), np.zeros((3, 4), dtype=np.uint8))).unique().tolist() == [0.5]


def test_result_is_rounded_clamped_and_kept_where_asked() -> None:
    picture = Picture(np.array([[1, 2, 3, 4]], dtype=np.uint8))
    values = torch.tensor([[[-1.0, 10.4 / 255, 10.6 / 255, 2.0]]])
    assert with_result(picture, values).pixels.tolist() == [[0, 10, 11, 255]]
    keep = np.array([[True, False, False, True]])
    assert with_result(picture, values, keep).pixels.tolist() == [[1, 10, 11, 4]]
    colour = with_result(picture, values.expand(3, 1, 4), keep)
    assert colour.pixels[0, 0].tolist() == [1, 1, 1] and colour.pixels[0, 1].tolist() == [10, 10, 10]
    with pytest.raises(ValueError, match="finite"):
        with_result(picture, torch.full((1, 1, 4), torch.nan))
    with pytest.raises(ValueError, match="size"):
        with_result(picture, torch.zeros(1, 2, 8), keep)
    with pytest.raises(ValueError, match="gray"):
        with_result(colour, values, keep)


def test_resized_result_resamples_alpha_and_corrects_exif() -> None:
    alpha = np.full((6, 5), 255, dtype=np.uint8)
    exif = sample_exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageHeight] = 6
    picture = Picture(random_pixels(6, 5, 3), alpha, exif=exif.tobytes())
    opaque = with_result(picture, torch.rand(3, 24, 20))
    assert opaque.alpha is not None and opaque.alpha.shape == (24, 20) and opaque.alpha.min() == 255
    assert parse_exif(opaque.exif).get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageHeight] == 24
    edge = with_result(Picture(picture.pixels, np.tril(alpha)), torch.rand(3, 24, 20))
    expected = Image.fromarray(np.tril(alpha)).resize((20, 24), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(edge.alpha, np.asarray(expected))


def test_pil_and_back() -> None:
    picture = Picture(random_pixels(4, 5, 3), random_pixels(4, 5), icc=SRGB, xmp=b"<x/>", dpi=(72.0, 72.0))
    image = to_pil(picture)
    assert image.mode == "RGBA" and image.size == (5, 4)
    again = from_pil(image)
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    np.testing.assert_array_equal(again.alpha, picture.alpha)
    assert (again.icc, again.xmp, again.dpi, again.format) == (SRGB, b"<x/>", (72.0, 72.0), "")


# ---------------------------------------------------------------------------------------------------------------- masks


def test_mask_of_another_size() -> None:
    half = np.zeros((50, 75), dtype=np.uint8)
    half[:25] = 255
    fill, note = load_mask(encode(Image.fromarray(half), "PNG"), (101, 150))
    assert fill.shape == (101, 150) and fill[:50].all() and not fill[52:].any()
    assert "75x50" in note and "150x101" in note
    with pytest.raises(UsageError, match=r"75x50.*160x100"):
        load_mask(encode(Image.fromarray(half), "PNG"), (100, 160))


# ----------------------------------------------------------------------------------------------------------- bad inputs


def bad_files() -> dict[str, bytes]:
    """Return damaged files by their names."""
    photo = Image.fromarray(random_pixels(64, 64, 3))
    jpeg, png = encode(photo, "JPEG").getvalue(), encode(photo, "PNG").getvalue()
    return {
        "empty.png": b"",
        "text.png": b"This is not a picture.\nNot at all.\n",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "half.webp": (webp := encode(photo, "WEBP").getvalue())[: len(webp) // 2],
        "half.tif": encode(photo, "TIFF").getvalue()[:5000],
        "head.png": png[:20],
        "flipped.png": png[:60] + bytes([png[60] ^ 255]) + png[61:],
    }


@pytest.mark.parametrize("name", bad_files())
def test_bad_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bad_files()[name])
    for source in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(PictureError) as caught:
            load(source)
        assert_one_line(caught.value)
        assert (str(path) if isinstance(source, Path) else "standard input") in str(caught.value)


def assert_one_line(error: RestorerError) -> None:
    """Check that the message and the hint are one line each."""
    assert "\n" not in str(error) and len(str(error)) < 300
    assert error.hint and "\n" not in error.hint


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.png", "no such file"), (tmp_path, "directory")):
        with pytest.raises(PictureError, match=message) as caught:
            load(path)
        assert_one_line(caught.value)


@pytest.mark.parametrize("block", [b"II*\0\xff\xff\xff\x7f", b"garbage", b"II*\0\x08\0\0\0\xff\xff\x12"])
def test_damaged_exif_does_not_cost_the_picture(block: bytes) -> None:
    picture = load(encode(Image.new("RGB", (4, 4)), "JPEG", exif=b"Exif\0\0" + block))
    assert picture.pixels.shape == (4, 4, 3) and picture.exif is None


# -------------------------------------------------------------------------------------------------------------- writing


def test_transparency_to_jpeg_is_refused_naming_the_fixes() -> None:
    picture = Picture(random_pixels(4, 4, 3), np.full((4, 4), 254, dtype=np.uint8))
    for name in ("a.jpg", "a.bmp"):
        with pytest.raises(UsageError) as caught:
            target_format(picture, Path(name))
        assert "PNG" in caught.value.hint and "background" in caught.value.hint
    opaque = Picture(picture.pixels, np.full((4, 4), 255, dtype=np.uint8))
    save(opaque, stream := io.BytesIO(), "JPEG")
    assert load(io.BytesIO(stream.getvalue())).alpha is None


def test_formats_by_suffix_by_name_and_by_origin(tmp_path: Path) -> None:
    picture = Picture(random_pixels(4, 4, 3), format="TIFF")
    assert target_format(picture, Path("a.JPG")) == "JPEG"
    assert target_format(picture, Path("a.png"), "webp") == "WEBP"
    assert target_format(picture, Path("a")) == "TIFF"
    assert target_format(picture, io.BytesIO()) == "TIFF"
    for target, origin in ((Path("a.xyz"), "PNG"), (Path("a"), "PSD"), (Path("a"), "")):
        with pytest.raises(UsageError) as caught:
            target_format(Picture(picture.pixels, format=origin), target)
        assert all(name in caught.value.hint for name in ("PNG", "JPEG", "WebP", "TIFF"))
    assert save(picture, tmp_path / "a.bmp") == ()
    assert written_depth(picture, "BMP") == 8
    np.testing.assert_array_equal(load(tmp_path / "a.bmp").pixels, picture.pixels)
    assert "256 colours" in save(picture, tmp_path / "a.gif")[0]
    half = np.array([[255, 0]], dtype=np.uint8)
    save(Picture(np.array([[9, 9]], dtype=np.uint8), half), tmp_path / "gray.gif")
    np.testing.assert_array_equal(load(tmp_path / "gray.gif").alpha, half)


def test_a_size_the_format_refuses() -> None:
    with pytest.raises(UsageError, match="WEBP") as caught:
        save(Picture(np.zeros((1, 17_000), dtype=np.uint8)), io.BytesIO(), "webp")
    assert_one_line(caught.value)


def test_existing_files_are_never_overwritten_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, path = Picture(random_pixels(4, 4)), tmp_path / "a.png"
    path.write_bytes(b"precious")
    for link in (os.link, _reject_links):
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(OutputError, match="exists"):
            save(picture, path)
        assert path.read_bytes() == b"precious" and [p.name for p in tmp_path.iterdir()] == ["a.png"]
    save(picture, path, overwrite=True)
    np.testing.assert_array_equal(load(path).pixels, picture.pixels)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def _reject_links(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def test_file_systems_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _reject_links)
    picture = Picture(random_pixels(4, 4))
    save(picture, tmp_path / "a.png")
    np.testing.assert_array_equal(load(tmp_path / "a.png").pixels, picture.pixels)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(picture, tmp_path / "b.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_save_that_fails_midway_leaves_nothing(tmp_path: Path, monkeypatch, error, overwrite: bool) -> None:
    path = tmp_path / "a.png"
    if overwrite:
        path.write_bytes(b"precious")
    temporary: list[str] = []

    def fail(_: int) -> None:
        temporary.extend(p.name for p in tmp_path.iterdir() if p != path)
        raise error

    monkeypatch.setattr(writing.os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError) as caught:
        save(Picture(random_pixels(4, 4)), path, overwrite=overwrite)
    assert len(temporary) == 1 and temporary[0].startswith(".") and temporary[0].endswith(".partial")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"precious"] if overwrite else [])
    if isinstance(caught.value, OutputError):
        assert "disk is full" in str(caught.value)
        assert_one_line(caught.value)


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Picture(random_pixels(4, 4), format="PNG")
    with pytest.raises(OutputError, match="does not exist"):
        save(picture, tmp_path / "none" / "a.png")
    with pytest.raises(OutputError, match="is a folder"):
        save(picture, tmp_path, overwrite=True)

    def deny(*_: object) -> None:  # permissions do not stop the superuser, who may run the tests
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(writing, "_write_synced", deny)
    with pytest.raises(OutputError, match="not writable") as caught:
        save(picture, tmp_path / "a.png")
    assert_one_line(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes and links")
def test_overwriting_keeps_the_mode_and_follows_links(tmp_path: Path) -> None:
    real, link = tmp_path / "real.png", tmp_path / "link.png"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    save(Picture(random_pixels(4, 4)), link, overwrite=True)
    assert link.is_symlink() and load(real).format == "PNG" and real.stat().st_mode & 0o777 == 0o640


def test_xmp_of_a_png_is_read_whichever_way_it_is_kept() -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    picture = load(encode(Image.new("L", (2, 2)), "PNG", pnginfo=info))
    assert picture.xmp == XMP.replace(b' tiff:Orientation="6"', b"")
