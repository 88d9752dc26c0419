"""The verb `evaluate`: how well a prior restores clean pictures that are degraded in a known way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from restorer.cli.commands.bits_per_dim import bits_per_dim as measure_bound
from restorer.cli.commands.measuring import Tally, describe_run, obtain_prior, print_table, progress
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
from restorer.cli.terminal.forecast import DEFAULT_STEPS, Forecast, Workload
from restorer.cli.terminal.multi_values import MultiValueCommand, is_number, split_values
from restorer.cli.terminal.reporter import Reporter, Timing
from restorer.cli.terminal.score_table import Row, build_table, group_means, to_csv, to_json
from restorer.errors import OutputError, PictureError, UsageError
from restorer.folders.options import Options
from restorer.images.find import collect
from restorer.limits import SCALES, check

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.evaluation.evaluate import Condition, Outcome, Sample
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior

    Trial = tuple[Path, str, list[tuple[Condition, Path | None]]]

__all__ = ["MASK_KINDS", "register"]

MASK_KINDS = ("random", "box", "text", "scratch")
PARAMETER = {"denoise": "sigma", "upscale": "scale", "inpaint": "kind"}  # the field of `Condition` that a task varies
OPTION = {"sigma": "--sigma", "scale": "--scale", "kind": "--mask-kind"}
DEFAULT: dict[str, tuple[Any, ...]] = {"denoise": (25.0,), "upscale": (4,), "inpaint": ("random",)}
MAX_SHEET_ROWS = 12
DEGRADING, MEASURING = "Degradation", "Measurement"


@dataclass(frozen=True)
class _Request:
    """A checked command line.

    Args:
        options: Options that `evaluate` shares with the restoring verbs.
        folder: Folder of clean pictures.
        task: "denoise", "upscale" or "inpaint".
        values: Sigmas, scales or kinds of masks, by the task.
        mask: Folder of masks for inpainting; None to draw them.
        eight_bit: Whether noisy pictures and results are clipped and rounded to 8 bits.
        baselines: Whether methods without a network are measured too.
        limit: Largest number of pictures; None for all.
        csv: File for the figures of every picture, if any.
        sheet: File for the contact sheet, if any.
    """

    options: Options
    folder: str
    task: str
    values: tuple[Any, ...]
    mask: Path | None
    eight_bit: bool
    baselines: bool
    limit: int | None
    csv: Path | None
    sheet: Path | None

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling options other than the noise level, which the condition sets."""
        return {name: value for name, value in self.options.sampling.items() if name != "sigma"}


def _parse_values(task: str, texts: dict[str, list[str] | None], mask: Path | None) -> tuple[Any, ...]:
    """Return the sigmas, scales or kinds of masks of a task, checked.

    Args:
        task: Name of the task.
        texts: Values on the command line of each of the options in `OPTION`, by its key there.
        mask: Folder of masks; with it and without kinds, the result is empty and every mask is taken.

    Raises:
        UsageError: The task or a value is not possible, or an option belongs to another task.
    """
    if task not in PARAMETER:
        raise UsageError(f"unknown task {task!r}", f"choose one of {', '.join(PARAMETER)}")
    option = OPTION[PARAMETER[task]]
    for name, given in texts.items():
        if given and name != PARAMETER[task]:
            raise UsageError(f"{OPTION[name]} does not apply to {task}", f"use {option} with {task}")
    if mask is not None and task != "inpaint":
        raise UsageError(f"--mask does not apply to {task}", "add --task inpaint")
    values = split_values(texts[PARAMETER[task]])
    if task == "inpaint":
        if unknown := [value for value in values if value not in MASK_KINDS]:
            raise UsageError(f"unknown kind of mask {unknown[0]!r}", f"choose one of {', '.join(MASK_KINDS)}")
        return tuple(values) or (DEFAULT[task] if mask is None else ())
    try:
        numbers = [float(value) if task == "denoise" else int(value) for value in values]
    except ValueError:
        raise UsageError(f"{option} takes numbers, not {' '.join(values)!r}") from None
    for number in numbers:
        check(sigma=number) if task == "denoise" else check(scale=int(number))
    return tuple(numbers) or DEFAULT[task]


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


def _list_trials(request: _Request) -> list[Trial]:
    """Return every picture, its name inside the folder, and the conditions to degrade it by, each with its mask.

    Raises:
        PictureError: There are no pictures, or none of them has a mask.
    """
    if request.mask is not None and not request.mask.is_dir():
        raise PictureError(f"{request.mask} is not a folder of masks", "check the path")
    pictures = collect([request.folder], recursive=True)
    from restorer.evaluation.evaluate import Condition
    from restorer.images.masks import find_masks

    trials: list[Trial] = []
    for path, root in pictures:
        conditions: list[tuple[Condition, Path | None]]
        if request.mask is None:
            conditions = [
                (Condition(request.task, **{PARAMETER[request.task]: value}), None) for value in request.values
            ]
        else:
            kinds = request.values or ("",)  # these are prefixes: "random" also selects "random70"
            masks = {kind: mask for kind, mask in find_masks(request.mask, path).items() if kind.startswith(kinds)}
            conditions = [(Condition("inpaint", kind=kind), mask) for kind, mask in masks.items()]
        if conditions:
            trials.append((path, path.relative_to(root).as_posix() if root else path.name, conditions))
    if not trials:
        hint = "masks are named {stem}_{kind}.png or {anything}_{stem}_{kind}.png"
        raise PictureError(f"no picture in {request.folder} has a mask in {request.mask}", hint)
    return trials[: request.limit]


def _degrade(request: _Request, trial: Trial) -> list[Sample]:
    """Return the picture of a trial degraded by each of its conditions.

    Raises:
        PictureError: The picture or a mask cannot be read.
        UsageError: A mask has another shape than the picture.
    """
    import torch

    from restorer.evaluation.evaluate import degrade, derive_seed
    from restorer.images.files import load, load_mask, to_tensor

    path, name, conditions = trial
    truth = to_tensor(load(path))
    samples = []
    for condition, mask in conditions:
        fill = None if mask is None else torch.from_numpy(load_mask(mask, (truth.shape[1], truth.shape[2])).fill)
        seed = derive_seed(request.options.seed, name)
        samples.append(degrade(truth, condition, seed, fill=fill, eight_bit=request.eight_bit))
    return samples


class _Results(Tally):
    """Results of the run: each is reported as JSON at once and kept as rows and small pictures for the end.

    Attributes:
        rows: Rows of the table and of the CSV file.
        cells: Rows of the contact sheet, each with its heading.
        details: Values of `--detail` that were used; by default wide and narrow holes have different ones.
    """

    def __init__(self, reporter: Reporter, *, sheet: bool) -> None:
        super().__init__(reporter)
        self.rows: list[Row] = []
        self.cells: list[tuple[str, list[Tensor]]] = []
        self.max_cells = MAX_SHEET_ROWS if sheet else 0
        self.details: set[float] = set()

    def add(self, path: Path, name: str, outcome: Outcome) -> None:
        """Report and keep the outcome of one picture under one condition."""
        from restorer.evaluation.evaluate import OURS, side_by_side

        condition, truth = outcome.sample.condition, outcome.sample.truth
        self.details.add(outcome.detail)
        for note in outcome.notes:
            self.reporter.warn(f"{name}: {note}")
        scores = {method: to_json(figures) for method, figures in outcome.scores.items()}
        result = {"event": "result", "command": "evaluate", "input": str(path), "status": "ok"}
        settings = {"task": condition.task, "condition": str(condition), "detail": outcome.detail}
        size = {"width": truth.shape[-1], "height": truth.shape[-2]}
        ours = scores.pop(OURS)
        self.reporter.emit({**result, **settings, **size, **ours, "baselines": scores, "warnings": list(outcome.notes)})
        self.rows += [Row(name, str(condition), method, figures) for method, figures in outcome.scores.items()]
        if len(self.cells) < self.max_cells:
            heading = f"{name} · {condition} · {outcome.scores[OURS].psnr:.2f} dB"
            self.cells.append((heading, side_by_side(outcome)))


def _evaluate_all(request: _Request, reporter: Reporter) -> int:
    """Degrade, restore and measure every picture, report the figures, and return the exit code."""
    results, trials = _Results(reporter, sheet=request.sheet is not None), _list_trials(request)
    from restorer.evaluation.evaluate import evaluate, has_opencv

    prior = obtain_prior(request.options, reporter)
    if request.baselines and request.task != "upscale" and not has_opencv():
        reporter.warn("OpenCV is not installed, so its baselines are left out (pip install opencv-python-headless)")
    done, total = 0, sum(len(conditions) for _, _, conditions in trials)
    on_timed = Forecast(reporter).start("evaluate", _workload(request, prior, len(trials)))
    timing = Timing(on_timed, by_step=prior.device.type != "cpu")
    with progress(reporter, request.task, total) as advance:
        for path, name, conditions in trials:
            try:
                samples = _degrade(request, (path, name, conditions))
            except (PictureError, UsageError) as error:  # a mask of another shape is a UsageError
                results.add_failure(path, error)
                done += len(conditions)
                continue
            for sample in samples:

                def on_progress(
                    evaluations: float, steps: int, done: int = done, condition: str = str(sample.condition)
                ) -> None:
                    where = f"{done + 1}/{total}, {condition}, step {min(int(evaluations) + 1, steps)}/{steps}"
                    advance(done + evaluations / max(1, steps), where)
                    is_whole_step = evaluations == int(evaluations)
                    timing.update(done + evaluations / max(1, steps), total, is_whole_step=is_whole_step)

                arguments = {"baselines": request.baselines, "eight_bit": request.eight_bit, **request.sampling}
                results.add(path, name, evaluate(sample, prior, on_progress=on_progress, **arguments))
                done += 1
            results.ok += 1
    if results.rows:
        title, caption = _title_and_caption(request, prior, results.details)
        print_table(title, build_table(results.rows, pictures=request.options.verbose), caption, reporter)
        _write_files(request, results)
    mean_records = [
        {"condition": condition, "by": method, "pictures": count, **to_json(mean)}
        for (condition, method), (count, mean) in group_means(results.rows).items()
    ]
    return results.finish(task=request.task, means=mean_records, **describe_run(request.options, prior))


def _workload(request: _Request, prior: UNetPrior | Tiled, pictures: int) -> Workload:
    """Return the properties of this run that the estimate of its time depends on."""
    import torch

    options, default_steps = request.options, DEFAULT_STEPS[request.task]
    few = max(1, pictures // 10)
    steps = 1 if request.task == "denoise" and options.detail == 0 else options.steps or default_steps
    return Workload(
        steps,
        default_steps,
        allows_single_step=request.task == "denoise" and steps > 1,
        partial_option=(f"--limit {few}", few / pictures),
        is_embedded=options.model == "photo",
        on_cpu=prior.device.type == "cpu",
        has_gpu=torch.cuda.is_available(),
    )


def _title_and_caption(request: _Request, prior: UNetPrior | Tiled, details: set[float]) -> tuple[str, str]:
    """Return the line above the table and the line below it."""
    from restorer.models.load import precision_name

    options = request.options
    folder = Path(request.folder).resolve().name
    parts = [request.task, folder, options.model, f"{prior.device} {precision_name(prior)}"]
    parts += [options.method] if options.method != "auto" else []
    remark = {
        "denoise": "The noise is clipped and rounded to 8 bits."
        if request.eight_bit
        else "The noise is neither clipped nor rounded.",
        "upscale": "Y is the BT.601 luma without a border as wide as the scale.",
        "inpaint": 'The column "holes" is the PSNR inside the holes.',
    }[request.task]
    caption = f"PSNR in dB and SSIM (Gaussian window of 11x11) over RGB, averaged over the pictures. {remark}"
    detail = " or ".join(f"{detail:g}" for detail in sorted(details))
    return " · ".join([*parts, f"detail {detail}", f"seed {options.seed}"]), caption


def _write_files(request: _Request, results: _Results) -> None:
    """Write the CSV file and the contact sheet that the command line asks for.

    Raises:
        OutputError: A file cannot be written.
    """
    from restorer.evaluation.contact_sheet import contact_sheet
    from restorer.evaluation.evaluate import AMPLIFICATION
    from restorer.images.files import from_pil
    from restorer.images.writing import save

    if request.csv is not None:
        partial = request.csv.with_name(f".{request.csv.name}.partial")
        try:
            partial.write_text(to_csv(request.task, results.rows), encoding="utf-8", errors="surrogateescape")
            partial.replace(request.csv)
        except OSError as error:
            raise OutputError(f"{request.csv}: {error.strerror}", "name another file") from error
        results.reporter.say(f"wrote {request.csv}", style="green")
    if request.sheet is not None:
        headings = ("input", "restored", "truth", f"difference x {AMPLIFICATION}")
        save(from_pil(contact_sheet(headings, results.cells)), request.sheet, overwrite=request.options.overwrite)
        results.reporter.say(f"wrote {request.sheet}", style="green")


def _value_option(name: str, metavar: str, text: str, panel: str = DEGRADING, **settings: Any) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=panel, show_default=False, **settings)


def _flag_option(name: str, text: str, panel: str = DEGRADING) -> Any:
    return typer.Option(*name.split(), help=text, rich_help_panel=panel)


class _Command(MultiValueCommand):
    multi_value_options: ClassVar = {
        "--sigma": is_number,
        "--scale": is_number,
        "--mask-kind": lambda text: set(text.split(",")) <= set(MASK_KINDS),
    }


def _evaluate(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder of clean pictures; its subfolders are searched too")
    ],
    task: Annotated[
        str, _value_option("--task", "NAME", "Task to evaluate: denoise (the default), upscale or inpaint")
    ] = "denoise",
    sigma: Annotated[
        list[str] | None,
        _value_option("--sigma", "S...", "For denoise: one or more noise levels from 0 to 255 (default 25)"),
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
    eight_bit: Annotated[
        bool, _flag_option("--eight-bit", "Clip and round noisy pictures and results to 8 bits, as files do")
    ] = False,
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
    bits_per_dim: Annotated[
        bool,
        _flag_option(
            "--bits-per-dim", "Measure the variational bound of the model instead of restoring pictures", MEASURING
        ),
    ] = False,
    timesteps: Annotated[
        int, _value_option("--timesteps", "N", "Number of timesteps for --bits-per-dim (default 100)", MEASURING)
    ] = 100,
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
    """Measure a model: degrade clean pictures, restore them, and compare the results with the originals.

    restore evaluate photos/ --sigma 15 25 50  ·  restore evaluate photos/ --task upscale --scale 2 4 --baselines
    """
    options = parse(
        "evaluate",
        inputs=[folder],
        output=None,
        overwrite=overwrite,
        skip_existing=False,
        recursive=True,
        steps=steps,
        detail=detail,
        method=method,
        seed=seed,
        sigma="0",
        model=model,
        device=device,
        precision=precision,
        tile=tile,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )
    values = _parse_values(task, {"sigma": sigma, "scale": scale, "kind": mask_kind}, mask)
    if task == "denoise" and steps == 1 and detail:
        raise UsageError(
            "a single step gives the posterior mean, which has no detail", "use --steps 2 or more, or --detail 0"
        )
    if bits_per_dim and (baselines or csv or sheet or sigma or scale or mask_kind or mask):
        raise UsageError(
            "--bits-per-dim restores no pictures, so it cannot be combined with options for restoring them",
            "leave out --sigma, --scale, --mask-kind, --mask, --baselines, --csv and --sheet",
        )
    for target in (csv, sheet):
        _check_target(target, overwrite=overwrite)
    reporter = Reporter(quiet=quiet, verbose=verbose, as_json=json)
    if bits_per_dim:
        code = measure_bound(options, folder, limit, timesteps, reporter)
    else:
        request = _Request(options, folder, task, values, mask, eight_bit, baselines, limit, csv, sheet)
        code = _evaluate_all(request, reporter)
    if code:
        raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("evaluate", cls=_Command, no_args_is_help=True)(_evaluate)
