"""The verb `doctor`: a report on the installation, on how a result was made, and on what a picture or a map holds."""

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
    from restorer.evaluation.map_figures import MapFigures
    from restorer.folders.provenance import Record
    from restorer.images.uncertainty_map import UncertaintyMap

__all__ = ["register"]

MAP_FIELDS = ("level", "calibrated", "kind", "within", "mean", "largest", "off_by_20", "words", "bands")


def _doctor(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Picture or map: how it was made if restore has written it, else what noise and outliers it has",
            show_default=False,
        ),
    ] = None,
    json: JsonReport = False,
) -> None:
    """Report on this installation, on how a result was made, on a map of the uncertainty, or on the noise of a picture.

    For a result, the command that makes it again is printed to standard output.

    restore doctor  ·  restore doctor img_denoised.png  ·  restore doctor map.png  ·  restore doctor img.jpg
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
    """Report how a result was made, what a map says, or what noise and compression a picture without a record has.

    Raises:
        PictureError: The file cannot be read.
    """
    from restorer.doctor import examine_map
    from restorer.folders.provenance import parse_record
    from restorer.images.files import load
    from restorer.images.picture import RECORD

    if (examined := examine_map(file)) is not None:
        _report_map(file, *examined, reporter)
        return
    picture = load(file)
    text = picture.text.get(RECORD, "")
    record = parse_record(text)
    if record is not None:
        _report_record(file, record, text, reporter)
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


def _report_record(file: Path, record: Record, text: str, reporter: Reporter) -> None:
    """Report how a result was made, and print the command that makes it again to standard output.

    Args:
        file: The file of the result.
        record: Its record.
        text: The same as the file holds it.
        reporter: Receives the lines or the JSON object.
    """
    from dataclasses import asdict

    from restorer.doctor import map_beside
    from restorer.folders.record_facts import record_facts

    beside = map_beside(file, record.options.get("uncertainty"), text)
    if reporter.as_json:
        path = None if beside is None or beside.path is None else str(beside.path)
        of_result = {"file": str(file), **asdict(record), "command_line": record.command_line(), "map": path}
        reporter.emit({"event": "doctor", **of_result})
        return
    facts = record_facts(record) if beside is None else [*record_facts(record), ("map", beside.describe())]
    for label, value in facts:
        reporter.say(f"{label:>14}  {value}")
    print_line(record.command_line())


def _report_map(file: Path, found: UncertaintyMap, figures: MapFigures, reporter: Reporter) -> None:
    """Report what a map says, and print the command that makes it again to standard output if it is known."""
    from restorer.folders.provenance import parse_record
    from restorer.images.metadata import RECORD

    record, told = parse_record(found.text.get(RECORD, "")), figures.to_dict()
    height, width = found.half.shape
    command_line = None if record is None else record.command_line()
    if reporter.as_json:
        told = {name: value for name, value in told.items() if name in MAP_FIELDS}
        task = None if record is None else record.command
        of_map = {"file": str(file), "width": width, "height": height, "unit": found.unit, "task": task}
        reporter.emit({"event": "doctor", **of_map, **told, "command_line": command_line})
        return
    state = "calibrated" if found.calibrated else "not calibrated"
    bands = ", ".join(f"{band.label} {100 * band.share:.0f} %" for band in figures.bands if band.share)
    facts = {
        "map": f"the uncertainty of a result of {width}x{height} pixels",
        "task": "a copy of the input" if record is None else record.command,
        "unit": found.unit,
        "level": f"{100 * found.level:g} % of the values lie within their intervals, if the map is right",
        "calibration": f"{state} for {found.kind}" if found.kind else state,
        "pixels": figures.certainty.describe(),
        "levels": bands or "0",
    }
    for label, text in facts.items():
        reporter.say(f"{label:>14}  {text}")
    if command_line is not None:
        print_line(command_line)


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
