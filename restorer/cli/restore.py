"""The three restoring verbs: `denoise`, `inpaint`, `upscale`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from restorer.batch import STDIO, Item, collect, decide, exit_code_of, find_mask
from restorer.cli.console import Reporter, code_of, human_bytes
from restorer.cli.downloading import obtain
from restorer.cli.options import (
    Detail,
    Device,
    Inputs,
    Json,
    Method,
    Model,
    Options,
    Output,
    Overwrite,
    Precision,
    Quiet,
    Recursive,
    Seed,
    Sigma,
    SkipExisting,
    Steps,
    Tile,
    Verbose,
    parse,
)
from restorer.errors import PictureError, RestorerError, UsageError
from restorer.limits import SCALES, check

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from restorer.images.files import Picture
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks import Job

    Prepared = tuple[Job, np.ndarray | None]

__all__ = ["load_prior_of", "register"]

Prepare = Callable[["Tensor", Item, "Picture", "UNetPrior | Tiled"], "Prepared"]


def _restore_all(options: Options, tag: str, prepare: Prepare) -> None:
    """Everything but what tells the verbs apart: decide, load the model once, restore one picture after the other."""
    reporter = Reporter(quiet=options.quiet, verbose=options.verbose, as_json=options.json)
    began = time.monotonic()
    pictures, refused = _collect(options)
    to_do, skipped, more = decide(
        pictures, options.output, tag, overwrite=options.overwrite, skip_existing=options.skip_existing
    )
    codes = [_failed(reporter, options, item, error) for item, error in [*refused, *more]]
    for item in skipped:
        reporter.say(f"{item.target} exists: skipped")
        reporter.record(_record(options, item, status="skipped"))
    done = 0
    try:
        if to_do:
            obtain(options.model, reporter)
            with reporter.working("loading PyTorch and the model"):
                prior = load_prior_of(options)
    except RestorerError as error:
        reporter.fail(error)
        codes += [_failed(reporter, options, item, error, said=True) for item in to_do]
        to_do = []
    for item in to_do:
        try:
            _restore_one(options, item, prior, prepare, reporter)
            done += 1
        except RestorerError as error:
            codes.append(_failed(reporter, options, item, error))
    code = exit_code_of(codes, done + len(skipped))
    seconds = round(time.monotonic() - began, 2)
    counts = {"ok": done, "failed": len(codes), "skipped": len(skipped)}
    reporter.record({"event": "summary", **counts, "seconds": seconds, "exit_code": code})
    if sum(counts.values()) > 1:
        reporter.say(f"{done} done, {len(codes)} failed, {len(skipped)} skipped in {seconds:.1f} s")
    if code:
        raise typer.Exit(code)


def _collect(options: Options) -> tuple[list[tuple[Path, Path | None]], list[tuple[Item, RestorerError]]]:
    """What the inputs name, and what they name in vain: one absent picture does not stop the others."""
    found: dict[Path, Path | None] = {}
    absent: list[tuple[Item, RestorerError]] = []
    for name in options.inputs:
        try:
            for path, root in collect([name], recursive=options.recursive):
                found.setdefault(path, root)
        except PictureError as error:
            absent.append((Item(Path(name), Path()), error))
    return list(found.items()), absent


def _failed(reporter: Reporter, options: Options, item: Item, error: RestorerError, *, said: bool = False) -> int:
    code = code_of(error)
    if not said:
        reporter.fail(error, str(item.source))
    hint = {"hint": error.hint} if error.hint else {}
    reporter.record(_record(options, item, status="failed", code=code, error=str(error), **hint))
    return code


def _record(options: Options, item: Item, **more: Any) -> dict[str, Any]:
    place = {"input": str(item.source), "output": str(item.target) if item.target != Path() else None}
    return {"event": "result", "command": options.command, **place, **more}


def load_prior_of(options: Options) -> UNetPrior | Tiled:
    """The prior that a command line asks for, in the tiles it asks for."""
    from restorer.priors.catalog import load_prior
    from restorer.priors.tiled import Tiled

    prior = load_prior(options.model, options.device, options.precision)
    if options.tile == "auto":
        return prior
    side = 1 << 30 if options.tile == "off" else int(options.tile)
    return Tiled(prior, side, overlap=0 if options.tile == "off" else min(64, side // 4))


def _restore_one(options: Options, item: Item, prior: UNetPrior | Tiled, prepare: Prepare, reporter: Reporter) -> None:
    from restorer.images import files, writing

    began = time.monotonic()
    picture = files.load(sys.stdin.buffer if item.source == STDIO else item.source)
    target: Path | BinaryIO = sys.stdout.buffer if item.target == STDIO else item.target
    form = writing.target_format(picture, target)
    job, keep = prepare(files.to_tensor(picture), item, picture, prior)
    _announce(reporter, options, item, job, (*picture.notes, *job.notes))
    if job.plan is None:
        result, notes, used = picture, tuple[str, ...](), job.prior
    else:
        with reporter.progress(item.source.name) as bar:
            bar.begin(job.plan.evaluations, job.tiles)
            restored = job.run(on_step=lambda step: bar.step(step.index), on_tile=bar.tile)
        notes, used = restored.notes, restored.prior
        result = files.with_result(picture, restored.image, keep=keep)
    notes = (*notes, *writing.save(result, target, format=form, overwrite=options.overwrite))
    for note in notes:
        reporter.warn(note)
    seconds = time.monotonic() - began
    size = "" if item.target == STDIO else f" · {human_bytes(item.target.stat().st_size)}"
    reporter.say(f"wrote {item.target} · {result.width}x{result.height}{size} · {seconds:.1f} s", style="green")
    warnings = [*picture.notes, *job.notes, *notes]
    reporter.result(str(item.target), _details(options, item, job, used, result, warnings, seconds))


def _parts(options: Options, job: Job, prior: Tiled) -> dict[str, Any]:
    from restorer.priors.catalog import precision_name

    plan = job.plan
    return {
        "device": str(prior.device),
        "precision": precision_name(prior),
        "steps": plan.evaluations if plan else 0,
        "method": options.method,
        "detail": job.detail,
        "seed": options.seed,
        "sigma": round(job.sigma, 2),
        "tile": min(prior.tile, max(job.start.shape[-2:])),
        "overlap": prior.overlap,
    }


def _announce(reporter: Reporter, options: Options, item: Item, job: Job, notes: tuple[str, ...]) -> None:
    """One line before the work, and what the user should know."""
    import torch

    parts = _parts(options, job, job.prior)
    device = f"cpu ({torch.get_num_threads()} threads)" if parts["device"] == "cpu" else parts["device"]
    tiles = f"{job.tiles} tiles" if job.tiles > 1 else "1 tile"
    steps = f"{parts['steps']} step{'' if parts['steps'] == 1 else 's'}"
    said = " (estimated)" if job.estimated else ""
    reporter.say(
        f"{options.command} {item.source.name} · {options.model} · {device} · {parts['precision']} · {steps} · "
        f"{tiles} · sigma {job.sigma:.1f}{said} · detail {job.detail:g} · seed {options.seed}"
    )
    for note in notes:
        reporter.warn(note)
    if job.plan is not None:
        reporter.detail("noise levels (0..255): " + " ".join(f"{127.5 * s:.1f}" for s in job.plan.sigmas))


def _details(
    options: Options, item: Item, job: Job, used: Tiled, result: Picture, warnings: list[str], seconds: float
) -> dict[str, Any]:
    """The JSON object of a picture that was restored."""
    from restorer.priors.catalog import find_model, weights_sha256
    from restorer.priors.hub import revision_of

    place = find_model(options.model)
    size = {
        "width": result.width,
        "height": result.height,
        "mode": result.mode,
        "depth_in": result.depth,
        "depth_out": 8,
    }
    model = {"id": options.model, "sha256": weights_sha256(place), "revision": revision_of(place)}
    end = {"seconds": round(seconds, 2), "peak_mem_mb": _peak_memory(), "warnings": warnings}
    return _record(options, item, status="ok", **size, model=model, **_parts(options, job, used), **end)


def _peak_memory() -> int | None:
    """The most memory this process has held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def _denoise(
    inputs: Inputs,
    sigma: Sigma = "auto",
    output: Output = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    recursive: Recursive = False,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove noise. Writes INPUT_denoised beside each input.

    restore denoise img.png  ·  restore denoise scan.jpg --sigma 30  ·  restore denoise photos/ -r -o clean/
    """
    options = parse("denoise", **locals())
    if options.steps == 1 and options.detail:
        raise UsageError("one step gives no detail: it is the posterior mean", "use --steps 2 or more, or --detail 0")

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.tasks import prepare_denoise

        return prepare_denoise(image, prior=prior, **options.sampling), None

    _restore_all(options, "denoised", prepare)


def _inpaint(
    inputs: Inputs,
    mask: Annotated[Path, typer.Option("--mask", metavar="FILE|FOLDER", help="White = fill", show_default=False)],
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="Black = fill")] = False,
    sigma: Sigma = "0",
    output: Output = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    recursive: Recursive = False,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fill holes: white in the mask is filled, every other pixel stays as it is. Writes INPUT_inpainted.

    restore inpaint img.png --mask m.png  ·  restore inpaint photos/ -r --mask masks/ -o filled/
    """
    given = {name: value for name, value in locals().items() if name not in ("mask", "invert_mask")}
    options = parse("inpaint", **given)
    if not mask.exists():
        raise PictureError(f"the mask {mask} does not exist", "check the path")

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        import torch

        from restorer.images.files import load_mask
        from restorer.tasks import prepare_inpaint

        found = load_mask(find_mask(mask, item), (picture.height, picture.width), invert=invert_mask)
        job = prepare_inpaint(image, torch.from_numpy(found.fill), prior=prior, **options.sampling)
        return job.noting(found.note), None if job.sigma else ~found.fill

    _restore_all(options, "inpainted", prepare)


def _upscale(
    inputs: Inputs,
    scale: Annotated[int, typer.Option("--scale", metavar="N", help=" | ".join(map(str, SCALES)))] = 4,
    sigma: Sigma = "0",
    output: Output = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    recursive: Recursive = False,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Enlarge. Shrinking the result gives the input back. Writes INPUT_x4.

    restore upscale img.png  ·  restore upscale img.png --scale 2  ·  restore upscale img.png --steps 100
    """
    options = parse("upscale", **{name: value for name, value in locals().items() if name != "scale"})
    check(scale=scale)

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.tasks import prepare_upscale

        return prepare_upscale(image, scale, prior=prior, **options.sampling), None

    _restore_all(options, f"x{scale}", prepare)


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    for name, verb in (("denoise", _denoise), ("inpaint", _inpaint), ("upscale", _upscale)):
        app.command(name, no_args_is_help=True)(verb)
