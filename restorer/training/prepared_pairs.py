r"""Pairs of a photograph and of a small, damaged picture of it, made before the training.

Some pairs take too long for each step of a training, so that a number of them is made once, and the steps cut their
crops from them. `restore upscale` undoes the compression of a small JPEG before the network that enlarges sees it; what
is left looks neither like a JPEG nor like a clean picture, and the pairs go the same way:

    large -> shrink (`shrinking.py`) -> JPEG file -> `restorer.dejpeg` -> small

Other pairs are noisy, or blurred. A teacher may enlarge the small picture, the JPEG before its compression is undone:
a network such as Real-ESRGAN, whose result is one of the large pictures that are possible, where the photograph itself
cannot be told from the small one.

    python -m restorer.training.prepared_pairs SHARD... --out FOLDER --count 1200 --teacher RealESRGAN_x4plus.pth

A run continues where it was stopped. The pictures of pair k are a function of the sources, the seed and k.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.errors import PictureError
from restorer.images.files import from_pil, to_tensor
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.models.feed_forward import FeedForward
from restorer.models.load import load_prior
from restorer.models.starts import load_start
from restorer.priors.experts import State
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.training.crops import Augmentation
from restorer.training.datasets import Dataset, find_sources
from restorer.training.edits import as_stored
from restorer.training.shrinking import add_noise, damage, enlarge_bicubic

__all__ = ["Prepared", "PreparedCrop", "make_pair", "random_crop", "read_pairs", "write_pairs"]

SIDE = 320
"""Side of a large picture in pixels."""

FACTORS = {4.0: 0.8, 2.0: 0.12, 8 / 3: 0.08}
"""Factors and their shares. A crop of 128 pixels, and every multiple of 8, is a whole number of small pixels."""

SHARES: dict[State, float] = {"repaired": 0.45, "damaged": 0.3, "soft": 0.25}
"""The share of each state."""

QUALITIES = (25.0, 95.0)
"""Least and largest quality of the JPEG files."""

NOISY_SHARE, LITTLE_NOISE = 0.2, (1.0, 5.0)
"""Share of the JPEG files that are noisy, and their least and largest noise in levels of 0..255."""

NOISE = (4.0, 24.0)
"""Least and largest noise of noisy pictures, in levels of 0..255."""

BLURS = (0.5, 1.7)
"""Least and largest standard deviation of the blur of soft pictures, in small pixels."""

MEMORY = 2_000_000_000  # bytes for decoded pictures


@dataclass(frozen=True)
class Prepared:
    """A large picture and what is left of it.

    Args:
        large: uint8 (S, S, 3).
        small: uint8 (s, s, 3), as the network that enlarges is to see it.
        state: What the network is told of it.
        taught: The teacher's enlargement, uint8 (S, S, 3); None if it enlarges by another factor, or there is none.
    """

    large: np.ndarray
    small: np.ndarray
    state: State
    taught: np.ndarray | None = None

    @property
    def factor(self) -> float:
        """The factor of enlargement."""
        return len(self.large) / len(self.small)


@dataclass(frozen=True)
class PreparedCrop:
    """The same part of the pictures of a pair, in the same orientation.

    Args:
        large: uint8 (side, side, 3).
        enlarged: The small picture enlarged by the bicubic filter, float32 (side, side, 3) on [-1, 1], not clipped.
        taught: The teacher's enlargement, uint8 (side, side, 3), or None.
    """

    large: np.ndarray
    enlarged: np.ndarray
    taught: np.ndarray | None


def make_pair(
    large: np.ndarray,
    rng: np.random.Generator,
    prior: Prior,
    teacher: Callable[[Tensor], Tensor] | None,
    scale: int = 4,
) -> Prepared:
    """Return the pair of a large picture.

    Args:
        large: uint8 (S, S, 3).
        rng: Source of all random choices.
        prior: The prior that undoes the compression.
        teacher: The function that enlarges a small picture, float (3, s, s) in [0, 1]; None for none.
        scale: By how much the teacher enlarges.
    """
    factor = float(rng.choice(list(FACTORS), p=list(FACTORS.values())))
    state = list(SHARES)[int(rng.choice(len(SHARES), p=list(SHARES.values())))]
    side = round(len(large) / factor)
    if state == "repaired":
        given, small = _decompressed(damage(large, side, rng), rng, prior)
    elif state == "damaged":
        given = small = add_noise(damage(large, side, rng), rng, NOISE)
    else:
        shrunk = Image.fromarray(large).resize((side, side), Image.Resampling.BICUBIC)
        given = small = np.asarray(shrunk.filter(ImageFilter.GaussianBlur(rng.uniform(*BLURS))))
    if teacher is None or factor != scale:
        return Prepared(large, small, state)
    return Prepared(large, small, state, _to_bytes(teacher(to_tensor(from_pil(Image.fromarray(given))))))


def _decompressed(small: np.ndarray, rng: np.random.Generator, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Return a small picture as a JPEG file of a quality that is drawn, and with its compression undone."""
    if rng.random() < NOISY_SHARE:
        small = add_noise(small, rng, LITTLE_NOISE)
    file = io.BytesIO()
    subsampling = 2 if rng.random() < 0.7 else 0
    Image.fromarray(small).save(file, "JPEG", quality=round(rng.uniform(*QUALITIES)), subsampling=subsampling)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        decoded = to_tensor(from_pil(image.convert("RGB")))
    job = prepare_dejpeg(decoded, find_jpeg(decoded, file.getvalue()), prior=prior).measured()
    return _to_bytes(decoded), _to_bytes(decoded if job.is_copy else job.run().image)


def _to_bytes(picture: Tensor) -> np.ndarray:
    """Return a picture (3, H, W) in [0, 1] as uint8 (H, W, 3)."""
    return as_stored(255 * picture).byte().permute(1, 2, 0).numpy()


def random_crop(pair: Prepared, side: int, rng: np.random.Generator) -> PreparedCrop:
    """Cut a crop from a pair, and turn and mirror it.

    Args:
        pair: The pair.
        side: Side of the crop in pixels of the large picture, a multiple of 8.
        rng: Source of all random choices.
    """
    step = 8
    top, left = (step * int(rng.integers((len(pair.large) - side) // step + 1)) for _ in range(2))
    part = np.s_[top : top + side, left : left + side]
    turns, is_mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def turned(picture: np.ndarray) -> np.ndarray:
        result = np.rot90(picture[part], turns)
        return np.ascontiguousarray(result[:, ::-1] if is_mirrored else result)

    enlarged = enlarge_bicubic(pair.small, len(pair.large))
    return PreparedCrop(turned(pair.large), turned(enlarged), None if pair.taught is None else turned(pair.taught))


def read_pairs(folder: Path) -> list[Prepared]:
    """Read all pairs of a folder.

    Raises:
        PictureError: There is none.
    """
    names = sorted(folder.glob("*-small.png"))
    if not names:
        raise PictureError(f"{folder} holds no pairs", "make them with python -m restorer.training.prepared_pairs")
    return [_read_pair(name) for name in names]


def _read_pair(small: Path) -> Prepared:
    number, name, _ = small.stem.split("-")
    state = next((known for known in SHARES if known == name), None)
    if state is None:
        raise PictureError(f"{small} is not the picture of a pair")
    large, taught = (small.with_name(f"{number}-{state}-{part}.png") for part in ("large", "taught"))
    return Prepared(_read(large), _read(small), state, _read(taught) if taught.exists() else None)


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def write_pairs(
    data: Sequence[Path],
    out: Path,
    numbers: Sequence[int],
    seed: int,
    teacher: FeedForward | None = None,
) -> None:
    """Write pairs, and leave those that exist.

    Args:
        data: Folders, .tar shards and pictures.
        out: The folder to write.
        numbers: The numbers of the pairs.
        seed: Seed of everything that is drawn.
        teacher: The network that enlarges the small pictures, too; None for none.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures = Dataset(find_sources(data, SIDE, exclude=out).sources, MEMORY, seed).decode_share(0)
    areas = np.array([float(p.shape[0] * p.shape[1]) for p in pictures])
    augmentation, prior = Augmentation(SIDE, 0.6, 0.05), load_prior()
    teach = None if teacher is None else lambda small: teacher(small).picture
    for number in numbers:
        if any(out.glob(f"{number:05}-*-small.png")):
            continue
        rng = np.random.default_rng([seed, 11, number])
        large = augmentation.random_crop(pictures[int(rng.choice(len(pictures), p=areas / areas.sum()))], rng)
        scale = 1 if teacher is None else teacher.scale
        pair = make_pair(np.ascontiguousarray(large), rng, prior, teach, scale)
        for part, pixels in (("large", pair.large), ("taught", pair.taught), ("small", pair.small)):
            if pixels is not None:
                Image.fromarray(pixels).save(out / f"{number:05}-{pair.state}-{part}.png", compress_level=1)


def main() -> None:
    """Make pairs from the command line."""
    parser = argparse.ArgumentParser(description="Make small, damaged pictures of photographs.")
    parser.add_argument("data", nargs="+", type=Path, help="folders, .tar shards and pictures")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, and to continue from")
    parser.add_argument("--first", type=int, default=0, help="number of the first pair")
    parser.add_argument("--count", type=int, default=1200, help="number of pairs")
    parser.add_argument("--teacher", help="a network that spandrel reads, which enlarges the small pictures, too")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    teacher = None if given.teacher is None else load_start(given.teacher, precision="bf16")
    write_pairs(given.data, given.out, range(given.first, given.first + given.count), given.seed, teacher)


if __name__ == "__main__":
    main()
