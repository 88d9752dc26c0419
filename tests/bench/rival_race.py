"""Rivals timed in turn: what else the machine does then meets all of them, and ratios are within one run."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Runner", "header", "race", "table"]

PACKAGES = ("restorer", "torch", "diffusers", "deepinv")


@dataclass(frozen=True)
class Runner:
    """One who runs.

    Args:
        label: whose, and in which precision.
        run: sample once.
        calls: network evaluations of the whole picture so far.
    """

    label: str
    run: Callable[[], Tensor]
    calls: Callable[[], float]


def header(device: str) -> str:
    """The machine and the versions, in two lines."""
    if device.startswith("cuda"):
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{machine}\nPython {platform.python_version()}, {', '.join(map(_version, PACKAGES))}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _version(package: str) -> str:
    if package == "torch":  # with its build, which the metadata may not tell
        return f"torch {torch.__version__}"
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} from source" if package == "restorer" else f"no {package}"


@torch.no_grad()
def race(title: str, runners: Sequence[Runner], rounds: int) -> None:
    """Print a table; or why there is none. The first of the runners is what the others are compared with.

    Every round runs each once. One round before them chooses kernels, and counts what each asks of its network.
    """
    counts = []
    for runner in runners:
        before = runner.calls()
        _seconds(runner.run)
        counts.append(runner.calls() - before)
    if len(set(counts)) > 1:
        told = ", ".join(f"{runner.label}: {count:g}" for runner, count in zip(runners, counts, strict=True))
        print(f"{title}: not compared, the evaluations differ ({told})\n", flush=True)
        return
    times: list[list[float]] = [[] for _ in runners]
    for _ in range(rounds):
        for own, runner in zip(times, runners, strict=True):
            own.append(_seconds(runner.run))
    print(f"{title}, {counts[0]:g} evaluations each, {rounds} rounds")
    table([runner.label for runner in runners], times, counts[0])


def table(labels: Sequence[str], times: Sequence[Sequence[float]], evaluations: float | None = None) -> None:
    """One line each: the fastest and the median, and both against the first."""
    best, median = [min(own) for own in times], [statistics.median(own) for own in times]
    for label, low, middle in zip(labels, best, median, strict=True):
        each = "" if evaluations is None else f"{1000 * low / evaluations:9.1f} ms/evaluation"
        ratios = f"{best[0] / low:6.2f} times (median {median[0] / middle:.2f})"
        print(f"  {label:16}{low:9.3f} s, median{middle:9.3f} s{each}{ratios}")
    print(flush=True)


def _seconds(run: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    run().sum().item()  # which waits for a GPU
    return time.perf_counter() - began
