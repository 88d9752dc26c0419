"""`--dry-run`: what would be done, about how long by one timed evaluation, and how much memory it would take."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.cli.terminal.forecast import USUAL_STEPS
from restorer.cli.terminal.reporter import Reporter, duration
from restorer.errors import RestorerError
from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.images.find import STDIO
from restorer.tasks.defaults import LATENT_STEPS

if TYPE_CHECKING:
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior

__all__ = ["is_here", "tell_plan"]


def is_here(model: str) -> bool:
    """Whether a model can be loaded without a request."""
    from restorer.models.hub.references import cached, parse

    return Path(model).exists() or (reference := parse(model)) is None or cached(reference) is not None


def tell_plan(
    options: Options,
    items: list[Item],
    prior: UNetPrior | Tiled | None,
    scale: int,
    reporter: Reporter,
    failed: Callable[[Item, RestorerError], None],
) -> int:
    """Say it of every picture; how many could be done. Only headers are read.

    The time is that of the whole picture, though `inpaint` looks at the surroundings of holes only; without a prior
    there is none.
    """
    from restorer.images.reading import size_of
    from restorer.machine.memory import foreseen, human_bytes
    from restorer.priors.latent import latent_of

    rate = None if prior is None else _seconds_a_megapixel(prior)
    latent = None if prior is None else latent_of(prior)
    steps = options.steps or (LATENT_STEPS if latent else USUAL_STEPS[options.command])
    steps = 1 if options.command == "denoise" and options.detail == 0 else steps
    total, count = 0.0, 0
    for item in items:
        if item.source == STDIO:
            continue
        try:
            width, height = size_of(item.source, options.max_pixels)
        except RestorerError as error:
            failed(item, error)
            continue
        seen = width * height * (1 if latent else scale * scale) / 1e6
        seconds = None if rate is None else round(steps * seen * rate, 2)
        total, count = total + (seconds or 0.0), count + 1
        size = f"{width}x{height}" + (f" -> {scale * width}x{scale * height}" if scale > 1 else "")
        takes = "" if seconds is None else f" · {steps} steps · about {duration(seconds)}"
        memory = foreseen(width * height * scale**2)
        reporter.say(f"{item.source} -> {item.target} · {size}{takes} · {human_bytes(memory)}")
        place = {
            "input": str(item.source),
            "output": str(item.target),
            "width": scale * width,
            "height": scale * height,
        }
        reporter.record(
            {
                "event": "plan",
                "command": options.command,
                **place,
                "seconds": seconds,
                "peak_mem_mb": round(memory / 1e6),
            }
        )
    if count > 1 and rate is not None:
        reporter.say(f"{count} pictures, about {duration(total)} in all")
    return count


def _seconds_a_megapixel(prior: UNetPrior | Tiled) -> float:
    """Of one evaluation: the second of two, of a square of 256 pixels, or 64 positions of latents."""
    import torch

    from restorer.priors.latent import latent_of

    latent = latent_of(prior)
    side = 256 if latent is None else 64
    x = torch.zeros(1, prior.channels, side, side, device=prior.device)
    seen = latent.condition_channels if latent else 0
    condition = torch.zeros(1, seen, side, side, device=prior.device) if seen else None
    for _ in range(2):
        began = time.monotonic()
        prior.predict(x, 1.0, condition).x0.sum().item()
    return (time.monotonic() - began) / (side * side / 1e6)
