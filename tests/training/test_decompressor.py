"""The training of the network that undoes compression: its pairs, and a run that is stopped and continued."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.errors import UsageError
from restorer.measurement.jpeg import STANDARD_TABLES
from restorer.models.checkpoints import load_model
from restorer.models.differences import DIFFERENCE, add_difference
from restorer.priors.experts import compression_level
from restorer.training import compressing
from restorer.training.compressing import compress, draw_crop
from restorer.training.crops import Augmentation
from restorer.training.decompressor import DecompressorRecipe, Trainer, make_pairs, train_decompressor
from restorer.training.first_answer import read_recipe

RECIPE = DecompressorRecipe(steps=8, batch=2, crop=32, ema=0.9)
PHOTOGRAPHS = Path(__file__).parents[1] / "images"


def test_pairs_depend_on_the_step_alone(pictures) -> None:
    first, again, other = (make_pairs(pictures, RECIPE, number) for number in (5, 5, 6))
    assert torch.equal(first.clean, again.clean) and torch.equal(first.decoded, again.decoded)
    assert not torch.equal(first.clean, other.clean)
    assert first.clean.shape == first.decoded.shape == (2, 3, 32, 32)
    assert first.clean.abs().max() <= 1 and first.level.dtype == torch.float64


def test_files_of_the_standard_are_those_of_pillow(pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made by tables is what Pillow makes by the quality, so that networks learn what files hold."""
    monkeypatch.setattr(compressing, "OWN_TABLES", 0.0)
    monkeypatch.setattr(compressing, "TWICE", 0.0)
    monkeypatch.setattr(compressing, "SAMPLINGS", {2: 1.0})
    monkeypatch.setattr(compressing, "LOW", (40.0, 40.0))
    monkeypatch.setattr(compressing, "LOW_SHARE", 1.0)
    clean = np.ascontiguousarray(pictures[0][:64, :96])
    made, file = compress(clean, np.random.default_rng(0)), io.BytesIO()
    Image.fromarray(clean).save(file, "JPEG", quality=40, subsampling=2)
    assert (made.decoded == np.asarray(Image.open(file))).all()
    assert np.abs(made.steps - STANDARD_TABLES[0].numpy() * 1.25).max() <= 0.5


def test_the_blocks_of_the_coarser_file_begin_at_the_first_pixel(pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second compression with other blocks, the steps between pixels are largest where the first ones meet."""
    monkeypatch.setattr(compressing, "TWICE", 1.0)
    monkeypatch.setattr(compressing, "LOW", (10.0, 12.0))
    monkeypatch.setattr(compressing, "LOW_SHARE", 1.0)
    steps = np.zeros(8)
    for seed in range(12):
        made = compress(np.ascontiguousarray(pictures[seed % 2][:128, :128]), np.random.default_rng(seed))
        gray = made.decoded.astype(float).mean(2)
        jumps = np.abs(np.diff(gray, axis=1)).mean(0)
        steps += [jumps[k::8].mean() for k in range(8)]
    assert steps.argmax() == 7  # between the pixels 7 and 8


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_crops_are_cut_with_and_without_changes(share: float, pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEXT", "SMALL"):
        monkeypatch.setattr(compressing, name, share)
    crop = draw_crop(pictures[0], Augmentation(48, 0.5, share), np.random.default_rng(3))
    assert crop.shape == (48, 48, 3) and crop.dtype == np.uint8


def test_coarser_tables_have_higher_levels() -> None:
    levels = [compression_level(STANDARD_TABLES[0] * factor) for factor in (0.1, 0.5, 1, 4)]
    assert levels == sorted(levels)
    assert compression_level(torch.full((8, 8), 12**0.5 * 127.5)) == pytest.approx(1.0)


def test_the_network_learns_to_undo_compression(prior_folder: Path, pictures) -> None:
    """On one batch that is repeated, so that nothing but learning can lower the error."""
    recipe = replace(RECIPE, steps=120, rate=2e-3, hold=1.0)
    trainer = Trainer(prior_folder, recipe, torch.device("cpu"), bf16=False)
    pairs = make_pairs(pictures, recipe, 0)
    gains = []
    for _ in range(120):
        trainer.meter.clear()
        trainer.run_step(pairs)
        gains.append(trainer.meter["gain"])
    assert gains[-1] > gains[0] + 0.5


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(prior_folder: Path, tmp_path: Path) -> None:
    data = [PHOTOGRAPHS / "gates.jpg", PHOTOGRAPHS / "grapes.jpg"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_decompressor(prior_folder, data, whole, RECIPE, device="cpu", bf16=False)
    trainer = Trainer(prior_folder, RECIPE, torch.device("cpu"), bf16=False)
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in data]
    for number in range(3):
        trainer.run_step(make_pairs(pictures, RECIPE, number))
    parts.mkdir()
    torch.save(trainer.state_dict(), parts / "checkpoint.pt")
    train_decompressor(prior_folder, data, parts, RECIPE, device="cpu", bf16=False)
    (one, _), (other, _) = load_model(whole), load_model(parts)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    prior, _ = load_model(prior_folder)
    again = add_difference(whole / DIFFERENCE, prior.state_dict())
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(again[name], weight.float(), rtol=1e-3, atol=2e-4)


def test_recipes_are_checked(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text("steps = 12\ncrop = 48\n")
    assert read_recipe(tmp_path / "good.toml", DecompressorRecipe) == DecompressorRecipe(steps=12, crop=48)
    (tmp_path / "bad.toml").write_text("crop = 50\n")
    with pytest.raises(UsageError, match="multiple of 16"):
        read_recipe(tmp_path / "bad.toml", DecompressorRecipe)
