"""What the tasks share: the checks of their input, the conversion of values, and the plan of inpaint and upscale.

Noise levels that users see are on the 0..255 scale. A level of sigma on that scale is s_y = 2 sigma / 255 on the
[-1, 1] scale of the networks.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from restorer.diffusion.degradations.degradation import Degradation
from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.diffusion.prior import Prior
from restorer.errors import UsageError
from restorer.limits import check_task
from restorer.models.load import load_prior
from restorer.priors.latent import latent_of
from restorer.tasks.defaults import Defaults

__all__ = [
    "LOWEST_LEVEL",
    "as_colour",
    "as_prior",
    "check_picture",
    "conditioned_plan",
    "degrader",
    "select_prior",
    "to_unit",
    "without_equal_channels",
]

LOWEST_LEVEL = 0.02
"""Last noise level before 0, on the [-1, 1] scale. Lower levels do not change pictures in 8 bits."""


def check_picture(image: Tensor) -> None:
    """Check that a tensor is a picture.

    Raises:
        UsageError: The shape is not (C, H, W) with 1 or 3 channels, a side is 0, or a value is not finite.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise UsageError(
            f"a picture must have the shape (C, H, W) with 1 or 3 channels, but this one has {tuple(image.shape)}"
        )
    if not bool(torch.isfinite(image).all()):
        raise UsageError("the picture contains values that are not finite")


def select_prior(task: str, prior: Prior | None) -> Prior:
    """Return the given prior, or the embedded one if none is given.

    Args:
        task: The task, named by its command.
        prior: The prior; None for the embedded one.

    Raises:
        ModelError: The prior works on latents and does not serve the task.
    """
    model = prior or load_prior()
    latent = latent_of(model)
    check_task(task, None if latent is None else latent.serves)
    return model


def as_prior(prior: Prior | str | os.PathLike[str] | None) -> Prior | None:
    """Return a prior that was passed as such, by a name or by a path; None stands for the embedded one.

    Raises:
        UsageError: The value is none of these.
        ModelError: As in `restorer.load_prior`.
    """
    if prior is None or isinstance(prior, Prior):
        return prior
    if isinstance(prior, (str, os.PathLike)):
        return load_prior(os.fspath(prior))
    raise UsageError(
        f"the prior must be what load_prior returned, a name or a path, not {type(prior).__name__}",
        'use prior="photo", or prior=load_prior("photo", device="cpu")',
    )


def to_unit(x: Tensor, channels: int) -> Tensor:
    """Return a picture (1, 3, H, W) on [-1, 1] as (channels, H, W) in [0, 1], clamped.

    A gray picture, of one channel, is the mean of the three.
    """
    picture = (x[0].float() + 1).div_(2)
    picture = picture.mean(0, keepdim=True) if channels == 1 else picture
    return picture.clamp_(0, 1)


def degrader(degradation: Degradation) -> Callable[[Tensor], Tensor]:
    """Return the function that degrades a picture (C, H, W) in [0, 1] again."""
    return lambda image: (degradation.measure(image[None] * 2 - 1)[0] + 1) / 2


def without_equal_channels(image: Tensor) -> Tensor:
    """Return the first channel of a picture (C, H, W) whose channels are equal, (1, H, W); another picture unchanged.

    A gray picture that was saved in colour is gray all the same: its channels share their noise, which the prior would
    take for detail, and its result must have equal channels.
    """
    return image[:1] if bool((image == image[:1]).all()) else image


def as_colour(image: Tensor) -> Tensor:
    """Return a picture (C, H, W) in [0, 1], with C = 1 or 3, as (1, 3, H, W) on [-1, 1]."""
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
    """Return the plan of inpaint or upscale, and the detail that it uses.

    In these tasks, `detail` is the factor kappa on the noise that is carried from step to step.

    Args:
        prior: The prior.
        defaults: The defaults of the task.
        steps: Number of network evaluations; None for the default.
        detail: The detail, 0..1; None for the default.
        method: One of METHODS.
        seed: Seed of the noise field.
        holes: Whether some pixels are unknown.
    """
    count = steps or defaults.steps
    sigmas = (*log_levels(defaults.start, LOWEST_LEVEL, count), 0.0)
    if detail is None:
        detail = defaults.detail if method == "auto" else 1.0  # the published methods carry all noise
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
