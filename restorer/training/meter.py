"""Figures of a training run: sums over its steps, from which a report is made now and then."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from restorer.training.ranks import Ranks
from restorer.training.recipe import Recipe

__all__ = ["LEVELS", "Meter", "Progress"]

LEVELS = 10  # number of intervals of t for which the loss is reported separately


@dataclass(frozen=True)
class Progress:
    """The progress of a training run, averaged over the steps since the last report.

    The names of the fields are the keys of a line of metrics.jsonl.

    Args:
        step: Number of steps done.
        steps: Number of steps in all.
        loss: Mean loss.
        levels: Mean loss of each tenth of t, nan for a tenth from which no t was drawn.
        rate: Crops per second.
        waiting: Share of the time that is spent waiting for crops, 0 to 1.
        left: Estimated time left, in seconds.
        learning_rate: Learning rate of the last step.
        gradient: Largest norm of the gradient before clipping.
        peak_share: Operations of the network a second, as a share of what the GPUs can do at most, 0 to 1; None if that
            is not known.
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
    peak_share: float | None = None


class Meter:
    """Sums since the last report. They stay on the device, so that no step waits for a GPU.

    Args:
        device: Device of the losses.
        step: Number of steps done before the first step that is added.
        ranks: The processes of the run.
        peak: Crops a second that the GPUs could be trained on at most; None if that is not known.

    Attributes:
        wait_seconds: Time spent waiting for crops; whoever waits adds to it.
    """

    def __init__(self, device: torch.device, step: int, ranks: Ranks | None = None, peak: float | None = None) -> None:
        self._ranks, self._peak = ranks or Ranks(), peak
        self._sums = torch.zeros(LEVELS, 2, dtype=torch.float64, device=device)
        self._gradient = torch.zeros((), device=device)
        self.wait_seconds, self._start, self._first = 0.0, time.monotonic(), step

    def add_losses(self, t: Tensor, errors: Tensor, steps: int) -> None:
        """Add the losses (B,) of crops at timesteps t (B,), on their device, of a schedule of `steps` timesteps."""
        level = (t / steps * LEVELS).long()
        self._sums[:, 0].index_add_(0, level, errors.detach().double())
        self._sums[:, 1].index_add_(0, level, torch.ones_like(errors, dtype=torch.float64))

    def add_gradient(self, norm: Tensor) -> None:
        """Add the norm of a gradient, a scalar, of which the report gives the largest."""
        self._gradient.copy_(torch.maximum(self._gradient, norm.to(self._gradient.dtype)))

    def report(self, step: int, recipe: Recipe) -> Progress:
        """Return the progress of all processes when `step` steps of the recipe are done."""
        self._ranks.add_up(self._sums)
        (waited,) = self._ranks.largest(self.wait_seconds)
        totals, counts = self._sums.T.tolist()
        seconds = max(time.monotonic() - self._start, 1e-9)
        steps = max(step - self._first, 1)
        rate = steps * recipe.batch * recipe.accumulate / seconds
        return Progress(
            step=step,
            steps=recipe.steps,
            loss=sum(totals) / max(sum(counts), 1),
            levels=tuple(s / n if n else math.nan for s, n in zip(totals, counts, strict=True)),
            rate=rate,
            waiting=min(waited / seconds, 1.0),
            left=(recipe.steps - step) * seconds / steps,
            learning_rate=recipe.rate_at(step - 1),
            gradient=float(self._gradient),
            peak_share=None if self._peak is None else rate / self._peak,
        )
