"""Runs on several machines: the driver of workers that restore the pictures of a folder.

The driver chooses the pictures, hands them out, and alone writes the log, so that `--resume` continues such a run on
one machine, and the other way round. A worker that dies costs the pictures that it holds. They are done again
elsewhere, and a picture fails when two workers have died during its restoration. After the first death it has a worker
to itself, so that no other picture is blamed for it.

The driver asks for workers as long as there are pictures for them. Those that wait for room tell a cluster that can
grow to do so.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restorer.errors import DeviceError, RestorerError
from restorer.folders.briefing import Briefing, glimpses_of, probes
from restorer.folders.events import Done, Event, Noted, Opened, Working
from restorer.folders.extras import map_path
from restorer.folders.manifest import Manifest, remove_partial_files
from restorer.folders.opening import open_model
from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.folders.picture import Verb
from restorer.folders.pool import Arrived, Pool, Reply
from restorer.folders.run import Run
from restorer.folders.sampling import pending
from restorer.folders.units import MOST_ITEMS, Unit, share_of
from restorer.folders.worker import Answer, Piece
from restorer.images.partials import new_owner, remove_partials

if TYPE_CHECKING:
    from restorer.models.load import Model

__all__ = ["ClusterRun", "make_run"]

DEATHS = 2
"""Number of workers that may die during the restoration of a picture before it fails."""

FAILED_STARTS = 3
"""Number of workers that may die one after the other before they have begun.

Then the run goes on with those that it has, or ends if it has none.
"""

WAIT_SECONDS, TOLD_SECONDS, ROOM_SECONDS = 0.5, 0.5, 10.0
PATIENCE = 30.0
"""Seconds without any worker after which the run says what it waits for."""


@dataclass
class Member:
    """A worker of the run.

    Args:
        owner: The beginning of the names of its incomplete files.
        where: Its machine; None until it is ready.
        units: What it holds, by keys, in the order of the calls.
    """

    owner: str
    where: Arrived | None = None
    units: dict[int, Unit] = field(default_factory=dict)


class ClusterRun(Run):
    """A run whose pictures are restored by workers. It yields `Working` instead of the events of single evaluations.

    Args:
        options: The options of the run, with a cluster.
        verb: The verb.
        log: The log of the run; None to keep none.
        look_up: Returns the model without its prior, which the driver does not need.
        open_model: Returns the model with its prior, in a worker.
        open_pool: Returns the workers, given the address of the cluster and the device.
    """

    def __init__(
        self,
        options: Options,
        verb: Verb,
        log: Manifest | None = None,
        look_up: Callable[[Options], Model] | None = None,
        open_model: Callable[[Options], Model] = open_model,
        open_pool: Callable[[str, str], Pool] | None = None,
    ) -> None:
        super().__init__(options, replace(verb, check_prior=None), log, look_up or _look_up)
        self._sent_verb, self._open_in_worker = verb, open_model
        self._make_pool = open_pool or _open_ray
        self._members: dict[int, Member] = {}
        self._waiting = deque[Item]()  # pictures that no worker has been given yet
        self._again = deque[Unit]()  # what dead workers have left, and what was put together and not given yet
        self._begun = set[Path]()  # targets that workers may have written
        self._left = list[tuple[str, set[Path]]]()  # dead owners, and the folders of what they held
        self._failed_starts, self._keys, self._pictures, self._finished = 0, 0, 0, 0
        self._told, self._told_at, self._room_at, self._room = (0, 0, 0), 0.0, 0.0, 0
        self._times = deque[float](maxlen=512)  # when pictures have ended

    def _restore_pictures(self, to_do: list[Item]) -> Iterator[Event]:
        options = self.options
        if self.log is not None and options.shard is None:
            remove_partial_files({item.target.parent for item in to_do})
        model = self._load_model(to_do) if to_do else None
        if model is None:
            return
        items = self._select_unfinished(to_do)
        self._pictures = min(len(items), options.limit or len(items))
        self._events.append(Opened(options.command, self._pictures))
        yield from pending(self._events)
        if not items:
            return
        self._waiting.extend(items)
        with ExitStack() as stack:
            stack.callback(self._sweep)
            pool = stack.enter_context(closing(self._make_pool(options.cluster or "", options.device)))
            stack.callback(self._bury_all)
            written = stack.enter_context(probes(items))
            pool.brief(self._briefing(pool, model, written, () if options.in_place else glimpses_of(items)))
            yield from self._drive(pool)

    def _briefing(self, pool: Pool, model: Model, written: tuple[Any, ...], glimpses: tuple[Any, ...]) -> Briefing:
        """Return what workers are told."""
        options = replace(self.options, device=pool.kind)
        sharers = min(pool.sharers(), options.workers or pool.sharers())
        return Briefing(
            options,
            self._sent_verb,
            self._open_in_worker,
            Path.cwd(),
            written,
            glimpses,
            self.log is not None,
            model.sha256,
            pool.threads,
            sharers,
        )

    # ------------------------------------------------------------------------------------------------- the loop

    def _drive(self, pool: Pool) -> Generator[Event]:
        """Hand pictures out and report what becomes of them, until there are none left."""
        start = time.monotonic()
        has_waited = False
        while True:
            self._hand_out(pool)
            self._tell_progress()
            yield from pending(self._events)
            if not self._holds() and (self._should_stop() or not (self._again or self._waiting)):
                break
            for reply in pool.wait(WAIT_SECONDS):
                self._take(reply, pool)
            yield from pending(self._events)
            if not has_waited and not self._ready() and time.monotonic() - start > PATIENCE:
                has_waited = True
                text = f"no worker could begin in {PATIENCE:.0f} seconds: the cluster has no room, or is still growing"
                self._events.append(Noted(self.options.command, text))
        self._tell_progress(is_last=True)
        yield from pending(self._events)

    def _hand_out(self, pool: Pool) -> None:
        """Ask for workers, and give those that are ready what they can hold."""
        self._ask_for_workers(pool)
        for held in (0, 1):  # every worker has something to do before any has something in reserve
            for number, member in self._ready().items():
                if len(member.units) != held or any(unit.is_alone for unit in member.units.values()):
                    continue
                if (unit := self._next_unit(pool.kind)) is None:
                    return
                if held and unit.is_alone:
                    self._again.appendleft(unit)
                    continue
                self._give(number, unit, pool)

    def _ask_for_workers(self, pool: Pool) -> None:
        """Ask for as many workers as are wanted, as long as there are pictures for them."""
        most, now = self.options.workers, time.monotonic()
        if self._failed_starts >= FAILED_STARTS:
            return
        if most is None:
            if not self._room_at or now - self._room_at > ROOM_SECONDS:
                self._room_at, self._room = now, pool.room()
            most = max(self._room, 1)
        work = 0 if self._should_stop(self._holds()) else len(self._waiting) + len(self._again)
        busy = sum(bool(member.units) for member in self._members.values())
        while len(self._members) < min(most, busy + work):
            owner = new_owner()
            self._members[pool.start(owner)] = Member(owner)

    def _give(self, number: int, unit: Unit, pool: Pool) -> None:
        """Give a worker pictures."""
        resumed = self.log if self.options.resume else None
        pieces = [
            Piece(
                item,
                item.target in self._begun or (resumed is not None and resumed.has_begun(item.target)),
                map_path(item, self.options, self.items),
            )
            for item in unit.items
        ]
        self._keys += 1
        self._members[number].units[self._keys] = unit
        pool.call(number, "begin", self._keys, pieces)

    def _next_unit(self, kind: str) -> Unit | None:
        """Return the pictures that the next worker is given; None if none should be begun now."""
        if self._should_stop(self._holds()):
            return None
        if self._again:
            return self._again.popleft()
        items, share = list[Item](), 0.0
        while self._waiting and len(items) < MOST_ITEMS and not self._should_stop(self._holds() + len(items)):
            next_share, is_large = share_of(self._waiting[0], self.options, self.verb, kind)
            if items and share + next_share > 1:
                break
            items.append(self._waiting.popleft())
            share += next_share
            if share >= 1:
                return Unit(tuple(items), is_large)
        return Unit(tuple(items), is_alone=False) if items else None

    # ---------------------------------------------------------------------------------------------- what workers say

    def _take(self, reply: Reply, pool: Pool) -> None:
        """Take the end of a call."""
        member = self._members.get(reply.worker)
        if member is None:  # its death has been seen before
            return
        if reply.lost is not None:
            self._bury(reply.worker, reply.lost, pool)
        elif reply.method == "start":
            if isinstance(reply.value, RestorerError):
                raise reply.value
            member.where, self._failed_starts = reply.value, 0
        else:
            self._take_answer(reply, member, pool)

    def _take_answer(self, reply: Reply, member: Member, pool: Pool) -> None:
        """Log and report what a worker answers, and let it go on with pictures whose beginning is logged."""
        answer: Answer = reply.value
        unit = member.units.pop(reply.key)
        begun = [unit.items[place] for place in answer.begun]
        for item in begun:
            self._begun.add(item.target)
            if self.log is not None:
                self.log.log_begin(item.target)
        if begun:
            member.units[reply.key] = replace(unit, items=tuple(begun))
            pool.call(reply.worker, "finish", reply.key)
        for event in answer.ended:
            self._times.append(time.monotonic())
            self._finished += 1
            if not isinstance(event, Done):
                self._fail(event.item, event.error)
                continue
            if self.log is not None:
                self.log.log_result(event.item.target, event.to_json())
            self.done += 1
            where = member.where.name if member.where is not None else ""
            self._events.append(replace(event, said=(*event.said, ("detail", f"{event.item.source}: node {where}"))))

    # -------------------------------------------------------------------------------------------------------- deaths

    def _bury(self, number: int, reason: str, pool: Pool) -> None:
        """Do without a worker from now on: what it held is done again.

        Raises:
            DeviceError: There is no worker, and new ones die before they begin.
        """
        member = self._members.pop(number)
        pool.stop(number)
        self._leave(member)
        self._sweep()
        if member.where is None:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS and not self._ready():
                hint = "restore doctor on the machines of the cluster may tell more"
                raise DeviceError(f"{FAILED_STARTS} workers one after the other died as they started: {reason}", hint)
            return
        text = f"a worker on node {member.where.name} is dead ({reason}); what it held is done again elsewhere"
        self._events.append(Noted(self.options.command, text))
        for place, unit in reversed([*enumerate(member.units.values())]):
            self._repeat(unit, member.where.name if place < pool.concurrency else None, reason)

    def _repeat(self, unit: Unit, blamed: str | None, reason: str) -> None:
        """Have pictures restored again, unless too many workers have died of them.

        Args:
            unit: The pictures.
            blamed: The machine whose worker has died while it was at work on them; None if it only held them.
            reason: Why it is dead.
        """
        # What is replaced in place may have been, and then it is not done twice.
        items = self._select_unfinished(list(unit.items)) if self.options.in_place else list(unit.items)
        if blamed is None:
            if items:
                self._again.appendleft(replace(unit, items=tuple(items)))
            return
        deaths = (*unit.deaths, blamed)
        for item in reversed(items):
            if len(deaths) < DEATHS:
                self._again.appendleft(Unit((item,), is_alone=True, deaths=deaths))
                continue
            nodes = " and ".join(dict.fromkeys(deaths))
            message = f"{len(deaths)} workers died during its restoration, on node {nodes}: {reason}"
            self._fail(item, DeviceError(message, "it may need more memory than they have, or may crash the program"))
            self._finished += 1

    def _leave(self, member: Member) -> None:
        """Note where a worker that is dead or is ended may have left incomplete files."""
        folders = {item.target.parent for unit in member.units.values() for item in unit.items}
        if self.options.uncertainty is not None:
            items = (item for unit in member.units.values() for item in unit.items)
            folders |= {path.parent for item in items if (path := map_path(item, self.options, self.items))}
        if folders:
            self._left.append((member.owner, folders))

    def _bury_all(self) -> None:
        """Note where the workers that are about to be ended may leave incomplete files."""
        for member in self._members.values():
            self._leave(member)

    def _sweep(self) -> None:
        """Remove the incomplete files of dead workers."""
        for owner, folders in self._left:
            remove_partials(owner, folders)

    # ------------------------------------------------------------------------------------------------------ the state

    def _ready(self) -> dict[int, Member]:
        """Return the workers that can be given pictures."""
        return {number: member for number, member in self._members.items() if member.where is not None}

    def _holds(self) -> int:
        """Return the number of pictures that workers hold."""
        return sum(len(unit.items) for member in self._members.values() for unit in member.units.values())

    def _tell_progress(self, *, is_last: bool = False) -> None:
        """Report who is at work, and how fast, if there is something new."""
        ready, now = self._ready(), time.monotonic()
        nodes = {member.where.node for member in ready.values() if member.where is not None}
        crew = len(nodes), len(ready), len(self._members) - len(ready)
        is_due = self._finished and now - self._told_at >= TOLD_SECONDS
        if crew == self._told and not is_due and not is_last:
            return
        self._told, self._told_at = crew, now
        span = now - self._times[0] if len(self._times) > 1 else 0.0
        rate = round(len(self._times) / span, 2) if span > 0 else None
        self._events.append(Working(self.options.command, self._finished, self._pictures, *crew, rate))


def make_run(
    options: Options,
    verb: Verb,
    log: Manifest | None,
    open_here: Callable[[Options], Model] = open_model,
    look_up: Callable[[Options], Model] | None = None,
) -> Run:
    """Return the run that the options ask for: on this machine, or on those of a cluster.

    A dry run is one of this machine, whose times are those of one worker like it.

    Args:
        options: The options of the run.
        verb: The verb.
        log: The log of the run; None to keep none.
        open_here: Returns the model with its prior, for a run on this machine.
        look_up: Returns the model without its prior, for a run on a cluster; None for a plain look-up.

    Raises:
        UsageError: The package that connects to clusters is not installed.
    """
    if options.cluster is None or options.dry_run:
        return Run(options, verb, log, open_here)
    from restorer.folders.ray_pool import check_installed

    check_installed(options.cluster)
    return ClusterRun(options, verb, log, look_up)


def _look_up(options: Options) -> Model:
    """Return the model that the options name, without its prior."""
    from restorer.models.load import look_up

    return look_up(options.model)


def _open_ray(address: str, device: str) -> Pool:
    """Return the workers of a Ray cluster."""
    from restorer.folders.ray_pool import RayPool

    return RayPool(address, device.strip().lower())
