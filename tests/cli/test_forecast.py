"""What a run is going to take, and what would take less: told from one timed evaluation, by a clock that is not one."""

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
from stubs import Around, Smooth
from torch import Tensor

from restorer.cli.app import run
from restorer.cli.terminal import reporter
from restorer.cli.terminal.forecast import Forecast, Run, ways
from restorer.cli.terminal.reporter import Reporter, Timing, duration
from restorer.diffusion.prior import Prediction
from restorer.models import load as models_load
from restorer.models.load import load_prior
from restorer.priors.latent import LatentPrior
from restorer.tasks import batching


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the bar takes for the time."""
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
    assert duration(seconds) == text


# -- one evaluation is timed -------------------------------------------------------------------------------------------


def told(clock: Clock, steps: list[tuple[float, float, bool]], total: float, **options: Any) -> list[float]:
    """The forecasts after evaluations of (seconds, how many are done then, whether a whole one)."""
    found: list[float] = []
    timing = Timing(found.append, **options)
    for seconds, done, whole in steps:
        clock.now += seconds
        timing.seen(done, total, whole=whole)
    return found


def test_the_first_evaluation_tells(clock: Clock) -> None:
    assert told(clock, [(3.0, 1, False), (9.0, 2, False)], 10) == [30.0]


def test_a_short_first_evaluation_may_be_warming_up(clock: Clock) -> None:
    """1.5 s gone, 1.2 s for the two after it, seven more like them."""
    steps = [(1.5, 1, True), (0.5, 2, True), (0.7, 3, True), (5.0, 4, True)]
    assert told(clock, steps, 10) == [pytest.approx(2.7 + 7 * 0.6)]


def test_a_gpu_is_timed_by_whole_steps_but_the_first(clock: Clock) -> None:
    steps = [(0.1, 1, False), (5.0, 2, True), (0.1, 3, False), (1.0, 4, True)]
    assert told(clock, steps, 20, by_step=True) == [pytest.approx(6.2 + 16 * 0.55)]


def test_there_is_nothing_to_tell_at_the_end(clock: Clock) -> None:
    assert told(clock, [(30.0, 1, True)], 1) == [] and told(clock, [(1.0, 1, True), (30.0, 2, True)], 2) == []


def test_parts_of_a_picture_count(clock: Clock) -> None:
    """As `evaluate` counts: a sixth of the first of four pictures took 3 s."""
    assert told(clock, [(3.0, 1 / 6, True)], 4) == [pytest.approx(72.0)]


# -- what would take less ----------------------------------------------------------------------------------------------


def test_denoise() -> None:
    """Six evaluations in 120 s; one is 20 s."""
    assert ways(Run(6, 6, one_will_do=True), 120) == ["--detail 0 (about 20 s)", "a machine with a GPU"]
    found = ways(Run(60, 6, one_will_do=True, embedded=False), 1200)
    assert found == [
        "--detail 0 (about 20 s)", "--steps 6 (about 2 min)", "--model photo", "a machine with a GPU"
    ]  # fmt: skip
    assert ways(Run(1, 6), 90) == ["a machine with a GPU"]


def test_the_others() -> None:
    assert ways(Run(15, 15, gpu=True), 150) == ["--steps 7 (about 1 min 10 s)", "--device cuda"]
    assert ways(Run(100, 15), 1000) == ["--steps 15 (about 2 min 30 s)", "a machine with a GPU"]
    assert ways(Run(10, 15), 100) == ["a machine with a GPU"]
    assert ways(Run(100, 100, latent=True, embedded=False), 800)[:2] == [
        "--steps 50 (about 6 min 40 s)",
        "--model photo",
    ]


def test_tiles_and_parts() -> None:
    assert "--tile auto (about 50 s)" in ways(Run(15, 15, tile_auto=0.5), 100)
    assert not any("--tile" in way for way in ways(Run(15, 15, tile_auto=0.9), 100))
    assert "--count 1 (about 10 s)" in ways(Run(50, 100, part=("--count 1", 1 / 16)), 160)


def test_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def said(seconds: float, run: Run, pictures: int = 1) -> list[str]:
        forecast = Forecast(Reporter(), pictures)
        for k in range(min(pictures, 2)):
            forecast.of(f"{k}.png", run)(seconds)
        return capsys.readouterr().err.splitlines()

    short, denoise = Run(6, 6), Run(6, 6, one_will_do=True)
    assert said(9.9, short) == [] and said(30, short) == ["0.png: takes about 30 s"]
    advice = "less time: --detail 0 (about 20 s) or a machine with a GPU"
    assert said(120, denoise) == ["0.png: takes about 2 min", advice]
    assert said(120, Run(6, 6, one_will_do=True, on_cpu=False)) == ["0.png: takes about 2 min"]
    assert said(120, Run(10, 100, latent=True, embedded=False)) == [
        "0.png: sampling takes about 2 min", "less time: --model photo or a machine with a GPU",
    ]  # fmt: skip
    # Several pictures: all of them together, once.
    assert said(6, denoise, 20) == [
        "0.png: takes about 6 s; 20 like it take 2 min",
        "less time: --detail 0 (about 20 s) or a machine with a GPU",
    ]
    assert said(6, denoise, 2) == ["0.png: takes about 6 s; 2 like it take 12 s"]
    assert said(70, denoise, 2)[2:] == ["1.png: takes about 1 min 10 s"]


# -- on the command line -----------------------------------------------------------------------------------------------


class Slow(Around):
    """Moves the clock at every evaluation."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__(Smooth())
        self.clock, self.seconds = clock, seconds

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """What the other one says, after some time."""
        self.clock.now += self.seconds
        return super().predict(x, sigma, condition)


class Outcome(NamedTuple):
    code: int
    out: str
    lines: list[str]


Command = Callable[..., Outcome]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command line here, without a terminal, with a prior that takes 20 s an evaluation and no GPU."""
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
        return Outcome(code, out, [line for line in err.splitlines() if "about" in line or "less time" in line])

    return command


def test_denoise_says_it(call: Command) -> None:
    done = call("denoise", "a.png", "--sigma", 20)
    assert done.code == 0 and done.lines == [
        "a.png: takes about 1 min 20 s",
        "less time: --detail 0 (about 20 s) or a machine with a GPU",
    ]
    assert call("denoise", "a.png", "--sigma", 20, "--overwrite", "-q").lines == []
    assert call("denoise", "a.png", "--sigma", 20, "--overwrite", "--detail", 0).lines == []  # it is over by then


def test_advice_is_given_once(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "SMALL", {})  # each picture by itself
    done = call("denoise", "a.png", "b.png", "--sigma", 20)
    assert done.lines == [
        "a.png: takes about 1 min 20 s; 2 like it take 2 min 40 s",
        "less time: --detail 0 (about 40 s) or a machine with a GPU",
        "b.png: takes about 1 min 20 s",
    ]


def test_a_picture_that_fails_is_not_waited_for(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "SMALL", {})
    Path("0.png").write_bytes(b"no picture")
    assert call("denoise", "0.png", "a.png", "--sigma", 20).lines[0] == "a.png: takes about 1 min 20 s"


def test_a_batch_is_announced_as_one(call: Command) -> None:
    assert call("denoise", "a.png", "b.png", "--sigma", 20).lines == [
        "2 pictures: take about 1 min 20 s",
        "less time: --detail 0 (about 20 s) or a machine with a GPU",
    ]


def test_inpaint_and_upscale_say_it(call: Command) -> None:
    assert call("inpaint", "a.png", "--mask", "m.png", "-s", 60).lines == [
        "a.png: takes about 20 min",
        "less time: --steps 20 (about 6 min 40 s) or a machine with a GPU",
    ]
    assert call("upscale", "a.png").lines == [
        "a.png: takes about 4 min",
        "less time: --steps 6 (about 2 min) or a machine with a GPU",
    ]


def test_small_tiles_are_told(call: Command) -> None:
    """A tile of 64 pixels shares 16 with its neighbour: 2 x 1 tiles see 128 columns of 90, and the whole sees 90."""
    Image.new("RGB", (90, 8), (90, 120, 60)).save("wide.png")
    lines = call("denoise", "wide.png", "--sigma", 20, "--tile", 64).lines
    assert lines[0] == "wide.png: takes about 2 min 40 s"
    assert lines[1] == (
        f"less time: --detail 0 (about 40 s), --tile auto (about {duration(160 * 90 / 128)}) or a machine with a GPU"
    )


def test_generate_says_it(call: Command) -> None:
    done = call("generate", "-n", 4, "--size", 8, "--steps", 100, "--json")
    assert json.loads(done.out.splitlines()[-1])["exit_code"] == 0
    assert done.lines == [
        "generate: takes about 33 min",
        "less time: --steps 50 (about 17 min), --count 1 (about 8 min 20 s) or a machine with a GPU",
    ]
    assert call("generate", "-n", 4, "--size", 8, "--batch", 1, "--overwrite").lines == [
        "generate: takes about 2 h 13 min",
        "less time: --steps 50 (about 1 h 7 min), --count 1 (about 33 min) or a machine with a GPU",
    ]


def test_evaluate_says_it(call: Command) -> None:
    done = call("evaluate", ".", "--limit", 2, "--sigma", 20)
    assert done.lines == [
        "evaluate: takes about 2 min 40 s",
        "less time: --detail 0 (about 40 s), --limit 1 (about 1 min 20 s) or a machine with a GPU",
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
        "less time: --steps 50 (about 4 min 10 s), --model photo or a machine with a GPU",
    ]
