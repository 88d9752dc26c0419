"""Common parts of the measuring commands: loading the prior, progress over pictures, failures, tables, summary."""

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

from restorer.cli.terminal.downloads import ensure_downloaded
from restorer.cli.terminal.printable import printable
from restorer.cli.terminal.reporter import LINE_INTERVAL, Reporter, exit_code_for
from restorer.errors import RestorerError
from restorer.folders.options import Options
from restorer.folders.paths import combined_exit_code

if TYPE_CHECKING:
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior

__all__ = ["PIPED_WIDTH", "Tally", "describe_run", "obtain_prior", "print_table", "progress"]

PIPED_WIDTH = 120  # width in characters of a table that goes to a pipe or a file


class Tally:
    """Counts of the pictures that were measured and of those that failed, and the time of the run.

    Attributes:
        ok: Number of pictures that were measured.
        codes: Exit code of each failure.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter, self.ok = reporter, 0
        self.codes: list[int] = []
        self._began = time.monotonic()

    def add_failure(self, path: Path, error: RestorerError) -> None:
        """Report and count a picture that cannot be measured and is left out."""
        code = exit_code_for(error)
        self.reporter.fail(error, str(path))
        self.codes.append(code)
        record = {"event": "result", "command": "evaluate", "input": str(path), "status": "failed"}
        self.reporter.emit({**record, "code": code, "error": str(error)})

    def finish(self, **fields: Any) -> int:
        """Report the summary of the run and return the exit code.

        Args:
            fields: Further fields of the JSON summary.
        """
        code, seconds = combined_exit_code(self.codes, self.ok), time.monotonic() - self._began
        counts = {"ok": self.ok, "failed": len(self.codes)}
        end = {"seconds": round(seconds, 2), "exit_code": code}
        self.reporter.emit({"event": "summary", "command": "evaluate", **counts, **fields, **end})
        left_out = f", {len(self.codes)} left out" if self.codes else ""
        self.reporter.say(f"{self.ok} picture{'' if self.ok == 1 else 's'}{left_out} in {seconds:.1f} s")
        return code


def obtain_prior(options: Options, reporter: Reporter) -> UNetPrior | Tiled:
    """Return the prior that the options name, downloading it first if necessary.

    Raises:
        ModelError: The prior cannot be obtained, or works on latents.
    """
    from restorer.folders.opening import load_requested_prior

    ensure_downloaded(options.model, reporter, options.command)
    with reporter.working("loading PyTorch and the model"):
        return load_requested_prior(options)


def describe_run(options: Options, prior: UNetPrior | Tiled) -> dict[str, Any]:
    """Return the model, the device, the precision and the seed, on which the figures depend, for the summary."""
    from restorer.models.load import identity, precision_name

    model = identity(options.model)
    return {"model": model, "device": str(prior.device), "precision": precision_name(prior), "seed": options.seed}


def print_table(title: str, table: Table, caption: str, reporter: Reporter) -> None:
    """Print a table to standard output, or to standard error if JSON goes to standard output."""
    console = reporter.console if reporter.as_json else Console(emoji=False)
    if not console.is_terminal:
        console = Console(file=console.file, width=PIPED_WIDTH, emoji=False)
    if not (reporter.as_json and reporter.quiet):
        console.print(escape(title), style="bold", highlight=False)
        console.print(table)
        console.print(escape(caption), style="dim", highlight=False)


@contextmanager
def progress(reporter: Reporter, label: str, total: int) -> Iterator[Callable[[float, str], None]]:
    """Show progress over the pictures: a bar on a terminal, else a line from time to time.

    Args:
        reporter: Decides whether and where the progress is shown.
        label: Words in front of the bar.
        total: Number of pictures.

    Yields:
        A function to be called with the number of pictures done, which may have a fraction, and with words that
        describe the current position.
    """
    console = reporter.console
    if reporter.quiet or reporter.is_live:
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
            yield lambda done, where: bar.update(task, completed=done, where=escape(printable(where)))
        return
    began = last_printed = time.monotonic()
    tenth = 0

    def print_line(done: float, where: str) -> None:
        nonlocal last_printed, tenth
        now = time.monotonic()
        if 0 < done < total and (int(10 * done / total) > tenth or now - last_printed > LINE_INTERVAL):
            tenth, last_printed = int(10 * done / total), now
            left = (now - began) / done * (total - done)
            reporter.say(f"{label}: {where}, {100 * done / total:.0f} %, {left:.0f} s left")

    yield print_line
