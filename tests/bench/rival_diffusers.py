"""Against diffusers: DDIM as DDIMPipeline samples, RePaint as RePaintPipeline filled holes until it was removed.

Theirs works on pictures folded beforehand where the network takes folded ones, and in the precision of the network, as
a pipeline loaded in that precision does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rival_networks import Pair, TheirNetwork, folded
from rival_race import Runner, race
from torch import Tensor

from restorer.degradations import Mask
from restorer.diffusion.plan import Plan, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import reverse
from restorer.job import tiled
from restorer.priors.latent import ddim_plan, first_mean
from restorer.priors.tiled import Tiled

__all__ = ["against_ddim", "against_repaint", "blank_plan", "ours_of", "picture_and_mask"]

LOWEST = 0.02  # the last noise level of ours, as the command has it


def blank_plan(prior: Prior) -> Plan:
    """What `make_plan` fills in."""
    return Plan((prior.sigma_max, 0.0), (0.0,))


def picture_and_mask(side: int, device: str) -> tuple[Tensor, Tensor]:
    """A picture (1, 3, side, side) on [-1, 1], and half of its pixels: bool (1, 1, side, side), true where known."""
    generator = torch.Generator().manual_seed(1)
    picture = 2 * torch.rand(1, 3, side, side, generator=generator) - 1
    return picture.to(device), (torch.rand(1, 1, side, side, generator=generator) < 0.5).to(device)


def ours_of(pair: Pair, side: int) -> tuple[Tiled, Callable[[], float]]:
    """The prior in the tiles the command would use, and how to count evaluations of the whole picture."""
    prior = tiled(pair.ours, side, side)
    tiles = prior.count(side, side)
    return prior, lambda: pair.ours.calls / tiles


def against_ddim(name: str, theirs: Sequence[Pair], ours: Sequence[Pair], side: int, steps: int, rounds: int) -> None:
    """Sampling from noise; `theirs` is empty where they have no room."""
    import diffusers

    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    shape = (1, 3, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def their_run(pair: Pair) -> Runner:
        network = TheirNetwork(pair.theirs, patch=1)
        start = folded(noise, pair.layout.patch).to(pair.ours.device, pair.ours.dtype)

        def run() -> Tensor:
            x = start
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, t), t, x).prev_sample
            return x

        return Runner(f"diffusers {pair.precision}", run, lambda: network.calls)

    def our_run(pair: Pair) -> Runner:
        prior, calls = ours_of(pair, side)
        plan = ddim_plan(pair.ours.spec.schedule, steps, offset=0)
        return Runner(
            f"restorer {pair.precision}",
            lambda: reverse(prior, None, None, plan, first_mean(plan, shape).to(prior.device)),
            calls,
        )

    race(f"{name} {side}x{side}, DDIM", [*map(their_run, theirs), *map(our_run, ours)], rounds)


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


def against_repaint(
    name: str, theirs: Sequence[Pair], ours: Sequence[Pair], side: int, steps: int, rounds: int
) -> None:
    """Filling every other pixel, at random."""
    import diffusers

    levels, jump = repaint_settings(steps)

    def their_run(pair: Pair) -> Runner:
        network, patch = TheirNetwork(pair.theirs, patch=1), pair.layout.patch
        picture, known = picture_and_mask(side, pair.ours.device)
        picture = folded(picture, patch).to(pair.ours.dtype)
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

        return Runner(f"diffusers {pair.precision}", run, lambda: network.calls)

    def our_run(pair: Pair) -> Runner:
        prior, calls = ours_of(pair, side)
        picture, known = picture_and_mask(side, prior.device)
        plan = make_plan("repaint", blank_plan(prior), start=prior.sigma_max, end=LOWEST, steps=steps, holes=True)
        return Runner(
            f"restorer {pair.precision}",
            lambda: reverse(prior, Mask(known), picture, plan, torch.zeros_like(picture)),
            calls,
        )

    title = f"{name} {side}x{side}, RePaint (theirs: {levels} levels, jumps of {jump}, {jump} samples)"
    race(title, [*map(their_run, theirs), *map(our_run, ours)], rounds)
