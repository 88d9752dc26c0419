"""What the terminal shows: one line before, the progress, one line after; plain lines where no terminal listens."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text
from rich.theme import Theme

from restorer import errors
from restorer.cli.terminal.streams import tell
from restorer.machine.memory import human_bytes

__all__ = [
    "EXIT_CODES",
    "Bar",
    "Reporter",
    "Timing",
    "code_of",
    "duration",
    "folded",
    "human_bytes",
    "report_error",
    "to_stderr",
]

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
ROOM = 3  # columns to the right of the bar
NARROW = 72  # columns below which the bar leaves out how long it has been at work
INDENT = "  "  # of what does not fit into the first line of a message

# Rich's own styles suit dark terminals: its yellow cannot be read on white, and its grey is black there.
THEME = Theme(
    {
        "bar.back": "dim",
        "progress.elapsed": "none",
        "progress.remaining": "none",
        "progress.download": "none",
        "progress.data.speed": "none",
    }
)


def code_of(error: BaseException) -> int:
    """The exit code of an error; 1 for one that nobody expected."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def to_stderr() -> Console:
    """Where messages go."""
    return Console(stderr=True, emoji=False, theme=THEME)


def folded(text: str, width: int) -> str:
    """A message in lines of at most `width` columns, broken between facts (" · ") if it has such, else between words.

    A fact or a word that is longer, a path for instance, stays in one piece: broken by the terminal it can be copied.
    """
    between = " · " if " · " in text else " "
    first, *others = text.split(between)
    lines = [first]
    for piece in others:
        longer = lines[-1] + between + piece
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(INDENT + piece)
    return "\n".join(lines)


def _tell(console: Console, text: str, style: str) -> None:
    """A message with its first word in a style; lines are broken on a terminal only, for a log is searched by lines."""
    shown = Text(folded(text, console.width) if console.file.isatty() else text)
    shown.stylize(style, 0, text.find(" ") if " " in text else len(text))
    console.print(shown, soft_wrap=True, highlight=False)


def report_error(error: BaseException, name: str = "", console: Console | None = None) -> None:
    """One line that says what happened, and a hint."""
    console = console or to_stderr()
    subject = f"{name}: " if name and name not in str(error) else ""
    _tell(console, "error: " + " ".join(f"{subject}{error}".split()), "bold red")
    if hint := getattr(error, "hint", ""):
        _tell(console, f"hint: {hint}", "dim")


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
        self._console.print(f"{self._label}: {where}, {100 * done // total} %, {duration(left)} left", highlight=False)


def duration(seconds: float) -> str:
    """8 s, 1 min 20 s, 2 h 5 min: two figures are all that an estimate has."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


class Reporter:
    """Messages to stderr, results to stdout.

    Args:
        quiet: nothing but the results' paths. verbose: more. as_json: one JSON object a picture on stdout.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        self.console = to_stderr()

    @property
    def lively(self) -> bool:
        """Whether what moves can be shown: on a terminal, not in a file that colours are forced into."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and self.console.file.isatty()

    def say(self, text: str, style: str = "") -> None:
        """A message; the style is that of its first word."""
        if not self.quiet:
            _tell(self.console, text, style)

    def detail(self, text: str) -> None:
        """A message for those who asked for more."""
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        """Something did not go as the user may think."""
        self.say(f"note: {text}", style="bold magenta")

    def fail(self, error: BaseException, name: str = "") -> None:
        """One picture failed; said even when quiet."""
        report_error(error, name, self.console)

    def result(self, path: str, record: dict[str, Any]) -> None:
        """A picture is done: its record, or its path for whoever reads the standard output."""
        if self.as_json:
            self.record(record)
        elif path != "-" and (self.quiet or not sys.stdout.isatty()):
            tell(path)

    def record(self, record: dict[str, Any]) -> None:
        """One JSON object on a line of its own."""
        if self.as_json:
            tell(json.dumps({"schema": 1, **record}, ensure_ascii=False))

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """While something goes on that has no steps."""
        if self.quiet or not self.lively:
            yield
            return
        with self.console.status(escape(what)):
            yield

    @contextmanager
    def progress(self, label: str) -> Iterator[Bar]:
        """A bar that goes away when the picture is done."""
        if self.quiet:
            yield Bar(Console(file=None, quiet=True), None, None, label)
        elif not self.lively:
            yield Bar(self.console, None, None, label)
        else:
            columns = _columns(self.console.width)
            with _Progress(*columns, console=self.console) as progress:
                task = progress.add_task(escape(label), total=None, where="", visible=False)
                yield Bar(self.console, progress, task, label)


class _Progress(Progress):
    """A bar that leaves room for the ^C which a terminal shows: in the next line it would keep the bar from going."""

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        self._terminal = console  # `Progress.console` is not there yet when the first table is made
        super().__init__(*columns, console=console, transient=True)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        table = super().make_tasks_table(tasks)
        table.width = max(1, self._terminal.width - ROOM)
        return table


def _columns(width: int) -> list[ProgressColumn]:
    """The parts of the bar. A long name is cut, so that it takes no room from the figures."""
    name = Column(max_width=width // (4 if width >= NARROW else 6), no_wrap=True, overflow="ellipsis")
    return [
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=name),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[where]}"),
        *([TimeElapsedColumn()] if width >= NARROW else []),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
