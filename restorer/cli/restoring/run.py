"""What the restoring verbs have in common: the pictures to be done, the model, the log, the exit code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from restorer.cli.restoring.picture import announce, finish, sample
from restorer.cli.terminal.downloads import obtain
from restorer.cli.terminal.forecast import Forecast
from restorer.cli.terminal.reporter import Reporter, code_of
from restorer.errors import PictureError, RestorerError, UsageError
from restorer.folders.manifest import MANIFEST, Manifest, fingerprint, opened, sweep
from restorer.folders.options import Options
from restorer.folders.overlap import Ahead, Behind
from restorer.folders.paths import Item, decide, exit_code_of, home_of
from restorer.folders.picture import Verb, Work, are_light, batch_of, check_memory, is_light, read
from restorer.images.find import STDIO, collect
from restorer.limits import check_task

if TYPE_CHECKING:
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks.job import Restored

__all__ = ["load_prior_of", "restore_all"]

Pictures = list[tuple[Path, Path | None]]


def restore_all(options: Options, verb: Verb) -> None:
    """Decide, load the model once, restore one picture or small batch after the other."""
    reporter = Reporter(quiet=options.quiet, verbose=options.verbose, as_json=options.json)
    pictures, refused = _collect(options)
    with _log_of(options, pictures) as log:
        _Run(options, verb, reporter, log).of(pictures, refused)


def _collect(options: Options) -> tuple[Pictures, list[tuple[Item, RestorerError]]]:
    """What the inputs name, and what they name in vain: one absent picture does not stop the others."""
    found: dict[Path, Path | None] = {}
    absent: list[tuple[Item, RestorerError]] = []
    patterns = {"include": options.include, "exclude": options.exclude}
    for name in options.inputs:
        try:
            for path, root in collect([name], recursive=options.recursive, **patterns):
                found.setdefault(path, root)
        except PictureError as error:
            absent.append((Item(Path(name), Path()), error))
    return list(found.items()), absent


@contextmanager
def _log_of(options: Options, pictures: Pictures) -> Iterator[Manifest | None]:
    """The log that the run keeps: that named, or that of the folder where results go.

    A folder of pictures that is restored in place has none unless the run is to be gone on with.
    """
    home = home_of(pictures, options.output)
    place = options.manifest or (home / MANIFEST if home is not None else None)
    if place is None and options.resume:
        raise UsageError("there is no folder whose run could be gone on with", "name one with -o, or a log: --manifest")
    walked = options.output is not None and any(root is not None for _, root in pictures)
    if place is None or options.dry_run or not (options.resume or options.manifest or walked):
        # A dry run looks at what is there and writes nothing.
        yield Manifest(place) if place is not None and options.dry_run and options.resume else None
        return
    if home is not None and options.output is not None:
        with suppress(OSError):  # `decide` and the log say what is wrong with it
            home.mkdir(parents=True, exist_ok=True)
    with opened(place) as log:
        yield log


class _Run:
    """One command line at work."""

    def __init__(self, options: Options, verb: Verb, reporter: Reporter, log: Manifest | None) -> None:
        self.options, self.verb, self.reporter, self.log = options, verb, reporter, log
        self.began = time.monotonic()
        self.codes: list[int] = []
        self.done = self.skipped = 0

    def of(self, pictures: Pictures, refused: list[tuple[Item, RestorerError]]) -> None:
        """Restore them."""
        options = self.options
        resumed = self.log if options.resume else None
        to_do, exist, more = decide(
            pictures,
            options.output,
            self.verb.tag,
            overwrite=options.overwrite,
            skip_existing=options.skip_existing,
            is_ours=resumed.is_ours if resumed is not None else lambda target: False,
            dry=options.dry_run,
        )
        for item, error in [*refused, *more]:
            self._failed(item, error)
        for item in exist:
            self._skip(item, "exists")
        if options.dry_run:
            self._tell_plan(to_do)
        elif not (options.fail_fast and self.codes):
            self._work_through(to_do)
        self._finish()

    def _work_through(self, to_do: list[Item]) -> None:
        options = self.options
        if self.log is not None:
            sweep({item.target.parent for item in to_do if item.target != STDIO})
        prior = self._prior(to_do) if to_do else None
        if prior is None:
            return
        left = self._left(to_do)
        forecast = Forecast(self.reporter, min(len(left), options.limit or len(left)))
        may = partial(is_light, options=options, verb=self.verb, prior=prior)
        ahead = Ahead(left, partial(self._read, prior=prior), may, lambda work: work.share)
        # With these, what is done next depends on how it ended; and beside a single picture nothing is done.
        at_once = options.fail_fast or options.limit is not None or len(left) == 1
        with Behind(at_once=at_once) as behind, ahead:
            for works in self._batches(left, ahead, behind, forecast):
                self._restore(works, ahead, behind, forecast)

    def _batches(
        self, left: list[Item], ahead: Ahead[Item, Work], behind: Behind, forecast: Forecast
    ) -> Iterator[list[Work]]:
        """What fits into one batch, until it is enough; the caller restores it before it asks for more."""
        batch: list[Work] = []
        for item in left:
            if self._enough(len(batch)):
                if batch:
                    yield batch
                batch = []
                if self._enough():
                    return
            if not ahead.is_ready:  # what is not read ahead may need all the memory, or the standard error
                behind.wait()
            try:
                work = ahead.take()
            except RestorerError as error:
                behind.then(partial(self._failed, item, error))
                forecast.pass_over()
                continue
            if batch and sum(one.share for one in (*batch, work)) > 1:
                yield batch
                batch = []
                if self._enough():
                    return
            batch.append(work)
            if sum(one.share for one in batch) >= 1:
                yield batch
                batch = []
        if batch:
            yield batch

    def _enough(self, waiting: int = 0) -> bool:
        """Whether no further picture is to be begun, if those that wait can be done."""
        options = self.options
        return (options.limit is not None and self.done + waiting >= options.limit) or bool(
            options.fail_fast and self.codes
        )

    def _left(self, to_do: list[Item]) -> list[Item]:
        """What an earlier run has not done."""
        left = []
        for item in to_do:
            log = self.log if self.options.resume else None
            try:
                # Only what that run has begun is worth reading for its hash.
                if log is not None and log.is_ours(item.target) and log.is_done(item.target, self._recipe(item)):
                    self._skip(item, "is done")
                else:
                    left.append(item)
            except RestorerError as error:
                self._failed(item, error)
        return left

    def _prior(self, to_do: list[Item]) -> UNetPrior | Tiled | None:
        """The model; where there is none to be had, every picture fails for that."""
        try:
            obtain(self.options.model, self.reporter, self.options.command)
            with self.reporter.working("loading PyTorch and the model"):
                prior = load_prior_of(self.options)
            if self.verb.suits is not None:
                self.verb.suits(prior)
        except RestorerError as error:
            self.reporter.fail(error)
            for item in to_do:
                self._failed(item, error, said=True)
            return None
        return prior

    def _recipe(self, item: Item) -> str:
        """The fingerprint of what the result will depend on; '' where no log is kept."""
        if self.log is None or item.source == STDIO:
            return ""
        from restorer.models.load import find_model, model_sha256

        options = {**self.options.sampling, **dict(self.verb.own)}
        inputs = [_sha256(item.source)] + ([_sha256(self.verb.mask(item))] if self.verb.mask is not None else [])
        return fingerprint(self.options.command, options, model_sha256(find_model(self.options.model)), *inputs)

    def _read(self, item: Item, prior: UNetPrior | Tiled) -> Work:
        """Read a picture and decide on it; nothing is begun yet."""
        if item.source != STDIO:
            check_memory(item.source, self.options, self.verb.scale)
        work = read(item, self.options, self.verb, prior, self._recipe(item))
        # What an earlier run has begun is ours.
        return replace(work, ours=self.options.resume and self.log is not None and self.log.is_ours(item.target))

    def _restore(self, works: list[Work], ahead: Ahead[Item, Work], behind: Behind, forecast: Forecast) -> None:
        """Restore a batch while the one before is written and the next is read."""
        behind.then(partial(self._begin, works))
        ahead.fill()
        began = time.monotonic()
        outcomes = sample(works, self.options, self.reporter, forecast, lambda: behind.is_idle)
        each = (time.monotonic() - began) / len(works)
        behind.wait()  # the results of one batch are held, and not those of two
        do = behind.do if are_light(works, self.verb) else behind.then
        bugs, failed = list[BaseException](), len(self.codes)
        for work, outcome in zip(works, outcomes, strict=True):
            if self.options.fail_fast and len(self.codes) > failed:
                break
            if isinstance(outcome, BaseException) and not isinstance(outcome, RestorerError):
                bugs.append(outcome)
                continue
            do(partial(self._write, work, outcome, work.seconds + each, batch_of(work, works)))
        if bugs:
            behind.wait()
            raise bugs[0]

    def _begin(self, works: list[Work]) -> None:
        """Say what is done next, on the terminal and in the log."""
        for work in works:
            announce(work, self.options, self.reporter)
            if self.log is not None and work.item.target != STDIO:
                self.log.begin(work.item.target)

    def _write(self, work: Work, outcome: Restored | RestorerError | None, seconds: float, batch: int) -> None:
        """Write what came out, and tell what became of it; `seconds` and `batch` as `finish`."""
        item = work.item
        try:
            if isinstance(outcome, RestorerError):
                raise outcome
            told = finish(work, outcome, self.options, self.reporter, seconds=seconds, batch=batch)
            content = self._result(item, status="ok", **told)
            if self.log is not None and item.target != STDIO:
                self.log.record(item.target, content)
        except RestorerError as error:
            self._failed(item, error)
            return
        self.done += 1
        self.reporter.result(str(item.target), content)

    def _tell_plan(self, to_do: list[Item]) -> None:
        """What would be done, and what it would take; nothing is written or fetched."""
        from restorer.cli.restoring.dry_run import is_here, tell_plan

        prior = None
        if not is_here(self.options.model):
            hint = f"restore models pull {self.options.model} --dry-run tells its size"
            self.reporter.warn(f"{self.options.model} is not here, and a dry run fetches nothing: {hint}")
        elif not to_do or (prior := self._prior(to_do)) is None:
            return
        # Without the model nothing is known of what its results depend on.
        chosen = (self._left(to_do) if prior is not None else to_do)[: self.options.limit]
        self.done = tell_plan(self.options, chosen, prior, self.verb.scale, self.reporter, self._failed)

    def _skip(self, item: Item, why: str) -> None:
        self.skipped += 1
        self.reporter.say(f"{item.target} {why}: skipped")
        self.reporter.record(self._result(item, status="skipped"))

    def _failed(self, item: Item, error: RestorerError, *, said: bool = False) -> None:
        code = code_of(error)
        self.codes.append(code)
        if not said:
            self.reporter.fail(error, str(item.source))
        hint = {"hint": error.hint} if error.hint else {}
        content = self._result(item, status="failed", code=code, error=str(error), **hint)
        self.reporter.record(content)
        if self.log is not None and not self.options.dry_run and item.target not in (Path(), STDIO):
            self.log.record(item.target, content)

    def _result(self, item: Item, **more: Any) -> dict[str, Any]:
        place = {"input": str(item.source), "output": str(item.target) if item.target != Path() else None}
        return {"event": "result", "command": self.options.command, **place, **more}

    def _finish(self) -> None:
        code = exit_code_of(self.codes, self.done + self.skipped)
        seconds = round(time.monotonic() - self.began, 2)
        counts = {"ok": self.done, "failed": len(self.codes), "skipped": self.skipped}
        self.reporter.record({"event": "summary", **counts, "seconds": seconds, "exit_code": code})
        if sum(counts.values()) > 1:
            done = "would be done" if self.options.dry_run else "done"
            self.reporter.say(
                f"{self.done} {done}, {len(self.codes)} failed, {self.skipped} skipped in {seconds:.1f} s"
            )
        if code:
            raise typer.Exit(code)


def load_prior_of(options: Options) -> UNetPrior | Tiled:
    """The prior that a command line asks for, in the tiles it asks for.

    Raises:
        ModelError: it cannot be loaded, or does not serve the command.
    """
    from restorer.models.load import load_prior
    from restorer.priors.latent import latent_of
    from restorer.priors.tiled import Tiled

    prior = load_prior(options.model, options.device, options.precision)
    if (latent := latent_of(prior)) is not None:
        check_task(options.command, latent.serves, options.model)
    if options.tile == "auto":
        return prior
    side = 1 << 30 if options.tile == "off" else int(options.tile)
    if latent is not None:  # on the command line a tile counts pixels of the result
        side //= latent.factor
    return Tiled(prior, side, overlap=0 if options.tile == "off" else min(64, side // 4))


def _sha256(path: Path) -> str:
    from restorer.models.hub.download import sha256_of

    try:
        return sha256_of(path)
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror}", "check the path") from error
