"""Holes filled with patches of the picture: cases whose answer is known, and the search against all pairs."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from restorer.images import patch_match
from restorer.images.connected import connected
from restorer.images.patch_fill import patch_fill
from restorer.images.patch_match import SIDE, Field


def square(size: int, top: int, left: int, side: int) -> Tensor:
    """Return a mask (size, size) with a square hole."""
    hole = torch.zeros(size, size, dtype=torch.bool)
    hole[top : top + side, left : left + side] = True
    return hole


def tiling(size: int, period: int, seed: int = 0) -> Tensor:
    """Return a random tile that is repeated, (3, size, size)."""
    tile = torch.rand(3, period, period, generator=torch.Generator().manual_seed(seed))
    count = math.ceil(size / period)
    return tile.repeat(1, count, count)[:, :size, :size]


@pytest.mark.parametrize("period", [6, 8, 11])
@pytest.mark.parametrize("side", [16, 30])
def test_a_periodic_texture_is_continued_exactly(period: int, side: int) -> None:
    x, hole = tiling(110, period), square(110, 37, 41, side)
    patched = patch_fill(torch.where(hole, 0.5, x), hole)
    assert patched is not None
    torch.testing.assert_close(patched.image, x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("slope", [0.0, 0.3, -1.2])
def test_a_straight_edge_continues_through_a_hole(slope: float) -> None:
    place = torch.arange(128.0) - 63.5
    x = ((place[:, None] - slope * place[None]).clamp(-1, 1) / 2 + 0.5).mul(0.8).add(0.1).expand(3, -1, -1)
    hole = square(128, 48, 48, 32)
    patched = patch_fill(torch.where(hole, 0.0, x), hole)
    assert patched is not None
    error = (patched.image - x)[:, hole].abs()
    assert float((error > 0.2).float().mean()) < 0.02


def test_shading_is_continued() -> None:
    place = torch.linspace(0, 1, 120)
    x = (0.2 + 0.3 * place[:, None] + 0.3 * place[None]).expand(3, -1, -1)
    hole = square(120, 40, 40, 40)
    patched = patch_fill(x, hole)
    assert patched is not None
    assert float((patched.image - x).abs().max()) < 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_neighbouring_things_share_a_hole(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = 0.15 + 0.1 * torch.rand(3, 160, 160, generator=generator)
    # The border between the two turns away from the hole above and below it, so that no edge leads through it.
    x[:, :, 80:] += 0.6
    x[:, :48, 60:] = 0.15 + 0.1 * torch.rand(3, 48, 100, generator=generator)
    hole = square(160, 56, 56, 48)
    patched = patch_fill(torch.where(hole, 0.0, x), hole, seed=seed, variety=1.0)
    assert patched is not None
    inside = patched.image[:, hole].mean(0)
    bright = float((inside > 0.5).float().mean())
    assert 0.2 < bright < 0.8
    assert float(((inside > 0.3) & (inside < 0.7)).float().mean()) < 0.2  # and nothing lies between them


def test_every_unknown_pixel_is_copied_from_a_known_one() -> None:
    generator = torch.Generator().manual_seed(1)
    x, hole = torch.rand(3, 90, 70, generator=generator), torch.zeros(90, 70, dtype=torch.bool)
    hole[30:60, :20] = True  # at the border of the picture
    patched = patch_fill(x, hole, seed=3, variety=1.0)
    assert patched is not None
    source = patched.source
    assert not hole.flatten()[source[hole]].any()
    assert torch.equal(source[~hole], torch.arange(90 * 70).view(90, 70)[~hole])
    other = torch.rand(1, 90, 70, generator=generator)
    assert torch.equal(patched.copied(other)[:, hole], other.flatten(1)[:, source[hole]])
    assert torch.equal(patched.image[:, ~hole], x[:, ~hole])


def test_the_grain_of_the_surroundings_continues() -> None:
    noise = 0.05 * torch.randn(3, 160, 160, generator=torch.Generator().manual_seed(2))
    hole = square(160, 50, 50, 48)
    patched = patch_fill(0.5 + noise, hole)
    assert patched is not None
    assert float(patched.image[:, hole].std()) == pytest.approx(0.05, rel=0.2)


def test_fillings_depend_on_the_seed_alone() -> None:
    x, hole = torch.rand(3, 80, 80, generator=torch.Generator().manual_seed(4)), square(80, 30, 30, 20)
    first, again, other = (patch_fill(x, hole, seed=s, variety=1.0) for s in (1, 1, 2))
    assert first is not None and again is not None and other is not None
    assert torch.equal(first.image, again.image) and not torch.equal(first.image, other.image)


def test_misfits_are_lower_for_what_fits() -> None:
    x, hole = tiling(100, 8), square(100, 40, 40, 24)
    patched = patch_fill(x, hole)
    assert patched is not None
    right, wrong = patched.misfits(x), patched.misfits(torch.where(hole, 0.5, x))
    assert float(right.max()) < 1e-8 < float(wrong[hole].min())
    assert not right[:30].any() and not wrong[:30].any()


@pytest.mark.parametrize("known", [0, 1, 20])
def test_a_picture_without_enough_known_pixels(known: int) -> None:
    hole = torch.ones(64, 64, dtype=torch.bool)
    hole[:, :known] = False
    assert (patch_fill(torch.rand(3, 64, 64), hole) is None) == (known < 20)
    assert patch_fill(torch.rand(3, SIDE - 1, 64), square(64, 0, 0, 2)[: SIDE - 1]) is None


def test_patch_match_finds_nearly_what_comparing_all_pairs_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 104, 104, generator=generator), 5, 1)[0]
    field = Field(square(100, 40, 40, 20))
    pixels = smooth.flatten(1).T.contiguous()
    _, exact = field.nearest(pixels, None, generator)
    monkeypatch.setattr(patch_match, "MOST_COMPARED", 0)
    place, found = field.nearest(pixels, None, generator, rounds=8)
    assert torch.isin(place, field.sources).all()
    torch.testing.assert_close(found, field.distances(pixels, place))
    assert (found >= exact - 1e-4).all() and float(found.mean()) < 1.15 * float(exact.mean())


def test_connected_parts_are_those_of_opencv() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((150, 171), np.uint8)
    for _ in range(12):
        centre, radius = (int(rng.integers(150)), int(rng.integers(150))), int(rng.integers(3, 12))
        cv2.circle(mask, centre, radius, 1, -1)
    cv2.line(mask, (5, 5), (160, 140), 1, 3)
    count, expected = cv2.connectedComponents(cv2.dilate(mask, np.ones((9, 9), np.uint8)))
    numbers = connected(torch.from_numpy(mask).bool())
    assert torch.equal(numbers == 0, torch.from_numpy(mask == 0))
    # Parts that a margin of four pixels joins may be one; others are not.
    pairs = {(int(a), int(b)) for a, b in zip(numbers[mask > 0].tolist(), expected[mask > 0].tolist(), strict=True)}
    assert len({a for a, _ in pairs}) == len(pairs) or len(pairs) >= count - 1
    assert all(len({b for a, b in pairs if a == number}) == 1 for number in {a for a, _ in pairs})


def test_all_and_nothing_are_connected() -> None:
    assert not connected(torch.zeros(9, 7, dtype=torch.bool)).any()
    assert (connected(torch.ones(9, 7, dtype=torch.bool)) == 1).all()
