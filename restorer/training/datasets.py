"""Pictures for training: found in folders and .tar shards, decoded as far as memory allows, cut into crops.

Batch k is a function of the pictures, the recipe, the memory and (seed, k) alone, whatever the number of threads, so a
run that was interrupted sees the same crops when it goes on. Pictures that do not fit into memory together are taken in
rounds: a random share of them is decoded, serves for a fixed number of batches, and is replaced by the next share,
which is decoded meanwhile.
"""

from __future__ import annotations

import io
import math
import tarfile
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from restorer.errors import PictureError
from restorer.images.files import load, reduced

__all__ = ["Augmentation", "CropStream", "Dataset", "Source", "find_sources"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
LUMA = np.array([0.299, 0.587, 0.114])
CROPS_A_PICTURE = 16  # crops taken of a decoded picture, on average, before another takes its place
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP")  # what a file may be, whatever its name says


@dataclass(frozen=True)
class Source:
    """Where one picture lies: a file, or `size` bytes from `offset` on inside a .tar shard; and how large it is."""

    path: Path
    offset: int
    size: int
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def read(self) -> np.ndarray:
        """uint8 (H, W, 3), turned upright, 16 bits reduced to 8.

        Raises:
            PictureError, OSError: it cannot be decoded.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            pixels = reduced(load(io.BytesIO(file.read(self.size))), 8).pixels
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


@dataclass(frozen=True)
class Found:
    """What `find_sources` found, and how many files it had to leave out."""

    sources: tuple[Source, ...]
    unreadable: int
    too_small: int

    @property
    def described(self) -> str:
        """One line for people."""
        parts = [f"{len(self.sources):,} pictures, {sum(s.pixels for s in self.sources) / 1e6:,.0f} megapixels"]
        parts += [f"{self.unreadable:,} unreadable"] if self.unreadable else []
        parts += [f"{self.too_small:,} smaller than a crop"] if self.too_small else []
        return "; ".join(parts)


def find_sources(places: Sequence[Path], least: int, without: Path | None = None) -> Found:
    """Every picture in folders (all levels), .tar shards and single files, in the order of their names.

    Only headers are read. Pictures with a side below `least` pixels and files that are no pictures are counted. What
    lies in the folder `without` is left out: a run may write its own pictures there.

    Raises:
        PictureError: a place does not exist, a shard cannot be read, or nothing is left.
    """
    sources, unreadable, too_small = [], 0, 0
    for place in places:
        if not place.exists():
            raise PictureError(f"{place} does not exist", "check the path")
        if place.is_file() and place.suffix.lower() == ".tar":
            _check_shard(place)
    for path, offset, size in (entry for place in places for entry in _entries(place)):
        if without is not None and path.resolve().is_relative_to(without.resolve()):
            continue
        try:
            with path.open("rb") as file:
                window = io.BufferedReader(_Window(file, offset, size))
                with Image.open(window, formats=FORMATS) as image:
                    source = Source(path, offset, size, *image.size)
        except Exception:  # a decoder raises anything on malformed bytes
            unreadable += 1
            continue
        if min(source.width, source.height) < least:
            too_small += 1
        else:
            sources.append(source)
    if not sources:
        names = ", ".join(map(str, places))
        raise PictureError(
            f"no picture to train on in {names}: {unreadable} unreadable, {too_small} smaller than {least} pixels",
            "name folders or .tar files with photographs, or lower --crop",
        )
    return Found(tuple(sources), unreadable, too_small)


def _entries(place: Path) -> Iterator[tuple[Path, int, int]]:
    """(file, offset, bytes) of everything in a place whose name looks like a picture's."""
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.suffix.lower() in (*SUFFIXES, ".tar") and path.is_file():
                yield from _entries(path)
    elif place.suffix.lower() == ".tar":
        try:
            members = _members(place)
        except (tarfile.TarError, OSError):
            members = [(0, 0)]  # nothing that could be a picture: it will be counted as one that cannot be read
        for offset, size in members:
            yield place, offset, size
    else:
        yield place, 0, place.stat().st_size


def _members(shard: Path) -> list[tuple[int, int]]:
    """(offset, bytes) of the pictures in an uncompressed archive: they are read in place, in any order."""
    with tarfile.open(shard, "r:") as tar:
        whole = (m for m in tar if m.isfile() and not m.issparse())
        return [(m.offset_data, m.size) for m in whole if m.name.lower().endswith(SUFFIXES)]


def _check_shard(shard: Path) -> None:
    try:
        _members(shard)
    except (tarfile.TarError, OSError) as error:
        raise PictureError(f"{shard} cannot be read as a .tar file: {error}", "unpack it into a folder") from error


class _Window(io.RawIOBase):
    """A part of a file as a file of its own, so that a header is read without the rest."""

    def __init__(self, file: io.BufferedReader, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._place = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._place)
        data = self._file.read(max(0, min(len(buffer), self._size - self._place)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


@dataclass(frozen=True)
class Augmentation:
    """What is done to a crop.

    Args:
        crop: side in pixels.
        downscale: probability that it is shrunk from one up to twice as wide.
        gray: probability that it loses its colour.
        turn: whether it is turned by quarters and mirrored.
    """

    crop: int
    downscale: float = 0.0
    gray: float = 0.0
    turn: bool = True

    def crop_of(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One crop of a picture (H, W, 3), uint8 (crop, crop, 3)."""
        size, side = self.crop, self.crop
        if rng.random() < self.downscale:
            side = min(round(size * rng.uniform(1, 2)), *picture.shape[:2])
        top, left = (int(rng.integers(extent - side + 1)) for extent in picture.shape[:2])
        patch = picture[top : top + side, left : left + side]
        if side != size:
            patch = np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.LANCZOS))
        if self.turn:
            patch = np.rot90(patch, int(rng.integers(4)))
            patch = patch[:, ::-1] if rng.random() < 0.5 else patch
        if rng.random() < self.gray:
            patch = np.repeat(np.rint(patch @ LUMA).astype(np.uint8)[..., None], 3, axis=2)
        return patch


class Dataset:
    """Decoded pictures, at most `memory` bytes of them at a time.

    Args:
        sources: the pictures.
        memory: bytes for decoded pictures; the largest picture must fit twice.
        seed: of the order in which they take turns.
    """

    def __init__(self, sources: Sequence[Source], memory: int, seed: int) -> None:
        self.sources, self._seed = tuple(sources), seed
        sizes = np.array([3 * source.pixels for source in sources], dtype=np.int64)
        self.rounds = int(sizes.sum()) > memory
        # The next share is decoded while the present one is in use.
        self._share = memory // 2 if self.rounds else int(sizes.sum())
        usable = np.flatnonzero(sizes <= self._share)
        if not len(usable):
            raise PictureError("no picture fits into the memory for pictures", "raise --memory, or shrink the pictures")
        self._usable, self._sizes = usable, sizes
        self.too_large = len(sizes) - len(usable)
        self.broken: set[Source] = set()
        self.closed = False

    def batches_a_round(self, batch: int) -> int:
        """How many batches one share of the pictures serves for."""
        at_once = max(1, round(len(self._usable) * min(1.0, self._share / self._sizes[self._usable].sum())))
        return max(1, math.ceil(CROPS_A_PICTURE * at_once / batch))

    def example(self) -> np.ndarray:
        """One picture, always the same, uint8 (H, W, 3).

        Raises:
            PictureError: not one of them can be decoded.
        """
        for index in self._usable:
            try:
                return self.sources[index].read()
            except Exception:  # a decoder raises anything on malformed bytes
                self.broken.add(self.sources[index])
        raise PictureError("not one of the pictures can be decoded", "check the files")

    def close(self) -> None:
        """No more pictures are wanted: let whoever decodes them come to an end."""
        self.closed = True

    def share(self, number: int) -> list[np.ndarray]:
        """The pictures of one round, uint8 (H, W, 3) each; files that cannot be decoded are left out and kept in mind.

        Raises:
            PictureError: not one of them can be decoded.
        """
        order = self._usable
        if self.rounds:
            order = np.random.default_rng([self._seed, 1, number]).permutation(order)
        pictures, room = [], self._share
        for index in order:
            if self.closed:
                break
            if self._sizes[index] > room:
                continue
            try:
                pictures.append(self.sources[index].read())
                room -= int(self._sizes[index])
            except Exception:  # a decoder raises anything on malformed bytes
                self.broken.add(self.sources[index])
        if not pictures and not self.closed:
            raise PictureError("not one of the pictures can be decoded", "check the files")
        return pictures


class CropStream:
    """Batches of random crops, made ahead by threads that keep to NumPy and Pillow.

    (A thread with PyTorch in it would bring a second pool of workers that fights the first.)

    Args:
        dataset: the pictures, drawn by their area.
        augmentation: of every crop.
        batch: crops a batch.
        seed: batch k depends on it and on k alone.
        threads: how many make batches.
    """

    def __init__(self, dataset: Dataset, augmentation: Augmentation, batch: int, seed: int, threads: int = 1) -> None:
        self.dataset, self.augmentation, self.batch, self.seed, self.threads = (
            dataset, augmentation, batch, seed, threads
        )  # fmt: skip

    def make(self, number: int, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Batch `number`, uint8 (B, S, S, 3), of these pictures."""
        rng = np.random.default_rng([self.seed, 0, number])
        areas = np.array([p.shape[0] * p.shape[1] for p in pictures], dtype=np.float64)
        chosen = rng.choice(len(pictures), size=self.batch, p=areas / areas.sum())
        return np.stack([self.augmentation.crop_of(pictures[i], rng) for i in chosen])

    def batches(self, first: int = 0) -> Generator[np.ndarray]:
        """Batch `first` and all that follow, without end."""
        a_round = self.dataset.batches_a_round(self.batch) if self.dataset.rounds else 0
        shares: dict[int, Future[list[np.ndarray]]] = {}
        pending: deque[Future[np.ndarray]] = deque()
        with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(self.threads) as cutters:
            number = first
            try:
                while True:
                    while len(pending) < 2 + 2 * self.threads:
                        turn = number // a_round if a_round else 0
                        for wanted in (turn, turn + 1) if a_round else (turn,):
                            if wanted not in shares:
                                shares[wanted] = decoder.submit(self.dataset.share, wanted)
                        for old in [key for key in shares if key < turn]:
                            del shares[old]
                        pending.append(cutters.submit(self._when_decoded, number, shares[turn]))
                        number += 1
                    yield pending.popleft().result()
            finally:
                self.dataset.close()
                for batch in pending:
                    batch.cancel()
                for share in shares.values():
                    share.cancel()

    def _when_decoded(self, number: int, share: Future[list[np.ndarray]]) -> np.ndarray:
        return self.make(number, share.result())
