r"""The reverse process: one loop for every task and method.

    x0  = prior.denoise(x, sigma)                                        one network evaluation
    x0c = argmin_z |y - A z|^2 / s_y^2 + |z - x0|^2 / r^2                the data, in closed form
    d   = x0c, or extrapolated from the x0c before it                    (DPM-Solver++ 2M, arXiv:2211.01095)
    x'  = d + kappa sigma' ( sqrt(1 - zeta) eps + sqrt(zeta) z )         eps the noise implied by x, z ~ N(0, I)

with r^2 = sigma^2 v / (sigma^2 + v). With kappa = 1, zeta = 1 - (sigma'/sigma)^2 and nothing measured this is Ho et al.
2020, algorithm 2, written for x_t / sqrt(abar_t): x' is a draw from q(x_{t-1} | x_t, x_0 = d). A level that rises adds
noise instead: q(x_t | x_{t-1}), which is how RePaint travels back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from restorer.degradations import Degradation
from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Prior

__all__ = ["NoiseField", "NotFiniteError", "Step", "reverse"]


class NotFiniteError(ArithmeticError):
    """A network gave inf or nan, as low precision may."""


@dataclass(frozen=True)
class Step:
    """What is known after one network evaluation.

    Args:
        index: evaluations done so far, from 1.
        total: evaluations in all.
        sigma: the noise level of this one.
        x0: the prior's prediction; corrected: the same with the data put in. (B, C, H, W).
    """

    index: int
    total: int
    sigma: float
    x0: Tensor
    corrected: Tensor


class NoiseField:
    """White noise that depends on the seed and the shape alone: drawn on the CPU, whatever the device or the tiles."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def like(self, x: Tensor) -> Tensor:
        """The next field, shaped like x and where x is."""
        return torch.randn(x.shape, generator=self._generator, dtype=torch.float32).to(x.device, x.dtype)


def _second_order(corrected: Tensor, previous: Tensor | None, plan: Plan, i: int) -> Tensor:
    """The corrected estimate carried half a step on along its last change, in log sigma."""
    if previous is None or plan.extrapolation == 0 or plan.sigmas[i + 1] == 0:
        return corrected
    before, now, after = plan.sigmas[i - 1 : i + 2]
    ratio = math.log(now / after) / math.log(before / now)
    return corrected + plan.extrapolation * min(1.0, ratio / 2) * (corrected - previous)


def reverse(
    prior: Prior,
    degradation: Degradation | None,
    y: Tensor | None,
    plan: Plan,
    start: Tensor,
    *,
    noise_variance: float = 0.0,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Run the reverse process.

    Args:
        prior: the diffusion model.
        degradation, y: what was measured and how, or None where nothing is known beyond the start.
        plan: noise levels and the rest.
        start: float (B, C, H, W) on the [-1, 1] scale: the mean of the first state, or that state itself
            (`plan.fresh_start` False).
        noise_variance: s_y^2 of the noise in y on the [-1, 1] scale.
        on_step: called after every evaluation; what it raises ends the run.

    Returns:
        The restored picture, shaped like start.

    Raises:
        NotFiniteError: a prediction is inf or nan.
    """
    noise = NoiseField(plan.seed)
    carried = plan.sigmas[0] * (plan.kappa if plan.fresh_start else 1.0)
    x = start + carried * noise.like(start) if plan.fresh_start else start
    previous: Tensor | None = None
    done = 0
    for i, (sigma, after) in enumerate(pairwise(plan.sigmas)):
        if after > sigma:
            x = x + plan.kappa * math.sqrt(after**2 - sigma**2) * noise.like(x)
            carried, previous = plan.kappa * after, None
            continue
        x0 = prior.denoise(x, sigma)
        if not bool(torch.isfinite(x0).all()):
            raise NotFiniteError("the network gave values that are not finite")
        corrected = x0
        if degradation is not None and y is not None:
            v = plan.prior_variance
            r2 = sigma**2 if math.isinf(v) else sigma**2 * v / (sigma**2 + v)
            corrected = degradation.correct(x0, y, noise_variance, r2)
        d = _second_order(corrected, previous, plan, i)
        x = _put_back(x, d, x0, carried, after, plan, plan.zeta[i], noise)
        carried, previous = plan.kappa * after, corrected
        done += 1
        if on_step is not None:
            on_step(Step(done, plan.evaluations, sigma, x0, corrected))
    return x


def _put_back(
    x: Tensor, d: Tensor, x0: Tensor, carried: float, after: float, plan: Plan, zeta: float, noise: NoiseField
) -> Tensor:
    """d plus the noise of the next level: implied by x, whose noise has the standard deviation `carried`, or fresh."""
    amount = plan.kappa * after
    if amount == 0:
        return d
    x_next = d
    if zeta < 1:
        clean = d if plan.eps_from == "corrected" else x0
        x_next = x_next + amount * math.sqrt(1 - zeta) / carried * (x - clean)
    if zeta > 0:
        x_next = x_next + amount * math.sqrt(zeta) * noise.like(x)
    return x_next
