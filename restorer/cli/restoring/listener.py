"""The listener of a run in the terminal: each event as a message, as progress, or as an object of JSON."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from restorer.cli.terminal.forecast import Forecast, picture_workload
from restorer.cli.terminal.reporter import Bar, Reporter, format_duration
from restorer.folders.events import (
    Begun,
    Done,
    Event,
    Expected,
    Failed,
    Finished,
    LeftOut,
    Noted,
    Opened,
    PassedOver,
    Planned,
    Sampled,
    Sampling,
    Skipped,
    Starting,
    Step,
    Tile,
    Working,
)
from restorer.folders.options import Options
from restorer.folders.picture import PreparedPicture, effective_settings
from restorer.images.kinds import KINDS, describe_counts
from restorer.machine.memory import human_bytes
from restorer.tasks.repair import describe_repairs

if TYPE_CHECKING:
    from restorer.images.files import Picture

__all__ = ["Listener"]


class Listener:
    """Shows the events of one run. It is a context, which ends the progress.

    Args:
        options: The options of the run.
        reporter: Receives the messages.
    """

    def __init__(self, options: Options, reporter: Reporter) -> None:
        self.options, self.reporter = options, reporter
        self._forecast = Forecast(reporter)
        self._bar: Bar | None = None
        self._progress = ExitStack()  # what shows the bar

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.close()

    def show(self, event: Event) -> None:
        """Show one event."""
        self._say(event)
        content = event.to_json()
        if isinstance(event, Done):
            self.reporter.result(str(event.item.target), event.to_json())
        elif content is not None:
            self.reporter.emit(content)
        if isinstance(event, Finished):
            self._say_counts(event)

    def _say(self, event: Event) -> None:
        """Show what stands before the JSON of an event."""
        reporter = self.reporter
        match event:
            case PassedOver(path=path, kind=kind):
                reporter.detail(f"{path}: passed over ({KINDS[kind].one})")
            case Noted(text=text):
                reporter.warn(text)
            case Skipped(item=item, reason=reason):
                reporter.say(f"{item.target} {reason}: skipped")
            case Failed(item=item, error=error, is_common=False):
                reporter.fail(error, str(item.source))
            case Opened(pictures=pictures, error=None):
                self._forecast = Forecast(reporter, pictures)
            case Opened(error=error) if error is not None:
                reporter.fail(error)
            case Starting(item=item, name=name):
                reporter.say(f"{item.source.name}: computing the start with {name}")
            case LeftOut():
                self._forecast.skip_picture()
            case Begun(picture=picture):
                self._announce(picture)
            case Sampling():
                self._begin_progress(event)
            case Step(done=done) if self._bar is not None:
                self._bar.step(done)
            case Tile(done=done, total=total) if self._bar is not None:
                self._bar.tile(done, total)
            case Sampled():
                self._progress.close()
                self._bar = None
            case Working():
                self._show_workers(event)
            case Done():
                self._say_done(event)
            case Planned():
                self._say_plan(event)
            case Expected():
                self._say_expected(event)

    def _announce(self, prepared: PreparedPicture) -> None:
        """Print one line about a picture before it is restored, followed by its notes."""
        import torch

        job, options, reporter = prepared.job, self.options, self.reporter
        settings = effective_settings(job, job.prior, options)
        device = f"cpu ({torch.get_num_threads()} threads)" if settings["device"] == "cpu" else settings["device"]
        tiles = f"{job.tiles} tiles" if job.tiles > 1 else "1 tile"
        steps = f"{settings['steps']} step{'' if settings['steps'] == 1 else 's'}"
        origin = " (estimated)" if job.estimated else ""
        strength = f"sigma {job.sigma:.1f}{origin}"
        if job.noise is not None and job.noise.kind == "camera":
            strength = job.noise.describe()
        elif job.noise is not None and job.noise.kind == "none" and job.estimated:
            strength = "no noise found"
        elif options.command == "dejpeg" and job.jpeg is None:
            strength = "no compression found"
        if job.jpeg is not None:
            has_noise = job.noise is not None and job.noise.sigma > 0
            strength = f"{strength} · {job.jpeg.describe()}" if has_noise else job.jpeg.describe()
        if job.outliers is not None:
            strength = f"{strength} · {job.outliers.describe()}"
        detail = "by hole size" if settings["detail"] is None else f"{settings['detail']:g}"
        model = options.model
        if job.starter is not None:
            model = job.starter.name if job.plan is None else f"{model} from {job.starter.name}"
        is_sharp = options.command == "deblur" and job.noise is None and job.is_copy
        is_unmeasured = job.latent is not None or (job.plan is None and job.starter is not None) or is_sharp
        noise = "" if is_unmeasured else f"{strength} · detail {detail} · "
        if job.repairs is not None:
            noise = describe_repairs(job.repairs) + (f" · detail {detail} · " if job.repairs else " · ")
        noise = noise if job.blur is None or job.repairs is not None else f"{job.blur.describe()} · {noise}"
        reporter.say(
            f"{options.command} {prepared.item.source.name} · {model} · {device} · {settings['precision']} · "
            f"{steps} · {tiles} · {noise}seed {options.seed}"
        )
        for note in (*prepared.picture.notes, *job.notes):
            reporter.warn(note)
        if job.plan is not None and job.latent is None:
            reporter.detail("noise levels (0..255): " + " ".join(f"{127.5 * s:.1f}" for s in job.plan.sigmas))

    def _begin_progress(self, event: Sampling) -> None:
        """Show a bar for a batch, which prints the estimated time as soon as some evaluations are timed."""
        from restorer.tasks.uncertain import runs

        longest, count = event.longest, len(event.pictures)
        label = event.pictures[0].item.source.name if count == 1 else f"{count} pictures"
        workload = picture_workload(self.options, longest, longest.evaluations - longest.second_pass_evaluations)
        on_timed = self._forecast.start(label, workload, count)
        self._bar = self._progress.enter_context(self.reporter.progress(label))
        by_step = longest.prior.device.type != "cpu"
        evaluations = longest.evaluations * runs(longest.asked, longest.doubt)
        self._bar.begin(evaluations, longest.tiles, on_timed, by_step=by_step)

    def _show_workers(self, event: Working) -> None:
        """Show how far the workers of a cluster are, which machines they are on, and how fast they are."""
        if self._bar is None:
            self._bar = self._progress.enter_context(self.reporter.progress("cluster"))
        rate = "" if event.rate is None else f", {event.rate:.3g} a second"
        position = f"{event.done}/{event.pictures} pictures{rate}, {_count(event.nodes, 'node')}, "
        position += _count(event.workers, "worker") + (f" (+{event.waiting} waiting)" if event.waiting else "")
        self._bar.count(event.done, event.pictures, position)

    def _say_done(self, event: Done) -> None:
        """Print the notes about a result, and one line about its file."""
        told = {"say": self.reporter.say, "note": self.reporter.warn, "detail": self.reporter.detail}
        for kind, text in event.said:
            told[kind](text)
        for note in event.notes:
            self.reporter.warn(note)
        size = "" if event.file_bytes is None else f" · {human_bytes(event.file_bytes)}"
        shape = f"{event.size[0]}x{event.size[1]}"
        self.reporter.say(f"{event.how} {event.item.target} · {shape}{size} · {event.seconds:.1f} s", style="green")
        if event.drawn is not None:
            self._draw(*event.drawn)

    def _draw(self, before: Picture, after: Picture) -> None:
        from restorer.cli.terminal.showing import show
        from restorer.images.files import reduce_depth, to_pil

        if not self.reporter.quiet and not show(
            self.reporter.console, [to_pil(reduce_depth(replace(p, alpha=None), 8)) for p in (before, after)]
        ):
            self.reporter.warn("the pictures are not drawn, because this is not a terminal with colours")

    def _say_plan(self, event: Planned) -> None:
        """Print what a dry run says about one picture."""
        size = "x".join(map(str, event.original))
        size += "" if event.is_plain else f" -> {event.size[0]}x{event.size[1]}"
        seconds = event.seconds
        steps = f"{event.steps} step{'' if event.steps == 1 else 's'}"
        duration = "" if seconds is None else f" · {steps} · about {format_duration(seconds)}"
        plan = "" if event.repairs is None else f" · {describe_repairs(event.repairs)}"
        space = "" if event.file_bytes is None else f" · about {human_bytes(event.file_bytes)} on the disk"
        memory = f"{human_bytes(event.memory)} of memory"
        self.reporter.say(f"{event.item.source} -> {event.item.target} · {size}{plan}{duration} · {memory}{space}")
        for note in event.notes:
            self.reporter.warn(note)

    def _say_expected(self, event: Expected) -> None:
        """Print what the pictures of a dry run take together."""
        if event.pictures > 1 and event.seconds is not None:
            self.reporter.say(f"{event.pictures} pictures, about {format_duration(event.seconds)} in total")
        if event.pictures > 1 and event.file_bytes is not None and event.free is not None:
            expected, free = human_bytes(event.file_bytes), human_bytes(event.free)
            self.reporter.say(f"the results take about {expected}, and {free} are free")

    def _say_counts(self, event: Finished) -> None:
        """Print the summary of a run of several pictures."""
        if event.ok + event.failed + event.skipped > 1 or event.passed_over:
            done = "would be done" if self.options.dry_run else "done"
            others = f"; passed over: {describe_counts(event.passed_over)}" if event.passed_over else ""
            counts = f"{event.ok} {done}, {event.failed} failed, {event.skipped} skipped"
            self.reporter.say(f"{counts} in {event.seconds:.1f} s{others}")


def _count(number: int, name: str) -> str:
    """Return a number of things in words."""
    return f"{number} {name}{'' if number == 1 else 's'}"
