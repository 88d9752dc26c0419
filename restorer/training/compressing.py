r"""Pictures as JPEG files leave them, made of clean ones: the training pairs of a network that undoes compression.

A clean crop is stored as a JPEG file, of a quality, a sampling of the chroma and tables that are drawn, and read back.
A share of the crops is enlarged or shrunk content, gray, or has text on it, because thumbnails and pictures with a
caption are what people bring. Another share is stored a second time at a higher quality, with its blocks elsewhere, as
pictures that were cropped or sent on. The network sees the blocks of the coarser file where it saw them in all other
pairs: from the first pixel on.

Source: Jiang, Zhang and Timofte 2021, "Towards Flexible Blind JPEG Artifacts Removal",
https://arxiv.org/abs/2109.14573, section 3.3: training on two compressions whose blocks differ. The shares and ranges
are this project's own.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from restorer.measurement.jpeg import STANDARD_TABLES
from restorer.training.crops import Augmentation

__all__ = ["MCU", "Compressed", "compress", "draw_crop"]

MCU = 16
"""Side in pixels of the largest unit that a file is made of, of which a crop is a multiple."""

SAMPLINGS = {2: 0.65, 1: 0.1, 0: 0.25}
"""Pillow's numbers of the samplings 4:2:0, 4:2:2 and 4:4:4, and their shares."""

LOW, HIGH = (8.0, 50.0), (50.0, 96.0)
LOW_SHARE = 0.6
"""Ranges of the quality, and the share of the first."""

OWN_TABLES, TEXT, TWICE, SMALL = 0.15, 0.06, 0.15, 0.25
"""Shares of the crops whose tables are not those of the standard, that have text, that are stored twice, and that are
shrunk by two beforehand."""


@dataclass(frozen=True)
class Compressed:
    """A clean picture and what its JPEG file has left of it.

    Args:
        clean: uint8 (S, S, 3).
        decoded: uint8 (S, S, 3).
        steps: The table of the luminance, (8, 8), of the coarser file.
    """

    clean: np.ndarray
    decoded: np.ndarray
    steps: np.ndarray


def draw_crop(picture: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Return a clean crop of a picture, uint8 (S, S, 3) for the side S of the augmentation.

    Args:
        picture: uint8 (H, W, 3).
        augmentation: Changes of the crop.
        rng: Source of all random choices.
    """
    side = augmentation.crop
    if rng.random() < SMALL and min(picture.shape[:2]) >= 2 * side:
        wide = Augmentation(2 * side, augmentation.downscale, augmentation.gray).random_crop(picture, rng)
        crop = np.asarray(Image.fromarray(wide).resize((side, side), Image.Resampling.BICUBIC))
    else:
        crop = augmentation.random_crop(picture, rng)
    return _with_text(crop, rng) if rng.random() < TEXT else np.ascontiguousarray(crop)


def compress(clean: np.ndarray, rng: np.random.Generator) -> Compressed:
    """Store a clean picture as a JPEG file, once or twice, and read it back.

    Args:
        clean: uint8 (S, S, 3).
        rng: Source of all random choices.
    """
    quality = rng.uniform(*(LOW if rng.random() < LOW_SHARE else HIGH))
    tables = _tables(quality, rng)
    is_gray = bool((clean == clean[..., :1]).all())
    image = Image.fromarray(clean[..., 0] if is_gray and rng.random() < 0.5 else clean)
    decoded = _stored(image, tables, rng)
    if rng.random() < TWICE and quality < 85:
        later = rng.uniform(max(quality + 10, 60), 97)
        top, left = (int(n) for n in rng.integers(0, 8, 2))
        padded = np.pad(decoded, ((top, 8), (left, 8), (0, 0)), mode="edge")
        again = _stored(Image.fromarray(padded), _tables(later, rng), rng)
        decoded = again[top : top + len(clean), left : left + len(clean)]
    return Compressed(clean, decoded, np.array(tables[0], dtype=np.float32).reshape(8, 8))


def _tables(quality: float, rng: np.random.Generator) -> list[list[int]]:
    """Return the tables of luminance and chroma at a quality: libjpeg's, or flatter or steeper ones."""
    factor = 50 / quality if quality < 50 else 2 - quality / 50
    power = rng.uniform(0.3, 1.2) if rng.random() < OWN_TABLES else 1.0
    tables = []
    for standard in STANDARD_TABLES:
        table = standard.flatten().double().numpy()
        if power != 1:
            least = table.min()
            table = least * (table / least) ** power
        tables.append([int(n) for n in np.clip(np.floor(table * factor + 0.5), 1, 255)])
    return tables


def _stored(image: Image.Image, tables: list[list[int]], rng: np.random.Generator) -> np.ndarray:
    """Return the picture that a JPEG file with these tables decodes to, uint8 (H, W, 3)."""
    file = io.BytesIO()
    sampling = int(rng.choice(list(SAMPLINGS), p=list(SAMPLINGS.values())))
    used = tables if image.mode == "RGB" else tables[:1]
    image.save(file, "JPEG", qtables=dict(enumerate(used)), subsampling=sampling)
    return np.asarray(Image.open(file).convert("RGB"))


def _with_text(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write a few random words on a crop, or on a plain ground in its place."""
    image = Image.fromarray(crop).copy()
    colours = [tuple(int(n) for n in rng.integers(0, 256, 3)) for _ in range(2)]
    if rng.random() < 0.5:
        image.paste(colours[0], (0, 0, *image.size))
    draw = ImageDraw.Draw(image)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:-"
    for _ in range(int(rng.integers(1, 6))):
        size = math.exp(rng.uniform(math.log(8), math.log(48)))
        word = "".join(letters[int(k)] for k in rng.integers(0, len(letters), int(rng.integers(3, 14))))
        left, top = (int(n) for n in rng.integers(-10, len(crop) - 8, 2))
        draw.text((left, top), word, fill=colours[1], font=ImageFont.load_default(size))
    return np.asarray(image)
