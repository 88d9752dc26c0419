"""Models as values: looked up once, and seen anew when they are trained anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hub_fixtures import TINY

from restorer.models import load as models_load
from restorer.models.checkpoints import save_model
from restorer.models.load import REMEMBERED, load_prior, look_up, model_sha256, weights_sha256


def train(folder: Path, seed: int) -> Path:
    """Save a tiny network with weights that depend on a seed."""
    torch.manual_seed(seed)
    save_model(folder, TINY.network.build(), TINY, torch.float32)
    return folder


def test_weights_that_are_trained_anew_are_seen(tmp_path: Path) -> None:
    """A second training into the same folder gives another prior and other hashes; without one, all stay the same."""
    x = torch.rand(1, 3, 8, 8)
    folder = train(tmp_path / "model", 0)
    first, hashes = load_prior(folder, "cpu", "fp32"), (weights_sha256(folder), model_sha256(folder))
    assert load_prior(folder, "cpu", "fp32") is first
    answer = first.denoise(x, 1.0)
    train(folder, 1)
    second = load_prior(folder, "cpu", "fp32")
    assert second is not first and not torch.equal(second.denoise(x, 1.0), answer)
    assert weights_sha256(folder) != hashes[0] and model_sha256(folder) != hashes[1]


def test_a_model_that_has_been_looked_up_is_not_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(tmp_path / "model", 0)
    model = look_up(str(folder))
    assert (model.name, model.path, model.revision, model.card) == (str(folder), folder.resolve(), None, None)
    monkeypatch.setattr(models_load, "find_model", lambda *arguments: pytest.fail("it was looked up again"))
    loaded = model.loaded("cpu", "fp32")
    assert loaded.prior is load_prior(model, "cpu", "fp32")
    assert loaded.identity == {"id": str(folder), "sha256": weights_sha256(folder.resolve()), "revision": None}
    assert loaded.sha256 == model_sha256(folder.resolve())


def test_nothing_is_remembered_without_bound(tmp_path: Path) -> None:
    """As many priors are kept as are likely to be in use; an older one is loaded anew."""
    folders = [train(tmp_path / str(seed), seed) for seed in range(REMEMBERED + 1)]
    priors = [load_prior(folder, "cpu", "fp32") for folder in folders]
    assert load_prior(folders[-1], "cpu", "fp32") is priors[-1]
    assert load_prior(folders[0], "cpu", "fp32") is not priors[0]
