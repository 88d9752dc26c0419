"""Tiles: a prior that looks at single pixels must give the same picture in tiles as whole."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gaussian import GaussianPrior
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from restorer.diffusion.prior import Prediction, pad_to_multiple
from restorer.diffusion.reverse import MIRRORS
from restorer.diffusion.schedule import Schedule
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.priors.tiled import MARGIN, Tiled, tile_starts
from restorer.priors.unet_prior import ModelSpec, UNetPrior


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return normal random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Spy(GaussianPrior):
    """A pixelwise prior with a log variance that lists the shapes of its inputs."""

    def __init__(self) -> None:
        super().__init__(0.3, 0.25)
        self.shapes: list[tuple[int, ...]] = []

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        self.shapes.append(tuple(x.shape))
        x0 = super().predict(x, sigma).x0
        return Prediction(x0 if condition is None else x0 + condition, x0.sin())


class IdentityPrior(GaussianPrior):
    """A prior that returns its input, so that only the blending of the tiles remains."""

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        return Prediction(x)


@st.composite
def tilings(draw: st.DrawFn) -> dict[str, Any]:
    """Draw arguments of `Tiled`."""
    tile = draw(st.integers(3, 24))
    return {"tile": tile, "overlap": draw(st.integers(0, 3 * tile // 4)), "batch": draw(st.integers(1, 5))}


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 32), width=st.integers(1, 32), items=st.integers(1, 2), tiling=tilings())
def test_a_pixelwise_prior_is_the_same_in_tiles(height: int, width: int, items: int, tiling: dict[str, Any]) -> None:
    """x0 and the log variance agree for pictures at levels of their own, and all tiles have one size."""
    x, sigma = random(items, 3, height, width), torch.tensor([0.2, 1.5])[:items]
    whole = GaussianPrior(0.3, 0.25).predict(x, sigma).x0
    spy = Spy()
    tiled = Tiled(spy, **tiling)
    prediction = tiled.predict(x, sigma)
    torch.testing.assert_close(prediction.x0, whole, rtol=0, atol=1e-6)
    assert prediction.log_variance is not None
    torch.testing.assert_close(prediction.log_variance, whole.sin(), rtol=0, atol=1e-6)
    side = min(height, tiling["tile"]), min(width, tiling["tile"])
    assert {shape[-2:] for shape in spy.shapes} == {side}
    assert sum(shape[0] for shape in spy.shapes) == items * tiled.count(height, width)
    assert max(shape[0] for shape in spy.shapes) <= items * tiling["batch"]


@settings(deadline=None, max_examples=200)
@given(extent=st.integers(1, 3000), tile=st.integers(1, 600), data=st.data())
def test_tile_starts(extent: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    starts = tile_starts(extent, tile, overlap)
    if extent <= tile:
        assert starts == [0]
        return
    assert starts[0] == 0 and starts[-1] == extent - tile
    steps = [b - a for a, b in pairwise(starts)]
    assert min(steps) >= 1 and max(steps) <= tile - overlap  # neighbours share at least `overlap`
    # One tile fewer cannot cover the extent with that overlap.
    assert (len(starts) - 1) * (tile - overlap) + overlap < extent


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 32), width=st.integers(1, 32), tiling=tilings())
def test_every_pixel_has_a_weight(height: int, width: int, tiling: dict[str, Any]) -> None:
    total = torch.zeros(height, width)
    for places, windows in Tiled(IdentityPrior(), **tiling)._batches(height, width):
        for (rows, columns), window in zip(places, windows, strict=True):
            assert bool((window >= 0).all()) and bool((window <= 1).all())
            total[rows, columns] += window
    assert bool((total > 0.1).all())


def test_two_windows_that_meet_share_all_the_weight() -> None:
    """Where only two tiles overlap, their raised cosines add up to 1 and fall gradually."""
    total = torch.zeros(16, 24)
    for places, windows in Tiled(IdentityPrior(), 16, overlap=8)._batches(16, 24):
        for (rows, columns), window in zip(places, windows, strict=True):
            total[rows, columns] += window
            assert float((window[0].diff().abs()).max()) < 0.5
    torch.testing.assert_close(total, torch.ones(16, 24), rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [2, 3, 7, 100])
def test_the_batch_changes_nothing(batch: int) -> None:
    x = random(2, 3, 37, 50)
    one = Tiled(Spy(), 16, overlap=5, batch=1).predict(x, 0.4)
    many = Tiled(Spy(), 16, overlap=5, batch=batch).predict(x, 0.4)
    torch.testing.assert_close(many.x0, one.x0, rtol=0, atol=1e-6)
    torch.testing.assert_close(many.log_variance, one.log_variance, rtol=0, atol=1e-6)


def test_a_seam_is_blended() -> None:
    """Two tiles differ by 1. Of their 16 common pixels, each tile determines 4 alone, and 8 are on the cosine."""

    class CallNumber(IdentityPrior):
        """A prior that returns the number of earlier calls."""

        calls = 0

        def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
            self.calls += 1
            return Prediction(torch.full_like(x, self.calls - 1.0))

    x0 = Tiled(CallNumber(), 24, overlap=16).predict(torch.zeros(1, 1, 1, 32), 1.0).x0.flatten()
    rise = (torch.sin((torch.arange(8) + 0.5) / 8 * torch.pi / 2) ** 2).tolist()
    assert x0.tolist() == pytest.approx([0.0] * 12 + rise + [1.0] * 12, abs=1e-6)


def test_what_a_network_sees_at_its_border_does_not_count() -> None:
    """A prior that is wrong at the border of its input does not affect the canvas away from its own border."""

    class WrongAtBorder(IdentityPrior):
        """A prior that returns 9 within MARGIN pixels of the border."""

        def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
            x0 = torch.full_like(x, 9.0)
            x0[..., MARGIN:-MARGIN, MARGIN:-MARGIN] = x[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
            return Prediction(x0)

    x = random(1, 3, 230, 300)
    inside = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    for tile in (128, 200):
        torch.testing.assert_close(Tiled(WrongAtBorder(), tile).predict(x, 0.5).x0[inside], x[inside])


def test_a_condition_is_cropped_along() -> None:
    x, condition = random(2, 3, 21, 34), random(2, 3, 21, 34, seed=1)
    whole = Spy().predict(x, 0.5, condition).x0
    tiled = Tiled(Spy(), 9, overlap=3, batch=4).predict(x, 0.5, condition).x0
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_progress() -> None:
    progress: list[tuple[int, int]] = []
    tiled = Tiled(Spy(), 16, overlap=4, batch=2, on_tile=lambda done, total: progress.append((done, total)))
    assert tiled.count(16, 40) == 3 and tiled.count(30, 40) == 9
    tiled.predict(random(1, 3, 30, 40), 0.1)
    assert progress == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]
    progress.clear()
    tiled.predict(random(1, 3, 16, 9), 0.1)
    assert progress == [(1, 1)]
    quiet = tiled.with_callback(None)
    quiet.predict(random(1, 3, 30, 40), 0.1)
    assert progress == [(1, 1)] and (quiet.tile, quiet.overlap, quiet.batch) == (16, 4, 2)


def test_a_picture_within_one_tile_is_asked_whole() -> None:
    spy = Spy()
    x = random(1, 3, 10, 16)
    assert torch.equal(Tiled(spy, 16, overlap=4).predict(x, 0.3).x0, GaussianPrior(0.3, 0.25).predict(x, 0.3).x0)
    assert spy.shapes == [(1, 3, 10, 16)]


def test_halved() -> None:
    tiled = Tiled(Spy(), 256, overlap=64, batch=4)
    half = tiled.halved(64)
    assert half is not None and (half.tile, half.overlap, half.batch) == (128, 32, 1)
    quarter = half.halved(64)
    assert quarter is not None and quarter.tile == 64 and quarter.halved(64) is None


def test_a_tiled_prior_is_a_prior() -> None:
    spy = Spy()
    tiled = Tiled(spy, 16, overlap=4)
    for name in ("channels", "native_size", "clip", "sigma_min", "sigma_max", "device"):
        assert getattr(tiled, name) == getattr(spy, name)
    assert tiled.resources.full_precision() is None


@pytest.mark.parametrize(("tile", "overlap"), [(16, 16), (16, 20), (16, -1), (0, 0)])
def test_impossible_tiles_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError):
        Tiled(Spy(), tile, overlap=overlap)


class BlockMeanPrior(GaussianPrior):
    """A prior that returns means of blocks of 4x4 pixels, like a network that halves its features twice."""

    multiple = 4

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, 4)
        blocks = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4.0, mode="nearest")
        return Prediction(blocks[..., :height, :width])


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 60), width=st.integers(1, 60), tile=st.integers(8, 40), data=st.data())
def test_tiles_lie_on_the_grid_of_the_network(height: int, width: int, tile: int, data: st.DataObject) -> None:
    """The grid and the padding are those of the whole picture, for any sizes and any mirroring."""
    x = random(1, 3, height, width)
    tiled, whole = Tiled(BlockMeanPrior(), tile, overlap=data.draw(st.integers(0, tile - 1))), BlockMeanPrior()
    for dims in MIRRORS:
        answers = (prior.mirrored(dims).predict(x, 0.3).x0 for prior in (tiled, whole))
        torch.testing.assert_close(*answers, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_network_without_normalization_agrees_in_tiles() -> None:
    """For any size and tile, the network gives the same values wherever the borders of a tile have no influence."""
    torch.manual_seed(0)
    config = ResidualUNetConfig(12, 12, (8, 12))
    prior = UNetPrior(config.build(), ModelSpec(config, Schedule("squaredcos_cap_v2"), "v_prediction", patch_size=2))
    x = random(1, 3, 181, 235)
    whole = prior.predict(x, 0.3).x0
    for tile in (128, 160):
        assert float((Tiled(prior, tile, overlap=96).predict(x, 0.3).x0 - whole).abs().max()) < 1e-4
