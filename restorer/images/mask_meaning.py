"""What the author of a mask meant to have filled.

People make masks in many ways, and each way has its own sign for a hole:

    two values                  the brighter one; of a gray and a coloured value, the coloured one
    strokes on transparency     whatever is painted, in any colour
    a copy of the picture       what was erased from it, or painted over
    soft, antialiased, JPEG     whatever differs from the background

A hole is whatever was touched at all, so a pixel that is covered by half is filled. What fits none of these is refused
instead of guessed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from restorer.errors import UsageError
from restorer.images.picture import Picture, to_unit_range

__all__ = ["Meaning", "interpret"]

TRACE = 0.01  # share of the contrast, or of opacity, that is not seen
LOSSY_TRACE = 0.25  # the same in a file that was compressed with loss
LEAST_CONTRAST = 0.12  # of a mask that was compressed with loss
NEAR = 0.12  # distance of colours that are alike; black and white are sqrt(3) apart
FLAT = 0.04  # largest distance of colours within a flat area
APART = 0.3  # distance of colours that are not
LEAST_BACKGROUND = 0.05  # share of the mask
LEAST_BLACK = 0.05  # share of the mask that makes black one of its two colours
LEAST_TOLD = 0.6  # share of the mask that is either flat background or flat hole
LABELS = 32  # largest number of values of a mask whose values are the numbers of objects
SATURATED = 0.25  # largest less smallest channel of a colour that is not gray
BINS_OF_PICTURE = 12  # colours of 12 bits that four fifths of a photograph exceed, and a drawn mask does not
SAME = 0.03  # difference of a channel that is none
SAME_AS_LOSSY = 0.12  # the same where one of the files was compressed with loss
LEAST_SAME = 0.4  # share of equal pixels that makes a mask a copy of the picture
REFUSED = "paint the holes white on black, or erase them from a copy of the picture"


class Meaning(NamedTuple):
    """What a mask says.

    Attributes:
        fill: bool (H, W), True where the picture is to be filled.
        is_exact: Whether the edges of the holes are known to the pixel.
        note: How the mask was understood, or '' if it is black and white.
    """

    fill: np.ndarray
    is_exact: bool
    note: str


def interpret(mask: Picture, picture: Picture | None = None, *, invert: bool = False) -> Meaning:
    """Return what a mask says.

    Args:
        mask: The mask.
        picture: The picture to be filled, which tells a copy of itself from a drawing; None if it is not known.
        invert: Whether the other part is filled.

    Raises:
        UsageError: Nobody can tell which part of the mask is to be filled.
    """
    if mask.alpha is not None and mask.alpha.min() < mask.alpha.max():
        return _from_transparency(mask, picture, invert)
    if (mask.pixels == mask.pixels[:1, :1]).all():
        colour = np.broadcast_to(to_unit_range(mask.pixels[:1, :1], *mask.levels).reshape(-1), 3)
        return _from_single_colour(colour, mask.pixels.shape[:2], invert)
    colours = _colours(mask)
    copied = "the mask is a copy of the picture: what was painted over is filled"
    if picture is not None:
        changes = _changes(mask, picture)
        if changes is not None:
            return Meaning(changes != invert, False, copied)
    return _from_colours(colours, mask.lossy, invert)


def _from_transparency(mask: Picture, picture: Picture | None, invert: bool) -> Meaning:
    """Return what a mask says whose transparency varies."""
    assert mask.alpha is not None
    alpha = to_unit_range(mask.alpha, 0, mask.opaque)
    alpha = alpha / alpha.max()
    painted, erased = alpha > TRACE, alpha < 1 - TRACE
    is_exact = len(np.unique(mask.alpha)) == 2
    colours, is_visible = _colours(mask), alpha > 0.5
    visible = colours[is_visible]
    if _shows_picture(visible, is_visible, mask, picture):
        fill = painted if invert else erased
        return Meaning(fill, is_exact, "the mask is a copy of the picture: what was erased is filled")
    dark = float((visible.max(-1) < NEAR).mean())
    if 0.01 < dark < 0.99:  # black and white, beside what is transparent
        return _from_colours(colours * alpha[..., None], mask.lossy, invert)
    if dark >= 0.99 and is_visible.mean() > 0.5:
        return Meaning(painted if invert else erased, is_exact, "the mask is black: its transparent part is filled")
    return Meaning(erased if invert else painted, is_exact, "what is painted on the transparent mask is filled")


def _from_colours(colours: np.ndarray, is_lossy: bool, invert: bool) -> Meaning:
    """Return what an opaque mask says.

    Args:
        colours: As `_colours` returns them.
        is_lossy: Whether the mask was compressed with loss.
        invert: As in `interpret`.
    """
    # A mask has few colours, so everything is decided about each of them, and not about each pixel.
    numbers, index, counts = np.unique(_packed(colours.reshape(-1, 3)), return_inverse=True, return_counts=True)
    index, shares = index.reshape(colours.shape[:2]), counts / counts.sum()
    values = np.stack([(numbers >> shift) & 0xFFFF for shift in (32, 16, 0)], axis=-1) / 65535
    if is_lossy and float(np.ptp(values, axis=0).max()) < LEAST_CONTRAST:
        return _from_single_colour(shares @ values, index.shape, invert)
    pair, pair_shares = (values, shares) if len(values) == 2 else _main_colours(values, shares)
    hole, background = (pair[i] for i in _order(pair, pair_shares)[:: -1 if invert else 1])
    contrast = float(np.linalg.norm(hole - background))
    distance = np.linalg.norm(values - background, axis=-1)
    is_background, is_hole = distance < FLAT, np.linalg.norm(values - hole, axis=-1) < FLAT
    is_told = len(values) <= LABELS or shares[is_background | is_hole].sum() >= LEAST_TOLD
    if len(values) > 2 and not (is_told and shares[is_background].sum() >= LEAST_BACKGROUND):
        raise UsageError("the mask looks like a picture, and nothing in it tells where the holes are", REFUSED)
    if len(values) <= LABELS and not is_lossy:
        background = values[np.where(is_background, shares, 0).argmax()]
        is_filled = np.linalg.norm(values - background, axis=-1) > 0
    else:
        is_filled = distance > contrast * (LOSSY_TRACE if is_lossy else TRACE)
    names = [_name(colour) for colour in (hole, background)]
    usual = ["black", "white"] if invert else ["white", "black"]
    note = "" if names == usual else f"the mask is {names[1]} with {names[0]}: what is not {names[1]} is filled"
    return Meaning(is_filled[index], len(values) == 2, note)


def _from_single_colour(colour: np.ndarray, size: tuple[int, ...], invert: bool) -> Meaning:
    """Return what a mask of one colour says."""
    if NEAR < colour.max() and colour.min() < 1 - NEAR:
        raise UsageError("the mask has a single colour, so nothing in it tells where the holes are", REFUSED)
    return Meaning(np.full(size, (colour.max() > NEAR) != invert), True, "")


def _main_colours(values: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two main colours of a mask, black being one of them if there is any, and their shares.

    Args:
        values: Its colours, (N, 3).
        shares: The shares of its pixels that have them, (N,).
    """
    bins = _binned(values)
    totals = np.bincount(bins, shares, minlength=4096)
    first = 0 if totals[0] >= LEAST_BLACK else int(totals.argmax())
    pair = [values[np.where(bins == first, shares, 0).argmax()]]
    is_far = np.linalg.norm(values - pair[0], axis=-1) > APART
    totals = np.bincount(bins[is_far], shares[is_far], minlength=4096)
    is_second = (bins == totals.argmax()) & is_far if is_far.any() else np.arange(len(values)) != shares.argmax()
    pair.append(values[np.where(is_second, shares, 0).argmax()])
    return np.stack(pair), np.array([shares[np.linalg.norm(values - c, axis=-1) < FLAT].sum() for c in pair])


def _order(pair: np.ndarray, shares: np.ndarray) -> tuple[int, int]:
    """Return which of two colours is the hole, and which the background."""
    saturated = [float(np.ptp(colour)) > SATURATED for colour in pair]
    rarer = int(np.argmin(shares))
    if all(saturated):
        hole = rarer
    elif any(saturated):
        gray = saturated.index(False)
        # White may be the paper that was drawn on, or the colour that means a hole.
        hole = rarer if pair[gray].min() > 1 - NEAR else 1 - gray
    else:
        hole = int(np.argmax([colour.sum() for colour in pair]))
    return hole, 1 - hole


def _shows_picture(visible: np.ndarray, is_visible: np.ndarray, mask: Picture, picture: Picture | None) -> bool:
    """Return whether the visible part of a mask, of those colours, is the picture itself, or a photograph at least."""
    if len(visible) == 0 or float(visible.std(0).max()) < TRACE:
        return False
    if picture is not None:
        shown, true = _units(mask), _units(picture, (mask.height, mask.width))
        if (np.abs(shown - true).max(-1)[is_visible] < SAME_AS_LOSSY).mean() > 1 - LEAST_SAME:
            return True
    return _has_colours_of_picture(visible)


def _changes(mask: Picture, picture: Picture) -> np.ndarray | None:
    """Return where the colours of a mask differ from the picture, bool (H, W); None if it is not a copy of it."""
    if (mask.height, mask.width) != (picture.height, picture.width):
        return None
    shown, true = _units(mask), _units(picture)
    is_changed = np.abs(shown - true).max(-1) > (SAME_AS_LOSSY if mask.lossy else SAME)
    if is_changed.mean() >= 1 - LEAST_SAME:
        return None
    if _has_colours_of_picture((shown / (float(true.max()) or 1)).clip(0, 1).reshape(-1, 3)):
        return is_changed
    # A gray photograph has few colours by that measure, but a drawing never shares so many values with the picture.
    shared = np.unique(_packed(shown[~is_changed]))
    return is_changed if len(shared) > LABELS and not mask.lossy else None


def _colours(mask: Picture) -> np.ndarray:
    """Return the colours of a mask, float32 (H, W, 3), black at 0, and white or the largest number at 1.

    Programs store masks whose holes are 1, or 255 in 16 bits, so the numbers of a file say nothing about white.
    """
    units = _units(mask)
    largest = float(units.max())
    return units if mask.lossy or largest in (0.0, 1.0) else units / largest


def _units(picture: Picture, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the colours of a picture as its file has them, float32 (H, W, 3), black at 0 and white at 1.

    A copy is compared with its picture by these, because what was painted on it, or erased, may be its brightest part.

    Args:
        picture: The picture.
        size: Height and width to resize it to; None for its own.
    """
    units = to_unit_range(picture.pixels, *picture.levels)
    units = np.repeat(units[..., None], 3, axis=-1) if units.ndim == 2 else units
    if size is not None and size != units.shape[:2]:
        image = Image.fromarray(np.rint(units * 255).astype(np.uint8)).resize((size[1], size[0]))
        return np.asarray(image, np.float32) / 255
    return units


def _has_colours_of_picture(colours: np.ndarray) -> bool:
    """Return whether colours, (N, 3), are as many as those of a photograph."""
    counts = np.sort(np.bincount(_binned(colours), minlength=4096))[::-1]
    return bool(counts[:BINS_OF_PICTURE].sum() < 0.8 * len(colours))


def _binned(flat: np.ndarray) -> np.ndarray:
    """Return the numbers of colours, (N, 3), at four bits a channel."""
    steps = np.rint(flat * 15).astype(np.int32)
    return (steps[:, 0] * 16 + steps[:, 1]) * 16 + steps[:, 2]


def _packed(flat: np.ndarray) -> np.ndarray:
    """Return the numbers of colours, (N, 3), at 16 bits a channel."""
    steps = np.rint(flat * 65535).astype(np.int64)
    return (steps[:, 0] << 32) | (steps[:, 1] << 16) | steps[:, 2]


def _name(colour: np.ndarray) -> str:
    """Return the name of a colour."""
    if colour.max() < NEAR:
        return "black"
    if colour.min() > 1 - NEAR:
        return "white"
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in colour)
