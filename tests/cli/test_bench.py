"""`restore bench`: the counted operations, the estimates that follow from them, and the output."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from gaussian import GaussianPrior

from restorer.cli.app import run
from restorer.evaluation import speed
from restorer.evaluation.speed import Speed, best_tile, estimate_seconds, measure, usual_precisions
from restorer.machine import memory
from restorer.models.load import load_prior
from restorer.networks.fast import precision
from restorer.priors.tiled import Tiled
from restorer.tasks.defaults import DENOISE
from restorer.tasks.tiles import best_tile_side

GIGA = 10**9


def timing(size: int, seconds: float, precision: str = "bf16") -> Speed:
    return Speed(precision, size, seconds, flop=22 * GIGA, matrix_rate=100 * GIGA)


def test_rates() -> None:
    assert timing(256, 0.5).rate == 44 * GIGA and timing(256, 0.5).share == pytest.approx(0.44)


def test_the_embedded_network_counted() -> None:
    """The count matches one by hand: a convolution takes 2 k^2 c_in c_out operations per position."""
    widths, blocks, positions = (64, 128, 192, 256), (3, 3, 3, 3), (32 * 32, 16 * 16, 8 * 8, 4 * 4)
    count = 2 * 9 * 12 * 64 * positions[0] * 2  # the first and the last convolution
    for width, n, where in zip(widths, blocks, positions, strict=True):
        count += n * 2 * (2 * 9 * width * width) * where
    for fine, coarse, where in zip(widths, widths[1:], positions[1:], strict=False):
        count += 2 * (2 * 4 * fine * coarse) * where  # down and up between two levels
    time = 256  # features of the time embedding, which every block projects to two numbers per channel
    count += 2 * (64 * time + time * time) + sum(
        n * 2 * time * 2 * width for n, width in zip(blocks, widths, strict=True)
    )
    found = measure(load_prior(device="cpu", precision="fp32"), "fp32", 64, budget=0.0)
    assert found.flop == count
    assert found.seconds > 0 and found.matrix_rate > 0 and (found.precision, found.size) == ("fp32", 64)


def test_a_prior_without_arithmetic_counts_none() -> None:
    found = measure(GaussianPrior(), "fp32", 64, budget=0.0)
    assert found.flop == 0


def test_the_tile_that_takes_least() -> None:
    """At the same speed per pixel the larger tile is better: tiles of 128 share 32 pixels, tiles of 512 share 64."""
    small, large = timing(128, 0.01), timing(512, 0.16)
    assert best_tile([small, large]) is large
    assert best_tile([timing(128, 0.005), large]).size == 128
    assert best_tile([timing(512, 0.16, "fp32"), timing(512, 0.15, "bf16")]).precision == "bf16"


def test_what_verbs_take() -> None:
    assert estimate_seconds(timing(512, 0.2), 512, 512, 6, 512, 64) == pytest.approx(1.2)
    assert estimate_seconds(timing(512, 0.2), 256, 512, 6, 512, 64) == pytest.approx(0.6)
    assert estimate_seconds(timing(512, 0.2), 960, 512, 1, 512, 64) == pytest.approx(0.4)  # two tiles share 64 pixels
    assert estimate_seconds(timing(512, 0.2), 961, 512, 1, 512, 64) == pytest.approx(0.6)
    assert estimate_seconds(timing(256, 0.2), 512, 512, 1, 512, 64) == pytest.approx(
        0.8
    )  # scaled by the number of pixels


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests run as on a processor that multiplies bf16 natively."""
    monkeypatch.setattr(precision, "has_bf16", lambda: True)


def test_precisions_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual_precisions(torch.device("cpu")) == ("fp32", "bf16")
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert usual_precisions(torch.device("cpu")) == ("fp32",)


@pytest.mark.parametrize(
    ("device", "module", "question"),
    [("xpu", torch.xpu, "is_bf16_supported"), ("mps", torch.backends.mps, "is_macos_or_newer")],
)
@pytest.mark.parametrize(("answer", "expected"), [(True, ("fp32", "bf16", "fp16")), (False, ("fp32", "fp16"))])
def test_precisions_of_gpus_are_asked_for(
    device: str, module: Any, question: str, answer: bool, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every GPU computes in fp16; older ones emulate bf16."""
    monkeypatch.setattr(module, question, lambda *arguments: answer)
    assert usual_precisions(torch.device(device)) == expected


def test_a_gpu_that_emulates_bf16_does_not_count_as_one_that_supports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert usual_precisions(torch.device("cuda")) == ("fp32", "fp16")


def test_emulated_precisions_are_left_out_and_named(
    measured: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert run(["bench", "--device", "cpu", "--size", "64"]) == 0
    assert measured == [("fp32", 64, 1.0)]
    assert "bf16 is left out: this processor emulates it" in capsys.readouterr().out
    assert run(["bench", "--device", "cpu", "--size", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["emulated"] == ["bf16"]


def test_an_emulated_precision_is_timed_if_it_is_asked_for(
    measured: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert run(["bench", "--device", "cpu", "--size", "64", "--precision", "bf16"]) == 0
    assert measured == [("bf16", 64, 1.0)] and "left out" not in capsys.readouterr().out


Calls = list[tuple[str, int, float]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replace the measurement by invented timings; return the (precision, size, budget) of each call."""
    calls: Calls = []

    def stub(prior: object, precision: str, size: int, budget: float) -> Speed:
        calls.append((precision, size, budget))
        return timing(size, size * size * (2e-6 if precision == "fp32" else 1e-6), precision)

    monkeypatch.setattr(speed, "measure", stub)
    return calls


def test_for_people(measured: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert measured == [(name, size, 1.0) for name in ("fp32", "bf16") for size in (64, 128, 256, 512)]
    assert "512x512" in out and "--precision bf16 --tile auto" in out and "6000x4000" in out and not err


def test_for_scripts(measured: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--json", "--precision", "bf16", "--size", "128", "--seconds", "0.1", "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert measured == [("bf16", 128, 0.1)]
    assert [line["event"] for line in lines] == ["timing", *["estimate"] * 12, "summary"]
    assert lines[0]["gflop"] == 22.0 and lines[0]["share"] == pytest.approx(22 / 100 / (128 * 128 * 1e-6), abs=1e-3)
    assert lines[-1]["tile"] == "auto" and lines[-1]["precision"] == "bf16" and lines[-1]["device"] == "cpu"


def test_estimates_are_of_the_tiles_that_the_verbs_use(measured: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    """At 1e-6 s per pixel, the seconds equal the megapixels that the network processes in total."""
    assert run(["bench", "--json", "--precision", "bf16", "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    large = next(line for line in lines if line.get("verb") == "denoise" and line["width"] == 4000)
    tiles = Tiled(GaussianPrior(), best_tile_side(3000, 4000), overlap=64)
    assert large["seconds"] == pytest.approx(DENOISE.steps * tiles.count(3000, 4000) * tiles.tile**2 / 1e6, abs=0.01)


def test_a_smaller_tile_that_is_faster_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A smaller tile is faster if, for instance, the larger one does not fit into the cache of the processor."""
    monkeypatch.setattr(speed, "measure", lambda prior, name, size, budget: timing(size, size**3 * 1e-9, name))
    assert run(["bench", "--precision", "bf16", "--size", "256", "--size", "512", "--device", "cpu"]) == 0
    assert "--tile 256" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--precision", "fp8"], ["--size", "32"], ["--size", "5000"], ["--seconds", "0"]])
def test_what_it_refuses(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *options]) == 2 and capsys.readouterr().err


def test_too_little_memory_is_said_beforehand(
    measured: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In fp32, 640 bytes per pixel, 130 MB, and the weights once or twice more: 4096x4096 pixels need 10.9 GB."""
    monkeypatch.setattr(memory, "available", lambda device: 10_000_000_000)
    assert run(["bench", "--size", "4096", "--precision", "fp32", "--device", "cpu"]) == 6 and not measured
    assert "4096x4096 pixels needs about 10.9 GB" in capsys.readouterr().err


def test_memory_that_runs_out_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*arguments: object) -> Speed:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speed, "measure", fail)
    assert run(["bench", "--size", "64", "--device", "cpu"]) == 6
    assert "not enough memory on cpu for 64x64 pixels" in capsys.readouterr().err
