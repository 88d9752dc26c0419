"""The damage and the thin structures of the training: what they change, and what they say that they change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from restorer.training.simulated_scratches import KINDS, damage
from restorer.training.thin_structures import SHARES, STRUCTURES, draw_structure


def flat(level: float = 120.0, side: int = 96) -> torch.Tensor:
    return torch.full((3, side, side), level)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_said_to_be_touched_is_damaged(kind: str) -> None:
    drawn, areas = 0, []
    for seed in range(12):
        x = flat()
        made = damage(x, np.random.default_rng(seed), objects=2, kinds=(kind,))
        assert not (made.core & made.rim).any()
        change = (made.picture - x).abs().amax(0)
        assert made.picture.min() >= 0 and made.picture.max() <= 255
        untouched = ~made.core & ~made.rim
        # a twentieth of the opacity is not worth a mark; the shading beside a crease is none of it
        assert change[untouched].quantile(0.97) <= 0.1 * 255
        drawn += bool(made.core.any())
        areas.append(float(made.core.float().mean()))
    assert drawn >= 10
    assert 0.001 < np.mean(areas) < 0.25


def test_opacity_says_how_much_is_hidden() -> None:
    """Black shows the opacity itself, up to the grain of what hides it."""
    for seed in range(40):
        black = damage(flat(0), np.random.default_rng(seed), objects=1, kinds=("scratch",))
        change = black.picture.amax(0)
        assert (change[black.opacity == 0] == 0).all()
        assert (change <= 1.5 * 255 * black.opacity + 1e-3).all()


def test_gray_pictures_stay_gray() -> None:
    for seed in range(20):
        made = damage(flat(), np.random.default_rng(seed))
        assert torch.equal(made.picture[0], made.picture[2])


def test_the_seed_decides() -> None:
    one, same, other = (damage(flat(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.picture, same.picture) and torch.equal(one.core, same.core)
    assert not torch.equal(one.core, other.core)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_structures_are_thin_and_within_range(kind: str) -> None:
    covers = [STRUCTURES[kind]((90, 70), np.random.default_rng(seed)) for seed in range(10)]
    assert all(cover.shape == (90, 70) and cover.min() >= 0 and cover.max() <= 1 for cover in covers)
    assert 0.001 < np.mean([float(cover.mean()) for cover in covers]) < 0.6


def test_each_structure_has_a_share() -> None:
    assert set(SHARES) == set(STRUCTURES) and sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_the_kind_that_is_drawn_is_the_one_of_the_share(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for name in STRUCTURES:
        monkeypatch.setitem(SHARES, name, float(name == kind))
        monkeypatch.setitem(STRUCTURES, name, lambda size, rng, name=name: drawn.append(name) or torch.ones(size))
    y = draw_structure(flat(), np.random.default_rng(0))
    assert drawn == ([kind] if kind != "contour" else [])  # the body of a contour comes with it
    assert not torch.equal(y, flat())


def test_structures_are_drawn_onto_pictures() -> None:
    for seed in range(40):
        y = draw_structure(flat(), np.random.default_rng(seed))
        assert y.shape == (3, 96, 96) and y.min() >= 0 and y.max() <= 255 and y.isfinite().all()
