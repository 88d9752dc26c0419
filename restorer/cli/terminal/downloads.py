"""Downloads as the terminal shows them: what is coming, a question above a gigabyte, a bar that counts bytes."""

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
    from restorer.models.hub.references import Plan, Reference

__all__ = ["ASK_ABOVE", "accept", "check_card", "obtain", "on_terminal", "pull"]

ASK_ABOVE = 1_000_000_000
PLAIN_SECONDS = 10.0


def obtain(model: str, reporter: Reporter, task: str | None = None) -> None:
    """Have a model of the Hub here before it is loaded, and say what it is not made for. Other models are left alone.

    Raises:
        ModelError: it cannot be had, the user does not want it, or it is known to be of no use for the task.
    """
    from restorer.models.hub.references import parse

    if task is not None:
        check_card(model, task)
    if Path(model).exists() or (reference := parse(model)) is None:
        return
    pull(reference, reporter)
    if (card := reference.card) is not None and not card.general:
        reporter.warn(f"{card.name} has seen nothing but {card.domain}; on other pictures it invents what it knows")


def check_card(model: str, task: str) -> None:
    """Refuse a model of which the catalogue knows that it does not serve a task, before it is downloaded.

    Raises:
        ModelError: saying what it is for.
    """
    from restorer.models.hub.references import parse

    if not Path(model).exists() and (reference := parse(model)) is not None and reference.card is not None:
        check_task(task, reference.card.task, reference.card.name)


def pull(reference: Reference, reporter: Reporter, *, yes: bool = False) -> Path:
    """The folder or file of a model in the cache, downloaded under the user's eyes if it is not there."""
    from restorer.models.hub.download import fetch

    with _download_bar(reporter) as on_bytes:
        return fetch(reference, lambda plan: accept(plan, reporter, yes=yes), on_bytes)


def on_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def accept(plan: Plan, reporter: Reporter, *, yes: bool = False) -> None:
    """Say what is about to be downloaded, and ask where it is much.

    Raises:
        ModelError: the answer is no.
    """
    licence = f" · licence {plan.licence}" if plan.licence else " · no licence stated"
    files = f"{len(plan.missing)} file{'' if len(plan.missing) == 1 else 's'}"
    reporter.say(f"download {plan.reference} · {files} · {human_bytes(plan.bytes)}{licence}")
    large = plan.bytes > ASK_ABOVE and not yes and on_terminal()
    if large and not typer.confirm(f"Download {human_bytes(plan.bytes)}?", default=True, err=True):
        raise ModelError(f"{plan.reference} was not downloaded", "restore models list tells smaller ones")


@contextmanager
def _download_bar(reporter: Reporter) -> Iterator[OnBytes | None]:
    """What `models.hub.download.fetch` takes: a bar for each file on a terminal, now and then a line elsewhere."""
    if reporter.quiet:
        yield None
    elif not reporter.lively:
        yield _Lines(reporter)
    else:
        with _bars(reporter) as on_bytes:
            yield on_bytes


@contextmanager
def _bars(reporter: Reporter) -> Iterator[OnBytes]:
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
            progress.start()  # not before: until then a question may be asked
            tasks[name] = progress.add_task(escape(name), total=total)
        progress.update(tasks[name], completed=done, total=total)

    try:
        yield on_bytes
    finally:
        progress.stop()


class _Lines:
    """A line of progress every ten seconds, for logs."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._said = reporter, time.monotonic()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._said > PLAIN_SECONDS:
            self._said = now
            of = f" of {human_bytes(total)}" if total else ""
            self._reporter.say(f"{name}: {human_bytes(done)}{of}")
