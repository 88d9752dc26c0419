"""Against deepinv: its DiffPIR and DDRM, with the same network as a deepinv denoiser, against the presets here.

The denoiser is deepinv's own wrapper of networks that predict noise, around the UNet2DModel. The pictures are measured
with noise of 0.05 on [0, 1], which both samplers of theirs are told. Of ours DDNM is the nearest to DDRM: the same
share of fresh noise (eta 0.85), the same projection where there is no noise.
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

from restorer.diffusion.degradations import Bicubic, Degradation, Identity, Mask
from restorer.diffusion.plan import make_plan
from restorer.diffusion.reverse import reverse
from restorer.diffusion.schedule import Schedule

__all__ = ["SAMPLERS", "TASKS", "against_deepinv"]

NOISE = 0.05  # standard deviation on [0, 1]
SCALE = 4
TASKS = ("inpaint", "upscale", "denoise")
SAMPLERS = {"DiffPIR": "diffpir", "DDRM": "ddnm"}  # theirs: the preset here


def against_deepinv(title: str, theirs: Sequence[Setting], ours: Sequence[Setting], rounds: int) -> None:
    """All tasks with all samplers, but DDRM with shrinking, for which deepinv has no singular values."""
    for sampler, method in SAMPLERS.items():
        for task in TASKS:
            this = f"{title}, {task}, deepinv's {sampler} against {method}"
            if sampler == "DDRM" and task == "upscale":
                print(f"{this}: not compared, DDRM wants an operator with a decomposition\n", flush=True)
                continue
            them = [Entrant(f"deepinv {one.precision}", partial(_theirs, sampler, task, one), False) for one in theirs]
            us = [Entrant(f"restorer {one.precision}", partial(_ours, method, task, one), True) for one in ours]
            race(this, them + us, rounds)


def _physics(task: str, known: Tensor) -> Any:
    """Theirs."""
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


def _sampler(name: str, denoiser: Any, steps: int, device: torch.device) -> Callable[[Tensor, Any], Tensor]:
    import deepinv

    if name == "DiffPIR":
        return deepinv.sampling.DiffPIR(denoiser, deepinv.optim.L2(), sigma=NOISE, max_iter=steps, device=device)
    return deepinv.sampling.DDRM(denoiser, sigmas=np.linspace(1, 0, steps))  # as by default, in fewer steps


def _theirs(sampler: str, task: str, setting: Setting) -> Runner:
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
    physics = _physics(task, known)
    y = physics((picture + 1) / 2)
    sample = _sampler(sampler, denoiser, setting.steps, known.device)
    return Runner(lambda: sample(y.clone(), physics), lambda: network.calls)


def _ours(method: str, task: str, setting: Setting) -> Runner:
    prior, calls = in_tiles(setting.ours(), setting.side)
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

    return Runner(run, calls)
