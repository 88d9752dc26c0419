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
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import as_kernel, defocus_kernel, gaussian_kernel, motion_kernel
from restorer.networks.blur_estimator import ANGLES
from restorer.training.edits import as_stored, blur
from restorer.training.simulated_noise import Kind, simulate

__all__ = ["SHARES", "Blurred", "choose_kind", "drawing", "simulate_blur"]

SHARES = {"none": 0.32, "gaussian": 0.18, "defocus": 0.16, "motion": 0.2, "other": 0.14}
"""The share of each kind in the training."""

GAUSSIAN, DEFOCUS, MOTION = (0.5, 4.5), (0.9, 9.0), (2.5, 36.0)
"""The least and the largest standard deviation, radius and length that are drawn, in pixels."""

MARGIN = 20  # pixels by which a part exceeds what is returned, so that its borders were blurred in
RESAMPLING = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BOX)
NOISES: tuple[Kind, ...] = ("none", "none", "camera", "phone", "reduced", "grain", "resized", "scanner", "compressed")


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
        kernel = _both(kernel, gaussian_kernel(rng.uniform(0.3, 0.6)))
    return kernel, none, math.log(size), angle


def _both(a: Tensor, b: Tensor) -> Tensor:
    """Return the kernel of two blurs, one after the other."""
    down, across = b.shape[0] - 1, b.shape[1] - 1
    padded = F.pad(a, (across, across, down, down))
    return F.conv2d(padded[None, None], b.flip(0, 1)[None, None])[0, 0]


def _convolved(x: Tensor, kernel: Tensor, rng: random.Random) -> Tensor:
    """Return a picture (H, W) blurred by a kernel without the borders; at times in proportion to the light."""
    operator = Blur(kernel)
    exponent = 2.2 if rng.random() < 0.25 else 1.0
    light = (x / 255).clamp(min=0) ** exponent
    return 255 * operator.measure(light[None, None])[0, 0].clamp(min=0) ** (1 / exponent)


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
    """Return a picture that is sharp, at least in a part of it: with noise, edited, or with another part blurred."""
    chance = rng.random()
    if chance < 0.35:
        return _compressed(_luminance(as_stored(simulate(x, rng.choice(NOISES), rng).noisy)), rng)
    gray = _luminance(x)
    if chance < 0.6:
        return _finished(_partly_blurred(gray, rng), rng)
    if chance < 0.75:
        strength, radius = rng.uniform(0.3, 2.0), rng.uniform(0.5, 1.5)
        return _finished(as_stored(gray + strength * (gray - blur(gray[None], radius)[0])), rng)
    return _finished(gray, rng)


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
    kind = rng.choice(["path", "path", "path", "ghost", "box", "two", "enlarged", "enlarged", "median"])
    if kind == "enlarged":
        factor, height, width = rng.uniform(1.5, 4), *x.shape
        small = Image.fromarray(as_stored(x).byte().numpy()).resize(
            (round(width / factor), round(height / factor)), rng.choice(RESAMPLING)
        )
        large = small.resize((width, height), rng.choice(RESAMPLING[:3]))
        return torch.from_numpy(np.array(large)).float()
    if kind == "median":
        image = Image.fromarray(as_stored(x).byte().numpy()).filter(ImageFilter.MedianFilter(rng.choice([3, 5, 7])))
        return torch.from_numpy(np.array(image)).float()
    if kind == "box":
        kernel = as_kernel(torch.ones(rng.choice([3, 5, 7, 9, 11]), rng.choice([3, 5, 7, 9, 11])))
    elif kind == "two":
        length, angle = rng.uniform(6, 24), rng.uniform(0, 180)
        kernel = _both(motion_kernel(length, angle), defocus_kernel(rng.uniform(0.2, 0.5) * length))
    elif kind == "ghost":
        side = 2 * rng.randint(3, 14) + 1
        kernel = torch.zeros(side, side)
        kernel[side // 2, side // 2] = 1
        kernel[rng.randrange(side), rng.choice([0, side - 1])] = rng.uniform(0.3, 1)
    else:
        kernel = _path_kernel(rng)
    return _convolved(x, kernel, rng)


def _path_kernel(rng: random.Random) -> Tensor:
    """Return the kernel of a camera that moved along a path that is far from straight."""
    while True:
        heading, turn, speed = rng.uniform(0, 2 * math.pi), rng.gauss(0, 0.02), 1.0
        points, position, corner = [], (0.0, 0.0), rng.choice([-1, rng.randrange(30, 90)])
        for step in range(120):
            turn = 0.97 * turn + rng.gauss(0, 0.015)
            speed = min(max(speed + rng.gauss(0, 0.1), 0.2), 3)
            heading += turn + (rng.uniform(0.7, 2.4) if step == corner else 0.0)
            position = position[0] + speed * math.cos(heading), position[1] + speed * math.sin(heading)
            points.append(position)
        path = torch.tensor(points)
        path = path - path.mean(0)
        spread = torch.linalg.eigvalsh(path.T @ path / len(path)).sqrt()
        if float(spread[0]) > 0.25 * float(spread[1]):
            break
    path = path * (rng.uniform(2, 8) / float(spread[1]))
    reach = math.ceil(float(path.abs().max())) + 1
    return _splat(path, reach)


def _splat(path: Tensor, reach: int) -> Tensor:
    """Return points (N, 2) as a picture of (2 * reach + 1) pixels a side, each shared by four pixels."""
    side = 2 * reach + 1
    kernel, low = torch.zeros(side * side), path.floor()
    for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner = low + torch.tensor(offset)
        share = (1 - (path - corner).abs()).prod(1)
        index = (corner[:, 0] + reach) * side + corner[:, 1] + reach
        kernel.index_add_(0, index.long(), share)
    return kernel.view(side, side)


def choose_kind(rng: random.Random, shares: Sequence[tuple[str, float]] = tuple(SHARES.items())) -> str:
    """Return a kind that is drawn by its share."""
    return rng.choices([name for name, _ in shares], [share for _, share in shares])[0]
