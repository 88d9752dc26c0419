"""The verb `evaluate`: how well a prior restores pictures whose truth is known.

Either clean pictures are degraded in a known way, or degraded pictures are given beside their truths.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from restorer.cli.commands.bits_per_dim import bits_per_dim as measure_bound
from restorer.cli.commands.calibrating import calibrate as find_calibration
from restorer.cli.commands.evaluating import MAX_SHEET_ROWS, evaluate_all
from restorer.cli.commands.trials import (
    MASK_KINDS,
    Request,
    parse_blur_noise,
    parse_blurs,
    parse_pair_values,
    parse_values,
)
from restorer.cli.options import (
    INTERFACE,
    OUTPUT,
    Detail,
    Device,
    Json,
    Method,
    Model,
    Overwrite,
    Precision,
    Seed,
    Steps,
    Tile,
    parse,
)
from restorer.cli.terminal.multi_values import MultiValueCommand, is_gaussian, is_motion, is_number
from restorer.cli.terminal.reporter import Reporter
from restorer.errors import OutputError, UsageError
from restorer.folders.options import Options
from restorer.limits import SCALES, check_denoising

__all__ = ["MASK_KINDS", "register"]

DEGRADING, PAIRS, MEASURING = "Degradation", "Pairs of degraded pictures and their truth", "Measurement"


def _check_target(path: Path | None, *, overwrite: bool) -> None:
    """Check that a file can be written, before anything is computed.

    Raises:
        OutputError: The file exists, or its folder is missing or not writable.
    """
    if path is None:
        return
    if path.exists() and not (overwrite and path.is_file()):
        raise OutputError(f"{path} exists", "add --overwrite, or name another file")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} does not exist or is not writable", "name another file")


def _value_option(name: str, metavar: str, text: str, panel: str = DEGRADING, **settings: Any) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=panel, show_default=False, **settings)


def _flag_option(name: str, text: str, panel: str = DEGRADING) -> Any:
    return typer.Option(*name.split(), help=text, rich_help_panel=panel)


class _Command(MultiValueCommand):
    multi_value_options: ClassVar = {
        "--sigma": is_number,
        "--scale": is_number,
        "--mask-kind": lambda text: set(text.split(",")) <= set(MASK_KINDS),
        "--gaussian": is_gaussian,
        "--defocus": is_number,
        "--motion": is_motion,
    }


def _evaluate(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="Folder of clean pictures, or with --truth or --pair of degraded ones",
        ),
    ],
    task: Annotated[
        str, _value_option("--task", "NAME", "Task to evaluate: denoise (the default), upscale, inpaint or deblur")
    ] = "denoise",
    sigma: Annotated[
        list[str] | None,
        _value_option(
            "--sigma", "S...", "For denoise: one or more noise levels from 0 to 255 (default 25); for deblur one (2.55)"
        ),
    ] = None,
    scale: Annotated[
        list[str] | None,
        _value_option(
            "--scale", "N...", f"For upscale: one or more of the factors {', '.join(map(str, SCALES))} (default 4)"
        ),
    ] = None,
    mask_kind: Annotated[
        list[str] | None,
        _value_option(
            "--mask-kind", "KIND...", f"For inpaint: one or more of the kinds {', '.join(MASK_KINDS)} (default random)"
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        _value_option(
            "--mask", "DIR", "For inpaint: folder of masks named {stem}_{kind}.png, to use instead of drawing masks"
        ),
    ] = None,
    gaussian: Annotated[
        list[str] | None,
        _value_option("--gaussian", "S...", "For deblur: one or more Gaussian blurs, as `restore deblur` takes them"),
    ] = None,
    defocus: Annotated[
        list[str] | None, _value_option("--defocus", "R...", "For deblur: one or more disks of these radii in pixels")
    ] = None,
    motion: Annotated[
        list[str] | None, _value_option("--motion", "L@A...", "For deblur: one or more lines, length and angle")
    ] = None,
    kernel: Annotated[
        list[Path] | None,
        _value_option("--kernel", "FILE", "For deblur: a kernel of your own; may be repeated"),
    ] = None,
    blind: Annotated[
        bool, _flag_option("--blind", "For deblur: let the program find the blur instead of telling it")
    ] = False,
    eight_bit: Annotated[
        bool, _flag_option("--eight-bit", "Clip and round noisy pictures and results to 8 bits, as files do")
    ] = False,
    truth: Annotated[
        Path | None,
        _value_option(
            "--truth",
            "DIR",
            "Restore the pictures of DIR as they are, and compare them with those of the same names in this folder",
            PAIRS,
        ),
    ] = None,
    pair: Annotated[
        tuple[str, str] | None,
        _value_option(
            "--pair",
            "SUFFIX SUFFIX",
            "Restore the pictures whose names end in the first suffix; the second one ends the names of their truths",
            PAIRS,
        ),
    ] = None,
    limit: Annotated[int | None, _value_option("--limit", "N", "Evaluate only the first N pictures", min=1)] = None,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    baselines: Annotated[
        bool,
        _flag_option(
            "--baselines",
            "Also measure baselines without a network, such as bicubic interpolation and OpenCV",
            MEASURING,
        ),
    ] = False,
    perception: Annotated[
        bool,
        _flag_option(
            "--perception",
            "Also measure what people see: features of networks, gradients, texture (needs the extra `measure`)",
            MEASURING,
        ),
    ] = False,
    bits_per_dim: Annotated[
        bool,
        _flag_option(
            "--bits-per-dim", "Measure the variational bound of the model instead of restoring pictures", MEASURING
        ),
    ] = False,
    timesteps: Annotated[
        int, _value_option("--timesteps", "N", "Number of timesteps for --bits-per-dim (default 100)", MEASURING)
    ] = 100,
    calibrate: Annotated[
        Path | None,
        _value_option(
            "--calibrate",
            "FILE",
            "Find the constants of the uncertainty on every other picture, test them on the others, and write them "
            "here; calibration.json beside the weights is where they count",
            MEASURING,
        ),
    ] = None,
    csv: Annotated[
        Path | None, _value_option("--csv", "FILE", "Write the figures of every picture to this CSV file", OUTPUT)
    ] = None,
    sheet: Annotated[
        Path | None,
        _value_option(
            "--sheet",
            "FILE",
            f"Draw the first {MAX_SHEET_ROWS} results beside their originals into this picture file",
            OUTPUT,
        ),
    ] = None,
    overwrite: Overwrite = False,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    json: Json = False,
    quiet: Annotated[bool, _flag_option("-q --quiet", "Print only the table, and errors", INTERFACE)] = False,
    verbose: Annotated[bool, _flag_option("-v --verbose", "List every picture in the table", INTERFACE)] = False,
) -> None:
    """Measure a model: degrade clean pictures, or take degraded ones, restore them, and compare with the truth.

    restore evaluate photos/ --sigma 15 25 50  ·  restore evaluate photos/ --task upscale --scale 2 4 --baselines
    """
    options = parse(
        Options,
        command="evaluate",
        inputs=[folder],
        overwrite=overwrite,
        recursive=True,
        steps=steps,
        detail=detail,
        method=method,
        seed=seed,
        model=model,
        device=device,
        precision=precision,
        tile=tile,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )
    blurs, noise = parse_blurs(task, gaussian, defocus, motion, kernel, blind=blind), 0.0
    suffixes = pair or None  # Typer passes an empty tuple where the option is not given
    values: tuple[Any, ...]
    if truth is not None or suffixes is not None:
        values = parse_pair_values(task, truth, suffixes, sigma, mask, [*(scale or []), *(mask_kind or [])])
        if blurs or blind:
            message = "--truth and --pair take pictures as they are, and deblur finds how they are blurred"
            raise UsageError(message, "leave out the options that blur pictures")
    elif task == "deblur":
        noise, values = parse_blur_noise(sigma), blurs
        if not blurs:
            raise UsageError(
                "say how the pictures are to be blurred", "use --gaussian, --defocus, --motion or --kernel"
            )
        if scale or mask_kind or mask:
            raise UsageError("--scale, --mask-kind and --mask do not apply to deblur", "leave them out")
    else:
        values = parse_values(task, {"sigma": sigma, "scale": scale, "kind": mask_kind}, mask)
    if task == "denoise":
        check_denoising(steps=steps, detail=detail)
    restoring = (baselines, perception, csv, sheet, sigma, scale, mask_kind, mask, truth, suffixes, blurs, blind)
    if bits_per_dim and any(restoring):
        raise UsageError(
            "--bits-per-dim restores no pictures, so it cannot be combined with options for restoring them",
            "leave out --sigma, --scale, --mask-kind, --mask, --truth, --pair, --baselines, --perception, --csv and "
            "--sheet",
        )
    if calibrate is not None and (
        bits_per_dim or baselines or csv or sheet or sigma or scale or mask_kind or truth or blurs
    ):
        raise UsageError(
            "--calibrate degrades pictures in ways of its own, so it cannot be combined with options for that",
            "leave out --sigma, --scale, --mask-kind, blurs, --truth, --baselines, --csv, --sheet and --bits-per-dim",
        )
    for target in (csv, sheet, calibrate):
        _check_target(target, overwrite=overwrite)
    reporter = Reporter(quiet=quiet, verbose=verbose, as_json=json)
    if calibrate is not None:
        code = find_calibration(options, folder, limit, calibrate, reporter)
    elif bits_per_dim:
        code = measure_bound(options, folder, limit, timesteps, reporter)
    else:
        if baselines and blurs:
            from restorer.evaluation.deblurring import check_filters

            check_filters()
        request = Request(
            options, folder, task, values, mask, eight_bit, baselines, limit, csv, sheet, truth, suffixes, perception
        )
        request = replace(request, sigma=noise, blind=blind)
        code = evaluate_all(request, reporter)
    if code:
        raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("evaluate", cls=_Command, no_args_is_help=True)(_evaluate)
