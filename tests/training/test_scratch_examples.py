"""The training of the network that finds scratches: examples state their damage, and fitting them works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from restorer.networks.scratch_finder import ScratchFinder
from restorer.training import scratch_finder
from restorer.training.datasets import find_sources
from restorer.training.scratch_finder import SIDE, Examples, example_of, fit, loss_of

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


def test_fitting_lowers_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_finder, "BATCH", 4)
    sources = find_sources([IMAGES / "gates.jpg", IMAGES / "grapes.jpg"], 192).sources
    network = fit(sources, 24, tmp_path / "w.safetensors", workers=0)
    fresh = [example for example, _ in zip(Examples(sources, 9), range(8), strict=False)]
    picture, target, weight = (torch.stack(part) for part in zip(*fresh, strict=True))
    with torch.no_grad():
        after, before = (float(loss_of(n(picture), target, weight)) for n in (network, ScratchFinder()))
    assert after < before
    saved = load_file(tmp_path / "w.safetensors")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(saved[name].float(), value, atol=1e-3, rtol=1e-3)
