"""The sampling of a batch: one evaluation of the network after the other, and what can be told between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from restorer.errors import RestorerError
from restorer.folders.events import Event, LeftOut, Sampled, Sampling, Step, Tile
from restorer.folders.picture import PreparedPicture

if TYPE_CHECKING:
    from restorer.tasks.job import Job, Restored

__all__ = ["Outcomes", "Progress", "pending", "sample"]

E = TypeVar("E", bound=Event)

Outcomes = list["Restored | BaseException | None"]
"""For each picture of a batch its result, the error that occurred, or None if it is copied."""


@dataclass(frozen=True)
class Progress:
    """Where the events of sampling go.

    Args:
        command: The verb.
        events: What has happened in the run and is not yielded yet.
        is_told: Returns whether all that belongs to earlier pictures is among these events. Until then, there is no
            progress.
    """

    command: str
    events: deque[Event]
    is_told: Callable[[], bool]

    def add(self, event: Event) -> None:
        """Add a step or a tile."""
        if self.is_told():
            self.events.append(event)


def pending(events: deque[E]) -> Iterator[E]:
    """Yield what has happened and is not yielded yet, in the order of time."""
    while events:
        yield events.popleft()


def sample(batch: Sequence[PreparedPicture], progress: Progress) -> Generator[Event, None, Outcomes]:
    """Sample the pictures of a batch that need it, yield what happens meanwhile, and return what became of each."""
    to_sample = [prepared for prepared in batch if prepared.job.plan is not None]
    for prepared in batch:
        if prepared.job.plan is None:
            progress.events.append(LeftOut(progress.command, prepared.item))
    if not to_sample:
        return _merged(batch, [])
    jobs = [prepared.job for prepared in to_sample]
    longest = max(jobs, key=lambda job: job.evaluations)
    progress.events.append(Sampling(progress.command, tuple(to_sample), longest))
    try:
        yield from pending(progress.events)
        sampled = yield from _alone(jobs[0], progress) if len(jobs) == 1 else _together(jobs, longest, progress)
    finally:
        progress.events.append(Sampled(progress.command))
    return _merged(batch, sampled)


def _merged(batch: Sequence[PreparedPicture], sampled: Outcomes) -> Outcomes:
    """Return what became of each picture of a batch, given what became of those that were sampled."""
    outcomes = iter(sampled)
    # The result of a network by itself needs no sampling.
    return [
        next(outcomes) if prepared.job.plan is not None else None if prepared.job.is_copy else prepared.job.run()
        for prepared in batch
    ]


def _together(jobs: list[Job], longest: Job, progress: Progress) -> Generator[Event, None, Outcomes]:
    """Sample several pictures, which share evaluations."""
    from restorer.tasks.batching import running_together

    rounds = running_together(jobs)
    while True:
        try:
            done = next(rounds)
        except StopIteration as end:
            return list(end.value)
        # After memory has run out, a job evaluates tile by tile, so there may be more rounds than evaluations.
        progress.add(Step(progress.command, min(done, longest.evaluations)))
        yield from pending(progress.events)


def _alone(job: Job, progress: Progress) -> Generator[Event, None, Outcomes]:
    """Sample one picture."""
    asking = job.asking(
        lambda step: progress.add(Step(progress.command, step.index)),
        lambda done, total: progress.add(Tile(progress.command, done, total)),
    )
    while True:
        try:
            question = next(asking)
        except StopIteration as end:
            return [end.value]
        except RestorerError as error:
            return [error]
        yield from pending(progress.events)
        question.evaluate()
        del question  # which holds the answer until it is taken
