"""Large pictures: overlapping tiles of one size, denoised in batches and blended.

Tiles act inside every step, on the prediction of the clean picture; everything else that a step does (the correction
towards the data, the noise) acts on the whole canvas. So neighbouring tiles see the same noise, agree where they
overlap, and leave no seams. MultiDiffusion (https://arxiv.org/abs/2302.08113) applies the same idea to latents.

The blending window is a raised cosine across the overlap, without the outermost pixels, because a network does not see
what lies beyond the border of its tile. With the embedded prior a tile agrees with the whole picture to 28 dB within 8
pixels of its border, and to over 60 dB at 16 pixels (sigma 50), so the outermost pixels are taken from the neighbour
alone. A U-Net that halves its features n times also sees its input on a grid of 2^n pixels: tiles begin on the grid of
the whole picture, and the picture is padded before it is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from restorer.diffusion.prior import (
    Asking,
    Prediction,
    Prior,
    PriorWrapper,
    Resources,
    WrapperResources,
    answered,
    pad_to_multiple,
)

__all__ = ["MARGIN", "Tiled", "ramp", "tile_starts"]

MARGIN = 16  # pixels at the border of a tile that have no weight where a neighbour covers them


def tile_starts(extent: int, tile: int, overlap: int, multiple: int = 1) -> list[int]:
    """Return where tiles begin along one axis: evenly spread, the last one ending at the edge.

    Args:
        extent: Size of the picture along the axis, a multiple of `multiple`.
        tile: Side of a tile, a multiple of `multiple`.
        overlap: Least number of pixels that neighbours share.
        multiple: Number whose multiples all tiles begin at.
    """
    if extent <= tile:
        return [0]
    if multiple > 1:
        least = min(math.ceil(overlap / multiple), tile // multiple - 1)
        return [multiple * start for start in tile_starts(extent // multiple, tile // multiple, least)]
    count = math.ceil((extent - overlap) / (tile - overlap))
    return [round(i * (extent - tile) / (count - 1)) for i in range(count)]


def ramp(starts: list[int], index: int, tile: int) -> Tensor:
    """Return the blending weights of one tile along one axis, (tile,).

    They are 1 inside, 0 at a border with a neighbour, and a raised cosine between the two.

    Args:
        starts: Where the tiles begin along this axis; see `tile_starts`.
        index: Which of them it is.
        tile: Side of a tile.
    """
    weights = torch.ones(tile)
    if index > 0:
        shared = starts[index - 1] + tile - starts[index]
        weights[:shared] *= _rise(shared)
    if index < len(starts) - 1:
        shared = starts[index] + tile - starts[index + 1]
        weights[tile - shared :] *= _rise(shared).flip(0)
    return weights


def _rise(shared: int) -> Tensor:
    """Return weights that rise from 0 to 1 over the pixels that two tiles share; reversed, they sum to 1 with these."""
    margin = min(MARGIN, shared // 4)
    place = (torch.arange(shared) + 0.5 - margin) / max(shared - 2 * margin, 1)
    return torch.sin(place.clamp(0, 1) * math.pi / 2) ** 2


class Tiled(PriorWrapper):
    """A prior that asks another one tile by tile.

    Args:
        prior: The other prior.
        tile: Side of a tile in pixels.
        overlap: Least number of pixels that neighbouring tiles share.
        batch: Tiles in one call of the other prior.
        on_tile: Function called with (tiles done, tiles in all) after every such call.
        dims: Axes along which the other prior mirrors its tiles. Where the whole picture would be mirrored before it is
            padded, it is padded at the beginning, so that the tiles lie on the same grid.

    Raises:
        ValueError: The overlap is negative or not smaller than the tile.
    """

    def __init__(
        self,
        prior: Prior,
        tile: int,
        *,
        overlap: int = 64,
        batch: int = 1,
        on_tile: Callable[[int, int], None] | None = None,
        dims: tuple[int, ...] = (),
    ) -> None:
        if not 0 <= overlap < tile:
            raise ValueError("the overlap must be at least 0 and smaller than the tile")
        super().__init__(prior)
        self.tile, self.overlap, self.batch, self.on_tile, self.dims = tile, overlap, batch, on_tile, dims

    @property
    def resources(self) -> Resources:
        """Resources of the other prior, with the memory of one call's tiles."""
        return _TiledResources(self)

    def with_prior(self, prior: Prior) -> Tiled:
        """Return the same tiling of another prior."""
        return Tiled(prior, self.tile, overlap=self.overlap, batch=self.batch)

    def with_callback(self, on_tile: Callable[[int, int], None] | None) -> Tiled:
        """Return the same tiling with another `on_tile`."""
        return Tiled(self.prior, self.tile, overlap=self.overlap, batch=self.batch, on_tile=on_tile)

    def mirrored(self, dims: tuple[int, ...]) -> Tiled:
        """Return the prior for mirrored pictures. It mirrors tile by tile, so that no second large picture is held."""
        inner = self.prior.mirrored(dims)
        return Tiled(inner, self.tile, overlap=self.overlap, batch=self.batch, on_tile=self.on_tile, dims=dims)

    def limited_to(self, side: int) -> Tiled:
        """Return the same prior with tiles no larger than `side`; unchanged if the tiles are that small already."""
        return self if self.tile <= side else Tiled(self.prior, side, overlap=min(self.overlap, side // 4), batch=1)

    def halved(self, least: int) -> Tiled | None:
        """Return the same prior with tiles of half the side; None if they would be smaller than `least` pixels."""
        side = self.tile // 2
        return None if side < least else Tiled(self.prior, side, overlap=side // 4, batch=1)

    def count(self, height: int, width: int) -> int:
        """Return the number of tiles of a picture."""
        if height <= self.tile and width <= self.tile:
            return 1
        tops, lefts = (self._starts(-(-extent // self.multiple) * self.multiple) for extent in (height, width))
        return len(tops) * len(lefts)

    @property
    def _side(self) -> int:
        """Side of a tile, rounded down to a multiple of `multiple`."""
        return max(self.tile // self.multiple, 1) * self.multiple

    def _starts(self, extent: int) -> list[int]:
        return tile_starts(extent, self._side, self.overlap, self.multiple)

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Ask for every tile and blend the answers; see `Prior.predict`. A picture of one tile passes through whole."""
        return answered(self.asking(x, sigma, condition))

    def asking(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Asking[Prediction]:
        """Ask the other prior tile by tile; see `Prior.asking`."""
        height, width = x.shape[-2:]
        if height <= self.tile and width <= self.tile:
            return (yield from self._whole(x, sigma, condition))
        done, total = 0, self.count(height, width)
        x = pad_to_multiple(x, self.multiple, self.dims)
        condition = None if condition is None else pad_to_multiple(condition, self.multiple, self.dims)
        inside, (height, width) = self._inside(height, width, x), x.shape[-2:]
        result: Tensor | None = None
        log_variance: Tensor | None = None
        weight = torch.zeros(height, width, device=x.device, dtype=x.dtype)
        for places, windows in self._batches(height, width):
            parts = torch.cat([x[..., rows, columns] for rows, columns in places])
            conditions = None if condition is None else torch.cat([condition[..., r, c] for r, c in places])
            level = sigma.repeat(len(places)) if isinstance(sigma, Tensor) and sigma.ndim else sigma
            prediction = yield from self.prior.asking(parts, level, conditions)
            del parts, conditions
            if result is None:
                result = torch.zeros_like(x)
                log_variance = None if prediction.log_variance is None else torch.zeros_like(x)
            for k, ((rows, columns), window) in enumerate(zip(places, windows, strict=True)):
                part = slice(k * len(x), (k + 1) * len(x))
                window = window.to(x.device, x.dtype)
                result[..., rows, columns] += window * prediction.x0[part]
                if log_variance is not None and prediction.log_variance is not None:
                    log_variance[..., rows, columns] += window * prediction.log_variance[part]
                weight[rows, columns] += window
            done += len(places)
            if self.on_tile is not None:
                self.on_tile(done, total)
        assert result is not None
        return Prediction(
            result.div_(weight)[inside], None if log_variance is None else log_variance.div_(weight)[inside]
        )

    def _inside(self, height: int, width: int, padded: Tensor) -> tuple[Any, ...]:
        """Return the index of the picture within the padded one."""
        top = padded.shape[-2] - height if -2 in self.dims else 0
        left = padded.shape[-1] - width if -1 in self.dims else 0
        return ..., slice(top, top + height), slice(left, left + width)

    def _whole(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None) -> Asking[Prediction]:
        prediction = yield from self.prior.asking(x, sigma, condition)
        if self.on_tile is not None:
            self.on_tile(1, 1)
        return prediction

    def _batches(self, height: int, width: int) -> Iterator[tuple[list[tuple[slice, slice]], list[Tensor]]]:
        """Yield the places and the blending windows of the tiles, `batch` tiles at a time.

        Tiles have one size, or that of the picture along an axis where it is smaller.
        """
        down, across = min(self._side, height), min(self._side, width)
        tops, lefts = self._starts(height), self._starts(width)
        tiles = []
        for i, top in enumerate(tops):
            for j, left in enumerate(lefts):
                window = ramp(tops, i, down)[:, None] * ramp(lefts, j, across)[None, :]
                tiles.append(((slice(top, top + down), slice(left, left + across)), window))
        for first in range(0, len(tiles), self.batch):
            places, windows = zip(*tiles[first : first + self.batch], strict=True)
            yield list(places), list(windows)


class _TiledResources(WrapperResources):
    """Resources of a `Tiled` prior."""

    def __init__(self, prior: Tiled) -> None:
        super().__init__(prior.prior, prior.with_prior)
        self._pixels = prior.batch * prior.tile**2

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """Return what the tiles of one call take."""
        return super().evaluation_bytes(min(pixels, self._pixels), low=low)
