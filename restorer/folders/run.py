"""The engine of a run over pictures: it restores one picture or ten thousand, and yields what happens.

It knows no terminal. Whoever calls it shows the events (`restorer.folders.events`), prints them, or waits for the
results, all in the thread that asks for the next event. Two threads of the engine read the next pictures and write the
last results, and the latter also writes the log, so that the log is never behind the files.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.errors import OutputError, RestorerError, exit_code_for
from restorer.folders.choosing import choose
from restorer.folders.events import (
    Begun,
    Done,
    Event,
    Failed,
    Finished,
    LeftOut,
    Measured,
    Noted,
    Opened,
    PassedOver,
    Planned,
    Skipped,
    Starting,
    is_in_log,
)
from restorer.folders.extras import check_targets, map_path
from restorer.folders.in_place import applied_recipes, check_backup, check_loaded, recipes_of
from restorer.folders.manifest import Manifest, remove_partial_files
from restorer.folders.opening import open_model
from restorer.folders.options import Options
from restorer.folders.overlap import ReadAhead, WriteBehind
from restorer.folders.paths import Item, combined_exit_code
from restorer.folders.picture import (
    PreparedPicture,
    Verb,
    can_read_ahead,
    can_write_behind,
    check_picture_memory,
    measure_picture,
    prepare_picture,
    shared_batch_size,
)
from restorer.folders.preview import is_available_offline, preview
from restorer.folders.recipes import recipe_of, sha256_of_file
from restorer.folders.result import write_result
from restorer.folders.sampling import Progress, pending, sample
from restorer.folders.space import Need, check_space, estimate_needs
from restorer.folders.starting import is_start_here
from restorer.images.attributes import read_times
from restorer.images.find import STDIO, Search, is_stream

if TYPE_CHECKING:
    from restorer.models.load import Model
    from restorer.tasks.job import Job, Restored

__all__ = ["Run"]


class Run:
    """One run over pictures.

    The targets are chosen and checked first. The model is then loaded once, and the pictures are restored one after the
    other, small ones in batches.

    Args:
        options: The options of the run.
        verb: The verb.
        log: The log of the run; None to keep none.
        open_model: Returns the model with its prior.
    """

    def __init__(
        self,
        options: Options,
        verb: Verb,
        log: Manifest | None = None,
        open_model: Callable[[Options], Model] = open_model,
    ) -> None:
        self.options, self.verb, self.log, self._open_model = options, verb, log, open_model
        self.start = time.monotonic()
        self.items: list[Item] = []  # the pictures that are to be restored
        self.codes: list[int] = []  # the exit codes of the pictures that failed
        self.done = self.skipped = 0
        self.passed_over = Counter[str]()  # files that are not restored, by kind
        self._events = deque[Event]()  # what has happened and is not yielded yet; the threads append to it
        self._contents: dict[Path, bytes] = {}  # of files that were read before their turn
        self._model: Model | None = None

    def events(self, found: Search) -> Generator[Event]:
        """Restore the pictures that the inputs name, and yield what happens. Inputs that name none count as failures.

        Whoever does not want all events should close the iterator, which ends the run.

        Raises:
            RestorerError: The run cannot go on.
        """
        try:
            yield from self._run(found)
        except GeneratorExit:
            raise
        except BaseException:  # after Ctrl-C, what was being written is written
            yield from pending(self._events)
            raise

    def _run(self, found: Search) -> Iterator[Event]:
        """Yield the events of the run; see `events`."""
        options = self.options
        resumed = self.log if options.resume else None
        chosen = choose(found, options, self.verb.tag, lambda target: resumed is not None and resumed.has_begun(target))
        self._pass_over(chosen.passed_over)
        to_do = chosen.to_do
        check_targets(to_do, options)
        self.items = to_do
        for path, error in found.failed:
            self._fail(Item(path, Path()), error)
        for item, reason in chosen.failed:
            self._fail(item, reason)
        for item in chosen.existing:
            self._skip(item, "exists")
        yield from pending(self._events)
        if not (options.fail_fast and self.codes and not options.dry_run):
            needs = estimate_needs(to_do, self.verb.geometry, keeps_input=options.backup is not None)
            shortage = self._find_shortage(needs)
            yield from pending(self._events)
            if options.dry_run:
                yield from self._preview(to_do, needs)
            if shortage is not None:
                raise shortage
            if not options.dry_run:
                yield from self._restore_pictures(to_do)
        yield from pending(self._events)
        counts = self.done, len(self.codes), self.skipped
        seconds = round(time.monotonic() - self.start, 2)
        code = combined_exit_code(self.codes, self.done + self.skipped)
        yield Finished(options.command, *counts, dict(self.passed_over), seconds, code)

    def _pass_over(self, files: Iterable[tuple[Path, str]]) -> None:
        """Report the files in the folders that are not restored."""
        for path, kind in files:
            self.passed_over[kind] += 1
            self._events.append(PassedOver(self.options.command, path, kind))

    def _find_shortage(self, needs: list[Need]) -> OutputError | None:
        """Return the error if the results certainly do not fit on a disk, and note it if they may not fit."""
        try:
            for note in check_space(needs):
                self._events.append(Noted(self.options.command, note))
        except OutputError as error:
            return error
        return None

    def _restore_pictures(self, to_do: list[Item]) -> Iterator[Event]:
        options = self.options
        if self.log is not None and options.shard is None:  # other shards may be writing into these folders
            remove_partial_files({item.target.parent for item in to_do if item.target != STDIO})
        model = self._load_model(to_do) if to_do else None
        if model is None or model.prior is None:
            return
        items = self._select_unfinished(to_do)
        self._events.append(Opened(options.command, min(len(items), options.limit or len(items))))
        yield from pending(self._events)
        may_prefetch = partial(
            can_read_ahead, options=options, verb=self.verb, prior=model.prior, contents=self._contents
        )
        ahead = ReadAhead(items, self._prepare, may_prefetch, lambda prepared: prepared.batch_share)
        # With --fail-fast and --limit, the next step depends on the last result; a single picture has no neighbours.
        synchronous = options.fail_fast or options.limit is not None or len(items) == 1
        with WriteBehind(synchronous=synchronous) as behind, ahead:
            for batch in self._batches(items, ahead, behind):
                yield from pending(self._events)
                yield from self._restore_batch(batch, ahead, behind)
                yield from pending(self._events)

    def _batches(
        self, items: list[Item], ahead: ReadAhead[Item, PreparedPicture], behind: WriteBehind
    ) -> Iterator[list[PreparedPicture]]:
        """Yield the pictures in batches until the run should stop, and an empty batch after each failure.

        The caller must restore each batch before it asks for the next.
        """
        batch: list[PreparedPicture] = []
        for item in items:
            if self._should_stop(len(batch)):
                if batch:
                    yield batch
                batch = []
                if self._should_stop():
                    return
            if not ahead.is_next_ready:  # a picture that was not read ahead may need all memory, or standard error
                behind.wait()
            try:
                prepared = ahead.take()
            except RestorerError as error:
                behind.run_or_submit(partial(self._fail, item, error))
                self._events.append(LeftOut(self.options.command, item))
                yield []
                continue
            finally:
                self._contents.pop(item.source, None)
            if batch and sum(picture.batch_share for picture in (*batch, prepared)) > 1:
                yield batch
                batch = []
                if self._should_stop():
                    return
            batch.append(prepared)
            if sum(picture.batch_share for picture in batch) >= 1:
                yield batch
                batch = []
        if batch:
            yield batch

    def _should_stop(self, waiting: int = 0) -> bool:
        """Return whether no further picture should be begun, assuming that the waiting pictures succeed."""
        options = self.options
        return (options.limit is not None and self.done + waiting >= options.limit) or bool(
            options.fail_fast and self.codes
        )

    def _select_unfinished(self, to_do: list[Item]) -> list[Item]:
        """Return the pictures that the earlier run has not restored, and skip the others."""
        unfinished = []
        for item in to_do:
            try:
                if self.options.in_place and self._recipe(item) in applied_recipes(item.source):
                    self._skip(item, "has been restored in place by this command before")
                    continue
                if self.options.backup is not None:
                    check_backup(item.source, self.options.backup)
                if self.options.resume and self.log is not None and self._is_done(item, self.log):
                    self._skip(item, "is already done")
                else:
                    unfinished.append(item)
            except RestorerError as error:
                self._fail(item, error)
        return unfinished

    def _is_done(self, item: Item, log: Manifest) -> bool:
        """Return whether the earlier run has restored a picture that is still the same.

        The fingerprint hashes the input, so it is computed only for a result that exists.
        """
        if not log.has_begun(item.target) or not log.may_be_done(item.target):
            return False
        return log.is_done(item.target, self._fingerprint(item, None))

    def _load_model(self, to_do: list[Item]) -> Model | None:
        """Load the model; if it is not available, every picture fails."""
        try:
            self._model = self._open_model(self.options)
            if self.verb.check_prior is not None:
                self.verb.check_prior(self._model.prior)  # type: ignore[arg-type]
        except RestorerError as error:
            self._events.append(Opened(self.options.command, 0, error))
            for item in to_do:
                self._fail(item, error, is_common=True)
            return None
        return self._model

    def _fingerprint(self, item: Item, data: bytes | None) -> str:
        """Return the fingerprint of everything that the result depends on; '' if no log is kept.

        Args:
            item: The picture.
            data: The content of its file; None to read it.
        """
        if self.log is None or is_stream(item.source):
            return ""
        return self._recipe(item, sha256_of_file(item.source) if data is None else hashlib.sha256(data).hexdigest())

    def _recipe(self, item: Item, *hashes: str) -> str:
        """Return the fingerprint of a picture; see `recipe_of`."""
        assert self._model is not None
        return recipe_of(item, self.options, self.verb, self._model, *hashes)

    def _prepare(self, item: Item) -> PreparedPicture:
        """Read a picture and prepare its job, without logging that it has begun."""
        from restorer.images.picture import RECORD
        from restorer.images.reading import read_file

        options, times, data = self.options, None, None
        assert self._model is not None and self._model.prior is not None
        if not is_stream(item.source):
            data = self._contents.get(item.source) or read_file(item.source)
            check_picture_memory(item.source, options, self.verb.geometry, data)
        if options.keep_times and not is_stream(item.source):
            with suppress(OSError):  # the file is gone
                times = read_times(item.source)
        prior = self._model.prior
        prepared = prepare_picture(item, options, self.verb, prior, self._fingerprint(item, data), data)
        recipes: tuple[str, ...] = ()
        if options.in_place:
            check_loaded(item.source, prepared.picture, options.backup)
            recipes = (*recipes_of(prepared.picture.text.get(RECORD, "")), self._recipe(item))
        may_replace = options.resume and self.log is not None and self.log.has_begun(item.target)
        self._contents.pop(item.source, None)
        target = map_path(item, options, self.items)
        return replace(prepared, may_replace=may_replace, times=times, in_place=recipes, map_target=target)

    def _restore_batch(
        self, batch: list[PreparedPicture], ahead: ReadAhead[Item, PreparedPicture], behind: WriteBehind
    ) -> Iterator[Event]:
        """Restore a batch while the last batch is written and the next one is read."""
        options = self.options
        batch = yield from self._measure(batch, behind)
        if not batch:
            return
        behind.run_or_submit(partial(self._begin, batch))
        ahead.prefetch()
        start = time.monotonic()
        progress = Progress(options.command, self._events, lambda: behind.is_idle)
        outcomes = yield from sample(batch, progress)
        seconds = (time.monotonic() - start) / len(batch)
        behind.wait()  # so that the results of only one batch are kept in memory
        run = behind.submit if can_write_behind(batch, self.verb) else behind.run_or_submit
        bugs, failed = list[BaseException](), len(self.codes)
        for prepared, outcome in zip(batch, outcomes, strict=True):
            if options.fail_fast and len(self.codes) > failed:
                break
            if isinstance(outcome, BaseException) and not isinstance(outcome, RestorerError):
                bugs.append(outcome)
                continue
            size = shared_batch_size(prepared, batch)
            run(partial(self._write, prepared, outcome, prepared.seconds + seconds, size))
        if bugs:
            behind.wait()
            raise bugs[0]

    def _measure(
        self, batch: list[PreparedPicture], behind: WriteBehind
    ) -> Generator[Event, None, list[PreparedPicture]]:
        """Return the pictures of a batch with jobs whose plans are known; those that cannot be measured fail."""
        measured = []
        for prepared in batch:
            if (start := prepared.job.starter) is not None:
                self._events.append(Starting(self.options.command, prepared.item, start.name))
                yield from pending(self._events)
            try:
                measured.append(measure_picture(prepared))
            except RestorerError as error:
                behind.run_or_submit(partial(self._fail, prepared.item, error))
                self._events.append(LeftOut(self.options.command, prepared.item))
        return measured

    def _begin(self, batch: list[PreparedPicture]) -> None:
        """Report that the restoration of a batch begins, and log it."""
        for prepared in batch:
            self._events.append(Measured(self.options.command, prepared.item, prepared.job))
            self._events.append(Begun(self.options.command, prepared))
            if self.log is not None and prepared.item.target != STDIO:
                self.log.log_begin(prepared.item.target)

    def _write(
        self, prepared: PreparedPicture, outcome: Restored | RestorerError | None, seconds: float, batch: int
    ) -> None:
        """Write a result, and log and report it. `seconds` and `batch` are those of `write_result`."""
        item = prepared.item
        assert self._model is not None
        try:
            if isinstance(outcome, RestorerError):
                raise outcome
            done: Done = write_result(prepared, outcome, self.options, self._model, seconds=seconds, batch=batch)
            if self.log is not None and item.target != STDIO:
                self.log.log_result(item.target, done.to_json())
        except RestorerError as error:
            self._fail(item, error)
            return
        self.done += 1
        self._events.append(done)

    def _preview(self, to_do: list[Item], needs: list[Need]) -> Iterator[Event]:
        """Yield what the run would do, without writing or downloading anything."""
        name, prior = self.options.model, None
        if not is_available_offline(name):
            text = (
                f"the model {name} is not downloaded, and a dry run does not download it; "
                f"restore models pull {name} --dry-run prints its size"
            )
            yield Noted(self.options.command, text)
        elif not is_start_here(self.options):
            text = f"the network {self.options.start} is not downloaded, and a dry run does not download it"
            yield Noted(self.options.command, text)
        elif not to_do or (model := self._load_model(to_do)) is None or (prior := model.prior) is None:
            return
        # Without the model there are no fingerprints, so no picture is known to be done.
        items = (self._select_unfinished(to_do) if prior is not None else to_do)[: self.options.limit]
        yield from pending(self._events)
        look = self._look if self.verb.is_planned else None
        for event in preview(self.options, items, needs, prior, self.verb.geometry, look):  # type: ignore[arg-type]
            if isinstance(event, Failed):
                self.codes.append(exit_code_for(event.error))
            self.done += isinstance(event, Planned)
            yield event

    def _look(self, item: Item) -> Job:
        """Return the measured job of a picture."""
        return measure_picture(self._prepare(item)).job

    def _skip(self, item: Item, reason: str) -> None:
        """Report that a picture is skipped; `reason` is a phrase about its target, for instance "exists"."""
        self.skipped += 1
        self._events.append(Skipped(self.options.command, item, reason))

    def _fail(self, item: Item, error: RestorerError, *, is_common: bool = False) -> None:
        """Report and log that a picture failed."""
        failed = Failed(self.options.command, item, error, is_common)
        self.codes.append(exit_code_for(error))
        self._events.append(failed)
        if self.log is not None and not self.options.dry_run and is_in_log(item):
            self.log.log_result(item.target, failed.to_json())
