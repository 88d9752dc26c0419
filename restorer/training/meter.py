"""How a training run goes: sums over its steps, read out now and then."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from restorer.training.recipe import Recipe

__all__ = ["LEVELS", "Meter", "Progress"]

LEVELS = 10  # intervals of t over which the loss is told apart


@dataclass(frozen=True)
class Progress:
    """How far a run is, over the steps since the last report.

    Args:
        step, steps: done, and in all. loss: mean. levels: mean loss of each tenth of t, nan where none was drawn.
        rate: crops a second. waiting: share of the time spent waiting for crops. left: seconds.
        learning_rate: of the last step. gradient: largest norm before clipping.
    """

    step: int
    steps: int
    loss: float
    levels: tuple[float, ...]
    rate: float
    waiting: float
    left: float
    learning_rate: float
    gradient: float


class Meter:
    """Sums since the last report; on the device, so that nothing waits for a GPU."""

    def __init__(self, device: torch.device, step: int) -> None:
        self._sums = torch.zeros(LEVELS, 2, dtype=torch.float64, device=device)
        self._gradient = torch.zeros((), device=device)
        self.waited, self._began, self._first = 0.0, time.monotonic(), step

    def add(self, t: Tensor, errors: Tensor, steps: int) -> None:
        level = (t.to(errors.device) / steps * LEVELS).long()
        self._sums[:, 0].index_add_(0, level, errors.detach().double())
        self._sums[:, 1].index_add_(0, level, torch.ones_like(errors, dtype=torch.float64))

    def gradient(self, norm: Tensor) -> None:
        self._gradient.copy_(torch.maximum(self._gradient, norm.to(self._gradient.dtype)))

    def report(self, step: int, recipe: Recipe) -> Progress:
        totals, counts = self._sums.T.tolist()
        seconds = max(time.monotonic() - self._began, 1e-9)
        steps = max(step - self._first, 1)
        return Progress(
            step=step,
            steps=recipe.steps,
            loss=sum(totals) / max(sum(counts), 1),
            levels=tuple(s / n if n else math.nan for s, n in zip(totals, counts, strict=True)),
            rate=steps * recipe.batch * recipe.accumulate / seconds,
            waiting=self.waited / seconds,
            left=(recipe.steps - step) * seconds / steps,
            learning_rate=recipe.rate_at(step - 1),
            gradient=float(self._gradient),
        )
