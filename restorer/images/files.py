"""The names for reading image files, converting tensors and loading masks in one module.

Writing is in `writing.py`.
"""

from __future__ import annotations

from restorer.images.masks import FillMask, alpha_mask, fit_mask, load_mask
from restorer.images.metadata import match_profile
from restorer.images.picture import (
    Picture,
    alpha_tensor,
    cut,
    reduce_depth,
    to_pil,
    to_tensor,
    visible_pixels,
    with_record,
    with_result,
)
from restorer.images.push_pull import push_pull
from restorer.images.reading import MAX_PIXELS, from_pil, load

__all__ = [
    "MAX_PIXELS",
    "FillMask",
    "Picture",
    "alpha_mask",
    "alpha_tensor",
    "cut",
    "fit_mask",
    "from_pil",
    "load",
    "load_mask",
    "match_profile",
    "push_pull",
    "reduce_depth",
    "to_pil",
    "to_tensor",
    "visible_pixels",
    "with_record",
    "with_result",
]
