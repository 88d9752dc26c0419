"""What the restoring verbs have in common: from a command line to written results, one picture after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from restorer.batch import STDIO, Item, collect, decide, exit_code_of, home_of
from restorer.cli.console import Reporter, code_of, human_bytes
from restorer.cli.cost import Forecast, run_of
from restorer.cli.downloading import obtain
from restorer.cli.options import Options
from restorer.errors import PictureError, RestorerError, UsageError
from restorer.limits import check_task
from restorer.manifest import MANIFEST, Manifest, fingerprint, opened, sweep

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from restorer.images.files import Picture
    from restorer.job import Job
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.record import Record

    Prepared = tuple[Job, np.ndarray | None]

__all__ = ["Verb", "load_prior_of", "restore_all"]

Pictures = list[tuple[Path, Path | None]]


@dataclass(frozen=True)
class Verb:
    """What tells the verbs apart.

    Args:
        tag: what a result's name ends in.
        prepare: the job of a picture, and which of its pixels are to be copied.
        suits: raises where the options do not suit the model.
        own: the verb's own options, as a result depends on them.
        mask: the mask of a picture, if it has one.
        scale: how much larger a result is.
    """

    tag: str
    prepare: Callable[[Tensor, Item, Picture, UNetPrior | Tiled], Prepared]
    suits: Callable[[UNetPrior | Tiled], None] | None = None
    own: tuple[tuple[str, Any], ...] = ()
    mask: Callable[[Item], Path] | None = None
    scale: int = 1


def restore_all(options: Options, verb: Verb) -> None:
    """Decide, load the model once, restore one picture after the other."""
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
        for item in left:
            if (options.limit is not None and self.done >= options.limit) or (options.fail_fast and self.codes):
                break
            try:
                self._restore(item, prior, forecast)
                self.done += 1
            except RestorerError as error:
                self._failed(item, error)

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
        from restorer.priors.catalog import find_model, weights_sha256

        options = {**self.options.sampling, **dict(self.verb.own)}
        inputs = [_sha256(item.source)] + ([_sha256(self.verb.mask(item))] if self.verb.mask is not None else [])
        return fingerprint(self.options.command, options, weights_sha256(find_model(self.options.model)), *inputs)

    def _restore(self, item: Item, prior: UNetPrior | Tiled, forecast: Forecast) -> None:
        from restorer.images import files, writing
        from restorer.priors.catalog import identity

        options, reporter = self.options, self.reporter
        began, recipe = time.monotonic(), self._recipe(item)
        picture = files.load(sys.stdin.buffer if item.source == STDIO else item.source, options.max_pixels)
        target: Path | BinaryIO = sys.stdout.buffer if item.target == STDIO else item.target
        form = writing.target_format(picture, target)
        job, keep = self.verb.prepare(files.to_tensor(picture), item, picture, prior)
        self._announce(item, job, (*picture.notes, *job.notes))
        if self.log is not None and item.target != STDIO:
            self.log.begin(item.target)
        if job.plan is None:
            result, notes, used = picture, tuple[str, ...](), job.prior
        else:
            tell = forecast.of(item.source.name, run_of(options, job, job.plan.evaluations))
            with reporter.progress(item.source.name) as bar:
                bar.begin(job.plan.evaluations, job.tiles, tell, by_step=job.prior.device.type != "cpu")
                restored = job.run(on_step=lambda step: bar.step(step.index), on_tile=bar.tile)
            notes, used = restored.notes, restored.prior
            result = files.with_result(picture, restored.image, keep=keep)
            result = files.with_record(result, self._record_of(item, picture, job, used).text())
        ours = self.log is not None and options.resume and self.log.is_ours(item.target)
        notes = (*notes, *writing.save(result, target, format=form, overwrite=options.overwrite or ours))
        for note in notes:
            reporter.warn(note)
        seconds = time.monotonic() - began
        size = "" if item.target == STDIO else f" · {human_bytes(item.target.stat().st_size)}"
        reporter.say(f"wrote {item.target} · {result.width}x{result.height}{size} · {seconds:.1f} s", style="green")
        if options.show:
            self._show(picture, result)
        details = {
            "width": result.width,
            "height": result.height,
            "mode": result.mode,
            "depth_in": picture.depth,
            "depth_out": writing.written_depth(result, form),
            "model": identity(options.model),
            **self._parts(job, used),
            "seconds": round(seconds, 2),
            "peak_mem_mb": _peak_memory(),
            "warnings": [*picture.notes, *job.notes, *notes],
            **({"recipe": recipe} if recipe else {}),
        }
        content = self._result(item, status="ok", **details)
        if self.log is not None and item.target != STDIO:
            self.log.record(item.target, content)
        reporter.result(str(item.target), content)

    def _parts(self, job: Job, prior: Tiled) -> dict[str, Any]:
        from restorer.priors.catalog import precision_name

        plan = job.plan
        return {
            "device": str(prior.device),
            "precision": precision_name(prior),
            "steps": plan.evaluations if plan else 0,
            "method": self.options.method,
            "detail": job.detail,
            "seed": self.options.seed,
            "sigma": round(job.sigma, 2),
            "tile": job.factor * min(prior.tile, max(job.start.shape[-2:])),
            "overlap": job.factor * prior.overlap,
        }

    def _record_of(self, item: Item, picture: Picture, job: Job, used: Tiled) -> Record:
        """What the result carries with it."""
        import hashlib

        import torch

        from restorer import __version__
        from restorer.priors.catalog import identity
        from restorer.record import Record

        parts, options = self._parts(job, used), self.options
        given = {"method": options.method, "seed": options.seed, **dict(self.verb.own), "tile": options.tile}
        if job.latent is None:
            given |= {"sigma": job.sigma, "detail": job.detail}
        given["steps"] = parts["steps"]
        return Record(
            __version__,
            options.command,
            item.source.name,
            hashlib.sha256(picture.original).hexdigest() if picture.original else "",
            options.model,
            identity(options.model)["sha256"],
            given,
            parts["device"],
            parts["precision"],
            torch.get_num_threads(),
        )

    def _announce(self, item: Item, job: Job, notes: tuple[str, ...]) -> None:
        """One line before the work, and what the user should know."""
        import torch

        parts, reporter = self._parts(job, job.prior), self.reporter
        device = f"cpu ({torch.get_num_threads()} threads)" if parts["device"] == "cpu" else parts["device"]
        tiles = f"{job.tiles} tiles" if job.tiles > 1 else "1 tile"
        steps = f"{parts['steps']} step{'' if parts['steps'] == 1 else 's'}"
        said = " (estimated)" if job.estimated else ""
        more = "" if job.latent else f"sigma {job.sigma:.1f}{said} · detail {job.detail:g} · "
        reporter.say(
            f"{self.options.command} {item.source.name} · {self.options.model} · {device} · {parts['precision']} · "
            f"{steps} · {tiles} · {more}seed {self.options.seed}"
        )
        for note in notes:
            reporter.warn(note)
        if job.plan is not None and job.latent is None:
            reporter.detail("noise levels (0..255): " + " ".join(f"{127.5 * s:.1f}" for s in job.plan.sigmas))

    def _show(self, before: Picture, after: Picture) -> None:
        from restorer.cli.blocks import show
        from restorer.images.files import reduced, to_pil

        if not self.reporter.quiet and not show(
            self.reporter.console, [to_pil(reduced(replace(p, alpha=None), 8)) for p in (before, after)]
        ):
            self.reporter.warn("nothing is shown: this is no terminal with colours")

    def _tell_plan(self, to_do: list[Item]) -> None:
        """What would be done, and what it would take; nothing is written or fetched."""
        from restorer.cli.planning import is_here, tell_plan

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
    from restorer.priors.catalog import load_prior
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
    from restorer.priors.download import sha256_of

    try:
        return sha256_of(path)
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror}", "check the path") from error


def _peak_memory() -> int | None:
    """The most memory this process has held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
