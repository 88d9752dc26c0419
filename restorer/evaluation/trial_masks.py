"""Masks for trials of inpainting: drawn from a seed, or found in a folder by a picture's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from restorer.errors import UsageError

__all__ = ["MASKS", "draw_mask", "find_masks"]

SUFFIXES = frozenset([".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"])
"""The suffixes, in lower case, of the files in a folder that are taken for masks."""

WORDS = (
    "Shadows of the morning ran across the square and up the steps where nobody had been waiting since the rain "
    "stopped and the gulls came back to the roofs"
)
"""The words that a mask of kind "text" consists of."""

Draw = Callable[[ImageDraw.ImageDraw, int, int, np.random.Generator], None]


def _draw_random(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """Draw each pixel, independently of the others, with a probability of 70 %."""
    rows, columns = np.nonzero(rng.random((height, width)) < 0.7)
    draw.point(np.stack([columns, rows], axis=1).ravel().tolist(), fill=1)


def _draw_box(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """Draw two squares with a side of 64 pixels or a fifth of the shorter side, whichever is less."""
    side = max(1, min(64, min(width, height) // 5))
    for _ in range(2):
        left, top = (int(rng.integers(extent - side + 1)) for extent in (width, height))
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill=1)


def _draw_text(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """Draw lines of words in Pillow's own font.

    The font size is an eighteenth of the shorter side, at least 8; the lines are three times the font size apart.
    """
    size = max(8, min(width, height) // 18)
    font = ImageFont.load_default(size)
    for top in range(size // 2, height, 3 * size):
        line = " ".join(rng.choice(WORDS.split(), size=2 + 2 * width // size).tolist())
        draw.text((-int(rng.integers(size)), top), line, fill=1, font=font)


def _draw_scratch(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """Draw 14 crooked lines, 3 pixels wide, from one border to the opposite one."""
    for _ in range(14):
        is_downward = rng.random() < 0.5
        ends = rng.random(2) if is_downward else rng.random(2)[::-1]
        bends = np.linspace(ends[0], ends[1], 6) + rng.normal(0, 0.02, 6)
        steps = np.linspace(0, 1, 6)
        x, y = (bends, steps) if is_downward else (steps, bends)
        points = np.stack([x * width, y * height], axis=1)
        draw.line([(float(column), float(row)) for column, row in points], fill=1, width=3, joint="curve")


MASKS: dict[str, Draw] = {"random": _draw_random, "box": _draw_box, "text": _draw_text, "scratch": _draw_scratch}
"""The kinds of mask that can be drawn."""


def draw_mask(kind: str, height: int, width: int, seed: int) -> np.ndarray:
    """Draw holes to fill.

    The same seed and size give the same holes; for "text" they also depend on the version of Pillow.

    Args:
        kind: "random" (70 % of the pixels), "box" (two squares), "text" (lines of text) or "scratch" (14 thin lines).
        height: height of the mask in pixels.
        width: width of the mask in pixels.
        seed: seed of the random numbers.

    Returns:
        bool (H, W), True in the holes.

    Raises:
        UsageError: the kind is unknown.
    """
    if kind not in MASKS:
        raise UsageError(f"unknown kind of mask {kind!r}", f"choose one of {', '.join(MASKS)}")
    image = Image.new("1", (width, height))
    drawing = ImageDraw.Draw(image)
    drawing.fontmode = "1"
    MASKS[kind](drawing, width, height, np.random.default_rng(seed))
    return np.array(image, dtype=bool)


def find_masks(folder: Path, picture: Path) -> dict[str, Path]:
    """Return the masks of a picture by their kind.

    A mask is named `{stem}_{kind}` or `{anything}_{stem}_{kind}`, where `{stem}` is that of the picture. A mask named
    `{stem}` alone is of the kind "mask". If several masks are of one kind, a mask whose name begins with the name of
    the picture's folder (`Set5_head_box.png` for `Set5/head.png`) wins, otherwise the first by name.

    Args:
        folder: the folder to search, with all of its subfolders.
        picture: the path of the picture.
    """
    pattern = re.compile(rf"(?:(?P<before>.*)_)?{re.escape(picture.stem)}(?:_(?P<kind>[A-Za-z]+\d*))?")
    found: dict[str, Path] = {}
    candidates = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
    for path in sorted(candidates, key=lambda p: not p.stem.startswith(f"{picture.parent.name}_")):
        match = pattern.fullmatch(path.stem)
        if match is None or (match["before"] is not None and match["kind"] is None):
            continue
        found.setdefault(match["kind"] or "mask", path)
    return dict(sorted(found.items()))
