"""The network that judges strokes: what it does untrained, and what its calibration does."""

from __future__ import annotations

import torch

from restorer.networks.stroke_judge import CONTEXT_SIZE, StrokeJudge


def test_a_fresh_judge_changes_nothing() -> None:
    contexts = torch.randn(50, CONTEXT_SIZE)
    judge = StrokeJudge()
    judge.calibrate(contexts)
    with torch.no_grad():
        assert torch.equal(judge(contexts), contexts[:, 0])


def test_the_calibration_makes_contexts_standard() -> None:
    contexts = 3 + 7 * torch.randn(1000, CONTEXT_SIZE)
    contexts[:, 5] = 2.0  # one that does not vary is left at zero
    judge = StrokeJudge()
    judge.calibrate(contexts)
    standard = (contexts - judge.mean) / judge.deviation
    torch.testing.assert_close(standard.mean(0), torch.zeros(CONTEXT_SIZE), atol=1e-3, rtol=0)
    expected = torch.ones(CONTEXT_SIZE)
    expected[5] = 0
    torch.testing.assert_close(standard.std(0), expected, atol=1e-3, rtol=0)
