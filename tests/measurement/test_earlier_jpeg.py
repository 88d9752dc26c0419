"""The JPEG file that a picture was before is found in its pixels, and in pictures that never were one it is not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.measurement.earlier_jpeg import find_earlier_jpeg, find_jpeg
from restorer.measurement.jpeg import Jpeg, read_jpeg

IMAGES = Path(__file__).resolve().parents[1] / "images"
NAMES = ("gates", "grapes")


def photograph(name: str) -> Image.Image:
    """Return a photograph that was shrunk, which removes the traces of its own compression."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        return image.convert("RGB").resize((240, 176), Image.Resampling.BICUBIC)


def stored(image: Image.Image, quality: int, subsampling: int = 2) -> bytes:
    """Return an image as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def decoded(data: bytes) -> Image.Image:
    """Return the picture of a file."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as (C, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.array(image)).float() / 255
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def indices(jpeg: Jpeg) -> Tensor:
    """Return the indices of the luminance."""
    return jpeg.components[0].indices


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quality", [15, 40, 75])
@pytest.mark.parametrize(("subsampling", "sampling"), [(0, "4:4:4"), (2, "4:2:0")])
def test_a_jpeg_that_was_saved_as_png_is_known_as_well_as_its_file(
    name: str, quality: int, subsampling: int, sampling: str
):
    data = stored(photograph(name), quality, subsampling)
    found, file = find_earlier_jpeg(to_tensor(decoded(data))), read_jpeg(data)
    assert found is not None
    assert file is not None
    assert (found.quality, found.sampling, found.offset, found.is_earlier) == (quality, sampling, (0, 0), True)
    # Colours that were clipped do not tell their luminance exactly.
    assert (indices(found) == indices(file)).float().mean() > 0.99


@pytest.mark.parametrize("crop", [(3, 5), (8, 1), (11, 14)])
def test_the_grid_is_found_after_a_crop(crop: tuple[int, int]):
    """The blocks that are left as a whole hold what the file held."""
    top, left = crop
    data = stored(photograph("gates"), 40)
    picture = decoded(data)
    found, file = find_earlier_jpeg(to_tensor(picture.crop((left, top, *picture.size)))), read_jpeg(data)
    assert found is not None
    assert file is not None
    assert (found.quality, found.sampling, found.offset) == (40, "4:2:0", (top % 16, left % 16))
    gone = [(cut - cut % 16) // 8 for cut in crop]  # blocks of which nothing is left
    first = [-(-cut // 8) for cut in crop]  # the first ones that are whole
    left_over = indices(found)[first[0] - gone[0] :, first[1] - gone[1] :]
    assert (left_over == indices(file)[first[0] :, first[1] :]).float().mean() > 0.99


def test_the_file_is_found_after_a_turn():
    """The tables are not symmetric, so a turn by a right angle transposes them."""
    data = stored(photograph("gates"), 40)
    turned = to_tensor(decoded(data).transpose(Image.Transpose.ROTATE_90))
    found = find_earlier_jpeg(turned)
    assert found is not None
    assert (found.quality, found.orientation) == (40, 5)
    assert found.degradation().consistency(turned[None] * 2 - 1, found.data()) > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_a_coarser_file_is_found_behind_a_finer_one(name: str):
    data = stored(decoded(stored(photograph(name), 30)), 85)
    found = find_jpeg(to_tensor(decoded(data)), data)
    assert found is not None
    assert (found.quality, found.is_earlier) == (30, True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quality", [20, 50, 75, 90])
def test_the_file_itself_is_no_earlier_one(name: str, quality: int):
    data = stored(photograph(name), quality)
    found = find_jpeg(to_tensor(decoded(data)), data)
    assert found is not None
    assert (found.quality, found.is_earlier) == (quality, False)


@pytest.mark.parametrize("name", NAMES)
def test_a_finer_file_behind_a_coarser_one_changes_nothing(name: str):
    data = stored(decoded(stored(photograph(name), 85)), 40)
    found = find_jpeg(to_tensor(decoded(data)), data)
    assert found is not None
    assert (found.quality, found.is_earlier) == (40, False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pictures_that_never_were_jpegs_have_none(name: str, mode: str):
    assert find_earlier_jpeg(to_tensor(photograph(name).convert(mode))) is None


@pytest.mark.parametrize("period", [4, 8, 16])
def test_drawings_on_a_grid_have_none(period: int):
    """Squares of 8 pixels have borders where blocks have them."""
    down, across = torch.meshgrid(torch.arange(128), torch.arange(160), indexing="ij")
    board = ((down // period + across // period) % 2) * 0.6 + 0.2
    assert find_earlier_jpeg(board[None].expand(3, -1, -1)) is None
    noise = 0.02 * torch.randn(3, 128, 160, generator=torch.Generator().manual_seed(0))
    assert find_earlier_jpeg((board + noise).clamp(0, 1)) is None


def test_a_gray_picture_has_one_plane():
    data = stored(photograph("gates").convert("L"), 30)
    found = find_earlier_jpeg(to_tensor(Image.open(io.BytesIO(data))))
    assert found is not None
    assert (found.colour, found.quality, len(found.components)) == ("gray", 30, 1)


def test_small_pictures_are_not_examined():
    assert find_earlier_jpeg(torch.rand(3, 40, 200)) is None
