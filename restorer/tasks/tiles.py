"""The tiles in which a picture is computed that is too large to be computed whole."""

from __future__ import annotations

from restorer.diffusion.prior import Prior
from restorer.priors.tiled import Tiled, tile_starts

__all__ = [
    "MAX_UNTILED_PIXELS",
    "MIN_TILE",
    "OVERLAP",
    "TILE",
    "TILE_SIDES",
    "best_tile_side",
    "default_tiles",
    "with_default_tiles",
]

MAX_UNTILED_PIXELS = 1_300_000
"""Largest number of pixels of a picture that is computed whole."""

TILE = 512
"""Side in pixels of a tile of medium size. A batch of generated pictures takes as much memory as such a tile."""

OVERLAP = 64
"""Least number of pixels that neighbouring tiles share."""

MIN_TILE = 64
"""Smallest side in pixels to which tiles are halved when memory runs out."""

TILE_SIDES = range(448, 769, 16)
"""Sides of tiles to choose from, in pixels. The time per pixel is about the same for all of them."""


def with_default_tiles(prior: Prior, height: int, width: int) -> Tiled:
    """Return the prior with the tiles that suit a picture; unchanged if it is tiled already.

    Args:
        prior: The prior.
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
    """
    if isinstance(prior, Tiled):
        return prior
    side, overlap = default_tiles(height, width, prior.native_size)
    return Tiled(prior, side, overlap=overlap)


def default_tiles(height: int, width: int, native_size: int | None = None) -> tuple[int, int]:
    """Return the side and the overlap of the tiles that suit a picture, in pixels.

    Args:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        native_size: Side of the only tiles that the network accepts; None if it accepts any.
    """
    if native_size is not None:
        return native_size, native_size // 4
    side = max(height, width) if height * width <= MAX_UNTILED_PIXELS else best_tile_side(height, width)
    return side, min(OVERLAP, side // 4)


def best_tile_side(height: int, width: int) -> int:
    """Return the side out of TILE_SIDES whose tiles cover a picture with the least overlap.

    Tiles are squares of one size. If a whole number of them does not fit along an axis, they all move closer together:
    2048x2048 takes 25 tiles of 512 pixels, which process half as many pixels again as the picture has, or 9 tiles of
    736 pixels, which process a sixth more.

    Args:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
    """

    def processed_pixels(side: int) -> int:
        """Return the number of pixels that the network processes."""
        down, across = (len(tile_starts(extent, side, OVERLAP)) * min(side, extent) for extent in (height, width))
        return down * across

    return min(TILE_SIDES, key=processed_pixels)
