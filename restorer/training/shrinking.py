r"""Small pictures as people have them, made of large ones: the training pairs of a network that enlarges.

A large crop x is blurred, shrunk by one of the filters in use, blurred or sharpened again, made noisy and compressed,
in this order and each with a probability of its own. A share of the crops is only shrunk, by Pillow's bicubic filter.

Source: Wang, Xie, Dong and Shan 2021, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
Data", https://arxiv.org/abs/2107.10833, section 3, and Zhang, Liang, Van Gool and Timofte 2021, "Designing a Practical
Degradation Model for Deep Blind Image Super-Resolution", https://arxiv.org/abs/2103.14006: damage of several kinds in
one pair. The shares and ranges are this project's own.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from restorer.priors.experts import State

__all__ = ["Shrunk", "add_noise", "damage", "enlarge_bicubic", "shrink"]

CLEAN_SHARE, SOFT_SHARE = 0.35, 0.15
"""Shares of the crops that are shrunk and not changed otherwise, and of those that are shrunk and blurred."""

SCALES = (1.5, 4.0)
"""Least and largest factor."""

NOISE = (1.0, 20.0)
"""Least and largest noise in levels of 0..255."""

FILTERS = {
    Image.Resampling.BICUBIC: 0.4,
    Image.Resampling.BOX: 0.2,
    Image.Resampling.BILINEAR: 0.2,
    Image.Resampling.LANCZOS: 0.15,
    Image.Resampling.NEAREST: 0.05,
}


@dataclass(frozen=True)
class Shrunk:
    """A small picture that was made of a large one.

    Args:
        pixels: uint8 (h, w, 3).
        state: What has changed it beside the bicubic filter and the rounding to 8 bits: nothing ("clean"), a blur
            ("soft"), or anything ("damaged").
    """

    pixels: np.ndarray
    state: State


def shrink(large: np.ndarray, rng: np.random.Generator) -> Shrunk:
    """Return a small picture of a large one, by a factor and with damage that are drawn.

    Args:
        large: uint8 (S, S, 3).
        rng: Source of all random choices.
    """
    draw = rng.random()
    scale = 4.0 if draw < 0.6 else 2.0 if draw < 0.75 else rng.uniform(*SCALES)
    side = round(len(large) / scale)
    if (draw := rng.random()) < CLEAN_SHARE + SOFT_SHARE:
        small = Image.fromarray(large).resize((side, side), Image.Resampling.BICUBIC)
        if draw < CLEAN_SHARE:
            return Shrunk(np.asarray(small), "clean")
        return Shrunk(np.asarray(small.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.7)))), "soft")
    pixels = damage(large, side, rng)
    if rng.random() < 0.4:
        pixels = add_noise(pixels, rng, NOISE)
    for share in (0.35, 0.1):
        if rng.random() < share:
            pixels = _compressed(pixels, rng)
    return Shrunk(pixels, "damaged")


def damage(large: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return a small picture that was blurred, shrunk by a filter that is drawn, and blurred or sharpened again.

    Args:
        large: uint8 (S, S, 3).
        side: Side of the small picture in pixels.
        rng: Source of all random choices.

    Returns:
        uint8 (side, side, 3).
    """
    image = Image.fromarray(large)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.5) * len(large) / side))
    filters = list(FILTERS)
    chosen = filters[int(rng.choice(len(filters), p=list(FILTERS.values())))]
    image = image.resize((side, side), chosen)
    draw = rng.random()
    if draw < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    elif draw < 0.43:
        image = image.filter(ImageFilter.UnsharpMask(rng.uniform(0.6, 1.5), round(rng.uniform(30, 150)), 0))
    return np.asarray(image)


def enlarge_bicubic(small: np.ndarray, side: int) -> np.ndarray:
    """Return a small picture enlarged to side x side pixels by the bicubic filter, without rounding.

    Args:
        small: uint8 (h, w, 3).
        side: Height and width of the result.

    Returns:
        float32 (side, side, 3) on [-1, 1], not clipped.
    """
    planes = [
        np.asarray(Image.fromarray(small[..., c].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
        for c in range(3)
    ]
    return np.stack(planes, axis=-1) / np.float32(127.5) - np.float32(1)


def add_noise(pixels: np.ndarray, rng: np.random.Generator, strengths: tuple[float, float]) -> np.ndarray:
    """Add white noise to all channels or to the luminance alone, which may grow with the root of the brightness.

    Args:
        pixels: uint8 (h, w, 3).
        rng: Source of all random choices.
        strengths: Least and largest standard deviation in levels of 0..255; its logarithm is drawn evenly.

    Returns:
        uint8 (h, w, 3).
    """
    low, high = map(math.log, strengths)
    sigma = math.exp(rng.uniform(low, high))
    shape = pixels.shape if rng.random() < 0.6 else (*pixels.shape[:2], 1)
    noise = sigma * rng.standard_normal(shape)
    if rng.random() < 0.4:
        noise = noise * np.sqrt(pixels.mean(axis=2, keepdims=True) / 127.5 + 0.05)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def _compressed(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compress as a JPEG file of a quality and a chroma sampling that are drawn."""
    file = io.BytesIO()
    quality = round(rng.uniform(30, 95))
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2 if rng.random() < 0.6 else 0)
    return np.asarray(Image.open(file).convert("RGB"))
