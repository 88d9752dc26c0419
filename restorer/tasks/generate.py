"""Sampling without a measurement: the reverse process turns pure noise into pictures, from sigma_max down.

    ddpm       ancestral sampling (Ho et al. 2020, algorithm 2), with the small, the large or a learned variance
    ddim       the deterministic process (Song et al. 2021, https://arxiv.org/abs/2010.02502, eta = 0)
    langevin   predictor-corrector (Song et al. 2021, https://arxiv.org/abs/2011.13456, algorithm 2)

Levels are uniform in t of the network's own schedule if it has one, and otherwise in log sigma. A picture depends only
on its seed and its size, not on the other pictures of its batch: picture k of seed s is picture 0 of seed s + k.

A latent prior is sampled on as many latents as the picture takes, which are decoded once at the end
(`priors/latent.py`). With `ddim` it has the levels of the published sampler.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from restorer.diffusion.plan import Plan, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step
from restorer.errors import ModelError, UsageError
from restorer.limits import SAMPLING_STEPS, check_generation, check_task, whole_number
from restorer.models.load import load_prior
from restorer.priors.latent import LatentPrior, ddim_plan, first_mean, latent_of
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import ModelSpec, UNetPrior
from restorer.tasks.common import as_prior
from restorer.tasks.job import Job
from restorer.tasks.tiles import TILE, with_default_tiles

__all__ = ["generate", "grid", "prepare_generate"]

DEFAULT_SIDE = 64
"""Side of a generated picture in pixels if the network is not tied to a size."""

BATCH_PIXELS = TILE**2
"""Pixels of a batch by default, which then takes the memory of one tile of the restoring tasks."""

HIGHEST_LEVEL, LOWEST_LEVEL = 80.0, 0.01
"""Noise levels for priors that have no schedule and name no narrower limits.

Nothing of a picture is left at the highest level, and the lowest one is invisible in 8 bits.
"""


def prepare_generate(
    seeds: Sequence[int],
    size: tuple[int, int] | None = None,
    *,
    method: str = "ddpm",
    variance: str | None = None,
    steps: int = SAMPLING_STEPS,
    batch: int | None = None,
    prior: Prior | None = None,
) -> list[Job]:
    """Prepare the jobs that sample one picture for each seed.

    Args:
        seeds: Seeds of the pictures.
        size: Width and height in pixels; None for the size that the network was trained on, or 64x64.
        method: As in `generate`.
        variance: As in `generate`.
        steps: As in `generate`.
        batch: As in `generate`.
        prior: As in `generate`.

    Returns:
        One job for each batch. Its result is float32 (B, C, H, W) in [0, 1].

    Raises:
        UsageError: A value is out of range, or a network that has learned no variance is to use a learned one.
        ModelError: The network does not generate pictures of 1 or 3 channels.
    """
    check_generation(count=len(seeds), method=method, variance=variance, steps=steps, batch=batch)
    model = prior or load_prior()
    latent = latent_of(model)
    factor = 1
    if latent is not None:
        check_task("generate", latent.serves)
        factor = latent.factor
    width, height = size or (factor * (model.native_size or DEFAULT_SIDE // factor),) * 2
    check_generation(width=width, height=height)
    if latent is None and model.channels not in (1, 3):
        raise ModelError(
            f"the model generates {model.channels} channels, but a picture has 1 or 3", "choose another model with -m"
        )
    plan = _make_plan(model, method, variance, steps)
    batch_size = batch or max(1, BATCH_PIXELS // (width * height))
    rows, columns = -(-height // factor), -(-width // factor)
    model = with_default_tiles(model, rows, columns)

    def finish(x: Tensor, first: Tensor) -> Tensor:
        return _to_unit(x[..., :height, :width])

    jobs = []
    for first in range(0, len(seeds), batch_size):
        batch_seeds = tuple(seeds[first : first + batch_size])
        batch_plan, shape = replace(plan, seed=batch_seeds), (len(batch_seeds), model.channels, rows, columns)
        start = torch.zeros(shape) if latent is None else first_mean(batch_plan, shape)
        jobs.append(Job(model, batch_plan, start, 0.0, False, 1.0, start, finish))
    return jobs


def generate(
    count: int = 1,
    size: int | tuple[int, int] | None = None,
    *,
    method: str = "ddpm",
    variance: str | None = None,
    steps: int = SAMPLING_STEPS,
    seed: int = 0,
    batch: int | None = None,
    prior: Prior | str | os.PathLike[str] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Generate pictures from noise.

    Args:
        count: Number of pictures.
        size: Side, or (width, height), in pixels; None for the size that the network was trained on, or 64.
        method: "ddpm", "ddim" or "langevin".
        variance: Variance of the fresh noise of ddpm: "small", "large" or "learned"; None selects the learned one if
            the network has learned one, and otherwise the small one.
        steps: Number of network evaluations per picture.
        seed: Seed of the first picture. The k-th picture after it has the seed `seed + k`.
        batch: Number of pictures per network evaluation; None selects the default. It does not change the pictures,
            except for the rounding of the device.
        prior: The result of `load_prior`, or what it takes: a name or a path. None selects the embedded prior.
        on_step: Called with a `restorer.diffusion.reverse.Step` after every evaluation of every batch.

    Returns:
        The pictures, float32 (count, C, H, W) in [0, 1], on the CPU.

    Raises:
        UsageError: A value is out of range.
        ModelError: The prior cannot generate pictures, or its network returns values that are not finite.
        DeviceError: The device has too little memory.
    """
    count, steps, seed = whole_number("count", count), whole_number("steps", steps), whole_number("the seed", seed)
    batch = None if batch is None else whole_number("batch", batch)
    model = as_prior(prior)
    check_generation(count=count, seed=seed)
    sides = None if size is None else _sides(size)
    seeds = range(seed, seed + count)
    jobs = prepare_generate(seeds, sides, method=method, variance=variance, steps=steps, batch=batch, prior=model)
    return torch.cat([job.run(on_step).image for job in jobs])


def _sides(size: Any) -> tuple[int, int]:
    """Return the width and height that a side, or a pair of sides, stands for.

    Raises:
        UsageError: A side is not a whole number, or there are more than two.
    """
    if not isinstance(size, (tuple, list)):
        side = whole_number("the size", size)
        return side, side
    if len(size) != 2:
        raise UsageError(f"the size must be a side, or a width and a height, not {len(size)} numbers")
    return whole_number("the width", size[0]), whole_number("the height", size[1])


def grid(pictures: Tensor, gap: int = 2) -> Tensor:
    """Return pictures as one contact sheet with nearly as many rows as columns, filled row by row.

    Args:
        pictures: The pictures, (N, C, H, W) in [0, 1].
        gap: Number of white pixels between neighbours.

    Returns:
        The sheet, float32 (C, H', W') in [0, 1].
    """
    count, channels, height, width = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = torch.ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for k, picture in enumerate(pictures):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture
    return sheet


def _to_unit(x: Tensor) -> Tensor:
    """Return pictures on [-1, 1] in [0, 1], clamped."""
    return ((x.float() + 1) / 2).clamp(0, 1)


def _spec(prior: Prior) -> ModelSpec | None:
    """Return the configuration of the checkpoint behind a prior, tiled or not; None if there is none."""
    inner = prior.prior if isinstance(prior, Tiled) else prior
    return inner.spec if isinstance(inner, UNetPrior) else None


def _make_plan(prior: Prior, method: str, variance: str | None, steps: int) -> Plan:
    """Return the plan from pure noise to none, with the network's own schedule if it has one."""
    if method == "ddim" and (latent := latent_of(prior)) is not None:
        return _make_published_plan(latent, steps)
    spec = _spec(prior)
    schedule = None if spec is None else spec.schedule
    has_variance = spec is not None and spec.network.out_channels > spec.network.in_channels
    if variance == "learned" and not has_variance:
        raise UsageError("this model has not learned a variance", "use --variance small or --variance large")
    used_variance = variance or ("learned" if has_variance and method == "ddpm" else "small")
    highest = prior.sigma_max if schedule else min(prior.sigma_max, HIGHEST_LEVEL)
    lowest = prior.sigma_min if schedule else max(prior.sigma_min, LOWEST_LEVEL)
    base = Plan(sigmas=(highest, 0.0), zeta=(0.0,))  # the preset of the method replaces the levels and zeta
    return make_plan(method, base, start=highest, end=lowest, steps=steps, variance=used_variance, schedule=schedule)


def _make_published_plan(latent: LatentPrior, steps: int) -> Plan:
    """Return the plan of DDIM at the levels that latent diffusion was published with.

    Raises:
        UsageError: The schedule of the network has too few timesteps.
    """
    if steps > latent.most_steps:
        raise UsageError(f"with this model, steps must lie between 1 and {latent.most_steps}, not {steps}")
    return ddim_plan(latent.spec.schedule, steps)
