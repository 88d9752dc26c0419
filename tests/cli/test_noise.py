"""What `restore denoise` says of the noise that it finds: in the first line, the JSON, the record, and `doctor`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stubs import Imprecise, Smooth
from torch import Tensor

from restorer.cli.app import run
from restorer.diffusion.reverse import NotFiniteError
from restorer.measurement.camera_noise import residuals_of
from restorer.tasks import denoise

IMAGES = Path(__file__).resolve().parents[1] / "images"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a photograph of a camera and one without noise, both of 160x160 pixels."""
    monkeypatch.chdir(tmp_path)
    for name in ("high_iso", "gates"):
        with Image.open(IMAGES / f"{name}.jpg") as image:
            image.crop((150, 90, 310, 250)).save(f"{name}.png")


def restore(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command line in this process, and return its exit code and its output."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def test_camera_noise_is_told_everywhere(capsys: pytest.CaptureFixture[str]):
    code, out, err = restore(capsys, "denoise", "high_iso.png", "--json")
    assert code == 0
    assert "camera noise of" in err.splitlines()[0]
    event = json.loads(out.splitlines()[0])
    assert event["noise"]["kind"] == "camera"
    assert event["noise"]["sigma"] == event["sigma"] > 5
    assert event["steps"] == 4
    code, out, err = restore(capsys, "doctor", "high_iso_denoised.png")
    assert code == 0
    assert "camera noise of" in err, "the record holds what was found"
    assert "--noise auto" in out and "--sigma" not in out
    again = out.replace("OMP_NUM_THREADS=", "").split()[2:]
    assert restore(capsys, *again, "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("high_iso_denoised.png").read_bytes()


def test_no_noise_is_told_too(capsys: pytest.CaptureFixture[str]):
    code, _, err = restore(capsys, "denoise", "gates.png")
    assert code == 0
    assert "no noise found" in err.splitlines()[0]
    assert "no noise that can be told from texture" in err
    assert Path("gates_denoised.png").read_bytes() == Path("gates.png").read_bytes()


def test_doctor_examines_a_picture_that_was_never_restored(capsys: pytest.CaptureFixture[str]):
    assert "camera noise of" in restore(capsys, "doctor", "high_iso.png")[1]
    assert "no noise that can be told from texture" in restore(capsys, "doctor", "gates.png")[1]


def test_options_overrule_what_is_found(capsys: pytest.CaptureFixture[str]):
    assert restore(capsys, "denoise", "high_iso.png", "--noise", "off", "-o", "off.png")[0] == 0
    assert Path("off.png").read_bytes() == Path("high_iso.png").read_bytes()
    levels = []
    for strength in (0.5, 1.5):
        code, out, _ = restore(capsys, "denoise", "high_iso.png", "--strength", strength, "--json", "--overwrite")
        assert code == 0
        levels.append(json.loads(out.splitlines()[0])["sigma"])
    assert levels[1] == pytest.approx(3 * levels[0], rel=0.01)


@pytest.mark.parametrize(
    "options",
    [("--noise", "grain"), ("--strength", 0), ("--sigma", 5, "--noise", "white"), ("--sigma", 5, "--strength", 2)],
)
def test_wrong_options_are_refused_before_anything_is_loaded(options: tuple, capsys: pytest.CaptureFixture[str]):
    assert restore(capsys, "denoise", "high_iso.png", *options)[0] == 2
    assert not Path("high_iso_denoised.png").exists()


def test_a_picture_that_cannot_be_measured_fails_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def measure(image: Tensor, *others: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(denoise, "measure_camera_noise", measure)
    code, _, err = restore(capsys, "denoise", "high_iso.png", "gates.png")
    assert code == 6
    assert err.count("not enough memory on cpu to measure the noise") == 2
    assert "--device cpu" not in err  # which it is already


def test_a_network_that_fails_in_low_precision_measures_in_full():
    x = torch.rand(1, 3, 64, 64)
    residuals = residuals_of(x[0], Imprecise(Smooth()))
    assert bool(residuals[0].denoised.isfinite().all())
    with pytest.raises(NotFiniteError):
        residuals_of(x[0], Imprecise(None))


def test_a_folder_of_noisy_and_clean_pictures_keeps_its_order(capsys: pytest.CaptureFixture[str]):
    """The pictures share batches, in which those without noise are passed over."""
    Path("in").mkdir()
    for number in range(6):
        shutil.copy("high_iso.png" if number % 2 else "gates.png", f"in/{number}.png")
    code, out, _ = restore(capsys, "denoise", "in", "-r", "-o", "out", "--json")
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    results = [event for event in events if event["event"] == "result"]
    assert [Path(event["input"]).stem for event in results] == [str(number) for number in range(6)]
    assert [event["noise"]["kind"] for event in results] == ["none", "camera"] * 3
    pair = (np.asarray(Image.open(results[1][name])).astype(float) for name in ("input", "output"))
    assert np.abs(np.subtract(*pair)).mean() > 3
    assert Path(results[2]["output"]).read_bytes() == Path("in/2.png").read_bytes()


def test_outliers_are_told_everywhere_and_filled(capsys: pytest.CaptureFixture[str]):
    with Image.open("gates.png") as image:
        clean = np.asarray(image.convert("RGB"))
    u = np.random.default_rng(0).random(clean.shape[:2])
    damaged = clean.copy()
    damaged[u < 0.02], damaged[u > 0.98] = 0, 255
    Image.fromarray(damaged).save("salt.png")
    code, out, err = restore(capsys, "denoise", "salt.png", "--json", "--steps", 4, "--noise", "off")
    assert code == 0
    event = json.loads(out.splitlines()[0])
    assert event["outliers"]["kind"] == "salt and pepper"
    said = f"outliers: {event['outliers']['pixels']} pixels (3.9 %), salt and pepper"
    assert event["outliers"]["share"] == pytest.approx(0.039, abs=0.0005)
    assert said in err.splitlines()[0]
    result = np.asarray(Image.open("salt_denoised.png").convert("RGB"))
    kept = (u >= 0.02) & (u <= 0.98)
    assert np.mean(np.any(result != clean, axis=2)[kept]) < 0.002, "all other values are those of the input"
    assert np.abs(result[~kept].astype(float) - clean[~kept]).mean() < 12
    code, out, err = restore(capsys, "doctor", "salt_denoised.png")
    assert said in err and "--outliers auto" in out
    assert said in restore(capsys, "doctor", "salt.png")[1]


def test_outliers_are_left_where_the_user_says_so(capsys: pytest.CaptureFixture[str]):
    pixels = np.asarray(Image.open("gates.png").convert("RGB")).copy()
    u = np.random.default_rng(0).random(pixels.shape[:2])
    pixels[u < 0.03], pixels[u > 0.97] = 0, 255
    Image.fromarray(pixels).save("salt.png")
    for arguments in (("--outliers", "off", "--noise", "off"), ("--sigma", 0)):
        code, out, _ = restore(capsys, "denoise", "salt.png", "--json", "--overwrite", *arguments)
        assert code == 0 and json.loads(out.splitlines()[0])["outliers"] is None
        assert Path("salt_denoised.png").read_bytes() == Path("salt.png").read_bytes()
    assert restore(capsys, "denoise", "salt.png", "--outliers", "all")[0] == 2
