"""The variational bound of a prior on pictures: how many bits a dimension of a picture takes under the model.

The bound is that of `restorer.diffusion.objective`, measured on the middle of each picture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from restorer.diffusion.objective import fixed_log_variance
from restorer.diffusion.variational_bound import Bound, variational_bound
from restorer.errors import PictureError
from restorer.priors.unet_prior import UNetPrior

__all__ = ["CROP", "bits_per_dimension", "centre_crop"]

CROP, BATCH = 64, 16  # side of the crops in pixels, and number of crops in a batch

OnProgress = Callable[[float, int], None]  # (evaluations done, evaluations in all)


def centre_crop(picture: Tensor, side: int) -> Tensor:
    """Cut the square in the middle out of a picture (C, H, W), and return it in colour, (3, side, side).

    Raises:
        PictureError: The picture is smaller than the square.
    """
    height, width = picture.shape[-2:]
    if min(height, width) < side:
        raise PictureError(
            f"a picture of {width}x{height} pixels is smaller than a crop of {side}x{side}", "use larger pictures"
        )
    top, left = (height - side) // 2, (width - side) // 2
    return picture[:, top : top + side, left : left + side].expand(3, -1, -1)


def bits_per_dimension(
    prior: UNetPrior,
    crops: Tensor,
    *,
    timesteps: int | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Bound:
    """Compute the variational bound of a prior on pictures, in bits per dimension.

    See `restorer.diffusion.objective`. For a network that has not learned the variance of the reverse step, the fixed
    variance "small" (beta~) is used.

    Args:
        prior: The diffusion model.
        crops: Pictures, float (B, C, H, W) in [0, 1], with values of 8 bits.
        timesteps: Number of the schedule's T timesteps that are evaluated; None for all.
        seed: Seed of the noise.
        on_progress: Called with (evaluations done, evaluations in all) of batches of at most BATCH crops.

    Raises:
        ValueError: `timesteps` lies outside 2 .. T.
    """
    schedule, device = prior.spec.schedule, prior.device
    batches, generator = (2 * crops.double() - 1).split(BATCH), torch.Generator().manual_seed(seed)

    def predict(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        scale = schedule.alpha_bars[t.cpu()].sqrt().view(-1, 1, 1, 1).to(x_t)
        prediction = prior.predict(x_t / scale, schedule.sigmas[t.cpu()])
        if prediction.log_variance is not None:
            return prediction.x0, prediction.log_variance
        return prediction.x0, fixed_log_variance(schedule, t, "small")

    prior_term, steps, done = 0.0, torch.zeros(schedule.steps, dtype=torch.float64), 0

    def on_term(term: int, terms: int) -> None:
        if on_progress is not None:
            on_progress(done * terms + term, len(batches) * terms)

    for batch in batches:
        bound = variational_bound(
            predict, schedule, batch.to(device), generator=generator, timesteps=timesteps, on_term=on_term
        )
        share = len(batch) / len(crops)
        prior_term, steps, done = prior_term + share * bound.prior, steps + share * bound.steps, done + 1
    return Bound(prior_term, steps)
