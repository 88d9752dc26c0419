"""One step of a training run: forward and backward passes, and the step of the optimizer.

The crops, timesteps and noise of step k are a function of the recipe, the pictures and k. Each process draws those of
the whole batch and uses its part of them, so they are the same for any number of processes.

The host runs ahead of a GPU: nothing in a step waits for the device, apart from crops that are damaged on the host
(`jpeg` and `camera_noise` in a recipe) and a learned variance.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from restorer.priors.unet_prior import ModelSpec
from restorer.training.damage import Draw, damage_some
from restorer.training.device_crops import send
from restorer.training.losses import draw_t, losses
from restorer.training.meter import Meter
from restorer.training.ranks import Ranks
from restorer.training.recipe import Recipe
from restorer.training.state import State

__all__ = ["Stepper"]


class Stepper:
    """One optimizer step: `accumulate` forward and backward passes, gradient clipping, and the weight average.

    Args:
        state: What a step changes.
        spec: The network with its schedule and prediction type.
        recipe: The numbers of the training.
        device: Device of the network.
        dtype: Data type in which the network computes.
        is_compiled: Whether the network runs through torch.compile.
        ranks: The processes of the run, which all take the step.
    """

    def __init__(
        self,
        state: State,
        spec: ModelSpec,
        recipe: Recipe,
        device: torch.device,
        dtype: torch.dtype,
        is_compiled: bool,
        ranks: Ranks,
    ) -> None:
        self._state, self._spec, self._recipe, self._device, self._dtype = state, spec, recipe, device, dtype
        self._ranks, self._part = ranks, ranks.part(recipe.batch)
        self._shared = ranks.shared(state.network)
        self._network = torch.compile(self._shared) if is_compiled else self._shared
        if ranks.count > 1:
            self._settle()

    def __call__(self, batches: Iterator[np.ndarray | Tensor], meter: Meter) -> None:
        """Take one step on the next batches, and add its figures to the meter.

        Args:
            batches: The crops of this process, uint8 (B, S, S, 3).
            meter: The figures since the last report.
        """
        state, recipe, ranks = self._state, self._recipe, self._ranks
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.rate_at(state.step)
        for part in range(recipe.accumulate):
            start = time.monotonic()
            crops = next(batches)
            meter.wait_seconds += time.monotonic() - start
            if isinstance(crops, np.ndarray):
                crops = send(torch.from_numpy(crops), self._device)
            drawn = self._draw(crops.permute(0, 3, 1, 2).float() / 127.5 - 1, part)
            level = send(drawn.level, self._device)
            with ranks.averaging(self._shared, part == recipe.accumulate - 1):
                with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                    errors = losses(self._network, self._spec, recipe, drawn.x0, drawn.t, drawn.eps) * drawn.weight
                weighted = self._balanced(level, errors) if recipe.balance else errors
                # The average over the processes is the mean over the whole batch, whatever the sizes of the parts.
                (weighted.sum() / recipe.batch * ranks.count / recipe.accumulate).backward()
            meter.add_losses(level, errors, self._spec.schedule.steps)
        meter.add_gradient(torch.nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_gradient))
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.update_average(recipe.ema)

    def _balanced(self, level: Tensor, errors: Tensor) -> Tensor:
        """Divide the losses by the running means of their levels, and add those of the whole batch to the means."""
        levels = self._state.levels
        balanced = errors / levels.means(level, errors)
        levels.add(*self._ranks.whole(torch.stack([level, errors.detach().double()]), self._recipe.batch))
        return balanced

    def _draw(self, x0: Tensor, part: int) -> Draw:
        """Draw timesteps, noise and damage as a function of the seed, the step and the pass."""
        recipe, schedule = self._recipe, self._spec.schedule
        seed = ((recipe.seed * 1_000_003 + self._state.step) * 1_009 + part) % 2**63
        t = draw_t(recipe.batch, recipe, schedule.steps, torch.Generator().manual_seed(seed))[self._part]
        # The noise needs a random stream other than that of t.
        generator = torch.Generator(self._device).manual_seed(seed ^ 0x5EED_0000)
        eps = torch.randn((recipe.batch, *x0.shape[1:]), generator=generator, device=self._device)[self._part]
        if recipe.jpeg + recipe.camera_noise == 0:
            return Draw(x0, t, eps, t, torch.ones(len(t), device=x0.device))
        return damage_some(
            x0,
            t,
            eps,
            jpeg_share=recipe.jpeg,
            noise_share=recipe.camera_noise,
            schedule=schedule,
            seed=seed,
            first=self._part.start,
        )

    def _settle(self) -> None:
        """Take a pass without consequence, after which the gradients are grouped as they stay."""
        spec, side = self._spec, self._recipe.crop // self._spec.patch_size
        count = self._part.stop - self._part.start
        x = torch.zeros(count, spec.network.in_channels, side, side, device=self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            output = self._network(x, torch.zeros(count, device=self._device))
        (output.float().sum() * 0).backward()
        self._state.optimizer.zero_grad()
