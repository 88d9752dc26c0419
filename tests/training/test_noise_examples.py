"""The training of the network for noise: examples state their noise, and fitting them works."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from restorer.networks.noise_estimator import ENERGIES, FEATURES, WHITE, SetNetwork
from restorer.training.noise_estimator import (
    Example,
    collate,
    crop_of,
    describe_pair,
    fit,
    loss_of,
    normalize,
)
from restorer.training.simulated_noise import Pair

IMAGES = Path(__file__).resolve().parents[1] / "images"


def made_up(count: int, seed: int = 0) -> list[Example]:
    """Return examples whose energies are those of their quietest windows, and of which every third has no noise."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for number in range(count):
        level = -3.0 if number % 3 == 0 else 3 * float(torch.rand(1, generator=generator)) + 1
        windows = [torch.randn(n, FEATURES, generator=generator) + level + 2 for n in (60, 20, 8)]
        white, logs = torch.full((WHITE,), math.exp(level / 2)), torch.full((ENERGIES,), level)
        examples.append(Example(number, "", [w.half() for w in windows], white, logs, level / 2))
    return examples


def test_an_example_states_its_noise():
    gray = torch.full((3, 160, 160), 128.0)
    white = 8 * torch.randn(3, 160, 160, generator=torch.Generator().manual_seed(0))
    example = describe_pair(Pair(gray + white, gray), "white", 3, random.Random(0))
    assert math.exp(example.log_sigma) == pytest.approx(8, rel=0.03)
    assert example.log_energies.exp().view(3, 6).mean(0).tolist() == pytest.approx([64] * 6, rel=0.25)
    assert [w.shape[1] for w in example.windows] == [FEATURES] * 3
    assert example.white.tolist() == pytest.approx([8] * WHITE, rel=0.15)


def test_crops_are_parts_of_the_photograph():
    with Image.open(IMAGES / "gates.jpg") as photo:
        shapes = {tuple(crop_of(photo, random.Random(i)).shape) for i in range(20)}
    assert all(c == 3 and 190 <= h <= 384 and 190 <= w <= 384 for c, h, w in shapes)
    assert len(shapes) > 2


def test_fitting_teaches_strength_and_presence():
    examples = made_up(240)
    network = fit(examples[:192], members=2, epochs=8)
    untrained = SetNetwork()
    normalize(untrained, examples[:192])
    with torch.no_grad():
        assert loss_of(network.members[0], examples[192:], None) < 0.75 * loss_of(
            untrained.eval(), examples[192:], None
        )
        estimate = network(*collate(examples[192:]))
    has = torch.tensor([example.log_sigma > 0 for example in examples[192:]])
    assert ((estimate.logit > 0) == has).float().mean() > 0.95
    true = torch.tensor([example.log_sigma for example in examples[192:]])
    assert (estimate.log_sigma[has, 1] - true[has]).abs().mean() < 0.2
    assert (estimate.log_sigma[has, 0] <= estimate.log_sigma[has, 1] + 0.1).float().mean() > 0.9
