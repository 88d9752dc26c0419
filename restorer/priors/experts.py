r"""A prior of two networks: one answers the first evaluation of a restoration, the other all later ones.

A diffusion model knows nothing of what was lost: at a high level it answers with the mean of all pictures that are
possible. A network that was trained for one kind of loss gives a better first answer, from which the diffusion model
continues at low levels. Both stand behind one `Prior`:

    predict(x, s) = first(x, (s - b) / SPREAD)    for s >= BOUNDARY
                    prior(x, s)                   otherwise

For an enlargement, x is the small picture enlarged by interpolation, b = 0, and in place of a noise level `first` is
told by how much the picture was enlarged and what is known of it (`first_level`). For a JPEG file, x is the decoded
picture, b = BOUNDARY, and `first` is told how coarse the file is (`decompressing_level`). SPREAD and b keep these
levels apart from those of the diffusion model.

Source: Balaji et al. 2022, "eDiff-I: Text-to-Image Diffusion Models with an Ensemble of Expert Denoisers",
https://arxiv.org/abs/2211.01324: different networks for different levels of one reverse process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.prior import Prediction, Prior, PriorWrapper, Resources, WrapperResources, per_item

__all__ = [
    "BOUNDARY",
    "SPREAD",
    "Experts",
    "Shifted",
    "State",
    "compression_level",
    "decompressing_level",
    "first_level",
]

BOUNDARY = 0.5
"""Lowest level, on the [-1, 1] scale, that the first network answers."""

SPREAD = 8.0
"""Factor on the levels of the first network."""

LOWEST_FREQUENCIES = 4
"""Largest sum of the vertical and the horizontal frequency of the coefficients that `compression_level` counts."""

LEVEL_PER_SCALE = 0.05
"""Level that the first network is told for each unit of the factor of enlargement."""

State = Literal["clean", "damaged", "soft", "repaired"]
"""What is known of a small picture: it was only shrunk, it is noisy or damaged otherwise, it was blurred, or its
noise was removed or its compression undone already."""

LEVELS: dict[State, float] = {"clean": 0.0, "damaged": 0.2, "soft": 0.35, "repaired": 0.5}
"""By how much this level rises with the state of the picture."""


def compression_level(steps: Tensor) -> float:
    """Return what a network that undoes JPEG compression is told of a file, as a level on the [-1, 1] scale.

    It is the standard deviation of the rounding of the lowest frequencies, from which all pictures get the most.

    Args:
        steps: The quantization table of the luminance in levels, (8, 8), by vertical and horizontal frequency.
    """
    rows = torch.arange(len(steps))
    lowest = steps[rows[:, None] + rows <= LOWEST_FREQUENCIES].double()
    return float((lowest.square().mean() / 12).sqrt()) / 127.5


def first_level(scale: float, state: State) -> float:
    """Return the level of a plan at which the first network is asked.

    Args:
        scale: The factor of enlargement, at least 1.5.
        state: What is known of the small picture.
    """
    return SPREAD * (LEVEL_PER_SCALE * scale + LEVELS[state])


def decompressing_level(steps: Tensor) -> float:
    """Return the level of a plan at which the network that undoes JPEG compression is asked.

    Args:
        steps: As in `compression_level`.
    """
    return BOUNDARY + SPREAD * compression_level(steps)


class Experts(PriorWrapper):
    """A prior whose first evaluation another network answers.

    Args:
        prior: The diffusion model.
        first: The network that answers at `BOUNDARY` and above, in the same form and precision.
        name: The name of that network.
        base: The level b of the module docstring.
    """

    def __init__(self, prior: Prior, first: Prior, name: str = "", base: float = 0.0) -> None:
        super().__init__(prior)
        self.first, self.name, self.base = first, name, base
        self.sigma_max = max(prior.sigma_max, base + SPREAD * first.sigma_max)

    @property
    def resources(self) -> Resources:
        """Resources of both networks."""
        return _ExpertsResources(self)

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Ask the network whose level it is, for each picture of the batch; see `Prior.predict`.

        There is no condition, and no learned variance.
        """
        levels = per_item(sigma, x)
        is_first = levels >= BOUNDARY
        if bool(is_first.all()):
            return Prediction(self.first.predict(x, self._told(levels)).x0)
        if not bool(is_first.any()):
            return Prediction(self.prior.predict(x, sigma).x0)
        x0 = torch.empty_like(x)
        x0[is_first] = self.first.predict(x[is_first], self._told(levels[is_first])).x0
        x0[~is_first] = self.prior.predict(x[~is_first], levels[~is_first]).x0
        return Prediction(x0)

    def _told(self, levels: Tensor) -> Tensor:
        """Return what the first network is told at levels of a plan."""
        return (levels - self.base) / SPREAD


class Shifted(PriorWrapper):
    """A prior that sees a picture behind rows and columns that are missing, so that it begins on a grid of blocks.

    A picture that was cropped after it had been compressed begins within a block. The missing part is filled with the
    first row and column, and cut off again. All tiles of a picture, which begin at multiples of `Prior.multiple`, lie
    alike on a grid of blocks of that size.

    Args:
        prior: The other prior.
        missing: Number of rows and columns of the first blocks that are missing.
    """

    def __init__(self, prior: Prior, missing: tuple[int, int]) -> None:
        super().__init__(prior)
        self.missing = missing

    @property
    def resources(self) -> Resources:
        """Resources of the other prior."""
        return WrapperResources(self.prior, lambda prior: Shifted(prior, self.missing))

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Ask the other prior about the completed picture; see `Prior.predict`. There is no condition."""
        down, across = self.missing
        x0 = self.prior.predict(F.pad(x, (across, 0, down, 0), mode="replicate"), sigma).x0
        return Prediction(x0[..., down:, across:])


class _ExpertsResources(WrapperResources):
    """Resources of an `Experts` prior: the larger evaluation, and the weights of both."""

    def __init__(self, experts: Experts) -> None:
        super().__init__(experts.prior)
        self._experts, self._first = experts, experts.first.resources

    @contextmanager
    def run(self, sigmas: Sequence[float]) -> Iterator[None]:
        """Announce to each network the levels that it is asked about."""
        own = [(s - self._experts.base) / SPREAD for s in sigmas if s >= BOUNDARY]
        with self._first.run(own), self._inner.run([s for s in sigmas if s < BOUNDARY]):
            yield

    def full_precision(self) -> Prior | None:
        """Return both networks in float32; None if they are in float32 already."""
        return self._both(self._inner.full_precision(), self._first.full_precision())

    def low_precision(self) -> Prior | None:
        """Return both networks in half the memory; None if there is no such form."""
        return self._both(self._inner.low_precision(), self._first.low_precision())

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """Return what the larger of both evaluations takes."""
        return max(of.evaluation_bytes(pixels, low=low) for of in (self._inner, self._first))

    def kept_bytes(self, *, low: bool = False) -> int:
        """Return what the next evaluations of both networks keep."""
        return sum(of.kept_bytes(low=low) for of in (self._inner, self._first))

    def _both(self, prior: Prior | None, first: Prior | None) -> Prior | None:
        if prior is None or first is None:
            return None
        return Experts(prior, first, self._experts.name, self._experts.base)
