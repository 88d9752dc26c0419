"""Rivals timed in turn: what else the machine does then meets all of them, and ratios are within one run.

Each has a process of its own, as when somebody runs one of them and not the other: what a process is told about memory
and threads, as `restore` tells its own, is not told to theirs, and nobody finds memory as another has left it.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from restorer.machine import malloc, threads
from restorer.training.torchvision import import_torchvision

__all__ = ["Entrant", "Runner", "header", "race", "table"]

PACKAGES = ("restorer", "torch", "diffusers", "deepinv")
PAUSE = 0.05  # seconds in which the threads of the one before go to sleep


@dataclass(frozen=True)
class Runner:
    """One who runs, in the process it runs in.

    Args:
        run: sample once.
        calls: network evaluations of the whole picture so far.
    """

    run: Callable[[], Tensor]
    calls: Callable[[], float]


@dataclass(frozen=True)
class Entrant:
    """One who is to run.

    Args:
        label: whose, and in which precision.
        make: called in a process of its own; a function that can be found by its name, and what can be pickled.
        as_command: whether that process is told what `restore` tells its own.
    """

    label: str
    make: Callable[[], Runner]
    as_command: bool


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


def race(title: str, entrants: Sequence[Entrant], rounds: int) -> None:
    """Print a table; or why there is none. The first of the entrants is what the others are compared with.

    Every round runs each once. One round before them chooses kernels, and counts what each asks of its network.
    """
    with ExitStack() as processes:
        runs = [processes.enter_context(_in_a_process(entrant)) for entrant in entrants]
        counts = [run()[1] for run in runs]
        if len(set(counts)) > 1:
            told = ", ".join(f"{entrant.label}: {count:g}" for entrant, count in zip(entrants, counts, strict=True))
            print(f"{title}: not compared, the evaluations differ ({told})\n", flush=True)
            return
        times: list[list[float]] = [[] for _ in runs]
        for _ in range(rounds):
            for own, run in zip(times, runs, strict=True):
                own.append(run()[0])
    print(f"{title}, {counts[0]:g} evaluations each, {rounds} rounds")
    table([entrant.label for entrant in entrants], times, counts[0])


@contextmanager
def _in_a_process(entrant: Entrant) -> Iterator[Callable[[], tuple[float, float]]]:
    """Its process, while in the block: call it for a run, and get its seconds and its evaluations."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_serve, args=(its, entrant), daemon=True)
    with _environment(entrant.as_command):
        process.start()
    its.close()

    def run() -> tuple[float, float]:
        time.sleep(PAUSE)
        try:
            ours.send(True)
            return ours.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionError):
            process.join()
            raise SystemExit(f"{entrant.label} came to its end, with code {process.exitcode}") from None

    try:
        yield run
    finally:
        with ours, suppress(ConnectionError):  # it may have come to its end already
            ours.send(False)
        process.join()


@contextmanager
def _environment(as_command: bool) -> Iterator[None]:
    """What a process begun here finds: OpenMP reads it when PyTorch is loaded."""
    before = dict(os.environ)
    threads.keep_to_quota()  # theirs too: threads that take turns on a core say nothing of a library
    if as_command:
        threads.shorten_spin_wait()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@torch.no_grad()
def _serve(caller: Connection, entrant: Entrant) -> None:
    """What its process does: a run whenever it is asked for one."""
    if entrant.as_command:
        malloc.keep_pages()
    else:
        import_torchvision()  # before their packages do, which cannot repair it
    runner = entrant.make()
    while caller.recv():
        before, began = runner.calls(), time.perf_counter()
        runner.run().sum().item()  # which waits for a GPU
        caller.send((time.perf_counter() - began, runner.calls() - before))


def table(labels: Sequence[str], times: Sequence[Sequence[float]], evaluations: float | None = None) -> None:
    """One line each: the fastest and the median, and how many times as fast as the first.

    That is the median of the rounds, of each by what the first took in the same round, a few seconds earlier: machines
    that are shared have good and bad minutes. In brackets are the least and the most.
    """
    for label, own in zip(labels, times, strict=True):
        best, each = min(own), ""
        if evaluations is not None:
            each = f"{1000 * best / evaluations:9.1f} ms/evaluation"
        ratios = [first / seconds for first, seconds in zip(times[0], own, strict=True)]
        told = f"{statistics.median(ratios):6.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {label:16}{best:9.3f} s, median{statistics.median(own):9.3f} s{each}{told}")
    print(flush=True)
