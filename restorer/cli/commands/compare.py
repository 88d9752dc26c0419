"""The verb `compare`: figures of how much pictures differ, and drawings of the differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restorer.cli.commands.comparing_maps import (
    check_map_path,
    find_map_of,
    line_of_maps,
    mean_of_maps,
    read_map_of,
)
from restorer.cli.options import INTERFACE, OUTPUT, JsonReport, Overwrite, Quiet
from restorer.cli.terminal.reporter import Reporter, exit_code_for, human_bytes
from restorer.errors import OutputError, PictureError, RestorerError, UsageError
from restorer.folders.paths import combined_exit_code

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from restorer.cli.commands.comparing_maps import MapOf
    from restorer.cli.report_page.content import Report
    from restorer.evaluation.compare import Difference
    from restorer.evaluation.map_figures import MapFigures

__all__ = ["register"]

MAP_MODE = "uncertainty"
MODES = ("side", "split", "diff", MAP_MODE)
MAX_SHEET_ROWS = 40
PAGE_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class _Targets:
    """The files that the command writes.

    Args:
        output: The drawing.
        html: The page.
        overwrite: Whether existing files are replaced.
    """

    output: Path | None
    html: Path | None
    overwrite: bool


def _compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="First picture, or folder of pictures")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Second picture, or folder of pictures")],
    reference: Annotated[
        Path | None,
        typer.Argument(
            metavar="REF", help="Reference picture or folder that A and B are both compared with", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the drawing to this picture file",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="NAME",
            help="What to draw: side (all pictures in a row), split (the left half of A beside the right half of B), "
            "diff (the difference of A and B, five times amplified) or uncertainty (the map over the result)",
            rich_help_panel=OUTPUT,
        ),
    ] = "side",
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write one page for browsers with the pictures, a slider, their difference, figures and records",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    uncertainty: Annotated[
        Path | None,
        typer.Option(
            "--uncertainty",
            metavar="PATH",
            help="Also show this map of the uncertainty of the result, and how right it is against REF; for folders, a "
            "folder of maps",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    perception: Annotated[
        bool,
        typer.Option(
            "--perception",
            help="Also measure what people see: features of networks, gradients, texture (needs the extra `measure`)",
        ),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Draw the comparison in the terminal", rich_help_panel=INTERFACE)
    ] = False,
    json: JsonReport = False,
    quiet: Quiet = False,
) -> None:
    """Measure how much two pictures differ; with -o, --html or --show, draw the comparison.

    Two folders are compared picture by picture, paired by file name: a contact sheet, or a gallery on the page.

    restore compare noisy.png clean.png -o both.png  ·  restore compare a.png b.png truth.png --html report.html

    restore compare noisy.png result.png --uncertainty map.png --html report.html
    """
    reporter = Reporter(quiet=quiet, as_json=json)
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r}", f"choose one of {', '.join(MODES)}")
    paths = [path for path in (a, b, reference) if path is not None]
    for path in paths:
        if not path.exists():
            raise PictureError(f"{path} does not exist", "check the path")
    are_folders = {path.is_dir() for path in paths}
    if len(are_folders) > 1:
        raise UsageError("a picture and a folder cannot be compared", "name only pictures, or only folders")
    if uncertainty is not None:
        check_map_path(uncertainty, for_folders=True in are_folders)
    if mode == MAP_MODE and uncertainty is None:
        raise UsageError(f"--mode {MAP_MODE} draws a map, and none is named", "name it with --uncertainty")
    targets = _check_targets(output, html, [*paths, *([] if uncertainty is None else [uncertainty])], overwrite)
    if perception:
        from restorer.evaluation.perception import check_extra

        check_extra()
    if are_folders == {True}:
        if mode != "side":
            raise UsageError(f"--mode {mode} does not apply to folders", "leave --mode out to draw a contact sheet")
        _compare_folders(a, b, reference, targets, reporter, maps=uncertainty, show=show, perception=perception)
    else:
        _compare_pictures(paths, targets, mode, reporter, map_path=uncertainty, show=show, perception=perception)


def _check_targets(output: Path | None, html: Path | None, paths: list[Path], overwrite: bool) -> _Targets:
    """Check the files to write before anything is read.

    Raises:
        UsageError: The page has the name of something else.
        OutputError: A file exists, is one of the compared pictures, or has no folder.
    """
    for option, target in (("-o", output), ("--html", html)):
        if target is None:
            continue
        if target.resolve() in [path.resolve() for path in paths]:
            raise OutputError(f"{target} is one of the compared pictures", f"name another file with {option}")
        if target.exists() and not overwrite:
            raise OutputError(f"{target} exists", f"add --overwrite, or name another file with {option}")
    if html is not None:
        if html.suffix.lower() not in PAGE_SUFFIXES:
            raise UsageError(f"{html} is not the name of a page", "end the name of the page in .html")
        if not html.parent.is_dir():
            raise OutputError(f"{html}: the folder {html.parent} does not exist", "create it first")
        if html.is_dir():
            raise OutputError(f"{html} is a folder", "name a file in it")
    return _Targets(output, html, overwrite)


def _compare_pictures(
    paths: list[Path],
    targets: _Targets,
    mode: str,
    reporter: Reporter,
    *,
    map_path: Path | None,
    show: bool,
    perception: bool,
) -> None:
    """Compare A with B, or both with a reference; `paths` holds two or three pictures in this order."""
    from restorer.evaluation.compare import colour_of, comparison_image, differences, match_sizes
    from restorer.images.files import load

    files = [load(path) for path in paths]
    pictures = [colour_of(file) for file in files]
    measured = differences(pictures[0], pictures[1], *pictures[2:], perception=perception)
    map_of = None if map_path is None else read_map_of(map_path, paths, files, pictures)
    _report_figures(paths, measured, reporter, map_of=map_of)
    names = [f"{'ABR'[i]} {path.name}" for i, path in enumerate(paths)]
    if targets.html is not None:
        match_sizes(pictures)
    if targets.output is not None or show:
        if mode == MAP_MODE and map_of is not None:
            image = map_of.draw(pictures)
        else:
            image = comparison_image(mode, dict(zip(names, pictures, strict=True)), measured)
        if targets.output is not None:
            _save(image, targets.output, targets.overwrite, reporter)
        if show:
            _show([image] if mode != "side" else [_to_image(x) for x in pictures], reporter)
    if targets.html is not None:
        from restorer.cli.report_page.content import Report, display_names

        title = " and ".join(display_names(paths)[:2])
        report = Report(title)
        with reporter.working("writing the page"):
            report.add(title, paths, files, measured, map_of)
        _save_page(report, targets, reporter)


def _compare_folders(
    a: Path,
    b: Path,
    reference: Path | None,
    targets: _Targets,
    reporter: Reporter,
    *,
    maps: Path | None,
    show: bool,
    perception: bool,
) -> None:
    """Compare two folders picture by picture; a pair that cannot be compared is reported and left out.

    Raises:
        PictureError: No two pictures have matching names.
        typer.Exit: Some pairs could not be compared.
    """
    from restorer.cli.report_page.content import Report, display_names
    from restorer.evaluation.compare import (
        colour_of,
        comparison_sheet,
        differences,
        match_sizes,
        pair_files,
        sheet_row,
    )
    from restorer.images.files import load

    folders = [path for path in (a, b, reference) if path is not None]
    rows: list[tuple[str, list[Tensor]]] = []
    codes: list[int] = []
    all_measured: list[tuple[Difference | None, Difference | None]] = []
    map_figures: list[MapFigures] = []
    pairs = pair_files(a, b, reference)
    title = " and ".join(display_names([folder.absolute() for folder in folders[:2]]))
    report = Report(title, len(pairs), is_gallery=True)
    for paths in pairs:
        name = str(paths[0].relative_to(a))
        try:
            files = [load(path) for path in paths]
            pictures = [colour_of(file) for file in files]
            measured = differences(pictures[0], pictures[1], *pictures[2:], perception=perception)
            if targets.html is not None or targets.output is not None or show:
                match_sizes(pictures)
            map_of = None if maps is None else find_map_of(maps, a, b, paths, files, pictures)
            if targets.html is not None:
                report.add(name, paths, files, measured, map_of)
        except RestorerError as error:
            codes.append(exit_code_for(error))
            reporter.fail(error, str(paths[0]))
            report.skip(f"{name} is left out: {_without_folders(str(error), paths)}")
            continue
        _report_figures(list(paths), measured, reporter, brief=True, map_of=map_of)
        all_measured.append(measured)
        map_figures += [] if map_of is None else [map_of.figures]
        if len(rows) < MAX_SHEET_ROWS and (targets.output is not None or show):
            figures = "   ".join(f"{'AB'[i]} {difference}" for i, difference in enumerate(measured) if difference)
            rows.append((f"{name}   {figures}", sheet_row(pictures)))
    report.summary = _report_means(all_measured, None if maps is None else map_figures, reporter)
    if rows:
        image = comparison_sheet([str(folder) for folder in folders], rows)
        if targets.output is not None:
            _save(image, targets.output, targets.overwrite, reporter)
        if show:
            _show([image], reporter)
    if targets.html is not None and report.pairs:
        _save_page(report, targets, reporter)
    if code := combined_exit_code(codes, len(all_measured)):
        raise typer.Exit(code)


def _without_folders(text: str, paths: Sequence[Path]) -> str:
    """Return a message with the names of files in place of their paths, for a page that others may read."""
    for path in paths:
        text = text.replace(str(path), path.name)
    return text


def _report_figures(
    paths: list[Path],
    measured: tuple[Difference | None, Difference | None],
    reporter: Reporter,
    *,
    brief: bool = False,
    map_of: MapOf | None = None,
) -> None:
    """Report the figures of one pair of pictures.

    Args:
        paths: Pictures A and B, and the reference if there is one.
        measured: Differences as `restorer.evaluation.compare.differences` returns them.
        reporter: Receives the lines and the JSON record.
        brief: Leave out the mean and the largest difference.
        map_of: The map of the uncertainty; None if there is none.
    """
    from restorer.evaluation.compare import figure_lines

    named = {"a": paths[0], "b": paths[1], "reference": paths[2] if len(paths) > 2 else None}
    figures = {name: difference and difference.to_dict() for name, difference in zip("ab", measured, strict=True)}
    reporter.emit(
        {
            "event": "result",
            "command": "compare",
            **{name: str(path) if path else None for name, path in named.items()},
            "figures": figures,
            **({} if map_of is None else {"uncertainty": map_of.to_dict()}),
        }
    )
    for line in (*figure_lines(paths, measured, brief=brief), *([] if map_of is None else map_of.lines)):
        reporter.say(line)
    if map_of is not None and map_of.note:
        reporter.warn(map_of.note)


def _report_means(
    measured: list[tuple[Difference | None, Difference | None]],
    map_figures: list[MapFigures] | None,
    reporter: Reporter,
) -> list[str]:
    """Report the means over all pairs, and return the lines that say them.

    They are those of the PSNR, of what people see, and of the maps. Pairs of equal pictures, whose PSNR is infinite, do
    not count for it. `map_figures` is None if there are no maps.
    """
    from restorer.evaluation.perception import mean_perception

    means: dict[str, Any] = {}
    lines = []
    for i, name in enumerate("ab"):
        finite = [d for pair in measured if (d := pair[i]) is not None and math.isfinite(d.psnr)]
        if finite:
            means[name] = {"psnr": round(sum(d.psnr for d in finite) / len(finite), 4), "pictures": len(finite)}
            lines.append(f"{name.upper()}: {means[name]['psnr']:.2f} dB, the mean of {len(finite)}")
        seen = [d.perception for pair in measured if (d := pair[i]) is not None and d.perception is not None]
        if seen:
            mean = mean_perception(seen)
            means[name] = {**means.get(name, {"pictures": len(seen)}), **mean.to_dict()}
            lines.append(f"{name.upper()}: {mean}, the mean of {len(seen)}")
    of_maps: dict[str, Any] = {}
    if map_figures is not None:
        of_maps["uncertainty"] = mean_of_maps(map_figures)
        lines.append(line_of_maps(map_figures, len(measured)))
    for line in lines:
        reporter.say(line)
    reporter.emit({"event": "summary", "command": "compare", "ok": len(measured), "means": means, **of_maps})
    return lines


def _to_image(x: Tensor) -> Image.Image:
    from restorer.evaluation.contact_sheet import to_image

    return to_image(x)


def _save(image: Image.Image, output: Path, overwrite: bool, reporter: Reporter) -> None:
    from restorer.images.files import from_pil
    from restorer.images.writing import save

    for note in save(from_pil(image), output, overwrite=overwrite):
        reporter.warn(note)
    reporter.say(f"wrote {output} · {image.width}x{image.height}", style="green")
    if not reporter.as_json:
        reporter.result(str(output), {})


def _save_page(report: Report, targets: _Targets, reporter: Reporter) -> None:
    from restorer.cli.report_page.page import save_page

    assert targets.html is not None
    size = save_page(report, targets.html, overwrite=targets.overwrite)
    reporter.say(f"wrote {targets.html} · {human_bytes(size)}", style="green")
    if not reporter.as_json:
        reporter.result(str(targets.html), {})


def _show(images: list[Image.Image], reporter: Reporter) -> None:
    from restorer.cli.terminal.showing import show

    if not reporter.quiet and not show(reporter.console, images):
        reporter.warn("the comparison is not drawn, because this is not a terminal with colours")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("compare", no_args_is_help=True)(_compare)
