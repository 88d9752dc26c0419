r"""Whether a small picture was drawn, and how far its enlargement may go: no halos, and plain grounds that stay plain.

Drawings, screenshots and charts have grounds of one colour. In a photograph, pixels that equal all eight around them
are rare where something is to be seen: of the pixels with strong edges, less than a quarter lie within three pixels of
such a plain place, while in drawings most of them do.

Two limits follow from plain places, for every enlargement of them:

1. Where the five by five pixels around a pixel are equal, the result is equal to them, too.
2. Beside a plain place, and where shrinking cannot have made the picture (`credible.py`), the result stays within the
   range of these pixels and of the bicubic enlargement, but for `MARGIN`. A halo leaves this range, and what a line or
   an edge of a drawing becomes does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.measurement.credible import LEVEL, SATURATED, bicubic_enlargement

__all__ = ["AFTER_JPEG", "DRAWN", "Limits", "find_limits", "is_drawn", "share_of_drawn_edges"]

DRAWN = 0.5
"""Share of strong edges beside plain places from which a picture is taken for a drawing. Photographs that were shrunk
have less than .25, and less than .35 at half their size; drawings have .74 and more, dithering at half its size."""

AFTER_JPEG = 4.0
"""Range in levels up to which pixels count as equal in a picture whose compression was undone. With it, 64 of 76 rows
of `tests/bench/drawings.py --files jpeg` are met, and with 2 levels 60. Of 204 small JPEG files of 34 photographs, in
two sizes and three qualities, 6 had half of their edges or more beside such places, by a script that is not kept."""

EDGE = 24 * LEVEL  # range of three by three pixels from which they hold a strong edge
BESIDE = 3  # pixels from a plain place within which an edge counts as drawn
NEAR = 2  # pixels from a plain place within which a result is limited
REACH = 2  # pixels around a pixel whose range limits the result
MARGIN = 2 * LEVEL  # by how much the result may leave this range
GROUND_MARGIN = LEVEL  # the same on a plain ground
BAND, OVERLAP = 64, 3  # rows of the small picture that are limited together, and those above and below that they need
WHOLE = 0.5  # doubt from which a place is limited


@dataclass(frozen=True)
class Limits:
    """The range of an enlargement, kept at the size of the small picture.

    Args:
        y: The small picture, (1, C, h, w) on [-1, 1].
        low: The least values around each pixel, the same shape.
        high: The largest ones.
        is_limited: Where the result stays within them and the bicubic enlargement, bool (1, 1, h, w).
        is_ground: Where it stays within them alone, bool (1, 1, h, w).
    """

    y: Tensor
    low: Tensor
    high: Tensor
    is_limited: Tensor
    is_ground: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return an enlargement (1, C, H, W) within its limits; C may be less than that of the small picture."""
        count, rows = x.shape[1], self.y.shape[-2]
        scale, result = x.shape[-2] // rows, torch.empty_like(x)
        for first in range(0, rows, BAND):  # in bands, which bound the memory
            last, above = min(first + BAND, rows), max(first - OVERLAP, 0)
            large = slice(first * scale, last * scale)
            band = bicubic_enlargement(self.y[:, :count, above : last + OVERLAP], scale)
            smooth = band[..., (first - above) * scale : (last - above) * scale, :]
            low, high, is_limited, is_ground = (
                F.interpolate(z[..., first:last, :].to(self.y), scale_factor=scale)
                for z in (self.low[:, :count], self.high[:, :count], self.is_limited, self.is_ground)
            )
            part = x[..., large, :]
            on_ground = part.clamp(low - GROUND_MARGIN, high + GROUND_MARGIN)
            inside = part.clamp(torch.minimum(low, smooth) - MARGIN, torch.maximum(high, smooth) + MARGIN)
            limited = torch.where(is_limited > 0, inside, part)
            result[..., large, :] = torch.where(is_ground > 0, on_ground, limited)
        return result


def is_drawn(image: Tensor, tolerance: float = 0.0) -> bool:
    """Return whether a picture is a drawing, at its size or at half of it, as it may have been enlarged before.

    Args:
        image: As in `share_of_drawn_edges`.
        tolerance: As in `find_limits`.
    """
    if share_of_drawn_edges(image, tolerance) >= DRAWN:
        return True
    return min(image.shape[-2:]) >= 2 and share_of_drawn_edges(F.avg_pool2d(image, 2), tolerance) >= DRAWN


def share_of_drawn_edges(image: Tensor, tolerance: float = 0.0) -> float:
    """Return the share of the strong edges of a picture that lie beside a plain place; 0 if it has no strong edges.

    Args:
        image: float (C, H, W) in [0, 1].
        tolerance: As in `find_limits`.
    """
    y = 2 * image[None] - 1
    low, high = _range(y, 1)
    spread = (high - low).amax(1, keepdim=True)
    is_edge = spread > EDGE
    count = int(is_edge.sum())
    return int((is_edge & _widened(spread <= tolerance * LEVEL + 1e-6, BESIDE)).sum()) / count if count else 0.0


def find_limits(
    y: Tensor, *, tolerance: float = 0.0, everywhere: bool = False, doubt: Tensor | None = None
) -> Limits | None:
    """Find how far an enlargement may go beside plain places and on them.

    Args:
        y: The small picture, (1, C, h, w) on [-1, 1].
        tolerance: Range in levels up to which pixels count as equal: 0 for a picture without noise.
        everywhere: Whether all of the picture is limited, as a drawing is.
        doubt: How far each pixel is doubted, (1, 1, h, w), 0..1, as in `Credible`; None if none is.

    Returns:
        None if the picture has no plain places and none that is doubted.
    """
    most = tolerance * LEVEL + 1e-6
    (low3, high3), (low, high) = _range(y, 1), _range(y, REACH)
    # Photographs have white and black places of one colour where they are over- or underexposed.
    is_between = (y.amax(1, keepdim=True) < 1 - SATURATED) & (y.amin(1, keepdim=True) > SATURATED - 1)
    is_plain = ((high3 - low3).amax(1, keepdim=True) <= most) & is_between
    is_ground = (high - low).amax(1, keepdim=True) <= most
    is_limited = torch.ones_like(is_plain) if everywhere else _widened(is_plain, NEAR)
    if doubt is not None:
        is_limited |= doubt > WHOLE
    if not bool(is_limited.any() | is_ground.any()):
        return None
    return Limits(y, low, high, is_limited, is_ground)


def _range(y: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Return the least and the largest value of the pixels around each pixel of images (B, C, h, w)."""
    padded, side = F.pad(y, (reach,) * 4, mode="replicate"), 2 * reach + 1
    return -F.max_pool2d(-padded, side, 1), F.max_pool2d(padded, side, 1)


def _widened(found: Tensor, reach: int) -> Tensor:
    """Return where something is found within a number of pixels, bool (B, 1, h, w)."""
    return F.max_pool2d(found.float(), 2 * reach + 1, 1, reach) > 0
