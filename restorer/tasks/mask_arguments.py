"""What may be passed to the Python functions as a mask, and the holes that it stands for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.errors import UsageError
from restorer.images.conversion import Given, is_batch
from restorer.images.files import alpha_mask, fit_mask, from_pil, load_mask
from restorer.images.masks import grow as grow_mask
from restorer.limits import OWN_SCRATCHES, OWN_TRANSPARENCY
from restorer.tasks.scratches import scratch_mask

__all__ = ["holes_of", "is_own_transparency", "masks_of"]


def masks_of(picture: Any, mask: Any) -> Sequence[Any] | None:
    """Return the masks of the pictures of a batch; None if one mask serves all.

    Raises:
        UsageError: There is another number of masks than of pictures.
    """
    is_stack = isinstance(mask, (np.ndarray, Tensor)) and mask.ndim >= 3 and mask.shape[0] > 1
    if not is_batch(picture) or not (is_stack or isinstance(mask, (list, tuple))):
        return None
    if len(mask) != len(picture):
        raise UsageError(f"there are {len(mask)} masks, but {len(picture)} pictures", "use one mask, or one for each")
    return list(mask)


def is_own_transparency(mask: Any) -> bool:
    """Return whether a mask is "alpha". A file or a folder of that name is the mask instead."""
    return isinstance(mask, str) and mask == OWN_TRANSPARENCY and not Path(mask).exists()


def holes_of(given: Given, mask: Any, margin: int | None, prior: Prior | None) -> np.ndarray:
    """Return the pixels to fill, bool (H, W); `inpaint` says what a mask may be."""
    if is_own_transparency(mask):
        return np.zeros(given.size, bool) if given.source is None else alpha_mask(given.source, margin=margin).fill
    if isinstance(mask, Image.Image):
        return fit_mask(from_pil(mask), given.size, margin=margin, picture=given.source).fill
    if isinstance(mask, str) and mask == OWN_SCRATCHES and not Path(mask).exists():
        return scratch_mask(given.image, given.visible, margin=margin, prior=prior).fill
    if isinstance(mask, (str, os.PathLike)):
        return load_mask(Path(os.fsdecode(mask)), given.size, margin=margin, picture=given.source).fill
    try:
        values = np.asarray(mask.detach().cpu().float() if isinstance(mask, Tensor) else mask)
        fill = np.asarray(values != 0, dtype=bool)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UsageError("the mask cannot be understood: it must be an image, a path, an array or a tensor") from error
    if values.dtype.kind not in "biuf":
        raise UsageError(f"the mask must be an image, a path, an array or a tensor, not {type(mask).__name__}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UsageError("the mask contains nan", "mark what is to be filled by 1, and the rest by 0")
    if fill.ndim > 2 and fill.size == given.size[0] * given.size[1] and fill.size:
        fill = fill.reshape(given.size)  # an axis of length 1 for the channel
    if fill.shape != given.size:
        raise UsageError(f"the mask is {fill.shape}, but the picture is {given.size}", "use a mask (H, W)")
    return grow_mask(fill, margin) if margin else fill
