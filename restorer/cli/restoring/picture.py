"""One picture at work: read and decided on, sampled alone or in a batch with others, written and told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from restorer.cli.terminal.forecast import Forecast, run_of
from restorer.cli.terminal.reporter import Reporter, human_bytes
from restorer.folders.options import Options
from restorer.folders.picture import Work, facts_of, record_of
from restorer.images.find import STDIO

if TYPE_CHECKING:
    import numpy as np

    from restorer.images.files import Picture
    from restorer.tasks.job import Job, Restored

    Prepared = tuple[Job, np.ndarray | None]

__all__ = ["announce", "finish", "sample"]


def announce(work: Work, options: Options, reporter: Reporter) -> None:
    """One line before the work, and what the user should know."""
    import torch

    job = work.job
    parts = facts_of(job, job.prior, options)
    device = f"cpu ({torch.get_num_threads()} threads)" if parts["device"] == "cpu" else parts["device"]
    tiles = f"{job.tiles} tiles" if job.tiles > 1 else "1 tile"
    steps = f"{parts['steps']} step{'' if parts['steps'] == 1 else 's'}"
    said = " (estimated)" if job.estimated else ""
    detail = "by hole" if parts["detail"] is None else f"{parts['detail']:g}"
    more = "" if job.latent else f"sigma {job.sigma:.1f}{said} · detail {detail} · "
    reporter.say(
        f"{options.command} {work.item.source.name} · {options.model} · {device} · {parts['precision']} · "
        f"{steps} · {tiles} · {more}seed {options.seed}"
    )
    for note in (*work.picture.notes, *job.notes):
        reporter.warn(note)
    if job.plan is not None and job.latent is None:
        reporter.detail("noise levels (0..255): " + " ".join(f"{127.5 * s:.1f}" for s in job.plan.sigmas))


def sample(
    works: list[Work], options: Options, reporter: Reporter, forecast: Forecast, is_told: Callable[[], bool]
) -> list[Restored | BaseException | None]:
    """The results, or what became of them; None where there is nothing to compute.

    Args:
        is_told: whether all is said that comes before; as long as it is not, nor is the progress.
    """
    from restorer.errors import RestorerError
    from restorer.tasks.batching import run_together

    if works[0].job.plan is None:  # which is then alone
        forecast.pass_over()
        return [None]

    def shown(show: Callable[..., None], *where: int) -> None:
        if is_told():
            show(*where)

    first, jobs = works[0], [work.job for work in works]
    longest = max(jobs, key=lambda job: job.evaluations)
    label = first.item.source.name if len(works) == 1 else f"{len(works)} pictures"
    tell = forecast.of(label, run_of(options, longest, longest.evaluations - longest.more), len(works))
    with reporter.progress(label) as bar:
        bar.begin(longest.evaluations, longest.tiles, tell, by_step=longest.prior.device.type != "cpu")
        if len(works) > 1:
            # after memory ran out a job asks more often, tile by tile
            return list(run_together(jobs, on_round=lambda n: shown(bar.step, min(n, longest.evaluations))))
        try:
            return [first.job.run(lambda step: shown(bar.step, step.index), lambda *tiles: shown(bar.tile, *tiles))]
        except RestorerError as error:
            return [error]


def finish(
    work: Work,
    restored: Restored | None,
    options: Options,
    reporter: Reporter,
    *,
    seconds: float,
    batch: int,
) -> dict[str, Any]:
    """Write a result and say so.

    Args:
        restored: what was computed; None where the picture stays as it is.
        seconds: that it took so far. batch: pictures that shared the evaluations.

    Returns:
        What the log and `--json` say of it.

    Raises:
        OutputError: it cannot be written.
    """
    from restorer.images import files, writing
    from restorer.models.load import identity

    began, item, picture, job = time.monotonic(), work.item, work.picture, work.job
    result, notes, used = picture, tuple[str, ...](), job.prior
    if restored is not None:
        notes, used = restored.notes, restored.prior
        result = files.with_result(picture, restored.image, keep=work.keep)
        result = files.with_record(result, record_of(work, options, used, batch).text())
    notes = (*notes, *writing.save(result, work.target, format=work.form, overwrite=options.overwrite or work.ours))
    for note in notes:
        reporter.warn(note)
    seconds += time.monotonic() - began
    size = "" if item.target == STDIO else f" · {human_bytes(item.target.stat().st_size)}"
    reporter.say(f"wrote {item.target} · {result.width}x{result.height}{size} · {seconds:.1f} s", style="green")
    if options.show:
        _show(picture, result, reporter)
    return {
        "width": result.width,
        "height": result.height,
        "mode": result.mode,
        "depth_in": picture.depth,
        "depth_out": writing.written_depth(result, work.form),
        "model": identity(options.model),
        **facts_of(job, used, options),
        "batch": batch,
        "seconds": round(seconds, 2),
        "peak_mem_mb": _peak_memory(),
        "warnings": [*picture.notes, *job.notes, *notes],
        **({"recipe": work.recipe} if work.recipe else {}),
    }


def _show(before: Picture, after: Picture, reporter: Reporter) -> None:
    from restorer.cli.terminal.half_blocks import show
    from restorer.images.files import reduced, to_pil

    if not reporter.quiet and not show(
        reporter.console, [to_pil(reduced(replace(p, alpha=None), 8)) for p in (before, after)]
    ):
        reporter.warn("nothing is shown: this is no terminal with colours")


def _peak_memory() -> int | None:
    """The most memory this process has held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
