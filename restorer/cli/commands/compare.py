"""The verb `compare`: figures of how much pictures differ, and drawings of the differences."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restorer.cli.options import INTERFACE, OUTPUT, JsonReport, Overwrite, Quiet
from restorer.cli.terminal.reporter import Reporter, exit_code_for
from restorer.errors import OutputError, PictureError, RestorerError, UsageError
from restorer.folders.paths import combined_exit_code

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from restorer.evaluation.compare import Difference

__all__ = ["register"]

MODES = ("side", "split", "diff")
MAX_SHEET_ROWS = 40


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
            help="What to draw: side (all pictures in a row), split (the left half of A beside the right half of B) or "
            "diff (the difference of A and B, five times amplified)",
            rich_help_panel=OUTPUT,
        ),
    ] = "side",
    overwrite: Overwrite = False,
    show: Annotated[
        bool, typer.Option("--show", help="Draw the comparison in the terminal", rich_help_panel=INTERFACE)
    ] = False,
    json: JsonReport = False,
    quiet: Quiet = False,
) -> None:
    """Measure how much two pictures differ; with -o or --show, draw the comparison.

    Two folders are compared picture by picture, paired by file name, and drawn as a contact sheet.

    restore compare noisy.png clean.png -o both.png  ·  restore compare a.png b.png truth.png --mode diff -o diff.png
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
    if output is not None and output.resolve() in [path.resolve() for path in paths]:
        raise OutputError(f"{output} is one of the compared pictures", "name another file with -o")
    if output is not None and output.exists() and not overwrite:
        raise OutputError(f"{output} exists", "add --overwrite, or name another file with -o")
    if are_folders == {True}:
        if mode != "side":
            raise UsageError(f"--mode {mode} does not apply to folders", "leave --mode out to draw a contact sheet")
        _compare_folders(a, b, reference, output, overwrite, reporter, show=show)
    else:
        _compare_pictures(paths, output, mode, overwrite, reporter, show=show)


def _compare_pictures(
    paths: list[Path], output: Path | None, mode: str, overwrite: bool, reporter: Reporter, *, show: bool
) -> None:
    """Compare A with B, or both with a reference; `paths` holds two or three pictures in this order."""
    from restorer.evaluation.compare import comparison_image, differences, read_colour

    pictures = [read_colour(path) for path in paths]
    measured = differences(pictures[0], pictures[1], *pictures[2:])
    _report_figures(paths, measured, reporter)
    names = [f"{'ABR'[i]} {path.name}" for i, path in enumerate(paths)]
    if output is not None or show:
        image = comparison_image(mode, dict(zip(names, pictures, strict=True)), measured)
        if output is not None:
            _save(image, output, overwrite, reporter)
        if show:
            _show([image] if mode != "side" else [_to_image(x) for x in pictures], reporter)


def _compare_folders(
    a: Path, b: Path, reference: Path | None, output: Path | None, overwrite: bool, reporter: Reporter, *, show: bool
) -> None:
    """Compare two folders picture by picture; a pair that cannot be compared is reported and left out.

    Raises:
        PictureError: No two pictures have matching names.
        typer.Exit: Some pairs could not be compared.
    """
    from restorer.evaluation.compare import comparison_sheet, differences, pair_files, read_colour

    rows: list[tuple[str, list[Tensor]]] = []
    codes: list[int] = []
    all_measured: list[tuple[Difference | None, Difference | None]] = []
    for paths in pair_files(a, b, reference):
        try:
            pictures = [read_colour(path) for path in paths]
            measured = differences(pictures[0], pictures[1], *pictures[2:])
        except RestorerError as error:
            codes.append(exit_code_for(error))
            reporter.fail(error, str(paths[0]))
            continue
        _report_figures(list(paths), measured, reporter, brief=True)
        all_measured.append(measured)
        if len(rows) < MAX_SHEET_ROWS and (output is not None or show):
            figures = "   ".join(f"{'AB'[i]} {difference}" for i, difference in enumerate(measured) if difference)
            rows.append((f"{paths[0].relative_to(a)}   {figures}", pictures))
    _report_means(all_measured, reporter)
    if rows:
        image = comparison_sheet([str(path) for path in (a, b, reference) if path is not None], rows)
        if output is not None:
            _save(image, output, overwrite, reporter)
        if show:
            _show([image], reporter)
    if code := combined_exit_code(codes, len(all_measured)):
        raise typer.Exit(code)


def _report_figures(
    paths: list[Path],
    measured: tuple[Difference | None, Difference | None],
    reporter: Reporter,
    *,
    brief: bool = False,
) -> None:
    """Report the figures of one pair of pictures.

    Args:
        paths: Pictures A and B, and the reference if there is one.
        measured: Differences as `restorer.evaluation.compare.differences` returns them.
        reporter: Receives the lines and the JSON record.
        brief: Leave out the mean and the largest difference.
    """
    named = {"a": paths[0], "b": paths[1], "reference": paths[2] if len(paths) > 2 else None}
    figures = {name: _as_record(difference) for name, difference in zip(("a", "b"), measured, strict=True)}
    reporter.emit(
        {
            "event": "result",
            "command": "compare",
            **{name: str(path) if path else None for name, path in named.items()},
            "figures": figures,
        }
    )
    against = "A" if len(paths) == 2 else paths[2].name
    for name, path, difference in zip("AB", paths, measured, strict=False):
        if difference is not None:
            line = f"{name} {path.name} to {against}: {difference}"
            if not brief and difference.largest:
                line += f", off by {difference.mean:.2f} on average, {difference.largest:.0f} at most (of 255)"
            reporter.say(line)
        elif len(paths) > 2 or name == "B":
            reporter.say(f"{name} {path.name} to {against}: no figures, because the sizes differ")


def _report_means(measured: list[tuple[Difference | None, Difference | None]], reporter: Reporter) -> None:
    """Report the mean PSNR over all pairs; pairs of equal pictures, whose PSNR is infinite, do not count."""
    means: dict[str, Any] = {}
    for i, name in enumerate("ab"):
        finite = [d for pair in measured if (d := pair[i]) is not None and math.isfinite(d.psnr)]
        if finite:
            means[name] = {"psnr": round(sum(d.psnr for d in finite) / len(finite), 4), "pictures": len(finite)}
            reporter.say(f"{name.upper()}: {means[name]['psnr']:.2f} dB, the mean of {len(finite)}")
    reporter.emit({"event": "summary", "command": "compare", "ok": len(measured), "means": means})


def _as_record(difference: Difference | None) -> dict[str, Any] | None:
    """Return a difference as JSON values, with None for an infinite PSNR because JSON has no infinity."""
    if difference is None:
        return None
    return {
        "psnr": round(difference.psnr, 4) if math.isfinite(difference.psnr) else None,
        "ssim": difference.ssim and round(difference.ssim, 5),
        "mean": round(difference.mean, 4),
        "largest": round(difference.largest, 2),
    }


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


def _show(images: list[Image.Image], reporter: Reporter) -> None:
    from restorer.cli.terminal.half_blocks import show

    if not reporter.quiet and not show(reporter.console, images):
        reporter.warn("the comparison is not drawn, because this is not a terminal with colours")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("compare", no_args_is_help=True)(_compare)
