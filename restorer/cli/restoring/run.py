"""A run of a restoring verb: it collects the pictures, loads the model, keeps the log and sets the exit code."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from restorer.cli.restoring.opening import find_shortage, load_requested_prior, open_log
from restorer.cli.restoring.picture import announce, sample, write_result
from restorer.cli.terminal.downloads import ensure_downloaded
from restorer.cli.terminal.forecast import Forecast
from restorer.cli.terminal.reporter import Reporter, exit_code_for
from restorer.errors import PictureError, RestorerError
from restorer.folders.extras import check_targets, map_path
from restorer.folders.in_place import applied_recipes, check_backup, check_loaded, recipes_of, resolve_in_place
from restorer.folders.manifest import Manifest, compute_fingerprint, remove_partial_files
from restorer.folders.options import Options
from restorer.folders.overlap import ReadAhead, WriteBehind
from restorer.folders.paths import (
    Item,
    combined_exit_code,
    resolve_targets,
    split_results,
)
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
from restorer.folders.space import Need, estimate_needs
from restorer.images.attributes import read_times
from restorer.images.find import STDIO, Search, is_stream, search_all
from restorer.images.kinds import KINDS, describe_counts
from restorer.images.streams import stream_bytes

if TYPE_CHECKING:
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks.job import Restored

__all__ = ["restore_all"]


def restore_all(options: Options, verb: Verb) -> None:
    """Restore all pictures that the options name.

    The targets are chosen and checked first. The model is then loaded once, and the pictures are restored one after the
    other, small ones in batches.

    Raises:
        RestorerError: The run cannot begin.
        typer.Exit: At least one picture failed. The exception holds the exit code.
    """
    reporter = Reporter(quiet=options.quiet, verbose=options.verbose, as_json=options.json)
    found = search_all(options.inputs, recursive=options.recursive, include=options.include, exclude=options.exclude)
    with open_log(options, found.pictures) as log:
        _Run(options, verb, reporter, log).execute(found)


class _Run:
    """One run over pictures."""

    def __init__(self, options: Options, verb: Verb, reporter: Reporter, log: Manifest | None) -> None:
        self.options, self.verb, self.reporter, self.log = options, verb, reporter, log
        self.start = time.monotonic()
        self.items: list[Item] = []  # the pictures that are to be restored
        self.codes: list[int] = []  # the exit codes of the pictures that failed
        self.done = self.skipped = 0
        self.passed_over = Counter[str]()  # files that are not restored, by kind

    def execute(self, found: Search) -> None:
        """Restore the pictures that the inputs name, and report the inputs that name none as failures."""
        options = self.options
        to_do, existing, failed = self._resolve(found)
        check_targets(to_do, options)
        self.items = to_do
        for path, error in found.failed:
            self._fail(Item(path, Path()), error)
        for item, reason in failed:
            self._fail(item, reason)
        for item in existing:
            self._skip(item, "exists")
        if not (options.fail_fast and self.codes and not options.dry_run):
            needs = estimate_needs(to_do, self.verb.geometry, keeps_input=options.backup is not None)
            shortage = find_shortage(needs, self.reporter)
            if options.dry_run:
                self._preview(to_do, needs)
            if shortage is not None:
                raise shortage
            if not options.dry_run:
                self._restore_pictures(to_do)
        self._finish()

    def _resolve(self, found: Search) -> tuple[list[Item], list[Item], list[tuple[Item, RestorerError]]]:
        """Return the pictures to restore, to skip and to report as failed, and report all other files."""
        options, resumed = self.options, self.log if self.options.resume else None
        if options.in_place:
            to_do, links, failed = resolve_in_place(found.pictures, options.backup)
            self._pass_over([*found.passed_over, *links])
            return to_do, [], failed
        pictures, results = split_results(found.pictures, options.output, self.verb.tag, options.suffix)
        self._pass_over([*found.passed_over, *((path, "result") for path in results)])
        return resolve_targets(
            pictures,
            options.output,
            self.verb.tag,
            overwrite=options.overwrite,
            skip_existing=options.skip_existing,
            may_replace=resumed.has_begun if resumed is not None else lambda target: False,
            dry_run=options.dry_run,
            siblings=found.unwanted,
            suffix=options.suffix,
        )

    def _pass_over(self, files: list[tuple[Path, str]]) -> None:
        """Report the files in the folders that are not restored."""
        for path, kind in files:
            self.passed_over[kind] += 1
            self.reporter.detail(f"{path}: passed over ({KINDS[kind].one})")
            self.reporter.emit(
                {"event": "passed_over", "command": self.options.command, "input": str(path), "kind": kind}
            )

    def _restore_pictures(self, to_do: list[Item]) -> None:
        options = self.options
        if self.log is not None:
            remove_partial_files({item.target.parent for item in to_do if item.target != STDIO})
        prior = self._load_prior(to_do) if to_do else None
        if prior is None:
            return
        items = self._select_unfinished(to_do)
        forecast = Forecast(self.reporter, min(len(items), options.limit or len(items)))
        may_prefetch = partial(can_read_ahead, options=options, verb=self.verb, prior=prior)
        ahead = ReadAhead(
            items, partial(self._prepare, prior=prior), may_prefetch, lambda prepared: prepared.batch_share
        )
        # With --fail-fast and --limit, the next step depends on the last result; a single picture has no neighbours.
        synchronous = options.fail_fast or options.limit is not None or len(items) == 1
        with WriteBehind(synchronous=synchronous) as behind, ahead:
            for batch in self._batches(items, ahead, behind, forecast):
                self._restore_batch(batch, ahead, behind, forecast)

    def _batches(
        self, items: list[Item], ahead: ReadAhead[Item, PreparedPicture], behind: WriteBehind, forecast: Forecast
    ) -> Iterator[list[PreparedPicture]]:
        """Yield the pictures in batches until the run should stop.

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
                forecast.skip_picture()
                continue
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
            log = self.log if self.options.resume else None
            try:
                if self.options.in_place and self._recipe(item) in applied_recipes(item.source):
                    self._skip(item, "has been restored in place by this command before")
                    continue
                if self.options.backup is not None:
                    check_backup(item.source, self.options.backup)
                # The fingerprint hashes the input, so it is computed only for a result that the earlier run has begun.
                if log is not None and log.has_begun(item.target) and log.is_done(item.target, self._fingerprint(item)):
                    self._skip(item, "is already done")
                else:
                    unfinished.append(item)
            except RestorerError as error:
                self._fail(item, error)
        return unfinished

    def _load_prior(self, to_do: list[Item]) -> UNetPrior | Tiled | None:
        """Load the model; if it is not available, every picture fails."""
        try:
            ensure_downloaded(self.options.model, self.reporter, self.options.command)
            with self.reporter.working("loading PyTorch and the model"):
                prior = load_requested_prior(self.options)
            if self.verb.check_prior is not None:
                self.verb.check_prior(prior)
        except RestorerError as error:
            self.reporter.fail(error)
            for item in to_do:
                self._fail(item, error, is_reported=True)
            return None
        return prior

    def _fingerprint(self, item: Item) -> str:
        """Return the fingerprint of everything that the result depends on; '' if no log is kept."""
        if self.log is None or is_stream(item.source):
            return ""
        return self._recipe(item, _sha256(item.source))

    def _recipe(self, item: Item, *hashes: str) -> str:
        """Return the fingerprint of the command, its options, its model and the mask of a picture.

        Args:
            item: The picture.
            hashes: The SHA-256 of whatever else counts, of the picture first.
        """
        from restorer.models.load import find_calibration, find_model, model_sha256

        options = {**self.options.sampling, **dict(self.verb.extra_options), **self.options.encoding}
        options |= self.options.asked
        if self.options.uncertainty is not None and (constants := find_calibration(self.options.model)).is_file():
            hashes = (*hashes, _sha256(constants))
        if self.verb.find_mask is not None:
            hashes = (*hashes, _sha256(self.verb.find_mask(item)))
        return compute_fingerprint(self.options.command, options, model_sha256(find_model(self.options.model)), *hashes)

    def _prepare(self, item: Item, prior: UNetPrior | Tiled) -> PreparedPicture:
        """Read a picture and prepare its job, without logging that it has begun."""
        from restorer.images.picture import RECORD

        options, times = self.options, None
        if not is_stream(item.source):
            check_picture_memory(item.source, options, self.verb.geometry)
        if options.keep_times and not is_stream(item.source):
            with suppress(OSError):  # the reader reports the error
                times = read_times(item.source)
        prepared = prepare_picture(item, options, self.verb, prior, self._fingerprint(item))
        recipes: tuple[str, ...] = ()
        if options.in_place:
            check_loaded(item.source, prepared.picture, options.backup)
            recipes = (*recipes_of(prepared.picture.text.get(RECORD, "")), self._recipe(item))
        may_replace = options.resume and self.log is not None and self.log.has_begun(item.target)
        target = map_path(item, options, self.items)
        return replace(prepared, may_replace=may_replace, times=times, in_place=recipes, map_target=target)

    def _restore_batch(
        self,
        batch: list[PreparedPicture],
        ahead: ReadAhead[Item, PreparedPicture],
        behind: WriteBehind,
        forecast: Forecast,
    ) -> None:
        """Restore a batch while the last batch is written and the next one is read."""
        batch = self._measure(batch, behind, forecast)
        if not batch:
            return
        behind.run_or_submit(partial(self._begin, batch))
        ahead.prefetch()
        start = time.monotonic()
        outcomes = sample(batch, self.options, self.reporter, forecast, lambda: behind.is_idle)
        seconds = (time.monotonic() - start) / len(batch)
        behind.wait()  # so that the results of only one batch are kept in memory
        run = behind.submit if can_write_behind(batch, self.verb) else behind.run_or_submit
        bugs, failed = list[BaseException](), len(self.codes)
        for prepared, outcome in zip(batch, outcomes, strict=True):
            if self.options.fail_fast and len(self.codes) > failed:
                break
            if isinstance(outcome, BaseException) and not isinstance(outcome, RestorerError):
                bugs.append(outcome)
                continue
            size = shared_batch_size(prepared, batch)
            run(partial(self._write, prepared, outcome, prepared.seconds + seconds, size))
        if bugs:
            behind.wait()
            raise bugs[0]

    def _measure(self, batch: list[PreparedPicture], behind: WriteBehind, forecast: Forecast) -> list[PreparedPicture]:
        """Return the pictures of a batch with jobs whose plans are known; those that cannot be measured fail."""
        measured = []
        for prepared in batch:
            try:
                measured.append(measure_picture(prepared))
            except RestorerError as error:
                behind.run_or_submit(partial(self._fail, prepared.item, error))
                forecast.skip_picture()
        return measured

    def _begin(self, batch: list[PreparedPicture]) -> None:
        """Announce the pictures of a batch in the terminal and in the log."""
        for prepared in batch:
            announce(prepared, self.options, self.reporter)
            if self.log is not None and prepared.item.target != STDIO:
                self.log.log_begin(prepared.item.target)

    def _write(
        self, prepared: PreparedPicture, outcome: Restored | RestorerError | None, seconds: float, batch: int
    ) -> None:
        """Write a result, and report and log it. `seconds` and `batch` are those of `write_result`."""
        item = prepared.item
        try:
            if isinstance(outcome, RestorerError):
                raise outcome
            facts = write_result(prepared, outcome, self.options, self.reporter, seconds=seconds, batch=batch)
            event = self._result_event(item, status="ok", **facts)
            if self.log is not None and item.target != STDIO:
                self.log.log_result(item.target, event)
        except RestorerError as error:
            self._fail(item, error)
            return
        self.done += 1
        self.reporter.result(str(item.target), event)

    def _preview(self, to_do: list[Item], needs: list[Need]) -> None:
        """Print what the run would do, without writing or downloading anything."""
        from restorer.cli.restoring.dry_run import is_available_offline, print_preview

        model, prior = self.options.model, None
        if not is_available_offline(model):
            self.reporter.warn(
                f"the model {model} is not downloaded, and a dry run does not download it; "
                f"restore models pull {model} --dry-run prints its size"
            )
        elif not to_do or (prior := self._load_prior(to_do)) is None:
            return
        # Without the model there are no fingerprints, so no picture is known to be done.
        items = (self._select_unfinished(to_do) if prior is not None else to_do)[: self.options.limit]
        self.done = print_preview(self.options, items, needs, prior, self.verb.geometry, self.reporter, self._fail)

    def _skip(self, item: Item, reason: str) -> None:
        """Report that a picture is skipped; `reason` is a phrase about its target, for instance "exists"."""
        self.skipped += 1
        self.reporter.say(f"{item.target} {reason}: skipped")
        self.reporter.emit(self._result_event(item, status="skipped"))

    def _fail(self, item: Item, error: RestorerError, *, is_reported: bool = False) -> None:
        """Report and log that a picture failed; with `is_reported`, the error is already in the terminal."""
        code = exit_code_for(error)
        self.codes.append(code)
        if not is_reported:
            self.reporter.fail(error, str(item.source))
        hint = {"hint": error.hint} if error.hint else {}
        event = self._result_event(item, status="failed", code=code, error=str(error), **hint)
        self.reporter.emit(event)
        if self.log is not None and not self.options.dry_run and item.target not in (Path(), STDIO):
            self.log.log_result(item.target, event)

    def _result_event(self, item: Item, **fields: Any) -> dict[str, Any]:
        paths = {"input": str(item.source), "output": str(item.target) if item.target != Path() else None}
        return {"event": "result", "command": self.options.command, **paths, **fields}

    def _finish(self) -> None:
        """Print the summary, and raise `typer.Exit` if a picture failed."""
        code = combined_exit_code(self.codes, self.done + self.skipped)
        seconds = round(time.monotonic() - self.start, 2)
        counts = {"ok": self.done, "failed": len(self.codes), "skipped": self.skipped}
        passed_over = dict(self.passed_over)
        self.reporter.emit(
            {"event": "summary", **counts, "passed_over": passed_over, "seconds": seconds, "exit_code": code}
        )
        if sum(counts.values()) > 1 or passed_over:
            done = "would be done" if self.options.dry_run else "done"
            others = f"; passed over: {describe_counts(passed_over)}" if passed_over else ""
            self.reporter.say(
                f"{self.done} {done}, {len(self.codes)} failed, {self.skipped} skipped in {seconds:.1f} s{others}"
            )
        if code:
            raise typer.Exit(code)


def _sha256(path: Path) -> str:
    from restorer.models.hub.download import sha256_of

    if is_stream(path):
        return hashlib.sha256(stream_bytes(path)).hexdigest()
    try:
        return sha256_of(path)
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror}", "check the path") from error
