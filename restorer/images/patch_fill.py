r"""Holes filled with patches of the picture itself, from coarse to fine.

On every level of a pyramid, three steps alternate (Wexler et al. 2007, https://doi.org/10.1109/TPAMI.2007.60):

    match    every patch that touches the hole finds the most similar one without unknown pixels (`patch_match`)
    vote     every unknown pixel becomes the mean v of the pixels that the patches over it propose, weighted by
             exp(-d^2 / 2 s^2) 1.3^-depth, with d the distance of the match and s^2 the 75 % quantile of d^2
    balance  v + a S(m - v), with m the membrane over the rim (`membrane.py`) and S a smoothing within the hole

Without the last step, which of two neighbouring things fills the hole is decided on the coarsest levels, and the other
one disappears: the colour of the filling strays. With it, both keep their share.

The matches of a level, enlarged, are the guesses of the next finer one. The patches also hold the mean slopes of a
neighbourhood (Newson et al. 2014, https://doi.org/10.1137/140954933), without which smooth patches are preferred to
textured ones on coarse levels.

In the end, every unknown pixel is copied from the best match over it, so that texture and grain stay as they are. What
the matches differ from the known pixels around the hole is spread into it and added, which continues its shading.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.images.membrane import membranes
from restorer.images.patch_match import RADIUS, SIDE, Field
from restorer.images.push_pull import push_pull

__all__ = ["Patched", "patch_fill"]

LEAST_SOURCES = 256
"""Number of patches without unknown pixels below which a hole is not filled."""

COARSEST_DEPTH = 4
"""Depth of the hole in pixels on the coarsest level."""

REPEATS = 6
"""Number of times that the steps alternate on a level; half as often on the finest one."""

BALANCE = 0.5
"""The factor a of the module docstring."""

BALANCE_REACH = 2
"""Half the side in pixels of the window of the smoothing S, a mean that is taken three times."""

SLOPE_WEIGHT = 8.0
"""Factor on the mean slopes relative to the values of the pixels. With a lesser one, rough places are filled with
patches that are too smooth; a larger one costs PSNR in wide holes."""

SLOPE_REACH = 8
"""Pixels on each side of a neighbourhood whose slopes are averaged."""

DEPTH_BASE = 1.3
"""Factor by which patches count less for every pixel that their centre lies deeper in the hole."""

MAX_DEPTH = 60
"""Depth in pixels beyond which patches count no less."""


@dataclass(frozen=True)
class Patched:
    """A hole that was filled with patches.

    Args:
        image: The filled picture, float (C, H, W); values may lie a little outside of [0, 1].
        source: The place that each unknown pixel was copied from, and its own place for each known one, int64 (H, W).
        field: The patches.
        match: The source of every target of the field.
    """

    image: Tensor
    source: Tensor
    field: Field
    match: Tensor

    def copied(self, x: Tensor) -> Tensor:
        """Return another picture (C, H, W) of the same size, with its unknown pixels copied from the same places."""
        return x.flatten(1)[:, self.source.flatten()].view_as(x)

    def misfits(self, image: Tensor) -> Tensor:
        """Return how much the patches of a filling differ from known ones.

        Args:
            image: The picture, float (C, H, W), filled in any way.

        Returns:
            The mean squared difference of every patch that touches the hole from its match, float (H, W); 0 at places
            that are the centre of no such patch.
        """
        pixels = image.flatten(1).T.contiguous()
        distances = torch.zeros(self.source.numel())
        distances[self.field.targets] = self.field.distances(pixels, self.match) / (SIDE * SIDE * len(image))
        return distances.view_as(self.source)


def patch_fill(image: Tensor, hole: Tensor, *, seed: int = 0, variety: float = 0.0) -> Patched | None:
    """Fill a hole.

    Args:
        image: The picture, float (C, H, W) in [0, 1]. The values in the hole are ignored.
        hole: The unknown pixels, bool (H, W), at least one.
        seed: Seed of the random numbers.
        variety: Standard deviation of the noise that is added to the first filling, relative to that of the picture. It
            makes the filling depend on the seed.

    Returns:
        The filled picture; None if too little of it is known.
    """
    if min(hole.shape) < SIDE or len(Field(hole).sources) < LEAST_SOURCES:
        return None
    generator = torch.Generator().manual_seed(seed)
    levels = _pyramid(image, hole)
    smooth = membranes([(colour[: len(image)], unknown) for colour, unknown in levels])
    state, match, coarser, distance = torch.empty(0), torch.empty(0), None, torch.empty(0)
    for number in reversed(range(len(levels))):
        colour, unknown = levels[number]
        field = Field(unknown)
        if len(field.sources) == 0:
            continue
        guess = None
        if coarser is None:
            state = _first_filling(colour, unknown, variety, generator)
        else:
            guess = field.allowed(_enlarged(match, coarser, field), generator)
            state = _rebuilt(colour, unknown, field, guess, state)
        repeats = REPEATS if number else REPEATS // 2
        # Candidates that are to differ differ from where they begin, on the coarsest level.
        balance = 0.0 if coarser is None and variety else BALANCE
        state, match, distance = _alternate(state, unknown, field, guess, smooth[number], balance, generator, repeats)
        coarser = field
    assert coarser is not None
    known = torch.where(hole, 0.0, image)
    source = torch.where(hole.flatten(), _best_sources(coarser, match, distance), torch.arange(hole.numel()))
    copied = known.flatten(1)[:, source].view_as(image) + _shading(known, hole, coarser, match, distance)
    return Patched(torch.where(hole, copied, image), source.view_as(hole), coarser, match)


def _pyramid(image: Tensor, hole: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the picture with its mean slopes, and the hole, from fine to coarse. Unknown pixels are 0."""
    image = torch.where(hole, 0.0, image)
    levels = [(torch.cat([image, SLOPE_WEIGHT * _mean_slopes(image, hole)]), hole)]
    while int(_depth(levels[-1][1]).max()) > COARSEST_DEPTH and min(levels[-1][1].shape) >= 4 * SIDE:
        colour, unknown = levels[-1]
        height, width = unknown.shape
        both = torch.cat([torch.where(unknown, 0.0, colour), (~unknown).float()[None]])
        means = F.avg_pool2d(F.pad(both, (0, width % 2, 0, height % 2))[None], 2)[0]
        is_unknown = means[-1] < 0.5
        levels.append((torch.where(is_unknown, 0.0, means[:-1] / means[-1:].clamp_min(0.25)), is_unknown))
    return levels


def _mean_slopes(image: Tensor, hole: Tensor) -> Tensor:
    """Return the mean absolute slopes around every pixel, across and down, (2, H, W), from known pixels alone."""
    gray, known = image.mean(0, keepdim=True), (~hole).float()[None]
    slopes = []
    for axis, padding in ((2, (0, 1, 0, 0)), (1, (0, 0, 0, 1))):
        both_known = known.narrow(axis, 1, known.shape[axis] - 1) * known.narrow(axis, 0, known.shape[axis] - 1)
        size = 2 * SLOPE_REACH + 1
        means = [
            F.avg_pool2d(F.pad(x, padding)[None], size, 1, SLOPE_REACH)[0]
            for x in (gray.diff(dim=axis).abs() * both_known, both_known)
        ]
        slopes.append(push_pull(*means))
    return torch.cat(slopes)


def _depth(hole: Tensor) -> Tensor:
    """Return the distance of every unknown pixel from the known ones, at most MAX_DEPTH; 0 for known pixels."""
    left, depth = hole[None, None].float(), torch.zeros(hole.shape)
    for _ in range(MAX_DEPTH):
        if not bool(left.any()):
            break
        depth += left[0, 0]
        left = 1 - F.max_pool2d(1 - left, 3, 1, 1)
    return depth


def _first_filling(colour: Tensor, hole: Tensor, variety: float, generator: torch.Generator) -> Tensor:
    """Return the coarsest level, filled smoothly, with noise if there is to be variety."""
    smooth = push_pull(torch.where(hole, 0.0, colour), (~hole).float()[None])
    noise = torch.randn(colour.shape, generator=generator)
    deviation = colour[:, ~hole].std(1, correction=0)[:, None, None]
    return torch.where(hole, smooth + variety * deviation * noise, colour)


def _enlarged(match: Tensor, coarse: Field, fine: Field) -> Tensor:
    """Return guesses for the targets of a level from the matches of the next coarser one."""
    shift = torch.zeros(2, coarse.height * coarse.width, dtype=torch.long)
    shift[0, coarse.targets] = match // coarse.width - coarse.targets // coarse.width
    shift[1, coarse.targets] = match % coarse.width - coarse.targets % coarse.width
    row, column = fine.targets // fine.width, fine.targets % fine.width
    at = (row // 2).clamp_max(coarse.height - 1) * coarse.width + (column // 2).clamp_max(coarse.width - 1)
    row = (row + 2 * shift[0, at]).clamp(RADIUS, fine.height - 1 - RADIUS)
    column = (column + 2 * shift[1, at]).clamp(RADIUS, fine.width - 1 - RADIUS)
    return row * fine.width + column


def _rebuilt(colour: Tensor, hole: Tensor, field: Field, guess: Tensor, coarse: Tensor) -> Tensor:
    """Return a level whose unknown pixels are voted by guesses or, without guesses, taken from the coarser level."""
    pixels = colour.flatten(1).T.contiguous()
    voted, weight = _vote(pixels, field, guess, torch.ones(len(guess)))
    enlarged = F.interpolate(coarse[None], size=tuple(hole.shape), mode="bilinear", align_corners=False)[0]
    made = torch.where(weight.view(hole.shape) > 0, voted.T.reshape(colour.shape), enlarged)
    return torch.where(hole, made, colour)


def _alternate(
    state: Tensor,
    hole: Tensor,
    field: Field,
    guess: Tensor | None,
    smooth: Tensor,
    balance: float,
    generator: torch.Generator,
    repeats: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the filling of a level, the matches, and their squared distances."""
    pixels, unknown = state.flatten(1).T.contiguous(), hole.flatten()[:, None]
    trust = DEPTH_BASE ** -_depth(hole).flatten()[field.targets]
    match = distance = torch.empty(0)
    for _ in range(repeats):
        match, distance = field.nearest(pixels, guess, generator)
        voted, _ = _vote(pixels, field, match, _likeness(distance) * trust)
        pixels, guess = torch.where(unknown, _balanced(voted, smooth, hole, balance), pixels), match
    return pixels.T.reshape(state.shape), match, distance


def _balanced(voted: Tensor, smooth: Tensor, hole: Tensor, balance: float) -> Tensor:
    """Return what was voted, (H W, C and more), with its coarse colours drawn towards the membrane (C, H, W)."""
    channels = len(smooth)
    both = torch.cat([torch.where(hole, smooth - voted.T[:channels].reshape(smooth.shape), 0.0), hole.float()[None]])
    for _ in range(3):
        both = F.avg_pool2d(both[None], 2 * BALANCE_REACH + 1, 1, BALANCE_REACH)[0]
    result = voted.clone()
    result[:, :channels] += balance * (both[:-1] / both[-1:].clamp_min(1e-6)).flatten(1).T
    return result


def _likeness(distance: Tensor) -> Tensor:
    """Return the weights of matches by their squared distances."""
    scale = torch.quantile(distance[:: 1 + len(distance) // 1_000_000], 0.75)
    return torch.exp(-distance / (2 * scale.clamp_min(1e-9))).clamp_min(1e-6)


def _vote(pixels: Tensor, field: Field, match: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of what the matches propose for every pixel, (H W, C), and the sum of the weights."""
    total, sums = torch.zeros_like(pixels), torch.zeros(len(pixels))
    for offset in field.offsets.tolist():
        proposed = pixels.index_select(0, match + offset)
        total.index_add_(0, field.targets + offset, proposed.mul_(weight[:, None]))
        sums.index_add_(0, field.targets + offset, weight)
    return total / sums.clamp_min(1e-30)[:, None], sums


def _best_sources(field: Field, match: Tensor, distance: Tensor) -> Tensor:
    """Return the place that the best match over each pixel copies, int64 (H W,); its own place where there is none."""
    count = field.height * field.width
    source, least = torch.arange(count), torch.full((count,), torch.inf)
    for offset in field.offsets.tolist():
        at = field.targets + offset
        is_better = distance < least[at]
        least[at[is_better]], source[at[is_better]] = distance[is_better], match[is_better] + offset
    return source


def _shading(known: Tensor, hole: Tensor, field: Field, match: Tensor, distance: Tensor) -> Tensor:
    """Return the difference of the known pixels around the hole from what is voted for them, spread into the hole."""
    voted, weight = _vote(known.flatten(1).T.contiguous(), field, match, _likeness(distance))
    ring = (weight.view(hole.shape) > 0) & ~hole
    return push_pull(torch.where(ring, known - voted.T.reshape(known.shape), 0.0), ring.float()[None])
