"""Pictures in files, in one place: reading, tensors, masks. Writing is in `writing.py`."""

from __future__ import annotations

from restorer.images.masks import Mask, load_mask
from restorer.images.metadata import fitting_profile
from restorer.images.picture import Picture, reduced, to_pil, to_tensor, with_record, with_result
from restorer.images.push_pull import push_pull
from restorer.images.reading import MAX_PIXELS, from_pil, load

__all__ = [
    "MAX_PIXELS",
    "Mask",
    "Picture",
    "fitting_profile",
    "from_pil",
    "load",
    "load_mask",
    "push_pull",
    "reduced",
    "to_pil",
    "to_tensor",
    "with_record",
    "with_result",
]
