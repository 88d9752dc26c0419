"""Writing of masks, white on black and without loss, so that they are read again to the pixel."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from restorer.errors import UsageError
from restorer.images.picture import Picture
from restorer.images.writing import save, target_format

__all__ = ["check_mask_target", "save_mask"]

_LOSSLESS = frozenset({"PNG", "TIFF", "BMP", "GIF", "WEBP"})  # formats in which `save` keeps every pixel of a mask


def save_mask(fill: np.ndarray, target: Path | BinaryIO, *, overwrite: bool = False) -> None:
    """Write a mask of one byte per pixel, white at the holes and black elsewhere.

    Args:
        fill: bool (H, W), True at the pixels to fill.
        target: The file to write, or an open binary file, which receives a PNG.
        overwrite: Whether an existing file is replaced.

    Raises:
        UsageError: As for `check_mask_target`.
        OutputError: The file exists and `overwrite` is not set, or it cannot be written.
    """
    check_mask_target(target)
    save(_picture_of(fill), target, overwrite=overwrite)


def check_mask_target(target: Path | BinaryIO) -> None:
    """Check that a file can hold a mask to the pixel.

    Raises:
        UsageError: The format that the name of the file stands for is unknown, or compresses with loss.
    """
    name = target_format(_picture_of(np.zeros((1, 1), dtype=bool)), target)
    if name not in _LOSSLESS:
        raise UsageError(f"{name} would blur the edges of the mask", "name a .png file with -o")


def _picture_of(fill: np.ndarray) -> Picture:
    return Picture(np.where(fill, np.uint8(255), np.uint8(0)), mode="L", format="PNG")
