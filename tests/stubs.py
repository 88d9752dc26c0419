"""Priors around a prior: one that remembers what it was asked, and some that fail as networks and machines do."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from gaussian import GaussianPrior
from torch import Tensor

from restorer.diffusion.prior import Around as _Around
from restorer.diffusion.prior import Prediction, Prior, per_item

__all__ = ["Around", "Broken", "Greedy", "Imprecise", "Smooth", "Spy"]


class Smooth(GaussianPrior):
    """Gaussian pixels around the picture's own mean: cheap, any size, and what comes out looks like what goes in."""

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """The posterior mean for a mean pixel that is that of x."""
        variance = per_item(sigma, x).square().view(-1, 1, 1, 1).to(x.device, x.dtype)
        mu = x.mean((-2, -1), keepdim=True)
        return Prediction((self.v * x + variance * mu) / (self.v + variance))


class Around(_Around):
    """A prior that asks another one."""

    def __init__(self, prior: Prior | None = None) -> None:
        super().__init__(prior or GaussianPrior())

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """What the other one says."""
        return self.prior.predict(x, sigma, condition)


@dataclass
class Call:
    """One evaluation: what went in and what came out."""

    x: Tensor
    sigma: float
    x0: Tensor = field(repr=False)


class Spy(Around):
    """Remembers every evaluation in `calls`."""

    def __init__(self, prior: Prior | None = None) -> None:
        super().__init__(prior)
        self.calls: list[Call] = []

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """What the other one says, noted down."""
        prediction = super().predict(x, sigma, condition)
        self.calls.append(Call(x.clone(), float(torch.as_tensor(sigma).max()), prediction.x0.clone()))
        return prediction


class Greedy(Around):
    """Runs out of memory on pictures with a side above `limit`."""

    def __init__(self, limit: int, error: Exception, prior: Prior | None = None) -> None:
        super().__init__(prior)
        self.limit, self.error = limit, error

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """What the other one says, if it fits."""
        if max(x.shape[-2:]) > self.limit:
            raise self.error
        return super().predict(x, sigma, condition)


class Imprecise(Around):
    """Gives nan, as half precision may; `precise` is the same in float32, None where there is no such thing."""

    def __init__(self, precise: Prior | None) -> None:
        super().__init__()
        self.precise = precise

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """A picture with one value that is nan."""
        x0 = x.clone()
        x0.view(-1)[0] = torch.nan
        return Prediction(x0)

    def full_precision(self) -> Prior | None:
        """See `Prior.full_precision`."""
        return self.precise


class Broken(Around):
    """Raises `error` at evaluation number `at`, from 1."""

    def __init__(self, error: BaseException, at: int = 1) -> None:
        super().__init__(Smooth())
        self.error, self.at, self.count = error, at, 0

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """What the other one says, until it is time."""
        self.count += 1
        if self.count == self.at:
            raise self.error
        return super().predict(x, sigma, condition)
