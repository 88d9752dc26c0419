"""The restoration of one picture in the terminal: it is announced, sampled alone or in a batch, and written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restorer.cli.restoring.extras import prepare_extras, write_extras
from restorer.cli.terminal.forecast import Forecast, picture_workload
from restorer.cli.terminal.reporter import Reporter, human_bytes
from restorer.folders.options import Options
from restorer.folders.picture import Kept, PreparedPicture, build_record, effective_settings
from restorer.images.attributes import set_times
from restorer.images.find import STDIO

if TYPE_CHECKING:
    from restorer.images.files import Picture
    from restorer.tasks.job import Restored

__all__ = ["announce", "sample", "write_result"]


def announce(prepared: PreparedPicture, options: Options, reporter: Reporter) -> None:
    """Print one line about a picture before it is restored, followed by its notes."""
    import torch

    job = prepared.job
    settings = effective_settings(job, job.prior, options)
    device = f"cpu ({torch.get_num_threads()} threads)" if settings["device"] == "cpu" else settings["device"]
    tiles = f"{job.tiles} tiles" if job.tiles > 1 else "1 tile"
    steps = f"{settings['steps']} step{'' if settings['steps'] == 1 else 's'}"
    origin = " (estimated)" if job.estimated else ""
    strength = f"sigma {job.sigma:.1f}{origin}"
    if job.noise is not None and job.noise.kind == "camera":
        strength = job.noise.describe()
    elif job.noise is not None and job.noise.kind == "none" and job.estimated:
        strength = "no noise found"
    if job.jpeg is not None:
        has_noise = job.noise is not None and job.noise.sigma > 0
        strength = f"{strength} · {job.jpeg.describe()}" if has_noise else job.jpeg.describe()
    detail = "by hole size" if settings["detail"] is None else f"{settings['detail']:g}"
    noise = "" if job.latent else f"{strength} · detail {detail} · "
    reporter.say(
        f"{options.command} {prepared.item.source.name} · {options.model} · {device} · {settings['precision']} · "
        f"{steps} · {tiles} · {noise}seed {options.seed}"
    )
    for note in (*prepared.picture.notes, *job.notes):
        reporter.warn(note)
    if job.plan is not None and job.latent is None:
        reporter.detail("noise levels (0..255): " + " ".join(f"{127.5 * s:.1f}" for s in job.plan.sigmas))


def sample(
    batch: list[PreparedPicture],
    options: Options,
    reporter: Reporter,
    forecast: Forecast,
    is_announced: Callable[[], bool],
) -> list[Restored | BaseException | None]:
    """Sample a batch of pictures, showing the progress.

    Args:
        batch: The pictures. Those that need no sampling are passed over.
        options: The options of the run.
        reporter: Shows the progress.
        forecast: Prints the estimated time.
        is_announced: Returns whether all earlier messages are printed; until then no progress is shown.

    Returns:
        For each picture its result, or the error that occurred; None if the picture needs no sampling.
    """
    to_sample = [prepared for prepared in batch if prepared.job.plan is not None]
    for _ in range(len(batch) - len(to_sample)):
        forecast.skip_picture()
    if not to_sample:
        return [None] * len(batch)
    sampled = iter(_sample_all(to_sample, options, reporter, forecast, is_announced))
    return [None if prepared.job.plan is None else next(sampled) for prepared in batch]


def _sample_all(
    batch: list[PreparedPicture],
    options: Options,
    reporter: Reporter,
    forecast: Forecast,
    is_announced: Callable[[], bool],
) -> list[Restored | BaseException]:
    """Sample pictures that all need it; see `sample`."""
    from restorer.errors import RestorerError
    from restorer.tasks.batching import run_together
    from restorer.tasks.uncertain import runs

    jobs = [prepared.job for prepared in batch]

    def show(update: Callable[..., None], *position: int) -> None:
        if is_announced():
            update(*position)

    longest = max(jobs, key=lambda job: job.evaluations)
    label = batch[0].item.source.name if len(batch) == 1 else f"{len(batch)} pictures"
    workload = picture_workload(options, longest, longest.evaluations - longest.second_pass_evaluations)
    on_timed = forecast.start(label, workload, len(jobs))
    with reporter.progress(label) as bar:
        bar.begin(
            longest.evaluations * runs(longest.asked, longest.doubt),
            longest.tiles,
            on_timed,
            by_step=longest.prior.device.type != "cpu",
        )
        if len(jobs) > 1:
            # After memory has run out, a job evaluates tile by tile, so there may be more rounds than evaluations.
            return list(run_together(jobs, on_round=lambda n: show(bar.step, min(n, longest.evaluations))))
        try:
            return [jobs[0].run(lambda step: show(bar.step, step.index), lambda *tiles: show(bar.tile, *tiles))]
        except RestorerError as error:
            return [error]


def write_result(
    prepared: PreparedPicture,
    restored: Restored | None,
    options: Options,
    reporter: Reporter,
    *,
    seconds: float,
    batch: int,
) -> dict[str, Any]:
    """Write a result and report it.

    Args:
        prepared: The picture and its job.
        restored: The restored picture; None if the picture is copied as it is.
        options: The options of the run.
        reporter: Receives the messages.
        seconds: Seconds that the picture has taken so far.
        batch: Number of pictures that shared the network's evaluations.

    Returns:
        The fields that the log and `--json` report about the result.

    Raises:
        OutputError: The result cannot be written.
    """
    from restorer.images import files, writing
    from restorer.models.load import identity

    start, item, picture, job = time.monotonic(), prepared.item, prepared.picture, prepared.job
    result, notes, prior = picture, tuple[str, ...](), job.prior
    if options.region is not None:
        result = files.cut(picture, options.region)
    before, extras = result, None
    if restored is not None:
        notes, prior = restored.notes, restored.prior
        kept = Kept(None) if prepared.kept is None else prepared.kept
        result = files.with_result(result, restored.image, kept.pixels, reveal=kept.reveals, alpha=restored.alpha)
        extras = prepare_extras(prepared, restored, options, build_record(prepared, options, prior, batch))
        result = files.with_record(result, extras.record.to_json())
    overwrite = options.overwrite or prepared.may_replace
    is_left, backup, told = options.in_place and result.original is not None, {}, dict[str, Any]()
    if is_left:
        notes = (*notes, "nothing has changed: the file is left as it is")
    else:
        if options.in_place:
            backup = _keep_original(item.target, picture, options.backup)
            overwrite = True
        notes = (*notes, *writing.save(result, prepared.target, prepared.format, overwrite, options.quality))
        notes = (*notes, *_keep_times(prepared))
        told = write_extras(prepared, restored, extras, result, options, reporter, overwrite=overwrite)
    for note in notes:
        reporter.warn(note)
    seconds += time.monotonic() - start
    size = f" · {human_bytes(item.target.stat().st_size)}" if item.target != STDIO and item.target.is_file() else ""
    done = "left" if is_left else "replaced" if options.in_place else "wrote"
    reporter.say(f"{done} {item.target} · {result.width}x{result.height}{size} · {seconds:.1f} s", style="green")
    if options.show:
        _show_before_and_after(before, result, reporter)
    return {
        "width": result.width,
        "height": result.height,
        "mode": result.mode,
        "depth_in": picture.depth,
        "depth_out": writing.written_depth(result, prepared.format),
        "model": identity(options.model),
        **effective_settings(job, prior, options),
        "batch": batch,
        "seconds": round(seconds, 2),
        "peak_mem_mb": _peak_memory_mb(),
        "warnings": [*picture.notes, *job.notes, *notes],
        **told,
        **({"recipe": prepared.fingerprint} if prepared.fingerprint else {}),
        **backup,
    }


def _keep_times(prepared: PreparedPicture) -> list[str]:
    """Give a result the times of its picture if that is wanted, and return a note if the system refuses."""
    target = prepared.item.target
    if prepared.times is None or target == STDIO or not target.is_file():
        return []
    try:
        set_times(target, prepared.times)
    except OSError as error:
        return [f"the times of the file cannot be set: {error.strerror}"]
    return []


def _keep_original(path: Path, picture: Picture, suffix: str | None) -> dict[str, str]:
    """Check that a picture can be replaced now, and keep a backup of it if that is wanted.

    Returns:
        The path of the backup as a field of the event; empty if there is none.

    Raises:
        OutputError: The file has changed since it was read, or the backup cannot be written.
    """
    from restorer.folders.in_place import check_unchanged, keep_backup

    check_unchanged(path, picture)
    return {} if suffix is None else {"backup": str(keep_backup(path, suffix))}


def _show_before_and_after(before: Picture, after: Picture, reporter: Reporter) -> None:
    from restorer.cli.terminal.half_blocks import show
    from restorer.images.files import reduce_depth, to_pil

    if not reporter.quiet and not show(
        reporter.console, [to_pil(reduce_depth(replace(p, alpha=None), 8)) for p in (before, after)]
    ):
        reporter.warn("the pictures are not drawn, because this is not a terminal with colours")


def _peak_memory_mb() -> int | None:
    """Return the peak memory of this process in MB; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, other systems kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
