r"""The course of an enlargement: which prior is asked, at which levels, and how the result is mixed.

The prior alone, of any model, restores the large picture from its interpolation, as `conditioned_plan` says. Beside the
embedded prior there is a network that answers the first evaluation better (`priors/experts.py`), and `detail` then
means:

    0          the prior alone, no noise carried: the most faithful picture
    0 .. 1/2   the same after the first network, mixed with its answer: the straight line between the two is the
               optimal exchange of distortion for perception
    1/2        the answer of the first network; for a noisy picture with one evaluation at a low level after it
    1/2 .. 1   after it, a reverse process at low levels that carries slightly more noise than it tells the prior, so
               that the prior adds texture; the higher the level, the more

The network was trained for factors of up to `EXPERT.largest_factor`. Beyond, its answer is enlarged once more.

Source: Freirich, Michaeli and Meir 2021, "A Theory of the Distortion-Perception Tradeoff in Wasserstein Space",
https://arxiv.org/abs/2107.02555: the straight line.
"""

from __future__ import annotations

from dataclasses import dataclass

from restorer.diffusion.plan import Plan, log_levels
from restorer.diffusion.prior import Prior
from restorer.models.load import with_first_expert
from restorer.priors.experts import State, first_level
from restorer.tasks.common import LOWEST_LEVEL, conditioned_plan
from restorer.tasks.defaults import EXPERT, UPSCALE

__all__ = ["Course", "course_of", "stages_of"]


@dataclass(frozen=True)
class Course:
    """How an enlargement runs.

    Args:
        prior: The prior, tiled or not.
        plan: The plan of the reverse process.
        detail: The detail that is used, 0..1.
        share: Weight of the first answer in the result, 0..1.
        is_expert: Whether a network of its own gives the first answer.
    """

    prior: Prior
    plan: Plan
    detail: float
    share: float = 0.0
    is_expert: bool = False


def course_of(
    prior: Prior,
    factor: int,
    steps: int | None,
    detail: float | None,
    method: str,
    seed: int,
    *,
    state: State,
) -> Course:
    """Return the course of an enlargement.

    Args:
        prior: The prior of the user's choice, tiled or not.
        factor: By how much it enlarges.
        steps: Number of network evaluations; None for the default.
        detail: The detail, 0..1; None for the default.
        method: One of METHODS.
        seed: Seed of the noise field.
        state: What is known of the small picture.
    """
    is_served = _may_be_served(detail, method) and factor <= EXPERT.largest_factor
    experts = with_first_expert(prior) if is_served else None
    if experts is None:
        return Course(prior, *conditioned_plan(prior, UPSCALE[factor], steps, detail, method, seed, holes=False))
    used = EXPERT.detail if detail is None else detail
    beyond = 2 * used - 1
    if beyond < 0:
        faithful = UPSCALE[factor]
        levels = _levels(faithful.start, LOWEST_LEVEL, steps or faithful.steps + 1)
        kappa, zeta, share, extrapolation = 0.0, 0.0, 1 + beyond, faithful.extrapolation
    elif beyond > 0:
        start = EXPERT.lowest + beyond * (EXPERT.highest - EXPERT.lowest)
        levels = _levels(start, EXPERT.lowest, steps or EXPERT.steps)
        kappa, zeta, share, extrapolation = 1 + EXPERT.inflation, 0.0, 0.0, 0.0
    else:
        levels = _levels(EXPERT.calming, EXPERT.lowest, steps or 1)
        kappa, zeta, share, extrapolation = 1.0, 1.0, 0.0, 0.0
    plan = Plan(
        (first_level(factor, state), *levels, 0.0),
        zeta=(1.0,) + (zeta,) * len(levels),
        kappa=kappa,
        prior_variance=EXPERT.variance if state in ("damaged", "repaired") else 1.0,
        extrapolation=extrapolation,
        fresh_start=False,
        mirrored=experts.mirrors,
        seed=seed,
    )
    return Course(experts, plan, used, share, is_expert=True)


def stages_of(
    prior: Prior, factor: int, steps: int | None, detail: float | None, method: str
) -> tuple[tuple[int, int | None], ...]:
    """Return the enlargements that make up one: the factor of each, and its number of evaluations or None.

    Args:
        prior: As in `course_of`.
        factor: By how much they enlarge in all.
        steps: Number of evaluations in all; None for the default of each.
        detail: As in `course_of`.
        method: As in `course_of`.

    Returns:
        One stage, or two if the factor is larger than the network of the first answer was trained for. One evaluation
        in all cannot be divided.
    """
    largest = EXPERT.largest_factor
    is_served = _may_be_served(detail, method) and factor > largest and steps != 1
    if not is_served or with_first_expert(prior) is None:
        return ((factor, steps),)
    return (largest, steps and steps - steps // 2), (factor // largest, steps and steps // 2)


def _may_be_served(detail: float | None, method: str) -> bool:
    """Return whether these options leave room for the network of the first answer."""
    return method == "auto" and detail != 0


def _levels(start: float, end: float, evaluations: int) -> list[float]:
    """Return the levels of a number of evaluations of which the first network makes one."""
    return log_levels(start, end, evaluations - 1) if evaluations > 1 else []
