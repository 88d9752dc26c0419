r"""Training crops whose noise is not white: JPEG compression and the noise of cameras.

The reverse process of a picture that was compressed, or that has coarse noise, gives the network states whose error is
not white, and tells it a level above this error. A network that has only seen white noise keeps blocks and grain there.
So a share of the crops has the error D of a simulated damage beside the white noise:

    x_t = sqrt(abar_t) (x_0 + D + sigma_w eps),   sigma_t^2 = f^2 D^2 + sigma_w^2

with D^2 the mean square of D over the crop, and the factor f drawn from the range that the tasks use. This is an
ordinary training crop whose noise is (D + sigma_w eps) / sigma_t, so losses and prediction types stay as they are.

Source: Zhang, Li, Liang, Cao, Zhang, Tang, Fan, Timofte and Van Gool 2023, "Practical Blind Image Denoising via
Swin-Conv-UNet and Data Synthesis", Machine Intelligence Research 20: training on many kinds of damage together.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.schedule import Schedule
from restorer.training.edits import as_stored, jpeg
from restorer.training.simulated_noise import Kind, simulate

__all__ = ["Draw", "damage_some"]

NOISES: tuple[Kind, ...] = ("camera", "phone", "reduced", "grain", "compressed")
QUALITIES = (5, 95)  # of JPEG
FACTORS = (0.8, 4.0)  # the level that the network is told, over the error of the damage
WHITE_FACTORS = (0.2, 3.0)  # white noise over the error of the damage
WHITE_SHARE = 0.5  # of the damaged crops that have white noise, too
WEAKENED_SHARE = 0.3  # of the damaged crops whose damage is partly undone, as in the later steps of a restoration
LEAST_ERROR = 0.3  # root mean square in levels; a crop that is damaged less is taken as it is
IMPORTANCE = 0.5  # factor on their losses, of which more cannot be avoided, and is therefore noise of the gradient
ATTEMPTS = 4  # draws of a noise that leaves a crop smaller than it was


@dataclass(frozen=True)
class Draw:
    """Everything that is drawn for the crops of a forward pass.

    Args:
        x0: Clean crops on [-1, 1], (B, C, H, W).
        t: Timesteps that the network is told, float64 (B,), on the CPU.
        eps: Noise, shaped like x0, which is multiplied by sigma_t; standard normal except for damaged crops.
        level: Timesteps of the noise that the crops really have, float64 (B,).
        weight: Factor on the loss of each crop, (B,). For a damaged crop it makes the loss at `t` comparable with one
            at `level`, and reduces it.
    """

    x0: Tensor
    t: Tensor
    eps: Tensor
    level: Tensor
    weight: Tensor


def damage_some(
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    *,
    jpeg_share: float,
    noise_share: float,
    schedule: Schedule,
    seed: int,
    first: int = 0,
) -> Draw:
    """Damage a share of the crops.

    Args:
        x0: Clean crops on [-1, 1], (B, 3, H, W).
        t: Timesteps, float64 (B,), on the CPU.
        eps: Standard normal noise, shaped like x0.
        jpeg_share: Probability that a crop is compressed.
        noise_share: Probability that a crop has noise of a camera, a film or a scanner.
        schedule: Gives the timestep of a noise level.
        seed: Seed of all that is drawn.
        first: Number of the first crop in its batch. What is drawn for a crop depends on the seed, its number and
            itself.
    """
    x0, t, eps = x0.clone(), t.clone(), eps.clone()
    level, weight = t.clone(), torch.ones(len(t), device=x0.device)
    for i in range(len(x0)):
        rng = random.Random(f"{seed}/{first + i}")
        chance = rng.random()
        if chance >= jpeg_share + noise_share:
            continue
        pixels = ((x0[i] + 1) * 127.5).round().cpu()
        pair = _compressed(pixels, rng) if chance < jpeg_share else _noisy(pixels, rng)
        if pair is None:
            continue
        clean, error = (2 * pair[0] / 255 - 1).to(x0), (2 * (pair[1] - pair[0]) / 255).to(x0)
        if rng.random() < WEAKENED_SHARE:
            error = error * rng.uniform(0.4, 1.0)
        rms = float(error.square().mean().sqrt())
        if rms < 2 * LEAST_ERROR / 255:
            continue
        white = rms * _log_uniform(rng, WHITE_FACTORS) if rng.random() < WHITE_SHARE else 0.0
        told = math.hypot(rms * _log_uniform(rng, FACTORS), white)
        real = math.hypot(rms, white)
        x0[i], eps[i] = clean, (error + white * eps[i]) / told
        t[i], level[i] = schedule.t_at(torch.tensor([told, real], dtype=torch.float64))
        weight[i] = IMPORTANCE * told**2 / (1 + told**2) * (1 + real**2) / real**2
    return Draw(x0, t, eps, level, weight)


def _compressed(x: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Return a crop (3, H, W) on the 0..255 scale, and the crop after compression with its blocks at any position."""
    top, left = rng.randrange(16), rng.randrange(16)
    padded = F.pad(x[None], (left, 0, top, 0), mode="reflect")[0]
    stored = jpeg(padded, rng.randint(*QUALITIES), subsampled=rng.random() < 0.7)
    return x, stored[:, top:, left:]


def _noisy(x: Tensor, rng: random.Random) -> tuple[Tensor, Tensor] | None:
    """Return a crop without and with noise that is not white; None if each noise drawn would need a larger crop."""
    for _ in range(ATTEMPTS):
        pair = simulate(x, rng.choice(NOISES), rng)
        if all(side >= least for side, least in zip(pair.noisy.shape, x.shape, strict=True)):
            height, width = x.shape[-2:]
            return as_stored(pair.clean[:, :height, :width]), pair.noisy[:, :height, :width]
    return None


def _log_uniform(rng: random.Random, ends: tuple[float, float]) -> float:
    return math.exp(rng.uniform(*map(math.log, ends)))
