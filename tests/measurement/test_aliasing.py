"""Thumbnails that were shrunk without a filter are told from those that were shrunk with one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.measurement.aliasing import estimate_aliasing, is_aliased
from restorer.measurement.credible import find_credible

IMAGES = Path(__file__).resolve().parents[1] / "images"
FILTER = Image.Resampling


def shrunk(name: str, scale: int, filter_: Image.Resampling, noise: float = 0.0) -> Tensor:
    """Return a photograph shrunk by a filter, with white noise of so many levels, (3, H, W) in [0, 1]."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        small = image.convert("RGB").resize((image.width // scale, image.height // scale), filter_)
    pixels = np.array(small) + noise * np.random.default_rng(0).standard_normal((small.height, small.width, 3))
    return torch.from_numpy(pixels.round().clip(0, 255).astype(np.float32)).permute(2, 0, 1) / 255


@pytest.mark.parametrize("filter_", [FILTER.BICUBIC, FILTER.LANCZOS, FILTER.BILINEAR])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", ["gates", "grapes", "eagles"])
def test_photographs_that_a_filter_shrank_are_believed(name: str, scale: int, filter_: Image.Resampling):
    assert not is_aliased(shrunk(name, scale, filter_))


@pytest.mark.parametrize("noise", [1.5, 4.0])
def test_noise_is_not_taken_for_aliasing(noise: float):
    assert not is_aliased(shrunk("grapes", 2, FILTER.BICUBIC, noise))


@pytest.mark.parametrize(("name", "scale"), [("gates", 3), ("gates", 4), ("grapes", 4), ("grapes", 6), ("eagles", 2)])
def test_nearest_neighbours_are_recognized(name: str, scale: int):
    assert is_aliased(shrunk(name, scale, FILTER.NEAREST))


def test_a_plain_or_tiny_picture_is_not_judged():
    assert estimate_aliasing(torch.full((3, 64, 64), 0.3)) == (-math.inf, -math.inf)
    assert estimate_aliasing(torch.rand(3, 31, 64)) == (-math.inf, -math.inf)


def test_an_aliased_picture_is_doubted_everywhere():
    y = 2 * shrunk("grapes", 4, FILTER.BICUBIC)[None] - 1
    assert find_credible(y, Bicubic(4)) is None
    found = find_credible(y, Bicubic(4), is_aliased=True)
    assert found is not None
    assert bool((found.doubt == 1).all())
