"""The verbs `manifest ...`: work on the logs of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from restorer.cli.options import OUTPUT, JsonReport, Overwrite, Quiet
from restorer.cli.terminal.reporter import Reporter

__all__ = ["manifest", "register"]

manifest = typer.Typer(name="manifest", help="Work on the logs of runs over folders.", no_args_is_help=True)


@manifest.callback()
def _manifest() -> None:
    """Work on the logs of runs over folders."""


@manifest.command("merge", no_args_is_help=True)
def _merge(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG", help="Logs to merge, for instance those of shards")],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="LOG",
            help="Where to write the merged log",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
    overwrite: Overwrite = False,
    json: JsonReport = False,
    quiet: Quiet = False,
) -> None:
    """Merge the logs of shards into one, from which --resume continues.

    restore manifest merge out/.restorer-*-of-8.jsonl -o out/.restorer.jsonl
    """
    from restorer.folders.merge import merge_logs

    reporter = Reporter(quiet=quiet, as_json=json)
    merged = merge_logs(logs, output, overwrite=overwrite)
    counts = {"ok": merged.ok, "failed": merged.failed, "unfinished": merged.unfinished}
    logs_read = f"{merged.logs} log{'' if merged.logs == 1 else 's'}"
    reporter.say(f"merged {logs_read}: {merged.ok} done, {merged.failed} failed, {merged.unfinished} unfinished")
    event = {"event": "merged", "command": "manifest merge", "output": str(output), "logs": merged.logs, **counts}
    reporter.result(str(output), event)


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.add_typer(manifest, name="manifest")
