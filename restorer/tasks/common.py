"""The three tasks: what the user wants -> a degradation and a plan -> the restored picture.

    denoise    a picture with noise s_y is x_t at the t where sigma_t = s_y: the reverse process starts there, and the
               data need no correction. Its first evaluation is the posterior mean (the best PSNR), its end a picture
               with natural texture; `detail` blends the two, which is the optimal trade of distortion against
               perception along a straight line (Freirich et al. 2021, https://arxiv.org/abs/2107.02555).
    inpaint    known pixels are put back at every step and noised again with all others (RePaint, Lugmayr et al. 2022).
    upscale    the picture is corrected at every step so that shrinking it gives the input (DDNM, Wang et al. 2023).

For the latter two `detail` is the noise carried from step to step. Noise levels that users see are on the 0..255 scale:
sigma there is s_y = 2 sigma / 255 on the [-1, 1] scale of the networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.diffusion.prior import Prior
from restorer.errors import UsageError
from restorer.limits import check_task
from restorer.models.load import load_prior
from restorer.priors.latent import latent_of
from restorer.tasks.defaults import Defaults

__all__ = ["LOWEST_LEVEL", "as_colour", "check_picture", "conditioned_plan", "prior_for", "to_unit"]

LOWEST_LEVEL = 0.02  # the last noise level before 0; below it pictures in 8 bits do not change


def check_picture(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise UsageError(f"a picture has 1 or 3 channels: (C, H, W), not {tuple(image.shape)}")
    if not bool(torch.isfinite(image).all()):
        raise UsageError("the picture holds values that are not finite")


def prior_for(task: str, prior: Prior | None) -> Prior:
    """The prior given, or the embedded one.

    Raises:
        ModelError: it works on latents and does not serve the task.
    """
    model = prior or load_prior()
    latent = latent_of(model)
    check_task(task, None if latent is None else latent.serves)
    return model


def to_unit(x: Tensor, channels: int) -> Tensor:
    """(1, 3, H, W) on [-1, 1] -> (C, H, W) in [0, 1]; a gray picture is the mean of its three channels."""
    picture = (x[0].float() + 1).div_(2)
    picture = picture.mean(0, keepdim=True) if channels == 1 else picture
    return picture.clamp_(0, 1)


def as_colour(image: Tensor) -> Tensor:
    """(C, H, W) in [0, 1] -> (1, 3, H, W) on [-1, 1]."""
    return (image.expand(3, -1, -1) * 2 - 1)[None]


def conditioned_plan(
    prior: Prior,
    defaults: Defaults,
    steps: int | None,
    detail: float | None,
    method: str,
    seed: int,
    *,
    holes: bool,
) -> tuple[Plan, float]:
    """The plan of inpaint and upscale, and the detail it has."""
    count = steps or defaults.steps
    sigmas = (*log_levels(defaults.start, LOWEST_LEVEL, count), 0.0)
    if detail is None:  # the published methods carry all noise
        detail = defaults.detail if method == "auto" else 1.0
    auto = Plan(
        sigmas,
        zeta=(defaults.zeta,) * count,
        kappa=detail * (1 + defaults.inflation) if method == "auto" else detail,
        prior_variance=defaults.prior_variance,
        extrapolation=defaults.extrapolation,
        mirrored=prior.mirrors,
        seed=seed,
    )
    return make_plan(method, auto, start=defaults.start, end=LOWEST_LEVEL, steps=count, holes=holes), detail
