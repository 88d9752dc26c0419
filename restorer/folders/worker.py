"""A worker of a run on several machines: it restores the pictures that the driver names, with a model loaded once.

Paths go in, and what became of the pictures comes out. A picture takes two calls. The first reads and measures it, and
the driver then logs that it has begun. The second restores it and writes the result. So nothing is ever written whose
beginning is not in the log, and a worker needs no log of its own.

The methods may be called from several threads at a time: one picture is then read or written while the network is at
work on another one.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from restorer.errors import RestorerError
from restorer.folders.briefing import Briefing
from restorer.folders.events import Done, Event, Failed
from restorer.folders.paths import Item
from restorer.folders.picture import PreparedPicture, measure_picture, shared_batch_size
from restorer.folders.result import write_result
from restorer.folders.run import Run
from restorer.folders.sampling import Progress, sample

if TYPE_CHECKING:
    from restorer.tasks.job import Restored

__all__ = ["Answer", "Piece", "Worker", "set_up_process"]

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """One picture that a worker is given.

    Args:
        item: The files of the picture and its result.
        may_replace: Whether an existing file at the target comes from this run or the one that it continues.
        map_target: The file for the map of the uncertainty; None if none is wanted.
    """

    item: Item
    may_replace: bool = False
    map_target: Path | None = None


@dataclass(frozen=True)
class Answer:
    """What a call to a worker returns.

    Args:
        begun: The pictures whose restoration can begin, by their places among those that were given.
        ended: What became of pictures.
    """

    begun: tuple[int, ...] = ()
    ended: tuple[Done | Failed, ...] = ()


def set_up_process(threads: int | None) -> None:
    """Set up the memory and the threads of a process that is to be a worker, as the command does for its own.

    Call this function before PyTorch is imported.

    Args:
        threads: Number of threads; None to leave it to PyTorch.
    """
    from restorer.machine.malloc import keep_pages
    from restorer.machine.threads import keep_to_quota, shorten_spin_wait

    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    else:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to the cores of the worker, whose device is a GPU
        keep_to_quota()
    shorten_spin_wait()
    keep_pages()


class Worker(Run):
    """The worker.

    Args:
        briefing: What it is told once.
        owner: The beginning of the names of incomplete files, which tells the driver whose they are.

    Raises:
        RestorerError: This machine cannot work for the run.
    """

    def __init__(self, briefing: Briefing, owner: str) -> None:
        import torch

        from restorer.images.partials import set_owner
        from restorer.machine.memory import share_memory

        super().__init__(briefing.options, briefing.verb)
        self._keeps_log = briefing.keeps_log
        set_owner(owner)
        share_memory(briefing.sharers)
        if briefing.threads is not None:
            torch.set_num_threads(briefing.threads)
        briefing.enter()
        self._model = briefing.load()
        if self.verb.check_prior is not None:
            self.verb.check_prior(self._model.prior)  # type: ignore[arg-type]
        self._device = threading.Lock()  # held while the network is at work
        self._batches_begun: dict[int, list[PreparedPicture]] = {}

    def begin(self, key: int, pieces: Sequence[Piece]) -> Answer:
        """Read and measure pictures, and keep them under a key until `finish` is called."""
        begun, ended, batch = [], list[Done | Failed](), []
        for place, piece in enumerate(pieces):
            try:
                prepared = self._prepare(piece.item)
                with self._device:
                    prepared = measure_picture(prepared)
            except RestorerError as error:
                ended.append(Failed(self.options.command, piece.item, error))
                continue
            batch.append(replace(prepared, may_replace=piece.may_replace, map_target=piece.map_target))
            begun.append(place)
        if batch:
            self._batches_begun[key] = batch
        return Answer(tuple(begun), tuple(ended))

    def finish(self, key: int) -> Answer:
        """Restore the pictures of a key, write the results, and return what became of each."""
        waiting, ended = deque(self._batches_begun.pop(key)), list[Done | Failed]()
        while waiting:
            batch = [waiting.popleft()]
            while waiting and sum(picture.batch_share for picture in (*batch, waiting[0])) <= 1:
                batch.append(waiting.popleft())
            ended.extend(self._restored(batch))
        return Answer(ended=tuple(ended))

    def _restored(self, batch: list[PreparedPicture]) -> list[Done | Failed]:
        """Restore pictures that share evaluations, write the results, and return what became of each."""
        progress = Progress(self.options.command, deque[Event](), lambda: False)
        with self._device:
            start = time.monotonic()
            outcomes = _exhaust(sample(batch, progress))
            seconds = (time.monotonic() - start) / len(batch)
        return [
            self._written(prepared, outcome, prepared.seconds + seconds, shared_batch_size(prepared, batch))
            for prepared, outcome in zip(batch, outcomes, strict=True)
        ]

    def _written(
        self, prepared: PreparedPicture, outcome: Restored | BaseException | None, seconds: float, batch: int
    ) -> Done | Failed:
        """Write a result, and return what became of it.

        Raises:
            BaseException: The outcome is a bug.
        """
        from restorer.tasks.uncertain import NOTHING

        command, item, job = self.options.command, prepared.item, prepared.job
        assert self._model is not None
        if isinstance(outcome, RestorerError):
            return Failed(command, item, outcome)
        if isinstance(outcome, BaseException):
            raise outcome
        try:
            with self._device if job.asked != NOTHING else nullcontext():  # the network is asked about the result, too
                done = write_result(prepared, outcome, self.options, self._model, seconds=seconds, batch=batch)
        except RestorerError as error:
            return Failed(command, item, error)
        found = "; ".join(each.describe() for each in (job.noise, job.jpeg) if each is not None)
        said = (("say", f"{item.source.name}: {found}"), *done.said) if found else done.said
        return replace(done, notes=(*prepared.picture.notes, *job.notes, *done.notes), said=said)

    def _fingerprint(self, item: Item, data: bytes | None) -> str:
        """Return the fingerprint of a picture if the driver keeps a log."""
        return self._recipe(item, hashlib.sha256(data or b"").hexdigest()) if self._keeps_log else ""


def _exhaust(steps: Generator[Event, None, T]) -> T:
    """Return what a generator returns, after all that it yields."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
