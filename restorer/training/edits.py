"""What programs and files do to pictures: blurring, resizing, rounding and JPEG.

Pictures are (3, H, W) on the 0..255 scale.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

__all__ = ["as_stored", "blur", "from_pil", "jpeg", "resize"]

LEAST_SIDE = 96  # pixels


def blur(x: Tensor, sigma: float) -> Tensor:
    """Return planes (C, H, W) blurred by a Gaussian of standard deviation `sigma` pixels; unchanged for 0."""
    if sigma <= 0:
        return x
    reach = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(len(x), 1, 1, -1)
    mode = "reflect" if min(x.shape[-2:]) > reach else "replicate"
    padded = F.pad(x[None], (reach,) * 4, mode=mode)
    return F.conv2d(F.conv2d(padded, taps, groups=len(x)), taps.mT, groups=len(x))[0]


def as_stored(x: Tensor) -> Tensor:
    """Return the values as 8 bits hold them."""
    return x.round().clamp(0, 255)


def _to_pil(x: Tensor) -> Image.Image:
    return Image.fromarray(as_stored(x).byte().permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> Tensor:
    """Return the pixels of an image."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()


def resize(x: Tensor, factor: float) -> Tensor:
    """Return a picture resized by Pillow's bicubic filter, with sides of at least LEAST_SIDE."""
    height, width = (max(LEAST_SIDE, round(side * factor)) for side in x.shape[-2:])
    return from_pil(_to_pil(x).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(x: Tensor, quality: int, *, subsampled: bool) -> Tensor:
    """Return a picture after it was stored as a JPEG file."""
    file = io.BytesIO()
    _to_pil(x).save(file, "JPEG", quality=quality, subsampling=2 if subsampled else 0)
    return from_pil(Image.open(file))
