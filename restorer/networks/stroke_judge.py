"""The network that judges a doubtful pixel by what was found around it.

The network that finds scratches sees a tile, and says what it makes of each pixel. What a stroke is shows in more than
that: fair odds mean little alone, much on a line of fair odds, and little again in a texture that is full of them. The
judge is a perceptron of two hidden layers that corrects the log odds of a pixel by their context
(`restorer.measurement.strokes`):

    judged = odds + mlp((context - mean) / deviation)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CONTEXT_SIZE", "StrokeJudge"]

CONTEXT_SIZE = 13
"""Numbers that describe the context of a pixel. The first is its own log odds."""

HIDDEN = 24


class StrokeJudge(nn.Module):
    """The network of the module docstring. A fresh one changes nothing."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(CONTEXT_SIZE, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1)
        )
        for zero in self.layers[-1].parameters():
            nn.init.zeros_(zero)
        self.register_buffer("mean", torch.zeros(CONTEXT_SIZE))
        self.register_buffer("deviation", torch.ones(CONTEXT_SIZE))

    @torch.no_grad()
    def calibrate(self, context: Tensor) -> None:
        """Set the mean and the deviation that make a context (N, CONTEXT_SIZE) standard."""
        self.mean.copy_(context.mean(0))
        self.deviation.copy_(context.std(0).clamp(min=1e-3))

    def forward(self, context: Tensor) -> Tensor:
        """Return the log odds that pixels are damaged, (N,).

        Args:
            context: What `restorer.measurement.strokes.context_of` says about them, (N, CONTEXT_SIZE).
        """
        return context[:, 0] + self.layers((context - self.mean) / self.deviation)[:, 0]
