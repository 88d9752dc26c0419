"""Tests of `restore train`: its messages, its exit codes, and that no checkpoint is lost however a run ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.cli.app import run
from restorer.models.checkpoints import load_model

RECIPE = """
[network]
class = "ResidualUNet"
in_channels = 12
out_channels = 12
block_out_channels = [8, 16]
[schedule]
name = "squaredcos_cap_v2"
[prior]
prediction_type = "v_prediction"
patch_size = 2
[training]
steps = 4
batch = 2
crop = 16
warmup = 2
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with two pictures of noise and a recipe."""
    (tmp_path / "photos").mkdir()
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{k}.png")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def command(place: Path, *options: str) -> list[str]:
    """Return a command line that trains the recipe's network on the CPU, with further options at its end."""
    fixed = ["--recipe", str(place / "recipe.toml"), "--out", str(place / "out"), "--device", "cpu"]
    return ["train", str(place / "photos"), *fixed, "--precision", "fp32", *options]


def test_a_run(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "photos" / "text.png").write_text("no picture")
    assert run(command(place)) == 0
    printed = capfd.readouterr()
    assert "2 pictures" in printed.err and "1 unreadable" in printed.err and "wrote" in printed.err
    assert printed.out == ""
    assert load_model(place / "out")[1].patch_size == 2
    assert json.loads((place / "out" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
    assert run(command(place)) == 7
    assert "--resume" in capfd.readouterr().err
    # A continued run takes its own recipe, and options on the command line override it.
    plain = ["train", str(place / "photos"), "--out", str(place / "out"), "--device", "cpu"]
    assert run([*plain, "--resume", "--steps", "6", "-q"]) == 0
    assert "crop = 16" in (place / "out" / "recipe.toml").read_text()
    assert capfd.readouterr().out.strip() == str(place / "out")
    assert torch.load(place / "out" / "checkpoint.pt", weights_only=True)["step"] == 6
    assert "steps = 6" in (place / "out" / "recipe.toml").read_text()


def test_fine_tuning(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(command(place)) == 0
    options = ["--init", str(place / "out"), "--steps", "2", "--batch", "1", "--crop", "16", "--device", "cpu"]
    assert run(["train", str(place / "photos"), "--out", str(place / "tuned"), *options]) == 0
    assert load_model(place / "tuned")[1] == load_model(place / "out")[1]


def test_fine_tuning_turns_crops_only_for_a_model_that_knows_turned_pictures(place: Path) -> None:
    """A model of upright faces stays such a model, unless a recipe turns the crops."""
    assert run(command(place)) == 0
    config = place / "out" / "config.json"
    content = json.loads(config.read_text())
    assert content.pop("mirrors")
    config.write_text(json.dumps(content))
    options = ["--init", str(place / "out"), "--steps", "2", "--batch", "1", "--crop", "16", "--device", "cpu"]
    assert run(["train", str(place / "photos"), "--out", str(place / "tuned"), *options]) == 0
    assert not load_model(place / "tuned")[1].mirrors
    assert "turn = false" in (place / "tuned" / "recipe.toml").read_text()
    (place / "turned.toml").write_text("[training]\nturn = true\n")
    options += ["--recipe", str(place / "turned.toml")]
    assert run(["train", str(place / "photos"), "--out", str(place / "turned"), *options]) == 0
    assert load_model(place / "turned")[1].mirrors


def test_the_model_restores(place: Path) -> None:
    assert run(command(place)) == 0
    model = ["--model", str(place / "out"), "--device", "cpu", "--steps", "1", "--sigma", "20"]
    assert run(["denoise", str(place / "photos" / "0.png"), "-o", str(place / "clean.png"), *model]) == 0
    assert Image.open(place / "clean.png").size == (40, 30)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--steps", "0"], 2),
        (["--crop", "18"], 2),
        (["--learning-rate", "nan"], 2),
        (["--memory", "0"], 2),
        (["--threads", "0"], 2),
        (["--recipe", "nowhere.toml"], 2),
        (["--resume", "--overwrite"], 2),
        (["--precision", "fp16"], 2),
        (["--crop", "64"], 4),
        (["--init", "nowhere"], 5),
        (["--device", "cuda:99"], 6),
    ],
)
def test_bad_options(place: Path, capfd: pytest.CaptureFixture[str], options: list[str], code: int) -> None:
    assert run(command(place, *options)) == code
    err = capfd.readouterr().err
    assert "error:" in err and "Traceback" not in err
    assert not (place / "out").exists()


def test_data_that_is_not_there(place: Path) -> None:
    assert (
        run(["train", str(place / "nowhere"), "--recipe", str(place / "recipe.toml"), "--out", str(place / "o")]) == 4
    )
    assert not (place / "o").exists()


def start_process(place: Path, awaited: str, *options: str) -> subprocess.Popen[str]:
    """Start a long run as a process of its own, and wait until it has written the file `awaited`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "restorer", *command(place, *options)],
        stderr=subprocess.PIPE,
        text=True,
        # A child of a shell that ignores Ctrl-C would ignore it too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    file, deadline = place / "out" / awaited, time.monotonic() + 120
    while not (file.exists() and file.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_before_leaving(place: Path, number: signal.Signals, code: int) -> None:
    process = start_process(place, "metrics.jsonl", "--steps", "100000")
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code and "continue with --resume" in err and "Traceback" not in err
    step = int(err.split("stopped at step ")[1].split()[0])
    assert torch.load(place / "out" / "checkpoint.pt", weights_only=True)["step"] == step


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_kill_9_loses_nothing_that_was_saved(place: Path) -> None:
    """The folder is a valid model, and the continued run ends with the same bytes as one that was not killed."""
    options = ["--steps", "200", "--resume"]
    process = start_process(place, "metrics.jsonl", *options, "--save-every", "0.002")
    while torch.load(place / "out" / "checkpoint.pt", weights_only=True)["step"] == 0:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    load_model(place / "out")
    assert 0 < torch.load(place / "out" / "checkpoint.pt", weights_only=True)["step"] < 200
    assert run(command(place, *options)) == 0
    # The bytes depend on the number of threads, which is the same in both processes.
    whole = [*command(place, "--steps", "200"), "--out", str(place / "whole")]
    assert run(whole) == 0
    first, second = (place / name / "diffusion_pytorch_model.safetensors" for name in ("out", "whole"))
    assert first.read_bytes() == second.read_bytes()
