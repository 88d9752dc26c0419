"""The contexts of pixels that the judge of strokes sees, against means that are written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.measurement import strokes
from restorer.measurement.strokes import CANDIDATE, LENGTHS, MOST, RADII, context_of, line_means
from restorer.networks.stroke_judge import CONTEXT_SIZE

BOTH, LESS, MORE = range(3)


def planes(odds: Tensor) -> Tensor:
    """Return the contexts of a picture all of whose pixels are judged, (CONTEXT_SIZE, H, W)."""
    chosen, contexts = context_of(odds)
    assert chosen.all()
    return contexts.T.reshape(-1, *odds.shape)


def random_odds(height: int, width: int) -> Tensor:
    return torch.rand(height, width, generator=torch.Generator().manual_seed(0)) * 6 - 3


def test_lines_along_the_axes_are_plain_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two orientations, the lines are rows and columns, and all sums can be written out."""
    monkeypatch.setattr(strokes, "ORIENTATIONS", 2)
    odds = random_odds(80, 90).double()
    found = list(line_means(odds))
    y, x = 40, 45
    for number, length in enumerate(LENGTHS):
        row = odds[y, x : x + length].mean(), odds[y, x - length + 1 : x + 1].mean()
        column = odds[y : y + length, x].mean(), odds[y - length + 1 : y + 1, x].mean()
        expected = [
            max(sum(row), sum(column)) / 2,
            max(min(row), min(column)),
            max(*row, *column),
        ]
        for plane, value in zip(found[3 * number : 3 * number + 3], expected, strict=True):
            assert float(plane[y, x]) == pytest.approx(float(value))


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.9, math.pi / 2, 2.0, 3.0])
def test_a_stroke_of_any_direction_shows_on_both_sides_and_at_its_end_on_one(angle: float) -> None:
    rows, columns = torch.meshgrid(torch.arange(201.0), torch.arange(201.0), indexing="ij")
    along = (columns - 100) * math.cos(angle) + (rows - 100) * math.sin(angle)
    across = (rows - 100) * math.cos(angle) - (columns - 100) * math.sin(angle)
    odds = torch.full((201, 201), -7.0)
    odds[(across.abs() <= 2) & (along.abs() <= 60)] = 2.0
    found = torch.stack(list(line_means(odds))).reshape(len(LENGTHS), 3, 201, 201)
    end = round(100 + 58 * math.sin(angle)), round(100 + 58 * math.cos(angle))
    beside = round(100 + 8 * math.cos(angle)), round(100 - 8 * math.sin(angle))
    for means in found:
        assert means[LESS, 100, 100] > 1.5 and means[BOTH, 100, 100] > 1.5
        assert means[MORE, *end] > 1.5
        assert means[BOTH, *beside] < -4
    assert found[-1, LESS, *end] < 0


def test_squares_are_plain_means_of_the_probability() -> None:
    odds = random_odds(50, 60)
    margin = max(RADII)
    padded = F.pad(odds[None, None], (margin,) * 4, mode="replicate").sigmoid()
    for plane, radius in zip(planes(odds)[-len(RADII) :], RADII, strict=True):
        cut = margin - radius
        expected = F.avg_pool2d(padded, 2 * radius + 1, 1)[0, 0]
        expected = expected[cut : cut + 50, cut : cut + 60].logit()
        torch.testing.assert_close(plane, expected, atol=1e-4, rtol=1e-4)


def test_only_pixels_with_a_chance_are_judged() -> None:
    odds = torch.full((30, 40), CANDIDATE - 1)
    odds[3, 4], odds[20, 30], odds[5] = CANDIDATE + 0.1, 20.0, -torch.inf
    chosen, contexts = context_of(odds)
    assert chosen.sum() == 2 and chosen[3, 4] and chosen[20, 30]
    assert contexts.shape == (2, CONTEXT_SIZE) and contexts.isfinite().all()
    assert contexts[:, 0].tolist() == pytest.approx([CANDIDATE + 0.1, MOST])
    none = context_of(torch.full((3, 4), -9.0))
    assert not none[0].any() and none[1].shape == (0, CONTEXT_SIZE)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    odds = random_odds(150, 130)
    whole = planes(odds)
    monkeypatch.setattr(strokes, "TILE", 64)
    torch.testing.assert_close(planes(odds), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 70), (70, 3)])
def test_small_pictures_have_contexts(size: tuple[int, int]) -> None:
    assert planes(torch.zeros(size)).abs().max() < 1e-5
