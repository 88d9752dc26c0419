"""The verb `generate`: sample the prior, nothing being measured."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from restorer.cli.options import (
    INTERFACE,
    OUTPUT,
    SAMPLING,
    Device,
    Model,
    Overwrite,
    Precision,
    Quiet,
    Seed,
    SkipExisting,
    Verbose,
)
from restorer.cli.terminal.downloads import obtain
from restorer.cli.terminal.forecast import Forecast, Run
from restorer.cli.terminal.reporter import Reporter, code_of, human_bytes
from restorer.errors import RestorerError, UsageError
from restorer.folders.paths import Item, decide
from restorer.images.find import STDIO
from restorer.limits import SAMPLERS, SAMPLING_STEPS, VARIANCES, check_generation

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.cli.terminal.reporter import Bar
    from restorer.diffusion.reverse import Step
    from restorer.images.files import Picture
    from restorer.priors.tiled import Tiled
    from restorer.tasks.job import Job

__all__ = ["register"]

DEFAULT = "generated.png"
_RESULT = {"event": "result", "command": "generate"}


@dataclass(frozen=True)
class Request:
    """What was asked for, read and checked."""

    seeds: range
    size: tuple[int, int] | None
    output: str
    overwrite: bool
    method: str
    variance: str | None
    steps: int
    batch: int | None
    model: str
    device: str
    precision: str

    @property
    def sampling(self) -> dict[str, Any]:
        """The arguments that `prepare_generate` takes besides seeds, size and prior."""
        return {"method": self.method, "variance": self.variance, "steps": self.steps, "batch": self.batch}

    @property
    def single(self) -> bool:
        """Whether each picture has a file of its own."""
        return self.output != "-" and (self.output.endswith(("/", os.sep)) or Path(self.output).is_dir())


def _size(text: str | None) -> tuple[int, int] | None:
    """'64' or '96x64' -> (width, height)."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise UsageError(f"the size must be a side or WxH in pixels, not {text!r}", "--size 64, or --size 96x64")
    width, height = int(sides[0]), int(sides[-1])
    check_generation(width=width, height=height)
    return width, height


def _generate(
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", help="How many pictures")] = 16,
    size: Annotated[
        str | None, typer.Option("--size", metavar="N|WxH", help="Pixels", show_default="by model, else 64")
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="PATH", help="File (a grid), folder/ (single files) or -", rich_help_panel=OUTPUT
        ),
    ] = DEFAULT,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help=" | ".join(SAMPLERS), rich_help_panel=SAMPLING)
    ] = "ddpm",
    variance: Annotated[
        str | None,
        typer.Option(
            "--variance",
            metavar="NAME",
            help=f"Of ddpm: {' | '.join(VARIANCES)}",
            show_default="learned where the model has it, else small",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("-s", "--steps", metavar="N", help="Network evaluations", rich_help_panel=SAMPLING)
    ] = SAMPLING_STEPS,
    seed: Seed = 0,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", help="Pictures at once", show_default="by size", rich_help_panel=SAMPLING),
    ] = None,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a file on stdout", rich_help_panel=INTERFACE)
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make pictures from nothing but noise. Writes generated.png, a grid; into a folder, one file a picture.

    restore generate -n 16 --size 64  ·  restore generate -n 100 -o samples/  ·  restore generate --method langevin
    """
    sides = _size(size)
    check_generation(count=count, method=method, variance=variance, steps=steps, seed=seed, batch=batch)
    if json and output == "-":
        raise UsageError("the picture and --json cannot both go to standard output", "name a file with -o")
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other")
    seeds = range(seed, seed + count)
    request = Request(seeds, sides, output, overwrite, method, variance, steps, batch, model, device, precision)
    reporter, began = Reporter(quiet=quiet, verbose=verbose, as_json=json), time.monotonic()
    try:
        targets, skipped = _targets(request, skip_existing=skip_existing)
        for item in skipped:
            reporter.say(f"{item.target} exists: skipped")
            reporter.record({**_RESULT, "output": str(item.target), "status": "skipped"})
        if targets:
            _sample(request, targets, reporter)
    except RestorerError as error:
        code = code_of(error)
        hint = {"hint": error.hint} if error.hint else {}
        reporter.record({**_RESULT, "output": None, "status": "failed", "code": code, "error": str(error), **hint})
        raise
    seconds = round(time.monotonic() - began, 2)
    counts = {"ok": len(targets), "failed": 0, "skipped": len(skipped)}
    reporter.record({"event": "summary", **counts, "seconds": seconds, "exit_code": 0})


def _targets(request: Request, *, skip_existing: bool) -> tuple[dict[int, Path], list[Item]]:
    """Where the picture of each seed goes, and what is there already; a grid stands under its first seed.

    Raises:
        OutputError: a file exists, or the place cannot be written to. Then nothing is made.
    """
    seeds = {Path(f"seed{seed:04d}"): seed for seed in request.seeds} if request.single else {STDIO: request.seeds[0]}
    to_do, skipped, failed = decide(
        [(source, None) for source in seeds],
        request.output,
        "generated",
        overwrite=request.overwrite,
        skip_existing=skip_existing,
    )
    if failed:
        raise failed[0][1]
    return {seeds[item.source]: item.target for item in to_do}, skipped


def _sample(request: Request, targets: dict[int, Path], reporter: Reporter) -> None:
    """Load the model, make the pictures a batch at a time, write each as soon as it is there."""
    began = time.monotonic()
    obtain(request.model, reporter, "generate")
    with reporter.working("loading PyTorch and the model"):
        import torch

        from restorer.models.load import load_prior
        from restorer.tasks.generate import grid, prepare_generate

        for target in targets.values():
            _check_format(target)
        prior = load_prior(request.model, request.device, request.precision)
    seeds = list(targets) if request.single else list(request.seeds)
    jobs = prepare_generate(seeds, request.size, prior=prior, **request.sampling)
    _announce(request, jobs, len(seeds), reporter)
    tell = Forecast(reporter).of("generate", _run(jobs, len(seeds)))
    with reporter.progress("generate") as bar:
        bar.begin(_steps(jobs) * len(jobs), jobs[0].tiles, tell, by_step=prior.device.type != "cpu")
        pictures = _pictures(jobs, bar, reporter)
        if request.single:
            for (seed, target), (picture, used) in zip(targets.items(), pictures, strict=True):
                _write(request, target, picture, reporter, _facts(request, jobs, used, seed, 1, began))
        else:
            images, priors = zip(*pictures, strict=True)
            facts = _facts(request, jobs, priors[-1], seeds[0], len(seeds), began)
    if not request.single:
        _write(request, targets[seeds[0]], grid(torch.stack(list(images))), reporter, facts)


def _pictures(jobs: list[Job], bar: Bar, reporter: Reporter) -> Iterator[tuple[Tensor, Tiled]]:
    """Every picture in turn, and the prior as it was used for it; the bar runs over all batches."""
    steps = _steps(jobs)
    for k, job in enumerate(jobs):

        def on_step(step: Step, before: int = k * steps) -> None:
            bar.step(before + step.index)

        done = job.run(on_step, bar.tile)
        for note in done.notes:
            reporter.warn(note)
        for picture in done.image:
            yield picture, done.prior


def _steps(jobs: list[Job]) -> int:
    """Network evaluations a picture."""
    return jobs[0].plan.evaluations if jobs[0].plan else 0


def _run(jobs: list[Job], count: int) -> Run:
    """What decides how long it takes."""
    import torch

    return Run(
        _steps(jobs),
        SAMPLING_STEPS,
        part=("--count 1", 1 / count),
        on_cpu=jobs[0].prior.device.type == "cpu",
        gpu=torch.cuda.is_available(),
        latent=jobs[0].latent is not None,
    )


def _announce(request: Request, jobs: list[Job], count: int, reporter: Reporter) -> None:
    """One line before the work."""
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


def _facts(request: Request, jobs: list[Job], used: Tiled, seed: int, count: int, began: float) -> dict[str, Any]:
    """What the JSON object says of the way a file was made."""
    from restorer.models.load import identity, precision_name

    plan = jobs[0].plan
    return {
        "count": count,
        "model": identity(request.model),
        "device": str(used.device),
        "precision": precision_name(used),
        "steps": _steps(jobs),
        "method": request.method,
        "variance": plan.variance if plan and request.method == "ddpm" else None,
        "seed": seed,
        "batch": len(jobs[0].start),
        "seconds": round(time.monotonic() - began, 2),
    }


def _check_format(target: Path) -> None:
    """Say before the work that a format cannot be written."""
    from restorer.images import writing

    writing.target_format(_blank(), sys.stdout.buffer if target == STDIO else target)


def _blank() -> Picture:
    import numpy as np

    from restorer.images.files import Picture

    return Picture(np.zeros((1, 1, 3), np.uint8), format="PNG")


def _write(request: Request, target: Path, image: Tensor, reporter: Reporter, facts: dict[str, Any]) -> None:
    from restorer.images import files, writing

    place: Path | BinaryIO = sys.stdout.buffer if target == STDIO else target
    picture = files.with_result(_blank(), image)
    notes = writing.save(picture, place, overwrite=request.overwrite)
    for note in notes:
        reporter.warn(note)
    size = "" if target == STDIO else f" · {human_bytes(target.stat().st_size)}"
    reporter.say(f"wrote {target} · {picture.width}x{picture.height}{size} · {facts['seconds']:.1f} s", style="green")
    shape = {"width": picture.width, "height": picture.height, "mode": "L" if picture.channels == 1 else "RGB"}
    reporter.result(str(target), {**_RESULT, "output": str(target), "status": "ok", **shape, **facts})


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("generate")(_generate)
