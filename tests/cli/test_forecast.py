"""The estimated time of a run and the options that would save time, tested with a clock that the tests move."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from latent_models import write_model
from PIL import Image
from stubs import Smooth, Wrapper
from torch import Tensor

from restorer.cli.app import run
from restorer.cli.terminal import reporter
from restorer.cli.terminal.forecast import Forecast, Workload, faster_options
from restorer.cli.terminal.reporter import Reporter, Timing, format_duration
from restorer.diffusion.prior import Prediction
from restorer.models import load as models_load
from restorer.models.load import load_prior
from restorer.priors.latent import LatentPrior
from restorer.tasks import batching


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of the progress bar."""
    clock = Clock()
    monkeypatch.setattr(reporter, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"), (9.6, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (80, "1 min 20 s"), (599, "9 min 59 s"),
        (600, "10 min"), (3570, "1 h"), (3599, "1 h"), (7500, "2 h 5 min"), (36000, "10 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


# -- timing of evaluations ---------------------------------------------------------------------------------------------


def forecasts(clock: Clock, steps: list[tuple[float, float, bool]], total: float, **options: Any) -> list[float]:
    """Return the forecasts after some evaluations.

    Each of `steps` is (seconds that pass, evaluations done by then, whether the last one covered the whole picture).
    """
    found: list[float] = []
    timing = Timing(found.append, **options)
    for seconds, done, whole in steps:
        clock.now += seconds
        timing.update(done, total, is_whole_step=whole)
    return found


def test_the_first_evaluation_tells(clock: Clock) -> None:
    assert forecasts(clock, [(3.0, 1, False), (9.0, 2, False)], 10) == [30.0]


def test_a_short_first_evaluation_may_be_warming_up(clock: Clock) -> None:
    """1.5 s have passed, the next two evaluations take 1.2 s, and seven more are to follow."""
    steps = [(1.5, 1, True), (0.5, 2, True), (0.7, 3, True), (5.0, 4, True)]
    assert forecasts(clock, steps, 10) == [pytest.approx(2.7 + 7 * 0.6)]


def test_a_gpu_is_timed_by_whole_steps_but_the_first(clock: Clock) -> None:
    steps = [(0.1, 1, False), (5.0, 2, True), (0.1, 3, False), (1.0, 4, True)]
    assert forecasts(clock, steps, 20, by_step=True) == [pytest.approx(6.2 + 16 * 0.55)]


def test_there_is_nothing_to_tell_at_the_end(clock: Clock) -> None:
    assert forecasts(clock, [(30.0, 1, True)], 1) == [] and forecasts(clock, [(1.0, 1, True), (30.0, 2, True)], 2) == []


def test_parts_of_a_picture_count(clock: Clock) -> None:
    """`evaluate` counts pictures: a sixth of the first of four pictures took 3 s."""
    assert forecasts(clock, [(3.0, 1 / 6, True)], 4) == [pytest.approx(72.0)]


# -- faster options ----------------------------------------------------------------------------------------------------


def test_denoise() -> None:
    """Six evaluations take 120 s, so one takes 20 s."""
    assert faster_options(Workload(6, 6, allows_single_step=True), 120) == [
        "--detail 0 (about 20 s)",
        "a machine with a GPU",
    ]
    found = faster_options(Workload(60, 6, allows_single_step=True, is_embedded=False), 1200)
    assert found == [
        "--detail 0 (about 20 s)", "--steps 6 (about 2 min)", "--model photo", "a machine with a GPU"
    ]  # fmt: skip
    assert faster_options(Workload(1, 6), 90) == ["a machine with a GPU"]


def test_the_others() -> None:
    assert faster_options(Workload(15, 15, has_gpu=True), 150) == ["--steps 7 (about 1 min 10 s)", "--device cuda"]
    assert faster_options(Workload(100, 15), 1000) == ["--steps 15 (about 2 min 30 s)", "a machine with a GPU"]
    assert faster_options(Workload(10, 15), 100) == ["a machine with a GPU"]
    assert faster_options(Workload(100, 100, is_latent=True, is_embedded=False), 800)[:2] == [
        "--steps 50 (about 6 min 40 s)",
        "--model photo",
    ]


def test_tiles_and_parts() -> None:
    assert "--tile auto (about 50 s)" in faster_options(Workload(15, 15, tile_auto_share=0.5), 100)
    assert not any("--tile" in option for option in faster_options(Workload(15, 15, tile_auto_share=0.9), 100))
    assert "--count 1 (about 10 s)" in faster_options(Workload(50, 100, partial_option=("--count 1", 1 / 16)), 160)


def test_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def messages(seconds: float, workload: Workload, pictures: int = 1) -> list[str]:
        forecast = Forecast(Reporter(), pictures)
        for k in range(min(pictures, 2)):
            forecast.start(f"{k}.png", workload)(seconds)
        return capsys.readouterr().err.splitlines()

    short, denoise = Workload(6, 6), Workload(6, 6, allows_single_step=True)
    assert messages(9.9, short) == [] and messages(30, short) == ["0.png: takes about 30 s"]
    advice = "to save time, use --detail 0 (about 20 s) or a machine with a GPU"
    assert messages(120, denoise) == ["0.png: takes about 2 min", advice]
    assert messages(120, Workload(6, 6, allows_single_step=True, on_cpu=False)) == ["0.png: takes about 2 min"]
    assert messages(120, Workload(10, 100, is_latent=True, is_embedded=False)) == [
        "0.png: sampling takes about 2 min", "to save time, use --model photo or a machine with a GPU",
    ]  # fmt: skip
    # The time of all pictures together is printed once.
    assert messages(6, denoise, 20) == [
        "0.png: takes about 6 s; 20 pictures like it take about 2 min",
        "to save time, use --detail 0 (about 20 s) or a machine with a GPU",
    ]
    assert messages(6, denoise, 2) == ["0.png: takes about 6 s; 2 pictures like it take about 12 s"]
    assert messages(70, denoise, 2)[2:] == ["1.png: takes about 1 min 10 s"]


# -- the command line --------------------------------------------------------------------------------------------------


class Slow(Wrapper):
    """A prior that moves the clock at every evaluation."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__(Smooth())
        self.clock, self.seconds = clock, seconds

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Return the prediction of the wrapped prior after some time."""
        self.clock.now += self.seconds
        return super().predict(x, sigma, condition)


class Outcome(NamedTuple):
    code: int
    out: str
    lines: list[str]


Command = Callable[..., Outcome]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command line in a temporary folder, without a terminal or a GPU, with a prior that takes 20 s a step."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Slow(clock, 20.0))
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 12), (90, 120, 60)).save(name)
    Image.new("L", (16, 12), 255).save("m.png")

    def command(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Outcome(code, out, [line for line in err.splitlines() if "about" in line or "to save time" in line])

    return command


def test_denoise_says_it(call: Command) -> None:
    done = call("denoise", "a.png", "--sigma", 20)
    assert done.code == 0 and done.lines == [
        "a.png: takes about 1 min 20 s",
        "to save time, use --detail 0 (about 20 s) or a machine with a GPU",
    ]
    assert call("denoise", "a.png", "--sigma", 20, "--overwrite", "-q").lines == []
    assert (
        call("denoise", "a.png", "--sigma", 20, "--overwrite", "--detail", 0).lines == []
    )  # the single evaluation is the last


def test_advice_is_given_once(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_PIXELS", {})  # every picture is a batch of its own
    done = call("denoise", "a.png", "b.png", "--sigma", 20)
    assert done.lines == [
        "a.png: takes about 1 min 20 s; 2 pictures like it take about 2 min 40 s",
        "to save time, use --detail 0 (about 40 s) or a machine with a GPU",
        "b.png: takes about 1 min 20 s",
    ]


def test_a_picture_that_fails_is_not_waited_for(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_PIXELS", {})
    Path("0.png").write_bytes(b"no picture")
    assert call("denoise", "0.png", "a.png", "--sigma", 20).lines[0] == "a.png: takes about 1 min 20 s"


def test_a_batch_is_announced_as_one(call: Command) -> None:
    assert call("denoise", "a.png", "b.png", "--sigma", 20).lines == [
        "2 pictures: take about 1 min 20 s",
        "to save time, use --detail 0 (about 20 s) or a machine with a GPU",
    ]


def test_inpaint_and_upscale_say_it(call: Command) -> None:
    assert call("inpaint", "a.png", "--mask", "m.png", "-s", 60).lines == [
        "a.png: takes about 20 min",
        "to save time, use --steps 20 (about 6 min 40 s) or a machine with a GPU",
    ]
    assert call("upscale", "a.png").lines == [
        "a.png: takes about 4 min",
        "to save time, use --steps 6 (about 2 min) or a machine with a GPU",
    ]


def test_small_tiles_are_told(call: Command) -> None:
    """With tiles of 64 pixels that share 16, the network processes 128 columns; without tiles it processes 90."""
    Image.new("RGB", (90, 8), (90, 120, 60)).save("wide.png")
    lines = call("denoise", "wide.png", "--sigma", 20, "--tile", 64).lines
    assert lines[0] == "wide.png: takes about 2 min 40 s"
    assert lines[1] == (
        "to save time, use --detail 0 (about 40 s), "
        f"--tile auto (about {format_duration(160 * 90 / 128)}) or a machine with a GPU"
    )


def test_generate_says_it(call: Command) -> None:
    done = call("generate", "-n", 4, "--size", 8, "--steps", 100, "--json")
    assert json.loads(done.out.splitlines()[-1])["exit_code"] == 0
    assert done.lines == [
        "generate: takes about 33 min",
        "to save time, use --steps 50 (about 17 min), --count 1 (about 8 min 20 s) or a machine with a GPU",
    ]
    assert call("generate", "-n", 4, "--size", 8, "--batch", 1, "--overwrite").lines == [
        "generate: takes about 2 h 13 min",
        "to save time, use --steps 50 (about 1 h 7 min), --count 1 (about 33 min) or a machine with a GPU",
    ]


def test_evaluate_says_it(call: Command) -> None:
    done = call("evaluate", ".", "--limit", 2, "--sigma", 20)
    assert done.lines == [
        "evaluate: takes about 2 min 40 s",
        "to save time, use --detail 0 (about 40 s), --limit 1 (about 1 min 20 s) or a machine with a GPU",
    ]


def test_latents_are_sampled_for_so_long(
    call: Command, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = load_prior(write_model(tmp_path / "m", super_resolution=True), "cpu", "fp32")
    assert isinstance(prior, LatentPrior)
    inner = prior.predict

    def predict(*arguments: Any) -> Prediction:
        clock.now += 5
        return inner(*arguments)

    monkeypatch.setattr(prior, "predict", predict)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: prior)
    assert call("upscale", "a.png", "--model", "m").lines == [
        "a.png: sampling takes about 8 min 20 s",
        "to save time, use --steps 50 (about 4 min 10 s), --model photo or a machine with a GPU",
    ]
