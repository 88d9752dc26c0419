"""Masks: read from a file, drawn from a seed, or found in a folder by a picture's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from restorer.errors import UsageError
from restorer.images.picture import reduced
from restorer.images.reading import MAX_PIXELS, load, name_of

__all__ = ["MASKS", "Mask", "draw_mask", "find_masks", "load_mask"]

SUFFIXES = frozenset([".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"])
WORDS = (
    "Shadows of the morning ran across the square and up the steps where nobody had been waiting since the rain "
    "stopped and the gulls came back to the roofs"
)

Draw = Callable[[ImageDraw.ImageDraw, int, int, np.random.Generator], None]


class Mask(NamedTuple):
    """`fill`: bool (H, W), True where the picture is to be filled; `note`: what was done to make it fit, or ''."""

    fill: np.ndarray
    note: str


def load_mask(
    source: Path | BinaryIO, size: tuple[int, int], invert: bool = False, max_pixels: int = MAX_PIXELS
) -> Mask:
    """Read a mask for a picture of `size` (height, width): white (luma >= 128, over black where transparent) = fill.

    A mask of another size but the same shape, to rounding, is resized (nearest neighbour), and the note says so.

    Raises:
        PictureError: as `load`.
        UsageError: the mask has another shape than the picture.
    """
    picture = reduced(load(source, max_pixels), 8)
    luma = np.asarray(Image.fromarray(picture.pixels).convert("L"), dtype=np.uint16)
    opacity = 255 if picture.alpha is None else picture.alpha
    fill = (luma * opacity >= 128 * 255) != invert
    if fill.shape == size:
        return Mask(fill, "")
    old, new = f"{picture.width}x{picture.height}", f"{size[1]}x{size[0]}"
    if not (_same_shape(fill.shape, size) or _same_shape(size, fill.shape)):
        raise UsageError(
            f"{name_of(source)}: the mask is {old}, the picture {new}", "give a mask of the picture's size"
        )
    resized = Image.fromarray(fill).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return Mask(np.array(resized, dtype=bool), f"mask resized from {old} to {new}")


def _same_shape(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether a = round(factor * b) in both directions for some factor."""
    low = max((a[0] - 0.5) / b[0], (a[1] - 0.5) / b[1])
    return low <= min((a[0] + 0.5) / b[0], (a[1] + 0.5) / b[1])


def _random(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """70 % of the pixels, each on its own."""
    rows, columns = np.nonzero(rng.random((height, width)) < 0.7)
    draw.point(np.stack([columns, rows], axis=1).ravel().tolist(), fill=1)


def _box(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """Two squares of 64 pixels, or a fifth of the shorter side."""
    side = max(1, min(64, min(width, height) // 5))
    for _ in range(2):
        left, top = (int(rng.integers(extent - side + 1)) for extent in (width, height))
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill=1)


def _text(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """Lines of words in Pillow's own font, an eighteenth of the shorter side high, three times that apart."""
    size = max(8, min(width, height) // 18)
    font = ImageFont.load_default(size)
    for top in range(size // 2, height, 3 * size):
        line = " ".join(rng.choice(WORDS.split(), size=2 + 2 * width // size).tolist())
        draw.text((-int(rng.integers(size)), top), line, fill=1, font=font)


def _scratch(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """14 crooked lines of 3 pixels' width from one border to another."""
    for _ in range(14):
        along = rng.random() < 0.5
        ends = rng.random(2) if along else rng.random(2)[::-1]
        bends = np.linspace(ends[0], ends[1], 6) + rng.normal(0, 0.02, 6)
        steps = np.linspace(0, 1, 6)
        across = (bends, steps) if along else (steps, bends)
        points = np.stack([across[0] * width, across[1] * height], axis=1)
        draw.line([(float(x), float(y)) for x, y in points], fill=1, width=3, joint="curve")


MASKS: dict[str, Draw] = {"random": _random, "box": _box, "text": _text, "scratch": _scratch}


def draw_mask(kind: str, height: int, width: int, seed: int) -> np.ndarray:
    """Holes to fill: bool (H, W), True where. The same seed and size, the same holes; text also by Pillow's version.

    Args:
        kind: "random" (70 % of the pixels), "box" (two squares), "text" (lines of it) or "scratch" (14 thin lines).

    Raises:
        UsageError: unknown kind.
    """
    if kind not in MASKS:
        raise UsageError(f"unknown kind of mask {kind!r}", f"one of {', '.join(MASKS)}")
    image = Image.new("1", (width, height))
    drawing = ImageDraw.Draw(image)
    drawing.fontmode = "1"
    MASKS[kind](drawing, width, height, np.random.default_rng(seed))
    return np.array(image, dtype=bool)


def find_masks(folder: Path, picture: Path) -> dict[str, Path]:
    """The masks of a picture by their kind, those named `{stem}_{kind}` or `{anything}_{stem}_{kind}`.

    A mask whose name is the picture's, alone, is of the kind "mask". Where several are of one kind, the one wins whose
    name begins with that of the picture's folder (`Set5_head_box.png` for `Set5/head.png`), else the first by name.
    """
    pattern = re.compile(rf"(?:(?P<before>.*)_)?{re.escape(picture.stem)}(?:_(?P<kind>[A-Za-z]+\d*))?")
    found: dict[str, Path] = {}
    named = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
    for path in sorted(named, key=lambda p: not p.stem.startswith(f"{picture.parent.name}_")):
        match = pattern.fullmatch(path.stem)
        if match is None or (match["before"] is not None and match["kind"] is None):
            continue
        found.setdefault(match["kind"] or "mask", path)
    return dict(sorted(found.items()))
