r"""JPEG compression that a picture went through before it was stored as it is: its grid, its tables, its coefficients.

A picture that was a JPEG once, and was then cropped, stored as PNG or compressed again, still has coefficients near the
multiples of the steps q of that file, on a grid of 8x8 blocks that may begin anywhere:

1. The differences between neighbouring pixels are larger across the borders of blocks. The rows and the columns of the
   grid at which they are largest are the candidates.
2. On the grid of a candidate, the mean of cos(2 pi c / q) over the coefficients c of more than q / 4 is near 1 if the
   picture was quantized with steps q, and near 0 or below if it was not. It is computed for the standard tables of all
   qualities. The coefficients of a picture that was compressed again scatter around the multiples by the error of the
   second compression, which lowers the mean and does not move it.
3. The chroma has the steps of the same quality, at its full or at half its resolution, whichever fits.

Only the tables of libjpeg are recognized in this way. Most programs and many cameras use them.

Sources:
    Fan and de Queiroz 2003, "Identification of Bitmap Compression History: JPEG Detection and Quantizer Estimation",
        IEEE Transactions on Image Processing 12(2): the grid and the steps of an earlier compression.
    Bianchi and Piva 2012, "Detection of Nonaligned Double JPEG Compression Based on Integer Periodicity Maps", IEEE
        Transactions on Information Forensics and Security 7(2): the periodicity on shifted grids.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.degradations.quantization import BLOCK, RGB_TO_YCBCR, to_blocks
from restorer.measurement.jpeg import (
    STANDARD_TABLES,
    Component,
    Jpeg,
    indices_of,
    read_jpeg,
    shrink_smooth,
    table_of_quality,
)

__all__ = ["find_earlier_jpeg", "find_jpeg"]

QUALITIES = range(3, 96)
TRANSPOSED = 5  # the orientation of EXIF that transposes
MOST_PIXELS = 1 << 19  # of the part by which the sampling of the chroma is told
LEAST_SIDE = 64  # pixels of a picture that is examined
MAX_BLOCKS = 1500  # blocks that are examined on each grid
LEAST_MEAN = 0.45  # mean of the cosines from which the picture was quantized with those steps
MOST_SCATTER = 2.8  # levels around the multiples, which a second compression with longer steps would exceed
LEAST_COUNT = 30  # coefficients that such a mean is taken over
LEAST_SCORE = 7.0  # standard deviations by which it exceeds chance
DISTINCT = 0.02  # levels by which coefficients differ that count as two
COARSER_BY = 8  # by how much the quality of an earlier file is lower than that of the file itself
HIGHEST_EARLIER = 85  # quality above which an earlier compression changes nothing that can be seen
LOW = (torch.arange(BLOCK)[:, None] + torch.arange(BLOCK)).flatten()  # u + v of each coefficient
MAX_LOW = 6  # largest u + v of the coefficients that are examined
EXAMINED = (LOW > 0) & (LOW <= MAX_LOW)


@dataclass(frozen=True)
class _Fit:
    """How well a picture agrees with a quality.

    Args:
        quality: The quality.
        mean: Mean of the cosines.
        scatter: Median of their distance from multiples of the steps, in levels; 0 if it is left out.
        count: Number of coefficients that they were taken over.
    """

    quality: int
    mean: float
    scatter: float
    count: int

    @property
    def is_certain(self) -> bool:
        """Whether chance and texture do not explain the mean."""
        score = self.mean * math.sqrt(2 * self.count)
        is_sharp = self.mean >= LEAST_MEAN and self.scatter <= MOST_SCATTER
        return is_sharp and self.count >= LEAST_COUNT and score >= LEAST_SCORE


def find_earlier_jpeg(image: Tensor, file: Jpeg | None = None) -> Jpeg | None:
    """Find the JPEG file that a picture was before.

    Args:
        image: The picture, float (C, H, W) in [0, 1] with C = 1 or 3.
        file: What is known of the file of the picture itself, if that is a JPEG. An earlier one counts only if it was
            the coarser one.

    Returns:
        None if there was no such file, or if it cannot be told.
    """
    if min(image.shape[-2:]) < LEAST_SIDE:
        return None
    highest = max(QUALITIES) if file is None else file.quality - COARSER_BY
    planes = _planes_of(image)
    # A picture that was turned by a right angle after it had been stored has transposed tables.
    turns = [(1, planes), (TRANSPOSED, [plane.mT.contiguous() for plane in planes])]
    if file is not None:
        turns = [turns[file.orientation >= TRANSPOSED]]
    for orientation, stored in turns:
        if (found := _find(stored, highest)) is not None:
            return replace(found, orientation=orientation)
    return None


def _find(planes: list[Tensor], highest: int) -> Jpeg | None:
    """Find the JPEG file that planes were before, of a quality of at most `highest`."""
    best: tuple[_Fit, tuple[int, int]] | None = None
    for offset in _candidates(planes[0]):
        fit = _best_fit(_sampled_coefficients(planes[0], offset), highest)
        if fit is not None and fit.is_certain and (best is None or fit.mean > best[0].mean):
            best = fit, offset
    if best is None:
        return None
    fit, offset = best
    return _describe(planes, fit.quality, offset)


def find_jpeg(image: Tensor, data: bytes | None) -> Jpeg | None:
    """Return what is known of the JPEG compression of a picture: of its own file, or of an earlier and coarser one.

    Args:
        image: The picture as it was read, float (C, H, W) in [0, 1] with C = 1 or 3.
        data: The bytes of its file; None if there is none.
    """
    file = read_jpeg(data) if data else None
    earlier = find_earlier_jpeg(image, file)
    return earlier if earlier is not None and earlier.quality <= HIGHEST_EARLIER else file


def _planes_of(image: Tensor) -> list[Tensor]:
    """Return the planes of a picture in levels, without the offset of 128."""
    levels = image.detach().float().cpu() * 255
    if len(levels) == 1 or bool((levels == levels[:1]).all()):
        return [levels[0] - 128]
    luminance, *chroma = torch.einsum("ij,jhw->ihw", torch.tensor(RGB_TO_YCBCR), levels)
    return [luminance - 128, *chroma]


def _candidates(plane: Tensor) -> Iterator[tuple[int, int]]:
    """Yield how many rows and columns of the first blocks are missing, for the grids that the differences suggest.

    The grid that begins at the corner of the picture, as that of its own file does, is always among them.
    """
    likely: list[int] = []
    for dim in (0, 1):
        step = plane.diff(dim=dim).abs().clamp(max=30).mean(1 - dim)  # of pixel i and i + 1
        around = F.avg_pool1d(F.pad(step[None, None], (1, 1), mode="replicate"), 3, 1)[0, 0]
        excess = step - around
        by_phase = torch.stack([excess[phase::BLOCK].mean() for phase in range(BLOCK)])
        by_phase[BLOCK - 1] = -torch.inf  # the grid that begins at the corner is a candidate in any case
        # A border after pixel i means that a block begins at i + 1, and that -(i + 1) mod 8 rows of the first are gone.
        likely.append(-(int(by_phase.argmax()) + 1) % BLOCK)
    yield from sorted({(down, across) for down in (0, likely[0]) for across in (0, likely[1])})


def _blocks_from(plane: Tensor, offset: tuple[int, int]) -> Tensor:
    """Return the coefficients of the complete blocks of a plane, (down, across, 8, 8)."""
    rows, columns = (
        slice(first, first + (side - first) // BLOCK * BLOCK)
        for first, side in zip((-o % BLOCK for o in offset), plane.shape, strict=True)
    )
    return to_blocks(plane[None, rows, columns])[0]


def _sampled_coefficients(plane: Tensor, offset: tuple[int, int]) -> Tensor:
    """Return coefficients of complete blocks, spread over the picture, (N, 64)."""
    height, width = plane.shape
    keep = max(1, round(math.sqrt(height * width / BLOCK**2 / MAX_BLOCKS)))
    blocks = _blocks_from(plane, offset)[::keep, ::keep]
    return _without_repetitions(blocks.flatten(2).flatten(0, 1))


def _without_repetitions(coefficients: Tensor) -> Tensor:
    """Return coefficients (N, 64) of which each value of a frequency counts once, as nan elsewhere.

    In drawings with a pattern a few values occur over and over, and a few values fit some steps by chance.
    """
    ordered = coefficients.sort(0).values
    repeated = ordered.diff(dim=0, prepend=ordered[:1] - 1) < DISTINCT
    return ordered.masked_fill(repeated, torch.nan)


def _fit(coefficients: Tensor, steps: Tensor, quality: int = 0) -> _Fit:
    """Return how well the coefficients that are not near 0 agree with steps; the scatter is left out.

    Args:
        coefficients: Those that are examined, (N, n).
        steps: (n,); steps of 1 say nothing.
        quality: What the result is to be called.
    """
    chosen, _ = _chosen(coefficients, steps)
    if len(chosen) == 0:
        return _Fit(quality, 0.0, 0.0, 0)
    return _Fit(quality, float((2 * math.pi * chosen).cos().mean()), 0.0, len(chosen))


def _chosen(coefficients: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients that are not near 0, in steps, and the steps of each; see `_fit`."""
    used = steps >= 2
    if not bool(used.all()):
        coefficients, steps = coefficients[:, used], steps[used]
    ratio = coefficients / steps
    is_chosen = ratio.abs() > 0.25
    return ratio[is_chosen], steps.expand_as(ratio)[is_chosen]


def _with_scatter(fit: _Fit, coefficients: Tensor, steps: Tensor) -> _Fit:
    """Return a fit with its scatter; the other arguments are those of `_fit`."""
    chosen, of = _chosen(coefficients, steps)
    return replace(fit, scatter=float(((chosen - chosen.round()) * of).abs().median())) if len(chosen) else fit


def _best_fit(coefficients: Tensor, highest: int) -> _Fit | None:
    """Return the quality up to `highest` whose steps of luminance fit best; None if finer ones fit still better.

    Args:
        coefficients: (N, 64).
        highest: The highest quality.
    """
    examined = coefficients[:, EXAMINED]
    fits = {q: _fit(examined, _examined_steps(q), q) for q in QUALITIES if q < highest + COARSER_BY}
    allowed = [fit for fit in fits.values() if fit.quality <= highest]
    if not allowed:
        return None
    best = max(allowed, key=lambda fit: fit.mean if fit.count >= LEAST_COUNT else -1.0)
    finer = [fit.mean for fit in fits.values() if fit.quality > best.quality]
    # The steps of the file itself fit as well, and those just above them nearly: only a peak of its own counts.
    is_slope = best.quality >= highest - 1 and highest < max(QUALITIES) and bool(finer) and max(finer) > best.mean
    return None if is_slope else _with_scatter(best, examined, _examined_steps(best.quality))


def _examined_steps(quality: int) -> Tensor:
    """Return the steps of luminance of the coefficients that are examined, (n,)."""
    return table_of_quality(quality).flatten()[EXAMINED]


def _describe(planes: list[Tensor], quality: int, offset: tuple[int, int]) -> Jpeg:
    """Return what is known of the earlier file."""
    luminance, chrominance = (table_of_quality(quality, table) for table in STANDARD_TABLES)
    height, width = planes[0].shape
    shrink = (1, 1)
    if len(planes) == 3:
        shrink, offset = _sampling_of(planes[1:], chrominance, offset)
    components = [_component(planes[0], luminance, (1, 1), offset)]
    components += [_component(plane, chrominance, shrink, offset) for plane in planes[1:]]
    colour = "ycbcr" if len(planes) == 3 else "gray"
    return Jpeg(width, height, colour, tuple(components), 1, offset, is_cropped=True, is_earlier=True)


def _sampling_of(
    chroma: list[Tensor], steps: Tensor, offset: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the factors by which the chroma was shrunk, and the offset of the grid in whole blocks of it."""
    best, chosen = -math.inf, ((2, 2), offset)
    trials = [((1, 1), offset)]
    trials += [((2, 2), (offset[0] + down, offset[1] + across)) for down in (0, BLOCK) for across in (0, BLOCK)]
    parts = [_part_of(plane) for plane in chroma]
    for shrink, first in trials:
        small = [shrink_smooth(_continue(plane, first, shrink), shrink) for plane in parts]
        coefficients = torch.cat([_sampled_coefficients(plane, (0, 0)) for plane in small])
        fit = _fit(coefficients[:, EXAMINED], steps.flatten()[EXAMINED])
        if fit.count >= LEAST_COUNT and fit.mean > best:
            best, chosen = fit.mean, (shrink, first)
    return chosen


def _part_of(plane: Tensor) -> Tensor:
    """Return the middle of a plane, at most MOST_PIXELS of it, that begins at whole blocks of the chroma."""
    slices = []
    for side in plane.shape:
        length = min(side, math.isqrt(MOST_PIXELS))
        first = (side - length) // 2 // (2 * BLOCK) * (2 * BLOCK)
        slices.append(slice(first, first + length))
    return plane[slices[0], slices[1]]


def _continue(plane: Tensor, offset: tuple[int, int], shrink: tuple[int, int]) -> Tensor:
    """Return a plane with the rows and columns that are missing before it, and after it to whole blocks."""
    (down, across), (height, width) = offset, plane.shape
    below, right = (-(o + side) % (BLOCK * f) for o, side, f in zip(offset, (height, width), shrink, strict=True))
    return F.pad(plane[None, None], (across, right, down, below), mode="replicate")[0, 0]


def _component(plane: Tensor, steps: Tensor, shrink: tuple[int, int], offset: tuple[int, int]) -> Component:
    """Return a plane of the earlier file."""
    small = shrink_smooth(_continue(plane, offset, shrink), shrink)
    return Component(indices_of(small + 128, steps), steps, shrink)
