"""The verb `evaluate`: how well a prior restores pictures of which the truth is known."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from restorer.cli.commands.bits_per_dim import bits_per_dim as measure_bound
from restorer.cli.commands.measuring import Tally, describe, load, progress, show
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
from restorer.cli.terminal.forecast import USUAL_STEPS, Forecast, Run
from restorer.cli.terminal.multi_values import SeveralValues, is_number, words
from restorer.cli.terminal.reporter import Reporter, Timing
from restorer.cli.terminal.score_table import Row, as_csv, means, plain, table
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
VALUE = {"denoise": "sigma", "upscale": "scale", "inpaint": "kind"}  # what tells the conditions of a task apart
OPTION = {"sigma": "--sigma", "scale": "--scale", "kind": "--mask-kind"}
DEFAULT: dict[str, tuple[Any, ...]] = {"denoise": (25.0,), "upscale": (4,), "inpaint": ("random",)}
MOST_ROWS = 12  # of the contact sheet
DEGRADING, MEASURING = "Degradation", "Measurement"


@dataclass(frozen=True)
class _Wanted:
    """The command line. values: sigmas, scales or kinds of masks."""

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
        return {name: value for name, value in self.options.sampling.items() if name != "sigma"}


def _values(task: str, given: dict[str, list[str] | None], mask: Path | None) -> tuple[Any, ...]:
    """The sigmas, scales or kinds of masks, checked; what belongs to another task is refused."""
    if task not in VALUE:
        raise UsageError(f"unknown task {task!r}", f"one of {', '.join(VALUE)}")
    for name, found in given.items():
        if found and name != VALUE[task]:
            raise UsageError(f"{OPTION[name]} says nothing to {task}", f"that takes {OPTION[VALUE[task]]}")
    if mask is not None and task != "inpaint":
        raise UsageError(f"--mask says nothing to {task}", "add --task inpaint")
    values = words(given[VALUE[task]])
    if task == "inpaint":
        if wrong := [value for value in values if value not in MASK_KINDS]:
            raise UsageError(f"unknown kind of mask {wrong[0]!r}", f"one of {', '.join(MASK_KINDS)}")
        return tuple(values) or (DEFAULT[task] if mask is None else ())
    try:
        numbers = [float(value) if task == "denoise" else int(value) for value in values]
    except ValueError:
        raise UsageError(f"{OPTION[VALUE[task]]} takes numbers, not {' '.join(values)!r}") from None
    for number in numbers:
        check(sigma=number) if task == "denoise" else check(scale=int(number))
    return tuple(numbers) or DEFAULT[task]


def _check_target(path: Path | None, *, overwrite: bool) -> None:
    """See that a file can be written, before anything is computed."""
    if path is None:
        return
    if path.exists() and not (overwrite and path.is_file()):
        raise OutputError(f"{path} exists", "add --overwrite, or name another file")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} does not exist or is not writable", "name another file")


def _trials(wanted: _Wanted) -> list[Trial]:
    """Every picture, its name inside the folder, and how it is to be degraded, with what mask."""
    if wanted.mask is not None and not wanted.mask.is_dir():
        raise PictureError(f"{wanted.mask} is no folder of masks", "check the path")
    pictures = collect([wanted.folder], recursive=True)
    from restorer.evaluation.evaluate import Condition
    from restorer.images.masks import find_masks

    trials: list[Trial] = []
    for path, root in pictures:
        conditions: list[tuple[Condition, Path | None]]
        if wanted.mask is None:
            conditions = [(Condition(wanted.task, **{VALUE[wanted.task]: value}), None) for value in wanted.values]
        else:
            kinds = wanted.values or ("",)  # "random" stands for "random70" too
            masks = {kind: mask for kind, mask in find_masks(wanted.mask, path).items() if kind.startswith(kinds)}
            conditions = [(Condition("inpaint", kind=kind), mask) for kind, mask in masks.items()]
        if conditions:
            trials.append((path, path.relative_to(root).as_posix() if root else path.name, conditions))
    if not trials:
        hint = "masks are named {stem}_{kind}.png or {anything}_{stem}_{kind}.png"
        raise PictureError(f"no picture in {wanted.folder} has a mask in {wanted.mask}", hint)
    return trials[: wanted.limit]


def _samples(wanted: _Wanted, trial: Trial) -> list[Sample]:
    """One picture, degraded in every way that is wanted."""
    import torch

    from restorer.evaluation.evaluate import degrade, seed_of
    from restorer.images.files import load, load_mask, to_tensor

    path, name, conditions = trial
    truth = to_tensor(load(path))
    samples = []
    for condition, mask in conditions:
        fill = None if mask is None else torch.from_numpy(load_mask(mask, (truth.shape[1], truth.shape[2])).fill)
        seed = seed_of(wanted.options.seed, name)
        samples.append(degrade(truth, condition, seed, fill=fill, eight_bit=wanted.eight_bit))
    return samples


class _Results(Tally):
    """What comes of the pictures, one after the other: JSON at once, rows and small pictures for the end."""

    def __init__(self, reporter: Reporter, *, sheet: bool) -> None:
        super().__init__(reporter)
        self.rows: list[Row] = []
        self.cells: list[tuple[str, list[Tensor]]] = []
        self.most_cells = MOST_ROWS if sheet else 0
        self.details: set[float] = set()  # several by default where some holes are wide

    def add(self, path: Path, name: str, outcome: Outcome) -> None:
        """A picture was restored and measured."""
        from restorer.evaluation.evaluate import OURS, side_by_side

        condition, truth = outcome.sample.condition, outcome.sample.truth
        self.details.add(outcome.detail)
        for note in outcome.notes:
            self.reporter.warn(f"{name}: {note}")
        scores = {by: plain(found) for by, found in outcome.scores.items()}
        what = {"event": "result", "command": "evaluate", "input": str(path), "status": "ok"}
        how = {"task": condition.task, "condition": str(condition), "detail": outcome.detail}
        size = {"width": truth.shape[-1], "height": truth.shape[-2]}
        ours = scores.pop(OURS)
        self.reporter.record({**what, **how, **size, **ours, "baselines": scores, "warnings": list(outcome.notes)})
        self.rows += [Row(name, str(condition), by, found) for by, found in outcome.scores.items()]
        if len(self.cells) < self.most_cells:
            heading = f"{name} · {condition} · {outcome.scores[OURS].psnr:.2f} dB"
            self.cells.append((heading, side_by_side(outcome)))


def _evaluate_all(wanted: _Wanted, reporter: Reporter) -> int:
    """Degrade, restore and measure every picture; the exit code."""
    results, trials = _Results(reporter, sheet=wanted.sheet is not None), _trials(wanted)
    from restorer.evaluation.evaluate import evaluate, has_opencv

    prior = load(wanted.options, reporter)
    if wanted.baselines and wanted.task != "upscale" and not has_opencv():
        reporter.warn("OpenCV is not installed: what it restores is left out (pip install opencv-python-headless)")
    at, total = 0, sum(len(conditions) for _, _, conditions in trials)
    tell = Forecast(reporter).of("evaluate", _run(wanted, prior, len(trials)))
    timing = Timing(tell, by_step=prior.device.type != "cpu")
    with progress(reporter, wanted.task, total) as advance:
        for path, name, conditions in trials:
            try:
                samples = _samples(wanted, (path, name, conditions))
            except (PictureError, UsageError) as error:  # the latter from a mask of another shape
                results.failed(path, error)
                at += len(conditions)
                continue
            for sample in samples:

                def on_progress(done: float, steps: int, at: int = at, how: str = str(sample.condition)) -> None:
                    where = f"{at + 1}/{total}, {how}, step {min(int(done) + 1, steps)}/{steps}"
                    advance(at + done / max(1, steps), where)
                    timing.seen(at + done / max(1, steps), total, whole=done == int(done))

                more = {"baselines": wanted.baselines, "eight_bit": wanted.eight_bit, **wanted.sampling}
                results.add(path, name, evaluate(sample, prior, on_progress=on_progress, **more))
                at += 1
            results.ok += 1
    if results.rows:
        title, caption = _words(wanted, prior, results.details)
        show(title, table(results.rows, pictures=wanted.options.verbose), caption, reporter)
        _write_files(wanted, results)
    listed = [
        {"condition": condition, "by": by, "pictures": count, **plain(mean)}
        for (condition, by), (count, mean) in means(results.rows).items()
    ]
    return results.finish(task=wanted.task, means=listed, **describe(wanted.options, prior))


def _run(wanted: _Wanted, prior: UNetPrior | Tiled, pictures: int) -> Run:
    """What decides how long it takes."""
    import torch

    options, usual = wanted.options, USUAL_STEPS[wanted.task]
    few = max(1, pictures // 10)
    steps = 1 if wanted.task == "denoise" and options.detail == 0 else options.steps or usual
    return Run(
        steps,
        usual,
        one_will_do=wanted.task == "denoise" and steps > 1,
        part=(f"--limit {few}", few / pictures),
        embedded=options.model == "photo",
        on_cpu=prior.device.type == "cpu",
        gpu=torch.cuda.is_available(),
    )


def _words(wanted: _Wanted, prior: UNetPrior | Tiled, details: set[float]) -> tuple[str, str]:
    """What stands above the table and below it."""
    from restorer.models.load import precision_name

    options = wanted.options
    parts = [wanted.task, Path(wanted.folder).resolve().name, options.model, f"{prior.device} {precision_name(prior)}"]
    parts += [options.method] if options.method != "auto" else []
    measured = {
        "denoise": "Noise clipped and rounded to 8 bits." if wanted.eight_bit else "Noise neither clipped nor rounded.",
        "upscale": "Y: BT.601 luma without a border as wide as the scale.",
        "inpaint": "Holes: PSNR inside them.",
    }[wanted.task]
    caption = f"PSNR in dB, SSIM with a Gaussian window of 11x11, over RGB; means over the pictures. {measured}"
    detail = " or ".join(f"{detail:g}" for detail in sorted(details))
    return " · ".join([*parts, f"detail {detail}", f"seed {options.seed}"]), caption


def _write_files(wanted: _Wanted, results: _Results) -> None:
    """The CSV file and the contact sheet, as far as they are wanted."""
    from restorer.evaluation.contact_sheet import contact_sheet
    from restorer.evaluation.evaluate import AMPLIFIED
    from restorer.images.files import from_pil
    from restorer.images.writing import save

    if wanted.csv is not None:
        partial = wanted.csv.with_name(f".{wanted.csv.name}.partial")
        try:
            partial.write_text(as_csv(wanted.task, results.rows), encoding="utf-8", errors="surrogateescape")
            partial.replace(wanted.csv)
        except OSError as error:
            raise OutputError(f"{wanted.csv}: {error.strerror}", "name another file") from error
        results.reporter.say(f"wrote {wanted.csv}", style="green")
    if wanted.sheet is not None:
        heads = ("input", "restored", "truth", f"difference x {AMPLIFIED}")
        save(from_pil(contact_sheet(heads, results.cells)), wanted.sheet, overwrite=wanted.options.overwrite)
        results.reporter.say(f"wrote {wanted.sheet}", style="green")


def _value(name: str, metavar: str, text: str, panel: str = DEGRADING, **more: Any) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=panel, show_default=False, **more)


def _switch(name: str, text: str, panel: str = DEGRADING) -> Any:
    return typer.Option(*name.split(), help=text, rich_help_panel=panel)


class _Command(SeveralValues):
    several: ClassVar = {
        "--sigma": is_number,
        "--scale": is_number,
        "--mask-kind": lambda text: set(text.split(",")) <= set(MASK_KINDS),
    }


def _evaluate(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Clean pictures; folders inside it too")],
    task: Annotated[str, _value("--task", "NAME", "denoise (default) | upscale | inpaint")] = "denoise",
    sigma: Annotated[list[str] | None, _value("--sigma", "S...", "denoise: noise, 0..255 (25)")] = None,
    scale: Annotated[
        list[str] | None, _value("--scale", "N...", f"upscale: {' | '.join(map(str, SCALES))} (4)")
    ] = None,
    mask_kind: Annotated[
        list[str] | None, _value("--mask-kind", "KIND...", f"inpaint: {' | '.join(MASK_KINDS)} (random)")
    ] = None,
    mask: Annotated[Path | None, _value("--mask", "DIR", "inpaint: {stem}_{kind}.png, not drawn ones")] = None,
    eight_bit: Annotated[bool, _switch("--eight-bit", "Clip and round as files do")] = False,
    limit: Annotated[int | None, _value("--limit", "N", "The first N pictures", min=1)] = None,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    baselines: Annotated[bool, _switch("--baselines", "Also what needs no network", MEASURING)] = False,
    bits_per_dim: Annotated[bool, _switch("--bits-per-dim", "The variational bound instead", MEASURING)] = False,
    timesteps: Annotated[int, _value("--timesteps", "N", "Of the bound (100)", MEASURING)] = 100,
    csv: Annotated[Path | None, _value("--csv", "FILE", "Every picture's figures", OUTPUT)] = None,
    sheet: Annotated[Path | None, _value("--sheet", "FILE", "A picture of the first 12 results", OUTPUT)] = None,
    overwrite: Overwrite = False,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    json: Json = False,
    quiet: Annotated[bool, _switch("-q --quiet", "Only the table", INTERFACE)] = False,
    verbose: Annotated[bool, _switch("-v --verbose", "Every picture in the table", INTERFACE)] = False,
) -> None:
    """Degrade clean pictures, restore them, and compare with the truth.

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
    values = _values(task, {"sigma": sigma, "scale": scale, "kind": mask_kind}, mask)
    if task == "denoise" and steps == 1 and detail:
        raise UsageError("one step gives no detail: it is the posterior mean", "use --steps 2 or more, or --detail 0")
    if bits_per_dim and (baselines or csv or sheet or sigma or scale or mask_kind or mask):
        raise UsageError("--bits-per-dim degrades nothing", "leave out what belongs to the tasks, --csv and --sheet")
    for target in (csv, sheet):
        _check_target(target, overwrite=overwrite)
    reporter = Reporter(quiet=quiet, verbose=verbose, as_json=json)
    if bits_per_dim:
        code = measure_bound(options, folder, limit, timesteps, reporter)
    else:
        wanted = _Wanted(options, folder, task, values, mask, eight_bit, baselines, limit, csv, sheet)
        code = _evaluate_all(wanted, reporter)
    if code:
        raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("evaluate", cls=_Command, no_args_is_help=True)(_evaluate)
