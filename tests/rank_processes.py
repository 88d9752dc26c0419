"""Several processes that train together, as torchrun would start them, but within a second.

A server that has imported PyTorch forks them, so nothing is imported anew. (A fork of the test's own process would
inherit the threads of PyTorch, and could hang.)
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

__all__ = ["codes", "join", "start", "train_run"]

CONTEXT = multiprocessing.get_context("forkserver") if sys.platform != "win32" else None
SECONDS = 900  # after which processes that have not ended count as hanging
PRELOADED = ["rank_processes", "restorer.training.loop", "restorer.cli.app", "restorer.training.ranks"]


def start(count: int, function: Callable[..., int], *arguments: Any, folder: Path) -> list[BaseProcess]:
    """Start `count` processes, each of which calls the function with the arguments and ends with the code it returns.

    Standard output and standard error of process k are written to the files `k.out` and `k.err` of the folder.
    """
    assert CONTEXT is not None
    CONTEXT.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        CONTEXT.Process(target=_run, args=(rank, count, port, folder, function, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def _run(
    rank: int, count: int, port: int, folder: Path, function: Callable[..., int], arguments: tuple[Any, ...]
) -> None:
    """Call the function in the environment of a process of torchrun."""
    import torch

    names = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    torch.set_num_threads(1)
    try:
        code = function(*arguments)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once, as a process that is killed


def join(processes: list[BaseProcess]) -> list[int | None]:
    """Wait until all processes have ended, and return their exit codes; None for one that hangs, which is killed."""
    for process in processes:
        process.join(SECONDS)
    found = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return found


def codes(count: int, function: Callable[..., int], *arguments: Any, folder: Path) -> list[int | None]:
    """Start processes, wait for them, and return their exit codes."""
    return join(start(count, function, *arguments, folder=folder))


def train_run(timeout: float, stop: Callable[[int, int], bool] | None, *arguments: Any, **options: Any) -> int:
    """Train as one of the processes, and return 0, or 10 if another process has failed.

    Args:
        timeout: As in `joined`.
        stop: Called with the rank and the number of calls so far after each step, as `stop` of `train`.
        arguments: Of `train`.
        options: Of `train`.
    """
    import torch

    from restorer.training.loop import train
    from restorer.training.ranks import OtherProcessError, Place, joined

    place, calls = Place.of_environment(), 0

    def stop_now() -> bool:
        nonlocal calls
        calls += 1
        return stop is not None and stop(place.rank, calls)

    try:
        with joined(place, torch.device("cpu"), timeout) as ranks:
            outcome = train(*arguments, ranks=ranks, stop=stop_now, **options)
    except OtherProcessError as error:
        print(error, file=sys.stderr)
        return 10
    print(outcome.step)
    return 0
