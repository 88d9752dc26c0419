"""The estimated time of a run, printed as soon as some evaluations are timed, and the options that would save time.

The timed evaluations are those of the run itself. The first one includes work that is done only once (loading code,
choosing kernels), so if it was short, the evaluations after it are timed instead (`reporter.Timing`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from restorer.cli.terminal.reporter import Reporter, format_duration
from restorer.folders.options import Options
from restorer.tasks.defaults import DEFAULT_STEPS, LATENT_STEPS

if TYPE_CHECKING:
    from restorer.priors.tiled import Tiled
    from restorer.tasks.job import Job

__all__ = [
    "DEFAULT_STEPS",
    "MIN_ADVISED_SECONDS",
    "MIN_ANNOUNCED_SECONDS",
    "Forecast",
    "Workload",
    "faster_options",
    "picture_workload",
]

MIN_ANNOUNCED_SECONDS = 10.0
"""Estimated seconds from which the estimate is printed."""

MIN_ADVISED_SECONDS = 60.0
"""Estimated seconds on a CPU above which faster options are printed."""

MAX_TIME_SHARE = 0.8  # an option is only printed if it takes at most this share of the time


@dataclass(frozen=True)
class Workload:
    """The properties of a run that decide how long it takes.

    Args:
        steps: Number of network evaluations of the whole picture.
        default_steps: Number of network evaluations by default; None if the number is not an option.
        allows_single_step: Whether `--detail 0` would take a single evaluation instead.
        tile_auto_share: The time with `--tile auto`, as a share of the time of this run.
        partial_option: An option that does part of the work, and its time as a share of the time of this run.
        is_embedded: Whether the model is the embedded one.
        on_cpu: Whether the run uses the CPU.
        has_gpu: Whether the machine has a GPU.
        is_latent: Whether latents are decoded at the end, which the evaluations do not include.
    """

    steps: int
    default_steps: int | None
    allows_single_step: bool = False
    tile_auto_share: float = 1.0
    partial_option: tuple[str, float] = ("", 1.0)
    is_embedded: bool = True
    on_cpu: bool = True
    has_gpu: bool = False
    is_latent: bool = False


def picture_workload(options: Options, job: Job, steps: int) -> Workload:
    """Return the workload of one picture in a restoring verb.

    Args:
        options: The options of the run.
        job: The restoration.
        steps: Number of network evaluations, without those of a second pass.
    """
    import torch

    from restorer.tasks.tiles import with_default_tiles

    height, width = job.start.shape[-2:]

    def evaluated_area(tiles: Tiled) -> int:
        """Return the number of pixels that one evaluation processes, counting overlaps as often as they occur."""
        return tiles.count(height, width) * min(tiles.tile, height) * min(tiles.tile, width)

    tile_auto_share = 1.0
    if not job.latent:
        tile_auto_share = evaluated_area(with_default_tiles(job.prior.prior, height, width)) / evaluated_area(job.prior)
    return Workload(
        steps,
        LATENT_STEPS if job.latent else DEFAULT_STEPS.get(options.command),
        allows_single_step=options.command == "denoise" and steps > 1,
        tile_auto_share=tile_auto_share,
        is_embedded=options.model == "photo",
        on_cpu=job.prior.device.type == "cpu",
        has_gpu=torch.cuda.is_available(),
        is_latent=job.latent is not None,
    )


def faster_options(workload: Workload, seconds: float) -> list[str]:
    """Return the options that would save time, each with its estimated time if that can be derived.

    Args:
        workload: The workload as it is.
        seconds: The estimated time of the workload.
    """
    candidates: list[tuple[str, float | None]] = []
    steps, default = workload.steps, workload.default_steps
    if workload.allows_single_step:
        candidates.append(("--detail 0", seconds / steps))
    if default is not None and steps > default:
        candidates.append((f"--steps {default}", default / steps * seconds))
    elif steps == default and not workload.allows_single_step:
        candidates.append((f"--steps {default // 2}", default // 2 / steps * seconds))
    option, share = workload.partial_option
    candidates += [("--tile auto", workload.tile_auto_share * seconds), (option, share * seconds)]
    if not workload.is_embedded:
        candidates.append(("--model photo", None))
    candidates.append(("--device cuda" if workload.has_gpu else "a machine with a GPU", None))
    return [
        option if time is None else f"{option} (about {format_duration(time)})"
        for option, time in candidates
        if time is None or time <= MAX_TIME_SHARE * seconds
    ]


class Forecast:
    """Messages about the estimated time of each picture and, once per run, about the options that would save time.

    Args:
        reporter: Receives the messages.
        pictures: Number of pictures of the run.
    """

    def __init__(self, reporter: Reporter, pictures: int = 1) -> None:
        self._reporter, self._remaining = reporter, pictures
        self._has_printed_total = self._has_advised = False

    def skip_picture(self) -> None:
        """Exclude a picture that will not be sampled."""
        self._remaining -= 1

    def start(self, label: str, workload: Workload, pictures: int = 1) -> Callable[[float], None]:
        """Start the forecast of the next picture or batch.

        Args:
            label: The name of the picture or batch in the messages.
            workload: The workload of one picture.
            pictures: Number of pictures in the batch.

        Returns:
            A function that prints the forecast, to be called once with the estimated seconds of the picture or batch,
            for instance by `reporter.Timing`.
        """
        batches, self._remaining = self._remaining / pictures, self._remaining - pictures

        def print_forecast(seconds: float) -> None:
            total = seconds if self._has_printed_total else seconds * batches
            if total < MIN_ANNOUNCED_SECONDS:
                return
            verb = "take" if pictures > 1 else "sampling takes" if workload.is_latent else "takes"
            rest = ""
            if total > seconds:
                like = "like these" if pictures > 1 else "like it"
                rest = f"; {batches * pictures:.0f} pictures {like} take about {format_duration(total)}"
            self._has_printed_total = True
            self._reporter.say(f"{label}: {verb} about {format_duration(seconds)}{rest}")
            if workload.on_cpu and total > MIN_ADVISED_SECONDS and not self._has_advised:
                self._has_advised = True
                *others, last = faster_options(workload, total)
                self._reporter.say(f"to save time, use {', '.join(others)}{' or ' if others else ''}{last}")

        return print_forecast
