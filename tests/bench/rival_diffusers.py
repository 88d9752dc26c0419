"""Comparison with diffusers: DDIM as in DDIMPipeline, and RePaint as in RePaintPipeline before it was removed.

If the network takes folded pictures, those of diffusers are folded before sampling. Diffusers samples in the precision
of the network, as a pipeline that is loaded in that precision does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from rival_networks import CountingPrior, Setting, TheirNetwork, fold
from rival_race import Entrant, Runner, race
from torch import Tensor

from restorer.diffusion.degradations.pointwise import Mask
from restorer.diffusion.plan import Plan, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import reverse
from restorer.priors.latent import ddim_plan, first_mean
from restorer.priors.tiled import Tiled
from restorer.tasks.tiles import with_default_tiles

__all__ = ["against_ddim", "against_repaint", "blank_plan", "in_tiles", "picture_and_mask"]

LOWEST = 0.02  # last noise level of this project's runs, as in the command


def blank_plan(prior: Prior) -> Plan:
    """Return the plan that `make_plan` takes for what a preset does not set."""
    return Plan((prior.sigma_max, 0.0), (0.0,))


def picture_and_mask(side: int, device: str) -> tuple[Tensor, Tensor]:
    """Draw a random picture and a mask.

    Returns:
        The picture, (1, 3, side, side) on [-1, 1], and the known pixels, bool (1, 1, side, side), half of them True.
    """
    generator = torch.Generator().manual_seed(1)
    picture = 2 * torch.rand(1, 3, side, side, generator=generator) - 1
    return picture.to(device), (torch.rand(1, 1, side, side, generator=generator) < 0.5).to(device)


def in_tiles(prior: CountingPrior, side: int) -> tuple[Tiled, Callable[[], float]]:
    """Return the prior in the tiles of the command, and a function that counts evaluations of the whole picture."""
    whole = with_default_tiles(prior, side, side)
    tiles = whole.count(side, side)
    return whole, lambda: prior.calls / tiles


def against_ddim(title: str, theirs: Sequence[Setting], ours: Sequence[Setting], rounds: int) -> None:
    """Compare sampling from noise.

    Args:
        title: Beginning of the heading of the table.
        theirs: Settings with which diffusers runs; empty if its network does not fit into memory.
        ours: Settings with which this project runs.
        rounds: Number of rounds that are timed.
    """
    them = [Entrant(f"diffusers {s.precision}", partial(_run_their_ddim, s), False) for s in theirs]
    us = [Entrant(f"restorer {s.precision}", partial(_run_our_ddim, s), True) for s in ours]
    race(f"{title}, DDIM", them + us, rounds)


def _run_their_ddim(setting: Setting) -> Runner:
    """Prepare sampling by diffusers."""
    import diffusers

    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(setting.steps)
    network = TheirNetwork(setting.theirs(), patch=1)
    noise = torch.randn(1, 3, setting.side, setting.side, generator=torch.Generator().manual_seed(0))
    start = fold(noise, setting.layout.patch).to(setting.device, setting.dtype)

    def run() -> Tensor:
        x = start
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x).prev_sample
        return x

    return Runner(run, lambda: network.calls)


def _run_our_ddim(setting: Setting) -> Runner:
    """Prepare sampling by this project."""
    prior, count_calls = in_tiles(setting.ours(), setting.side)
    plan = ddim_plan(prior.prior.spec.schedule, setting.steps, offset=0)
    shape = (1, 3, setting.side, setting.side)

    def run() -> Tensor:
        prior.prior.forget()
        return reverse(prior, None, None, plan, first_mean(plan, shape).to(prior.device))

    return Runner(run, count_calls)


def repaint_settings(evaluations: int) -> tuple[int, int]:
    """Return the settings (levels, jump) of RePaint that give a number of evaluations.

    The number of repetitions equals the length of a jump, as in the defaults of diffusers (10, 10): each stretch of
    `jump` levels, except the first, is repeated `jump` - 1 times. The longest jump that gives the exact number of
    evaluations is chosen; if there is none, the jump is 1, which means no repetitions.
    """
    for jump in range(10, 1, -1):
        for levels in range(jump + 1, evaluations):
            if levels + len(range(0, levels - jump, jump)) * (jump - 1) * jump == evaluations:
                return levels, jump
    return evaluations, 1


def against_repaint(title: str, theirs: Sequence[Setting], ours: Sequence[Setting], rounds: int) -> None:
    """Compare filling a random half of the pixels.

    Args:
        title: Beginning of the heading of the table.
        theirs: Settings with which diffusers runs; empty if its network does not fit into memory.
        ours: Settings with which this project runs.
        rounds: Number of rounds that are timed.
    """
    levels, jump = repaint_settings(ours[0].steps)
    them = [Entrant(f"diffusers {s.precision}", partial(_run_their_repaint, s), False) for s in theirs]
    us = [Entrant(f"restorer {s.precision}", partial(_run_our_repaint, s), True) for s in ours]
    race(f"{title}, RePaint (diffusers: {levels} levels, jumps of {jump}, {jump} samples)", them + us, rounds)


def _run_their_repaint(setting: Setting) -> Runner:
    """Prepare RePaint by diffusers."""
    import diffusers

    levels, jump = repaint_settings(setting.steps)
    network, patch = TheirNetwork(setting.theirs(), patch=1), setting.layout.patch
    picture, known = picture_and_mask(setting.side, setting.device)
    picture = fold(picture, patch).to(setting.dtype)
    mask = fold(known.expand(-1, 3, -1, -1).to(picture.dtype), patch)
    scheduler = diffusers.RePaintScheduler()
    scheduler.set_timesteps(levels, jump_length=jump, jump_n_sample=jump)

    def run() -> Tensor:
        x, last = torch.randn_like(picture), scheduler.timesteps[0] + 1
        for t in scheduler.timesteps:
            if t < last:
                x = scheduler.step(network(x, t), t, x, picture, mask).prev_sample
            else:
                x = scheduler.undo_step(x, last)
            last = t
        return x

    return Runner(run, lambda: network.calls)


def _run_our_repaint(setting: Setting) -> Runner:
    """Prepare RePaint by this project."""
    prior, count_calls = in_tiles(setting.ours(), setting.side)
    picture, known = picture_and_mask(setting.side, prior.device)
    plan = make_plan("repaint", blank_plan(prior), start=prior.sigma_max, end=LOWEST, steps=setting.steps, holes=True)

    def run() -> Tensor:
        prior.prior.forget()
        return reverse(prior, Mask(known), picture, plan, torch.zeros_like(picture))

    return Runner(run, count_calls)
