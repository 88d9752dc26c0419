"""Against deepinv: its DiffPIR and DDRM, with the same network as a deepinv denoiser, against the presets here.

The denoiser is deepinv's own wrapper of networks that predict noise, around the UNet2DModel. The pictures are measured
with noise of 0.05 on [0, 1], which both samplers of theirs are told. Of ours DDNM is the nearest to DDRM: the same
share of fresh noise (eta 0.85), the same projection where there is no noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rival_diffusers import LOWEST, blank_plan, ours_of, picture_and_mask
from rival_networks import Pair, TheirNetwork
from rival_race import Runner, race
from torch import Tensor

from restorer.degradations import Bicubic, Degradation, Identity, Mask
from restorer.diffusion.plan import make_plan
from restorer.diffusion.reverse import reverse

__all__ = ["SAMPLERS", "TASKS", "against_deepinv"]

NOISE = 0.05  # standard deviation on [0, 1]
SCALE = 4
TASKS = ("inpaint", "upscale", "denoise")
SAMPLERS = {"DiffPIR": "diffpir", "DDRM": "ddnm"}  # theirs: the preset here


def against_deepinv(
    name: str, theirs: Sequence[Pair], ours: Sequence[Pair], side: int, steps: int, rounds: int
) -> None:
    """All tasks with all samplers, but DDRM with shrinking, for which deepinv has no singular values."""
    for sampler, method in SAMPLERS.items():
        for task in TASKS:
            title = f"{name} {side}x{side}, {task}, deepinv's {sampler} against {method}"
            if sampler == "DDRM" and task == "upscale":
                print(f"{title}: not compared, DDRM wants an operator with a decomposition\n", flush=True)
                continue
            runners = [_their_run(sampler, task, pair, side, steps) for pair in theirs]
            race(title, runners + [_our_run(method, task, pair, side, steps) for pair in ours], rounds)


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


def _their_run(sampler: str, task: str, pair: Pair, side: int, steps: int) -> Runner:
    import deepinv

    device = pair.ours.device
    network = TheirNetwork(pair.theirs, pair.layout.patch)
    denoiser = deepinv.models.ScoreModelWrapper(
        network,
        scale_t=pair.ours.spec.schedule.alpha_bars.sqrt().float(),
        variance_preserving=True,
        takes_integer_time=True,
        device=device,
    )
    picture, known = picture_and_mask(side, device)
    physics = _physics(task, known)
    y = physics((picture + 1) / 2)
    sample = _sampler(sampler, denoiser, steps, device)
    return Runner(f"deepinv {pair.precision}", lambda: sample(y.clone(), physics), lambda: network.calls)


def _our_run(method: str, task: str, pair: Pair, side: int, steps: int) -> Runner:
    prior, calls = ours_of(pair, side)
    picture, known = picture_and_mask(side, prior.device)
    operators: dict[str, Degradation] = {"inpaint": Mask(known), "upscale": Bicubic(SCALE), "denoise": Identity()}
    operator = operators[task]
    y = operator.measure(picture)
    y = y + 2 * NOISE * torch.randn_like(y)
    plan = make_plan(method, blank_plan(prior), start=prior.sigma_max, end=LOWEST, steps=steps, holes=task == "inpaint")

    def run() -> Tensor:
        return reverse(prior, operator, y, plan, operator.pseudo_inverse(y), noise_variance=(2 * NOISE) ** 2)

    return Runner(f"restorer {pair.precision}", run, calls)
