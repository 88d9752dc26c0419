r"""Pairs of a photograph and of its small JPEG whose compression has been undone, made before the training.

`restore upscale` undoes the compression of a small JPEG before the network that enlarges sees it. What is left looks
neither like a JPEG nor like a clean picture, so the network is trained on pictures that went the same way:

    large -> shrink (`shrinking.py`) -> JPEG file -> `restorer.dejpeg` -> small

Undoing takes several evaluations of the prior, too many for each step of a training. A number of pairs is therefore
made once, and the steps cut their crops from them:

    python -m restorer.training.decompressed SHARD... --out FOLDER --count 1500

A run continues where it was stopped. The pictures of pair k are a function of the sources, the seed and k.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from restorer.diffusion.prior import Prior
from restorer.errors import PictureError
from restorer.images.files import from_pil, to_tensor
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.models.load import load_prior
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.training.crops import Augmentation
from restorer.training.datasets import Dataset, find_sources
from restorer.training.shrinking import damage, enlarge_bicubic

__all__ = ["Decompressed", "make_decompressed", "random_crop", "read_decompressed", "write_decompressed"]

SIDE = 320
"""Side of a large picture in pixels."""

FACTORS = {4.0: 0.65, 2.0: 0.2, 8 / 3: 0.15}
"""Factors and their shares. A crop of 128 pixels, and every multiple of 8, is a whole number of small pixels."""

QUALITIES = (25.0, 95.0)
"""Least and largest quality of the JPEG files."""

MEMORY = 2_000_000_000  # bytes for decoded pictures


@dataclass(frozen=True)
class Decompressed:
    """A large picture and what is left of it after shrinking, compression and its undoing.

    Args:
        large: uint8 (S, S, 3).
        small: uint8 (s, s, 3).
    """

    large: np.ndarray
    small: np.ndarray

    @property
    def factor(self) -> float:
        """The factor of enlargement."""
        return len(self.large) / len(self.small)


def make_decompressed(large: np.ndarray, rng: np.random.Generator, prior: Prior) -> Decompressed:
    """Return the pair of a large picture.

    Args:
        large: uint8 (S, S, 3).
        rng: Source of all random choices.
        prior: The prior that undoes the compression.
    """
    factor = float(rng.choice(list(FACTORS), p=list(FACTORS.values())))
    small = damage(large, round(len(large) / factor), rng)
    file = io.BytesIO()
    subsampling = 2 if rng.random() < 0.7 else 0
    Image.fromarray(small).save(file, "JPEG", quality=round(rng.uniform(*QUALITIES)), subsampling=subsampling)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        decoded = to_tensor(from_pil(image.convert("RGB")))
    job = prepare_dejpeg(decoded, find_jpeg(decoded, file.getvalue()), prior=prior).measured()
    restored = decoded if job.is_copy else job.run().image
    return Decompressed(large, (restored.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def random_crop(pair: Decompressed, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a crop from a pair.

    Args:
        pair: The pair.
        side: Side of the crop in pixels of the large picture, a multiple of 8.
        rng: Source of all random choices.

    Returns:
        The large crop, uint8 (side, side, 3), and the same part of the small picture enlarged by the bicubic filter,
        float32 (side, side, 3) on [-1, 1], not clipped.
    """
    step = 8
    top, left = (step * int(rng.integers((len(pair.large) - side) // step + 1)) for _ in range(2))
    part = np.s_[top : top + side, left : left + side]
    return pair.large[part], enlarge_bicubic(pair.small, len(pair.large))[part]


def read_decompressed(folder: Path) -> list[Decompressed]:
    """Read all pairs of a folder.

    Raises:
        PictureError: There is none.
    """
    names = sorted(folder.glob("*-large.png"))
    if not names:
        raise PictureError(f"{folder} holds no pairs", "make them with python -m restorer.training.decompressed")
    return [
        Decompressed(np.asarray(Image.open(name)), np.asarray(Image.open(_small(name))))
        for name in names
        if _small(name).exists()
    ]


def _small(large: Path) -> Path:
    return large.with_name(large.name.replace("-large", "-small"))


def write_decompressed(data: Sequence[Path], out: Path, count: int, seed: int) -> None:
    """Write pairs, and leave those that exist.

    Args:
        data: Folders, .tar shards and pictures.
        out: The folder to write.
        count: Number of pairs.
        seed: Seed of everything that is drawn.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures = Dataset(find_sources(data, SIDE, exclude=out).sources, MEMORY, seed).decode_share(0)
    areas = np.array([float(p.shape[0] * p.shape[1]) for p in pictures])
    augmentation, prior = Augmentation(SIDE, 0.6, 0.05), load_prior()
    for number in range(count):
        path = out / f"{number:05}-large.png"
        if _small(path).exists():
            continue
        rng = np.random.default_rng([seed, 11, number])
        large = augmentation.random_crop(pictures[int(rng.choice(len(pictures), p=areas / areas.sum()))], rng)
        pair = make_decompressed(np.ascontiguousarray(large), rng, prior)
        Image.fromarray(pair.large).save(path, compress_level=1)
        Image.fromarray(pair.small).save(_small(path), compress_level=1)


def main() -> None:
    """Make pairs from the command line."""
    parser = argparse.ArgumentParser(description="Make small JPEG pictures whose compression has been undone.")
    parser.add_argument("data", nargs="+", type=Path, help="folders, .tar shards and pictures")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, and to continue from")
    parser.add_argument("--count", type=int, default=1500, help="number of pairs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_decompressed(given.data, given.out, given.count, given.seed)


if __name__ == "__main__":
    main()
