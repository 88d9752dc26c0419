r"""The forward process and its noise schedules (Ho et al. 2020, https://arxiv.org/abs/2006.11239).

    q(x_t | x_0)      = N( sqrt(abar_t) x_0, (1 - abar_t) I ),     abar_t = prod_{s<=t} (1 - beta_s)        (eq. 4)
    q(x_t | x_{t-1})  = N( sqrt(1 - beta_t) x_{t-1}, beta_t I )                                             (eq. 2)
    q(x_{t-1} | x_t, x_0) = N( mu, beta~_t I )                                                              (eq. 6, 7)
        mu      = sqrt(abar_{t-1}) beta_t / (1 - abar_t) x_0 + sqrt(alpha_t) (1 - abar_{t-1}) / (1 - abar_t) x_t
        beta~_t = (1 - abar_{t-1}) / (1 - abar_t) beta_t

Here alpha_t = 1 - beta_t. Timesteps are counted from 0, the cleanest (abar_{-1} = 1), to T - 1.

Outside this package a noise level is stated as sigma_t = sqrt((1 - abar_t) / abar_t). This is the standard deviation of
the noise in x_t / sqrt(abar_t), which is a clean image plus white noise (the variance-exploding view). All coefficients
are computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["BETA_SCHEDULES", "Gaussian", "Schedule", "alpha_bar_of"]

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian with a diagonal covariance.

    Args:
        mean: The mean, (B, C, H, W).
        variance: The variance of each value, broadcastable to the mean.
    """

    mean: Tensor
    variance: Tensor


def alpha_bar_of(sigma: Tensor) -> Tensor:
    """Return abar at the noise level sigma, which solves sigma^2 = (1 - abar) / abar."""
    return 1 / (1 + sigma**2)


def _betas(name: str, steps: int, start: float, end: float) -> Tensor:
    """Return beta_t of the schedule with this name, float64 (steps,)."""
    if name == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if name == "scaled_linear":
        return torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64) ** 2
    if name == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021, eq. 17, with beta capped at .999
        grid = torch.arange(steps + 1, dtype=torch.float64) / steps
        alpha_bar = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
    raise ValueError(f"unknown beta schedule {name!r}: it must be one of {', '.join(BETA_SCHEDULES)}")


def _per_item(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Return values[t] as (B, 1, 1, 1), on the device and in the precision of `like` (B, C, H, W)."""
    return values[t.cpu()].to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Schedule:
    """A discrete noise schedule of T steps.

    Args:
        name: "linear" (Ho et al. 2020), "scaled_linear" (latent diffusion) or "squaredcos_cap_v2" (the cosine schedule
            of Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672).
        steps: Number of steps T, at least 2.
        beta_start: Variance of the first step, in (0, 1). The cosine schedule ignores it.
        beta_end: Variance of the last step, in (0, 1). The cosine schedule ignores it.

    Raises:
        ValueError: The name is unknown, T is below 2, or a beta lies outside (0, 1).
    """

    name: str = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError("a schedule needs at least 2 steps")
        if not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ValueError("every beta must lie between 0 and 1")

    @cached_property
    def betas(self) -> Tensor:
        """Variances beta_t of the single steps, float64 (T,)."""
        return _betas(self.name, self.steps, self.beta_start, self.beta_end)

    @cached_property
    def _log_alpha_bar(self) -> Tensor:
        """Logarithms of abar_t, float64 (T,). They keep 1 - abar_t exact where abar_t is close to 1."""
        return torch.log1p(-self.betas).cumsum(0)

    @cached_property
    def alpha_bars(self) -> Tensor:
        """Cumulative products abar_t of 1 - beta_t, float64 (T,)."""
        return self._log_alpha_bar.exp()

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise levels sigma_t = sqrt((1 - abar_t) / abar_t), float64 (T,), increasing."""
        return torch.sqrt(torch.expm1(-self._log_alpha_bar))

    @property
    def sigma_min(self) -> float:
        """The lowest noise level on which a network with this schedule is trained (t = 0)."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """The highest noise level on which a network with this schedule is trained (t = T - 1)."""
        return float(self.sigmas[-1])

    def marginal(self, x0: Tensor, t: Tensor) -> Gaussian:
        """Return q(x_t | x_0), eq. 4.

        Args:
            x0: Clean images, (B, C, H, W).
            t: Timesteps, int64 (B,) in [0, T).
        """
        alpha_bar = _per_item(self.alpha_bars, t, x0)
        return Gaussian(alpha_bar.sqrt() * x0, _per_item(-torch.expm1(self._log_alpha_bar), t, x0))

    def transition(self, x_prev: Tensor, t: Tensor) -> Gaussian:
        """Return q(x_t | x_{t-1}), eq. 2.

        Args:
            x_prev: The less noisy images x_{t-1}, (B, C, H, W).
            t: Timesteps, int64 (B,) in [0, T).
        """
        beta = _per_item(self.betas, t, x_prev)
        return Gaussian((1 - beta).sqrt() * x_prev, beta)

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Gaussian:
        """Return q(x_{t-1} | x_t, x_0), eq. 6 and 7. At t = 0 all its mass lies at x_0.

        Args:
            x0: Clean images, (B, C, H, W).
            x_t: Noisy images, (B, C, H, W).
            t: Timesteps, int64 (B,) in [0, T).
        """
        alpha_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bars[:-1]])
        one_minus = -torch.expm1(self._log_alpha_bar)
        one_minus_prev = torch.cat([torch.zeros(1, dtype=torch.float64), one_minus[:-1]])
        weight_x0 = alpha_bar_prev.sqrt() * self.betas / one_minus
        weight_xt = (1 - self.betas).sqrt() * one_minus_prev / one_minus
        return Gaussian(
            _per_item(weight_x0, t, x0) * x0 + _per_item(weight_xt, t, x0) * x_t,
            _per_item(one_minus_prev / one_minus * self.betas, t, x0),
        )

    def sigma_at(self, t: Tensor) -> Tensor:
        """Return the noise level at a real-valued timestep.

        Between two integers log sigma is interpolated linearly; at an integer the result is exact.

        Args:
            t: Timesteps of any shape. Values outside [0, T - 1] are clamped.

        Returns:
            Noise levels, float64 on the CPU, shaped like t.
        """
        t = t.double().cpu().clamp(0, self.steps - 1)
        low = t.floor().long().clamp(max=self.steps - 2)
        log_sigma = self.sigmas.log()
        return torch.lerp(log_sigma[low], log_sigma[low + 1], t - low).exp()

    def t_at(self, sigma: Tensor) -> Tensor:
        """Return the real-valued timestep at a noise level: the inverse of `sigma_at`.

        Args:
            sigma: Noise levels of any shape. Values outside [sigma_min, sigma_max] are clamped.

        Returns:
            Timesteps in [0, T - 1], float64 on the CPU, shaped like sigma. At a level of `sigmas` the timestep is an
            exact integer.
        """
        sigma = sigma.double().cpu().clamp(self.sigma_min, self.sigma_max)
        high = torch.searchsorted(self.sigmas, sigma).clamp(1, self.steps - 1)
        log_low, log_high = self.sigmas[high - 1].log(), self.sigmas[high].log()
        t = high - 1 + (sigma.log() - log_low) / (log_high - log_low)
        # A rounding error of the interpolation must not make the network embed t = 41.9999 in place of 42.
        nearest = t.round()
        return torch.where((t - nearest).abs() < 1e-6, nearest, t)
