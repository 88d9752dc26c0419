"""Photographs that were shrunk are believed, and drawings, screenshots and sharpened thumbnails are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from stubs import Smooth
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.measurement.credible import bicubic_enlargement, find_credible
from restorer.tasks.enlarge import DOUBTED
from restorer.tasks.upscale import prepare_upscale

IMAGES = Path(__file__).resolve().parents[1] / "images"


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def shrunk(name: str, scale: int) -> Image.Image:
    """Return a photograph shrunk by a factor."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        cut = image.convert("RGB").crop((0, 0, image.width // scale * scale, image.height // scale * scale))
    return cut.resize((cut.width // scale, cut.height // scale), Image.Resampling.BICUBIC)


def screenshot() -> Image.Image:
    """Return text and lines on a plain background of 246, white and blue."""
    image = Image.new("RGB", (96, 64), (246, 246, 246))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 95, 11), fill=(40, 90, 160))
    draw.text((6, 18), "Save changes?", fill=(20, 20, 20))
    draw.rectangle((8, 36, 60, 50), outline=(90, 90, 90))
    draw.line((66, 30, 92, 58), fill=(200, 0, 0))
    return image


def lines() -> Image.Image:
    """Return thin black lines on white."""
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    for start in range(0, 64, 8):
        draw.line((start, 0, 0, start), fill="black")
    draw.ellipse((30, 30, 60, 60), outline="black")
    return image


def step() -> Image.Image:
    """Return a black square on gray."""
    image = Image.new("RGB", (64, 48), (128, 128, 128))
    ImageDraw.Draw(image).rectangle((24, 16, 40, 32), fill="black")
    return image


def sharpened() -> Image.Image:
    """Return a thumbnail after much unsharp masking."""
    return shrunk("gates", 4).filter(ImageFilter.UnsharpMask(2, 150, 0))


DRAWN = {"screenshot": screenshot, "lines": lines, "step": step, "sharpened": sharpened}


@pytest.mark.parametrize("name", ["gates", "grapes", "eagles"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_photographs_that_were_shrunk_are_believed(name: str, scale: int):
    assert find_credible(to_tensor(shrunk(name, scale))[None] * 2 - 1, Bicubic(scale)) is None


@pytest.mark.parametrize("scale", [2, 4])
def test_drawings_that_were_shrunk_are_believed(scale: int):
    """A hard edge on a plain background, shrunk by Pillow: it overshoots, and there is a large picture to it."""
    large = Image.new("RGB", (48 * scale, 40 * scale), (230, 230, 230))
    ImageDraw.Draw(large).polygon([(0, 5), (40 * scale, 17), (25 * scale, 38 * scale)], fill=(60, 60, 60))
    y = to_tensor(large.resize((48, 40), Image.Resampling.BICUBIC))[None] * 2 - 1
    assert find_credible(y, Bicubic(scale)) is None


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("scale", [2, 4])
def test_what_shrinking_cannot_have_made_is_doubted(name: str, scale: int):
    y = to_tensor(DRAWN[name]())[None] * 2 - 1
    found = find_credible(y, Bicubic(scale))
    assert found is not None
    assert 0 <= float(found.doubt.min()) and float(found.doubt.max()) == pytest.approx(1)
    untouched = (found.doubt == 0).expand_as(y)
    torch.testing.assert_close(found.data[untouched], y[untouched])


def test_the_enlargement_is_that_of_pillow():
    image = shrunk("gates", 4)
    large = to_tensor(image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC))
    ours = (bicubic_enlargement(to_tensor(image)[None] * 2 - 1, 3)[0] + 1) / 2
    # Pillow rounds and clips after the first axis too.
    assert ((ours - large).abs() > 1.5 / 255).float().mean() < 0.005


def overshoot(x: Tensor, image: Image.Image, scale: int) -> Tensor:
    """Return by how many levels a result leaves the range of the five by five small pixels around, (3, H, W)."""
    y = to_tensor(image)[None]
    padded = torch.nn.functional.pad(y, (2, 2, 2, 2), mode="replicate")
    high, low = torch.nn.functional.max_pool2d(padded, 5, 1), -torch.nn.functional.max_pool2d(-padded, 5, 1)
    high, low = (torch.nn.functional.interpolate(z, scale_factor=scale)[0] for z in (high, low))
    return 255 * torch.maximum(low - x, x - high).clamp(min=0)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("scale", [2, 4])
def test_results_overshoot_hardly_more_than_bicubic(name: str, scale: int):
    """With a prior that believes the data, only the data can ring. The bound of the overshoot is 3 levels."""
    image = DRAWN[name]()
    job = prepare_upscale(to_tensor(image), scale, detail=0.0, prior=Smooth())
    assert DOUBTED in job.notes
    result = job.run().image
    bicubic = to_tensor(image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC))
    assert overshoot(result, image, scale).max() <= overshoot(bicubic, image, scale).max() + 4
    forced = (Bicubic(scale).pseudo_inverse(to_tensor(image)[None]).clamp(0, 1))[0]
    assert overshoot(forced, image, scale).max() > overshoot(bicubic, image, scale).max() + 4, "nothing to prevent"


def test_photographs_still_give_their_input_back():
    image = shrunk("gates", 4)
    job = prepare_upscale(to_tensor(image), 2, detail=0.0, prior=Smooth())
    assert job.notes == ()
    result = Image.fromarray((job.run().image * 255).round().byte().permute(1, 2, 0).numpy())
    again = np.asarray(result.resize(image.size, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(again - np.asarray(image)).max() <= 1
