"""Blurs that are neither a Gaussian nor a disk nor a straight line, so that the network for blur knows them as others.

Pictures are (H, W) on the 0..255 scale, and kernels are those of `restorer.diffusion.degradations.kernels`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from restorer.diffusion.degradations.kernels import as_kernel, defocus_kernel, gaussian_kernel, motion_kernel
from restorer.training.edits import as_stored

__all__ = ["PROGRAMS", "RESAMPLING", "SHAPES", "both"]

RESAMPLING = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BOX)
PATH_STEPS, VIEWS = 120, 17  # points of a path, and pictures whose mean is a rotation or a zoom


def both(a: Tensor, b: Tensor) -> Tensor:
    """Return the kernel of two blurs, one after the other."""
    down, across = b.shape[0] - 1, b.shape[1] - 1
    padded = F.pad(a, (across, across, down, down))
    return F.conv2d(padded[None, None], b.flip(0, 1)[None, None])[0, 0]


def path_kernel(rng: random.Random) -> Tensor:
    """Return the kernel of a camera that moved along a curve, or around a corner, far from a straight line."""
    while True:
        heading, turn, speed = rng.uniform(0, 2 * math.pi), rng.gauss(0, 0.02), 1.0
        points, position, corner = [], (0.0, 0.0), rng.choice([-1, rng.randrange(30, 90)])
        for step in range(PATH_STEPS):
            turn = 0.97 * turn + rng.gauss(0, 0.015)
            speed = min(max(speed + rng.gauss(0, 0.1), 0.2), 3)
            heading += turn + (rng.uniform(0.7, 2.4) if step == corner else 0.0)
            position = position[0] + speed * math.cos(heading), position[1] + speed * math.sin(heading)
            points.append(position)
        path = torch.tensor(points)
        path = path - path.mean(0)
        spread = torch.linalg.eigvalsh(path.T @ path / len(path)).sqrt()
        if float(spread[0]) > 0.25 * float(spread[1]):
            return _splat(path * (rng.uniform(2, 8) / float(spread[1])))


def corner_kernel(rng: random.Random) -> Tensor:
    """Return the kernel of a camera that moved along one straight line and then along another."""
    heading, turn, lengths = (
        rng.uniform(0, 2 * math.pi),
        rng.uniform(0.7, 2.5),
        (rng.uniform(4, 14), rng.uniform(4, 14)),
    )
    along = torch.linspace(0, 1, PATH_STEPS)[:, None]
    first, second = (torch.tensor([math.sin(a), math.cos(a)]) for a in (heading, heading + turn))
    pause = rng.uniform(0.5, 2)  # how much more slowly the second line was drawn
    legs = [along * first * lengths[0], lengths[0] * first + along * second * lengths[1]]
    return _splat(torch.cat(legs), torch.cat([torch.ones(PATH_STEPS), torch.full((PATH_STEPS,), pause)]))


def ghost_kernel(rng: random.Random) -> Tensor:
    """Return the kernel of two or three exposures that lie beside each other, each a little soft at times."""
    points = [(0.0, 0.0)]
    for _ in range(rng.choice([1, 1, 2])):
        heading, distance = rng.uniform(0, 2 * math.pi), math.exp(rng.uniform(math.log(3), math.log(18)))
        points.append((distance * math.sin(heading), distance * math.cos(heading)))
    kernel = _splat(torch.tensor(points), torch.tensor([1.0] + [rng.uniform(0.3, 1) for _ in points[1:]]))
    return kernel if rng.random() < 0.6 else both(kernel, gaussian_kernel(rng.uniform(0.4, 1.2)))


def pause_kernel(rng: random.Random) -> Tensor:
    """Return the kernel of a camera that rested at one end of its way."""
    length, angle = rng.uniform(6, 24), rng.uniform(0, math.pi)
    along = torch.linspace(0, length, PATH_STEPS)[:, None] * torch.tensor([math.sin(angle), math.cos(angle)])
    weights = torch.ones(PATH_STEPS)
    weights[0] = PATH_STEPS * rng.uniform(0.4, 1.5)
    return _splat(along, weights)


def box_kernel(rng: random.Random) -> Tensor:
    """Return a rectangle, at any angle or parallel to the borders, which programs blur by."""
    if rng.random() < 0.5:
        return as_kernel(torch.ones(rng.choice([3, 5, 7, 9, 11]), rng.choice([3, 5, 7, 9, 11])))
    angle, width, height = rng.uniform(0, 90), rng.uniform(3, 11), rng.uniform(3, 11)
    return both(motion_kernel(width, angle), motion_kernel(height, angle + 90))


def two_kernel(rng: random.Random) -> Tensor:
    """Return the kernel of a lens out of focus on a camera that moved."""
    length = rng.uniform(6, 24)
    return both(motion_kernel(length, rng.uniform(0, 180)), defocus_kernel(rng.uniform(0.2, 0.5) * length))


def ring_kernel(rng: random.Random) -> Tensor:
    """Return the kernel of a lens with a mirror in its middle, out of focus."""
    radius = rng.uniform(2.5, 9)
    outer, share = defocus_kernel(radius), rng.uniform(0.45, 0.75)
    inner = defocus_kernel(share * radius)
    down, across = ((a - b) // 2 for a, b in zip(outer.shape, inner.shape, strict=True))
    return as_kernel((outer - share**2 * F.pad(inner, (across, across, down, down))).clamp(min=0))


def glow_kernel(rng: random.Random) -> Tensor:
    """Return the kernel of a lens with mist on it: a point within a wide Gaussian."""
    wide, share = gaussian_kernel(rng.uniform(2, 6)), rng.uniform(0.35, 0.75)
    kernel = share * wide
    kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] += 1 - share
    return kernel


def enlarged(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture of the same size that was shrunk and enlarged."""
    factor, height, width = rng.uniform(1.5, 4), *x.shape
    small = _to_pil(x).resize((round(width / factor), round(height / factor)), rng.choice(RESAMPLING))
    return _from_pil(small.resize((width, height), rng.choice(RESAMPLING[:3])))


def median(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture of which every pixel is the median of those around it."""
    return _from_pil(_to_pil(x).filter(ImageFilter.MedianFilter(rng.choice([3, 5, 7]))))


def spun(x: Tensor, rng: random.Random) -> Tensor:
    """Return a picture of a camera that turned around its axis, or whose lens zoomed: the blur grows from a point."""
    height, width = x.shape
    most = rng.uniform(0.05, 0.15)  # radians, or share of the distance to the point
    is_turn, (cx, cy) = rng.random() < 0.5, (rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7))
    aspect, total = width / height, torch.zeros(1, 1, height, width)
    for i in range(VIEWS):
        amount = most * (i / (VIEWS - 1) - 0.5)
        turn, zoom = (amount, 1.0) if is_turn else (0.0, 1 + amount)
        a, b = zoom * math.cos(turn), zoom * math.sin(turn)
        matrix = torch.tensor(
            [[a, -b / aspect, cx - a * cx + b / aspect * cy], [b * aspect, a, cy - b * aspect * cx - a * cy]]
        )
        grid = F.affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
        total += F.grid_sample(x[None, None], grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return total[0, 0] / VIEWS


SHAPES: tuple[Callable[[random.Random], Tensor], ...] = (
    path_kernel,
    path_kernel,
    corner_kernel,
    ghost_kernel,
    ghost_kernel,
    pause_kernel,
    box_kernel,
    two_kernel,
    ring_kernel,
    glow_kernel,
)
"""The kernels of other blurs. One that stands here twice is drawn twice as often."""

PROGRAMS: tuple[Callable[[Tensor, random.Random], Tensor], ...] = (enlarged, enlarged, median, spun)
"""What makes a picture soft in a way that no kernel describes."""


def _splat(path: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return points (N, 2) as a kernel around their middle, each shared by four pixels."""
    path = path - (path.amax(0) + path.amin(0)) / 2
    reach = math.ceil(float(path.abs().max())) + 1
    side, low = 2 * reach + 1, path.floor()
    kernel = torch.zeros(side * side)
    for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner = low + torch.tensor(offset)
        share = (1 - (path - corner).abs()).prod(1)
        index = (corner[:, 0] + reach) * side + corner[:, 1] + reach
        kernel.index_add_(0, index.long(), share if weights is None else share * weights)
    return as_kernel(kernel.view(side, side))


def _to_pil(x: Tensor) -> Image.Image:
    return Image.fromarray(as_stored(x).byte().numpy())


def _from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).float()
