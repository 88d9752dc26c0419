"""The losses of a training step: which timesteps are drawn, what a crop costs, and what each noise level weighs.

    L_simple = E_{x_0, eps, t} || target - network(x_t, t) ||^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

(Ho et al. 2020, eq. 14; the other objectives are in `diffusion/objective.py`). t is drawn more often where the noise is
low, because restoration takes place there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from restorer.diffusion.objective import hybrid_loss, min_snr_weight, simple_loss, target
from restorer.diffusion.schedule import alpha_bar_of
from restorer.networks.fast.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from restorer.priors.unet_prior import ModelSpec
from restorer.training.device_crops import send
from restorer.training.recipe import Recipe

__all__ = ["LevelMeans", "draw_t", "losses", "probability"]


def draw_t(count: int, recipe: Recipe, steps: int, generator: torch.Generator) -> Tensor:
    """Draw random timesteps.

    Args:
        count: Number B of timesteps.
        recipe: Says how often the lower timesteps are drawn, and whether timesteps are integers.
        steps: Number of timesteps T of the schedule.
        generator: Source of the random numbers.

    Returns:
        float64 (B,): integers from 0 to T - 1 if the recipe is discrete, otherwise real numbers in [0, T - 1].
    """
    low_t, low_share = _low_range(recipe, steps)
    last = steps if recipe.discrete else steps - 1
    share = torch.rand(count, generator=generator)
    u = torch.rand(count, dtype=torch.float64, generator=generator)
    t = torch.where(share < low_share, u * low_t, low_t + u * (last - low_t))
    return t.floor() if recipe.discrete else t


def probability(t: Tensor, recipe: Recipe, steps: int) -> Tensor:
    """Return the probability with which `draw_t` draws each of the integer timesteps t."""
    low_t, low_share = _low_range(recipe, steps)
    low, high = low_share / max(low_t, 1), (1 - low_share) / (steps - low_t)
    return torch.where(t < low_t, low, high)


def _low_range(recipe: Recipe, steps: int) -> tuple[int, float]:
    """Return the end of the lower timesteps and the share of draws among them.

    If no timesteps are below or none above, the result is (0, 0.0), so that all timesteps are equally likely.
    """
    return (recipe.low_t, recipe.low_share) if 0 < recipe.low_t < steps - 1 else (0, 0.0)


def losses(
    network: Callable[..., Tensor], spec: ModelSpec, recipe: Recipe, x0: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """Compute the loss of each crop.

    Args:
        network: (folded x_t, t) -> output.
        spec: Schedule, prediction type and patch size of the network.
        recipe: Gamma of the min-SNR weights, and the distribution from which t is drawn.
        x0: Clean crops on [-1, 1], (B, C, H, W), on the device of the network.
        t: Timesteps, float64 (B,), on the CPU.
        eps: Standard normal noise, shaped like x0 and on the same device.

    Returns:
        Losses, (B,).
    """
    schedule, gamma = spec.schedule, recipe.min_snr or None
    alpha_bar = send(alpha_bar_of(schedule.sigma_at(t)).view(-1, 1, 1, 1).to(x0.dtype), x0.device)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    folded = pixel_unshuffle(x_t, spec.patch_size, x_t.dtype)
    output = pixel_shuffle(network(folded, send(t.float(), x0.device)).float(), spec.patch_size)
    if output.shape[1] == x0.shape[1]:
        expected = target(spec.prediction_type, x0, eps, alpha_bar)
        return min_snr_weight(spec.prediction_type, alpha_bar, gamma) * simple_loss(output, expected)
    t_probability = probability(t, recipe, schedule.steps).to(x0.device)
    integer_t = t.long().to(x0.device)
    return hybrid_loss(
        schedule, spec.prediction_type, output, x0, eps, integer_t, gamma=gamma, probability=t_probability
    )


class LevelMeans:
    """The running mean of the loss at each of a hundred noise levels.

    The loss divided by this mean gives all levels the same weight, so that a tenth of a decibel counts the same at each
    of them. These are the weights of least variance for errors of unequal size, and the values towards which the
    learned weights of Karras et al. 2024 (https://arxiv.org/abs/2312.02696, eq. 14) tend. Without the division, the
    lowest levels weigh most, where noise cannot be distinguished from the rounding of the picture.

    Args:
        steps: Number of timesteps T of the schedule.
        device: Device of the losses.
    """

    COUNT = 100  # number of levels
    DECAY = 0.99  # factor by which each visit of a level reduces the weight of the earlier visits

    def __init__(self, steps: int, device: torch.device) -> None:
        self._steps = steps
        # Weighted sums of the losses and of the number of visits at each level.
        self.sums = torch.zeros(self.COUNT, 2, dtype=torch.float64, device=device)

    def means(self, t: Tensor, errors: Tensor) -> Tensor:
        """Return the mean of each crop's level.

        Args:
            t: Timesteps, (B,), on the device of the losses.
            errors: Losses, (B,).

        Returns:
            (B,); for a level that has no mean yet, the loss itself.
        """
        sums = self.sums[self._levels(t)]
        means = torch.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], errors.detach().double()).clamp(min=1e-8)
        return means.to(errors.dtype)

    def add(self, t: Tensor, errors: Tensor) -> None:
        """Add the losses (B,) of crops at timesteps t (B,) to the means of their levels."""
        values = errors.detach().double()
        added = torch.zeros_like(self.sums)
        added.index_add_(0, self._levels(t), torch.stack([values, torch.ones_like(values)], dim=1))
        self.sums = self.sums * self.DECAY ** added[:, 1:] + added

    def _levels(self, t: Tensor) -> Tensor:
        """Return the index of the level of each timestep."""
        return (t / self._steps * self.COUNT).long().clamp(max=self.COUNT - 1)
