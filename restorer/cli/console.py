"""What the terminal shows: one line before, the progress, one line after; plain lines where no terminal listens."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from restorer import errors

__all__ = ["EXIT_CODES", "Bar", "Reporter", "Timing", "code_of", "human_bytes", "report_error"]

EXIT_CODES: dict[type[errors.RestorerError], int] = {
    errors.UsageError: 2,
    errors.PictureError: 4,
    errors.ModelError: 5,
    errors.DeviceError: 6,
    errors.OutputError: 7,
}
PLAIN_SECONDS = 10.0
WARM = 2.0  # seconds: a first evaluation that takes less may be, for the most part, what is done only once
TIMED = 1.0  # seconds: evaluations that take less are timed together


def code_of(error: BaseException) -> int:
    """The exit code of an error; 1 for one that nobody expected."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def human_bytes(count: int) -> str:
    """12345678 -> '12.3 MB'."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def report_error(error: BaseException, name: str = "", console: Console | None = None) -> None:
    """One line that says what happened, and a hint."""
    console = console or Console(stderr=True, emoji=False)
    subject = f"{name}: " if name and name not in str(error) else ""
    text = " ".join(f"{subject}{error}".split())
    console.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True, highlight=False)
    if hint := getattr(error, "hint", ""):
        console.print(f"[dim]hint:[/] {escape(hint)}", soft_wrap=True, highlight=False)


class Timing:
    """Times one evaluation of a run, or several short ones, and tells what all of it takes.

    Args:
        forecast: called once, with seconds.
        by_step: whether only evaluations of the whole picture can be timed: a GPU is still at work when a tile is said
            to be done.
    """

    def __init__(self, forecast: Callable[[float], None] | None, *, by_step: bool = False) -> None:
        self._forecast, self._by_step = forecast, by_step
        self._began = time.monotonic()
        self._since: tuple[float, float] | None = None  # the clock, and what was done, when the timing began

    def seen(self, done: float, total: float, *, whole: bool) -> None:
        """So much is done; `whole`: up to the end of an evaluation of the whole picture."""
        if self._forecast is None or done >= total or (self._by_step and not whole):
            return
        now = time.monotonic()
        if self._since is None and (self._by_step or now - self._began < WARM):
            self._since = now, done
            return
        then, before = self._since or (self._began, 0.0)
        if now - then >= TIMED and done > before:
            tell, self._forecast = self._forecast, None
            tell(now - self._began + (now - then) / (done - before) * (total - done))


class Bar:
    """Progress over the network evaluations of one picture: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, console: Console, progress: Progress | None, task: TaskID | None, label: str) -> None:
        self._console, self._progress, self._task, self._label = console, progress, task, label
        self._steps, self._tiles, self._step, self._tile = 1, 1, 0, 0
        self._began = self._said = time.monotonic()
        self._tenth = 0
        self._timing = Timing(None)

    def begin(
        self, steps: int, tiles: int, forecast: Callable[[float], None] | None = None, *, by_step: bool = False
    ) -> None:
        """The sizes are known.

        Args:
            steps, tiles: evaluations of the whole picture, and of the network in each.
            forecast, by_step: as `Timing`.
        """
        self._steps, self._tiles, self._step, self._tile = steps, tiles, 0, 0
        self._began = self._said = time.monotonic()
        self._timing = Timing(forecast, by_step=by_step)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=steps * tiles, visible=True)
        self._show()

    def step(self, index: int) -> None:
        """So many evaluations of the whole picture are done."""
        self._step, self._tile = index, 0
        self._timing.seen(index * self._tiles, self._steps * self._tiles, whole=True)
        self._show()

    def tile(self, done: int, total: int) -> None:
        """So many tiles of the present evaluation are done; their number changes if memory ran out."""
        self._tile, self._tiles = done, total
        self._timing.seen(self._step * total + done, self._steps * total, whole=False)
        self._show()

    def _show(self) -> None:
        done = self._step * self._tiles + self._tile
        total = self._steps * self._tiles
        step = min(self._step + 1, self._steps) if self._tile < self._tiles else self._step + 1
        where = f"step {min(step, self._steps)}/{self._steps}"
        if self._tiles > 1:
            where += f", tile {min(self._tile + 1, self._tiles)}/{self._tiles}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, where=where)
            return
        now, tenth = time.monotonic(), 10 * done // total
        if done == 0 or done == total or not (tenth > self._tenth or now - self._said > PLAIN_SECONDS):
            return
        self._tenth, self._said = tenth, now
        left = (now - self._began) / done * (total - done)
        self._console.print(f"{self._label}: {where}, {100 * done // total} %, {left:.0f} s left", highlight=False)


class Reporter:
    """Messages to stderr, results to stdout.

    Args:
        quiet: nothing but the results' paths. verbose: more. as_json: one JSON object a picture on stdout.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        self.console = Console(stderr=True, emoji=False)

    def say(self, text: str, style: str = "") -> None:
        """A message."""
        if not self.quiet:
            self.console.print(escape(text), style=style, soft_wrap=True, highlight=False)

    def detail(self, text: str) -> None:
        """A message for those who asked for more."""
        if self.verbose:
            self.say(text, style="dim")

    def warn(self, text: str) -> None:
        """Something did not go as the user may think."""
        if not self.quiet:
            self.console.print(f"[yellow]note:[/] {escape(text)}", soft_wrap=True, highlight=False)

    def fail(self, error: BaseException, name: str = "") -> None:
        """One picture failed; said even when quiet."""
        report_error(error, name, self.console)

    def result(self, path: str, record: dict[str, Any]) -> None:
        """A picture is done: its record, or its path for whoever reads the standard output."""
        if self.as_json:
            self.record(record)
        elif path != "-" and (self.quiet or not sys.stdout.isatty()):
            print(path, flush=True)

    def record(self, record: dict[str, Any]) -> None:
        """One JSON object on a line of its own."""
        if self.as_json:
            print(json.dumps({"schema": 1, **record}, ensure_ascii=False), flush=True)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """While something goes on that has no steps."""
        if self.quiet or not self.console.is_terminal:
            yield
            return
        with self.console.status(escape(what)):
            yield

    @contextmanager
    def progress(self, label: str) -> Iterator[Bar]:
        """A bar that goes away when the picture is done."""
        if self.quiet:
            yield Bar(Console(file=None, quiet=True), None, None, label)
        elif not self.console.is_terminal or os.environ.get("TERM") == "dumb":
            yield Bar(self.console, None, None, label)
        else:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[where]}"),
                TimeElapsedColumn(),
                TextColumn("[dim]left[/]"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True, expand=True) as progress:
                task = progress.add_task(escape(label), total=None, where="", visible=False)
                yield Bar(self.console, progress, task, label)
