"""The filters that describe a pixel, compared with plain ones, and the network on top of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from restorer.networks.scratch_finder import FEATURES, NOISE, REACH, SIDES, ScratchFinder, describe

BRIGHT, DARK, BEST = (0, 1, 2), (3, 4, 5), (6, 7)


def strengths(x: torch.Tensor) -> torch.Tensor:
    """Return the strengths, of which the description holds logarithms, of one picture (3, H, W)."""
    return describe(x[None])[0].exp() - NOISE


def picture(height: int = 60, width: int = 50, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (33, 60)])
def test_every_pixel_is_described(size: tuple[int, int]) -> None:
    described = describe(picture(*size)[None])
    assert described.shape == (1, FEATURES, *size) and described.isfinite().all()
    assert ScratchFinder()(picture(*size)[None]).shape == (1, *size)


def test_top_hats_are_those_of_scikit_image() -> None:
    morphology = pytest.importorskip("skimage.morphology")
    x = picture()
    gray = x.mean(0).numpy()
    for place, side in enumerate(SIDES):
        square = np.ones((side, side))
        inner = (slice(side, -side),) * 2  # at the border they continue the picture differently
        white, black = morphology.white_tophat(gray, square), morphology.black_tophat(gray, square)
        np.testing.assert_allclose(strengths(x)[BRIGHT[place]].numpy()[inner], white[inner], atol=1e-5)
        np.testing.assert_allclose(strengths(x)[DARK[place]].numpy()[inner], black[inner], atol=1e-5)


@pytest.mark.parametrize("angle", range(8))
def test_a_line_is_strong_along_itself_and_weak_across(angle: int) -> None:
    x = torch.full((3, 61, 61), 0.4)
    for place in range(-25, 26):
        row, column = (round(place * f(math.pi * angle / 8)) for f in (math.sin, math.cos))
        x[:, 30 + row, 30 + column] = 0.9
    found = strengths(x)[:, 30, 30]
    assert float(found[BEST[0]]) > 0.9 * 0.5 and float(found[BEST[1]]) < 0.05
    assert float(found[8]) < 0.25 * float(found[BEST[0]])  # across
    assert float(found[10]) < 0.5 * float(found[BEST[0]])  # over all directions


def test_means_are_those_of_a_box() -> None:
    gray = picture().mean(0)
    expected = F.avg_pool2d(F.pad(gray[None, None], (8,) * 4, mode="replicate"), 17, 1)[0, 0]
    torch.testing.assert_close(describe(picture()[None])[0, 32], expected, atol=1e-5, rtol=0)


def test_bright_and_dark_change_places_in_the_negative() -> None:
    x = picture()
    straight, negative = describe(x[None])[0], describe(1 - x[None])[0]
    for bright, dark in zip(BRIGHT, DARK, strict=True):
        torch.testing.assert_close(straight[bright], negative[dark], atol=1e-4, rtol=0)


def test_nothing_beyond_the_reach_counts() -> None:
    x = picture(2 * REACH + 21, 2 * REACH + 21)
    other = torch.rand_like(x)
    inner = slice(REACH + 10 - REACH, REACH + 11 + REACH)
    other[:, inner, inner] = x[:, inner, inner]
    centre = REACH + 10
    torch.testing.assert_close(
        describe(x[None])[0, :, centre, centre], describe(other[None])[0, :, centre, centre], atol=1e-3, rtol=0
    )
