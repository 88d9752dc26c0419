"""What the ways to evaluate a prior share: the model, the progress over pictures, what failed, and the summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from restorer.cli.terminal.downloads import obtain
from restorer.cli.terminal.reporter import PLAIN_SECONDS, Reporter, code_of
from restorer.errors import RestorerError
from restorer.folders.options import Options
from restorer.folders.paths import exit_code_of

if TYPE_CHECKING:
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior

__all__ = ["PIPED_WIDTH", "Tally", "describe", "load", "progress", "show"]

PIPED_WIDTH = 120  # characters of a table that no terminal shows


class Tally:
    """How many pictures were measured, how many could not be, and since when."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter, self.ok = reporter, 0
        self.codes: list[int] = []
        self._began = time.monotonic()

    def failed(self, path: Path, error: RestorerError) -> None:
        """A picture that cannot be read or is of no use: it is said, and left out."""
        code = code_of(error)
        self.reporter.fail(error, str(path))
        self.codes.append(code)
        record = {"event": "result", "command": "evaluate", "input": str(path), "status": "failed"}
        self.reporter.record({**record, "code": code, "error": str(error)})

    def finish(self, **more: Any) -> int:
        """The summary, and the exit code."""
        code, seconds = exit_code_of(self.codes, self.ok), time.monotonic() - self._began
        counts = {"ok": self.ok, "failed": len(self.codes)}
        end = {"seconds": round(seconds, 2), "exit_code": code}
        self.reporter.record({"event": "summary", "command": "evaluate", **counts, **more, **end})
        left_out = f", {len(self.codes)} left out" if self.codes else ""
        self.reporter.say(f"{self.ok} picture{'' if self.ok == 1 else 's'}{left_out} in {seconds:.1f} s")
        return code


def load(options: Options, reporter: Reporter) -> UNetPrior | Tiled:
    """The prior.

    Raises:
        ModelError: it cannot be had, or works on latents.
    """
    from restorer.cli.restoring.run import load_prior_of

    obtain(options.model, reporter, options.command)
    with reporter.working("loading PyTorch and the model"):
        return load_prior_of(options)


def describe(options: Options, prior: UNetPrior | Tiled) -> dict[str, Any]:
    """What of the run decides the figures, for the summary."""
    from restorer.models.load import identity, precision_name

    model = identity(options.model)
    return {"model": model, "device": str(prior.device), "precision": precision_name(prior), "seed": options.seed}


def show(title: str, table: Table, caption: str, reporter: Reporter) -> None:
    """A table to standard output, or beside it where JSON goes there."""
    console = reporter.console if reporter.as_json else Console(emoji=False)
    if not console.is_terminal:
        console = Console(file=console.file, width=PIPED_WIDTH, emoji=False)
    if not (reporter.as_json and reporter.quiet):
        console.print(escape(title), style="bold", highlight=False)
        console.print(table)
        console.print(escape(caption), style="dim", highlight=False)


@contextmanager
def progress(reporter: Reporter, label: str, total: int) -> Iterator[Callable[[float, str], None]]:
    """A bar, or now and then a line. Gives a function of (pictures done, with a fraction; words that say where)."""
    console = reporter.console
    if reporter.quiet or reporter.lively:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[where]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left[/]"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True, expand=True, disable=reporter.quiet) as bar:
            task = bar.add_task(escape(label), total=total, where="")
            yield lambda done, where: bar.update(task, completed=done, where=escape(where))
        return
    began = said = time.monotonic()
    tenth = 0

    def say(done: float, where: str) -> None:
        nonlocal said, tenth
        now = time.monotonic()
        if 0 < done < total and (int(10 * done / total) > tenth or now - said > PLAIN_SECONDS):
            tenth, said = int(10 * done / total), now
            left = (now - began) / done * (total - done)
            reporter.say(f"{label}: {where}, {100 * done / total:.0f} %, {left:.0f} s left")

    yield say
