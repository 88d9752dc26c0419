"""What one run of the reverse process does: noise levels and the few numbers that tell published methods apart.

Every method here is a setting of the one loop in `reverse.py`:

    name      source                                       noise put back         data weight     spacing
    ddpm      Ho et al. 2020, eq. 7                        zeta = 1 - (s'/s)^2    v = 1           log
    ddim      Song et al. 2021 (DDIM, eta = 0)             zeta = 0               v = 1           log
    repaint   Lugmayr et al. 2022                          as ddpm, and travels   v = inf         uniform in t
    ddnm      Wang et al. 2023 (eta = .85)                 zeta = .85^2           v = inf         uniform in t
    diffpir   Zhu et al. 2023                              zeta = .3 (holes: 1)   v = inf         quadratic in t
    langevin  Song et al. 2021 (SDE, algorithm 2)          as ddpm, and stays     v = 1           log
    auto      this project's measured defaults             by task                by task         log

where s is the noise level sigma, s' the next one, zeta the share of fresh noise and v the prior variance in
r^2 = s^2 v / (s^2 + v), the weight of the prediction against the data. Where the network's own schedule is given,
levels are uniform in its t instead: with as many steps as it has, they are its nodes, and `ddpm` is Ho et al. 2020,
algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch

from restorer.diffusion.schedule import Schedule
from restorer.limits import METHODS, VARIANCES

__all__ = ["METHODS", "Plan", "log_levels", "make_plan", "stay", "travel"]

# Published spacings are in t of the linear schedule of 1000 steps, whatever network they are used with here.
LINEAR = Schedule("linear")
# Langevin's signal-to-noise ratio r, and its steps a level: Song et al. 2021, appendix G, for pictures of 32 pixels.
SNR, CORRECTIONS = 0.16, 1

Spacing = Callable[[int], list[float]]  # how many -> levels


@dataclass(frozen=True)
class Plan:
    """One run of the reverse process.

    Args:
        sigmas: noise levels, standard deviations on the [-1, 1] scale. The first is that of the start, the last 0. A
            rise adds noise and costs no evaluation; every fall costs one, and so does a level that stays, which is a
            step of Langevin dynamics.
        zeta: share of fresh noise in what is put back, in variance, 0..1; one number a transition. Where the level s
            stays, the Langevin step has the size zeta s^2 / 2, and the signal-to-noise ratio sqrt(zeta) / 2.
        kappa: how much noise is carried from level to level, 0 (none: the most faithful picture) to 1 (a sample).
            Up to 1.1: a little more than the network is told makes up for one that takes texture for noise.
        prior_variance: v above, the variance of pictures given nothing; may be inf.
        mirrored: whether each evaluation sees the picture mirrored otherwise than the one before, so that what the
            network gets wrong in one position only is not carried on (as Zhang et al. 2021 turn it in every step,
            https://arxiv.org/abs/2008.13751). For priors of which `mirrors` is true.
        extrapolation: weight 0..1 of the second-order step (DPM-Solver++ 2M on the corrected estimate).
        eps_from: "corrected" recomputes the implied noise from the corrected estimate, "predicted" keeps the network's.
        fresh_start: True where the start is drawn around its mean, False where the start is noisy as it is given.
        variance: of the fresh noise: "small" (that of the posterior q(x_{t-1} | x_t, x_0), beta~), "large" (beta) or
            "learned" (between the two in the logarithm, by the network).
        schedule: the network's own; what a learned variance is relative to.
        seed: of the noise field; or several, one for each picture of the batch.
    """

    sigmas: tuple[float, ...]
    zeta: tuple[float, ...]
    kappa: float = 1.0
    prior_variance: float = 1.0
    extrapolation: float = 0.0
    eps_from: str = "corrected"
    fresh_start: bool = True
    variance: str = "small"
    schedule: Schedule | None = None
    mirrored: bool = False
    seed: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        if len(self.zeta) != len(self.sigmas) - 1 or self.evaluations == 0:
            raise ValueError("a plan has at least one falling level, and one zeta a transition")
        if self.sigmas[-1] != 0 or not all(math.isfinite(s) and s > 0 for s in self.sigmas[:-1]):
            raise ValueError("noise levels are positive, and the last is 0")
        if not all(0 <= z <= 1 for z in self.zeta) or not 0 <= self.extrapolation <= 1:
            raise ValueError("zeta and extrapolation lie between 0 and 1")
        if not 0 <= self.kappa <= 1.1:
            raise ValueError("kappa lies between 0 and 1.1")
        if not self.prior_variance > 0 or self.eps_from not in ("corrected", "predicted"):
            raise ValueError("the prior variance is positive, and eps comes from 'corrected' or 'predicted'")
        if self.variance not in VARIANCES or (self.variance == "learned" and self.schedule is None):
            raise ValueError(f"the variance is one of {', '.join(VARIANCES)}, and 'learned' needs the schedule")

    @property
    def evaluations(self) -> int:
        """Network evaluations of the whole picture."""
        return sum(after <= before for before, after in pairwise(self.sigmas))


def log_levels(start: float, end: float, count: int) -> list[float]:
    """`count` levels from start to end, uniform in log sigma; one level alone is the start."""
    if count == 1:
        return [start]
    return [start * (end / start) ** (i / (count - 1)) for i in range(count)]


def _t_levels(start: float, end: float, count: int, power: float = 1.0, schedule: Schedule = LINEAR) -> list[float]:
    """`count` levels between start and end, uniform in t ** (1 / power) of a schedule.

    Where that schedule does not reach as far, uniform in log sigma.
    """
    if count == 1 or end < schedule.sigma_min or start > schedule.sigma_max:
        return log_levels(start, end, count)
    high, low = (float(schedule.t_at(torch.tensor(s, dtype=torch.float64))) for s in (start, end))
    grid = torch.linspace(high ** (1 / power), low ** (1 / power), count, dtype=torch.float64) ** power
    return schedule.sigma_at(grid).tolist()


def travel(levels: Sequence[float], jumps: int, length: int) -> list[float]:
    """RePaint's resampling: after every `length` levels go back up over them and come down again, `jumps` times.

    Lugmayr et al. 2022, https://arxiv.org/abs/2201.09865, algorithm 1 with two passes over each stretch.
    """
    path = list(levels[: length + 1])
    done = length
    while done < len(levels) - 1 or jumps:
        if jumps:
            path += [levels[done - length], *levels[done - length + 1 : done + 1]]
            jumps -= 1
        path += levels[done + 1 : done + 1 + length]
        done = min(done + length, len(levels) - 1)
    return path


def stay(levels: Sequence[float], count: int, corrections: int) -> list[float]:
    """The predictor-corrector path: `count` times in all stay at a level, `corrections` times each, the lowest first.

    Song et al. 2021, https://arxiv.org/abs/2011.13456, algorithm 2: a step down (the predictor), then Langevin steps
    at the level it has come to (the corrector).
    """
    again = [level for level in reversed(levels) for _ in range(corrections)]
    return sorted([*levels, *again[:count]], reverse=True)


def _straight(space: Spacing, steps: int) -> list[float]:
    return space(steps)


def _repaint(space: Spacing, steps: int) -> list[float]:
    """Levels whose falls, with the final one to 0, are `steps` evaluations: stretches of 5, each gone over twice."""
    length = 5
    jumps = max(0, (steps - 1 - length) // (2 * length))
    levels = space(steps - jumps * length)
    return travel(levels, jumps, length) if jumps else levels


def _langevin(space: Spacing, steps: int) -> list[float]:
    """Levels that cost `steps` evaluations: each but the first is stayed at, as far as the steps go round."""
    falls = 1 + math.ceil((steps - 1) / (1 + CORRECTIONS))
    return stay(space(falls), steps - falls, CORRECTIONS)


def _shares(sigmas: Sequence[float], fixed: float | None) -> tuple[float, ...]:
    """The share of fresh noise at each transition: where the level falls, `fixed` or that of the DDPM posterior."""

    def share(before: float, after: float) -> float:
        if after == before:
            return (2 * SNR) ** 2
        if fixed is not None:
            return fixed
        return max(0.0, 1 - (after / before) ** 2) if after < before else 1.0

    return tuple(share(before, after) for before, after in pairwise(sigmas))


@dataclass(frozen=True)
class _Method:
    levels: Callable[[float, float, int], list[float]]
    zeta: float | None  # None: that of the DDPM posterior
    prior_variance: float
    eps_from: str = "corrected"
    path: Callable[[Spacing, int], list[float]] = _straight


_PRESETS = {
    "ddpm": _Method(log_levels, None, 1.0),
    "ddim": _Method(log_levels, 0.0, 1.0),
    "repaint": _Method(_t_levels, None, math.inf, path=_repaint),
    "ddnm": _Method(_t_levels, 0.85**2, math.inf, "predicted"),
    "diffpir": _Method(partial(_t_levels, power=2.0), 0.3, math.inf),
    "langevin": _Method(log_levels, None, 1.0, path=_langevin),
}


def make_plan(
    method: str,
    auto: Plan,
    *,
    start: float,
    end: float,
    steps: int,
    holes: bool = False,
    variance: str = "small",
    schedule: Schedule | None = None,
) -> Plan:
    """The plan of a method by name.

    Args:
        method: one of METHODS; "auto" is `auto` itself.
        auto: the task's own plan; the others take its seed, carried noise and kind of start.
        start, end: highest and lowest noise level.
        steps: network evaluations.
        holes: whether the picture has pixels of which nothing is known (DiffPIR then draws all noise anew).
        variance: as `Plan`.
        schedule: the network's own, for levels uniform in its t; None for the method's spacing.

    Raises:
        ValueError: the method is unknown, or steps below 1.
    """
    if steps < 1:
        raise ValueError("at least one step is needed")
    if method == "auto":
        return auto
    if method not in _PRESETS:
        raise ValueError(f"unknown method {method!r}: one of {', '.join(METHODS)}")
    preset = _PRESETS[method]
    levels = preset.levels if schedule is None else partial(_t_levels, schedule=schedule)
    sigmas = [*preset.path(partial(levels, start, end), steps), 0.0]
    return replace(
        auto,
        sigmas=tuple(sigmas),
        zeta=_shares(sigmas, 1.0 if method == "diffpir" and holes else preset.zeta),
        prior_variance=preset.prior_variance,
        extrapolation=0.0,
        eps_from=preset.eps_from,
        variance=variance,
        schedule=schedule,
        mirrored=False,
    )
