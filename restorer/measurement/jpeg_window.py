"""What is known of a part of a JPEG picture: the coefficients of the blocks that the part touches."""

from __future__ import annotations

import math
from dataclasses import replace

from restorer.diffusion.degradations.quantization import BLOCK, turn_of
from restorer.images.sizes import Region
from restorer.measurement.jpeg import Component, Jpeg

__all__ = ["cut_jpeg"]


def cut_jpeg(jpeg: Jpeg, window: Region) -> Jpeg:
    """Return what is known of a part of a picture, as if it had been cut out of the picture.

    Blocks that the part holds only in part are unknown, except at the borders of the file.

    Args:
        jpeg: What is known of the whole picture.
        window: The part of the upright picture.
    """
    rows, columns = _as_stored(jpeg, window)
    if rows == (0, jpeg.height) and columns == (0, jpeg.width):
        return jpeg
    known = jpeg.own_edges if jpeg.is_cropped else (True, True, True, True)
    at_edges = rows[0] == 0, columns[0] == 0, rows[1] == jpeg.height, columns[1] == jpeg.width
    top, left, bottom, right = (a and b for a, b in zip(known, at_edges, strict=True))
    first, offset = [], []
    for axis, (begin, _) in enumerate((rows, columns)):
        unit = BLOCK * max(component.shrink[axis] for component in jpeg.components)
        skipped, left_over = divmod(begin + jpeg.offset[axis], unit)
        first.append(skipped * unit)
        offset.append(left_over)
    size = rows[1] - rows[0], columns[1] - columns[0]
    return replace(
        jpeg,
        height=size[0],
        width=size[1],
        components=tuple(_cut_component(c, first, offset, size) for c in jpeg.components),
        offset=(offset[0], offset[1]),
        is_cropped=True,
        own_edges=(top, left, bottom, right),
    )


def _as_stored(jpeg: Jpeg, window: Region) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first row and the one after the last, and the same of the columns, of the stored picture."""
    is_transposed, is_flipped_down, is_flipped_across = turn_of(jpeg.orientation)
    rows, columns = (window.top, window.bottom), (window.left, window.right)
    rows, columns = (columns, rows) if is_transposed else (rows, columns)
    rows = (jpeg.height - rows[1], jpeg.height - rows[0]) if is_flipped_down else rows
    columns = (jpeg.width - columns[1], jpeg.width - columns[0]) if is_flipped_across else columns
    return rows, columns


def _cut_component(component: Component, first: list[int], offset: list[int], size: tuple[int, int]) -> Component:
    """Return the blocks of a plane that a part touches.

    Args:
        component: The plane.
        first: The pixel at which the first whole unit of all planes begins, down and across.
        offset: How many rows and columns of it are missing in the part.
        size: Height and width of the part.
    """
    slices = []
    for begin, missing, side, factor in zip(first, offset, size, component.shrink, strict=True):
        at = begin // (BLOCK * factor)
        slices.append(slice(at, at + math.ceil(math.ceil((missing + side) / factor) / BLOCK)))
    return replace(component, indices=component.indices[slices[0], slices[1]])
