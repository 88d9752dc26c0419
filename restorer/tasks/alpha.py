"""The enlargement of transparency: a gray picture whose edges are the sharpest that a picture can have.

Most of these edges were not made by bicubic shrinking. Forced as exact data they would ring or stay stairs, so a little
noise is assumed, which leaves the edge to the prior. A transparency of two values has nothing but stairs, each of which
tells the edge to half a pixel; they are smoothed before, apart from lines of one pixel, which would vanish. Where the
transparency does not vary around a pixel, the result has its exact value, so that what is opaque stays opaque, and what
is transparent stays transparent.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.images.sizes import Region
from restorer.tasks.enlarge import EnlargeOptions, Found, enlarge, margin_of
from restorer.tasks.job import Job
from restorer.tasks.region import Place

__all__ = ["EDGE_SIGMA", "STAIRS_SIGMA", "prepare_alpha"]

EDGE_SIGMA = 4.5
"""Noise in levels that is assumed of a transparency with soft edges. On shapes that were drawn with antialiasing, the
error of the result is half of that of Lanczos resampling; with twice the noise it is a fifth larger."""

STAIRS_SIGMA = 16.0
"""Noise in levels that is assumed of a transparency of two values, whose edges are up to half a pixel off."""

STAIRS_BLUR = 0.8
"""Standard deviation in pixels of the filter that smooths stairs. A wider one rounds corners off."""


def prepare_alpha(alpha: Tensor, options: EnlargeOptions, region: Region | None) -> Job | None:
    """Prepare the job that enlarges a transparency.

    Args:
        alpha: The transparency, float (H, W) in [0, 1].
        options: The options of the picture. The detail of a transparency is 0, unless a method needs another.
        region: The part that is enlarged; None for all of it.

    Returns:
        A job whose result is (1, H', W'); None if the transparency does not vary in the region.
    """
    plane = alpha[None]
    place = Place.of(plane, region)
    flat = _is_flat(plane)
    edges = _bounds(~place.exact(flat)[0], place.region)
    if edges is None:
        return None
    is_hard = bool(((plane == plane.min()) | (plane == plane.max())).all())
    # Only the part that varies is computed.
    inner = Place.of(plane, edges, margin_of(options.factor))
    seen = inner.seen(_without_stairs(plane) if is_hard else plane)
    faithful = replace(options, detail=0.0) if options.method == "auto" else options
    job = enlarge(seen, inner, faithful, Found(STAIRS_SIGMA if is_hard else EDGE_SIGMA, is_gray=True))
    wide, high = options.size.size(place.width, place.height)
    whole, part = (options.size.part(r, place.width, place.height) for r in (place.region, edges))
    rows = _nearest(whole.top, whole.height, high, place.height)
    columns = _nearest(whole.left, whole.width, wide, place.width)
    inside = part.within(whole)

    def finish(x: Tensor, first: Tensor) -> Tensor:
        enlarged = plane[:, rows][:, :, columns]
        result = enlarged.clone()
        result[:, inside.rows, inside.columns] = job.finish(x, first)
        return torch.where(flat[:, rows][:, :, columns], enlarged, result)

    return replace(job, image=place.exact(plane), finish=finish)


def _is_flat(plane: Tensor) -> Tensor:
    """Return where a plane (1, H, W) does not vary within a pixel around, bool (1, H, W)."""
    padded = F.pad(plane[None], (1, 1, 1, 1), mode="replicate")
    return (F.max_pool2d(padded, 3, 1) == -F.max_pool2d(-padded, 3, 1))[0]


def _bounds(found: Tensor, region: Region) -> Region | None:
    """Return the smallest part of a region that holds all pixels found in it, bool (h, w); None if there are none."""
    rows, columns = (torch.nonzero(found.any(axis)).flatten() for axis in (1, 0))
    if len(rows) == 0:
        return None
    top, left = int(rows[0]), int(columns[0])
    bounds = Region(left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top)
    return bounds.moved(region.left, region.top)


def _without_stairs(plane: Tensor) -> Tensor:
    """Return a plane of two values (1, H, W) with edges as steep as those of an antialiased shape."""
    reach = math.ceil(4 * STAIRS_BLUR)
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * STAIRS_BLUR**2))
    kernel /= kernel.sum()
    blurred = F.pad(plane[None], (reach,) * 4, mode="replicate")
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        blurred = F.conv2d(blurred, kernel.view(shape))
    low, high = float(plane.min()), float(plane.max())
    middle, steepness = (low + high) / 2, STAIRS_BLUR * math.sqrt(2 * math.pi)
    steep = (middle + steepness * (blurred[0] - middle)).clamp(low, high)
    return torch.where(_is_thin(plane), plane, steep)


def _is_thin(plane: Tensor) -> Tensor:
    """Return where no square of 2x2 pixels around a pixel of a plane (1, H, W) has one value, bool (1, H, W)."""

    def opened(x: Tensor) -> Tensor:
        return F.max_pool2d(-F.max_pool2d(-F.pad(x[None], (1, 1, 1, 1), mode="replicate"), 2, 1), 2, 1)[0]

    return (opened(plane) != plane) | (-opened(-plane) != plane)


def _nearest(first: int, count: int, length: int, of: int) -> Tensor:
    """Return the pixels of an axis that are nearest to those of its enlargement, int64 (count,).

    Args:
        first: The first pixel of the enlarged axis.
        count: Number of its pixels.
        length: Length of the enlarged axis.
        of: Length of the axis.
    """
    return ((2 * torch.arange(first, first + count) + 1) * of // (2 * length)).clamp(max=of - 1)
