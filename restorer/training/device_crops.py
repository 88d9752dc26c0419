"""Random crops that a GPU cuts, turns and shrinks from pictures in its own memory.

The bytes are those that `crops` makes on the host: a window is shrunk by Pillow's own arithmetic, which works with
whole numbers. Its weights are those of a Lanczos filter of radius 3, stretched by the factor of the shrinking,
normalized, and rounded to multiples of 2 ** -22. The rows are filtered first, then the columns, and each time the sums
are rounded to 8 bits (Pillow's `Resample.c`).

Nothing here waits for the device. The host draws the crops and sends some numbers for each.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from restorer.training.crops import LUMA, CropStream, Window

__all__ = ["DeviceCutter", "cut_on_device", "fits_on_device", "lanczos_weights", "send"]

RADIUS = 3  # of the Lanczos filter, in pixels
LARGEST_FACTOR = 2  # of the shrinking
BITS = 22  # of the weights, after the point
SHARE = 0.5  # of the free memory of a device, which the pictures may take


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device, without waiting for the device."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fits_on_device(pictures_bytes: int, device: torch.device) -> bool:
    """Return whether the device is a CUDA GPU with enough free memory for decoded pictures of so many bytes."""
    return device.type == "cuda" and pictures_bytes <= SHARE * torch.cuda.mem_get_info(device)[0]


def cut_on_device(stream: CropStream, device: torch.device, first: int = 0) -> Generator[Tensor]:
    """Yield batch `first` and all later batches of a stream, cut by a device: uint8 (B, S, S, 3) each, without end.

    The pictures are sent once, or once in each round if they do not fit into the memory together.

    Raises:
        PictureError: None of the pictures of a round can be decoded.
    """
    held: Sequence[np.ndarray] | None = None
    cutter: DeviceCutter | None = None
    with closing(stream.drawn(first)) as drawn:
        for pictures, windows in drawn:
            if cutter is None or pictures is not held:
                cutter = None  # the memory of the last pictures is free for the next
                held, cutter = pictures, DeviceCutter(pictures, stream.augmentation.crop, device)
            yield cutter.cut(windows)


class DeviceCutter:
    """Pictures in the memory of a device, and the cutting of crops from them.

    Args:
        pictures: uint8 (H, W, 3) each.
        crop: Side S of a crop in pixels.
        device: The device.
    """

    def __init__(self, pictures: Sequence[np.ndarray], crop: int, device: torch.device) -> None:
        counts = [p.shape[0] * p.shape[1] for p in pictures]
        self._starts = np.concatenate([[0], np.cumsum(counts)])  # of each picture among all pixels
        self._widths = np.array([p.shape[1] for p in pictures])
        self._pixels = torch.empty(sum(counts), 3, dtype=torch.uint8, device=device)
        for start, count, picture in zip(self._starts, counts, pictures, strict=False):
            rows = torch.from_numpy(np.require(picture, requirements=["C", "W"])).view(-1, 3)
            self._pixels[start : start + count] = rows.to(device)
        self._crop, self._device = crop, device
        tables = [lanczos_weights(side, crop) for side in range(crop, LARGEST_FACTOR * crop + 1)]
        # Of each side of a window: the first pixel and the weights of each pixel of a crop.
        self._firsts = torch.from_numpy(np.stack([first for first, _ in tables])).to(device)
        self._weights = torch.from_numpy(np.stack([weights for _, weights in tables])).to(device)
        self._positions = torch.arange(LARGEST_FACTOR * crop, device=device)

    def cut(self, windows: Sequence[Window]) -> Tensor:
        """Cut crops.

        Returns:
            uint8 (B, S, S, 3), in the order of the windows.
        """
        size = self._crop
        crops = torch.empty(len(windows), size, size, 3, dtype=torch.uint8, device=self._device)
        for is_shrunk in (False, True):
            chosen = [i for i, window in enumerate(windows) if (window.side != size) == is_shrunk]
            if chosen:
                part = [windows[i] for i in chosen]
                crops[self._send(chosen)] = self._cut_shrunk(part) if is_shrunk else self._cut_plain(part)
        if gray := [i for i, window in enumerate(windows) if window.is_gray]:
            index = self._send(gray)
            red, green, blue = (crops[index, ..., k].double() * weight for k, weight in enumerate(LUMA))
            crops[index] = (red + green + blue).round().byte()[..., None].expand(-1, -1, -1, 3)
        return crops

    def _send(self, numbers: Sequence[int] | np.ndarray) -> Tensor:
        """Copy whole numbers to the device, as int64."""
        return send(torch.from_numpy(np.asarray(numbers, dtype=np.int64)), self._device)

    def _first_pixels(self, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """Return the first pixel of each window among all pixels, and the width of its picture, (B, 1, 1) each."""
        index = np.array([window.picture for window in windows])
        top, left = (np.array([getattr(window, name) for window in windows]) for name in ("top", "left"))
        numbers = self._send(np.stack([self._starts[index] + top * self._widths[index] + left, self._widths[index]]))
        first, width = numbers[:, :, None, None]
        return first, width

    def _turned(self, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """Return the row and the column of each pixel before its crop was turned and mirrored, (B, S, S) each."""
        columns, rows = self._send(np.array([_turn(window, self._crop) for window in windows])).unbind(1)
        y, x = self._positions[: self._crop, None], self._positions[None, : self._crop]
        row, column = (c[:, 0, None, None] * y + c[:, 1, None, None] * x + c[:, 2, None, None] for c in (rows, columns))
        return row, column

    def _cut_plain(self, windows: Sequence[Window]) -> Tensor:
        """Cut crops of windows that are not shrunk."""
        (first, width), (row, column) = self._first_pixels(windows), self._turned(windows)
        return self._pixels[first + row * width + column]

    def _cut_shrunk(self, windows: Sequence[Window]) -> Tensor:
        """Cut crops of windows that are shrunk: their rows first, then their columns."""
        size = self._crop
        first, width = self._first_pixels(windows)
        sides = np.array([window.side for window in windows])
        side, table = self._send(sides), self._send(sides - size)
        firsts, weights = self._firsts[table].long(), self._weights[table]  # (B, S), (B, S, taps)
        last = (side - 1)[:, None, None]
        height = int(sides.max())
        start = first + torch.minimum(self._positions[:height, None], last) * width  # of each row, (B, height, 1)
        narrow = torch.full((len(windows), height, size, 3), 1 << (BITS - 1), dtype=torch.int32, device=self._device)
        for tap in range(weights.shape[-1]):
            column = torch.minimum(firsts[:, None, :] + tap, last)
            narrow += self._pixels[start + column] * weights[:, None, :, tap, None]
        rows = (narrow >> BITS).clamp_(0, 255).view(-1, size, 3)  # of all windows
        number = torch.arange(len(windows), device=self._device)[:, None]
        small = torch.full((len(windows), size, size, 3), 1 << (BITS - 1), dtype=torch.int32, device=self._device)
        for tap in range(weights.shape[-1]):
            row = torch.minimum(firsts + tap, last[:, 0])
            small += rows[number * height + row] * weights[:, :, tap, None, None]
        small = (small >> BITS).clamp_(0, 255).byte().view(-1, 3)
        row, column = self._turned(windows)
        return small[(number[:, :, None] * size + row) * size + column]


def _turn(window: Window, size: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return where a pixel of a turned crop comes from.

    Returns:
        The factors of its row and its column, and a constant, whose sum is the column before turning; the same for the
        row.
    """
    x = (0, -1, size - 1) if window.is_mirrored else (0, 1, 0)
    y = (1, 0, 0)
    back_x, back_y = ((-a, -b, size - 1 - c) for a, b, c in (x, y))
    row, column = ((y, x), (x, back_y), (back_y, back_x), (back_x, y))[window.quarters]
    return column, row


def lanczos_weights(side: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights with which Pillow shrinks a row of pixels by its Lanczos filter.

    Args:
        side: Number of pixels of the row, `size` to 2 * `size`.
        size: Number of pixels of the result.

    Returns:
        For each pixel of the result, the first pixel of the row that counts, int32 (size,), and the weights of this
        pixel and the next ones, int32 (size, 13), in multiples of 2 ** -22; 0 for pixels that do not count.
    """
    scale = side / size
    support = RADIUS * scale
    taps = 2 * math.ceil(RADIUS * LARGEST_FACTOR) + 1
    center = (np.arange(size) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    end = np.minimum((center + support + 0.5).astype(np.int64), side)
    pixel = first[:, None] + np.arange(taps)
    x = (pixel - center[:, None] + 0.5) / scale
    kernel = np.where((x >= -RADIUS) & (x < RADIUS) & (pixel < end[:, None]), np.sinc(x) * np.sinc(x / RADIUS), 0.0)
    kernel /= kernel.sum(axis=1, keepdims=True)
    fixed = kernel * (1 << BITS)
    return first.astype(np.int32), np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int32)
