"""The reverse process that removes the noise of cameras.

It starts at the picture y itself, at a level above the largest density of the noise. Each prediction at a high level is
corrected towards y, frequency by frequency (`restorer.diffusion.degradations.coloured_noise`). The states of low levels
have the noise of y, made white, and more of it where the picture has texture (`restorer.diffusion.data_noise`). The
last prediction is the result. The detail decides how much of the noise is carried.

The published methods carry noise of their own. Their detail decides at which level the last prediction is made.
"""

from __future__ import annotations

from restorer.diffusion.data_noise import DataNoise
from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.tasks.defaults import CAMERA

__all__ = ["camera_plan", "probed_at"]


def camera_plan(
    sigma: float, steps: int | None, detail: float | None, method: str, seed: int, *, is_mirrored: bool
) -> tuple[Plan, float]:
    """Return the plan, and the detail that it has.

    Args:
        sigma: Standard deviation of the noise, on the 0..255 scale.
        steps: Number of evaluations; None for the default.
        detail: As in `restorer.denoise`; None for the default.
        method: One of METHODS.
        seed: Seed of the noise field.
        is_mirrored: As in `Plan.mirrored`.
    """
    is_auto, count, s_y = method == "auto", steps or CAMERA.steps, 2 * sigma / 255
    usual = CAMERA.detail_at(sigma) if is_auto else CAMERA.detail
    used = usual if detail is None else detail
    first, last = (CAMERA.first, CAMERA.lowest if is_auto else CAMERA.last(used))
    if count == 1:
        first = last = CAMERA.single
    auto = Plan(
        (*log_levels(first * s_y, last * s_y, count), 0.0),
        zeta=(0.0,) * count,
        kappa=0.0 if is_auto else 1.0,  # the published methods carry all noise
        data_noise=DataNoise(s_y, CAMERA.below * s_y, *CAMERA.shares(used, sigma)) if is_auto else None,
        correct_last=False,
        fresh_start=False,
        mirrored=is_mirrored,
        seed=seed,
    )
    plan = make_plan(method, auto, start=first * s_y, end=last * s_y, steps=count)
    return plan, 0.0 if count == 1 else used


def probed_at(plan: Plan) -> float:
    """Return the place in the run, 0..1, of the evaluation that tells the uncertainty.

    It is the last one whose level is not far below the noise of the picture, because the derivative of a prediction
    tells of the noise of its level.
    """
    if plan.data_noise is None or plan.evaluations == 1:
        return 1.0
    reached = sum(sigma >= plan.data_noise.deviation * (1 - 1e-6) for sigma in plan.sigmas[:-1])
    return (max(reached, 1) - 1) / (plan.evaluations - 1)
