"""The noise levels and the few numbers that distinguish the published reverse processes.

Every method is a preset of the one loop in `reverse.py`:

    name        source                                fresh noise              prior variance    spacing
    ddpm        Ho et al. 2020, eq. 7                 zeta = 1 - (s'/s)^2      v = 1             uniform in log s
    ddim        Song et al. 2021 (DDIM, eta = 0)      zeta = 0                 v = 1             uniform in log s
    repaint     Lugmayr et al. 2022                   as ddpm, with jumps      v = inf           uniform in t
    ddnm        Wang et al. 2023 (eta = .85)          zeta = .85^2             v = inf           uniform in t
    diffpir     Zhu et al. 2023                       zeta = .3 (holes: 1)     v = inf           uniform in sqrt(t)
    langevin    Song et al. 2021 (SDE, alg. 2)        as ddpm, plus corrector  v = 1             uniform in log s
    auto        this project's measured defaults      depends on the task      by task           uniform in log s

Here s is the noise level sigma, s' is the next level, and zeta is the share of fresh noise in the noise that is added
back. The prior variance v sets r^2 = s^2 v / (s^2 + v), the variance of the prediction against which the data are
weighed.

If the schedule of the network is given, the levels are uniform in its t instead. With as many steps as the schedule
has, they are the levels of the schedule, and `ddpm` is algorithm 2 of Ho et al. 2020.

Sources:
    ddpm        https://arxiv.org/abs/2006.11239
    ddim        https://arxiv.org/abs/2010.02502
    repaint     https://arxiv.org/abs/2201.09865
    ddnm        https://arxiv.org/abs/2212.00490
    diffpir     https://arxiv.org/abs/2305.08995
    langevin    https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch

from restorer.diffusion.data_noise import DataNoise
from restorer.diffusion.schedule import Schedule
from restorer.limits import METHODS, VARIANCES

__all__ = ["METHODS", "Plan", "add_corrector_steps", "add_jumps", "log_levels", "make_plan"]

# The published spacings refer to t of the linear schedule of 1000 steps. They are used unchanged with every network.
LINEAR = Schedule("linear")

# The signal-to-noise ratio r of a Langevin step, and the number of these steps at each level, for images of 32 pixels a
# side (Song et al. 2021, appendix G).
LANGEVIN_SNR, LANGEVIN_STEPS = 0.16, 1

# Maps a number of levels to the levels.
Levels = Callable[[int], list[float]]


@dataclass(frozen=True)
class Plan:
    """The noise levels and settings of one reverse process.

    A pair of consecutive noise levels is a transition. A transition to a lower level is a denoising step. A transition
    to the same level is a step of Langevin dynamics. Each of these costs one network evaluation. A transition to a
    higher level adds noise and costs none.

    Args:
        sigmas: Noise levels, as standard deviations on the [-1, 1] scale. The first is the level of the start, and the
            last is 0.
        zeta: Share of fresh noise in the variance of the noise that is added back, 0..1, one number for each
            transition. A Langevin step at the level s has the step size zeta s^2 / 2 and the signal-to-noise ratio
            sqrt(zeta) / 2.
        kappa: Factor on the noise that is carried from level to level. 0 carries none and gives the most faithful
            image; 1 gives a sample. Values up to 1.1 are allowed: slightly more noise than the level states compensates
            for a network that mistakes texture for noise.
        prior_variance: v of the module docstring, the variance of a clean image before any data are seen; may be inf.
        extrapolation: Weight 0..1 of the second-order step (DPM-Solver++ 2M on the corrected estimate).
        eps_from: "corrected" recomputes the implied noise from the corrected estimate; "predicted" keeps the noise that
            the network predicts.
        data_noise: How low levels have the noise of the data; None if none does. No other noise is carried then.
        correct_last: Whether the last prediction is corrected towards the data, which puts some of their noise back.
        fresh_start: True if the start is the mean of the first state, to which noise is added; False if the start
            already contains the noise of the first level.
        variance: Variance of the fresh noise: "small" is beta~, the variance of the posterior q(x_{t-1} | x_t, x_0);
            "large" is beta; "learned" is the network's own, between the two on a logarithmic scale.
        schedule: Noise schedule of the network, to which a learned variance is relative.
        mirrored: Whether each evaluation sees the image mirrored differently from the one before, so that an error that
            the network makes in one orientation only does not accumulate (Zhang et al. 2021,
            https://arxiv.org/abs/2008.13751, change the orientation at every step). This suits priors whose `mirrors`
            is true.
        seed: Seed of the noise field, or one seed for each image of the batch.

    Raises:
        ValueError: A setting is out of range.
    """

    sigmas: tuple[float, ...]
    zeta: tuple[float, ...]
    kappa: float = 1.0
    prior_variance: float = 1.0
    extrapolation: float = 0.0
    eps_from: str = "corrected"
    data_noise: DataNoise | None = None
    correct_last: bool = True
    fresh_start: bool = True
    variance: str = "small"
    schedule: Schedule | None = None
    mirrored: bool = False
    seed: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        if len(self.zeta) != len(self.sigmas) - 1 or self.evaluations == 0:
            raise ValueError("a plan needs at least one evaluation, and one zeta for each transition")
        if self.sigmas[-1] != 0 or not all(math.isfinite(s) and s > 0 for s in self.sigmas[:-1]):
            raise ValueError("the noise levels must be positive and finite, except for the last, which must be 0")
        if not all(0 <= z <= 1 for z in self.zeta) or not 0 <= self.extrapolation <= 1:
            raise ValueError("zeta and extrapolation must lie between 0 and 1")
        if not 0 <= self.kappa <= 1.1 or (self.data_noise is not None and self.kappa):
            raise ValueError("kappa must lie between 0 and 1.1, and be 0 if the noise of the data is carried")
        if not self.prior_variance > 0 or self.eps_from not in ("corrected", "predicted"):
            raise ValueError("the prior variance must be positive, and eps_from must be 'corrected' or 'predicted'")
        if self.variance not in VARIANCES or (self.variance == "learned" and self.schedule is None):
            raise ValueError(f"the variance must be one of {', '.join(VARIANCES)}, and 'learned' needs a schedule")

    @property
    def evaluations(self) -> int:
        """Number of network evaluations that the plan makes."""
        return sum(after <= before for before, after in pairwise(self.sigmas))

    def data_noise_at(self, level: float) -> DataNoise | None:
        """Return how a state of a level has the noise of the data; None if it has not."""
        return self.data_noise if self.data_noise is not None and self.data_noise.serves(level) else None


def log_levels(start: float, end: float, count: int) -> list[float]:
    """Return `count` noise levels from start to end, uniform in log sigma. A single level equals the start."""
    if count == 1:
        return [start]
    return [start * (end / start) ** (i / (count - 1)) for i in range(count)]


def _t_levels(start: float, end: float, count: int, power: float = 1.0, schedule: Schedule = LINEAR) -> list[float]:
    """Return `count` noise levels from start to end, uniform in t ** (1 / power) of a schedule.

    If the schedule does not reach from start to end, the levels are uniform in log sigma.
    """
    if count == 1 or end < schedule.sigma_min or start > schedule.sigma_max:
        return log_levels(start, end, count)
    high, low = (float(schedule.t_at(torch.tensor(s, dtype=torch.float64))) for s in (start, end))
    grid = torch.linspace(high ** (1 / power), low ** (1 / power), count, dtype=torch.float64) ** power
    return schedule.sigma_at(grid).tolist()


def add_jumps(levels: Sequence[float], jumps: int, length: int) -> list[float]:
    """Return the levels with RePaint's resampling: jumps back up, each followed by a second descent.

    The path jumps back over each stretch of `length` transitions and descends again. The highest stretch comes first,
    and the path makes `jumps` jumps in all. Source: Lugmayr et al. 2022, https://arxiv.org/abs/2201.09865, algorithm 1
    with two passes over each stretch.

    Args:
        levels: Decreasing noise levels.
        jumps: Number of jumps.
        length: Number of transitions that a jump goes back.
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


def add_corrector_steps(levels: Sequence[float], count: int, per_level: int) -> list[float]:
    """Return the levels with `count` corrector steps: levels are repeated, the lowest first.

    Source: Song et al. 2021, https://arxiv.org/abs/2011.13456, algorithm 2. A step to a lower level (the predictor) is
    followed by Langevin steps at that level (the corrector).

    Args:
        levels: Decreasing noise levels.
        count: Number of corrector steps in all.
        per_level: Number of corrector steps at each level.
    """
    repeated = [level for level in reversed(levels) for _ in range(per_level)]
    return sorted([*levels, *repeated[:count]], reverse=True)


def _descent(levels: Levels, steps: int) -> list[float]:
    """Return the levels of a plain descent."""
    return levels(steps)


def _repaint_path(levels: Levels, steps: int) -> list[float]:
    """Return RePaint's levels, which cost `steps` evaluations including the final transition to 0.

    Stretches of 5 transitions are passed twice, as many as the number of evaluations allows.
    """
    length = 5
    jumps = max(0, (steps - 1 - length) // (2 * length))
    path = levels(steps - jumps * length)
    return add_jumps(path, jumps, length) if jumps else path


def _langevin_path(levels: Levels, steps: int) -> list[float]:
    """Return the predictor-corrector levels, which cost `steps` evaluations including the final transition to 0.

    Every level but the first has corrector steps, as far as the number of evaluations allows.
    """
    falls = 1 + math.ceil((steps - 1) / (1 + LANGEVIN_STEPS))
    return add_corrector_steps(levels(falls), steps - falls, LANGEVIN_STEPS)


def _fresh_noise_shares(sigmas: Sequence[float], fixed: float | None) -> tuple[float, ...]:
    """Return zeta of each transition. Where the level falls, it is `fixed`, or that of the DDPM posterior if None."""

    def share(before: float, after: float) -> float:
        if after == before:
            return (2 * LANGEVIN_SNR) ** 2
        if fixed is not None:
            return fixed
        return max(0.0, 1 - (after / before) ** 2) if after < before else 1.0

    return tuple(share(before, after) for before, after in pairwise(sigmas))


@dataclass(frozen=True)
class _Method:
    """The preset of one published method.

    Args:
        spacing: Maps (start, end, count) to `count` noise levels.
        zeta: Share of fresh noise where the level falls; None for that of the DDPM posterior.
        prior_variance: As in `Plan`.
        eps_from: As in `Plan`.
        path: Maps (spacing from start to end, evaluations) to the noise levels in the order in which they are visited.
    """

    spacing: Callable[[float, float, int], list[float]]
    zeta: float | None
    prior_variance: float
    eps_from: str = "corrected"
    path: Callable[[Levels, int], list[float]] = _descent


_PRESETS = {
    "ddpm": _Method(log_levels, None, 1.0),
    "ddim": _Method(log_levels, 0.0, 1.0),
    "repaint": _Method(_t_levels, None, math.inf, path=_repaint_path),
    "ddnm": _Method(_t_levels, 0.85**2, math.inf, "predicted"),
    "diffpir": _Method(partial(_t_levels, power=2.0), 0.3, math.inf),
    "langevin": _Method(log_levels, None, 1.0, path=_langevin_path),
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
    """Return the plan of a method.

    Args:
        method: One of METHODS; "auto" returns `auto` unchanged.
        auto: The default plan of the task. The plan of another method takes its seed, kappa and kind of start from it,
            and no noise of the data.
        start: Highest noise level, on the [-1, 1] scale.
        end: Lowest noise level above 0, on the [-1, 1] scale.
        steps: Number of network evaluations, at least 1.
        holes: Whether some pixels are unknown. DiffPIR then replaces all noise by fresh noise (zeta = 1).
        variance: As in `Plan`.
        schedule: Noise schedule of the network, for levels that are uniform in its t; None for the spacing of the
            method.

    Raises:
        ValueError: The method is unknown, or `steps` is below 1.
    """
    if steps < 1:
        raise ValueError("a plan needs at least one step")
    if method == "auto":
        return auto
    if method not in _PRESETS:
        raise ValueError(f"unknown method {method!r}: it must be one of {', '.join(METHODS)}")
    preset = _PRESETS[method]
    spacing = preset.spacing if schedule is None else partial(_t_levels, schedule=schedule)
    sigmas = [*preset.path(partial(spacing, start, end), steps), 0.0]
    return replace(
        auto,
        sigmas=tuple(sigmas),
        zeta=_fresh_noise_shares(sigmas, 1.0 if method == "diffpir" and holes else preset.zeta),
        prior_variance=preset.prior_variance,
        extrapolation=0.0,
        eps_from=preset.eps_from,
        data_noise=None,
        variance=variance,
        schedule=schedule,
        mirrored=False,
    )
