"""The training of the network that finds scratches: examples state their damage, and fitting them works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from restorer.models.load import load_prior
from restorer.networks.scratch_finder import ScratchFinder
from restorer.priors.unet_prior import UNetPrior
from restorer.training import scratch_finder
from restorer.training.datasets import find_sources
from restorer.training.scratch_finder import SIDE, USES, DrawnBeside, Examples, example_of, fit, loss_of
from restorer.training.simulated_scratches import Damage

IMAGES = Path(__file__).resolve().parents[1] / "images"


def test_examples_state_their_damage() -> None:
    with Image.open(IMAGES / "gates.jpg") as photo:
        made = [example_of(photo, np.random.default_rng(seed)) for seed in range(40)]
    for example in made:
        assert example.picture.shape == (3, SIDE, SIDE) and example.target.shape == example.weight.shape == (SIDE, SIDE)
        assert example.picture.min() >= 0 and example.picture.max() <= 1
        assert set(example.target.unique().tolist()) <= {0.0, 1.0}
        assert example.weight.min() >= 0 and example.weight.max() <= 1
    damaged = sum(bool(example.target.any()) for example in made)
    assert 10 < damaged < 40
    assert any(torch.equal(example.picture[0], example.picture[1]) for example in made)


def test_the_loss_leaves_out_what_nobody_can_assign() -> None:
    target, weight = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    logits = torch.zeros(1, 4, 4)
    assert float(loss_of(logits, target, weight)) == pytest.approx(np.log(2))
    logits[0, 0], weight[0, 0] = 50.0, 0.0
    assert float(loss_of(logits, target, weight)) == pytest.approx(np.log(2))


def test_damage_that_cannot_be_seen_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage of less than 4 levels has no weight, and damage of 24 levels has all of it."""

    def painted(x: Tensor, rng: np.random.Generator, objects: int) -> Damage:
        core = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        core[10:14], core[40:44], core[70:74] = True, True, True
        y = x.clone()
        y[:, 10:14], y[:, 40:44], y[:, 70:74] = x[:, 10:14] + 3, x[:, 40:44] + 14, x[:, 70:74] + 24
        return Damage(y, core.float(), core, torch.zeros_like(core))

    monkeypatch.setattr(scratch_finder, "damage", painted)
    monkeypatch.setattr(scratch_finder, "DAMAGED_SHARE", 1.0)
    example = example_of(Image.new("RGB", (200, 200), (90, 90, 90)), np.random.default_rng(0))
    assert example.weight[10:14].max() == 0
    torch.testing.assert_close(example.weight[40:44], torch.full((4, SIDE), 0.5), atol=1e-4, rtol=0)
    assert example.weight[70:74].min() > 0.999


@pytest.fixture
def prior() -> UNetPrior:
    return load_prior(device="cpu")


@pytest.mark.parametrize("kind", [Examples, DrawnBeside])
def test_fitting_lowers_the_loss(
    kind: type[Examples], prior: UNetPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_finder, "BATCH", 4)
    monkeypatch.setattr(scratch_finder, "SIDE", 64)
    sources = find_sources([IMAGES / "gates.jpg", IMAGES / "grapes.jpg"], 192).sources
    network = fit(kind(sources, prior, 0), 40, tmp_path / "w.safetensors")
    (picture, target, weight), features = Examples(sources, prior, 9).batch()
    fresh = ScratchFinder()
    fresh.calibrate(features)
    with torch.no_grad():
        after, before = (float(loss_of(n(picture, features), target, weight)) for n in (network, fresh))
    assert after < before
    saved = load_file(tmp_path / "w.safetensors")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(saved[name].float(), value, atol=1e-3, rtol=1e-3)


def test_training_ends_when_its_time_is_over(prior: UNetPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_finder, "BATCH", 2)
    monkeypatch.setattr(scratch_finder, "SIDE", 32)
    sources = find_sources([IMAGES / "gates.jpg"], 192).sources
    network = fit(Examples(sources, prior, 0), 10**9, tmp_path / "w.safetensors", minutes=0.01)
    assert all(bool(weight.isfinite().all()) for weight in network.parameters())
    assert (tmp_path / "w.safetensors").is_file()


def test_training_goes_on_from_weights(prior: UNetPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_finder, "BATCH", 2)
    monkeypatch.setattr(scratch_finder, "SIDE", 32)
    torch.manual_seed(3)
    trained = ScratchFinder()
    torch.nn.init.normal_(trained.head.weight)
    trained.scales.uniform_(0.5, 2)
    save_file({name: value.half() for name, value in trained.state_dict().items()}, tmp_path / "old.safetensors")
    examples = Examples(find_sources([IMAGES / "gates.jpg"], 192).sources, prior, 0)
    network = fit(examples, 1, tmp_path / "w.safetensors", start=tmp_path / "old.safetensors")
    assert torch.equal(network.scales, trained.scales.half().float())
    torch.testing.assert_close(network.head.weight, trained.head.weight, atol=5e-3, rtol=1e-3)
    assert not torch.equal(network.head.weight, trained.head.weight.half().float())


def test_each_batch_is_used_several_times(prior: UNetPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_finder, "BATCH", 2)
    monkeypatch.setattr(scratch_finder, "SIDE", 32)
    examples = Examples(find_sources([IMAGES / "gates.jpg"], 192).sources, prior, 0)
    seen = [batch[0].picture for batch, _ in zip(examples, range(12), strict=False)]
    different = len({id(picture) for picture in seen})
    assert 2 <= different <= 12 // USES
