"""Messages, progress and results of a command, on a terminal or, as plain lines, in a log file."""

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

from restorer.cli.terminal.printable import for_encoding, has_characters, printable
from restorer.cli.terminal.streams import print_line
from restorer.errors import EXIT_CODES, exit_code_for
from restorer.machine.memory import human_bytes

__all__ = [
    "EXIT_CODES",
    "LINE_INTERVAL",
    "THEME",
    "Bar",
    "Reporter",
    "Timing",
    "exit_code_for",
    "fold",
    "format_duration",
    "human_bytes",
    "report_error",
    "stderr_console",
]

LINE_INTERVAL = 10.0
"""Seconds between two lines of progress outside a terminal."""

WARM_UP_SECONDS = 2.0  # a shorter first evaluation may consist mostly of work that is done only once
MIN_TIMED_SECONDS = 1.0  # shorter evaluations are timed together
RESERVED_COLUMNS = 3  # free columns to the right of the progress bar
NARROW_WIDTH = 72  # columns below which the progress bar omits the elapsed time
INDENT = "  "  # precedes the continuation lines of a message

THEME = Theme(
    {
        "bar.back": "dim",
        "progress.elapsed": "none",
        "progress.remaining": "none",
        "progress.download": "none",
        "progress.data.speed": "none",
    }
)
"""Styles for light terminals too: the yellow of Rich's own styles is illegible on white, and their gray looks black."""


def stderr_console() -> Console:
    """Return a console for messages, which prints to standard error."""
    return Console(stderr=True, emoji=False, theme=THEME)


def fold(text: str, width: int) -> str:
    """Break a message into lines of at most `width` columns.

    A message that consists of facts is broken between facts (" · ", or " | "), any other message between words. A fact
    or word that is longer than a line, for instance a path, stays in one piece, so that it can be copied.
    """
    separator = next((sign for sign in (" · ", " | ") if sign in text), " ")
    first, *others = text.split(separator)
    lines = [first]
    for piece in others:
        longer = lines[-1] + separator + piece
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(INDENT + piece)
    return "\n".join(lines)


def _print_message(console: Console, text: str, style: str) -> None:
    """Print a message with its first word in a style.

    The message is folded on a terminal only, because a log file is searched by lines. File names in it are shown
    without control characters, there as well.
    """
    text = for_encoding(printable(text), console.encoding)
    shown = Text(fold(text, console.width) if console.file.isatty() else text)
    shown.stylize(style, 0, text.find(" ") if " " in text else len(text))
    console.print(shown, soft_wrap=True, highlight=False)


def report_error(error: BaseException, name: str = "", console: Console | None = None) -> None:
    """Print an error on one line, followed by its hint on another.

    Args:
        error: The error; its hint is the attribute `hint`, if there is one.
        name: The name of the file; it is printed unless the message contains it.
        console: The console to print to; None for standard error.
    """
    console = console or stderr_console()
    message = str(error)
    is_named = not name or name in message or ascii(name) in message  # the decoders name a file as `ascii` does
    _print_message(console, f"error: {message if is_named else f'{name}: {message}'}", "bold red")
    if hint := getattr(error, "hint", ""):
        _print_message(console, f"hint: {hint}", "dim")


class Timing:
    """The time of one evaluation, or of several short ones, from which the time of the whole run is estimated.

    Args:
        on_timed: Called once, with the estimated seconds of the run; None for no estimate.
        by_step: Whether only evaluations of the whole picture are timed. On a GPU a tile is reported as done while the
            GPU is still computing it.
    """

    def __init__(self, on_timed: Callable[[float], None] | None, *, by_step: bool = False) -> None:
        self._on_timed, self._by_step = on_timed, by_step
        self._start = time.monotonic()
        self._timed_from: tuple[float, float] | None = None  # (time, work done) at which the timing begins

    def update(self, done: float, total: float, *, is_whole_step: bool) -> None:
        """Report the progress.

        Args:
            done: The work done so far, in evaluations.
            total: The work of the whole run, in evaluations.
            is_whole_step: Whether an evaluation of the whole picture has just ended.
        """
        if self._on_timed is None or done >= total or (self._by_step and not is_whole_step):
            return
        now = time.monotonic()
        if self._timed_from is None and (self._by_step or now - self._start < WARM_UP_SECONDS):
            self._timed_from = now, done
            return
        since, done_before = self._timed_from or (self._start, 0.0)
        if now - since >= MIN_TIMED_SECONDS and done > done_before:
            on_timed, self._on_timed = self._on_timed, None
            on_timed(now - self._start + (now - since) / (done - done_before) * (total - done))


class Bar:
    """The progress over the network evaluations of one picture or batch: a bar on a terminal, else occasional lines."""

    def __init__(self, console: Console, progress: Progress | None, task: TaskID | None, label: str) -> None:
        self._console, self._progress, self._task, self._label = console, progress, task, label
        self._steps, self._tiles, self._step, self._tile = 1, 1, 0, 0
        self._start = self._last_printed = time.monotonic()
        self._last_tenth = 0
        self._timing = Timing(None)

    def begin(
        self, steps: int, tiles: int, on_timed: Callable[[float], None] | None = None, *, by_step: bool = False
    ) -> None:
        """Begin the progress, now that its size is known.

        Args:
            steps: Number of evaluations of the whole picture.
            tiles: Number of tiles in each of them.
            on_timed: As in `Timing`.
            by_step: As in `Timing`.
        """
        self._steps, self._tiles, self._step, self._tile = steps, tiles, 0, 0
        self._start = self._last_printed = time.monotonic()
        self._timing = Timing(on_timed, by_step=by_step)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=steps * tiles, visible=True)
        self._show()

    def step(self, index: int) -> None:
        """Report the number of evaluations of the whole picture that are done."""
        self._step, self._tile = index, 0
        self._timing.update(index * self._tiles, self._steps * self._tiles, is_whole_step=True)
        self._show()

    def tile(self, done: int, total: int) -> None:
        """Report the number of tiles that are done in the current evaluation.

        Args:
            done: Number of tiles done.
            total: Number of tiles in the evaluation, which changes if memory has run out.
        """
        self._tile, self._tiles = done, total
        self._timing.update(self._step * total + done, self._steps * total, is_whole_step=False)
        self._show()

    def _show(self) -> None:
        done = self._step * self._tiles + self._tile
        total = self._steps * self._tiles
        step = min(self._step + 1, self._steps) if self._tile < self._tiles else self._step + 1
        position = f"step {min(step, self._steps)}/{self._steps}"
        if self._tiles > 1:
            position += f", tile {min(self._tile + 1, self._tiles)}/{self._tiles}"
        self.count(done, total, position)

    def count(self, done: int, total: int, position: str) -> None:
        """Report how much is done of whatever is counted.

        Args:
            done: The part that is done.
            total: All of it.
            position: The same in words.
        """
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, position=position, visible=True)
            return
        now, tenth = time.monotonic(), 10 * done // total
        is_due = tenth > self._last_tenth or now - self._last_printed > LINE_INTERVAL
        if done == 0 or done == total or not is_due:
            return
        self._last_tenth, self._last_printed = tenth, now
        percent, left = 100 * done // total, format_duration((now - self._start) / done * (total - done))
        self._console.print(f"{self._label}: {position}, {percent} %, {left} left", highlight=False)


def format_duration(seconds: float) -> str:
    """Format a duration like "8 s", "1 min 20 s" or "2 h 5 min"; an estimate is no more precise than that."""
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
    """The output of a command: messages to standard error, results to standard output.

    Args:
        quiet: Whether only errors and the paths of the results are printed.
        verbose: Whether additional messages are printed.
        as_json: Whether events are printed to standard output, one JSON object per line.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        self.console = stderr_console()

    @property
    def is_live(self) -> bool:
        """Whether moving output can be shown: on a terminal, but not in a file for which colours are forced."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and self.console.file.isatty()

    def say(self, text: str, style: str = "") -> None:
        """Print a message, with its first word in a style."""
        if not self.quiet:
            _print_message(self.console, text, style)

    def detail(self, text: str) -> None:
        """Print a message if additional messages are wanted."""
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        """Print a note about something that the user may not expect."""
        self.say(f"note: {text}", style="bold magenta")

    def fail(self, error: BaseException, name: str = "") -> None:
        """Print the error of a picture, even if the reporter is quiet.

        Args:
            error: The error.
            name: The file of the picture.
        """
        report_error(error, name, self.console)

    def result(self, path: str, event: dict[str, Any]) -> None:
        """Print the result of a picture: its event as JSON, or else its path for a reader of standard output.

        Args:
            path: The path of the result; "-" for standard output.
            event: The fields of the JSON object.
        """
        if self.as_json:
            self.emit(event)
        elif path != "-" and (self.quiet or not sys.stdout.isatty()):
            print_line(path)

    def emit(self, event: dict[str, Any]) -> None:
        """Print an event as a JSON object on a line of its own, if JSON is wanted."""
        if self.as_json:
            print_line(json.dumps({"schema": 1, **event}))  # in ASCII, which every encoding has

    @contextmanager
    def working(self, activity: str) -> Iterator[None]:
        """Show that an activity without steps is in progress, for instance "loading the model"."""
        if self.quiet or not self.is_live:
            yield
            return
        with self.console.status(escape(activity), spinner=_spinner(self.console)):
            yield

    @contextmanager
    def progress(self, label: str) -> Iterator[Bar]:
        """Show a progress bar that disappears when the picture or batch is done."""
        label = for_encoding(printable(label), self.console.encoding)
        if self.quiet:
            yield Bar(Console(file=None, quiet=True), None, None, label)
        elif not self.is_live:
            yield Bar(self.console, None, None, label)
        else:
            columns = _columns(self.console.width, _spinner(self.console))
            with _Progress(*columns, console=self.console) as progress:
                task = progress.add_task(escape(label), total=None, position="", visible=False)
                yield Bar(self.console, progress, task, label)


class _Progress(Progress):
    """A progress bar with free columns at its end for the ^C that a terminal shows.

    On the next line, the ^C would prevent the bar from being erased.
    """

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        self._terminal = console  # `Progress.console` is not set yet when the first table is made
        super().__init__(*columns, console=console, transient=True)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """Return the bar as a table that leaves `RESERVED_COLUMNS` free."""
        table = super().make_tasks_table(tasks)
        table.width = max(1, self._terminal.width - RESERVED_COLUMNS)
        return table


def _spinner(console: Console) -> str:
    """Return the name of a spinner whose characters the terminal has."""
    return "dots" if has_characters(console.encoding, "⠋") else "line"


def _columns(width: int, spinner: str) -> list[ProgressColumn]:
    """Return the columns of the progress bar; a long name is cut, so that the figures stay visible."""
    name = Column(max_width=width // (4 if width >= NARROW_WIDTH else 6), no_wrap=True, overflow="ellipsis")
    return [
        SpinnerColumn(spinner),
        TextColumn("{task.description}", table_column=name),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[position]}"),
        *([TimeElapsedColumn()] if width >= NARROW_WIDTH else []),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
