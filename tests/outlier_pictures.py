"""Pictures with outliers of many kinds, and drawn pictures that only look as if they had some.

All values are on the 0..255 scale, whole numbers in float tensors (C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = 160

Made = tuple[Tensor, Tensor]
"""A picture, and the values in it that are visible outliers, bool (C, H, W)."""


def photograph(name: str = "eagles", left: int = 0, top: int = 0, size: int = SIZE) -> Tensor:
    """Return a part of a photograph, without what compression left of it at the scale of a pixel."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        part = image.convert("RGB").crop((left, top, left + size, top + size))
    return torch.from_numpy(np.asarray(part).copy()).permute(2, 0, 1).float()


def noisy(x: Tensor, sigma: float, seed: int = 1) -> Tensor:
    """Return a picture with white noise, rounded and clipped as in a file."""
    return (x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))).round().clamp(0, 255)


def _made(x: Tensor, y: Tensor) -> Made:
    return y, (y - x).abs() >= 12


def salt_and_pepper(x: Tensor, share: float, *, salt: float = 0.5, each: bool = False, seed: int = 0) -> Made:
    """Set a share of the pixels, or of the values of each channel, to white or to black."""
    u = torch.rand(x.shape if each else (1, *x.shape[1:]), generator=torch.Generator().manual_seed(seed))
    return _made(x, torch.where(u < salt * share, 255.0, torch.where(u < share, 0.0, x)))


def impulses(x: Tensor, share: float, *, each: bool = False, seed: int = 0) -> Made:
    """Set a share of the pixels, or of the values of each channel, to values of uniform chance."""
    chance = torch.Generator().manual_seed(seed)
    hit = torch.rand(x.shape if each else (1, *x.shape[1:]), generator=chance) < share
    return _made(x, torch.where(hit, torch.randint(0, 256, x.shape, generator=chance).float(), x))


def hot_pixels(x: Tensor, share: float, *, seed: int = 0) -> Made:
    """Add dark current to a share of the pixels, to each in one channel, and let some be dead."""
    chance = torch.Generator().manual_seed(seed)
    hit = torch.rand(x.shape[1:], generator=chance) < share
    channel = torch.randint(0, len(x), x.shape[1:], generator=chance)
    current = 50 + torch.empty(x.shape[1:]).exponential_(1 / 90, generator=chance)
    is_dead = torch.rand(x.shape[1:], generator=chance) < 0.15
    value = torch.where(is_dead, 0.0, (x + current).clamp(max=255))
    mine = hit & (channel == torch.arange(len(x))[:, None, None])
    return _made(x, torch.where(mine, value, x).round())


def demosaiced(x: Tensor, share: float, *, seed: int = 0) -> Made:
    """Return what a camera with a Bayer mosaic makes of a picture, with hot pixels that demosaicing has spread."""
    height, width = x.shape[1:]
    mosaic = torch.zeros_like(x)
    mosaic[0, ::2, ::2], mosaic[1, ::2, 1::2], mosaic[1, 1::2, ::2], mosaic[2, 1::2, 1::2] = 1, 1, 1, 1
    sides = torch.tensor([1.0, 2.0, 1.0])
    square, cross = sides[:, None] * sides / 4, torch.tensor([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    kernels = torch.stack([square, cross, square])[:, None]

    def developed(raw: Tensor) -> Tensor:
        planes = F.pad((raw * mosaic)[None], (1,) * 4, mode="reflect")
        return F.conv2d(planes, kernels, groups=3)[0].round().clamp(0, 255)

    chance = torch.Generator().manual_seed(seed)
    raw = (x * mosaic).sum(0)
    hit = torch.rand(height, width, generator=chance) < share
    current = 80 + torch.empty(height, width).exponential_(1 / 90, generator=chance)
    return _made(developed(raw), developed(torch.where(hit, (raw + current).clamp(max=255), raw)))


def _drawing(draw: Callable[[ImageDraw.ImageDraw, np.random.Generator], None], ground: int = 255) -> Tensor:
    """Return what a function draws on a plain ground."""
    image = Image.new("RGB", (SIZE, SIZE), (ground,) * 3)
    draw(ImageDraw.Draw(image), np.random.default_rng(0))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()


def _lights(count: int, width: float, where: Callable[[np.random.Generator], tuple[float, float]]) -> Tensor:
    """Return lights of Gaussian shape, of a power law in brightness, on a dark ground with noise."""
    chance = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    sky = np.zeros((SIZE, SIZE))
    for _ in range(count):
        row, column = where(chance)
        size = 25 * (1 - chance.random()) ** -0.8
        sky += size * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2))
    sky = 14 + sky + chance.normal(0, 1.5, sky.shape)
    return torch.from_numpy(sky.round().clip(0, 255)).float().expand(3, -1, -1).clone()


def _anywhere(chance: np.random.Generator) -> tuple[float, float]:
    return float(chance.uniform(0, SIZE)), float(chance.uniform(0, SIZE))


def _dithered(colours: int) -> Tensor:
    """Return a photograph in few colours, with their errors diffused."""
    with Image.open(IMAGES / "gates.jpg") as image:
        part = image.convert("RGB").crop((100, 60, 100 + SIZE, 60 + SIZE))
    small = part.convert("1") if colours == 2 else part.quantize(colours, dither=Image.Dither.FLOYDSTEINBERG)
    return torch.from_numpy(np.asarray(small.convert("RGB")).copy()).permute(2, 0, 1).float()


def _halftone() -> Tensor:
    """Return dots on a lattice whose size is the brightness."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    screen = np.cos(2 * math.pi * rows / 5) * np.cos(2 * math.pi * columns / 5)
    tone = np.linspace(-0.9, 0.9, SIZE)
    return torch.from_numpy(np.where(screen > tone, 20.0, 235.0)).float().expand(3, -1, -1).clone()


def _dots(draw: ImageDraw.ImageDraw, chance: np.random.Generator) -> None:
    for y in range(8, SIZE, 16):
        draw.point([(x, y) for x in range(4, SIZE, 6)], "black")


def _text(draw: ImageDraw.ImageDraw, chance: np.random.Generator) -> None:
    for y in range(4, SIZE, 14):
        draw.text((6, y), "it is. a: few, dots; i.j", "black")


def _hairs(draw: ImageDraw.ImageDraw, chance: np.random.Generator) -> None:
    for _ in range(250):
        x, y = chance.uniform(0, SIZE, 2)
        tone = int(chance.integers(20, 110))
        draw.line([(x, y), (x + chance.uniform(-9, 9), y - chance.uniform(4, 16))], (tone,) * 3)


def _pixel_art(draw: ImageDraw.ImageDraw, chance: np.random.Generator) -> None:
    for _ in range(40):
        x, y = (int(v) for v in chance.integers(0, SIZE, 2))
        draw.rectangle((x, y, x + 12, y + 9), tuple(int(v) for v in chance.integers(0, 256, 3)))
    for _ in range(30):  # bricks and eyes
        x, y = (int(v) for v in chance.integers(0, SIZE, 2))
        draw.point([(x, y), (x + 3, y)], "black")


def _sand() -> Tensor:
    """Return grains of one to two pixels, some of them glittering."""
    chance = np.random.default_rng(0)
    grains = 150 + chance.normal(0, 22, (SIZE, SIZE)) + np.where(chance.random((SIZE, SIZE)) > 0.995, 70, 0)
    soft = (grains + np.roll(grains, 1, 0) + np.roll(grains, 1, 1)) / 2 - 75
    return torch.from_numpy(soft.round().clip(0, 255)).float().expand(3, -1, -1).clone()


def _water() -> Tensor:
    """Return a sky above water with sparkles of single pixels."""
    chance = np.random.default_rng(0)
    rows = np.arange(SIZE)[:, None] * np.ones((1, SIZE))
    picture = 190 - 0.3 * rows + chance.normal(0, 1, (SIZE, SIZE))
    sea = rows >= SIZE // 2
    waves = 70 + 25 * np.sin(rows / 2 + 3 * np.sin(np.arange(SIZE) / 9)) + chance.normal(0, 8, (SIZE, SIZE))
    picture = np.where(sea, waves, picture)
    picture[sea & (chance.random((SIZE, SIZE)) < 0.01)] = 255
    return torch.from_numpy(picture.round().clip(0, 255)).float().expand(3, -1, -1).clone()


def _snow_by_night() -> Tensor:
    """Return single white pixels on a dark sky, as a game or a shrunken photograph may show stars."""
    chance = np.random.default_rng(0)
    sky = 18 + chance.normal(0, 1.5, (SIZE, SIZE))
    sky[chance.random((SIZE, SIZE)) < 0.004] = 255
    return torch.from_numpy(sky.round().clip(0, 255)).float().expand(3, -1, -1).clone()


DRAWN: dict[str, Callable[[], Tensor]] = {
    "stars": lambda: _lights(90, 0.7, _anywhere),
    "sharp stars": lambda: _lights(200, 0.45, _anywhere),
    "stars of single pixels": _snow_by_night,
    "sparkles on water": _water,
    "text": lambda: _drawing(_text),
    "dotted lines": lambda: _drawing(_dots),
    "hairs": lambda: _drawing(_hairs, 170),
    "pixel art": lambda: _drawing(_pixel_art, 90),
    "sand": _sand,
    "halftone": _halftone,
    "dithered to black and white": lambda: _dithered(2),
    "dithered to 16 colours": lambda: _dithered(16),
    "checks": lambda: 255.0 * ((torch.arange(SIZE)[:, None] + torch.arange(SIZE)) % 2).expand(3, -1, -1),
    "noise": lambda: noisy(torch.full((3, SIZE, SIZE), 120.0), 25),
    "noise in the dark": lambda: noisy(torch.full((3, SIZE, SIZE), 6.0), 12),
}
