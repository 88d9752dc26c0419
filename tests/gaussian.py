"""A prior of which everything is known: independent Gaussian pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from restorer.diffusion.prior import Prediction, Prior, per_item


class GaussianPrior(Prior):
    """x_0 ~ N(mu, v I), so that E[x_0 | x] = (v x + sigma^2 mu) / (v + sigma^2).

    Args:
        mu: the mean, a number or a tensor that broadcasts to the picture.
        v: the variance.
    """

    def __init__(self, mu: float | Tensor = 0.0, v: float = 0.25) -> None:
        self.mu, self.v = mu, v
        self.channels, self.native_size, self.clip = 3, None, False
        self.sigma_min, self.sigma_max, self.device = 0.0, math.inf, torch.device("cpu")

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """The posterior mean, pixel by pixel."""
        variance = per_item(sigma, x).square().view(-1, 1, 1, 1).to(x.device, x.dtype)
        return Prediction((self.v * x + variance * self.mu) / (self.v + variance))
