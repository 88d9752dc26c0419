"""A prior whose posterior is known in closed form: independent Gaussian pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from restorer.diffusion.prior import Prediction, Prior, per_item


class GaussianPrior(Prior):
    """A prior x_0 ~ N(mu, v I), so that E[x_0 | x] = (v x + sigma^2 mu) / (v + sigma^2).

    Args:
        mu: Mean, a number or a tensor that broadcasts to the picture.
        v: Variance.
    """

    def __init__(self, mu: float | Tensor = 0.0, v: float = 0.25) -> None:
        self.mu, self.v = mu, v
        self.channels, self.native_size, self.clip = 3, None, False
        self.sigma_min, self.sigma_max, self.device = 0.0, math.inf, torch.device("cpu")

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Return the posterior mean of each pixel."""
        variance = per_item(sigma, x).square().view(-1, 1, 1, 1).to(x.device, x.dtype)
        return Prediction((self.v * x + variance * self.mu) / (self.v + variance))
