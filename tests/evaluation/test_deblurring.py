"""Blurred pictures for `evaluate` are what SciPy makes, and the filters are those of scikit-image at their best."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d
from skimage.restoration import richardson_lucy, wiener
from stubs import Smooth
from torch import Tensor

from restorer.cli.app import run
from restorer.cli.terminal.multi_values import is_gaussian, is_motion, is_number, repeat_option_names
from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.errors import PictureError, UsageError
from restorer.evaluation import deblurring
from restorer.evaluation.baselines import baseline_methods
from restorer.evaluation.deblurring import BALANCES, ITERATIONS, MARGIN, blurred, check_filters, filters
from restorer.evaluation.degraded import Condition, degrade
from restorer.evaluation.evaluate import OURS, evaluate
from restorer.evaluation.metrics import psnr
from restorer.models import load as models_load

IMAGES = Path(__file__).resolve().parents[1] / "images"


def photograph(side: int = 90) -> Tensor:
    with Image.open(IMAGES / "gates.jpg") as image:
        small = image.convert("RGB").resize((image.width // 4, image.height // 4), Image.Resampling.BOX)
    return (torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 255)[:, :side, : side + 10]


def test_a_blurred_picture_is_the_convolution_without_its_borders() -> None:
    x, kernel = 0.2 + 0.6 * photograph(), motion_kernel(7, 30)  # far from black and white, where noise is clipped
    y, part = blurred(x, kernel, 0.0, 0)
    expected = np.stack([convolve2d(plane, kernel.numpy(), mode="valid") for plane in x.numpy()])
    assert np.abs(y.numpy() - expected).max() <= 0.5 / 255 + 1e-6
    assert part.shape == y.shape and torch.equal(y, (y * 255).round() / 255)
    down, across = (side // 2 for side in kernel.shape)
    assert torch.equal(part, x[:, down:-down, across:-across])
    noisy, _ = blurred(x, kernel, 5.0, 3)
    assert float((noisy - y).std()) * 255 == pytest.approx(5, rel=0.1)
    assert torch.equal(noisy, blurred(x, kernel, 5.0, 3)[0]) and not torch.equal(noisy, blurred(x, kernel, 5.0, 4)[0])
    with pytest.raises(PictureError, match="smaller than the kernel"):
        blurred(x[:, :4], kernel, 0.0, 0)


def test_the_filters_are_the_best_of_their_settings() -> None:
    kernel = defocus_kernel(2)
    y, part = blurred(photograph(), kernel, 2.0, 0)
    found = {name: psnr(restore(), part) for name, restore in filters(y, part, kernel).items()}
    continued = np.pad(y.numpy(), ((0, 0), (MARGIN,) * 2, (MARGIN,) * 2), mode="reflect")

    def score(planes: list[np.ndarray]) -> float:
        inside = np.stack(planes)[:, MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32).clip(0, 1)
        return psnr(torch.from_numpy(inside), part)

    by_wiener = [score([wiener(plane, kernel.numpy(), b) for plane in continued]) for b in BALANCES]
    assert found["Wiener"] == pytest.approx(max(by_wiener), abs=1e-3) and min(by_wiener) < max(by_wiener) - 0.5
    clipped = continued.clip(1e-3)
    by_lucy = [score([richardson_lucy(p, kernel.numpy(), num_iter=n) for p in clipped]) for n in ITERATIONS]
    assert found["Richardson-Lucy"] == pytest.approx(max(by_lucy), abs=1e-3)
    assert min(found.values()) > psnr(y, part) + 0.3


def test_a_sample_is_restored_told_or_blind() -> None:
    told = Condition("deblur", 2.55, kind="gaussian 1.2", kernel=gaussian_kernel(1.2))
    sample = degrade(photograph(), told, 0)
    assert str(told) == "gaussian 1.2" and list(baseline_methods(sample)) == ["blurred", "Wiener", "Richardson-Lucy"]
    outcome = evaluate(sample, Smooth(), baselines=True, eight_bit=True, steps=2, detail=0.0)
    assert list(outcome.scores) == [OURS, "blurred", "Wiener", "Richardson-Lucy"]
    assert outcome.restored.shape == sample.truth.shape
    blind = Condition("deblur", 2.55, kind="gaussian 1.2", kernel=gaussian_kernel(1.2), is_blind=True)
    copied = evaluate(degrade(photograph(), blind, 0), Smooth(), steps=2)  # too small for a blur to be found
    assert torch.equal(copied.restored, sample.degraded)


def test_the_filters_need_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    check_filters()
    monkeypatch.setattr(deblurring.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="scikit-image"):
        check_filters()


def test_several_blurs_follow_their_options() -> None:
    options = {"--gaussian": is_gaussian, "--defocus": is_number, "--motion": is_motion}
    line = ["--gaussian", "1.6", "2x1@30", "--motion", "13@30", "7@-45", "photos"]
    expected = ["--gaussian", "1.6", "--gaussian", "2x1@30", "--motion", "13@30", "--motion", "7@-45", "photos"]
    assert repeat_option_names(line, options) == expected


@pytest.fixture
def _pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    Path("photos").mkdir()
    pixels = (photograph() * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save("photos/gates.png")


@pytest.mark.usefixtures("_pictures")
def test_the_command_measures_every_blur(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("k.npy", np.ones((3, 3)))
    line = "evaluate photos --task deblur --gaussian 1.2 2x1@30 --defocus 2 --motion 7@30 --kernel k.npy"
    assert run([*line.split(), "--steps", "2", "--baselines", "--json"]) == 0
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    results = [event for event in events if event["event"] == "result"]
    names = ["gaussian 1.2", "gaussian 2x1@30", "defocus 2", "motion 7@30", "kernel k.npy"]
    assert [result["condition"] for result in results] == names
    for result in results:
        assert set(result["baselines"]) == {"blurred", "Wiener", "Richardson-Lucy"}
        assert result["baselines"]["Wiener"]["psnr"] > result["baselines"]["blurred"]["psnr"]
    assert run(["evaluate", "photos", "--task", "deblur", "--gaussian", "1.2", "--sigma", "5", "--steps", "2"]) == 0
    assert "noise of 5 levels" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("_pictures")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--task deblur", "say how the pictures are to be blurred"),
        ("--task deblur --gaussian 0", "gaussian must be above 0"),
        ("--task deblur --gaussian 1 --sigma 5 10", "one noise level"),
        ("--task deblur --gaussian 1 --scale 2", "do not apply to deblur"),
        ("--task deblur --motion 5@inf", "the length of a motion"),
        ("--gaussian 1", "--gaussian does not apply to denoise"),
        ("--task upscale --blind", "--blind does not apply to upscale"),
        ("--task deblur --truth photos --gaussian 1", "take pictures as they are"),
    ],
)
def test_what_the_command_refuses(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "photos", *arguments.split()]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
