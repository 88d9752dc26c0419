"""The calibration of a model: on restorations whose errors are known, and on a prior whose posterior is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.cli.app import run
from restorer.evaluation import calibration
from restorer.evaluation.calibration import Measured, Trial, coverage, find_constants, measure, trials
from restorer.models.calibration import parse
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.job import Job
from tests.gaussian import GaussianPrior

WRONG = 0.5  # the made estimates are too small by this factor where the picture is flat


def made(number: int, strength: float = 10.0) -> Measured:
    """Return a made restoration whose errors are Gaussian, and whose estimate is wrong where it is flat."""
    generator = torch.Generator().manual_seed(number)
    variance = torch.exp(4 * torch.rand(60, 60, generator=generator))
    true = 2 + 6 * torch.rand(60, 60, generator=generator)
    error = true * torch.randn(3, 60, 60, generator=generator)
    is_flat = variance < math.exp(2)
    unknown = torch.ones(60, 60, dtype=torch.bool)
    return Measured("denoise", "made", strength, error, torch.where(is_flat, WRONG * true, true), variance, unknown)


def test_constants_correct_the_estimate_group_by_group() -> None:
    (constants,) = find_constants([made(i) for i in range(40)], {"denoise": 1})["denoise"]
    assert constants.edges == pytest.approx([math.exp(x) for x in (1, 2, 3)], rel=0.05)
    # CRC is careful by a share of about .5 / 41 of the values.
    low, high = 1.645, 1.645 * 1.06
    assert all(low / WRONG < factor < high / WRONG for factor in constants.factors[:2])
    assert all(low < factor < high for factor in constants.factors[2:])
    (found,) = coverage([made(100 + i) for i in range(20)], lambda kind, strength: constants)
    assert 0.9 < found.whole < 0.92
    assert all(0.9 < quarter < 0.92 for quarter in found.quarters)


def test_strengths_have_constants_of_their_own() -> None:
    found = find_constants([made(i, strength) for i in range(12) for strength in (5.0, 20.0)], {"denoise": 2})
    assert [c.strength for c in found["denoise"]] == pytest.approx([5.0, 20.0])
    assert [c.pictures for c in found["denoise"]] == [12, 12]


def test_known_pixels_do_not_count() -> None:
    measured = [made(i) for i in range(12)]
    for m in measured:
        m.unknown[:, :30] = False
        m.error[:, :, :30] = 1000
    (constants,) = find_constants(measured, {"denoise": 1})["denoise"]
    assert max(constants.factors) < 5
    assert coverage(measured, lambda kind, strength: constants)[0].whole > 0.88


def test_a_prior_that_is_right_needs_the_factor_of_a_gaussian() -> None:
    """The pictures are draws from the prior, and the deviation is that of their posterior."""
    prior = GaussianPrior(mu=0.0, v=0.02)

    def noisy(x: torch.Tensor, seed: int) -> torch.Tensor:
        return x + 10 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))

    def prepare(x: torch.Tensor, seed: int) -> tuple[Job, torch.Tensor]:
        return prepare_denoise(noisy(x, seed), 10.0, detail=0.0, prior=prior), x

    measured = []
    for seed in range(30):
        clean = 0.5 + math.sqrt(0.02) / 2 * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(1000 + seed))
        m = measure(Trial("denoise", "exact", prepare), clean, seed)
        assert m is not None
        measured.append(m)
    (constants,) = find_constants(measured, {"denoise": 1})["denoise"]
    assert all(1.6 < factor < 1.8 for factor in constants.factors)


def test_every_task_has_trials_that_are_restored() -> None:
    """With a prior that costs nothing, all trials run on a small crop and yield maps of the size of their result."""
    prior = GaussianPrior(mu=0.0, v=0.05)
    rng = np.random.default_rng(0)
    # Squares of 6 pixels. JPEG compression cannot be seen in squares that coincide with its blocks.
    picture = torch.from_numpy(rng.random((3, 16, 16))).float().repeat_interleave(6, 1).repeat_interleave(6, 2)
    found = trials(prior, {"added": lambda x, seed: (x, x)})
    kinds = {"denoise", "camera", "noisy jpeg", "dejpeg", "deblur", "narrow holes", "wide holes", "upscale"}
    assert {t.kind for t in found} == kinds
    assert set(calibration.BINS) <= kinds
    for trial in found:
        if trial.kind in ("camera", "noisy jpeg"):  # whose noise is measured with the embedded prior
            continue
        m = measure(trial, picture, 2)
        assert m is not None, trial.name
        assert m.deviation.shape == m.variance.shape == m.unknown.shape == m.error.shape[-2:]
        assert bool((m.deviation[m.unknown] > 0).all())
        assert m.strength > 0


def test_the_command_writes_constants_and_tests_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def few(prior: object, simulate: object) -> list[Trial]:
        assert isinstance(prior, GaussianPrior)
        return [t for t in trials(prior) if t.name == "white noise 25"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration, "trials", few)
    monkeypatch.setattr("restorer.cli.commands.calibrating.obtain_prior", lambda *_: GaussianPrior(v=0.05))
    monkeypatch.setattr("restorer.cli.commands.calibrating.describe_run", lambda *_: {})
    rng = np.random.default_rng(0)
    Path("in").mkdir()
    for number in range(14):
        Image.fromarray(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(f"in/{number}.png")
    assert run(["evaluate", "in", "--calibrate", "c.json", "--json", "-q"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["calibration"] == "c.json"
    (row,) = summary["coverage"]
    assert row["condition"] == "white noise 25"
    assert row["pictures"] == 7
    assert 0.85 < row["within"] <= 1
    found = parse(json.loads(Path("c.json").read_text(encoding="utf-8")))
    assert [c.pictures for c in found.kinds["denoise"]] == [7]
    assert "14 pictures of in" in found.data
    assert run(["evaluate", "in", "--calibrate", "c.json"]) == 7
    assert run(["evaluate", "in", "--calibrate", "d.json", "--limit", "5"]) == 4
    assert run(["evaluate", "in", "--calibrate", "d.json", "--sigma", "5"]) == 2
