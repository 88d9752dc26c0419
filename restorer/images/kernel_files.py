"""Kernels of a blur, read from files: a small picture that is bright where light went, or an array of NumPy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from restorer.errors import PictureError, UsageError
from restorer.images.picture import to_unit_range
from restorer.images.reading import display_name, load

__all__ = ["MAX_SIDE", "load_kernel"]

MAX_SIDE = 511
"""Longest side of a kernel in pixels."""

NUMPY = b"\x93NUMPY"


def load_kernel(path: Path) -> Tensor:
    """Read a kernel.

    Args:
        path: A picture, of which the mean of the channels counts, or a file of `numpy.save` with two axes.

    Returns:
        float64 (h, w), as the file has it: neither its sum nor its sides are changed.

    Raises:
        PictureError: The file cannot be read.
        UsageError: The array has another number of axes or no real numbers, or the kernel is larger than MAX_SIDE.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(
            f"{display_name(path)} cannot be read: {error.strerror or error}", "check the path"
        ) from error
    values = _read_array(data, path) if data.startswith(NUMPY) else _read_picture(path)
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        message = f"{display_name(path)}: a kernel has rows and columns of real numbers"
        raise UsageError(message, "save an array of two axes")
    if max(values.shape) > MAX_SIDE:
        size = f"{values.shape[1]}x{values.shape[0]}"
        raise UsageError(f"{display_name(path)}: a kernel of {size} is larger than {MAX_SIDE} pixels", "crop it")
    return torch.from_numpy(values.astype(np.float64))


def _read_array(data: bytes, path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise PictureError(f"{display_name(path)} is damaged: {error}", "save the array again") from error


def _read_picture(path: Path) -> np.ndarray:
    picture = load(path)
    units = to_unit_range(picture.pixels, *picture.levels)
    return units if units.ndim == 2 else units.mean(-1)
