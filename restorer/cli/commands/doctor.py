"""The verb `doctor`: what an installation has, and how a result was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from restorer.cli.options import INTERFACE
from restorer.cli.terminal.reporter import Reporter
from restorer.errors import PictureError

if TYPE_CHECKING:
    pass


__all__ = ["register"]

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout", rich_help_panel=INTERFACE)]


def _doctor(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A result of restore", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Say what this installation has; of a result, how it was made and the command that makes it again.

    restore doctor  ·  restore doctor img_denoised.png
    """
    from restorer.doctor import examine

    reporter = Reporter(as_json=json)
    if file is not None:
        _tell_record(file, reporter)
        return
    findings = examine()
    if json:
        reporter.record({"event": "doctor", **findings})
        return
    names = {name: name.replace("_", " ") for name in findings}
    room = max(map(len, names.values())) + 2
    console = Console(emoji=False, highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in findings.items():
        if console.is_terminal:
            table.add_row(names[name], escape(_text(value)))
        else:  # one line each, to be searched and sent
            print(f"{names[name]:{room}}{_text(value)}")
    console.print(table, end="")


def _tell_record(file: Path, reporter: Reporter) -> None:
    """How a result was made, and on standard output the command that makes it again."""
    from dataclasses import asdict

    from restorer.folders.provenance import parse
    from restorer.images.files import load
    from restorer.images.picture import RECORD

    text = load(file).text.get(RECORD, "")
    record = parse(text)
    if record is None:
        raise PictureError(f"{file} carries no record of how it was made", "only results of restore do")
    if reporter.as_json:
        reporter.record({"event": "doctor", "file": str(file), **asdict(record), "command_line": record.command_line()})
        return
    known = {**asdict(record), **record.options}
    for name in ("version", "command", "source", "source_sha256", "model", "model_sha256", *record.options):
        if known[name] is not None:
            reporter.say(f"{name.replace('_', ' '):>14}  {known[name]}")
    where = f" with {record.threads} threads" if record.device == "cpu" else ""
    if record.batch > 1:
        where += f", in a batch of {record.batch} pictures: by itself it may come out otherwise in the last digits"
    reporter.say(f"{'computed':>14}  on {record.device} in {record.precision}{where}")
    print(record.command_line())


def _text(value: Any) -> str:
    """A finding in words; numbers with a point are GB (`diagnosis.examine`)."""
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
