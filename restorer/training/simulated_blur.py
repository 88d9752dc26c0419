"""Blurred photographs whose blur is known, and photographs that are not blurred, as cameras and programs leave them.

Only the luminance counts, so pictures are (H, W) on the 0..255 scale, whole numbers as in files. A blur is followed by
noise, rounding to 8 bits and, for every other picture, JPEG.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.networks.blur_estimator import ANGLES
from restorer.training.edits import as_stored, blur
from restorer.training.other_blurs import PROGRAMS, SHAPES, both
from restorer.training.simulated_noise import Kind, simulate

__all__ = ["SHARES", "Blurred", "choose_kind", "drawing", "simulate_blur"]

SHARES = {"none": 0.34, "gaussian": 0.15, "defocus": 0.15, "motion": 0.16, "other": 0.2}
"""The share of each kind in the training."""

GAUSSIAN, DEFOCUS, MOTION = (0.8, 4.5), (1.0, 9.0), (2.5, 36.0)
"""The least and the largest standard deviation, radius and length that are drawn, in pixels."""

SOFTNESS = (0.3, 1.0)
"""The standard deviations of Gaussians that are no blur, because pictures at the full size of a camera have them."""

BY_PROGRAM = 0.25
"""The share of other blurs that no kernel describes."""

MARGIN = 20  # pixels by which a part exceeds what is returned, so that its borders were blurred in
NOISES: tuple[Kind, ...] = ("none", "none", "camera", "phone", "reduced", "reduced", "grain", "scanner", "compressed")


@dataclass(frozen=True)
class Blurred:
    """A picture whose blur is known.

    Args:
        picture: (H, W) on the 0..255 scale.
        kind: One of `restorer.networks.blur_estimator.KINDS`.
        widths: Log of the standard deviation along each of ANGLES directions, if the kind is "gaussian".
        scalar: Log of the radius of a defocus or of the length of a motion; 0 for other kinds.
        angle: The angle of a motion in degrees, 0..180.
    """

    picture: Tensor
    kind: str
    widths: Tensor
    scalar: float = 0.0
    angle: float = 0.0


def simulate_blur(x: Tensor, kind: str, rng: random.Random) -> Blurred:
    """Return a part of a photograph with a blur of a kind, whose other properties are drawn.

    Args:
        x: A photograph, (3, H, W) on the 0..255 scale. A border of up to MARGIN pixels is cut off.
        kind: One of `restorer.networks.blur_estimator.KINDS`.
        rng: The source of chance.
    """
    widths, scalar, angle = torch.zeros(ANGLES), 0.0, 0.0
    if kind == "none":
        return Blurred(_unblurred(x, rng), kind, widths)
    gray = _luminance(x)
    if kind == "other":
        return Blurred(_finished(_differently_blurred(gray, rng), rng), kind, widths)
    kernel, widths, scalar, angle = _draw_kernel(kind, rng)
    return Blurred(_finished(_convolved(gray, kernel, rng), rng), kind, widths, scalar, angle)


def drawing(height: int, width: int, rng: random.Random) -> Tensor:
    """Return a drawing with areas, lines and words, (3, H, W) on the 0..255 scale."""
    image = Image.new("RGB", (width, height), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(5, 60)):
        x, y, w, h = rng.randrange(width), rng.randrange(height), rng.randrange(4, 120), rng.randrange(4, 120)
        shape = rng.choice(["area", "area", "line", "disk", "words", "words", "words"])
        if shape == "area":
            draw.rectangle((x, y, x + w, y + h), fill=_colour(rng))
        elif shape == "line":
            draw.line((x, y, x + w, y + rng.randrange(-120, 120)), fill=_colour(rng), width=rng.randrange(1, 5))
        elif shape == "disk":
            draw.ellipse((x, y, x + w, y + h), fill=_colour(rng))
        else:
            words = "".join(rng.choice("etaoin shrdlu cmfwyp vbgkqj") for _ in range(rng.randint(3, 30)))
            draw.text((x - 40, y), words, fill=_colour(rng), font_size=rng.randrange(8, 40))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def _colour(rng: random.Random) -> tuple[int, int, int]:
    shade = rng.choice([0, 255, rng.randrange(256)])
    return (shade, shade, shade) if rng.random() < 0.5 else (rng.randrange(256), rng.randrange(256), shade)


def _luminance(x: Tensor) -> Tensor:
    return 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]


def _log_uniform(rng: random.Random, limits: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(limits[0]), math.log(limits[1])))


def _draw_kernel(kind: str, rng: random.Random) -> tuple[Tensor, Tensor, float, float]:
    """Return a kernel of a kind with the labels of `Blurred`. Lenses are a little soft beside everything else."""
    none = torch.zeros(ANGLES)
    if kind == "gaussian":
        sigma, angle = _log_uniform(rng, GAUSSIAN), rng.uniform(0, 180)
        across = sigma if rng.random() < 0.5 else max(sigma / rng.uniform(1, 3), 0.3)
        directions = torch.arange(ANGLES) * (math.pi / ANGLES) - math.radians(angle)
        variance = (sigma * directions.cos()).square() + (across * directions.sin()).square()
        return gaussian_kernel(sigma, across, angle), variance.log() / 2, 0.0, 0.0
    if kind == "defocus":
        size, angle = _log_uniform(rng, DEFOCUS), 0.0
        kernel = defocus_kernel(size)
    else:
        size, angle = _log_uniform(rng, MOTION), rng.uniform(0, 180)
        kernel = motion_kernel(size, angle)
    if rng.random() < 0.4:
        kernel = both(kernel, gaussian_kernel(rng.uniform(0.3, 0.6)))
    return kernel, none, math.log(size), angle


def _convolved(x: Tensor, kernel: Tensor, rng: random.Random) -> Tensor:
    """Return planes (..., H, W) blurred by a kernel without the borders; at times in proportion to the light."""
    operator = Blur(kernel)
    exponent = 2.2 if rng.random() < 0.25 else 1.0
    light = (x / 255).clamp(min=0) ** exponent
    measured = operator.measure(light.reshape(1, -1, *x.shape[-2:]))
    return 255 * measured.reshape(*x.shape[:-2], *measured.shape[-2:]).clamp(min=0) ** (1 / exponent)


def _finished(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture (H, W) with noise, in 8 bits, and at times compressed."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    sigma = rng.choice([0.0, rng.uniform(0, 3), rng.uniform(0, 10)]) * 0.67  # the share of white noise in the luminance
    noise = torch.randn(x.shape, generator=generator)
    chance = rng.random()
    if chance < 0.15:
        noise = blur(noise[None], rng.uniform(0.3, 0.9))[0]
        noise = noise / noise.std()
    elif chance < 0.3:
        noise = noise * (0.3 + x / 150).sqrt()
    return _compressed(as_stored(x + sigma * noise), rng)


def _compressed(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture (H, W), of which every other one was stored as a JPEG file."""
    if rng.random() < 0.5:
        return as_stored(x)
    file = io.BytesIO()
    Image.fromarray(as_stored(x).byte().numpy()).save(file, "JPEG", quality=rng.randint(55, 100))
    return torch.from_numpy(np.array(Image.open(file))).float()


def _unblurred(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture that is sharp, at least in a part of it: with noise, edited, or with another part blurred.

    Every other one is as soft as pictures at the full size of a camera are, from its lens, the filter before its sensor
    and the interpolation of its colours.
    """
    if rng.random() < 0.5:
        x = _naturally_soft(x, rng)
    chance = rng.random()
    if chance < 0.4:
        return _compressed(_luminance(as_stored(simulate(x, rng.choice(NOISES), rng).noisy)), rng)
    gray = _luminance(x)
    if chance < 0.6:
        return _finished(_partly_blurred(gray, rng), rng)
    if chance < 0.75:
        strength, radius = rng.uniform(0.3, 2.0), rng.uniform(0.5, 1.5)
        return _finished(as_stored(gray + strength * (gray - blur(gray[None], radius)[0])), rng)
    return _finished(gray, rng)


def _naturally_soft(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture (3, H, W) that is as soft as lenses and sensors make one, and little more in one direction."""
    sigma, ratio = rng.uniform(*SOFTNESS), rng.uniform(1, 1.15)
    return _convolved(x, gaussian_kernel(sigma * ratio, sigma / ratio, rng.uniform(0, 180)), rng)


def _partly_blurred(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture (H, W) of which a part is sharp and another is out of focus or has moved."""
    kernel = _draw_kernel(rng.choice(["gaussian", "defocus", "defocus", "motion"]), rng)[0]
    down, across = (side // 2 for side in kernel.shape)
    blurred = Blur(kernel).measure(F.pad(x[None, None], (across, across, down, down), mode="reflect"))[0, 0]
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    field = F.interpolate(torch.randn(1, 1, 4, 4, generator=generator), x.shape, mode="bicubic")[0, 0]
    share = ((field - field.quantile(rng.uniform(0.25, 0.7))) * rng.choice([3.0, 30.0])).sigmoid()
    return torch.lerp(x, blurred, share)


def _differently_blurred(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture (H, W) whose blur is of none of the kinds that are told apart."""
    if rng.random() < BY_PROGRAM:
        return rng.choice(PROGRAMS)(x, rng)
    return _convolved(x, rng.choice(SHAPES)(rng), rng)


def choose_kind(rng: random.Random, shares: Sequence[tuple[str, float]] = tuple(SHARES.items())) -> str:
    """Return a kind that is drawn by its share."""
    return rng.choices([name for name, _ in shares], [share for _, share in shares])[0]
