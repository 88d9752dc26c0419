"""Scratches as the holes to fill: what `--scratches` marks and `--mask scratches` fills."""

from __future__ import annotations

from torch import Tensor

from restorer.images.masks import FillMask, grow
from restorer.measurement.scratches import Scratches, find_scratches
from restorer.models.load import load_scratch_finder

__all__ = ["MARGIN", "SCRATCHES", "scratch_mask", "scratches_of"]

SCRATCHES = "scratches"
"""The mask that stands for the scratches that are found in the picture itself."""

MARGIN = 1
"""Pixels by which scratches are grown before they are filled, because their flanks are soft."""


def scratches_of(image: Tensor, evidence: Tensor | None = None) -> Scratches:
    """Find the scratches, dust, hairs and creases of a picture.

    Args:
        image: float (C, H, W) in [0, 1] with C = 1 or 3.
        evidence: bool (H, W), the pixels that count; None for all of them.

    Raises:
        ModelError: The installation lacks the weights of the network that finds them.
    """
    return find_scratches(image, load_scratch_finder(), evidence)


def scratch_mask(
    image: Tensor, evidence: Tensor | None = None, *, invert: bool = False, margin: int | None = None
) -> FillMask:
    """Return the scratches of a picture as the holes to fill, with a note on what was found.

    Args:
        image: As in `scratches_of`.
        evidence: As in `scratches_of`.
        invert: Whether everything else is filled instead.
        margin: Pixels by which they are grown; None for MARGIN.

    Raises:
        ModelError: As for `scratches_of`.
    """
    found = scratches_of(image, evidence)
    used = MARGIN if margin is None else margin
    notes = [found.describe()]
    if used and found.places:
        notes.append(f"the mask is grown by {used} pixel{'s' if used > 1 else ''}")
    return FillMask(grow(found.fill, used) != invert, "; ".join(notes))
