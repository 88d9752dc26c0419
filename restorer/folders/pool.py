"""Workers of a run as the driver sees them, whatever starts them: a Ray cluster, or a double in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from restorer.folders.briefing import Briefing
from restorer.folders.worker import Piece

__all__ = ["Arrived", "Pool", "Reply"]


@dataclass(frozen=True)
class Arrived:
    """What the call `start` of a worker returns.

    Args:
        name: The name of its machine, for messages.
        node: The identity of its machine.
    """

    name: str
    node: str


@dataclass(frozen=True)
class Reply:
    """The end of a call to a worker.

    Args:
        worker: The number of the worker.
        method: The method that was called: "start", "begin" or "finish".
        key: The key that was given.
        value: What the call returned: `Arrived`, an `Answer`, or for "start" the `RestorerError` that prevents the
            machine from working for this run.
        lost: Why the worker is dead; None if it is alive.
    """

    worker: int
    method: str
    key: int
    value: Any = None
    lost: str | None = None


class Pool(Protocol):
    """Workers that are started one by one, and the calls to them."""

    kind: str
    """The kind of the device of every worker: "cpu" or "cuda"."""

    threads: int | None
    """Number of threads of every worker; None to leave it to PyTorch."""

    concurrency: int
    """Number of calls to one worker that run at a time; the first ones that wait are running."""

    def room(self) -> int:
        """Return the number of workers for which the machines have room, whether it is free or not."""

    def sharers(self) -> int:
        """Return the largest number of workers for which a single machine has room."""

    def brief(self, briefing: Briefing) -> None:
        """Keep what every worker that is started from now on is told."""

    def start(self, owner: str) -> int:
        """Ask for another worker, call its method `start`, and return its number. It may have to wait for room.

        Args:
            owner: The beginning of the names of its incomplete files.
        """

    def call(self, worker: int, method: str, key: int, pieces: Sequence[Piece] = ()) -> None:
        """Call a method of a worker, after all earlier calls."""

    def wait(self, seconds: float) -> list[Reply]:
        """Return the calls that have ended, after waiting for the first one for this time at most.

        Raises:
            DeviceError: The workers cannot be reached any more.
        """

    def stop(self, worker: int) -> None:
        """End a worker at once, dead or alive. Its calls get no reply any more."""

    def close(self) -> None:
        """End all workers at once."""
