"""Random crops of training pictures: what is drawn for each of them, and how the host cuts them.

Batch k is a function of the pictures, the recipe, the memory limit and (seed, k) alone, whatever the number of threads,
so a run that is interrupted sees the same crops when it resumes. What is drawn for a crop (`Window`) depends on the
sizes of the pictures only. Several processes therefore draw the windows of a whole batch alike, and each of them cuts
the crops of its own part. `device_crops` cuts the same bytes on a GPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from restorer.training.datasets import Dataset

__all__ = ["LUMA", "Augmentation", "CropStream", "Window"]

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in a gray value."""

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """Everything that is drawn for a crop.

    Args:
        picture: Index of the picture.
        top: First row of the window that is cut out.
        left: First column of the window.
        side: Height and width of the window, which is then shrunk to the side of a crop.
        quarters: Number of quarter turns, counter-clockwise.
        is_mirrored: Whether the crop is mirrored after it is turned.
        is_gray: Whether the crop is converted to gray.
    """

    picture: int
    top: int
    left: int
    side: int
    quarters: int = 0
    is_mirrored: bool = False
    is_gray: bool = False


@dataclass(frozen=True)
class Augmentation:
    """Random changes that are made to each crop.

    Args:
        crop: Side of a crop in pixels.
        downscale: Probability that a crop is cut from a window of up to twice the side and shrunk to `crop`.
        gray: Probability that a crop is converted to gray.
        turn: Whether crops are rotated by multiples of 90 degrees and mirrored.
    """

    crop: int
    downscale: float = 0.0
    gray: float = 0.0
    turn: bool = True

    def draw(self, picture: int, shape: tuple[int, ...], rng: np.random.Generator) -> Window:
        """Draw a crop of a picture.

        Args:
            picture: Index of the picture.
            shape: Height and width of the picture, both at least `crop`; further values are ignored.
            rng: Source of all random choices.
        """
        side = self.crop
        if rng.random() < self.downscale:
            side = min(round(self.crop * rng.uniform(1, 2)), *shape[:2])
        top, left = (int(rng.integers(extent - side + 1)) for extent in shape[:2])
        quarters, is_mirrored = (int(rng.integers(4)), rng.random() < 0.5) if self.turn else (0, False)
        return Window(picture, top, left, side, quarters, is_mirrored, rng.random() < self.gray)

    def cut(self, picture: np.ndarray, window: Window) -> np.ndarray:
        """Cut a crop that was drawn from its picture, uint8 (H, W, 3), and return it as uint8 (crop, crop, 3)."""
        size, side, top, left = self.crop, window.side, window.top, window.left
        patch = picture[top : top + side, left : left + side]
        if side != size:
            patch = np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.LANCZOS))
        patch = np.rot90(patch, window.quarters)
        patch = patch[:, ::-1] if window.is_mirrored else patch
        if window.is_gray:
            # One operation after the other, so that the rounding is the same on every machine.
            red, green, blue = (patch[..., k] * weight for k, weight in enumerate(LUMA))
            patch = np.repeat(np.rint(red + green + blue).astype(np.uint8)[..., None], 3, axis=2)
        return patch

    def random_crop(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw and cut a crop of a picture, uint8 (H, W, 3), and return it as uint8 (crop, crop, 3)."""
        return self.cut(picture, self.draw(0, picture.shape, rng))


class CropStream:
    """Batches of random crops, made in advance by threads that use NumPy and Pillow only.

    (Threads that use PyTorch would start a second pool of workers, which would compete with the first.)

    Args:
        dataset: The pictures; each is drawn with a probability proportional to its area.
        augmentation: Changes made to each crop.
        batch: Number of crops in a batch.
        seed: Batch k depends on the seed and on k alone.
        threads: Number of threads that make batches.
        part: The part of each batch that is made; None for the whole batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentation: Augmentation,
        batch: int,
        seed: int,
        threads: int = 1,
        part: slice | None = None,
    ) -> None:
        self.dataset, self.augmentation, self.batch, self.seed, self.threads = (
            dataset, augmentation, batch, seed, threads
        )  # fmt: skip
        self.part = part or slice(0, batch)

    def draw(self, number: int, pictures: Sequence[np.ndarray]) -> list[Window]:
        """Draw the crops of batch `number` from pictures, uint8 (H, W, 3) each, and return those of the part."""
        rng = np.random.default_rng([self.seed, 0, number])
        areas = np.array([p.shape[0] * p.shape[1] for p in pictures], dtype=np.float64)
        chosen = rng.choice(len(pictures), size=self.batch, p=areas / areas.sum())
        return [self.augmentation.draw(int(i), pictures[i].shape, rng) for i in chosen][self.part]

    def make_batch(self, number: int, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Cut the part of batch `number` from pictures, uint8 (H, W, 3) each, and return it as (B, S, S, 3)."""
        windows = self.draw(number, pictures)
        return np.stack([self.augmentation.cut(pictures[window.picture], window) for window in windows])

    def batches(self, first: int = 0) -> Generator[np.ndarray]:
        """Yield the parts of batch `first` and of all later batches, uint8 (B, S, S, 3) each, without end.

        Raises:
            PictureError: None of the pictures of a round can be decoded.
        """
        return self._in_advance(first, self.make_batch)

    def drawn(self, first: int = 0) -> Generator[tuple[Sequence[np.ndarray], list[Window]]]:
        """Yield the pictures and the windows of batch `first` and of all later batches, without end.

        The pictures are the same object as long as they are the same pictures.

        Raises:
            PictureError: None of the pictures of a round can be decoded.
        """
        return self._in_advance(first, lambda number, pictures: (pictures, self.draw(number, pictures)))

    def _in_advance(self, first: int, make: Callable[[int, Sequence[np.ndarray]], T]) -> Generator[T]:
        """Yield what `make` returns for the number and the pictures of each batch, made in advance by the threads."""
        round_length = self.dataset.batches_per_round(self.batch) if self.dataset.in_rounds else 0
        shares: dict[int, Future[list[np.ndarray]]] = {}
        pending: deque[Future[T]] = deque()

        def make_when_decoded(number: int, share: Future[list[np.ndarray]]) -> T:
            return make(number, share.result())

        with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(self.threads) as cutters:
            number = first
            try:
                while True:
                    while len(pending) < 2 + 2 * self.threads:
                        current = number // round_length if round_length else 0
                        for needed in (current, current + 1) if round_length else (current,):
                            if needed not in shares:
                                shares[needed] = decoder.submit(self.dataset.decode_share, needed)
                        for old in [key for key in shares if key < current]:
                            del shares[old]
                        pending.append(cutters.submit(make_when_decoded, number, shares[current]))
                        number += 1
                    yield pending.popleft().result()
            finally:
                self.dataset.close()
                for batch in pending:
                    batch.cancel()
                for share in shares.values():
                    share.cancel()
