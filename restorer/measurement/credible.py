r"""Which parts of a small picture bicubic shrinking can have made.

Enlarging holds on to y = A x, where A shrinks by a bicubic filter. Screenshots, drawings, pixel art and sharpened
thumbnails were not made in this way, nor was a picture whose contrast was raised after it had been shrunk. If such data
are forced, every line gets echoes: a large picture that shrinks to a sharper y than shrinking can produce has to ring.
Two things betray them, and neither occurs in a photograph that was shrunk and left as it is:

1. No picture within black and white shrinks to y. The residual of the nearest one (`Bicubic.finish`) is more than a
   level there, while it is half a level at most, the rounding, in a photograph.
2. The picture nearest to the usual bicubic enlargement that shrinks to y rings in an area in which y does not vary at
   all. After shrinking it hardly does, because the edge beside such an area overshoots in y.

The data of these parts are replaced by what the shrinking of the usual bicubic enlargement gives. That enlargement
rings little, and shrinks to a softer picture. If more than a small share cannot have been made by shrinking, none of it
was.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic

__all__ = ["Credible", "bicubic_enlargement", "find_credible"]

LEVEL = 2 / 255  # one level of 0..255 on the [-1, 1] scale
MOST_RESIDUAL = 1.0  # levels by which no picture fits the data; rounding alone leaves 0.56 on photographs
FLAT_REACH = 1  # pixels around a pixel that must equal it for a flat area
MOST_RINGING = 4.0  # levels by which the projection deviates in a flat area; after shrinking it is 1.9 at most
SATURATED = 8 * LEVEL  # distance from black and white up to which photographs have flat areas
REACH = 3  # pixels by which what cannot be believed is widened: the reach of the filter, and of its echoes
MOST_IMPOSSIBLE = 0.004  # share of the picture from which all of it is doubted; photographs have .002 at most
OVERSHOOT = 3 * LEVEL  # by how much the result may overshoot where the bicubic enlargement does


@dataclass(frozen=True)
class Credible:
    """What may be believed of a small picture.

    Args:
        data: The data, (1, 3, h, w) on [-1, 1]: the picture, or a softer one where it is doubted.
        doubt: How far each pixel is doubted, (1, 1, h, w), 0..1.
        low: The least values that the result may have, (1, 3, H, W); -inf where the picture is believed.
        high: The largest ones.
    """

    data: Tensor
    doubt: Tensor
    low: Tensor
    high: Tensor

    def limit(self, x: Tensor) -> Tensor:
        """Return a result (1, C, H, W) without overshoots where the picture is doubted."""
        return torch.minimum(torch.maximum(x, self.low[:, : x.shape[1]]), self.high[:, : x.shape[1]])


def bicubic_enlargement(y: Tensor, scale: int) -> Tensor:
    """Return images (B, C, h, w) enlarged by the bicubic filter that Pillow uses, on [-1, 1]."""
    return F.interpolate(y, scale_factor=scale, mode="bicubic", antialias=True).clamp(-1, 1)


def find_credible(y: Tensor, degradation: Bicubic, *, is_aliased: bool = False) -> Credible | None:
    """Find which parts of a small picture shrinking can have made.

    Args:
        y: The picture without noise, (1, 3, h, w) on [-1, 1].
        degradation: The shrinking.
        is_aliased: Whether all of it is doubted, because it was shrunk without a filter (`aliasing.py`).

    Returns:
        None if all of it may be believed, as is the case for photographs that were shrunk and not changed afterwards.
    """
    scale, smooth = degradation.scale, bicubic_enlargement(y, degradation.scale)
    start = degradation.correct(smooth, y, 0.0, 1.0)
    residual = degradation.residual(degradation.finish(start, y), y).abs().amax(1, keepdim=True)
    is_impossible = residual > MOST_RESIDUAL * LEVEL
    deviation = (start.clamp(-1, 1) - F.interpolate(y, scale_factor=scale)).abs().amax(1, keepdim=True)
    is_ringing = F.max_pool2d(deviation, scale) > MOST_RINGING * LEVEL
    is_doubted = is_impossible | (is_ringing & _is_flat(y))
    if not bool(is_doubted.any()) and not is_aliased:
        return None
    if is_aliased or float(is_impossible.float().mean()) > MOST_IMPOSSIBLE:
        doubt = torch.ones_like(residual)
    else:
        widened = F.max_pool2d(is_doubted.float(), 2 * REACH + 1, 1, REACH)
        doubt = F.avg_pool2d(F.pad(widened, (REACH,) * 4, mode="replicate"), 2 * REACH + 1, 1)
    data = torch.lerp(y, degradation.measure(smooth), doubt)
    side = 2 * scale + 1
    is_limited = F.interpolate(doubt, scale_factor=scale) > 0.5
    highest, lowest = F.max_pool2d(smooth, side, 1, scale), -F.max_pool2d(-smooth, side, 1, scale)
    low = torch.where(is_limited, lowest - OVERSHOOT, -torch.inf)
    high = torch.where(is_limited, highest + OVERSHOOT, torch.inf)
    return Credible(data, doubt, low, high)


def _is_flat(y: Tensor) -> Tensor:
    """Return where images (1, C, h, w) do not vary around a pixel, and are neither black nor white, (1, 1, h, w)."""
    padded, side = F.pad(y, (FLAT_REACH,) * 4, mode="replicate"), 2 * FLAT_REACH + 1
    highest, lowest = F.max_pool2d(padded, side, 1), -F.max_pool2d(-padded, side, 1)
    is_between = (y.amax(1, keepdim=True) < 1 - SATURATED) & (y.amin(1, keepdim=True) > SATURATED - 1)
    return ((highest - lowest).amax(1, keepdim=True) == 0) & is_between
