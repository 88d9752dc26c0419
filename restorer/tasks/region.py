"""A part of a picture that is restored alone, as it would be within the whole.

The network sees the part with its surroundings, the noise field is that of the whole picture, and what a task measures
is measured on the whole picture. What is left of the difference is what lies farther away than MARGIN, which hardly
reaches the part, and the tiles of a large picture, which lie elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from restorer.diffusion.reverse import Canvas
from restorer.images.sizes import Region

__all__ = ["ALIGNMENT", "MARGIN", "Place"]

MARGIN = 96
"""Pixels around a region that the network sees."""

ALIGNMENT = 32
"""Windows begin and end at multiples of this number of pixels from the borders of the picture.

The grids of networks that halve their features, of mirrored evaluations, and of the blocks of JPEG files stay in place.
"""


@dataclass(frozen=True)
class Place:
    """Where a part of a picture lies.

    Args:
        height: Height of the whole picture in pixels.
        width: Its width.
        region: The part that is restored.
        window: The part that is computed for that, which contains the region.
    """

    height: int
    width: int
    region: Region
    window: Region

    @classmethod
    def of(cls, image: Tensor, region: Region | None, margin: int = MARGIN) -> Place:
        """Return the place of a region of a picture; the whole picture if there is no region.

        Args:
            image: The picture, (..., H, W).
            region: The region; None for the whole picture.
            margin: Least number of pixels around the region that are computed, as far as there are any.

        Raises:
            UsageError: Part of the region lies outside the picture.
        """
        height, width = image.shape[-2:]
        if region is None:
            everything = Region(0, 0, width, height)
            return cls(height, width, everything, everything)
        region.check_inside(width, height)
        left, right = _reach(region.left, region.right, width, margin)
        top, bottom = _reach(region.top, region.bottom, height, margin)
        return cls(height, width, region, Region(left, top, right - left, bottom - top))

    @property
    def canvas(self) -> Canvas | None:
        """The place of the window's noise in the noise of the whole picture; None for the whole picture."""
        if (self.window.width, self.window.height) == (self.width, self.height):
            return None
        return Canvas(self.height, self.width, self.window.top, self.window.left)

    def seen(self, x: Tensor) -> Tensor:
        """Return the window of a whole picture (..., H, W)."""
        return x[..., self.window.rows, self.window.columns]

    def exact(self, x: Tensor) -> Tensor:
        """Return the region of a whole picture (..., H, W)."""
        return x[..., self.region.rows, self.region.columns]

    def inner(self, x: Tensor) -> Tensor:
        """Return the region of a window (..., h, w)."""
        inside = self.region.within(self.window)
        return x[..., inside.rows, inside.columns]

    def scaled(self, factor: int) -> Place:
        """Return the same place of a picture that is larger by a whole factor."""
        return Place(factor * self.height, factor * self.width, self.region.scaled(factor), self.window.scaled(factor))


def _reach(low: int, high: int, length: int, margin: int) -> tuple[int, int]:
    """Return where a window around a part of an axis begins and ends."""
    begin = max(0, low - margin) // ALIGNMENT * ALIGNMENT
    end = length - max(0, length - high - margin) // ALIGNMENT * ALIGNMENT
    return begin, end
