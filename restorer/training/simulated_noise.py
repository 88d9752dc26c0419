"""Noise as cameras, films, scanners and programs make it, added to photographs without noise.

Every simulation returns a pair: the picture with noise, and the same picture processed in the same way without noise,
so that their difference is the noise alone. Pictures are (3, H, W) on the 0..255 scale, whole numbers as in files.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from restorer.training.edits import as_stored, blur, jpeg, resize
from restorer.training.simulated_camera import Camera, photograph

__all__ = ["KINDS", "Kind", "Pair", "simulate"]

Kind = Literal["none", "camera", "phone", "reduced", "grain", "white", "resized", "shared", "scanner", "compressed"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Pair:
    """A picture with noise and without.

    Args:
        noisy: (3, H, W) on the 0..255 scale.
        clean: The same picture without noise.
    """

    noisy: Tensor
    clean: Tensor


def simulate(x: Tensor, kind: Kind, rng: random.Random) -> Pair:
    """Return a picture with noise of a kind, whose other properties are drawn.

    Args:
        x: A photograph without noise, (3, H, W) on the 0..255 scale.
        kind: One of KINDS. "none" changes the picture as programs do, and adds no noise.
        rng: The source of chance.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind == "none":
        changed = _edited(x, rng)
        return Pair(changed, changed)
    seed, sigma = rng.getrandbits(32), math.exp(rng.uniform(math.log(2), math.log(35)))
    if kind in ("camera", "phone", "reduced"):
        camera = Camera.draw(rng, kind)
        return Pair(photograph(x, camera, seed), photograph(x, camera, None))
    if kind == "grain":
        return _grain(x, rng.uniform(0, 6), min(sigma, 30), rng, seed)
    white = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    if kind == "white":
        return Pair(as_stored(x + sigma * white), x)
    if kind == "resized":
        factor = rng.choice([0.5, 0.7, 1.25, 1.5, 2.0, 2.5])
        height, width = x.shape[-2:]
        return Pair(*(resize(y, factor)[:, :height, :width] for y in (x + 1.5 * sigma * white, x)))
    if kind == "shared":
        tint = torch.tensor([1.0, rng.uniform(0.8, 1.0), rng.uniform(0.6, 1.0)]).view(3, 1, 1)
        noise = sigma * blur(white[:1], rng.choice([0.0, 0.0, rng.uniform(0.4, 1.5)]))
        if rng.random() < 0.5:  # an old photograph: gray, or toned as sepia, with its noise
            gray = x.mean(0, keepdim=True)
            return Pair(as_stored((gray + noise) * tint), as_stored(gray * tint))
        return Pair(as_stored(x + noise * tint), x)
    if kind == "scanner":
        sensor = torch.randn(3, 1, x.shape[-1], generator=torch.Generator().manual_seed(seed + 1))
        noise = blur(white, rng.uniform(0.3, 1.0)) + rng.uniform(0, 0.3) * sensor
        return Pair(as_stored(x + min(sigma, 15) * noise / noise.std()), x)
    if kind == "compressed":
        return Pair(jpeg(x + sigma * white, rng.choice([60, 75, 85, 92]), subsampled=rng.random() < 0.6), x)
    raise ValueError(f"unknown kind of noise {kind!r}")


def _grain(x: Tensor, length: float, sigma: float, rng: random.Random, seed: int) -> Pair:
    """Return a picture with the grain of a film.

    Args:
        x: The photograph.
        length: Distance in pixels at which the correlation of the grain has fallen to exp(-1/2).
        sigma: Standard deviation of the grain over the picture.
        rng: The source of chance.
        seed: Seed of the grain.
    """
    grain = blur(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)), length / math.sqrt(2))
    grain = grain / grain.std()
    colour = rng.choice([0.0, 0.2, 0.5, 1.0])
    grain = torch.lerp(grain[:1].expand(3, -1, -1), grain, colour)
    if rng.random() < 0.6:  # strongest in the middle tones
        tone = x.mean(0, keepdim=True) / 255
        grain = grain * (4 * tone * (1 - tone)).clamp(min=0.15).sqrt()
    return Pair(as_stored(x + sigma * grain / grain.std()), x)


def _edited(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture as cameras and programs leave it, without noise."""
    chance = rng.random()
    if chance < 0.25:
        return photograph(x, Camera.draw(rng), None)
    if chance < 0.5:
        return jpeg(x, rng.choice([50, 70, 80, 90, 95]), subsampled=rng.random() < 0.6)
    if chance < 0.7:
        return as_stored(x + rng.uniform(0.3, 1.5) * (x - blur(x, rng.uniform(0.6, 1.5))))
    if chance < 0.75:
        return _halftone(x, rng.uniform(3, 8), rng.uniform(0, math.pi / 2), rng.uniform(0.1, 0.3))
    if chance < 0.85:
        return _woven(x, rng)
    if chance < 0.92:
        return resize(x, rng.choice([0.5, 1.5, 2.0]))[:, : x.shape[-2], : x.shape[-1]]
    return x


def _halftone(x: Tensor, period: float, angle: float, share: float) -> Tensor:
    """Return a gray picture under the screen of a print."""
    down, across = torch.meshgrid(torch.arange(x.shape[-2]), torch.arange(x.shape[-1]), indexing="ij")
    u = (across * math.cos(angle) + down * math.sin(angle)) * 2 * math.pi / period
    v = (down * math.cos(angle) - across * math.sin(angle)) * 2 * math.pi / period
    screen = 255 * (u.cos() * v.cos() + 1) / 2
    return as_stored(torch.lerp(x.mean(0, keepdim=True), screen, share)).expand(3, -1, -1).clone()


def _woven(x: Tensor, rng: random.Random) -> Tensor:
    """Return the light of a picture on a woven cloth, whose threads are more or less regular."""
    seed, height, width = rng.getrandbits(32), *x.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    down, across = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    angle, irregular = rng.choice([0.0, rng.uniform(0, math.pi)]), rng.uniform(0, 0.6)
    threads = []
    for u in (across * math.cos(angle) + down * math.sin(angle), down * math.cos(angle) - across * math.sin(angle)):
        phase = 2 * math.pi * u / rng.uniform(2, 9)
        number = (phase / (2 * math.pi)).floor().long()
        number -= number.min()
        strength = 1 + irregular * torch.randn(int(number.max()) + 1, generator=generator)[number]
        threads.append(phase.sin() * strength)
    weave = rng.choice([threads[0] * threads[1], threads[0] + threads[1], threads[0], (threads[0] * threads[1]).sign()])
    fibres = blur(torch.randn(1, height, width, generator=generator), rng.uniform(0, 1))[0]
    weave = weave / weave.std() + rng.uniform(0, 0.5) * fibres / fibres.std()
    light = blur(x, rng.choice([0.0, 3.0, 10.0]))
    tint = torch.tensor([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.5, 1.0)]).view(3, 1, 1)
    cloth = light + math.exp(rng.uniform(math.log(2), math.log(30))) * weave * tint
    return as_stored(blur(cloth, rng.choice([0.0, rng.uniform(0.3, 0.8)])))
