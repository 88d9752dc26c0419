"""Crops that are compressed or noisy are training crops whose noise is not white."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.schedule import Schedule
from restorer.errors import UsageError
from restorer.training.damage import FACTORS, IMPORTANCE, WHITE_FACTORS, damage_some
from restorer.training.recipe import Recipe

SCHEDULE = Schedule("squaredcos_cap_v2")
IMAGES = Path(__file__).resolve().parents[1] / "images"


def crops(count: int = 24, side: int = 128) -> Tensor:
    """Return crops of photographs on [-1, 1]."""
    rng, found = np.random.default_rng(0), []
    for i in range(count):
        with Image.open(IMAGES / ("gates.jpg", "eagles.jpg", "grapes.jpg")[i % 3]) as image:
            pixels = np.asarray(image.convert("RGB").resize((300, 240)))
        top, left = int(rng.integers(240 - side)), int(rng.integers(300 - side))
        found.append(torch.from_numpy(pixels[top : top + side, left : left + side].copy()).permute(2, 0, 1))
    return torch.stack(found).float() / 127.5 - 1


def draw(x0: Tensor, jpeg: float, noise: float, seed: int = 3):  # type: ignore[no-untyped-def]
    """Return what `damage_some` makes of crops at timestep 500."""
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    t = torch.full((len(x0),), 500.0, dtype=torch.float64)
    return eps, damage_some(x0, t, eps, jpeg_share=jpeg, noise_share=noise, schedule=SCHEDULE, seed=seed)


def test_the_shares_of_damaged_crops() -> None:
    x0 = crops(60)
    eps, drawn = draw(x0, 0.3, 0.3)
    is_plain = (drawn.eps == eps).flatten(1).all(1)
    assert 0.3 < is_plain.float().mean() < 0.55
    assert torch.equal(drawn.x0[is_plain], x0[is_plain])
    assert (drawn.t[is_plain] == 500).all() and (drawn.weight[is_plain] == 1).all()
    assert torch.equal(drawn.t[is_plain], drawn.level[is_plain])


@pytest.mark.parametrize(("jpeg", "noise"), [(1.0, 0.0), (0.0, 1.0)])
def test_the_noise_of_a_damaged_crop_has_the_level_that_is_told(jpeg: float, noise: float) -> None:
    x0 = crops()
    _, drawn = draw(x0, jpeg, noise)
    told, real = SCHEDULE.sigma_at(drawn.t), SCHEDULE.sigma_at(drawn.level)
    is_damaged = drawn.t != 500
    assert is_damaged.sum() > 16
    rms = drawn.eps.square().mean((1, 2, 3)).sqrt() * told
    ratio = (rms / real)[is_damaged]
    assert ((ratio - 1).abs() < 0.05).all()  # white noise and damage are independent
    factor = (told / real)[is_damaged]
    assert factor.min() < 1.2 and factor.max() > 2 and (factor <= FACTORS[1] * 1.05).all()
    assert (factor >= FACTORS[0] * 0.95).all() and WHITE_FACTORS[0] < 1
    expected = IMPORTANCE * told**2 / (1 + told**2) * (1 + real**2) / real**2
    assert torch.allclose(drawn.weight[is_damaged].double(), expected[is_damaged], rtol=1e-5)


def test_compression_is_undone_by_the_true_noise() -> None:
    """x_t less its noise is the clean crop, so the target of a damaged crop is the clean crop."""
    x0 = crops(6)
    _, drawn = draw(x0, 1.0, 0.0)
    assert torch.equal(drawn.x0, x0)
    told = SCHEDULE.sigma_at(drawn.t).view(-1, 1, 1, 1).float()
    noisy = x0 + told * drawn.eps
    blocks = [float(_block_edges(noisy[i])) for i in range(6)]
    assert max(blocks) > 1.1  # some are compressed so strongly that steps at block borders stand out


def _block_edges(x: Tensor) -> Tensor:
    """Return the largest ratio of the steps at one position modulo 8 to those at all positions."""
    steps = (x[..., 1:] - x[..., :-1]).abs().mean((0, 1))[:120]
    return steps.view(-1, 8).mean(0).max() / steps.mean()


def test_everything_is_drawn_from_the_seed() -> None:
    x0 = crops(8)
    first, again, other = (draw(x0, 0.5, 0.5, seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first.eps, again.eps) and torch.equal(first.t, again.t)
    assert not torch.equal(first.eps, other.eps)


def test_flat_crops_are_left_alone() -> None:
    flat = torch.zeros(4, 3, 128, 128)
    eps, drawn = draw(flat, 1.0, 0.0)
    assert torch.equal(drawn.eps, eps) and math.isclose(float(drawn.t[0]), 500.0)


def test_recipes_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="together must not exceed 1"):
        Recipe(jpeg=0.7, camera_noise=0.6)
    with pytest.raises(UsageError, match="real numbers"):
        Recipe(jpeg=0.1, discrete=True)
