"""Downloads in the terminal: an announcement, a question before large downloads, and a progress bar for each file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from restorer.cli.terminal.reporter import Reporter, human_bytes
from restorer.errors import ModelError
from restorer.limits import check_task

if TYPE_CHECKING:
    from restorer.models.hub.download import OnBytes
    from restorer.models.hub.references import Reference, Snapshot

__all__ = [
    "CONFIRM_ABOVE_BYTES",
    "check_card",
    "confirm_download",
    "ensure_downloaded",
    "ensure_start_downloaded",
    "is_interactive",
    "pull",
]

CONFIRM_ABOVE_BYTES = 1_000_000_000
"""Size of a download, in bytes, above which the user must confirm it."""

LINE_INTERVAL = 10.0  # seconds between two lines of progress outside a terminal


def ensure_downloaded(model: str, reporter: Reporter, task: str | None = None) -> None:
    """Download a model of the Hub unless it is cached, and warn if it was trained on one kind of picture only.

    The function does nothing if `model` is not a reference to the Hub.

    Args:
        model: The name, path or Hub repository of the model.
        reporter: Receives the messages.
        task: The verb that uses the model; None to skip the check of the task.

    Raises:
        ModelError: The model cannot be downloaded, the user declines, or the model does not serve the task.
    """
    from restorer.models.hub.references import parse_reference

    if task is not None:
        check_card(model, task)
    if Path(model).exists() or (reference := parse_reference(model)) is None:
        return
    pull(reference, reporter)
    if (card := reference.card) is not None and not card.general:
        reporter.warn(f"{card.name} was trained on {card.domain} only; on other pictures it invents similar content")


def ensure_start_downloaded(start: str | None, reporter: Reporter) -> None:
    """Download the file of a network on the Hub unless it is cached; `start` is the value of the option.

    Raises:
        ModelError: The file cannot be downloaded, or the user declines.
    """
    if start is None or Path(start).exists():
        return
    from restorer.models.starts import find_start

    with _show_download(reporter) as on_bytes:
        find_start(start, lambda snapshot: confirm_download(snapshot, reporter), on_bytes)


def check_card(model: str, task: str) -> None:
    """Check that a model serves a task, as far as the catalogue knows, before it is downloaded.

    Raises:
        ModelError: The model does not serve the task; the message says which task it serves.
    """
    from restorer.models.hub.references import parse_reference

    if not Path(model).exists() and (reference := parse_reference(model)) is not None and reference.card is not None:
        check_task(task, reference.card.task, reference.card.name)


def pull(reference: Reference, reporter: Reporter, *, yes: bool = False) -> Path:
    """Return the folder or file of a model in the cache, downloading missing files with visible progress.

    Args:
        reference: The model.
        reporter: Shows the progress.
        yes: Whether large downloads begin without a question.

    Raises:
        ModelError: The model cannot be downloaded, or the user declines.
    """
    from restorer.models.hub.download import fetch

    with _show_download(reporter) as on_bytes:
        return fetch(reference, lambda snapshot: confirm_download(snapshot, reporter, yes=yes), on_bytes)


def is_interactive() -> bool:
    """Return whether there is a user at the terminal who can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm_download(snapshot: Snapshot, reporter: Reporter, *, yes: bool = False) -> None:
    """Announce a download, and ask the user before a large one.

    Args:
        snapshot: The model, with the files to be downloaded.
        reporter: Receives the announcement.
        yes: Whether large downloads begin without a question.

    Raises:
        ModelError: The user declines.
    """
    licence = f" · licence {snapshot.licence}" if snapshot.licence else " · no licence stated"
    files = f"{len(snapshot.missing)} file{'' if len(snapshot.missing) == 1 else 's'}"
    size = human_bytes(snapshot.download_bytes)
    reporter.say(f"download {snapshot.reference} · {files} · {size}{licence}")
    must_ask = snapshot.download_bytes > CONFIRM_ABOVE_BYTES and not yes and is_interactive()
    if must_ask and not typer.confirm(f"Download {size}?", default=True, err=True):
        raise ModelError(f"{snapshot.reference} was not downloaded", "restore models list prints smaller models")


@contextmanager
def _show_download(reporter: Reporter) -> Iterator[OnBytes | None]:
    """Show the progress of `models.hub.download.fetch`: bars on a terminal, occasional lines elsewhere."""
    if reporter.quiet:
        yield None
    elif not reporter.is_live:
        yield _ProgressLines(reporter)
    else:
        with _show_bars(reporter) as on_bytes:
            yield on_bytes


@contextmanager
def _show_bars(reporter: Reporter) -> Iterator[OnBytes]:
    """Show a progress bar for each file."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=reporter.console, transient=True, expand=True)
    tasks = {}

    def on_bytes(name: str, done: int, total: int | None) -> None:
        if name not in tasks:
            progress.start()  # not earlier, because the bar would disturb a question to the user
            tasks[name] = progress.add_task(escape(name), total=total)
        progress.update(tasks[name], completed=done, total=total)

    try:
        yield on_bytes
    finally:
        progress.stop()


class _ProgressLines:
    """Progress for log files: one line every ten seconds."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._last_printed = reporter, time.monotonic()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._last_printed > LINE_INTERVAL:
            self._last_printed = now
            out_of = f" of {human_bytes(total)}" if total else ""
            self._reporter.say(f"{name}: {human_bytes(done)}{out_of}")
