"""Scratches, dust, hairs and creases as prints, films and scanners have them, drawn onto photographs.

Every object is a path or a blob with a width, an opacity that varies along it, and a colour:

    y = (1 - a) x + a c    (paint, dust, bare paper),    or    y = x (1 + g a)    (a scratch that thins or thickens)

with a, the coverage times the opacity, drawn with three times the resolution and averaged, or without antialiasing. A
path is the integral of a heading whose curvature is a random process: weak for scratches, strong for hairs. Most
pictures have plain damage, as a pen or a retoucher's brush draws it: its width, opacity and colour do not vary along an
object, and its flanks are not soft. Pictures are (3, H, W) on the 0..255 scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from restorer.training.edits import blur

__all__ = ["KINDS", "Damage", "damage"]

FINE = 3  # subpixels a pixel, in each direction
STEP = 1.5  # pixels between the points of a path
PLAIN_SHARE = 0.7  # of the damaged pictures
ALIKE_SHARE = 0.5  # of the pictures with plain damage: those whose objects are about equally opaque
TOUCHED = 0.05  # opacity from which a pixel counts as touched

Array = np.ndarray
Generator = np.random.Generator


@dataclass(frozen=True)
class Damage:
    """A picture with damage.

    Args:
        picture: (3, H, W) on the 0..255 scale.
        opacity: How much of the picture the damage hides, (H, W) in 0..1; that of the strongest object at each pixel.
        core: The damaged pixels, bool (H, W): at least half as opaque as the object is at its centre.
        rim: Pixels that are touched and not in the core, which nobody can assign, bool (H, W).
    """

    picture: Tensor
    opacity: Tensor
    core: Tensor
    rim: Tensor


@dataclass(frozen=True)
class _Path:
    """A line: its points (N, 2) as x and y, its widths in pixels (N,), and its opacities (N,) relative to its own."""

    points: Array
    widths: Array
    opacities: Array


class _Canvas:
    """A plane of subpixels on which one object is drawn."""

    def __init__(self, height: int, width: int, *, smooth: bool, plain: bool) -> None:
        self.fine = FINE if smooth else 1
        self.plain = plain
        self.image = Image.new("L", (width * self.fine, height * self.fine))
        self.pen = ImageDraw.Draw(self.image)

    def line(self, path: _Path) -> None:
        """Draw a path, segment by segment; a plain one has one width and one opacity."""
        if self.plain:
            count, width = len(path.points), np.exp(np.log(path.widths).mean())
            path = _Path(path.points, np.full(count, width), np.ones(count))
        points = path.points * self.fine + (self.fine - 1) / 2
        widths = np.maximum(1, np.round(path.widths * self.fine)).astype(int)
        fills = np.round(255 * path.opacities).astype(int)
        for a, b, width, fill in zip(points[:-1], points[1:], widths, fills, strict=False):
            if fill > 0:
                self.pen.line((a[0], a[1], b[0], b[1]), fill=int(fill), width=int(width))
                if width > 2:
                    r = (width - 1) / 2
                    self.pen.ellipse((a[0] - r, a[1] - r, a[0] + r, a[1] + r), fill=int(fill))

    def blob(self, x: float, y: float, outline: Array, opacity: float) -> None:
        """Draw a filled polygon whose outline (N, 2) surrounds a point."""
        corners = (np.array([x, y]) + outline) * self.fine + (self.fine - 1) / 2
        fill = 255 if self.plain else round(255 * opacity)
        self.pen.polygon([(float(u), float(v)) for u, v in corners], fill=fill)

    def coverage(self) -> Tensor:
        """Return what was drawn, (H, W) in 0..1."""
        image = self.image if self.fine == 1 else self.image.reduce(self.fine)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)


def _smooth_noise(count: int, length: float, rng: Generator) -> Array:
    """Return a stationary process (count,) of unit variance that varies over `length` points."""
    knots = max(2, math.ceil(count / max(length, 1)) + 1)
    return np.interp(np.linspace(0, knots - 1, count), np.arange(knots), rng.normal(size=knots))


def _log_uniform(low: float, high: float, rng: Generator) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _trace(size: tuple[int, int], length: float, bend: float, rng: Generator, heading: float | None = None) -> Array:
    """Return the points of a path through a random place.

    Args:
        size: Height and width of the picture.
        length: Length in pixels.
        bend: Standard deviation of the curvature, in radians a pixel.
        rng: The source of chance.
        heading: The direction in the middle; None for any.
    """
    count = max(3, math.ceil(length / STEP))
    curvature = bend * (_smooth_noise(count, _log_uniform(8, 80, rng), rng) + rng.normal())
    turned = np.cumsum(curvature) * STEP
    turned += (rng.uniform(0, 2 * math.pi) if heading is None else heading) - turned[count // 2]
    points = STEP * np.cumsum(np.stack([np.cos(turned), np.sin(turned)], 1), 0)
    return points - points[count // 2] + rng.uniform(0, 1, 2) * np.array(size[::-1])


def _along(points: Array, width: float, rng: Generator, *, broken: bool, tapered: bool) -> _Path:
    """Return a path of some width that varies, with an opacity that does, too."""
    count = len(points)
    widths = width * np.exp(rng.uniform(0, 0.35) * _smooth_noise(count, 20, rng))
    if tapered:
        widths = widths * (0.25 + 0.75 * np.sin(np.linspace(0.05, math.pi - 0.05, count)))
    opacities = 1 - rng.uniform(0, 0.5) * np.abs(_smooth_noise(count, _log_uniform(2, 40, rng), rng))
    if broken:
        gaps = _smooth_noise(count, _log_uniform(3, 30, rng), rng) > rng.uniform(0, 1.2)
        opacities = np.where(gaps, 0, opacities)
    return _Path(points, np.clip(widths, 0.3, 9), np.clip(opacities, 0, 1))


def _scratches(canvas: _Canvas, size: tuple[int, int], width: float, rng: Generator) -> None:
    """Draw one long scratch, or a bundle of parallel ones."""
    diagonal = math.hypot(*size)
    heading = math.pi / 2 + rng.normal(0, 0.03) if rng.random() < 0.3 else rng.uniform(0, math.pi)
    bend = rng.choice([0.0, 0.0, 0.001, 0.004, 0.012])
    broken, tapered = rng.random() < 0.35, rng.random() < 0.3
    for _ in range(1 if rng.random() < 0.75 else int(rng.integers(2, 6))):
        points = _trace(size, diagonal * _log_uniform(0.15, 2.5, rng), bend, rng, heading + rng.normal(0, 0.02))
        canvas.line(_along(points, width, rng, broken=broken, tapered=tapered))


def _hairs(canvas: _Canvas, size: tuple[int, int], width: float, rng: Generator) -> None:
    """Draw a hair or a fibre."""
    length = _log_uniform(12, 300, rng)
    points = _trace(size, length, _log_uniform(0.01, 0.12, rng), rng)
    canvas.line(_along(points, min(width, 3.5), rng, broken=rng.random() < 0.1, tapered=rng.random() < 0.3))


def _crease(canvas: _Canvas, size: tuple[int, int], width: float, rng: Generator) -> None:
    """Draw a crease or a crack: a long rough line, with branches at times."""
    points = _trace(size, math.hypot(*size) * _log_uniform(0.2, 2.0, rng), rng.choice([0.0, 0.002, 0.01]), rng)
    for branch in range(int(rng.choice([1, 1, 1, 3, 6]))):
        if branch:
            start = points[rng.integers(len(points))]
            arm = _trace(size, _log_uniform(8, 80, rng), 0.02, rng)
            line = arm - arm[0] + start
        else:
            line = points
        rough = rng.uniform(0.2, 1.5) * np.stack([_smooth_noise(len(line), rng.uniform(1, 6), rng) for _ in "xy"], 1)
        canvas.line(_along(line + rough, width, rng, broken=rng.random() < 0.25, tapered=branch > 0))


def _dust(canvas: _Canvas, size: tuple[int, int], width: float, rng: Generator) -> None:
    """Draw specks of many shapes."""
    area = size[0] * size[1]
    count = 1 + rng.poisson(_log_uniform(0.5, 12, rng) * area / 160**2)
    centre, spread = rng.uniform(0, 1, 2) * np.array(size[::-1]), rng.uniform(0.1, 0.5) * max(size)
    clustered = rng.random() < 0.3
    for _ in range(count):
        x, y = centre + spread * rng.normal(size=2) if clustered else rng.uniform(0, 1, 2) * np.array(size[::-1])
        radius = 0.5 * max(0.8, _log_uniform(0.5, 1.6, rng) * width)
        angles = np.linspace(0, 2 * math.pi, 12, endpoint=False)
        radii = radius * np.exp(rng.uniform(0, 0.4) * rng.normal(size=12))
        turn, stretch = rng.uniform(0, math.pi), _log_uniform(1, 2.2, rng)
        outline = np.stack([stretch * radii * np.cos(angles), radii * np.sin(angles)], 1)
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        canvas.blob(x, y, outline @ rotation.T, rng.uniform(0.6, 1.0))


def _fibres(canvas: _Canvas, size: tuple[int, int], width: float, rng: Generator) -> None:
    """Draw many short bits of fibre, as lint leaves them."""
    for _ in range(1 + rng.poisson(_log_uniform(0.5, 8, rng) * size[0] * size[1] / 160**2)):
        points = _trace(size, _log_uniform(4, 30, rng), _log_uniform(0.005, 0.15, rng), rng)
        canvas.line(_along(points, min(width, 3.0), rng, broken=False, tapered=rng.random() < 0.4))


KINDS: dict[str, Callable[[_Canvas, tuple[int, int], float, Generator], None]] = {
    "scratch": _scratches,
    "hair": _hairs,
    "crease": _crease,
    "dust": _dust,
    "fibre": _fibres,
}
"""What can be drawn."""

SHARES = {"scratch": 0.32, "hair": 0.22, "crease": 0.12, "dust": 0.24, "fibre": 0.1}


def _colour(rng: Generator, *, gray: bool) -> Tensor:
    """Return the colour of an object, (3, 1, 1) on the 0..255 scale."""
    chance = rng.random()
    if chance < 0.55:
        level = 255 - min(abs(rng.normal(0, 40)), 140)
    elif chance < 0.9:
        level = min(abs(rng.normal(0, 40)), 130)
    else:
        level = rng.uniform(0, 255)
    tint = 0.0 if gray or rng.random() < 0.5 else rng.choice([8.0, 25.0, 80.0], p=[0.6, 0.3, 0.1])
    return torch.tensor(np.clip(level + tint * rng.normal(size=3), 0, 255), dtype=torch.float32).view(3, 1, 1)


def _applied(x: Tensor, alpha: Tensor, rng: Generator, *, gray: bool, plain: bool) -> Tensor:
    """Return a picture with one object, whose coverage is `alpha` (H, W)."""
    if plain:
        return x + alpha * (_colour(rng, gray=gray) - x)
    if rng.random() < 0.15:  # the emulsion is thinner or thicker there
        gain = _log_uniform(0.25, 1.2, rng)
        return x * (1 + gain * alpha) if rng.random() < 0.6 else x * (1 - min(gain, 0.9) * alpha)
    colour = _colour(rng, gray=gray)
    if rng.random() < 0.3:  # dirt and paper are not of one colour
        noise = blur(torch.from_numpy(rng.normal(size=(1, *alpha.shape))).float(), rng.uniform(0.5, 2))
        colour = colour + rng.uniform(4, 20) * noise / noise.std()
    return x + alpha * (colour - x)


def damage(x: Tensor, rng: Generator, *, objects: int | None = None, kinds: tuple[str, ...] = tuple(KINDS)) -> Damage:
    """Draw damage onto a picture.

    Args:
        x: (3, H, W) on the 0..255 scale.
        rng: The source of chance.
        objects: Number of objects (a cloud of dust is one); None draws it, in proportion to the area.
        kinds: What is drawn.
    """
    size = (x.shape[-2], x.shape[-1])
    gray = bool((x == x[:1]).all())
    count = 1 + rng.poisson(_log_uniform(0.6, 6, rng) * x[0].numel() ** 0.5 / 160) if objects is None else objects
    shares = np.array([SHARES[kind] for kind in kinds])
    opacity, core = torch.zeros(size), torch.zeros(size, dtype=torch.bool)
    touched = torch.zeros(size, dtype=torch.bool)
    y = x
    plain = rng.random() < PLAIN_SHARE
    strength = rng.uniform(0.35, 1.0)  # damage of one picture is of one strength, more or less
    alike = not plain or rng.random() < ALIKE_SHARE
    for _ in range(count):
        canvas = _Canvas(*size, smooth=rng.random() < (0.6 if plain else 0.8), plain=plain)
        width = rng.uniform(0.8, 7) if plain else _log_uniform(0.8, 7, rng)
        KINDS[rng.choice(kinds, p=shares / shares.sum())](canvas, size, width, rng)
        softness = rng.uniform(0.4, 1.3) if not plain and rng.random() < 0.45 else 0.0
        drawn = blur(canvas.coverage()[None], softness)[0]
        peak = float(drawn.max())
        if peak < TOUCHED:
            continue
        alpha = drawn * min(1.0, strength * _log_uniform(0.7, 1.5, rng) if alike else rng.uniform(0.4, 1.1))
        y = _applied(y, alpha, rng, gray=gray, plain=plain)
        if not plain and rng.random() < 0.1:  # paper bends beside a crease, and light falls on it differently
            shade = blur(alpha[None], rng.uniform(2, 5))[0]
            y = y * (1 + rng.choice([-0.3, 0.3]) * (shade - alpha).clamp(min=0))
        near = F.max_pool2d(F.max_pool2d(drawn[None], (9, 1), 1, (4, 0)), (1, 9), 1, (0, 4))[0]
        core |= (drawn >= 0.5 * near) & (drawn > 2 * TOUCHED)
        touched |= drawn > TOUCHED
        opacity = torch.maximum(opacity, alpha)
    return Damage(y.clamp(0, 255), opacity, core, touched & ~core)
