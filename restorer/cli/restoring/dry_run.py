"""`--dry-run`: a preview of each picture's result, with the estimated time and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.cli.terminal.forecast import DEFAULT_STEPS
from restorer.cli.terminal.reporter import Reporter, format_duration
from restorer.errors import RestorerError
from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.folders.space import Need, free_space
from restorer.images.find import is_stream
from restorer.images.sizes import Geometry
from restorer.tasks.defaults import LATENT_STEPS

if TYPE_CHECKING:
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior

__all__ = ["is_available_offline", "print_preview"]


def is_available_offline(model: str) -> bool:
    """Return whether a model can be loaded without a request to the Hub."""
    from restorer.models.hub.references import find_cached, parse_reference

    return Path(model).exists() or (reference := parse_reference(model)) is None or find_cached(reference) is not None


def print_preview(
    options: Options,
    items: list[Item],
    needs: list[Need],
    prior: UNetPrior | Tiled | None,
    geometry: Geometry,
    reporter: Reporter,
    report_failure: Callable[[Item, RestorerError], None],
) -> int:
    """Print what a run would do with each picture, and return the number of pictures that it could restore.

    Only the headers of the files are read. The estimated time is that of the whole picture, although `inpaint`
    processes only the surroundings of holes.

    Args:
        options: The options of the run.
        items: The pictures.
        needs: The disk space of the results, as far as it is known.
        prior: The model; None if it is not available, in which case no times are printed.
        geometry: How the size of a result follows from that of its picture.
        reporter: Receives the preview.
        report_failure: Called with each picture that cannot be restored, and the reason.
    """
    from restorer.images.reading import read_size
    from restorer.images.writing import check_target_size
    from restorer.machine.memory import estimate_memory, human_bytes
    from restorer.priors.latent import latent_of

    rate = None if prior is None else _seconds_per_megapixel(prior)
    latent = None if prior is None else latent_of(prior)
    steps = options.steps or (LATENT_STEPS if latent else DEFAULT_STEPS[options.command])
    steps = 1 if options.command == "denoise" and options.detail == 0 else steps
    total, count, sizes = 0.0, 0, {need.item: need.expected for need in needs}
    for item in items:
        if is_stream(item.source):
            continue
        try:
            original = read_size(item.source, options.max_pixels)
            (width, height), computed = geometry.result(*original), geometry.computed(*original)
            check_target_size(item.target, options.format, width, height)
        except RestorerError as error:
            report_failure(item, error)
            continue
        of_part = math.prod(original if geometry.region is None else geometry.region[2:])
        megapixels = (of_part if latent else math.prod(computed)) / 1e6  # the network processes them in one step
        seconds = None if rate is None else round(steps * megapixels * rate, 2)
        total, count = total + (seconds or 0.0), count + 1
        size = "x".join(map(str, original)) + ("" if geometry.is_plain else f" -> {width}x{height}")
        duration = "" if seconds is None else f" · {steps} steps · about {format_duration(seconds)}"
        memory = estimate_memory(math.prod(computed))
        space = f" · about {human_bytes(sizes[item])} on the disk" if item in sizes else ""
        reporter.say(f"{item.source} -> {item.target} · {size}{duration} · {human_bytes(memory)} of memory{space}")
        reporter.emit(
            {
                "event": "plan",
                "command": options.command,
                "input": str(item.source),
                "output": str(item.target),
                "width": width,
                "height": height,
                "seconds": seconds,
                "peak_mem_mb": round(memory / 1e6),
                "bytes": sizes.get(item),
            }
        )
    if count > 1 and rate is not None:
        reporter.say(f"{count} pictures, about {format_duration(total)} in total")
    if count > 1:
        _print_space(items, sizes, reporter)
    return count


def _print_space(items: list[Item], sizes: dict[Item, int], reporter: Reporter) -> None:
    """Print the disk space that the results take together, and what is free where the first of them goes."""
    from restorer.machine.memory import human_bytes

    counted = [item for item in items if item in sizes]
    if counted and (free := free_space(counted[0].target.parent)) is not None:
        expected = human_bytes(sum(sizes[item] for item in counted))
        reporter.say(f"the results take about {expected}, and {human_bytes(free)} are free")


def _seconds_per_megapixel(prior: UNetPrior | Tiled) -> float:
    """Time one evaluation of 256x256 pixels, or of 64x64 latents, after one evaluation to warm up."""
    import torch

    from restorer.priors.latent import latent_of

    latent = latent_of(prior)
    side = 256 if latent is None else 64
    x = torch.zeros(1, prior.channels, side, side, device=prior.device)
    condition_channels = latent.condition_channels if latent else 0
    condition = torch.zeros(1, condition_channels, side, side, device=prior.device) if condition_channels else None
    for _ in range(2):
        start = time.monotonic()
        prior.predict(x, 1.0, condition).x0.sum().item()
    return (time.monotonic() - start) / (side * side / 1e6)
