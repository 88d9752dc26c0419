"""The training of the judge of strokes: which pixels it learns from, and that it learns what the context says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.measurement.strokes import LENGTHS
from restorer.networks.scratch_finder import ScratchFinder
from restorer.networks.stroke_judge import CONTEXT_SIZE
from restorer.training import stroke_judge
from restorer.training.datasets import find_sources
from restorer.training.scratch_finder import Example
from restorer.training.stroke_judge import examples_of, fit, pixels_of

IMAGES = Path(__file__).resolve().parents[1] / "images"


class Red(ScratchFinder):
    """A finder for which the red channel decides."""

    def forward(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        return 10 * x[:, 0] - 5


def test_it_learns_from_what_it_is_asked_about_and_what_counts() -> None:
    picture = torch.zeros(3, 32, 48)
    picture[0, 4], picture[0, 20] = 1.0, 0.6
    target, weight = torch.zeros(32, 48), torch.full((32, 48), 0.5)
    target[4], weight[20, :10] = 1.0, 0.0
    contexts, damaged, counts = pixels_of(Example(picture, target, weight), Red(), lambda x: [])
    assert contexts.shape == (48 + 38, CONTEXT_SIZE)
    assert damaged.sum() == 48 and (contexts[damaged > 0, 0] == 5).all()
    torch.testing.assert_close(contexts[damaged == 0, 0], torch.ones(38))
    assert (counts == 0.5).all()


def test_it_learns_that_a_line_means_more_than_a_pixel() -> None:
    """Of pixels with the same odds, those on lines are damaged."""
    torch.manual_seed(0)
    contexts = torch.randn(4000, CONTEXT_SIZE)
    line = 1 + 3 * LENGTHS.index(16)
    target = (contexts[:, line] > 0).float()
    weight = torch.ones(4000)
    weight[:100], target[:100] = 0.0, 1 - target[:100]  # what does not count misleads nobody
    judge = fit((contexts, target, weight), steps=150)
    with torch.no_grad():
        odds = judge(contexts)
    after, before = (F.binary_cross_entropy_with_logits(x[100:], target[100:]) for x in (odds, contexts[:, 0]))
    assert after < 0.2 < before
    assert float(((odds > 0) == (target > 0))[100:].float().mean()) > 0.95


def test_examples_are_of_different_photographs_and_as_large_as_the_judge_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stroke_judge, "SIDE", 96)
    sources = find_sources([IMAGES / "gates.jpg", IMAGES / "grapes.jpg"], 192).sources
    first, second = examples_of(sources, 2, seed=0)
    assert first.picture.shape == second.picture.shape == (3, 96, 96)
    assert first.target.shape == (96, 96) and not torch.equal(first.picture, second.picture)
    again, _ = examples_of(sources, 2, seed=0)
    assert torch.equal(first.picture, again.picture)
