"""Transparency is enlarged as a picture: closer to the truth than resampling, and exact where it does not vary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from stubs import Smooth, Spy

from restorer import upscale
from restorer.images.files import Picture, with_result
from restorer.models.load import load_prior
from restorer.tasks.upscale import prepare_upscale

SIDE, FINE = 48, 16  # pixels of a small shape, and those of the drawing for each of them


def disc(draw: ImageDraw.ImageDraw, scale: int) -> None:
    draw.ellipse([8.3 * scale, 6.1 * scale, 41.2 * scale, 39 * scale], fill=255)


def arrow(draw: ImageDraw.ImageDraw, scale: int) -> None:
    corners = [(5, 7), (43, 20), (27, 25), (33, 44), (20, 31), (9, 41)]
    draw.polygon([(x * scale, y * scale) for x, y in corners], fill=255)


def drawn(shape: object) -> Image.Image:
    """Return a shape as a large picture of black and white."""
    image = Image.new("L", (SIDE * FINE, SIDE * FINE))
    shape(ImageDraw.Draw(image), FINE)  # type: ignore[operator]
    return image


def shrunk(image: Image.Image, side: int) -> np.ndarray:
    """Return the share of each pixel that a shape covers, 0..255."""
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


def enlarged(alpha: np.ndarray, scale: float) -> np.ndarray:
    """Return the transparency of an enlarged picture of one colour, 0..255."""
    pixels = np.full((*alpha.shape, 4), 128, np.uint8)
    pixels[..., 3] = alpha
    result = upscale(Image.fromarray(pixels), scale, steps=4, prior=load_prior("photo", "cpu", "fp32"))
    return np.asarray(result)[..., 3].astype(float)


def by_lanczos(alpha: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(alpha).resize((side, side), Image.Resampling.LANCZOS)).astype(float)


def error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(((found - truth) ** 2).mean()))


@pytest.mark.parametrize("shape", [disc, arrow])
@pytest.mark.parametrize("scale", [2, 4])
def test_an_antialiased_shape_has_less_error_than_by_lanczos(shape: object, scale: int) -> None:
    """With all steps the error is half; four steps are enough for seven tenths."""
    image = drawn(shape)
    small, truth = shrunk(image, SIDE), shrunk(image, SIDE * scale).astype(float)
    assert error(enlarged(small, scale), truth) < 0.7 * error(by_lanczos(small, SIDE * scale), truth)


@pytest.mark.parametrize("shape", [disc, arrow])
def test_a_shape_of_two_values_has_less_error_than_by_lanczos(shape: object) -> None:
    image = drawn(shape)
    small = np.where(shrunk(image, SIDE) > 127, 255, 0).astype(np.uint8)
    truth = shrunk(image, SIDE * 2).astype(float)
    assert error(enlarged(small, 2), truth) < error(by_lanczos(small, SIDE * 2), truth)


@pytest.mark.parametrize("is_opaque", [True, False])
def test_lines_of_one_pixel_keep_their_opacity(is_opaque: bool) -> None:
    """Hairs and gaps of one pixel stay, level and slanted, as they do in a shape that is enlarged by Lanczos."""
    image = Image.new("L", (SIDE, SIDE))
    for line in ((4, 10, 44, 10), (20, 4, 20, 44), (4, 40, 40, 4), (6, 44, 44, 30)):
        ImageDraw.Draw(image).line(line, fill=255)
    hairs = np.asarray(image) if is_opaque else 255 - np.asarray(image)
    found = enlarged(hairs, 2)
    assert found.mean() == pytest.approx(hairs.mean(), abs=0.1 * np.asarray(image).mean())
    assert (found.max() if is_opaque else 255 - found.min()) > 240


@pytest.mark.parametrize("scale", [2, 1.5])
def test_what_does_not_vary_is_exact(scale: float) -> None:
    alpha = shrunk(drawn(disc), SIDE)
    result = enlarged(alpha, scale)
    padded = np.pad(alpha, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(SIDE, SIDE, 9)
    flat = windows.min(-1) == windows.max(-1)
    nearest = ((np.arange(round(SIDE * scale)) + 0.5) / scale).astype(int)
    inside = np.ix_(nearest, nearest)
    assert flat.mean() > 0.5
    assert np.array_equal(result[flat[inside]], alpha[inside][flat[inside]])


def test_only_the_part_that_varies_is_computed() -> None:
    image, alpha = torch.rand(3, 400, 400), torch.ones(400, 400)
    alpha[200:220, 200:220] = 0.3
    spy = Spy(Smooth())
    job = prepare_upscale(image, 2, alpha=alpha, steps=2, prior=spy)
    assert job.alpha is not None and max(job.alpha.start.shape[-2:]) < 400
    assert job.evaluations == 4 and "transparency" in " ".join(job.notes)
    restored = job.run()
    assert len(spy.calls) == 4
    assert restored.alpha is not None and restored.alpha.shape == (800, 800) and float(restored.alpha[0, 0]) == 1


def test_a_transparency_that_does_not_vary_takes_no_evaluation() -> None:
    for alpha in (None, torch.full((20, 20), 0.3)):
        assert prepare_upscale(torch.rand(3, 20, 20), 2, alpha=alpha, prior=Smooth()).alpha is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_given_transparency_is_written_in_the_numbers_of_the_picture(dtype: type[np.generic]) -> None:
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    picture = Picture(np.zeros((2, 2), dtype), np.full((2, 2), white, dtype))
    result = with_result(picture, torch.zeros(1, 4, 4), alpha=torch.full((4, 4), 0.5))
    assert result.alpha is not None and result.alpha.dtype == dtype
    assert np.allclose(result.alpha, white / 2, atol=0.5)
