"""The training of the network that finds scratches: examples state their damage, and fitting them works."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.networks.scratch_finder import FEATURES
from restorer.training.datasets import find_sources
from restorer.training.scratch_finder import SIDE, Pixels, example_of, fit, gather, loss_of, pixels_of

IMAGES = Path(__file__).resolve().parents[1] / "images"


def test_examples_state_their_damage() -> None:
    with Image.open(IMAGES / "gates.jpg") as photo:
        made = [example_of(photo, np.random.default_rng(seed)) for seed in range(40)]
    for example in made:
        assert example.picture.shape == (3, SIDE, SIDE) and example.target.shape == example.weight.shape == (SIDE, SIDE)
        assert example.picture.min() >= 0 and example.picture.max() <= 1
        assert set(example.target.unique().tolist()) <= {0.0, 1.0}
        assert example.weight.min() >= 0 and example.weight.max() <= 1
        assert (example.weight[example.target == 1] > 0).all()
    damaged = sum(bool(example.target.any()) for example in made)
    assert 10 < damaged < 40
    assert any(torch.equal(example.picture[0], example.picture[1]) for example in made)


def test_the_loss_leaves_out_what_nobody_can_assign() -> None:
    target, weight = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    logits = torch.zeros(1, 4, 4)
    assert float(loss_of(logits, target, weight)) == pytest.approx(np.log(2))
    logits[0, 0], weight[0, 0] = 50.0, 0.0
    assert float(loss_of(logits, target, weight)) == pytest.approx(np.log(2))


def test_pixels_stand_for_all_of_their_example() -> None:
    with Image.open(IMAGES / "gates.jpg") as photo:
        examples = [example_of(photo, np.random.default_rng(seed)) for seed in range(12)]
    for example in examples:
        pixels = pixels_of(example, np.random.default_rng(0))
        assert pixels.described.shape == (len(pixels.target), FEATURES)
        others = float(pixels.weight[pixels.target == 0].sum())
        assert others == pytest.approx(float(example.weight[example.target == 0].sum()), rel=1e-3)
        if example.target.any():
            damaged = float(pixels.weight[pixels.target == 1].sum())
            assert damaged == pytest.approx(float(example.weight[example.target == 1].sum()), rel=0.2)


def test_fitting_finds_damage() -> None:
    sources = find_sources([IMAGES / "gates.jpg", IMAGES / "grapes.jpg"], 192).sources
    with torch.inference_mode():
        pixels, fresh = gather(sources, 40, 0), gather(sources, 12, 1)
    network = fit(Pixels(*(part.clone() for part in pixels)), epochs=30)
    with torch.no_grad():
        odds = network.decide(fresh.described)
    share = float((fresh.weight * fresh.target).sum() / fresh.weight.sum())
    constant = torch.full_like(odds, math.log(share / (1 - share)))
    after, before = (float(loss_of(logits, fresh.target, fresh.weight)) for logits in (odds, constant))
    assert after < 0.85 * before
