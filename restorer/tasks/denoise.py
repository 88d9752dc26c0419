"""Remove noise."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import NoiseField
from restorer.errors import UsageError
from restorer.limits import check
from restorer.measurement.white_noise import estimate_sigma, undo_clipping
from restorer.tasks.common import LOWEST_LEVEL, as_colour, check_picture, prior_for, to_unit
from restorer.tasks.defaults import DENOISE
from restorer.tasks.job import Job, tiled

__all__ = ["prepare_denoise"]


def prepare_denoise(
    image: Tensor,
    sigma: float | None = None,
    *,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
) -> Job:
    """Decide how to remove noise. Arguments as `restorer.denoise`, `image` a float tensor (C, H, W) in [0, 1]."""
    check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed)
    if steps == 1 and detail:
        raise UsageError("one step gives no detail: it is the posterior mean", "use --steps 2 or more, or --detail 0")
    if detail is None:
        detail = 0.0 if steps == 1 else DENOISE.detail
    steps = 1 if detail == 0 else steps or DENOISE.steps
    estimated = sigma is None
    level = estimate_sigma(image) if sigma is None else sigma
    model = tiled(prior_for("denoise", prior), *image.shape[-2:])
    channels = image.shape[0]
    start, s_y = as_colour(image), 2 * level / 255
    job = Job(model, None, image, level, estimated, detail, start, lambda x, first: to_unit(x, channels))
    if level == 0:
        return job.noting("no noise was found: the picture is copied" if estimated else "")
    if channels == 1:
        start, s_y = _lifted(start, s_y, seed), math.sqrt(3) * s_y
    end = min(LOWEST_LEVEL, s_y / 4)
    # A level of its own below the first for every step; the last evaluation is at `end`, then 0.
    sigmas = (*log_levels(s_y, end, steps), 0.0)
    auto = Plan(
        sigmas,
        zeta=(DENOISE.zeta,) * steps,
        extrapolation=DENOISE.extrapolation,
        fresh_start=False,
        mirrored=model.mirrors,
        seed=seed,
    )
    plan = make_plan(method, auto, start=s_y, end=end, steps=steps)
    share = detail

    # A file cannot hold what noise adds beyond black and white. A tensor may; then nothing was cut off.
    clipped = 0 <= float(image.min()) and float(image.max()) <= 1

    def finish(x: Tensor, first: Tensor) -> Tensor:
        restored = to_unit(torch.lerp(first, x, share), channels)
        return undo_clipping(restored, level / 255) if clipped else restored

    return replace(job, plan=plan, start=start, finish=finish)


def _lifted(start: Tensor, s_y: float, seed: int) -> Tensor:
    """A gray picture as a colour picture with white noise of sqrt(3) s_y.

    Noise copied to three channels has the covariance s_y^2 11^T = 3 s_y^2 P, with P the projection on gray. What is
    missing to 3 s_y^2 I is noise of the same size on the chroma, 3 s_y^2 (I - P), which is drawn here.
    """
    drawn = NoiseField(seed ^ 0x5EED).like(start) * math.sqrt(3) * s_y
    return start + drawn - drawn.mean(1, keepdim=True)
