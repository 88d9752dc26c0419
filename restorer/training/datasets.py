"""Training pictures: found in folders and .tar shards, and decoded as far as memory allows.

Pictures that do not fit into memory together are used in rounds: a random share of the pictures is decoded, serves a
fixed number of batches, and is then replaced by the next share, which is decoded in the meantime.
"""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from restorer.errors import PictureError
from restorer.images.files import load, reduce_depth

__all__ = ["Dataset", "Inventory", "Source", "find_sources"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
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


class Dataset:
    """Decoded pictures that take at most `memory` bytes at a time.

    Args:
        sources: The pictures.
        memory: Bytes for decoded pictures. Where pictures are used in rounds, a picture that takes more than half of
            the memory is left out.
        seed: Seed of the order in which the pictures take turns.

    Attributes:
        sources: All pictures, those that are too large included.
        share_bytes: Bytes of the pictures that are in use at a time, at most.
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
        self.share_bytes = memory // 2 if self.in_rounds else int(sizes.sum())
        usable = np.flatnonzero(sizes <= self.share_bytes)
        if not len(usable):
            raise PictureError("no picture fits into the memory for pictures", "raise --memory, or shrink the pictures")
        self._usable, self._sizes = usable, sizes
        self.too_large = len(sizes) - len(usable)
        self.broken: set[Source] = set()
        self.closed = False

    def batches_per_round(self, batch: int) -> int:
        """Return the number of batches of `batch` crops that one share of the pictures serves."""
        at_once = max(1, round(len(self._usable) * min(1.0, self.share_bytes / self._sizes[self._usable].sum())))
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
        pictures, room = [], self.share_bytes
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
