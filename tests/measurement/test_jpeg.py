"""What is read from JPEG files agrees with a decoder that hands out the coefficients."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.images.sizes import Region
from restorer.measurement.jpeg import STANDARD_TABLES, quality_of, read_jpeg, table_of_quality
from restorer.measurement.jpeg_window import cut_jpeg

IMAGES = Path(__file__).resolve().parents[1] / "images"
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def photograph(width: int = 240, height: int = 160) -> Image.Image:
    """Return part of a photograph without black and white, at which a decoder clips."""
    with Image.open(IMAGES / "gates.jpg") as image:
        return image.convert("RGB").crop((40, 20, 40 + width, 20 + height)).point(lambda value: 30 + 0.75 * value)


def stored(image: Image.Image, **options) -> bytes:
    """Return an image as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def true_indices(data: bytes, tmp_path: Path) -> list[torch.Tensor]:
    """Return the indices in a file, as libjpeg reads them."""
    jpeglib = pytest.importorskip("jpeglib", reason="jpeglib is not installed")
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    read = jpeglib.read_dct(str(path))
    planes = [read.Y, read.Cb, read.Cr] if read.has_chrominance else [read.Y]
    return [torch.from_numpy(plane.astype(np.int16)) for plane in planes]


@pytest.mark.parametrize("sampling", SUBSAMPLINGS)
@pytest.mark.parametrize(("quality", "share"), [(10, 1), (40, 1), (75, 1), (90, 0.999), (95, 0.98)])
def test_the_indices_are_those_of_the_file(sampling: str, quality: int, share: float, tmp_path: Path):
    data = stored(photograph(), quality=quality, subsampling=SUBSAMPLINGS[sampling])
    jpeg = read_jpeg(data)
    assert jpeg is not None
    assert (jpeg.width, jpeg.height, jpeg.colour) == (240, 160, "ycbcr")
    assert (jpeg.sampling, jpeg.quality) == (sampling, quality)
    for component, true in zip(jpeg.components, true_indices(data, tmp_path), strict=True):
        down, across = component.indices.shape[:2]
        assert (component.indices == true[:down, :across]).float().mean() >= share


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
def test_the_coding_does_not_matter(options: dict):
    plain, coded = read_jpeg(stored(photograph(), quality=60)), read_jpeg(stored(photograph(), quality=60, **options))
    assert plain is not None
    assert coded is not None
    torch.testing.assert_close(plain.data(), coded.data())


def test_gray_files_have_one_plane(tmp_path: Path):
    data = stored(photograph().convert("L"), quality=50)
    jpeg = read_jpeg(data)
    assert jpeg is not None
    assert (jpeg.colour, jpeg.sampling, len(jpeg.components)) == ("gray", "gray", 1)
    torch.testing.assert_close(jpeg.components[0].indices, true_indices(data, tmp_path)[0])


def test_files_of_printers_have_four_planes():
    jpeg = read_jpeg(stored(photograph().convert("CMYK"), quality=50))
    assert jpeg is not None
    assert (jpeg.colour, len(jpeg.components)) == ("cmyk", 4)


def test_files_of_red_green_and_blue_are_known(tmp_path: Path):
    data = stored(photograph(), quality=50, keep_rgb=True)
    jpeg = read_jpeg(data)
    assert jpeg is not None
    assert (jpeg.colour, len(jpeg.components)) == ("rgb", 3)
    operator, pixels = jpeg.degradation(), torch.from_numpy(np.array(Image.open(io.BytesIO(data))))
    assert operator.consistency(pixels.permute(2, 0, 1)[None] / 127.5 - 1, jpeg.data()) > 0.99


@pytest.mark.parametrize("side", [(8, 8), (1, 1), (7, 9), (17, 16), (16, 33), (64, 2)])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS.values())
def test_odd_sizes_are_read(side: tuple[int, int], subsampling: int, tmp_path: Path):
    data = stored(photograph(*side), quality=50, subsampling=subsampling)
    jpeg = read_jpeg(data)
    assert jpeg is not None
    for component, true in zip(jpeg.components, true_indices(data, tmp_path), strict=True):
        down, across = component.indices.shape[:2]
        # A file of one column or row is not decoded at half its size.
        assert (component.indices == true[:down, :across]).float().mean() > 0.9
    decoded = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)[None] / 127.5 - 1
    assert jpeg.degradation().measure(decoded).shape == jpeg.data().shape


def test_values_beyond_black_and_white_are_found(tmp_path: Path):
    """Text on white rings beyond white, where the decoder clips it: half of all blocks."""
    page = np.full((96, 128), 255, np.uint8)
    page[::7], page[:, ::11] = 0, 30
    data = stored(Image.fromarray(page), quality=30)
    jpeg = read_jpeg(data)
    assert jpeg is not None
    decoded = np.array(Image.open(io.BytesIO(data))).astype(float)
    assert (decoded == 255).mean() > 0.3
    assert (jpeg.components[0].indices == true_indices(data, tmp_path)[0]).float().mean() > 0.98


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_data_belong_to_the_upright_picture(orientation: int):
    from restorer.images import files

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(photograph(), quality=60, subsampling=0, exif=exif)
    jpeg, picture = read_jpeg(data), files.load(io.BytesIO(data))
    assert jpeg is not None
    assert jpeg.orientation == orientation
    assert jpeg.degradation().consistency(files.to_tensor(picture)[None] * 2 - 1, jpeg.data()) > 0.995


@pytest.mark.parametrize("size", [(176, 128), (187, 141)])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("window", [None, (96, 32)])
def test_the_first_block_of_the_upright_picture_is_known(
    orientation: int, size: tuple[int, int], window: tuple[int, int] | None
):
    """Where blocks meet, the steps between neighbouring pixels of a coarse file are largest."""
    from restorer.images import files

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(photograph(*size), quality=4, subsampling=2, exif=exif)
    jpeg, picture = read_jpeg(data), files.to_tensor(files.load(io.BytesIO(data)))
    assert jpeg is not None
    if window is not None:  # a part of the picture, which begins on its own grid of 32 pixels
        part = Region(window[0] // 3, window[1], picture.shape[-1] - window[0] // 3, picture.shape[-2] - window[1])
        jpeg, picture = cut_jpeg(jpeg, part), picture[..., part.rows, part.columns]
    for axis, missing in ((-2, jpeg.missing[0]), (-1, jpeg.missing[1])):
        jumps = picture.mean(0).diff(dim=axis).abs().mean(-1 if axis == -2 else 0)
        by_place = [float(jumps[place::8].mean()) for place in range(8)]
        assert (int(np.argmax(by_place)) + 1 + missing) % 8 == 0


def test_other_files_are_not_read():
    file = io.BytesIO()
    photograph().save(file, "PNG")
    assert read_jpeg(file.getvalue()) is None
    assert read_jpeg(stored(photograph())[:300]) is None
    assert read_jpeg(b"") is None


def test_tables_are_those_of_pillow():
    for quality in (1, 10, 49, 50, 75, 99, 100):
        with Image.open(io.BytesIO(stored(photograph(16, 16), quality=quality))) as image:
            for number, table in enumerate(STANDARD_TABLES):
                steps = torch.tensor(image.quantization[number], dtype=torch.float32).view(8, 8)
                torch.testing.assert_close(table_of_quality(quality, table), steps)
            assert quality_of(torch.tensor(image.quantization[0], dtype=torch.float32).view(8, 8)) == quality
