"""Against diffusers: DDIM as DDIMPipeline samples, RePaint as RePaintPipeline filled holes until it was removed.

Theirs works on pictures folded beforehand where the network takes folded ones, and in the precision of the network, as
a pipeline loaded in that precision does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from rival_networks import CountingPrior, Setting, TheirNetwork, folded
from rival_race import Entrant, Runner, race
from torch import Tensor

from restorer.diffusion.degradations import Mask
from restorer.diffusion.plan import Plan, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import reverse
from restorer.priors.latent import ddim_plan, first_mean
from restorer.priors.tiled import Tiled
from restorer.tasks.job import tiled

__all__ = ["against_ddim", "against_repaint", "blank_plan", "in_tiles", "picture_and_mask"]

LOWEST = 0.02  # the last noise level of ours, as the command has it


def blank_plan(prior: Prior) -> Plan:
    """What `make_plan` fills in."""
    return Plan((prior.sigma_max, 0.0), (0.0,))


def picture_and_mask(side: int, device: str) -> tuple[Tensor, Tensor]:
    """A picture (1, 3, side, side) on [-1, 1], and half of its pixels: bool (1, 1, side, side), true where known."""
    generator = torch.Generator().manual_seed(1)
    picture = 2 * torch.rand(1, 3, side, side, generator=generator) - 1
    return picture.to(device), (torch.rand(1, 1, side, side, generator=generator) < 0.5).to(device)


def in_tiles(prior: CountingPrior, side: int) -> tuple[Tiled, Callable[[], float]]:
    """The prior in the tiles the command would use, and how to count evaluations of the whole picture."""
    whole = tiled(prior, side, side)
    tiles = whole.count(side, side)
    return whole, lambda: prior.calls / tiles


def against_ddim(title: str, theirs: Sequence[Setting], ours: Sequence[Setting], rounds: int) -> None:
    """Sampling from noise; `theirs` is empty where they have no room."""
    them = [Entrant(f"diffusers {setting.precision}", partial(_their_ddim, setting), False) for setting in theirs]
    us = [Entrant(f"restorer {setting.precision}", partial(_our_ddim, setting), True) for setting in ours]
    race(f"{title}, DDIM", them + us, rounds)


def _their_ddim(setting: Setting) -> Runner:
    import diffusers

    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(setting.steps)
    network = TheirNetwork(setting.theirs(), patch=1)
    noise = torch.randn(1, 3, setting.side, setting.side, generator=torch.Generator().manual_seed(0))
    start = folded(noise, setting.layout.patch).to(setting.device, setting.dtype)

    def run() -> Tensor:
        x = start
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x).prev_sample
        return x

    return Runner(run, lambda: network.calls)


def _our_ddim(setting: Setting) -> Runner:
    prior, calls = in_tiles(setting.ours(), setting.side)
    plan = ddim_plan(prior.prior.spec.schedule, setting.steps, offset=0)
    shape = (1, 3, setting.side, setting.side)

    def run() -> Tensor:
        prior.prior.forget()
        return reverse(prior, None, None, plan, first_mean(plan, shape).to(prior.device))

    return Runner(run, calls)


def repaint_settings(evaluations: int) -> tuple[int, int]:
    """(levels, jump) with as many evaluations: jumps as long as they are many, as in theirs by default (10, 10).

    Every `jump` levels, but for the first of them, are gone back over `jump` - 1 times. The longest jump that comes out
    even; where none does, 1: no jumps.
    """
    for jump in range(10, 1, -1):
        for levels in range(jump + 1, evaluations):
            if levels + len(range(0, levels - jump, jump)) * (jump - 1) * jump == evaluations:
                return levels, jump
    return evaluations, 1


def against_repaint(title: str, theirs: Sequence[Setting], ours: Sequence[Setting], rounds: int) -> None:
    """Filling every other pixel, at random."""
    levels, jump = repaint_settings(ours[0].steps)
    them = [Entrant(f"diffusers {setting.precision}", partial(_their_repaint, setting), False) for setting in theirs]
    us = [Entrant(f"restorer {setting.precision}", partial(_our_repaint, setting), True) for setting in ours]
    race(f"{title}, RePaint (theirs: {levels} levels, jumps of {jump}, {jump} samples)", them + us, rounds)


def _their_repaint(setting: Setting) -> Runner:
    import diffusers

    levels, jump = repaint_settings(setting.steps)
    network, patch = TheirNetwork(setting.theirs(), patch=1), setting.layout.patch
    picture, known = picture_and_mask(setting.side, setting.device)
    picture = folded(picture, patch).to(setting.dtype)
    mask = folded(known.expand(-1, 3, -1, -1).to(picture.dtype), patch)
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


def _our_repaint(setting: Setting) -> Runner:
    prior, calls = in_tiles(setting.ours(), setting.side)
    picture, known = picture_and_mask(setting.side, prior.device)
    plan = make_plan("repaint", blank_plan(prior), start=prior.sigma_max, end=LOWEST, steps=setting.steps, holes=True)

    def run() -> Tensor:
        prior.prior.forget()
        return reverse(prior, Mask(known), picture, plan, torch.zeros_like(picture))

    return Runner(run, calls)
