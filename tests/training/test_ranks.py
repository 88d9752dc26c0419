"""Several processes that train together: what they compute is what one process computes, and they end together."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rank_processes import codes, join, start, train_run

from restorer.diffusion.schedule import Schedule
from restorer.errors import DeviceError, UsageError
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.networks.unet import UNetConfig
from restorer.priors.unet_prior import ModelSpec
from restorer.training.loop import Machine, Start, train
from restorer.training.meter import Progress
from restorer.training.ranks import Place, Ranks, device_of
from restorer.training.recipe import Recipe, recipe_text
from restorer.training.run_folder import CHECKPOINT, METRICS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked, and get POSIX signals")

RESIDUAL = ModelSpec(ResidualUNetConfig(12, 12, (8, 16)), Schedule("squaredcos_cap_v2"), "v_prediction", patch_size=2)
LEARNED = replace(
    RESIDUAL,
    network=UNetConfig(
        in_channels=12,
        out_channels=24,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    ),
)
RECIPE = Recipe(steps=50, batch=5, crop=16, warmup=5, learning_rate=5e-4, downscale=0.3, gray=0.2)
CPU = Machine(device="cpu", precision="fp32", log_every=10)
PROCESSES = 2
WITHIN = 1e-5  # of the weights after 50 steps, which is a fiftieth of the learning rate
WITHIN_MUON = 2e-4
PATIENCE = 900.0  # seconds, after which a process counts as hanging


@dataclass(frozen=True)
class Case:
    """A run that is taken in one process and in two."""

    spec: ModelSpec
    recipe: Recipe


CASES = {
    "a batch that is divided unevenly": Case(RESIDUAL, RECIPE),
    "running means, two passes in a step, and damaged crops": Case(
        RESIDUAL, replace(RECIPE, batch=4, accumulate=2, balance=True, jpeg=0.4)
    ),
    "a learned variance": Case(LEARNED, replace(RECIPE, batch=4, discrete=True)),
}
MUON = Case(RESIDUAL, replace(RECIPE, optimizer="muon", balance=True))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder of three pictures of smooth noise."""
    folder = tmp_path_factory.mktemp("pictures")
    for k, size in enumerate(((60, 44), (40, 70), (33, 33))):
        small = np.random.default_rng(k).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(folder / f"{k}.png")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Compute in one thread, as the processes do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint(folder: Path) -> dict[str, Any]:
    """Load the checkpoint of a run."""
    return torch.load(folder / CHECKPOINT, weights_only=True)


def bytes_of(folder: Path) -> tuple[bytes, list[bytes]]:
    """Return the bytes of the model, and those of everything in the checkpoint."""
    tensors: list[bytes] = []

    def collect(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            tensors.append(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                collect(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                collect(item)
        else:
            tensors.append(repr(value).encode())

    collect(checkpoint(folder))
    return (folder / "diffusion_pytorch_model.safetensors").read_bytes(), tensors


def largest_difference(a: Path, b: Path, key: str) -> float:
    """Return the largest difference between the weights of two checkpoints."""
    first, second = checkpoint(a)[key], checkpoint(b)[key]
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(scope="module")
def runs(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], tuple[Path, Path]]:
    """Return a function that trains a case in one process and in two, once, and returns both folders."""

    @functools.cache
    def take(case: Case) -> tuple[Path, Path]:
        place = tmp_path_factory.mktemp("runs")
        train(case.spec, case.recipe, [pictures], place / "one", CPU)
        arguments = (case.spec, case.recipe, [pictures], place / "two", CPU)
        assert codes(PROCESSES, train_run, PATIENCE, None, *arguments, folder=place) == [0, 0], (
            place / "0.err"
        ).read_text() + (place / "1.err").read_text()
        return place / "one", place / "two"

    return take


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(runs: Callable[[Case], tuple[Path, Path]], name: str) -> None:
    """After 50 steps the weights, their averages and the losses are those of one process, apart from rounding."""
    one, two = runs(CASES[name])
    for key in ("network", "average"):
        assert largest_difference(one, two, key) <= WITHIN
    torch.manual_seed(RECIPE.seed)
    first = CASES[name].spec.network.build().state_dict()
    moved = max(float((checkpoint(two)["network"][key] - value).abs().max()) for key, value in first.items())
    assert moved > 500 * WITHIN  # so that weights that do not move would not pass
    torch.testing.assert_close(checkpoint(one)["levels"], checkpoint(two)["levels"], rtol=1e-4, atol=1e-9)
    lines = [[json.loads(line) for line in (path / METRICS).read_text().splitlines()] for path in (one, two)]
    assert len(lines[0]) == len(lines[1]) == 5
    for a, b in zip(*lines, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4) and a["gradient"] == pytest.approx(
            b["gradient"], rel=1e-3
        )
    assert (checkpoint(one)["processes"], checkpoint(two)["processes"]) == (1, 2)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
def test_muon_follows_the_average_of_the_gradients(runs: Callable[[Case], tuple[Path, Path]]) -> None:
    """Muon computes in bf16, so a difference in the last of 24 bits may become one in the last of 8 bits."""
    one, two = runs(MUON)
    assert largest_difference(one, two, "network") <= WITHIN_MUON
    torch.manual_seed(RECIPE.seed)
    first = RESIDUAL.network.build().state_dict()
    hidden = "down_blocks.0.0.conv1.weight"
    assert float((checkpoint(two)["network"][hidden] - first[hidden]).abs().max()) > 5 * WITHIN_MUON


def test_processes_that_are_killed_go_on_with_the_same_bytes(
    runs: Callable[[Case], tuple[Path, Path]], pictures: Path, tmp_path: Path
) -> None:
    case = CASES["a batch that is divided unevenly"]
    machine, out = replace(CPU, save_every=0.01), tmp_path / "out"
    arguments = (case.spec, case.recipe, [pictures], out, machine)
    processes = start(
        PROCESSES, functools.partial(train_run, resume=True), PATIENCE, _slowly, *arguments, folder=tmp_path
    )
    deadline = time.monotonic() + PATIENCE
    while not (out / CHECKPOINT).exists() or not 5 <= checkpoint(out)["step"]:
        assert time.monotonic() < deadline and processes[0].is_alive(), (tmp_path / "0.err").read_text()
        time.sleep(0.05)
    for process in processes:
        process.kill()
    assert join(processes) == [-signal.SIGKILL] * PROCESSES
    assert 5 <= checkpoint(out)["step"] < 50
    resumed = functools.partial(train_run, resume=True)
    assert codes(PROCESSES, resumed, PATIENCE, None, *arguments, folder=tmp_path) == [0, 0]
    assert bytes_of(out) == bytes_of(runs(case)[1])


def test_sums_of_three_processes_keep_their_order(pictures: Path, tmp_path: Path) -> None:
    """With two processes every order of a sum is the same. With three it must not change when the run is resumed."""
    arguments = (RESIDUAL, replace(RECIPE, steps=8, batch=7), [pictures])
    resumed = functools.partial(train_run, resume=True)
    for run, stop, name in (
        (train_run, None, "whole"),
        (train_run, _second_stops_at_three, "parts"),
        (resumed, None, "parts"),
    ):
        assert codes(3, run, PATIENCE, stop, *arguments, tmp_path / name, CPU, folder=tmp_path) == [0, 0, 0]
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def _slowly(rank: int, calls: int) -> bool:
    """Give the test time to end the run."""
    time.sleep(0.05)
    return False


def _second_stops_at_three(rank: int, calls: int) -> bool:
    return rank == 1 and calls == 3


def test_a_signal_to_one_process_stops_all_at_the_same_step(pictures: Path, tmp_path: Path) -> None:
    """The run is saved, and goes on in a single process, which is told that the bytes differ."""
    out = tmp_path / "out"
    arguments = (RESIDUAL, replace(RECIPE, steps=6), [pictures], out, CPU)
    assert codes(PROCESSES, train_run, PATIENCE, _second_stops_at_three, *arguments, folder=tmp_path) == [0, 0]
    assert [(tmp_path / f"{rank}.out").read_text().split() for rank in range(2)] == [["3"], ["3"]]
    assert checkpoint(out)["step"] == 3
    starts, reports = list[Start](), list[Progress]()
    train(*arguments, resume=True, on_start=starts.append, on_progress=reports.append)
    assert (starts[0].step, starts[0].processes, starts[0].earlier_processes) == (3, 1, 2)
    train(RESIDUAL, replace(RECIPE, steps=6), [pictures], tmp_path / "alone", CPU)
    assert largest_difference(out, tmp_path / "alone", "network") <= WITHIN


def _second_fails(rank: int, calls: int) -> bool:
    if rank == 1 and calls == 2:
        raise MemoryError
    return False


def _second_is_killed(rank: int, calls: int) -> bool:
    if rank == 1 and calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return False


def _second_hangs(rank: int, calls: int) -> bool:
    if rank == 1 and calls == 2:
        time.sleep(PATIENCE)
    return False


def _first_fails(rank: int, calls: int) -> bool:
    if rank == 0 and calls == 2:
        raise MemoryError
    return False


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(_second_fails, [10, 99]), (_second_is_killed, [10, -signal.SIGKILL]), (_first_fails, [99, 10])],
)
def test_no_process_waits_for_one_that_has_ended(
    pictures: Path, tmp_path: Path, stop: Callable[[int, int], bool], expected: list[int]
) -> None:
    """The others end long before the time for which they would wait for a process that lives."""
    arguments = (RESIDUAL, RECIPE, [pictures], tmp_path / "out", CPU)
    assert codes(PROCESSES, train_run, 10 * PATIENCE, stop, *arguments, folder=tmp_path) == expected
    survivor = expected.index(10)
    assert "another process of the run has ended" in (tmp_path / f"{survivor}.err").read_text()


def test_a_process_that_does_not_answer_is_not_waited_for(pictures: Path, tmp_path: Path) -> None:
    arguments = (RESIDUAL, RECIPE, [pictures], tmp_path / "out", CPU)
    processes = start(PROCESSES, train_run, 4.5, _second_hangs, *arguments, folder=tmp_path)
    processes[0].join(PATIENCE)
    assert processes[0].exitcode == 10
    processes[1].kill()
    processes[1].join()
    assert "has not answered for 0.075 minutes" in (tmp_path / "0.err").read_text()


# -- the command -------------------------------------------------------------------------------------------------------


def command(pictures: Path, place: Path, *options: str) -> list[str]:
    """Return a command line that trains for 50 steps on the CPU, with further options at its end."""
    (place / "recipe.toml").write_text(recipe_text(RESIDUAL, RECIPE))
    fixed = ["--recipe", str(place / "recipe.toml"), "--out", str(place / "out"), "--device", "cpu"]
    return ["train", str(pictures), *fixed, "--precision", "fp32", *options]


def run_command(words: list[str]) -> int:
    """Run a command line in this process."""
    from restorer.cli.app import run

    return run(words)


def test_the_first_process_alone_prints(pictures: Path, tmp_path: Path) -> None:
    assert codes(PROCESSES, run_command, command(pictures, tmp_path, "--steps", "3"), folder=tmp_path) == [0, 0]
    first, second = ((tmp_path / f"{rank}.err").read_text() for rank in range(2))
    assert "2 processes" in first and "wrote" in first and second == ""
    # Resumed in one process, the run says that the bytes differ.
    assert codes(1, run_command, command(pictures, tmp_path, "--steps", "4", "--resume"), folder=tmp_path) == [0]
    assert "not the same bytes" in (tmp_path / "0.err").read_text()


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["--batch", "1"], "a batch of 1 crops cannot be divided among 2 processes", 2),
        (["--save-every", "0"], "--save-every between", 2),
        (["--crop", "64"], "no picture to train on", 4),
    ],
)
def test_an_error_is_reported_once(pictures: Path, tmp_path: Path, options: list[str], message: str, code: int) -> None:
    assert codes(PROCESSES, run_command, command(pictures, tmp_path, *options), folder=tmp_path) == [code, code]
    first, second = ((tmp_path / f"{rank}.err").read_text() for rank in range(2))
    assert message in first and first.count("error:") == 1 and second == ""
    assert not (tmp_path / "out").exists()


def test_torchrun_passes_ctrl_c_on(pictures: Path, tmp_path: Path) -> None:
    """torchrun starts the command, and Ctrl-C saves the run and ends every process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
    words = [*launcher, "-m", "restorer", *command(pictures, tmp_path, "--steps", "1000000")]
    process = subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    metrics, deadline = tmp_path / "out" / METRICS, time.monotonic() + PATIENCE
    try:
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode != 0 and "continue with --resume" in err and "Traceback" not in err.split("torch")[0]
    assert checkpoint(tmp_path / "out")["step"] == int(err.split("stopped at step ")[1].split()[0]) > 0


# -- places and parts --------------------------------------------------------------------------------------------------


def test_the_place_comes_from_the_environment() -> None:
    assert Place.of_environment({}) == Place(0, 1, 0, 1)
    of_torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert Place.of_environment(of_torchrun) == Place(5, 8, 1, 4)
    assert Place.of_environment({"RANK": "1", "WORLD_SIZE": "2"}) == Place(1, 2, 1, 2)
    for wrong in ({"RANK": "x"}, {"RANK": "8"}, {"LOCAL_RANK": "4"}, {"LOCAL_WORLD_SIZE": "9"}, {"RANK": "-1"}):
        with pytest.raises(UsageError, match="WORLD_SIZE=8"):
            Place.of_environment({**of_torchrun, **wrong})


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (7, 2), (16, 3), (5, 5), (64, 7)])
def test_parts_are_the_batch(batch: int, count: int) -> None:
    """The parts follow each other, cover the batch, and differ by at most one crop."""
    parts = [list(range(batch))[Ranks(Place(rank, count)).part(batch)] for rank in range(count)]
    assert [crop for part in parts for crop in part] == list(range(batch))
    assert {len(part) for part in parts} <= {batch // count, batch // count + 1}


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_of("auto", Place(6, 8, 2, 4)) == device_of("cuda", Place(2, 4, 2, 4)) == torch.device("cuda", 2)
    assert device_of("cuda:3", Place()) == torch.device("cuda", 3)
    assert device_of("cpu", Place(2, 4, 2, 4)) == torch.device("cpu")
    with pytest.raises(UsageError, match="4 processes cannot train on cuda:1"):
        device_of("cuda:1", Place(0, 4, 0, 4))
    with pytest.raises(DeviceError, match="8 processes for 4 CUDA devices") as caught:
        device_of("cuda", Place(0, 8, 0, 8))
    assert "--nproc_per_node=4" in caught.value.hint
