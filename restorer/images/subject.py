"""The place of the subject in a picture that is turned or cut.

The tags SubjectArea and SubjectLocation of EXIF give a point, a circle (point and diameter) or a rectangle (the point
in its middle, width and height), in pixels of the stored picture, before its orientation is applied (Exif 3.0).
"""

from __future__ import annotations

from restorer.images.sizes import Region

__all__ = ["cut_subject", "turn_subject"]

TURNED = 5  # orientations from this one on exchange the axes


def turn_subject(values: tuple[int, ...], orientation: int, width: int, height: int) -> tuple[int, ...]:
    """Return the place in the upright picture.

    Args:
        values: The place: 2, 3 or 4 numbers.
        orientation: The orientation of the stored picture, 1 to 8.
        width: Width of the stored picture in pixels.
        height: Its height.
    """
    x, y, *size = values
    across, down = width - 1 - x, height - 1 - y
    places = {
        2: (across, y),
        3: (across, down),
        4: (x, down),
        5: (y, x),
        6: (down, x),
        7: (down, across),
        8: (y, across),
    }
    turned = size[::-1] if orientation >= TURNED and len(size) == 2 else size
    return *places.get(orientation, (x, y)), *turned


def cut_subject(values: tuple[int, ...], region: Region) -> tuple[int, ...] | None:
    """Return the place in a part of the picture; None if the subject lies outside it.

    Args:
        values: The place: 2, 3 or 4 numbers.
        region: The part.
    """
    x, y, *size = values
    if len(size) == 2:
        left, right = max(x - size[0] // 2, region.left), min(x - size[0] // 2 + size[0], region.right)
        top, bottom = max(y - size[1] // 2, region.top), min(y - size[1] // 2 + size[1], region.bottom)
        if left >= right or top >= bottom:
            return None
        middle = left + (right - left) // 2 - region.left, top + (bottom - top) // 2 - region.top
        return *middle, right - left, bottom - top
    if not (region.left <= x < region.right and region.top <= y < region.bottom):
        return None
    return x - region.left, y - region.top, *size
