"""Thin structures of scenes that are no damage: text, wires, stars, rain, twigs, meshes, bars, contours, lights, more.

They are drawn onto training photographs before any damage, so that a network learns to leave them alone. Photographs
hold such structures, too, but few of them are of each kind. Pictures are (3, H, W) on the 0..255 scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from restorer.training.edits import blur

__all__ = ["STRUCTURES", "draw_structure"]

FINE = 3  # subpixels a pixel, in each direction
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;-+()&/"

Size = tuple[int, int]
Generator = np.random.Generator


def _fine(size: Size) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return an empty plane of subpixels, and a pen for it."""
    image = Image.new("L", (size[1] * FINE, size[0] * FINE))
    return image, ImageDraw.Draw(image)


def _coverage(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.reduce(FINE), dtype=np.float32) / 255)


def _curve(pen: ImageDraw.ImageDraw, points: np.ndarray, width: float, fill: float = 255) -> None:
    """Draw a curve through points (N, 2) in pixels."""
    corners = [(float(x), float(y)) for x, y in points * FINE]
    pen.line(corners, fill=int(fill), width=max(1, round(width * FINE)), joint="curve")


def _text(size: Size, rng: Generator) -> Tensor:
    """Draw lines of letters, upright or turned."""
    plane = Image.new("L", (size[1] * 2, size[0] * 2))
    pen, height = ImageDraw.Draw(plane), int(rng.integers(8, 48))
    font = ImageFont.load_default(height)
    top, bottom = sorted(rng.integers(0, plane.height, 2))
    if rng.random() < 0.5:
        top, bottom = 0, plane.height
    for y in range(int(top), int(bottom), round(height * rng.uniform(1.1, 2.0))):
        count = int(rng.integers(3, 2 + 3 * plane.width // height))
        words = "".join(rng.choice(list(LETTERS + 12 * " "), count))
        pen.text((float(rng.uniform(-0.2, 0.6)) * plane.width, y), words, fill=255, font=font)
    if rng.random() < 0.4:
        plane = plane.rotate(float(rng.normal(0, 15)), Image.Resampling.BICUBIC)
    left, top = (int(rng.integers(0, extent + 1)) for extent in (size[1], size[0]))
    cut = plane.crop((left, top, left + size[1], top + size[0]))
    return torch.from_numpy(np.asarray(cut, dtype=np.float32) / 255)


def _wires(size: Size, rng: Generator) -> Tensor:
    """Draw wires from border to border, nearly parallel and sagging a little."""
    image, pen = _fine(size)
    reach, heading = max(size), rng.uniform(0, math.pi)
    along = np.array([math.cos(heading), math.sin(heading)])
    across, s = np.array([-along[1], along[0]]), np.linspace(-1, 1, 40)
    width, sag = rng.uniform(0.4, 2.5), rng.normal(0, 0.12)
    for offset in rng.normal(0, 0.25, int(rng.integers(2, 7))):
        spread = rng.normal(0, 0.03)
        path = s[:, None] * along + (offset + spread * s + sag * s**2)[:, None] * across
        _curve(pen, np.array(size[::-1]) / 2 + reach * path, width)
    return _coverage(image)


def _stars(size: Size, rng: Generator) -> Tensor:
    """Draw points of light of very different strength, all with the spot of one lens."""
    count = rng.poisson(rng.uniform(0.0005, 0.01) * size[0] * size[1])
    light = torch.zeros(size)
    rows, columns = (torch.from_numpy(rng.integers(0, extent, count)) for extent in size)
    light[rows, columns] = torch.from_numpy(rng.pareto(rng.uniform(0.8, 2.0), count) + 0.05).float()
    spot = rng.uniform(0.5, 1.3)
    return (blur(light[None], spot)[0] * 2 * math.pi * spot**2).clamp(0, 1)


def _rain(size: Size, rng: Generator) -> Tensor:
    """Draw many streaks of one direction."""
    image, pen = _fine(size)
    heading, length = rng.normal(math.pi / 2, 0.25), rng.uniform(6, 50)
    for _ in range(rng.poisson(rng.uniform(0.001, 0.012) * size[0] * size[1])):
        step = length * rng.uniform(0.6, 1.4) * np.array([math.cos(heading), math.sin(heading)])
        start = rng.uniform(-0.1, 1.1, 2) * np.array(size[::-1])
        _curve(pen, np.stack([start, start + step]), rng.uniform(0.4, 1.6), rng.uniform(40, 200))
    return blur(_coverage(image)[None], rng.uniform(0.3, 1.0))[0]


def _blades(size: Size, rng: Generator) -> Tensor:
    """Draw a clump of blades or strands that lean alike."""
    image, pen = _fine(size)
    lean, spread = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.5)
    centre, extent = rng.uniform(0, 1, 2) * np.array(size[::-1]), rng.uniform(0.1, 0.7) * max(size)
    s, length = np.linspace(0, 1, 12), rng.uniform(20, 150)
    for _ in range(int(rng.integers(25, 200))):
        turned = lean + spread * rng.normal() + rng.normal(0, 0.5) * s
        path = np.cumsum(np.stack([np.cos(turned), np.sin(turned)], 1), 0) * length * rng.uniform(0.5, 1.2) / len(s)
        _curve(pen, centre + extent * rng.uniform(-1, 1, 2) + path, rng.uniform(0.4, 3), rng.uniform(60, 255))
    return _coverage(image)


def _mesh(size: Size, rng: Generator) -> Tensor:
    """Draw the parallel lines of a fence, a blind, a window or ruled paper, in one direction or in two."""
    image, pen = _fine(size)
    heading, pitch, width = rng.uniform(0, math.pi), rng.uniform(4, 45), rng.uniform(0.4, 3)
    reach = 2 * max(size)
    for turn in (0.0, rng.choice([math.pi / 2, rng.uniform(0.6, 2.4)]))[: int(rng.integers(1, 3))]:
        along = np.array([math.cos(heading + turn), math.sin(heading + turn)])
        across = np.array([-along[1], along[0]])
        for offset in np.arange(-reach, reach, pitch):
            middle = np.array(size[::-1]) / 2 + offset * across
            _curve(pen, np.stack([middle - reach * along, middle + reach * along]), width)
    if rng.random() < 0.5:  # it ends somewhere
        mask, border = _fine(size)
        x, y = rng.uniform(0, 1, 2) * np.array(size[::-1]) * FINE
        border.rectangle((x, y, x + rng.uniform(0.3, 1) * mask.width, y + rng.uniform(0.3, 1) * mask.height), fill=255)
        return _coverage(image) * _coverage(mask)
    return _coverage(image)


def _twigs(size: Size, rng: Generator) -> Tensor:
    """Draw branches that fork and become thinner at each fork."""
    image, pen = _fine(size)
    for _ in range(int(rng.integers(1, 4))):
        starts = [(rng.uniform(-0.1, 1.1, 2) * np.array(size[::-1]), rng.uniform(0, 2 * math.pi), rng.uniform(1.5, 7))]
        length, spread = rng.uniform(0.15, 0.5) * max(size), rng.uniform(0.3, 0.9)
        while starts and len(starts) < 200:
            root, heading, width = starts.pop(0)
            turned = heading + np.cumsum(rng.normal(0, 0.08, 10))
            path = root + np.cumsum(np.stack([np.cos(turned), np.sin(turned)], 1), 0) * length * width / 50
            _curve(pen, np.vstack([root, path]), width)
            for _ in range(int(rng.integers(1, 4)) if width > 0.8 else 0):
                turn = spread * rng.choice([-1, 1]) * rng.uniform(0.3, 1.2)
                starts.append((path[rng.integers(3, 10)], float(turned[-1] + turn), width * rng.uniform(0.4, 0.8)))
    return _coverage(image)


def _bars(size: Size, rng: Generator) -> Tensor:
    """Draw bars as facades, railings, blinds and stripes have them: several, wide, alike, and of one length."""
    image, pen = _fine(size)
    heading = rng.choice([0.0, math.pi / 2]) + rng.normal(0, 0.1) if rng.random() < 0.6 else rng.uniform(0, math.pi)
    along = np.array([math.cos(heading), math.sin(heading)])
    across = np.array([-along[1], along[0]])
    width = rng.uniform(1.5, 12)
    pitch, half = width * rng.uniform(1.4, 5), rng.uniform(0.05, 0.7) * max(size)
    centre, converging = rng.uniform(0.1, 0.9, 2) * np.array(size[::-1]), rng.normal(0, 0.15)
    count = int(rng.integers(2, 14))
    for place in np.arange(count) - (count - 1) / 2:
        middle = centre + place * pitch * across
        slant = place * pitch * converging * across
        ends = [middle - half * along - slant, middle + half * along + slant]
        side = width / 2 * across
        corners = [ends[0] - side, ends[0] + side, ends[1] + side, ends[1] - side]
        pen.polygon([(float(x * FINE), float(y * FINE)) for x, y in corners], fill=255)
    return _coverage(image)


def _frames(size: Size, rng: Generator) -> Tensor:
    """Draw the frames of windows, doors and panels: rectangles in rows, whole or divided."""
    image, pen = _fine(size)
    wide, high = rng.uniform(10, 70, 2) * FINE
    gap, line = rng.uniform(0, 30, 2) * FINE, max(1, round(rng.uniform(0.6, 6) * FINE))
    left, top = rng.uniform(0, 0.8, 2) * image.size
    columns, rows = rng.integers(1, 6, 2)
    divided = rng.integers(0, 3, 2)
    for x in left + np.arange(columns) * (wide + gap[0]):
        for y in top + np.arange(rows) * (high + gap[1]):
            pen.rectangle((x, y, x + wide, y + high), outline=255, width=line)
            for k in range(divided[0]):
                u = x + wide * (k + 1) / (divided[0] + 1)
                pen.line((u, y, u, y + high), fill=255, width=line)
            for k in range(divided[1]):
                v = y + high * (k + 1) / (divided[1] + 1)
                pen.line((x, v, x + wide, v), fill=255, width=line)
    return _coverage(image.rotate(float(rng.normal(0, 4)), Image.Resampling.BICUBIC))


def _contour(size: Size, rng: Generator) -> tuple[Tensor, Tensor]:
    """Return the coverages of a rounded object and of a line along a part of its contour, such as a highlight."""
    body, fill = _fine(size)
    rim, pen = _fine(size)
    angles = np.linspace(0, 2 * math.pi, 120)
    radii = sum(rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 2 * math.pi)) for k in range(1, 6))
    radii = rng.uniform(0.15, 0.8) * max(size) * np.exp(np.clip(radii, -1, 1))
    centre = rng.uniform(-0.2, 1.2, 2) * np.array(size[::-1])
    outline = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    fill.polygon([(float(x * FINE), float(y * FINE)) for x, y in outline], fill=255)
    start, inset = int(rng.integers(0, 100)), rng.uniform(0.94, 1.0)
    part = np.roll(outline, -start, 0)[: int(rng.integers(15, 120))]
    _curve(pen, centre + inset * (part - centre), rng.uniform(0.6, 5))
    return _coverage(body), _coverage(rim)


def _lights(size: Size, rng: Generator) -> Tensor:
    """Draw tubes of neon and trails of lamps: smooth curves that glow, each all along its length."""
    image, pen = _fine(size)
    width = rng.uniform(2.5, 10)
    for _ in range(int(rng.integers(1, 6))):
        count = 40
        turned = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0, 0.02) + 0.02 * np.cumsum(rng.normal(size=count)))
        path = np.cumsum(np.stack([np.cos(turned), np.sin(turned)], 1), 0) * rng.uniform(2, 12)
        _curve(pen, rng.uniform(0, 1, 2) * np.array(size[::-1]) + path - path[count // 2], width)
    drawn = _coverage(image)
    glow = blur(drawn[None], rng.uniform(3, 14))[0]
    return (drawn + rng.uniform(0.35, 0.8) * glow / glow.max().clamp(min=1e-3)).clamp(0, 1)


STRUCTURES: dict[str, Callable[[Size, Generator], Tensor]] = {
    "text": _text,
    "wires": _wires,
    "stars": _stars,
    "rain": _rain,
    "blades": _blades,
    "twigs": _twigs,
    "mesh": _mesh,
    "bars": _bars,
    "frames": _frames,
    "lights": _lights,
    "contour": lambda size, rng: _contour(size, rng)[1],
}
"""What can be drawn: functions of a size and the source of chance that return coverages (H, W) in 0..1."""

SHARES = {
    "text": 0.23,
    "wires": 0.1,
    "stars": 0.08,
    "rain": 0.1,
    "blades": 0.1,
    "twigs": 0.08,
    "mesh": 0.08,
    "bars": 0.08,
    "frames": 0.06,
    "contour": 0.04,
    "lights": 0.05,
}

SOLID = ("wires", "blades", "twigs", "mesh", "bars", "frames", "contour")
"""Structures that are things of the scene: they are as sharp as it, hide it, and are shaded."""


def draw_structure(x: Tensor, rng: Generator) -> Tensor:
    """Return a picture with a thin structure of some kind.

    Args:
        x: (3, H, W) on the 0..255 scale.
        rng: The source of chance.
    """
    kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    size, gray = (x.shape[-2], x.shape[-1]), bool((x == x[:1]).all())
    if kind == "contour":
        body, cover = _contour(size, rng)
        tone = torch.from_numpy(rng.normal(0, 50) + rng.normal(0, 15, 1 if gray else 3)).float().view(-1, 1, 1)
        x = (x + blur(body[None], rng.uniform(0.2, 2)) * (tone + rng.uniform(-0.7, 0) * (x - x.mean()))).clamp(0, 255)
    else:
        cover = STRUCTURES[kind](size, rng)
    if kind in SOLID:
        cover = blur(cover[None], rng.uniform(0.2, 1.2))[0]
    if kind in ("stars", "lights"):
        x = x * rng.uniform(0.05, 0.4 if kind == "stars" else 0.7)
    if kind in ("stars", "rain", "lights") or rng.random() < 0.4:
        colour = torch.from_numpy(rng.uniform(170, 255) + 8 * rng.normal(size=3)).float()
    elif kind == "text" or rng.random() < 0.3:
        colour = torch.from_numpy(rng.uniform(0, 255, 3)).float()
    else:
        colour = torch.from_numpy(rng.uniform(0, 70) + 12 * rng.normal(size=3)).float()
    if kind == "lights" and rng.random() < 0.6:
        colour = torch.from_numpy(255 * np.clip(rng.uniform(0, 1.6, 3), 0, 1)).float()
    if gray:
        colour = colour.mean().expand(3)
    if kind == "text" and rng.random() < 0.35:  # on paper or on a sign
        x = torch.from_numpy(rng.uniform(0, 255, 3)).float().view(3, 1, 1) + 0.15 * (x - x.mean())
    colour = colour.view(3, 1, 1)
    if kind in SOLID:  # light falls unevenly on a thing, and each blade has a tone of its own
        tones = blur(torch.from_numpy(rng.normal(size=(1, *cover.shape))).float(), rng.choice([3.0, 8.0]))
        colour = colour + (25 if kind == "blades" else rng.uniform(0, 25)) * tones / tones.std()
    opacity = rng.uniform(0.85, 1) if kind in (*SOLID, "lights") else rng.uniform(0.5, 1)
    return (x + cover * opacity * (colour.clamp(0, 255) - x)).clamp(0, 255)
