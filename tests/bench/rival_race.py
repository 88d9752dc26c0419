"""Alternating timing of several programs, so that other load on the machine affects all of them equally.

Each program has a process of its own, as when a user runs only one of them. Settings of memory and threads, which
`restore` makes for its own process, therefore do not affect the other programs, and no program inherits the memory
state of another.
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
from restorer.machine.torchvision import import_torchvision

__all__ = ["Entrant", "Runner", "header", "race", "table"]

PACKAGES = ("restorer", "torch", "diffusers", "deepinv")
PAUSE = 0.05  # seconds before each run, in which the threads of the previous program go to sleep


@dataclass(frozen=True)
class Runner:
    """A program, prepared in the process in which it runs.

    Args:
        run: Samples once.
        count_calls: Returns the number of network evaluations of the whole picture so far.
    """

    run: Callable[[], Tensor]
    count_calls: Callable[[], float]


@dataclass(frozen=True)
class Entrant:
    """A program to be timed.

    Args:
        label: Name and precision.
        make: Prepares the program in a process of its own; it must be possible to pickle this function.
        as_command: Whether the memory and the threads of that process are set up as `restore` does.
    """

    label: str
    make: Callable[[], Runner]
    as_command: bool


def header(device: str) -> str:
    """Return the machine and the versions of the packages as two lines of text."""
    if device.startswith("cuda"):
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{machine}\nPython {platform.python_version()}, {', '.join(map(_version, PACKAGES))}"


def _processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _version(package: str) -> str:
    """Return the name and the version of a package."""
    if package == "torch":  # the metadata may lack the build, such as +cpu
        return f"torch {torch.__version__}"
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} from source" if package == "restorer" else f"no {package}"


def race(title: str, entrants: Sequence[Entrant], rounds: int) -> None:
    """Time programs alternately and print a table, or the reason why they cannot be compared.

    Each round runs each program once. A first round, which is not timed, chooses kernels and counts the network
    evaluations; programs with different numbers of evaluations are not compared.

    Args:
        title: Heading of the table.
        entrants: The programs; the others are compared with the first.
        rounds: Number of rounds that are timed.
    """
    with ExitStack() as processes:
        runs = [processes.enter_context(_start_process(entrant)) for entrant in entrants]
        counts = [run()[1] for run in runs]
        if len(set(counts)) > 1:
            listed = ", ".join(f"{entrant.label}: {count:g}" for entrant, count in zip(entrants, counts, strict=True))
            print(f"{title}: not compared, the numbers of evaluations differ ({listed})\n", flush=True)
            return
        times: list[list[float]] = [[] for _ in runs]
        for _ in range(rounds):
            for run_times, run in zip(times, runs, strict=True):
                run_times.append(run()[0])
    print(f"{title}, {counts[0]:g} evaluations each, {rounds} rounds")
    table([entrant.label for entrant in entrants], times, counts[0])


@contextmanager
def _start_process(entrant: Entrant) -> Iterator[Callable[[], tuple[float, float]]]:
    """Start the process of a program, and end it with the block.

    Yields:
        A function that runs the program once and returns its seconds and its number of evaluations.
    """
    context = multiprocessing.get_context("spawn")
    connection, child_connection = context.Pipe()
    process = context.Process(target=_serve, args=(child_connection, entrant), daemon=True)
    with _environment(entrant.as_command):
        process.start()
    child_connection.close()

    def run() -> tuple[float, float]:
        time.sleep(PAUSE)
        try:
            connection.send(True)
            return connection.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionError):
            process.join()
            raise SystemExit(f"the process of {entrant.label} ended with exit code {process.exitcode}") from None

    try:
        yield run
    finally:
        with connection, suppress(ConnectionError):  # the process may have ended already
            connection.send(False)
        process.join()


@contextmanager
def _environment(as_command: bool) -> Iterator[None]:
    """Set the environment for a process that is started inside the block; OpenMP reads it when PyTorch is loaded."""
    before = dict(os.environ)
    threads.keep_to_quota()  # for all programs, because too many threads would say nothing about a library
    if as_command:
        threads.shorten_spin_wait()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@torch.no_grad()
def _serve(caller: Connection, entrant: Entrant) -> None:
    """Run a program whenever the parent process requests it, until it sends False."""
    if entrant.as_command:
        malloc.keep_pages()
    else:
        import_torchvision()  # before other packages import it, which cannot repair it
    runner = entrant.make()
    while caller.recv():
        before, start = runner.count_calls(), time.perf_counter()
        runner.run().sum().item()  # reading the sum waits for a GPU
        caller.send((time.perf_counter() - start, runner.count_calls() - before))


def table(labels: Sequence[str], times: Sequence[Sequence[float]], evaluations: float | None = None) -> None:
    """Print one line for each program: its fastest and its median time, and its speed relative to the first program.

    The relative speed is the median over the rounds of the ratio between the first program's time and its own in the
    same round, because the speed of a shared machine changes from minute to minute. The smallest and the largest ratio
    are in brackets.

    Args:
        labels: Names of the programs.
        times: Seconds of each program in each round.
        evaluations: Number of network evaluations in a run, for the time of one evaluation; None to leave it out.
    """
    for label, run_times in zip(labels, times, strict=True):
        best, per_evaluation = min(run_times), ""
        if evaluations is not None:
            per_evaluation = f"{1000 * best / evaluations:9.1f} ms/evaluation"
        ratios = [first / seconds for first, seconds in zip(times[0], run_times, strict=True)]
        speed = f"{statistics.median(ratios):6.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {label:16}{best:9.3f} s, median{statistics.median(run_times):9.3f} s{per_evaluation}{speed}")
    print(flush=True)
