"""Sampling without a measurement: noise in, pictures out. The reverse process with nothing known, from sigma_max down.

    ddpm       ancestral sampling (Ho et al. 2020, algorithm 2), with the small, the large or a learned variance
    ddim       the deterministic process (Song et al. 2021, https://arxiv.org/abs/2010.02502, eta = 0)
    langevin   predictor-corrector (Song et al. 2021, https://arxiv.org/abs/2011.13456, algorithm 2)

Levels are uniform in t of the network's own schedule where it has one, else in log sigma. A picture depends on its seed
and its size alone, not on those made beside it: picture k of seed s is picture 0 of seed s + k.

A latent prior is sampled on latents, as many as the picture takes, and decoded once at the end (priors/latent.py); its
`ddim` has the levels of the published sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from restorer.diffusion.plan import Plan, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step
from restorer.errors import ModelError, UsageError
from restorer.limits import SAMPLING_STEPS, check_generation, check_task
from restorer.models.load import load_prior
from restorer.priors.latent import LatentPrior, ddim_plan, first_mean, latent_of
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import ModelSpec, UNetPrior
from restorer.tasks.job import TILE, Job, tiled

__all__ = ["generate", "grid", "prepare_generate"]

SIDE = 64  # pixels, where the network is tied to no size
BATCH_PIXELS = TILE**2  # a batch takes the memory of one tile of the restoring tasks
# Where a prior names no limits: noise in which nothing of a picture is left, and noise that 8 bits do not show.
HIGHEST_LEVEL, LOWEST_LEVEL = 80.0, 0.01


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
    """Decide how to sample one picture for each seed: a job a batch, whose result is (B, C, H, W).

    Args:
        seeds: of the pictures.
        size: width and height in pixels; None for what the network was trained on.
        method, variance, steps, batch, prior: as `generate`.

    Raises:
        UsageError: a value out of range, or a learned variance from a network that has none.
        ModelError: what the network makes is no picture.
    """
    check_generation(count=len(seeds), method=method, variance=variance, steps=steps, batch=batch)
    model = prior or load_prior()
    latent = latent_of(model)
    factor = 1
    if latent is not None:
        check_task("generate", latent.serves)
        factor = latent.factor
    width, height = size or (factor * (model.native_size or SIDE // factor),) * 2
    check_generation(width=width, height=height)
    if latent is None and model.channels not in (1, 3):
        raise ModelError(f"the model makes {model.channels} channels: that is no picture", "choose another with -m")
    plan = _plan(model, method, variance, steps)
    size_of_batch = batch or max(1, BATCH_PIXELS // (width * height))
    rows, columns = -(-height // factor), -(-width // factor)
    model = tiled(model, rows, columns)

    def finish(x: Tensor, first: Tensor) -> Tensor:
        return _to_unit(x[..., :height, :width])

    jobs = []
    for first in range(0, len(seeds), size_of_batch):
        some = tuple(seeds[first : first + size_of_batch])
        part, shape = replace(plan, seed=some), (len(some), model.channels, rows, columns)
        start = torch.zeros(shape) if latent is None else first_mean(part, shape)
        jobs.append(Job(model, part, start, 0.0, False, 1.0, start, finish))
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
    prior: Prior | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Sample the prior.

    Args:
        count: how many pictures.
        size: a side, or (width, height), in pixels; None for what the network was trained on, or 64.
        method: ddpm, ddim or langevin.
        variance: of the fresh noise of ddpm: small, large or learned; None for learned where the network has it.
        steps: network evaluations a picture.
        seed: of the first picture; the k-th after it has seed + k.
        batch: pictures a network evaluation; it changes no picture beyond the rounding of the device.
        prior: what `load_prior` gave; None for the embedded one.
        on_step: called after every evaluation of every batch.

    Returns:
        float32 (count, C, H, W) in [0, 1], on the CPU.

    Raises:
        UsageError: a value out of range.
    """
    check_generation(count=count, seed=seed)
    sides = (size, size) if isinstance(size, int) else size
    seeds = range(seed, seed + count)
    jobs = prepare_generate(seeds, sides, method=method, variance=variance, steps=steps, batch=batch, prior=prior)
    return torch.cat([job.run(on_step).image for job in jobs])


def grid(pictures: Tensor, gap: int = 2) -> Tensor:
    """(N, C, H, W) in [0, 1] as one picture, row by row, as square as can be, with white `gap` pixels between."""
    count, channels, height, width = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = torch.ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for k, picture in enumerate(pictures):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture
    return sheet


def _to_unit(x: Tensor) -> Tensor:
    return ((x.float() + 1) / 2).clamp(0, 1)


def _spec(prior: Prior) -> ModelSpec | None:
    inner = prior.prior if isinstance(prior, Tiled) else prior
    return inner.spec if isinstance(inner, UNetPrior) else None


def _plan(prior: Prior, method: str, variance: str | None, steps: int) -> Plan:
    """From pure noise to nothing; with the network's own schedule, if it has one."""
    if method == "ddim" and (latent := latent_of(prior)) is not None:
        return _published(latent, steps)
    spec = _spec(prior)
    schedule = None if spec is None else spec.schedule
    learns = spec is not None and spec.network.out_channels > spec.network.in_channels
    if variance == "learned" and not learns:
        raise UsageError("this model has learned no variance", "--variance small, or large")
    chosen = variance or ("learned" if learns and method == "ddpm" else "small")
    highest = prior.sigma_max if schedule else min(prior.sigma_max, HIGHEST_LEVEL)
    lowest = prior.sigma_min if schedule else max(prior.sigma_min, LOWEST_LEVEL)
    nothing = Plan(sigmas=(highest, 0.0), zeta=(0.0,))
    return make_plan(method, nothing, start=highest, end=lowest, steps=steps, variance=chosen, schedule=schedule)


def _published(latent: LatentPrior, steps: int) -> Plan:
    """DDIM at the levels that latent diffusion is published with."""
    if steps > latent.most_steps:
        raise UsageError(f"steps must lie between 1 and {latent.most_steps} with this model, not {steps}")
    return ddim_plan(latent.spec.schedule, steps)
