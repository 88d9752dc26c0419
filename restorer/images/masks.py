"""Masks of the holes to fill, read from files or taken from a picture's own transparency."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from restorer.errors import UsageError
from restorer.images.mask_meaning import interpret
from restorer.images.picture import Picture
from restorer.images.reading import MAX_PIXELS, display_name, load

__all__ = ["MARGIN", "FillMask", "alpha_mask", "fit_mask", "grow", "load_mask"]

MARGIN = 1
"""Pixels by which a mask with soft edges is grown in a picture that was compressed with loss.

There the colour of a stamp or a scratch leaks out of it. In other pictures, all that a soft edge touches is enough. On
one antialiased stamp, a margin of one pixel costs 1.2 dB in the hole, and gains at least 2.4 dB in a JPEG.
"""


class FillMask(NamedTuple):
    """The holes of a picture.

    Attributes:
        fill: bool (H, W), True where the picture is to be filled.
        note: How the mask was understood and what was done to it, or ''.
    """

    fill: np.ndarray
    note: str


def load_mask(
    source: Path | BinaryIO,
    size: tuple[int, int],
    invert: bool = False,
    max_pixels: int = MAX_PIXELS,
    *,
    margin: int | None = None,
    picture: Picture | None = None,
) -> FillMask:
    """Read a mask for a picture.

    Args:
        source: The file of the mask.
        size: Height and width of the picture.
        invert: Whether the other part is filled.
        max_pixels: The largest number of pixels that is decoded.
        margin: As in `fit_mask`.
        picture: The picture, which tells a copy of itself from a drawing.

    Raises:
        PictureError: As for `load`.
        UsageError: The aspect ratios of the mask and the picture differ, or nothing in the mask tells where the holes
            are.
    """
    try:
        return fit_mask(load(source, max_pixels), size, invert=invert, margin=margin, picture=picture)
    except UsageError as error:
        raise UsageError(f"{display_name(source)}: {error}", error.hint) from error


def fit_mask(
    mask: Picture,
    size: tuple[int, int],
    *,
    invert: bool = False,
    margin: int | None = None,
    picture: Picture | None = None,
) -> FillMask:
    """Interpret a mask, and make it fit a picture.

    A mask of another size but the same aspect ratio, up to rounding, is resized (nearest neighbour), and the note says
    so.

    Args:
        mask: The mask.
        size: As in `load_mask`.
        invert: As in `load_mask`.
        margin: Pixels by which the holes are grown; None for MARGIN if their edges are soft and the picture was
            compressed with loss, and 0 otherwise.
        picture: As in `load_mask`.

    Raises:
        UsageError: As for `load_mask`.
    """
    old, new = f"{mask.width}x{mask.height}", f"{size[1]}x{size[0]}"
    own = (mask.height, mask.width)
    if not (_has_same_shape(own, size) or _has_same_shape(size, own)):
        raise UsageError(f"the mask is {old}, but the picture is {new}", "use a mask of the picture's size")
    fill, is_exact, note = interpret(mask, picture, invert=invert)
    notes = [note] if note else []
    if own != size:
        fill = np.array(Image.fromarray(fill).resize(size[::-1], Image.Resampling.NEAREST), dtype=bool)
        notes.append(f"mask resized from {old} to {new}")
    return _grown(fill, is_exact, margin, notes, picture)


def alpha_mask(picture: Picture, *, invert: bool = False, margin: int | None = None) -> FillMask:
    """Return the transparent part of a picture as the holes to fill.

    Args:
        picture: The picture.
        invert: Whether the opaque part is filled.
        margin: As in `fit_mask`.
    """
    if picture.alpha is None:
        return FillMask(np.full((picture.height, picture.width), invert), "the picture has no transparency")
    fill = (picture.alpha < picture.opaque) != invert
    return _grown(fill, bool(np.isin(picture.alpha, (0, picture.opaque)).all()), margin, [], picture)


def _grown(fill: np.ndarray, is_exact: bool, margin: int | None, notes: list[str], picture: Picture | None) -> FillMask:
    """Return holes grown by a margin, with what is said about them."""
    is_leaking = not is_exact and picture is not None and picture.lossy
    used = margin if margin is not None else MARGIN if is_leaking else 0
    if not is_exact and fill.any():
        notes = [*notes, "the mask has soft edges: all that it touches is filled"]
    if used and fill.any():
        reason = ", because colours leak in a compressed picture" if margin is None else ""
        notes = [*notes, f"the mask is grown by {used} pixel{'s' if used > 1 else ''}{reason}"]
    return FillMask(grow(fill, used), "; ".join(notes))


def grow(fill: np.ndarray, radius: int) -> np.ndarray:
    """Return holes together with all pixels at most `radius` pixels away from them.

    Args:
        fill: bool (H, W).
        radius: A distance in pixels, from 0.
    """
    if radius == 0 or not fill.any():
        return fill
    height, width = fill.shape
    padded = np.pad(fill, ((radius, radius), (radius + 1, radius)))
    sums = padded.cumsum(axis=1, dtype=np.int32)
    grown = np.zeros_like(fill)
    for dy in range(-radius, radius + 1):
        reach = int((radius**2 - dy**2) ** 0.5)
        rows = sums[radius + dy : radius + dy + height]
        left, right = radius - reach, radius + reach + 1
        grown |= rows[:, right : right + width] > rows[:, left : left + width]
    return grown


def _has_same_shape(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Return whether some factor gives a = round(factor · b) in both directions."""
    low = max((a[0] - 0.5) / b[0], (a[1] - 0.5) / b[1])
    return low <= min((a[0] + 0.5) / b[0], (a[1] + 0.5) / b[1])
