"""A dry run: what a run would do with each picture, with the estimated time, memory and disk space."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.errors import RestorerError
from restorer.folders.events import Expected, Failed, Planned
from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.folders.space import Need, free_space
from restorer.images.find import is_stream
from restorer.images.sizes import Geometry
from restorer.tasks.defaults import DEFAULT_STEPS, LATENT_STEPS

if TYPE_CHECKING:
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks.job import Job

__all__ = ["is_available_offline", "preview"]


def is_available_offline(model: str) -> bool:
    """Return whether a model can be loaded without a request to the Hub."""
    from restorer.models.hub.references import find_cached, parse_reference

    return Path(model).exists() or (reference := parse_reference(model)) is None or find_cached(reference) is not None


def preview(
    options: Options,
    items: Sequence[Item],
    needs: Sequence[Need],
    prior: UNetPrior | Tiled | None,
    geometry: Geometry,
    look: Callable[[Item], Job] | None = None,
) -> Iterator[Planned | Failed | Expected]:
    """Yield what a run would do with each picture, and what it would take in all.

    Only the headers of the files are read, unless there is a function that looks at the pictures. The estimated time is
    that of the whole picture, although `inpaint` processes only the surroundings of holes.

    Args:
        options: The options of the run.
        items: The pictures.
        needs: The disk space of the results, as far as it is known.
        prior: The model; None if it is not available, in which case there are no times. With a start, there are none
            either.
        geometry: How the size of a result follows from that of its picture.
        look: Returns the measured job of a picture; None if the plan does not depend on what the picture holds.
    """
    from restorer.images.reading import read_size
    from restorer.images.writing import check_target_size
    from restorer.machine.memory import estimate_memory
    from restorer.priors.latent import latent_of

    # What the network of a start takes is not known.
    rate = None if prior is None or options.start is not None else _seconds_per_megapixel(prior)
    latent = None if prior is None else latent_of(prior)
    usual = options.steps or (LATENT_STEPS if latent else DEFAULT_STEPS.get(options.command))
    usual = 1 if options.command == "denoise" and options.detail == 0 else usual
    total, count, sizes = 0.0, 0, {need.item: need.expected for need in needs}
    for item in items:
        if is_stream(item.source):
            continue
        try:
            original = read_size(item.source, options.max_pixels)
            (width, height), computed = geometry.result(*original), geometry.computed(*original)
            check_target_size(item.target, options.format, width, height)
            job = None if look is None or rate is None else look(item)
        except RestorerError as error:
            yield Failed(options.command, item, error)
            continue
        of_part = math.prod(original if geometry.region is None else geometry.region[2:])
        megapixels = (of_part if latent else math.prod(computed)) / 1e6  # the network processes them in one step
        steps, work = (usual, (usual or 0) * megapixels) if job is None else (job.evaluations, _megapixels(job))
        seconds = None if rate is None or steps is None else round(work * rate, 2)
        total, count = total + (seconds or 0.0), count + 1
        memory = estimate_memory(math.prod(computed))
        size, space, is_plain = (width, height), sizes.get(item), geometry.is_plain
        found, notes = (None, ()) if job is None else (job.repairs, job.notes)
        yield Planned(options.command, item, original, size, steps, seconds, memory, space, is_plain, found, notes)
    counted = [item for item in items if item in sizes]
    free = free_space(counted[0].target.parent) if counted else None
    expected = None if free is None else sum(sizes[item] for item in counted)
    yield Expected(options.command, count, None if rate is None else total, expected, free)


def _megapixels(job: Job) -> float:
    """Return the megapixels that the network sees in all evaluations of a job."""
    first, second = job.start.shape[-2:], job.second_pass_size or job.start.shape[-2:]
    own = 0 if job.plan is None else job.plan.evaluations
    return (own * math.prod(first) + job.second_pass_evaluations * math.prod(second)) / 1e6


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
