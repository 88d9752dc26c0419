"""The verb `compare`: how far pictures are from each other, and pictures that show it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restorer.cli.options import INTERFACE, OUTPUT, Overwrite, Quiet
from restorer.cli.terminal.reporter import Reporter, code_of
from restorer.errors import OutputError, PictureError, RestorerError, UsageError
from restorer.folders.paths import exit_code_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from restorer.evaluation.compare import Difference

__all__ = ["register"]

MODES = ("side", "split", "diff")
MOST_ROWS = 40  # of a contact sheet

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout", rich_help_panel=INTERFACE)]


def _compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A picture, or a folder of them")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another")],
    reference: Annotated[
        Path | None, typer.Argument(metavar="REF", help="What both should be", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Picture to write", rich_help_panel=OUTPUT)
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", metavar="NAME", help=" | ".join(MODES), rich_help_panel=OUTPUT)
    ] = "side",
    overwrite: Overwrite = False,
    show: Annotated[bool, typer.Option("--show", help="Show it in the terminal", rich_help_panel=INTERFACE)] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how far pictures are from each other, and show it. Folders are paired by names, and make a contact sheet.

    restore compare noisy.png clean.png -o both.png  ·  restore compare a.png b.png truth.png --mode diff -o diff.png
    """
    reporter = Reporter(quiet=quiet, as_json=json)
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r}", f"one of {', '.join(MODES)}")
    places = [place for place in (a, b, reference) if place is not None]
    for place in places:
        if not place.exists():
            raise PictureError(f"{place} does not exist", "check the path")
    folders = {place.is_dir() for place in places}
    if len(folders) > 1:
        raise UsageError("a picture and a folder cannot be compared", "name pictures, or folders")
    if output is not None and output.resolve() in [place.resolve() for place in places]:
        raise OutputError(f"{output} is one of the pictures compared", "name another file with -o")
    if output is not None and output.exists() and not overwrite:
        raise OutputError(f"{output} exists", "add --overwrite, or name another file with -o")
    if folders == {True}:
        if mode != "side":
            raise UsageError(f"{mode} is for two pictures", "folders make a contact sheet")
        _compare_folders(a, b, reference, output, overwrite, reporter, show=show)
    else:
        _compare_pictures(places, output, mode, overwrite, reporter, show=show)


def _compare_pictures(
    places: list[Path], output: Path | None, mode: str, overwrite: bool, reporter: Reporter, *, show: bool
) -> None:
    from restorer.evaluation.compare import differences, picture_of, read

    pictures = [read(place) for place in places]
    found = differences(pictures[0], pictures[1], *pictures[2:])
    _tell(places, found, reporter)
    names = [f"{'ABR'[i]} {place.name}" for i, place in enumerate(places)]
    if output is not None or show:
        image = picture_of(mode, dict(zip(names, pictures, strict=True)), found)
        if output is not None:
            _save(image, output, overwrite, reporter)
        if show:
            _show([image] if mode != "side" else [_image(x) for x in pictures], reporter)


def _compare_folders(
    a: Path, b: Path, reference: Path | None, output: Path | None, overwrite: bool, reporter: Reporter, *, show: bool
) -> None:
    from restorer.evaluation.compare import differences, pairs, read, sheet_of

    rows: list[tuple[str, list[Tensor]]] = []
    codes: list[int] = []
    found_all: list[tuple[Difference | None, Difference | None]] = []
    for places in pairs(a, b, reference):
        try:
            pictures = [read(place) for place in places]
            found = differences(pictures[0], pictures[1], *pictures[2:])
        except RestorerError as error:
            codes.append(code_of(error))
            reporter.fail(error, str(places[0]))
            continue
        _tell(list(places), found, reporter, brief=True)
        found_all.append(found)
        if len(rows) < MOST_ROWS and (output is not None or show):
            said = "   ".join(f"{'AB'[i]} {d}" for i, d in enumerate(found) if d)
            rows.append((f"{places[0].relative_to(a)}   {said}", pictures))
    _tell_means(found_all, reporter)
    if rows:
        image = sheet_of([str(place) for place in (a, b, reference) if place is not None], rows)
        if output is not None:
            _save(image, output, overwrite, reporter)
        if show:
            _show([image], reporter)
    if code := exit_code_of(codes, len(found_all)):
        raise typer.Exit(code)


def _tell(
    places: list[Path], found: tuple[Difference | None, Difference | None], reporter: Reporter, *, brief: bool = False
) -> None:
    """The figures of one pair."""
    named = {"a": places[0], "b": places[1], "reference": places[2] if len(places) > 2 else None}
    figures = {name: _plain(d) for name, d in zip(("a", "b"), found, strict=True)}
    reporter.record(
        {
            "event": "result",
            "command": "compare",
            **{k: str(v) if v else None for k, v in named.items()},
            "figures": figures,
        }
    )
    against = "A" if len(places) == 2 else places[2].name
    for name, place, d in zip("AB", places, found, strict=False):
        if d is not None:
            line = f"{name} {place.name} to {against}: {d}"
            if not brief and d.largest:
                line += f", off by {d.mean:.2f} on average, {d.largest:.0f} at most (of 255)"
            reporter.say(line)
        elif len(places) > 2 or name == "B":
            reporter.say(f"{name} {place.name} has another size than {against}: no figures")


def _tell_means(found: list[tuple[Difference | None, Difference | None]], reporter: Reporter) -> None:
    means: dict[str, Any] = {}
    for i, name in enumerate("ab"):
        known = [d for pair in found if (d := pair[i]) is not None and math.isfinite(d.psnr)]
        if known:
            means[name] = {"psnr": round(sum(d.psnr for d in known) / len(known), 4), "pictures": len(known)}
            reporter.say(f"{name.upper()}: {means[name]['psnr']:.2f} dB, the mean of {len(known)}")
    reporter.record({"event": "summary", "command": "compare", "ok": len(found), "means": means})


def _plain(d: Difference | None) -> dict[str, Any] | None:
    """For JSON, which has no infinity."""
    if d is None:
        return None
    psnr = round(d.psnr, 4) if math.isfinite(d.psnr) else None
    return {"psnr": psnr, "ssim": d.ssim and round(d.ssim, 5), "mean": round(d.mean, 4), "largest": round(d.largest, 2)}


def _image(x: Tensor) -> Image.Image:
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
        reporter.warn("nothing is shown: this is no terminal with colours")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("compare", no_args_is_help=True)(_compare)
