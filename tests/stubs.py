"""Test doubles of priors: one that records its evaluations, and some that fail as networks and machines do."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from gaussian import GaussianPrior
from torch import Tensor

from restorer.diffusion.prior import Prediction, Prior, PriorWrapper, Resources, WrapperResources, per_item

__all__ = ["Broken", "Greedy", "Imprecise", "Smooth", "Spy", "Wrapper"]


class Smooth(GaussianPrior):
    """Gaussian pixels around the mean of the picture itself.

    This prior is cheap, takes any size, and returns pictures that resemble its input.
    """

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Return the posterior mean for pixels whose mean is that of x."""
        variance = per_item(sigma, x).square().view(-1, 1, 1, 1).to(x.device, x.dtype)
        mu = x.mean((-2, -1), keepdim=True)
        return Prediction((self.v * x + variance * mu) / (self.v + variance))


class Wrapper(PriorWrapper):
    """A prior that asks another one. Subclasses override the methods of `Resources` directly."""

    def __init__(self, prior: Prior | None = None) -> None:
        super().__init__(prior or GaussianPrior())

    @property
    def resources(self) -> Resources:
        """Resources whose methods are those of this object."""
        return _OwnResources(self)

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Return the other prior's answer."""
        return self.prior.predict(x, sigma, condition)

    def full_precision(self) -> Prior | None:
        """Return None: there is no other precision."""
        return None

    def low_precision(self) -> Prior | None:
        """Return None: there is no other precision."""
        return None

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """Return the bytes that an evaluation of the other prior takes."""
        return self.prior.resources.evaluation_bytes(pixels, low=low)

    def kept_bytes(self, *, low: bool = False) -> int:
        """Return the bytes that the other prior keeps."""
        return self.prior.resources.kept_bytes(low=low)


class _OwnResources(WrapperResources):
    """The resources of a `Wrapper`, whose methods are those of the wrapper."""

    def __init__(self, wrapper: Wrapper) -> None:
        super().__init__(wrapper.prior)
        self.full_precision, self.low_precision = wrapper.full_precision, wrapper.low_precision
        self.evaluation_bytes, self.kept_bytes = wrapper.evaluation_bytes, wrapper.kept_bytes


@dataclass
class Call:
    """Input and output of one evaluation."""

    x: Tensor
    sigma: float
    x0: Tensor = field(repr=False)


class Spy(Wrapper):
    """A prior that records its evaluations in `calls`."""

    def __init__(self, prior: Prior | None = None) -> None:
        super().__init__(prior)
        self.calls: list[Call] = []

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Return the other prior's answer, and record it."""
        prediction = super().predict(x, sigma, condition)
        self.calls.append(Call(x.clone(), float(torch.as_tensor(sigma).max()), prediction.x0.clone()))
        return prediction


class Greedy(Wrapper):
    """A prior that runs out of memory on pictures with a side above `limit`."""

    def __init__(self, limit: int, error: Exception, prior: Prior | None = None) -> None:
        super().__init__(prior)
        self.limit, self.error = limit, error

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Return the other prior's answer, or raise `error` for a large picture."""
        if max(x.shape[-2:]) > self.limit:
            raise self.error
        return super().predict(x, sigma, condition)


class Imprecise(Wrapper):
    """A prior that returns nan, as half precision may; `precise` is its version in float32, or None."""

    def __init__(self, precise: Prior | None) -> None:
        super().__init__()
        self.precise = precise

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Return a picture with one value that is nan."""
        x0 = x.clone()
        x0.view(-1)[0] = torch.nan
        return Prediction(x0)

    def full_precision(self) -> Prior | None:
        """Return `precise`."""
        return self.precise


class Broken(Wrapper):
    """A prior that raises `error` at evaluation number `at`, counted from 1."""

    def __init__(self, error: BaseException, at: int = 1) -> None:
        super().__init__(Smooth())
        self.error, self.at, self.count = error, at, 0

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Return the other prior's answer, or raise `error` when it is due."""
        self.count += 1
        if self.count == self.at:
            raise self.error
        return super().predict(x, sigma, condition)
