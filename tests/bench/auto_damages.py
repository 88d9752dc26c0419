"""Photographs with one to three damages, in the order in which they come about, for `tests/bench/auto.py`.

The lens blurs, the print is scratched, the picture is shrunk, the sensor or scanner adds noise, and the file is
compressed. Every strength is drawn. The blurs are those that `tests/bench/blind_deblur.py` draws, in sizes from hardly
visible to wide; the scratches, hairs and dust are those that `tests/bench/scratches.py` draws.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scratches import drawn_here
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.training.simulated_camera import Camera, photograph

__all__ = ["KINDS", "MARGIN", "SCALE", "Damaged", "damage", "to_tensor"]

KINDS = (
    ("white",),
    ("camera",),
    ("jpeg",),
    ("small",),
    ("blur",),
    ("scratches",),
    ("white", "jpeg"),
    ("camera", "jpeg"),
    ("white", "small"),
    ("camera", "small"),
    ("jpeg", "small"),
    ("blur", "white"),
    ("blur", "camera"),
    ("blur", "jpeg"),
    ("blur", "small"),
    ("scratches", "white"),
    ("scratches", "camera"),
    ("scratches", "jpeg"),
    ("scratches", "blur"),
    ("scratches", "small"),
    ("white", "jpeg", "small"),
    ("camera", "jpeg", "small"),
    ("blur", "white", "jpeg"),
    ("blur", "camera", "jpeg"),
    ("blur", "jpeg", "small"),
    ("scratches", "white", "jpeg"),
    ("scratches", "camera", "jpeg"),
    ("scratches", "blur", "white"),
    ("scratches", "blur", "jpeg"),
    ("scratches", "white", "small"),
)
"""The damages of the pictures, in turn."""

SCALE = 2
MARGIN = 24
"""Pixels that a blur needs around the crop, at least."""

GAUSSIAN, DEFOCUS, MOTION = (0.7, 3.0), (1.2, 5.0), (3.5, 18.0)
"""Standard deviations, radii and lengths of the blurs that are drawn, in pixels."""


@dataclass(frozen=True)
class Damaged:
    """A damaged picture.

    Args:
        pixels: (3, H, W) in [0, 1], in 8 bits.
        file: The bytes of its file if it is a JPEG; else None.
        words: What was done to it.
    """

    pixels: Tensor
    file: bytes | None
    words: str


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def to_image(x: Tensor) -> Image.Image:
    """Return (3, H, W) in [0, 1] as an image of 8 bits."""
    return Image.fromarray((x * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def damage(wide: Tensor, kinds: tuple[str, ...], seed: int) -> tuple[Damaged, Tensor]:
    """Return a crop with damage of these kinds, whose strength is drawn, and the crop itself.

    Args:
        wide: The crop with MARGIN pixels around it, (3, H, W) in [0, 1].
        kinds: The kinds.
        seed: What the strengths are drawn by.
    """
    rng, words, file = random.Random(seed), list[str](), None
    true = wide[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    x = true
    if "blur" in kinds:
        kernel, word = _draw_blur(rng)
        operator = Blur(kernel)
        blurred, (down, across) = operator.measure(wide[None].double())[0].float(), operator.reach
        top, left = MARGIN - down, MARGIN - across
        x = blurred[:, top : top + true.shape[-2], left : left + true.shape[-1]]
        words.append(word)
    if "scratches" in kinds:
        made = drawn_here(255 * x, np.random.default_rng(rng.getrandbits(32)))
        x = made.damaged / 255
        words.append(f"scratches {100 * float(made.core.float().mean()):.1f} %")
    if "small" in kinds:
        image = to_image(x)
        x = to_tensor(image.resize((image.width // SCALE, image.height // SCALE), Image.Resampling.BICUBIC))
        words.append(f"shrunk by {SCALE}")
    noise_seed = rng.getrandbits(32)
    if "white" in kinds:
        sigma = rng.uniform(4, 25)
        x = x + sigma / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(noise_seed))
        words.append(f"white noise {sigma:.0f}")
    if "camera" in kinds:
        camera = Camera(gain=rng.uniform(0.0005, 0.005), read=rng.uniform(0.5, 2.0), chroma=rng.choice([0.0, 1.5]))
        noise = (photograph(255 * x, camera, noise_seed) - photograph(255 * x, camera, None)) / 255
        x = x + noise
        words.append(f"camera noise {255 * float(noise.std()):.0f}")
    image = to_image(x)
    if "jpeg" in kinds:
        quality, stored = rng.randint(25, 85), io.BytesIO()
        image.save(stored, "JPEG", quality=quality, subsampling=rng.choice([0, 2]))
        file = stored.getvalue()
        image = Image.open(stored)
        words.append(f"JPEG {quality}")
    return Damaged(to_tensor(image), file, ", ".join(words)), true


def _draw_blur(rng: random.Random) -> tuple[Tensor, str]:
    """Return a kernel and its name."""

    def between(limits: tuple[float, float]) -> float:
        return math.exp(rng.uniform(*map(math.log, limits)))

    kind, angle = rng.choice(["gaussian", "defocus", "motion"]), rng.uniform(0, 180)
    if kind == "gaussian":
        size = between(GAUSSIAN)
        return gaussian_kernel(size), f"Gaussian blur {size:.1f}"
    if kind == "defocus":
        radius = between(DEFOCUS)
        return defocus_kernel(radius), f"defocus {radius:.1f}"
    length = between(MOTION)
    return motion_kernel(length, angle), f"motion {length:.0f} at {angle:.0f}"
