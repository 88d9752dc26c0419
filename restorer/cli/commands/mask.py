"""The verb `mask`: a mask drawn on a page in the browser, or made of boxes, colours and what is found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restorer.cli.options import (
    INPUT,
    INTERFACE,
    Device,
    Json,
    MaxPixels,
    Model,
    Output,
    Overwrite,
    Quiet,
    Seed,
    Steps,
    parse,
)
from restorer.cli.terminal.reporter import Reporter, exit_code_for
from restorer.errors import OutputError, RestorerError, UsageError
from restorer.folders.paths import Item, combined_exit_code, resolve_targets
from restorer.folders.verb_options import Inpaint
from restorer.images.find import STDIO, collect, search_all
from restorer.images.mask_finders import (
    TOLERANCE,
    Finder,
    find_box,
    find_colour,
    find_holes,
    parse_box,
    parse_colour,
)
from restorer.limits import MAX_PIXELS, check

if TYPE_CHECKING:
    import numpy as np

    from restorer.images.picture import Picture
    from restorer.measurement.scratches import Scratches

__all__ = ["register"]

TAG = "mask"  # the last part of the name of a mask
FINDING = "Finding"  # a panel of the help
MAX_PORT = 65535


@dataclass(frozen=True)
class _Search:
    """What is marked without a page.

    Args:
        finders: The finders, whose holes are put together.
        grow_by: Pixels by which the holes are grown.
        invert: Whether everything else is marked instead.
        scratches: Whether scratches, dust, hairs and creases are looked for.
    """

    finders: tuple[Finder, ...]
    grow_by: int
    invert: bool
    scratches: bool

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look for."""
        return not self.finders and not self.scratches

    def run(self, picture: Picture) -> tuple[np.ndarray, Scratches | None]:
        """Return the holes of a picture, bool (H, W), and the scratches in it if they are looked for."""
        from restorer.images.masks import grow

        fill, found = find_holes(picture, self.finders), None
        if self.scratches:
            from restorer.images.picture import to_tensor, visible_pixels
            from restorer.tasks.scratches import scratches_of

            found = scratches_of(to_tensor(picture), visible_pixels(picture))
            fill = fill | found.fill
        return grow(fill, self.grow_by) != self.invert, found


def _mask(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Pictures to mark: one for the page; else files, folders (with -r), glob patterns, or - for standard "
            "input",
        ),
    ],
    scratches: Annotated[
        bool,
        typer.Option(
            "--scratches",
            help="Mark the clearest scratches, dust and hairs that are found in the picture",
            rich_help_panel=FINDING,
        ),
    ] = False,
    box: Annotated[
        list[str],
        typer.Option(
            "--box",
            metavar="X,Y,W,H",
            help="Mark a rectangle, in pixels from the left upper corner (repeatable)",
            rich_help_panel=FINDING,
        ),
    ] = [],  # noqa: B006  (Typer passes a new list for each command)
    color: Annotated[
        list[str],
        typer.Option(
            "--color",
            metavar="COLOR",
            help="Mark all pixels of a colour, such as '#ff00ff' or magenta (repeatable)",
            rich_help_panel=FINDING,
        ),
    ] = [],  # noqa: B006
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            metavar="N",
            help="Levels by which each channel may differ from --color (0 to 255)",
            rich_help_panel=FINDING,
        ),
    ] = TOLERANCE,
    grow_by: Annotated[
        int,
        typer.Option("--grow", metavar="PX", help="Pixels by which what is found is grown", rich_help_panel=FINDING),
    ] = 0,
    invert_mask: Annotated[
        bool, typer.Option("--invert-mask", help="Mark everything but what is found", rich_help_panel=FINDING)
    ] = False,
    edit: Annotated[
        bool,
        typer.Option(
            "--edit",
            help="Open the page with the mask that exists or is found, and replace it by the edited one",
            rich_help_panel=INPUT,
        ),
    ] = False,
    output: Output = None,
    overwrite: Overwrite = False,
    recursive: Annotated[
        bool,
        typer.Option(
            "-r", "--recursive", help="Mark every picture in a folder and in its subfolders", rich_help_panel=INPUT
        ),
    ] = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    no_browser: Annotated[
        bool,
        typer.Option(
            "--no-browser", help="Print the address of the page and open no browser", rich_help_panel=INTERFACE
        ),
    ] = False,
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            help="Port of the page on this machine",
            show_default="a free one",
            rich_help_panel=INTERFACE,
        ),
    ] = 0,
    steps: Steps = None,
    seed: Seed = 0,
    model: Model = "photo",
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a mask of what inpaint fills: draw it on a page in the browser, or mark scratches, boxes and colours.

    The page is served to this machine alone. It can fill the picture, too.

    Each mask is written beside its picture as INPUT_mask.png.

    restore mask img.png  ·  restore mask scan.png --scratches  ·  restore mask *.png --color '#ff00ff'
    """
    check(grow=grow_by, steps=steps, seed=seed)
    if not 0 <= tolerance <= 255:
        raise UsageError(f"the tolerance must lie between 0 and 255, not {tolerance:g}")
    if not 0 <= port <= MAX_PORT:
        raise UsageError(f"the port must lie between 0 and {MAX_PORT}, not {port}")
    finders = (*(find_box(parse_box(b)) for b in box), *(find_colour(parse_colour(c), tolerance) for c in color))
    search = _Search(finders, grow_by, invert_mask, scratches)
    if (grow_by or invert_mask) and search.is_empty:
        raise UsageError("--grow and --invert-mask change what is found", "add --scratches, --box or --color")
    reporter = Reporter(quiet=quiet, as_json=json)
    if not search.is_empty and not edit:
        _find_all(inputs, recursive, search, output, overwrite, max_pixels, reporter)
        return
    item = _only_item(collect(inputs, recursive=recursive), output, replaces=overwrite or edit)
    options = parse(
        Inpaint,
        inputs=inputs,
        mask=item.target,  # the mask is saved with the result
        grow=0,
        overwrite=overwrite,
        steps=steps,
        seed=seed,
        model=model,
        device=device,
        quiet=quiet,
        max_pixels=max_pixels,
    )
    _draw(item, search, options, reporter, edit=edit, port=port, opens_browser=not no_browser)


# ------------------------------------------------------------------------------------------------------ without a page


def _find_all(
    inputs: list[str],
    recursive: bool,
    search: _Search,
    output: str | None,
    overwrite: bool,
    max_pixels: int,
    reporter: Reporter,
) -> None:
    """Write the mask of what is found in each picture. A picture that fails does not stop the others.

    Raises:
        typer.Exit: A picture failed. The exception holds the exit code.
    """
    found = search_all(inputs, recursive=recursive)
    to_do, _, failed = resolve_targets(
        found.pictures, output, TAG, overwrite=overwrite, skip_existing=False, suffix=".png"
    )
    codes, done = [], 0
    failures = [*((Item(path, Path()), error) for path, error in found.failed), *failed]
    for item in to_do:
        try:
            _find_one(item, search, overwrite, max_pixels, reporter)
            done += 1
        except RestorerError as error:
            failures.append((item, error))
    for item, reason in failures:
        codes.append(exit_code_for(reason))
        reporter.fail(reason, str(item.source))
        reporter.emit(_event(item, status="failed", code=codes[-1], error=str(reason)))
    code = combined_exit_code(codes, done)
    reporter.emit({"event": "summary", "command": TAG, "ok": done, "failed": len(codes), "exit_code": code})
    if code:
        raise typer.Exit(code)


def _find_one(item: Item, search: _Search, overwrite: bool, max_pixels: int, reporter: Reporter) -> None:
    """Write the mask of one picture, and report it."""
    from restorer.images.mask_writing import check_mask_target, save_mask
    from restorer.images.reading import load

    target = sys.stdout.buffer if item.target == STDIO else item.target
    check_mask_target(target)
    picture = load(sys.stdin.buffer if item.source == STDIO else item.source, max_pixels)
    for note in picture.notes:
        reporter.warn(note)
    fill, scratches = search.run(picture)
    _say(scratches, reporter)
    save_mask(fill, target, overwrite=overwrite)
    _report(item, fill, reporter, places=None if scratches is None else scratches.places)


def _say(scratches: Scratches | None, reporter: Reporter) -> None:
    """Print which scratches were found, if they were looked for."""
    if scratches is not None:
        reporter.say(scratches.describe())


def _report(item: Item, fill: np.ndarray, reporter: Reporter, **fields: Any) -> None:
    """Report a mask that was written."""
    height, width = fill.shape
    share = float(fill.mean())
    if not fill.any():
        reporter.warn(f"nothing is marked in {item.source}: the mask is empty")
    reporter.say(f"wrote {item.target} · {width}x{height} · {format_share(share)} marked", style="green")
    figures = {"width": width, "height": height, "share": round(share, 6)}
    reporter.result(str(item.target), _event(item, status="ok", **figures, **fields))


def format_share(share: float) -> str:
    """Format a share of a picture like "3.1 %", with as many digits as tell a single pixel from none."""
    percent = 100 * share
    return f"{percent:.1f} %" if percent >= 0.1 or not percent else f"{percent:.2g} %"


def _event(item: Item, **fields: Any) -> dict[str, Any]:
    paths = {"input": str(item.source), "output": str(item.target) if item.target != Path() else None}
    return {"event": "result", "command": TAG, **paths, **fields}


# ------------------------------------------------------------------------------------------------------------ the page


def _only_item(pictures: Sequence[tuple[Path, Path | None]], output: str | None, *, replaces: bool) -> Item:
    """Return the picture that the page shows and the file of its mask.

    Raises:
        UsageError: There are several pictures, or the mask would go to standard output.
        OutputError: The mask exists, and nothing says that it may be replaced, or its folder is not writable.
    """
    if len(pictures) > 1:
        raise UsageError(
            f"the page shows one picture, not {len(pictures)}",
            "mark several with --scratches, --box or --color, without --edit",
        )
    to_do, _, failed = resolve_targets(
        list(pictures), output, TAG, overwrite=replaces, skip_existing=False, suffix=".png"
    )
    for item, reason in failed:
        if not replaces and item.target.is_file() and item.target.resolve() != item.source.resolve():
            hint = "add --edit to go on with it, --overwrite to begin anew, or name another file with -o"
            raise OutputError(f"{item.target} exists", hint) from reason
        raise reason
    if to_do[0].target == STDIO:
        raise UsageError("the page writes its mask to a file", "name one with -o")
    return to_do[0]


def _draw(
    item: Item,
    search: _Search,
    options: Inpaint,
    reporter: Reporter,
    *,
    edit: bool,
    port: int,
    opens_browser: bool,
) -> None:
    """Serve the page until it is done or closed, and report the mask.

    Raises:
        typer.Exit: The page was closed before a mask was saved.
    """
    from restorer.cli.mask_page.filling import Filler
    from restorer.cli.mask_page.running import serve
    from restorer.cli.mask_page.session import Session
    from restorer.images.mask_writing import check_mask_target
    from restorer.images.masks import load_mask
    from restorer.images.reading import load

    check_mask_target(item.target)
    picture = load(sys.stdin.buffer if item.source == STDIO else item.source, options.max_pixels)
    for note in picture.notes:
        reporter.warn(note)
    fill, scratches = search.run(picture)
    _say(scratches, reporter)
    if edit and item.target.is_file():
        size = (picture.height, picture.width)
        loaded = load_mask(item.target, size, max_pixels=options.max_pixels, margin=0, picture=picture)
        for note in filter(None, [loaded.note]):
            reporter.warn(note)
        fill = fill | loaded.fill
    session = Session(picture, item, fill, replaces=options.overwrite or edit, seed=options.seed)
    serve(session, Filler(session, options, reporter), reporter, port=port, opens_browser=opens_browser)
    if not session.is_saved:
        reporter.warn("the page was closed before a mask was saved")
        raise typer.Exit(130)
    filled = None if session.saved_result is None else str(session.saved_result)
    places = None if scratches is None else scratches.places
    _report(item, session.fill, reporter, places=places, filled=filled)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("mask", no_args_is_help=True)(_mask)
