"""The membrane over a hole: discrete harmonic functions are continued as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from restorer.images.membrane import membranes
from restorer.images.patch_fill import _pyramid


@pytest.mark.parametrize("side", [5, 12, 30])
@pytest.mark.parametrize(
    "function",
    [lambda x, y: 0.3 * x - 0.7 * y, lambda x, y: x * y, lambda x, y: x * x - y * y, lambda x, y: 0 * x + 0.4],
)
def test_harmonic_functions_are_continued(function: Callable[[Tensor, Tensor], Tensor], side: int) -> None:
    place = torch.linspace(-1, 1, 96)
    picture = function(place[None], place[:, None]).expand(3, 96, 96)
    hole = torch.zeros(96, 96, dtype=torch.bool)
    hole[40 : 40 + side, 31 : 31 + side] = True
    levels = [(colour[:3], unknown) for colour, unknown in _pyramid(torch.where(hole, 7.0, picture), hole)]
    finest = membranes(levels)[0]
    assert torch.equal(finest[:, ~hole], picture[:, ~hole])
    assert float((finest - picture).abs().max()) < 0.02


def test_the_membrane_stays_within_the_values_of_the_rim() -> None:
    picture = torch.rand(3, 80, 80, generator=torch.Generator().manual_seed(0))
    hole = torch.zeros(80, 80, dtype=torch.bool)
    hole[20:50, :30] = True  # at the border of the picture
    levels = [(colour[:3], unknown) for colour, unknown in _pyramid(picture, hole)]
    made = membranes(levels)
    assert [m.shape[-2:] for m in made] == [unknown.shape for _, unknown in levels]
    assert all(float(m.min()) >= 0 and float(m.max()) <= 1 for m in made)
    assert 0.35 < float(made[0][:, hole].mean()) < 0.65 and float(made[0][:, hole].std()) < 0.15
