"""Finders of holes: each looks at a picture and returns the pixels to fill.

A finder is a function of the picture alone. The holes of several finders are put together, and may be grown afterwards
(`masks.grow`). NumPy and Pillow are imported when they are needed, so that the command line is checked without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from restorer.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from restorer.images.picture import Picture

__all__ = ["TOLERANCE", "Box", "Finder", "find_box", "find_colour", "find_holes", "parse_box", "parse_colour"]

Finder = Callable[["Picture"], "np.ndarray"]
"""A function that returns the holes of a picture, bool (H, W), True where it is to be filled."""

TOLERANCE = 12.0
"""Levels by which a channel may differ from a colour: what compression and antialiasing do to one."""

ROUNDING = 1e-3  # levels, within which two numbers of any depth are equal


class Box(NamedTuple):
    """A rectangle of pixels, with its left upper corner at (x, y)."""

    x: int
    y: int
    width: int
    height: int


def parse_box(text: str) -> Box:
    """Parse a rectangle.

    Args:
        text: "X,Y,W,H", in pixels from the left upper corner of the picture.

    Raises:
        UsageError: The text has another form, or the rectangle has no pixels.
    """
    parts = [part.strip() for part in text.split(",")]
    hint = "write --box X,Y,W,H in pixels, for instance --box 120,40,64,32"
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"a box has four whole numbers from 0, not {text!r}", hint)
    box = Box(*map(int, parts))
    if not box.width or not box.height:
        raise UsageError(f"the box {text} has no pixels", hint)
    return box


def parse_colour(text: str) -> tuple[int, int, int]:
    """Parse a colour.

    Args:
        text: "#ff00ff", "#f0f", "rgb(255, 0, 255)" or a name of CSS such as "magenta".

    Returns:
        Red, green and blue, 0 to 255.

    Raises:
        UsageError: The text is no colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(text.strip())
    except ValueError:
        hint = "write it like --color '#ff00ff', with quotes, or by a name such as magenta"
        raise UsageError(f"{text!r} is no colour", hint) from None
    return red, green, blue


def find_box(box: Box) -> Finder:
    """Return the finder of a rectangle. The part of it that lies outside a picture is ignored.

    The finder raises a `UsageError` if all of it lies outside.
    """

    def find(picture: Picture) -> np.ndarray:
        import numpy as np

        fill = np.zeros((picture.height, picture.width), dtype=bool)
        fill[box.y : box.y + box.height, box.x : box.x + box.width] = True
        if not fill.any():
            size = f"{picture.width}x{picture.height}"
            hint = "a box is X,Y,W,H in pixels, from the left upper corner of the upright picture"
            raise UsageError(f"the box {','.join(map(str, box))} lies outside the picture of {size} pixels", hint)
        return fill

    return find


def find_colour(colour: tuple[int, int, int], tolerance: float = TOLERANCE) -> Finder:
    """Return the finder of all pixels of a colour. It ignores the colour that lies under full transparency.

    Args:
        colour: Red, green and blue, 0 to 255.
        tolerance: The largest difference of a channel, in levels of the 0..255 scale.
    """

    def find(picture: Picture) -> np.ndarray:
        import numpy as np

        from restorer.images.picture import to_unit_range

        fill = np.ones((picture.height, picture.width), dtype=bool) if picture.alpha is None else picture.alpha > 0
        channels = [picture.pixels] * 3 if picture.channels == 1 else [picture.pixels[..., i] for i in range(3)]
        for values, level in zip(channels, colour, strict=True):  # one after the other, to save memory
            fill &= np.abs(255 * to_unit_range(values, *picture.levels) - level) <= tolerance + ROUNDING
        return fill

    return find


def find_holes(picture: Picture, finders: Sequence[Finder]) -> np.ndarray:
    """Return what any of the finders marks, bool (H, W).

    Raises:
        UsageError: A finder does not suit the picture.
    """
    import numpy as np

    fill = np.zeros((picture.height, picture.width), dtype=bool)
    for find in finders:
        fill |= find(picture)
    return fill
