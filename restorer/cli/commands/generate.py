"""The verb `generate`: sample the prior without a measurement."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from restorer.cli.options import INTERFACE, OUTPUT, SAMPLING, command_of, read, shared
from restorer.cli.terminal.downloads import ensure_downloaded
from restorer.cli.terminal.forecast import Forecast, Workload
from restorer.cli.terminal.reporter import Reporter, exit_code_for, human_bytes
from restorer.errors import RestorerError, UsageError
from restorer.folders.paths import Item, resolve_targets
from restorer.images.find import STDIO
from restorer.limits import SAMPLERS, SAMPLING_STEPS, VARIANCES, check_generation
from restorer.tasks.option import option

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.cli.terminal.reporter import Bar
    from restorer.diffusion.reverse import Step
    from restorer.images.files import Picture
    from restorer.models.load import Model as ModelValue
    from restorer.priors.tiled import Tiled
    from restorer.tasks.job import Job

__all__ = ["register"]

_RESULT = {"event": "result", "command": "generate"}


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Return the width and the height in pixels that a text such as "64" or "96x64" stands for.

    Raises:
        UsageError: The text has another form, or a side is out of range.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise UsageError(
            f"the size must be N or WxH in pixels, not {text!r}", "write for example --size 64 or --size 96x64"
        )
    width, height = int(sides[0]), int(sides[-1])
    check_generation(width=width, height=height)
    return width, height


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `generate`. None for `size`, `variance` and `batch` leaves them to the model and to the size."""

    count: int = option(16, "Number of pictures to generate", "N", short="-n")
    size: tuple[int, int] | None = option(
        None,
        "Size of each picture in pixels: the side of a square, or width x height",
        "N|WxH",
        shown_default="the model's own size, else 64",
        read=_parse_size,
    )
    output: str = option(
        "generated.png",
        "Where to write: a file for a grid of all pictures, a folder (end its name with /) for one file per picture, "
        "or - for standard output",
        "PATH",
        OUTPUT,
        short="-o",
    )
    overwrite: bool = shared("overwrite")
    skip_existing: bool = shared("skip_existing")
    method: str = option("ddpm", f"Sampling method: {', '.join(SAMPLERS)}", "NAME", SAMPLING)
    variance: str | None = option(
        None,
        f"Variance of the noise that ddpm adds at each step: {', '.join(VARIANCES)}",
        "NAME",
        SAMPLING,
        shown_default="learned if the model has it, else small",
    )
    steps: int = option(SAMPLING_STEPS, "Number of network evaluations per picture", "N", SAMPLING, short="-s")
    seed: int = shared("seed")
    batch: int | None = option(
        None, "Number of pictures to compute at once", "N", SAMPLING, shown_default="depends on the size"
    )
    model: str = shared("model")
    device: str = shared("device")
    precision: str = shared("precision")
    json: bool = option(False, "Print one JSON object per file to standard output", panel=INTERFACE)
    quiet: bool = shared("quiet")
    verbose: bool = shared("verbose")

    def check(self) -> None:
        """Check the values.

        Raises:
            UsageError: A value is out of range, or two options cannot be combined.
        """
        check_generation(
            count=self.count,
            method=self.method,
            variance=self.variance,
            steps=self.steps,
            seed=self.seed,
            batch=self.batch,
        )
        if self.json and self.output == "-":
            raise UsageError("the picture and --json cannot both go to standard output", "name a file with -o")
        if self.overwrite and self.skip_existing:
            raise UsageError("--overwrite and --skip-existing cannot be combined")

    @property
    def seeds(self) -> range:
        """The seed of each picture."""
        return range(self.seed, self.seed + self.count)

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `prepare_generate` other than the seeds, the size and the prior."""
        return {"method": self.method, "variance": self.variance, "steps": self.steps, "batch": self.batch}

    @property
    def writes_single_files(self) -> bool:
        """Whether each picture has a file of its own."""
        return self.output != "-" and (self.output.endswith(("/", os.sep)) or Path(self.output).is_dir())


def _generate(request: Request) -> None:
    """Generate new pictures from random noise.

    The pictures are written as one grid, generated.png, or with -o FOLDER/ as one file each.

    restore generate -n 16 --size 64  ·  restore generate -n 100 -o samples/  ·  restore generate --method langevin
    """
    request.check()
    reporter, began = Reporter(quiet=request.quiet, verbose=request.verbose, as_json=request.json), time.monotonic()
    try:
        targets, skipped = _choose_targets(request)
        for item in skipped:
            reporter.say(f"{item.target} exists: skipped")
            reporter.emit({**_RESULT, "output": str(item.target), "status": "skipped"})
        if targets:
            _sample(request, targets, reporter)
    except RestorerError as error:
        code = exit_code_for(error)
        hint = {"hint": error.hint} if error.hint else {}
        reporter.emit({**_RESULT, "output": None, "status": "failed", "code": code, "error": str(error), **hint})
        raise
    seconds = round(time.monotonic() - began, 2)
    counts = {"ok": len(targets), "failed": 0, "skipped": len(skipped)}
    reporter.emit({"event": "summary", **counts, "seconds": seconds, "exit_code": 0})


def _choose_targets(request: Request) -> tuple[dict[int, Path], list[Item]]:
    """Choose the file of each picture, before anything is computed.

    Returns:
        The files by seed, where a grid has the seed of its first picture, and the items that are skipped because
        their file exists.

    Raises:
        OutputError: A file exists, or cannot be written.
    """
    seeds = (
        {Path(f"seed{seed:04d}"): seed for seed in request.seeds}
        if request.writes_single_files
        else {STDIO: request.seeds[0]}
    )
    to_do, skipped, failed = resolve_targets(
        [(source, None) for source in seeds],
        request.output,
        "generated",
        overwrite=request.overwrite,
        skip_existing=request.skip_existing,
    )
    if failed:
        raise failed[0][1]
    return {seeds[item.source]: item.target for item in to_do}, skipped


def _sample(request: Request, targets: dict[int, Path], reporter: Reporter) -> None:
    """Load the model, generate the pictures batch by batch, and write each single file as soon as it is complete."""
    began = time.monotonic()
    ensure_downloaded(request.model, reporter, "generate")
    with reporter.working("loading PyTorch and the model"):
        import torch

        from restorer.models.load import look_up
        from restorer.tasks.generate import grid, prepare_generate

        for target in targets.values():
            _check_format(target)
        model = look_up(request.model).loaded(request.device, request.precision)
    seeds = list(targets) if request.writes_single_files else list(request.seeds)
    jobs = prepare_generate(seeds, request.size, prior=model.prior, **request.sampling)
    on_cpu = jobs[0].prior.device.type == "cpu"
    _announce(request, jobs, len(seeds), reporter)
    on_timed = Forecast(reporter).start("generate", _workload(jobs, len(seeds)))
    with reporter.progress("generate") as bar:
        bar.begin(_evaluations(jobs) * len(jobs), jobs[0].tiles, on_timed, by_step=not on_cpu)
        pictures = _run_jobs(jobs, bar, reporter)
        if request.writes_single_files:
            for (seed, target), (picture, used_prior) in zip(targets.items(), pictures, strict=True):
                description = _describe(request, model, jobs, used_prior, seed, 1, began)
                _write(request, target, picture, reporter, description)
        else:
            images, priors = zip(*pictures, strict=True)
            description = _describe(request, model, jobs, priors[-1], seeds[0], len(seeds), began)
    if not request.writes_single_files:
        _write(request, targets[seeds[0]], grid(torch.stack(list(images))), reporter, description)


def _run_jobs(jobs: list[Job], bar: Bar, reporter: Reporter) -> Iterator[tuple[Tensor, Tiled]]:
    """Run the jobs of all batches and show their progress on one bar.

    Yields:
        Each picture, and the prior that made it, which has smaller tiles if memory ran out.
    """
    steps = _evaluations(jobs)
    for k, job in enumerate(jobs):

        def on_step(step: Step, before: int = k * steps) -> None:
            bar.step(before + step.index)

        result = job.run(on_step, bar.tile)
        for note in result.notes:
            reporter.warn(note)
        for picture in result.image:
            yield picture, result.prior


def _evaluations(jobs: list[Job]) -> int:
    """Return the number of network evaluations per picture."""
    return jobs[0].plan.evaluations if jobs[0].plan else 0


def _workload(jobs: list[Job], count: int) -> Workload:
    """Return the properties of this run that the estimate of its time depends on."""
    import torch

    return Workload(
        _evaluations(jobs),
        SAMPLING_STEPS,
        partial_option=("--count 1", 1 / count),
        on_cpu=jobs[0].prior.device.type == "cpu",
        has_gpu=torch.cuda.is_available(),
        is_latent=jobs[0].latent is not None,
    )


def _announce(request: Request, jobs: list[Job], count: int, reporter: Reporter) -> None:
    """Report what is about to be generated, in one line."""
    import torch

    from restorer.models.load import precision_name

    prior, plan = jobs[0].prior, jobs[0].plan
    assert plan is not None
    height, width = (jobs[0].factor * side for side in jobs[0].start.shape[-2:])
    width, height = request.size or (width, height)
    device = f"cpu ({torch.get_num_threads()} threads)" if prior.device.type == "cpu" else str(prior.device)
    method = f"ddpm ({plan.variance} variance)" if request.method == "ddpm" else request.method
    reporter.say(
        f"generate {count} of {width}x{height} · {request.model} · {device} · {precision_name(prior)} · {method} · "
        f"{plan.evaluations} step{'' if plan.evaluations == 1 else 's'} · seed {request.seeds[0]}"
    )
    if jobs[0].latent is None:
        reporter.detail("noise levels (0..255): " + " ".join(f"{127.5 * s:.1f}" for s in plan.sigmas))


def _describe(
    request: Request, model: ModelValue, jobs: list[Job], used_prior: Tiled, seed: int, count: int, began: float
) -> dict[str, Any]:
    """Return the fields of a JSON result that describe how its file was made.

    Args:
        request: Command line.
        model: The model.
        jobs: Jobs of all batches.
        used_prior: Prior that made the picture.
        seed: Seed of the first picture in the file.
        count: Number of pictures in the file.
        began: Value of `time.monotonic` when the work began.
    """
    from restorer.models.load import precision_name

    plan = jobs[0].plan
    return {
        "count": count,
        "model": model.identity,
        "device": str(used_prior.device),
        "precision": precision_name(used_prior),
        "steps": _evaluations(jobs),
        "method": request.method,
        "variance": plan.variance if plan and request.method == "ddpm" else None,
        "seed": seed,
        "batch": len(jobs[0].start),
        "seconds": round(time.monotonic() - began, 2),
    }


def _check_format(target: Path) -> None:
    """Check that the format of a file can be written, before anything is computed.

    Raises:
        UsageError: The format is unknown or cannot be written.
    """
    from restorer.images import writing

    writing.target_format(_blank(), sys.stdout.buffer if target == STDIO else target)


def _blank() -> Picture:
    """Return a PNG picture of one black pixel, whose format and metadata the results take on."""
    import numpy as np

    from restorer.images.files import Picture

    return Picture(np.zeros((1, 1, 3), np.uint8), format="PNG")


def _write(request: Request, target: Path, image: Tensor, reporter: Reporter, description: dict[str, Any]) -> None:
    """Write a picture or a grid, float (C, H, W) in [0, 1], and report the result.

    Raises:
        OutputError: The file cannot be written.
    """
    from restorer.images import files, writing

    destination: Path | BinaryIO = sys.stdout.buffer if target == STDIO else target
    picture = files.with_result(_blank(), image)
    notes = writing.save(picture, destination, overwrite=request.overwrite)
    for note in notes:
        reporter.warn(note)
    size = "" if target == STDIO else f" · {human_bytes(target.stat().st_size)}"
    seconds = description["seconds"]
    reporter.say(f"wrote {target} · {picture.width}x{picture.height}{size} · {seconds:.1f} s", style="green")
    shape = {"width": picture.width, "height": picture.height, "mode": "L" if picture.channels == 1 else "RGB"}
    reporter.result(str(target), {**_RESULT, "output": str(target), "status": "ok", **shape, **description})


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("generate")(command_of(Request, _generate, read))
