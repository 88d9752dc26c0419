"""Denoising: the reverse process starts at the noise level of the picture.

A picture y with white noise of standard deviation s_y is x_t at the t where sigma_t = s_y. The reverse process starts
there, and the data need no correction. It yields two estimates of the clean picture x:

    first    the prediction of its first evaluation, the posterior mean E[x | y], which has the best PSNR
    last     its last state, a picture with natural texture

The result is (1 - detail) first + detail last. Along a straight line, this blend is the optimal trade-off of distortion
against perception (Freirich et al. 2021, https://arxiv.org/abs/2107.02555).
"""

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
from restorer.measurement.white_noise import constant_areas, estimate_sigma, undo_clipping
from restorer.tasks.common import LOWEST_LEVEL, as_colour, check_picture, select_prior, to_unit, without_equal_channels
from restorer.tasks.defaults import DENOISE
from restorer.tasks.job import Job, with_default_tiles

__all__ = ["prepare_denoise"]


def prepare_denoise(
    image: Tensor,
    sigma: float | None = None,
    *,
    evidence: Tensor | None = None,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
) -> Job:
    """Prepare a job that removes noise.

    Args:
        image: The picture, float (C, H, W) in [0, 1] with C = 1 or 3. Values outside this range are not clamped.
        sigma: As in `restorer.denoise`.
        evidence: bool (H, W), the pixels that the noise is estimated from; None for all of them.
        steps: As in `restorer.denoise`.
        detail: As in `restorer.denoise`.
        method: As in `restorer.denoise`.
        seed: As in `restorer.denoise`.
        prior: As in `restorer.denoise`.

    Raises:
        UsageError: A value is out of range, or the tensor is not a picture.
        ModelError: The prior cannot denoise.
    """
    check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed)
    count, weight = _steps_and_detail(steps, detail)
    estimated = sigma is None
    level = estimate_sigma(image, evidence) if sigma is None else sigma
    model = with_default_tiles(select_prior("denoise", prior), *image.shape[-2:])
    reduced = without_equal_channels(image)
    channels = reduced.shape[0]
    start, s_y = as_colour(reduced), 2 * level / 255
    job = Job(model, None, image, level, estimated, weight, start, lambda x, first: to_unit(x, channels))
    if level == 0:
        return job.with_note("no noise was found: the picture is copied" if estimated else "")
    if channels == 1:
        start, s_y = _add_chroma_noise(start, s_y, seed), math.sqrt(3) * s_y
    end = min(LOWEST_LEVEL, s_y / 4)
    # Every step has a level of its own below the first. The last evaluation is at `end`, and 0 follows it.
    sigmas = (*log_levels(s_y, end, count), 0.0)
    auto = Plan(
        sigmas,
        zeta=(DENOISE.zeta,) * count,
        extrapolation=DENOISE.extrapolation,
        fresh_start=False,
        mirrored=model.mirrors,
        seed=seed,
    )
    plan = make_plan(method, auto, start=s_y, end=end, steps=count)

    # A file cannot hold values beyond black and white, so its noise is clipped. A tensor that holds such values has not
    # been clipped.
    is_clipped = 0 <= float(image.min()) and float(image.max()) <= 1
    # Noise that was estimated was found elsewhere: a frame or a cut-out background keeps its colour exactly.
    constant = constant_areas(image) if estimated else None

    def finish(x: Tensor, first: Tensor) -> Tensor:
        restored = to_unit(torch.lerp(first, x, weight), channels)
        restored = undo_clipping(restored, level / 255) if is_clipped else restored
        restored = restored.expand(image.shape)
        return restored if constant is None else torch.where(constant, image, restored)

    return replace(job, plan=plan, start=start, finish=finish)


def _steps_and_detail(steps: int | None, detail: float | None) -> tuple[int, float]:
    """Return the number of evaluations and the detail. One evaluation and detail 0 imply each other.

    Raises:
        UsageError: One step is combined with a detail above 0.
    """
    if steps == 1 and detail:
        raise UsageError(
            "one step returns the posterior mean, which has no detail", "use --steps 2 or more, or --detail 0"
        )
    if detail is None:
        detail = 0.0 if steps == 1 else DENOISE.detail
    return 1 if detail == 0 else steps or DENOISE.steps, detail


def _add_chroma_noise(start: Tensor, s_y: float, seed: int) -> Tensor:
    """Return a gray picture as a colour picture with white noise of standard deviation sqrt(3) s_y.

    Noise that is copied to three channels has the covariance s_y^2 11^T = 3 s_y^2 P, where P is the projection onto
    gray. The difference from 3 s_y^2 I is noise of the same variance on the chroma, 3 s_y^2 (I - P), which is drawn
    here.

    Args:
        start: The gray picture, (1, 3, H, W) on [-1, 1], with three equal channels.
        s_y: Standard deviation of its noise, on the [-1, 1] scale.
        seed: Seed of the reverse process, from which that of the chroma noise is derived.
    """
    drawn = NoiseField(seed ^ 0x5EED).like(start) * math.sqrt(3) * s_y
    return start + drawn - drawn.mean(1, keepdim=True)
