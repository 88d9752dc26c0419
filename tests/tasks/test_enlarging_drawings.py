"""Enlargements of drawings and of thumbnails that no filter has made: no halos, and grounds that stay plain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from stubs import Smooth
from torch import Tensor

import restorer
from restorer.images.sizes import Region
from restorer.tasks.enlarge import DOUBTED
from restorer.tasks.upscale import DRAWN_NOTE, prepare_upscale

IMAGES = Path(__file__).resolve().parents[1] / "images"


@pytest.fixture(scope="module")
def photo() -> restorer.Prior:
    """Return the embedded prior, which has a network of the first answer."""
    return restorer.load_prior("photo", device="cpu")


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def drawing() -> Image.Image:
    """Return a smooth drawing on a plain ground, of 48x40 pixels, which shrinking may have made."""
    image = Image.new("RGB", (48 * 4, 40 * 4), "#dcdcdc")
    draw = ImageDraw.Draw(image)
    draw.line((10, 20, 180, 60), fill="#203060", width=5)
    draw.ellipse((20, 70, 90, 140), fill="#b04030")
    draw.rectangle((110, 80, 170, 140), outline="#206020", width=4)
    return image.reduce(4)


def thumbnail(filter_: Image.Resampling) -> Image.Image:
    """Return a thumbnail of a photograph."""
    with Image.open(IMAGES / "gates.jpg") as image:
        return image.convert("RGB").resize((120, 90), filter_)


def around(image: Image.Image, scale: int) -> tuple[Tensor, Tensor]:
    """Return the least and the largest value of the five by five small pixels around, (3, H, W)."""
    padded = torch.nn.functional.pad(to_tensor(image)[None], (2, 2, 2, 2), mode="replicate")
    high, low = torch.nn.functional.max_pool2d(padded, 5, 1), -torch.nn.functional.max_pool2d(-padded, 5, 1)
    high, low = (torch.nn.functional.interpolate(z, scale_factor=scale)[0] for z in (high, low))
    return low, high


@pytest.mark.parametrize("detail", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scale", [2, 3])
def test_no_detail_draws_halos(photo: restorer.Prior, scale: int, detail: float):
    """Everywhere, and on the ground in particular: the bounds are those of the bicubic enlargement and 3 levels."""
    image = drawing()
    result = prepare_upscale(to_tensor(image), scale, detail=detail, prior=photo).run().image
    low, high = around(image, scale)
    bicubic = to_tensor(image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC))
    least, most = torch.minimum(low, bicubic) - 3 / 255, torch.maximum(high, bicubic) + 3 / 255
    assert bool(((result >= least) & (result <= most)).all())
    is_ground = (high == low).all(0)
    assert float(is_ground.float().mean()) > 0.2
    assert float((result - bicubic)[:, is_ground].abs().max()) <= 1.6 / 255


def test_a_drawing_is_enlarged_faithfully_by_default(photo: restorer.Prior):
    image = to_tensor(drawing())
    job = prepare_upscale(image, 2, prior=photo)
    assert DRAWN_NOTE in job.notes
    faithful = prepare_upscale(image, 2, detail=0.0, prior=photo)
    assert DRAWN_NOTE not in faithful.notes
    assert job.plan == faithful.plan
    assert job.detail == 0.0
    asked = prepare_upscale(image, 2, detail=0.5, prior=photo)
    assert asked.plan is not None and asked.plan.evaluations == 1
    assert DRAWN_NOTE not in asked.notes


def test_other_models_keep_their_default():
    image = to_tensor(drawing())
    job, given = prepare_upscale(image, 2, prior=Smooth()), prepare_upscale(image, 2, detail=0.5, prior=Smooth())
    assert DRAWN_NOTE not in job.notes
    assert job.plan == given.plan


def test_photographs_keep_the_network(photo: restorer.Prior):
    job = prepare_upscale(to_tensor(thumbnail(Image.Resampling.BICUBIC)), 2, prior=photo)
    assert job.notes == ()
    assert job.plan is not None and job.plan.evaluations == 1


def test_a_thumbnail_without_a_filter_is_doubted():
    """Its result stays within the range of the bicubic enlargement, with a prior that believes the data."""
    image = thumbnail(Image.Resampling.NEAREST)
    job = prepare_upscale(to_tensor(image), 4, detail=0.0, prior=Smooth())
    assert DOUBTED in job.notes
    result, (low, high) = job.run().image, around(image, 4)
    bicubic = to_tensor(image.resize((image.width * 4, image.height * 4), Image.Resampling.BICUBIC))
    overshoot = max(float((result - high).max()), float((low - result).max()))
    assert overshoot <= max(float((bicubic - high).max()), float((low - bicubic).max())) + 3 / 255


def test_the_parts_of_a_drawing_are_those_of_the_whole(photo: restorer.Prior):
    """What is found in the whole picture holds for a region, and the limits are alike."""
    image = to_tensor(drawing())
    whole = prepare_upscale(image, 2, prior=photo).run().image
    region = Region(8, 4, 30, 30)
    job = prepare_upscale(image, 2, region=region, prior=photo)
    assert DRAWN_NOTE in job.notes
    part = job.run().image
    assert float((part - whole[:, 8:68, 16:76]).abs().max()) <= 6 / 255
