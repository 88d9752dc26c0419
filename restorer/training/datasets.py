"""Training pictures: found in folders and .tar shards, decoded as far as memory allows, and cut into crops.

Batch k is a function of the pictures, the recipe, the memory limit and (seed, k) alone, whatever the number of threads,
so a run that is interrupted sees the same crops when it resumes. Pictures that do not fit into memory together are used
in rounds: a random share of the pictures is decoded, serves a fixed number of batches, and is then replaced by the next
share, which is decoded in the meantime.
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
from restorer.images.files import load, reduce_depth

__all__ = ["Augmentation", "CropStream", "Dataset", "Inventory", "Source", "find_sources"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
LUMA = np.array([0.299, 0.587, 0.114])
CROPS_PER_PICTURE = 16  # average number of crops cut from a decoded picture before another picture takes its place
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP")  # formats that are accepted, whatever a file's name says


@dataclass(frozen=True)
class Source:
    """Location and size of one picture, which is a file of its own or a member of a .tar shard.

    Args:
        path: The file, or the shard.
        offset: First byte of the picture in that file.
        size: Number of bytes.
        width: Width in pixels before the picture is turned upright.
        height: Height in pixels before the picture is turned upright.
    """

    path: Path
    offset: int
    size: int
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def read(self) -> np.ndarray:
        """Decode the picture.

        Returns:
            uint8 (H, W, 3), turned upright; 16-bit values are reduced to 8 bits and gray is repeated in three channels.

        Raises:
            PictureError, OSError: The picture cannot be decoded.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            pixels = reduce_depth(load(io.BytesIO(file.read(self.size))), 8).pixels
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


@dataclass(frozen=True)
class Inventory:
    """The pictures that `find_sources` found, and the number of files that it left out.

    Args:
        sources: The pictures, in the order of their names.
        unreadable: Number of files whose header cannot be read.
        too_small: Number of pictures with a side shorter than a crop.
    """

    sources: tuple[Source, ...]
    unreadable: int
    too_small: int

    @property
    def summary(self) -> str:
        """The inventory as one line of text for the user."""
        parts = [f"{len(self.sources):,} pictures, {sum(s.pixels for s in self.sources) / 1e6:,.0f} megapixels"]
        parts += [f"{self.unreadable:,} unreadable"] if self.unreadable else []
        parts += [f"{self.too_small:,} smaller than a crop"] if self.too_small else []
        return "; ".join(parts)


def find_sources(paths: Sequence[Path], min_side: int, exclude: Path | None = None) -> Inventory:
    """Find all pictures in folders, .tar shards and single files, in the order of their names.

    Only the headers of the pictures are read. Files that are not pictures, and pictures that are too small, are
    counted.

    Args:
        paths: Folders, which are searched at all depths, .tar shards, and pictures.
        min_side: Shortest side in pixels that a picture may have.
        exclude: A folder to ignore, because a run may write pictures of its own into it.

    Raises:
        PictureError: A path does not exist, a shard cannot be read, or no picture is left.
    """
    sources, unreadable, too_small = [], 0, 0
    for path in paths:
        if not path.exists():
            raise PictureError(f"{path} does not exist", "check the path")
        if path.is_file() and path.suffix.lower() == ".tar":
            _check_shard(path)
    for file_path, offset, size in (entry for path in paths for entry in _list_entries(path)):
        if exclude is not None and file_path.resolve().is_relative_to(exclude.resolve()):
            continue
        try:
            with file_path.open("rb") as file:
                member = io.BufferedReader(_FileSlice(file, offset, size))
                with Image.open(member, formats=FORMATS) as image:
                    source = Source(file_path, offset, size, *image.size)
        except Exception:  # decoders raise exceptions of any type on malformed bytes
            unreadable += 1
            continue
        if min(source.width, source.height) < min_side:
            too_small += 1
        else:
            sources.append(source)
    if not sources:
        names = ", ".join(map(str, paths))
        raise PictureError(
            f"no picture to train on in {names}: {unreadable} unreadable, {too_small} smaller than {min_side} pixels",
            "name folders or .tar files that contain photographs, or lower --crop",
        )
    return Inventory(tuple(sources), unreadable, too_small)


def _list_entries(path: Path) -> Iterator[tuple[Path, int, int]]:
    """Yield (file, offset, bytes) for each entry of a folder, shard or file whose name looks like that of a picture."""
    if path.is_dir():
        for inner in sorted(path.rglob("*")):
            if inner.suffix.lower() in (*SUFFIXES, ".tar") and inner.is_file():
                yield from _list_entries(inner)
    elif path.suffix.lower() == ".tar":
        try:
            members = _list_members(path)
        except (tarfile.TarError, OSError):
            members = [(0, 0)]  # an empty entry, so that the shard is counted as one unreadable file
        for offset, size in members:
            yield path, offset, size
    else:
        yield path, 0, path.stat().st_size


def _list_members(shard: Path) -> list[tuple[int, int]]:
    """Return (offset, bytes) of each picture in an uncompressed archive, so that it can be read in place."""
    with tarfile.open(shard, "r:") as tar:
        files = (m for m in tar if m.isfile() and not m.issparse())
        return [(m.offset_data, m.size) for m in files if m.name.lower().endswith(SUFFIXES)]


def _check_shard(shard: Path) -> None:
    """Raise a PictureError if a file is not an uncompressed .tar archive."""
    try:
        _list_members(shard)
    except (tarfile.TarError, OSError) as error:
        raise PictureError(f"{shard} cannot be read as a .tar file: {error}", "unpack it into a folder") from error


class _FileSlice(io.RawIOBase):
    """A part of a file that behaves like a file of its own, so that a header is read without the rest."""

    def __init__(self, file: io.BufferedReader, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._position)
        data = self._file.read(max(0, min(len(buffer), self._size - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


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

    def random_crop(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Cut a random crop from a picture and augment it.

        Args:
            picture: uint8 (H, W, 3), both sides at least `crop`.
            rng: Source of all random choices.

        Returns:
            uint8 (crop, crop, 3).
        """
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
    """Decoded pictures that take at most `memory` bytes at a time.

    Args:
        sources: The pictures.
        memory: Bytes for decoded pictures. Where pictures are used in rounds, a picture that takes more than half of
            the memory is left out.
        seed: Seed of the order in which the pictures take turns.

    Attributes:
        sources: All pictures, those that are too large included.
        in_rounds: Whether the pictures exceed the memory together and are therefore used in rounds.
        too_large: Number of pictures that are left out because they do not fit into the memory.
        broken: Pictures that could not be decoded so far.
        closed: Whether `close` was called.

    Raises:
        PictureError: No picture fits into the memory.
    """

    def __init__(self, sources: Sequence[Source], memory: int, seed: int) -> None:
        self.sources, self._seed = tuple(sources), seed
        sizes = np.array([3 * source.pixels for source in sources], dtype=np.int64)
        self.in_rounds = int(sizes.sum()) > memory
        # The next share is decoded while the present one is in use, so each may take half of the memory.
        self._share_bytes = memory // 2 if self.in_rounds else int(sizes.sum())
        usable = np.flatnonzero(sizes <= self._share_bytes)
        if not len(usable):
            raise PictureError("no picture fits into the memory for pictures", "raise --memory, or shrink the pictures")
        self._usable, self._sizes = usable, sizes
        self.too_large = len(sizes) - len(usable)
        self.broken: set[Source] = set()
        self.closed = False

    def batches_per_round(self, batch: int) -> int:
        """Return the number of batches of `batch` crops that one share of the pictures serves."""
        at_once = max(1, round(len(self._usable) * min(1.0, self._share_bytes / self._sizes[self._usable].sum())))
        return max(1, math.ceil(CROPS_PER_PICTURE * at_once / batch))

    def read_example(self) -> np.ndarray:
        """Decode the first picture that can be decoded, always the same one.

        Returns:
            uint8 (H, W, 3).

        Raises:
            PictureError: None of the pictures can be decoded.
        """
        for index in self._usable:
            try:
                return self.sources[index].read()
            except Exception:  # decoders raise exceptions of any type on malformed bytes
                self.broken.add(self.sources[index])
        raise PictureError("none of the pictures can be decoded", "check the files")

    def close(self) -> None:
        """Make a thread that is decoding a share stop after the present picture."""
        self.closed = True

    def decode_share(self, number: int) -> list[np.ndarray]:
        """Decode the pictures of round `number`; files that cannot be decoded are left out and added to `broken`.

        Returns:
            uint8 (H, W, 3) each.

        Raises:
            PictureError: None of the pictures can be decoded.
        """
        order = self._usable
        if self.in_rounds:
            order = np.random.default_rng([self._seed, 1, number]).permutation(order)
        pictures, room = [], self._share_bytes
        for index in order:
            if self.closed:
                break
            if self._sizes[index] > room:
                continue
            try:
                pictures.append(self.sources[index].read())
                room -= int(self._sizes[index])
            except Exception:  # decoders raise exceptions of any type on malformed bytes
                self.broken.add(self.sources[index])
        if not pictures and not self.closed:
            raise PictureError("none of the pictures can be decoded", "check the files")
        return pictures


class CropStream:
    """Batches of random crops, made in advance by threads that use NumPy and Pillow only.

    (Threads that use PyTorch would start a second pool of workers, which would compete with the first.)

    Args:
        dataset: The pictures; each is drawn with a probability proportional to its area.
        augmentation: Changes made to each crop.
        batch: Number of crops in a batch.
        seed: Batch k depends on the seed and on k alone.
        threads: Number of threads that make batches.
    """

    def __init__(self, dataset: Dataset, augmentation: Augmentation, batch: int, seed: int, threads: int = 1) -> None:
        self.dataset, self.augmentation, self.batch, self.seed, self.threads = (
            dataset, augmentation, batch, seed, threads
        )  # fmt: skip

    def make_batch(self, number: int, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Cut the crops of batch `number` from pictures, uint8 (H, W, 3) each, and return them as (B, S, S, 3)."""
        rng = np.random.default_rng([self.seed, 0, number])
        areas = np.array([p.shape[0] * p.shape[1] for p in pictures], dtype=np.float64)
        chosen = rng.choice(len(pictures), size=self.batch, p=areas / areas.sum())
        return np.stack([self.augmentation.random_crop(pictures[i], rng) for i in chosen])

    def batches(self, first: int = 0) -> Generator[np.ndarray]:
        """Yield batch `first` and all later batches, uint8 (B, S, S, 3) each, without end.

        Raises:
            PictureError: None of the pictures of a round can be decoded.
        """
        round_length = self.dataset.batches_per_round(self.batch) if self.dataset.in_rounds else 0
        shares: dict[int, Future[list[np.ndarray]]] = {}
        pending: deque[Future[np.ndarray]] = deque()
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
                        pending.append(cutters.submit(self._make_when_decoded, number, shares[current]))
                        number += 1
                    yield pending.popleft().result()
            finally:
                self.dataset.close()
                for batch in pending:
                    batch.cancel()
                for share in shares.values():
                    share.cancel()

    def _make_when_decoded(self, number: int, share: Future[list[np.ndarray]]) -> np.ndarray:
        """Wait until a share of the pictures is decoded, and make batch `number` from it."""
        return self.make_batch(number, share.result())
