"""Degrading pictures, restoring them and measuring the results, for the verb `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from restorer.cli.commands.measuring import Tally, describe_run, obtain_prior, print_table, progress
from restorer.cli.commands.trials import Request, degrade_trial, list_pairs, list_trials, read_pair
from restorer.cli.terminal.forecast import DEFAULT_STEPS, Forecast, Workload
from restorer.cli.terminal.reporter import Reporter, Timing
from restorer.cli.terminal.score_table import (
    PERCEPTION_CAPTION,
    PERCEPTION_COLUMNS,
    Row,
    build_table,
    group_means,
    to_csv,
    to_json,
)
from restorer.errors import OutputError, PictureError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.evaluation.evaluate import Outcome
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior

__all__ = ["MAX_SHEET_ROWS", "evaluate_all"]

MAX_SHEET_ROWS = 12
"""Number of results that a contact sheet shows."""


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


def evaluate_all(request: Request, reporter: Reporter) -> int:
    """Degrade, restore and measure every picture, report the figures, and return the exit code."""
    results = _Results(reporter, sheet=request.sheet is not None)
    trials = list_pairs(request, results) if request.has_pairs else list_trials(request)
    read_samples = read_pair if request.has_pairs else degrade_trial
    from restorer.evaluation.baselines import has_opencv
    from restorer.evaluation.evaluate import evaluate
    from restorer.evaluation.perception import check_extra

    if request.perception:
        check_extra()
    prior = obtain_prior(request.options, reporter)
    if request.baselines and request.task in ("denoise", "inpaint") and not has_opencv():
        reporter.warn("OpenCV is not installed, so its baselines are left out (pip install opencv-python-headless)")
    done, total = 0, sum(len(conditions) for _, _, conditions in trials)
    on_timed = Forecast(reporter).start("evaluate", _workload(request, prior, len(trials)))
    timing = Timing(on_timed, by_step=prior.device.type != "cpu")
    with progress(reporter, request.task, total) as advance:
        for path, name, conditions in trials:
            try:
                samples = read_samples(request, (path, name, conditions))
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

                arguments = {
                    "baselines": request.baselines,
                    "before": request.has_pairs,
                    "eight_bit": request.eight_bit or request.has_pairs or request.task == "deblur",
                    "perception": request.perception,
                    **request.sampling,
                }
                results.add(path, name, evaluate(sample, prior, on_progress=on_progress, **arguments))
                done += 1
            results.ok += 1
    if results.rows:
        title, caption = _title_and_caption(request, prior, results.details)
        verbose = request.options.verbose
        print_table(title, build_table(results.rows, pictures=verbose), caption, reporter)
        if request.perception:
            table = build_table(results.rows, pictures=verbose, columns=PERCEPTION_COLUMNS)
            print_table("what people see", table, PERCEPTION_CAPTION, reporter)
        _write_files(request, results)
    mean_records = [
        {"condition": condition, "by": method, "pictures": count, **to_json(mean)}
        for (condition, method), (count, mean) in group_means(results.rows).items()
    ]
    return results.finish(task=request.task, means=mean_records, **describe_run(request.options, prior))


def _workload(request: Request, prior: UNetPrior | Tiled, pictures: int) -> Workload:
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


def _title_and_caption(request: Request, prior: UNetPrior | Tiled, details: set[float]) -> tuple[str, str]:
    """Return the line above the table and the line below it."""
    from restorer.models.load import precision_name

    options = request.options
    folder = Path(request.folder).resolve().name
    parts = [request.task, folder, options.model, f"{prior.device} {precision_name(prior)}"]
    parts += [options.method] if options.method != "auto" else []
    remark = {
        "denoise": "Results are rounded to 8 bits."
        if request.has_pairs
        else "The noise is clipped and rounded to 8 bits."
        if request.eight_bit
        else "The noise is neither clipped nor rounded.",
        "upscale": "Y is the BT.601 luma without a border as wide as the scale.",
        "deblur": f"The blurred pictures have noise of {request.sigma:g} levels and 8 bits; the filters know the blur."
        if not request.has_pairs
        else "Results are rounded to 8 bits.",
        "inpaint": 'The column "holes" is the PSNR inside the holes.',
    }[request.task]
    caption = f"PSNR in dB and SSIM (Gaussian window of 11x11) over RGB, averaged over the pictures. {remark}"
    detail = " or ".join(f"{detail:g}" for detail in sorted(details))
    return " · ".join([*parts, f"detail {detail}", f"seed {options.seed}"]), caption


def _write_files(request: Request, results: _Results) -> None:
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
