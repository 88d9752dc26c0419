"""The verb `doctor`: a report on the installation, on how a result was made, and on what a picture holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from restorer.cli.options import JsonReport
from restorer.cli.terminal.reporter import Reporter
from restorer.cli.terminal.streams import print_line

if TYPE_CHECKING:
    from restorer.folders.provenance import Record

__all__ = ["register"]


def _doctor(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Picture: how it was made if restore has written it, else what noise and outliers it has",
            show_default=False,
        ),
    ] = None,
    json: JsonReport = False,
) -> None:
    """Report on this installation, on how a result was made, or on the noise of a picture.

    For a result, the command that makes it again is printed to standard output.

    restore doctor  ·  restore doctor img_denoised.png  ·  restore doctor img.jpg
    """
    from restorer.doctor import examine

    reporter = Reporter(as_json=json)
    if file is not None:
        _report_picture(file, reporter)
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


def _report_picture(file: Path, reporter: Reporter) -> None:
    """Report how a result was made, or what noise and what compression a picture without a record has.

    Raises:
        PictureError: The file cannot be read.
    """
    from restorer.folders.provenance import parse_record
    from restorer.images.files import load
    from restorer.images.picture import RECORD

    picture = load(file)
    record = parse_record(picture.text.get(RECORD, ""))
    if record is not None:
        _report_record(file, record, reporter)
        return
    from restorer.doctor import examine_picture

    noise, outliers, jpeg = examine_picture(picture)
    if reporter.as_json:
        size = {"width": picture.width, "height": picture.height}
        seen = {"noise": noise, "outliers": outliers, "jpeg": jpeg}
        found = {name: value.to_dict() for name, value in seen.items() if value is not None}
        reporter.emit({"event": "doctor", "file": str(file), **size, **found})
        return
    reporter.say(f"{file} has no record of restore; this is what can be seen in it:")
    print("; ".join(found.describe() for found in (noise, outliers, jpeg) if found is not None))


def _report_record(file: Path, record: Record, reporter: Reporter) -> None:
    """Report how a result was made, and print the command that makes it again to standard output."""
    from dataclasses import asdict

    from restorer.folders.record_facts import record_facts

    if reporter.as_json:
        reporter.emit({"event": "doctor", "file": str(file), **asdict(record), "command_line": record.command_line()})
        return
    for label, text in record_facts(record):
        reporter.say(f"{label:>14}  {text}")
    print_line(record.command_line())


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
