"""The verb `doctor`: a report on the installation, and on how a result was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from restorer.cli.options import JsonReport
from restorer.cli.terminal.reporter import Reporter
from restorer.errors import PictureError

__all__ = ["register"]


def _doctor(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Picture written by restore, to report how it was made", show_default=False
        ),
    ] = None,
    json: JsonReport = False,
) -> None:
    """Report on this installation, or on how a result was made.

    For a result, the command that makes it again is printed to standard output.

    restore doctor  ·  restore doctor img_denoised.png
    """
    from restorer.doctor import examine

    reporter = Reporter(as_json=json)
    if file is not None:
        _report_record(file, reporter)
        return
    findings = examine()
    if json:
        reporter.emit({"event": "doctor", **findings})
        return
    names = {name: name.replace("_", " ") for name in findings}
    name_width = max(map(len, names.values())) + 2
    console = Console(emoji=False, highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in findings.items():
        if console.is_terminal:
            table.add_row(names[name], escape(_text(value)))
        else:  # one line each, because such a report is searched with grep and sent in bug reports
            print(f"{names[name]:{name_width}}{_text(value)}")
    console.print(table, end="")


def _report_record(file: Path, reporter: Reporter) -> None:
    """Report how a result was made, and print the command that makes it again to standard output.

    Raises:
        PictureError: The file cannot be read, or it has no record.
    """
    from dataclasses import asdict

    from restorer.folders.provenance import parse_record
    from restorer.images.files import load
    from restorer.images.picture import RECORD

    text = load(file).text.get(RECORD, "")
    record = parse_record(text)
    if record is None:
        raise PictureError(f"{file} has no record of how it was made", "only results of restore have one")
    if reporter.as_json:
        reporter.emit({"event": "doctor", "file": str(file), **asdict(record), "command_line": record.command_line()})
        return
    values = {**asdict(record), **record.options}
    for name in ("version", "command", "source", "source_sha256", "model", "model_sha256", *record.options):
        if values[name] is not None:
            reporter.say(f"{name.replace('_', ' '):>14}  {values[name]}")
    circumstances = f" with {record.threads} threads" if record.device == "cpu" else ""
    if record.batch > 1:
        circumstances += (
            f", in a batch of {record.batch} pictures; made alone, the result may differ in the last digits"
        )
    reporter.say(f"{'computed':>14}  on {record.device} in {record.precision}{circumstances}")
    print(record.command_line())


def _text(value: Any) -> str:
    """Return a finding of `restorer.doctor.examine` in words; a float is a number of gigabytes."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.1f} GB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("doctor")(_doctor)
