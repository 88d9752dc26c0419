"""What happens in a run over pictures, as the engine (`restorer.folders.run`) reports it, in the order of time.

A run yields

    PassedOver, Failed, Skipped, Noted        before the work
    Planned, Expected                         in a dry run
    Opened                                    the model is loaded
    Starting, Measured, Begun, LeftOut        for each picture
    Sampling, Step and Tile, Sampled          for each batch, while the network is at work
    Done, or Failed                           for each picture
    Working                                   now and then on several machines, which report no steps
    Finished                                  at the end

The events of neighbouring pictures overlap, because the results of one batch are written while the next one is sampled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restorer.errors import RestorerError, exit_code_for
from restorer.folders.paths import Item
from restorer.images.find import STDIO

if TYPE_CHECKING:
    from restorer.folders.picture import PreparedPicture
    from restorer.images.picture import Picture
    from restorer.tasks.job import Job
    from restorer.tasks.repair import Repair

__all__ = [
    "Begun",
    "Done",
    "Event",
    "Expected",
    "Failed",
    "Finished",
    "LeftOut",
    "Measured",
    "Noted",
    "Opened",
    "Outcome",
    "PassedOver",
    "Planned",
    "Sampled",
    "Sampling",
    "Skipped",
    "Starting",
    "Step",
    "Tile",
    "Working",
    "is_in_log",
]


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Args:
        command: The verb of the run.
    """

    command: str

    def to_json(self) -> dict[str, Any] | None:
        """Return the object that `--json` prints; None for an event that it does not print."""
        return None


@dataclass(frozen=True)
class PassedOver(Event):
    """A file in a folder is not restored.

    Args:
        path: The file.
        kind: The name of its kind in `restorer.images.kinds.KINDS`.
    """

    path: Path
    kind: str

    def to_json(self) -> dict[str, Any]:
        """Return the event `passed_over`."""
        return {"event": "passed_over", "command": self.command, "input": str(self.path), "kind": self.kind}


@dataclass(frozen=True)
class Noted(Event):
    """There is something about the run that the user may not expect.

    Args:
        text: One line.
    """

    text: str


@dataclass(frozen=True)
class Outcome(Event):
    """What became of one picture. Each picture has one outcome, unless the run stops before its turn.

    Args:
        item: The files of the picture and its result.
    """

    item: Item

    @property
    def status(self) -> str:
        """What became of the picture: "ok", "failed" or "skipped"."""
        return str(self.to_json()["status"])

    def to_json(self) -> dict[str, Any]:
        """Return the event `result`."""
        raise NotImplementedError

    def _result(self, **fields: Any) -> dict[str, Any]:
        target = self.item.target
        paths = {"input": str(self.item.source), "output": str(target) if target != Path() else None}
        return {"event": "result", "command": self.command, **paths, **fields}


@dataclass(frozen=True)
class Skipped(Outcome):
    """A picture is not restored, because there is nothing to do.

    Args:
        reason: A phrase about its result, for instance "exists".
    """

    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the event `result` with the status `skipped`."""
        return self._result(status="skipped")


@dataclass(frozen=True)
class Failed(Outcome):
    """A picture cannot be restored.

    Args:
        error: The reason.
        is_common: Whether the error is that of the model, which concerns all pictures, and of which `Opened` has told.
    """

    error: RestorerError
    is_common: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the event `result` with the status `failed`, as the log holds it, too."""
        hint = {"hint": self.error.hint} if self.error.hint else {}
        return self._result(status="failed", code=exit_code_for(self.error), error=str(self.error), **hint)


@dataclass(frozen=True)
class Done(Outcome):
    """A result has been written.

    Args:
        facts: How it was made: the fields of the event `result` with the status `ok`.
        notes: What was found out about the result when it was made, one line for each thing.
        size: Its width and height in pixels.
        file_bytes: The size of its file; None if it did not go into a file.
        seconds: The time that the picture has taken.
        how: "wrote", "replaced", or "left" for a picture in which nothing has changed.
        drawn: The picture and the result, if they are to be shown.
        said: What is told of what was written beside the result: pairs of "say", "note" or "detail" and a text.
    """

    facts: dict[str, Any]
    notes: tuple[str, ...]
    size: tuple[int, int]
    file_bytes: int | None
    seconds: float
    how: str = "wrote"
    drawn: tuple[Picture, Picture] | None = field(default=None, repr=False)
    said: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the event `result` with the status `ok`, as the log holds it, too."""
        return self._result(status="ok", **self.facts)


@dataclass(frozen=True)
class Planned(Event):
    """What a dry run says about one picture.

    Args:
        item: The files of the picture and its result.
        original: The width and height of the picture.
        size: The width and height of the result.
        steps: Number of network evaluations; None if it is not known.
        seconds: The estimated time; None if the model is not here, or with a start.
        memory: The estimated memory in bytes.
        file_bytes: The estimated size of the result; None if the header of the picture does not tell.
        is_plain: Whether every result of the run has the size of its picture.
        repairs: What was found and what will be done about it; None for other commands than `auto`.
        notes: What else was found out about the picture.
    """

    item: Item
    original: tuple[int, int]
    size: tuple[int, int]
    steps: int | None
    seconds: float | None
    memory: int
    file_bytes: int | None
    is_plain: bool
    repairs: tuple[Repair, ...] | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the event `plan`."""
        return {
            "event": "plan",
            "command": self.command,
            "input": str(self.item.source),
            "output": str(self.item.target),
            "width": self.size[0],
            "height": self.size[1],
            "seconds": self.seconds,
            "peak_mem_mb": round(self.memory / 1e6),
            "bytes": self.file_bytes,
            **({} if self.repairs is None else {"repairs": [repair.to_dict() for repair in self.repairs]}),
        }


@dataclass(frozen=True)
class Expected(Event):
    """What all pictures of a dry run take together.

    Args:
        pictures: Their number.
        seconds: The estimated time; None if the model is not here, or with a start.
        file_bytes: The estimated size of the results; None if it is not known, or if `free` is not.
        free: The free bytes where the first result goes.
    """

    pictures: int
    seconds: float | None
    file_bytes: int | None
    free: int | None


@dataclass(frozen=True)
class Opened(Event):
    """The model is loaded, or cannot be.

    Args:
        pictures: Number of pictures that will be restored at most.
        error: Why the model cannot be loaded; every picture then fails.
    """

    pictures: int
    error: RestorerError | None = None


@dataclass(frozen=True)
class Starting(Event):
    """The network from whose result a restoration starts is at work on a picture.

    Args:
        item: The files of the picture and its result.
        name: The name of the network.
    """

    item: Item
    name: str


@dataclass(frozen=True)
class Measured(Event):
    """A picture has been read and measured, and the plan of its restoration is known.

    Args:
        item: The files of the picture and its result.
        job: The restoration; its fields `noise` and `jpeg` say what was found.
    """

    item: Item
    job: Job = field(repr=False)


@dataclass(frozen=True)
class Begun(Event):
    """The restoration of a picture begins, and the log says so.

    Args:
        picture: The picture and its job.
    """

    picture: PreparedPicture = field(repr=False)


@dataclass(frozen=True)
class LeftOut(Event):
    """A picture will not be sampled: it fails, is copied, or its result is that of a network by itself.

    Args:
        item: The files of the picture and its result.
    """

    item: Item


@dataclass(frozen=True)
class Sampling(Event):
    """The network is at work on a batch of pictures.

    Args:
        pictures: The pictures that share evaluations.
        longest: The job among them that takes the most evaluations.
    """

    pictures: tuple[PreparedPicture, ...] = field(repr=False)
    longest: Job = field(repr=False)


@dataclass(frozen=True)
class Step(Event):
    """An evaluation of whole pictures has ended.

    Args:
        done: Number of evaluations of the batch so far.
    """

    done: int


@dataclass(frozen=True)
class Tile(Event):
    """A tile of the current evaluation has ended.

    Args:
        done: Number of tiles of this evaluation so far.
        total: Number of tiles of this evaluation, which changes if memory has run out.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Sampled(Event):
    """The network has ended its work on a batch of pictures."""


@dataclass(frozen=True)
class Working(Event):
    """Workers on several machines are at work.

    Args:
        done: Number of pictures that have been restored or have failed.
        pictures: Number of pictures that will be restored at most.
        nodes: Number of machines on which there are workers.
        workers: Number of workers.
        waiting: Number of further workers that start, or wait for room in the cluster.
        rate: Pictures a second; None if it is not known yet.
    """

    done: int
    pictures: int
    nodes: int
    workers: int
    waiting: int
    rate: float | None


@dataclass(frozen=True)
class Finished(Event):
    """The run has ended.

    Args:
        ok: Number of pictures that were restored, or in a dry run would be.
        failed: Number of pictures that failed.
        skipped: Number of pictures that were skipped.
        passed_over: Number of other files of each kind.
        seconds: The time of the run.
        exit_code: The exit code of the command.
    """

    ok: int
    failed: int
    skipped: int
    passed_over: dict[str, int]
    seconds: float
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        """Return the event `summary`."""
        counts = {"ok": self.ok, "failed": self.failed, "skipped": self.skipped}
        end = {"seconds": self.seconds, "exit_code": self.exit_code}
        return {"event": "summary", **counts, "passed_over": self.passed_over, **end}


def is_in_log(item: Item) -> bool:
    """Return whether a log can hold what becomes of a picture: whether its result is a file that was chosen."""
    return item.target not in (Path(), STDIO)
