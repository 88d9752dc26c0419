"""How soft a picture is, on photographs that were shrunk, blurred, enlarged and compressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from restorer.measurement.softness import SOFT, estimate_softness

PICTURES = sorted((Path(__file__).parents[1] / "images").glob("*.jpg"))
PHOTOGRAPHS = [p for p in PICTURES if p.stem in ("eagles", "gates", "grapes")]
FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.LANCZOS)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def shrunk(path: Path, factor: int, kind: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    image = Image.open(path).convert("RGB")
    return image.resize((image.width // factor, image.height // factor), kind)


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda p: p.stem)
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("kind", FILTERS, ids=lambda k: k.name)
def test_shrunk_photographs_are_not_soft(path, factor, kind) -> None:
    assert estimate_softness(tensor(shrunk(path, factor, kind))) < SOFT


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda p: p.stem)
@pytest.mark.parametrize("sigma", [0.9, 1.3, 2.0])
def test_blurred_photographs_are_soft(path, sigma) -> None:
    blurred = shrunk(path, 4).filter(ImageFilter.GaussianBlur(sigma))
    assert SOFT <= estimate_softness(tensor(blurred)) == pytest.approx(sigma, rel=0.45)


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda p: p.stem)
def test_the_estimate_grows_with_the_blur(path) -> None:
    small = shrunk(path, 3)
    found = [estimate_softness(tensor(small.filter(ImageFilter.GaussianBlur(s)))) for s in (0.5, 0.8, 1.1, 1.5)]
    assert found == sorted(found) and found[-1] > found[0] + 0.4


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda p: p.stem)
def test_enlarged_photographs_are_soft(path) -> None:
    small = shrunk(path, 4)
    enlarged = small.resize((2 * small.width, 2 * small.height), Image.Resampling.BICUBIC)
    assert estimate_softness(tensor(enlarged)) >= SOFT


def test_a_sharp_subject_before_a_soft_background_is_not_soft() -> None:
    small = shrunk(PHOTOGRAPHS[0], 2)
    scene = small.filter(ImageFilter.GaussianBlur(3))
    scene.paste(small.crop((0, 0, small.width // 3, small.height)), (0, 0))
    assert estimate_softness(tensor(scene)) < SOFT


@pytest.mark.parametrize("shape", [(3, 20, 200), (1, 200, 20), (3, 1, 1)])
def test_small_pictures_cannot_be_judged(shape) -> None:
    assert estimate_softness(torch.rand(shape)) == 0


def test_plain_pictures_cannot_be_judged() -> None:
    plain = (torch.linspace(0, 1, 100).expand(3, 100, 100) * 255).round() / 255
    assert estimate_softness(plain) == 0


def test_gray_and_colour_agree() -> None:
    gray = tensor(shrunk(PHOTOGRAPHS[1], 4).filter(ImageFilter.GaussianBlur(1)).convert("L"))
    assert estimate_softness(gray[:1]) == pytest.approx(estimate_softness(gray), abs=1e-3)
