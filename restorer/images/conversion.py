"""The pictures that Python programs pass: PIL images, tensors, arrays and paths, and results of the same kind.

A `Given` holds what the caller passed together with the tensor that the restorations work on. Whatever has a stated
range (files, PIL images, integers) becomes a `Picture` on the way, so that transparency and metadata go along. Floats
stay as they are, unclamped, because noise reaches beyond black and white.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from restorer.errors import UsageError
from restorer.images.picture import Picture, cut, to_pil, to_tensor, visible_pixels, with_result
from restorer.images.reading import from_pil, load
from restorer.images.sizes import Region

__all__ = ["Given", "check_values", "is_batch", "join", "split", "take"]

KINDS = "a PIL image, a path, a NumPy array (H, W, C) or a tensor (C, H, W)"

BLOCK = 8
"""Side in pixels of the squares whose means tell values on another scale from noise, which such a mean averages out."""

MOST_SIGMA = 100.0
"""Standard deviation of noise, in levels of 255, up to which values beyond [0, 1] are taken for noise unasked."""

OUTER_SHARE = 0.05
"""Share of the values at each end that may lie farther out than noise on black or white has them."""

BLOCK_SHARE = 0.02
"""Share of the squares whose mean may lie beyond black or white."""

EXTREME_SHARE = 0.001
"""Share of the values that may be extreme: hot pixels and highlights."""

MOST_EXTREME = 3.5
"""How far beyond black and white the other values may lie, as noise of 255 levels does."""

SAMPLED = 1 << 20
"""Number of values that quantiles are computed from; a larger picture is sampled evenly."""


@dataclass(frozen=True)
class Given:
    """A picture as a caller passed it.

    Args:
        value: What was passed.
        image: The picture, float32 (C, H, W) on the CPU, in [0, 1] unless it was passed as floats.
        source: The content of a picture that has a stated range; None for floats.
        unread: The file of a Pillow image whose pixels had not been read before; None if they had, or it is no JPEG.
    """

    value: Any
    image: Tensor
    source: Picture | None = None
    unread: bytes | None = None

    @property
    def visible(self) -> Tensor | None:
        """The pixels that are not fully transparent, bool (H, W); None if all are visible."""
        return None if self.source is None else visible_pixels(self.source)

    @property
    def file(self) -> bytes | None:
        """The file that the picture comes from; None if there is none, or the picture was changed."""
        if self.source is not None and self.source.original is not None:
            return self.source.original
        return _jpeg_file_of(self.value, self.unread) if isinstance(self.value, JpegImageFile) else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    def part(self, region: Region | None) -> Given:
        """Return a part of the picture, of the same kind; the picture itself if there is no region.

        Args:
            region: The part, which lies inside.
        """
        if region is None:
            return self
        if self.source is not None:
            return replace(self, source=cut(self.source, region))
        at = region.rows, region.columns
        value = self.value[(..., *at)] if isinstance(self.value, Tensor) else self.value[at]
        return replace(self, value=value, image=self.image[(..., *at)])

    def unchanged(self) -> Any:
        """Return a copy of the picture, of the kind that was passed."""
        if self.source is not None:
            return self._of_kind(self.source)
        return self.value.clone() if isinstance(self.value, Tensor) else self.value.copy()

    def result(
        self,
        restored: Tensor,
        keep: np.ndarray | None = None,
        alpha: Tensor | None = None,
        *,
        reveal: bool = False,
    ) -> Any:
        """Return a result of the kind that was passed.

        Args:
            restored: The restored picture, float (C, H', W') in [0, 1].
            keep: bool (H, W), True at the pixels that are copied from the input; None copies none.
            alpha: The transparency of a result of another size, float (H', W') in [0, 1]; None to resample it.
            reveal: Whether all pixels that are not copied become opaque.
        """
        if self.source is not None:
            return self._of_kind(with_result(self.source, restored, keep, reveal=reveal, alpha=alpha))
        if isinstance(self.value, Tensor):
            result = restored.to(self.value.device, self.value.dtype)
            return result if keep is None else torch.where(torch.from_numpy(keep).to(result.device), self.value, result)
        rows = restored.permute(1, 2, 0).numpy().astype(self.value.dtype).reshape(*restored.shape[-2:], -1)
        rows = rows[..., 0] if self.value.ndim == 2 else rows
        if keep is None:
            return rows
        return np.where(keep if self.value.ndim == 2 else keep[..., None], self.value, rows)

    def _of_kind(self, picture: Picture) -> Any:
        """Return a picture as what was passed: an array, a tensor, or a PIL image."""
        if not isinstance(self.value, (np.ndarray, Tensor)):
            return to_pil(picture)
        planes = [picture.pixels] if picture.channels == 1 else list(np.moveaxis(picture.pixels, -1, 0))
        planes += [] if picture.alpha is None else [picture.alpha]
        if isinstance(self.value, Tensor):
            return torch.from_numpy(np.stack(planes)).to(self.value.device, self.value.dtype)
        result = planes[0] if self.value.ndim == 2 else np.stack(planes, -1)
        return result.astype(self.value.dtype)


def take(value: Any) -> Given:
    """Return a picture that a caller passed, with the tensor that restorations work on.

    Args:
        value: A PIL image; a path; an array of uint8, uint16 or floats, (H, W) or (H, W, C) with 1 to 4 channels, the
            last of 2 or 4 being the transparency; or a tensor of uint8, uint16 or floats, (C, H, W) with 1 or 3
            channels. Floats lie in [0, 1].

    Raises:
        UsageError: The value is nothing of this, or has another shape or type.
        PictureError: A file cannot be read.
    """
    if isinstance(value, (str, os.PathLike)):
        return _with_source(value, load(Path(os.fsdecode(value))))
    if isinstance(value, Image.Image):
        if 0 in value.size:
            raise UsageError(f"the picture has {value.width}x{value.height} pixels")
        unread = _unread_file_of(value)
        given = _with_source(value, replace(from_pil(value), lossy=isinstance(value, JpegImageFile)))
        return replace(given, unread=unread)
    if isinstance(value, Tensor):
        return _take_tensor(value)
    if isinstance(value, np.ndarray):
        return _take_array(value)
    raise UsageError(f"a picture must be {KINDS}, not {type(value).__name__}")


def _with_source(value: Any, source: Picture) -> Given:
    return Given(value, to_tensor(source), source)


def _take_tensor(value: Tensor) -> Given:
    """Return a tensor as a picture; see `take`."""
    shape = tuple(value.shape)
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise UsageError("a tensor must be dense and hold numbers", "convert it with to_dense() or dequantize()")
    if value.ndim != 3 or shape[0] not in (1, 3) or 0 in shape:
        raise UsageError(
            f"a tensor must have the shape (C, H, W) with 1 or 3 channels, not {shape}", _hint_for_tensor(shape)
        )
    if value.is_floating_point():
        return Given(value, value.detach().float().cpu())
    if value.dtype not in (torch.uint8, torch.uint16):
        raise UsageError(
            f"a tensor must hold uint8, uint16, or floats in [0, 1], not {str(value.dtype).removeprefix('torch.')}",
            "convert it to float and divide it by the value of white",
        )
    planes = value.detach().cpu().numpy()
    return _with_source(
        value, Picture(np.ascontiguousarray(planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)))
    )


def _hint_for_tensor(shape: tuple[int, ...]) -> str:
    """Return what turns a tensor of a wrong shape into a picture; '' if that is not known."""
    if len(shape) == 2:
        return "add the axis of the channels: tensor[None]"
    if len(shape) == 3 and shape[-1] in (1, 3):
        return "put the channels first: tensor.permute(2, 0, 1)"
    if len(shape) == 3 and shape[0] in (2, 4):
        return "take the colour alone, tensor[:-1], or pass a PIL image, whose transparency is kept"
    if len(shape) == 3 and shape[-1] in (2, 4):
        return "take the colour alone, tensor[..., :-1].permute(2, 0, 1), or pass a PIL image"
    return ""


def _take_array(value: np.ndarray) -> Given:
    """Return an array as a picture; see `take`."""
    shape = value.shape
    if value.ndim not in (2, 3) or (value.ndim == 3 and shape[-1] not in (1, 2, 3, 4)) or 0 in shape:
        is_transposed = value.ndim == 3 and shape[0] in (1, 3, 4)
        raise UsageError(
            f"an array must have the shape (H, W) or (H, W, C) with 1 to 4 channels, not {shape}",
            "put the channels last: array.transpose(1, 2, 0)" if is_transposed else "",
        )
    is_float = value.dtype.kind == "f"
    if not is_float and value.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise UsageError(
            f"an array must hold uint8, uint16, or floats in [0, 1], not {value.dtype}",
            "convert it to float and divide it by the value of white",
        )
    own = np.ascontiguousarray(value, np.float32 if is_float else value.dtype.newbyteorder("="))
    channels = 1 if value.ndim == 2 else shape[-1]
    if is_float and channels in (1, 3):
        return Given(value, torch.from_numpy(own.reshape(*shape[:2], channels)).permute(2, 0, 1).contiguous().clone())
    if is_float:
        _check_scale(torch.from_numpy(own))
    colour = own if value.ndim == 2 else own[..., 0] if channels < 3 else own[..., :3]
    return _with_source(value, Picture(colour.copy(), own[..., -1].copy() if channels in (2, 4) else None))


def _unread_file_of(image: Image.Image) -> bytes | None:
    """Return the file of a JPEG whose pixels Pillow has not read yet; None if it has, or the image is none."""
    file = getattr(image, "fp", None)  # Pillow lets go of the file once it has read the pixels
    if type(image) is not JpegImageFile or file is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        position = file.tell()
        file.seek(0)
        data: bytes = file.read()
        file.seek(position)
        return data
    return None


def _jpeg_file_of(image: JpegImageFile, unread: bytes | None) -> bytes | None:
    """Return the file that a Pillow image was opened from; None if there is none, or the image was changed.

    Args:
        image: The image.
        unread: As in `Given`.
    """
    name = getattr(image, "filename", "")
    # The file may have been removed or replaced by anything since the image was opened.
    with contextlib.suppress(OSError, SyntaxError, ValueError, TypeError):
        data = unread or (Path(os.fsdecode(name)).read_bytes() if name else b"")
        with JpegImageFile(io.BytesIO(data)) as original:
            is_alike = (original.mode, original.size) == (image.mode, image.size)
            return data if is_alike and ImageChops.difference(original, image).getbbox() is None else None
    return None


def is_batch(value: Any) -> bool:
    """Return whether a value holds several pictures: a list, a tuple, or a tensor or an array of four axes."""
    return isinstance(value, (list, tuple)) or (isinstance(value, (np.ndarray, Tensor)) and value.ndim == 4)


def split(value: Any) -> Sequence[Any]:
    """Return the pictures of a batch."""
    return value if isinstance(value, (list, tuple)) else list(value)


def join(results: Sequence[Any], like: Any) -> Any:
    """Return the results of a batch in a container like that of the pictures.

    Args:
        results: The results, all of one shape if `like` is a tensor or an array.
        like: The batch.
    """
    if isinstance(like, Tensor):
        return torch.stack(list(results))
    if isinstance(like, np.ndarray):
        return np.stack(list(results))
    return tuple(results) if isinstance(like, tuple) else list(results)


def check_values(given: Given, sigma: float | None = None, ignored: np.ndarray | None = None) -> None:
    """Check that a picture of floats is on the scale of [0, 1], where noise may reach beyond it.

    Args:
        given: The picture.
        sigma: Standard deviation of the noise that the picture is said to have, on the 0..255 scale; None if it is not
            known.
        ignored: bool (H, W), the pixels that may hold anything; None if there are none.

    Raises:
        UsageError: A value is not finite, or too many values are far from [0, 1].
    """
    if given.source is not None:
        return
    image = given.image if ignored is None else torch.where(torch.from_numpy(ignored), 0.5, given.image)
    _check_scale(image, sigma)


def _check_scale(image: Tensor, sigma: float | None = None) -> None:
    """Check that values are on the scale of [0, 1]; see `check_values`.

    Noise scatters single values, and moves neither the mean of a square of 8x8 pixels nor most of the values by much. A
    picture in 0..255 or in -1..1 has squares that lie beyond black or white.

    Args:
        image: The values, float (C, H, W), or an array in another order of axes, of which only the values are looked
            at.
        sigma: As in `check_values`.
    """
    if not bool(torch.isfinite(image).all()):
        raise UsageError("the picture contains values that are not finite", "replace nan and inf before")
    s = max(MOST_SIGMA, sigma or 0.0) / 255
    values = image.flatten()
    values = values[:: max(1, values.numel() // SAMPLED)].sort().values
    outer = 1.9 * s  # 3 % of noise on a black picture lie below -1.9 s
    extreme = max(MOST_EXTREME, 3.5 * s)
    blocks = _block_means(image).sort().values
    reach = 0.1 + 3 * s / BLOCK
    low, high = float(values[0]), float(values[-1])
    is_low = (
        _at(values, OUTER_SHARE) < -outer or _at(blocks, BLOCK_SHARE) < -reach or _at(values, EXTREME_SHARE) < -extreme
    )
    top = 1 - OUTER_SHARE, 1 - BLOCK_SHARE, 1 - EXTREME_SHARE
    is_high = _at(values, top[0]) > 1 + outer or _at(blocks, top[1]) > 1 + reach or _at(values, top[2]) > 1 + extreme
    if is_low or is_high:
        raise UsageError(
            f"the values of the picture reach from {low:.4g} to {high:.4g}, but floats must lie in [0, 1], "
            "apart from noise",
            _hint_for_range(low, high),
        )


def _at(ordered: Tensor, share: float) -> float:
    """Return the value below which a share of ordered values lies."""
    return float(ordered[min(int(share * len(ordered)), len(ordered) - 1)])


def _block_means(image: Tensor) -> Tensor:
    """Return the means of whole squares of a picture, (N,); the mean of all of it if it is smaller than a square."""
    if image.ndim != 3 or image.shape[0] not in (1, 3) or min(image.shape[-2:]) < BLOCK:
        return image.mean()[None]
    return F.avg_pool2d(image[None].float(), BLOCK).flatten()


def _hint_for_range(low: float, high: float) -> str:
    """Return what brings values to [0, 1], by their range."""
    if low < -0.5 and high <= 1.5:
        return "from -1..1, add 1 and divide by 2"
    for white in (255, 1023, 4095, 65535):
        if high <= 1.2 * white:
            return f"divide by {white}"
    return "divide by the value of white"
