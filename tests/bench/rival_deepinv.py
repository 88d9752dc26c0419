"""Comparison with deepinv: its DiffPIR and DDRM against the presets of this project, with the same network.

The denoiser is deepinv's own wrapper for networks that predict noise, around the UNet2DModel. The measurements have
noise of 0.05 on [0, 1], which is passed to both samplers of deepinv. Of the presets, DDNM is closest to DDRM: it has
the same share of fresh noise (eta 0.85), and the same projection if there is no noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from rival_diffusers import LOWEST, blank_plan, in_tiles, picture_and_mask
from rival_networks import Setting, TheirNetwork
from rival_race import Entrant, Runner, race
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.diffusion.degradations.degradation import Degradation
from restorer.diffusion.degradations.pointwise import Identity, Mask
from restorer.diffusion.plan import make_plan
from restorer.diffusion.reverse import reverse
from restorer.diffusion.schedule import Schedule

__all__ = ["SAMPLERS", "TASKS", "against_deepinv"]

NOISE = 0.05  # standard deviation on [0, 1]
SCALE = 4
TASKS = ("inpaint", "upscale", "denoise")
SAMPLERS = {"DiffPIR": "diffpir", "DDRM": "ddnm"}  # sampler of deepinv: preset of this project


def against_deepinv(title: str, theirs: Sequence[Setting], ours: Sequence[Setting], rounds: int) -> None:
    """Compare all tasks with all samplers, except DDRM for upscale.

    DDRM needs the singular value decomposition of the operator, which deepinv does not have for shrinking.

    Args:
        title: Beginning of the heading of each table.
        theirs: Settings with which deepinv runs.
        ours: Settings with which this project runs.
        rounds: Number of rounds that are timed.
    """
    for sampler, method in SAMPLERS.items():
        for task in TASKS:
            heading = f"{title}, {task}, deepinv's {sampler} against {method}"
            if sampler == "DDRM" and task == "upscale":
                print(f"{heading}: not compared, DDRM needs an operator with a decomposition\n", flush=True)
                continue
            them = [Entrant(f"deepinv {s.precision}", partial(_run_theirs, sampler, task, s), False) for s in theirs]
            us = [Entrant(f"restorer {s.precision}", partial(_run_ours, method, task, s), True) for s in ours]
            race(heading, them + us, rounds)


def _make_physics(task: str, known: Tensor) -> Any:
    """Return the operator of a task with its noise, as deepinv defines it."""
    import deepinv

    size, noise = (3, *known.shape[-2:]), deepinv.physics.GaussianNoise(NOISE)
    match task:
        case "inpaint":
            mask = known.expand(-1, 3, -1, -1).float()
            return deepinv.physics.Inpainting(size, mask=mask, noise_model=noise, device=known.device)
        case "upscale":
            return deepinv.physics.Downsampling(
                size, filter="bicubic", factor=SCALE, noise_model=noise, device=known.device
            )
        case _:
            return deepinv.physics.Denoising(noise, device=known.device)


def _make_sampler(name: str, denoiser: Any, steps: int, device: torch.device) -> Callable[[Tensor, Any], Tensor]:
    """Return a sampler of deepinv by its name."""
    import deepinv

    if name == "DiffPIR":
        return deepinv.sampling.DiffPIR(denoiser, deepinv.optim.L2(), sigma=NOISE, max_iter=steps, device=device)
    return deepinv.sampling.DDRM(denoiser, sigmas=np.linspace(1, 0, steps))  # the default levels, in fewer steps


def _run_theirs(sampler: str, task: str, setting: Setting) -> Runner:
    """Prepare a run of deepinv."""
    import deepinv

    network = TheirNetwork(setting.theirs(), setting.layout.patch)
    denoiser = deepinv.models.ScoreModelWrapper(
        network,
        scale_t=Schedule().alpha_bars.sqrt().float(),
        variance_preserving=True,
        takes_integer_time=True,
        device=setting.device,
    )
    picture, known = picture_and_mask(setting.side, setting.device)
    physics = _make_physics(task, known)
    y = physics((picture + 1) / 2)
    sample = _make_sampler(sampler, denoiser, setting.steps, known.device)
    return Runner(lambda: sample(y.clone(), physics), lambda: network.calls)


def _run_ours(method: str, task: str, setting: Setting) -> Runner:
    """Prepare a run of this project."""
    prior, count_calls = in_tiles(setting.ours(), setting.side)
    picture, known = picture_and_mask(setting.side, prior.device)
    operators: dict[str, Degradation] = {"inpaint": Mask(known), "upscale": Bicubic(SCALE), "denoise": Identity()}
    operator = operators[task]
    y = operator.measure(picture)
    y = y + 2 * NOISE * torch.randn_like(y)
    blank = blank_plan(prior)
    plan = make_plan(method, blank, start=prior.sigma_max, end=LOWEST, steps=setting.steps, holes=task == "inpaint")

    def run() -> Tensor:
        prior.prior.forget()
        return reverse(prior, operator, y, plan, operator.pseudo_inverse(y), noise_variance=(2 * NOISE) ** 2)

    return Runner(run, count_calls)
