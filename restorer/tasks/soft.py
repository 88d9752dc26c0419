"""Undo the softness of a small picture before it is enlarged.

What a blur has left of fine detail is worth more than what the network that enlarges can guess of it: little of it is
hidden, because the only noise is often the rounding of the file. The blur is looked for as `restore deblur` does
(`tasks/blind_deblur.py`). A picture that is too small for that, or whose blur is not sure, is taken for blurred by a
Gaussian, as wide as its softness says (`measurement/softness.py`).
"""

from __future__ import annotations

from torch import Tensor

from restorer.diffusion.degradations.kernels import gaussian_kernel
from restorer.diffusion.prior import Prior
from restorer.images.sizes import Region
from restorer.measurement.softness import SOFT, estimate_softness
from restorer.measurement.white_noise import estimate_sigma
from restorer.tasks.blind_deblur import find_blur
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.enlarge import FIRST_DETAIL
from restorer.tasks.job import Job

__all__ = ["LEFT_OF_BLUR", "blur_of_softness", "undo_blur"]

WIDER = 0.1
"""What is added to the estimated standard deviation in pixels: at widths of .7 to 1.5 it is .1 to .15 too small."""

LEFT_OF_BLUR = 1.0
"""Noise for which an enlargement allows after a blur was undone, in levels."""


def blur_of_softness(image: Tensor, prior: Prior) -> Tensor | None:
    """Return the kernel of the blur that makes a picture soft.

    Args:
        image: float (C, H, W) in [0, 1], without noise.
        prior: The prior.

    Returns:
        The kernel, (h, w); None if the picture is not soft, or if its blur is of no kind that is known.
    """
    softness = estimate_softness(image)
    if softness < SOFT:
        return None
    blur = find_blur(image, None, prior)
    if blur is not None and (blur.is_sure or blur.kind == "other"):
        kernel = None if blur.kind == "other" else blur.kernel()
    else:
        kernel = gaussian_kernel(softness + WIDER)
    fits = kernel is not None and kernel.shape[0] <= image.shape[-2] and kernel.shape[1] <= image.shape[-1]
    return kernel if fits else None


def undo_blur(image: Tensor, kernel: Tensor, seed: int, prior: Prior, region: Region | None) -> Job:
    """Return the job that undoes the blur of a soft picture, in the detail that an enlargement needs.

    Args:
        image: The picture, float (C, H, W) in [0, 1].
        kernel: The kernel, (h, w).
        seed: Seed of the noise.
        prior: The prior, tiled or not.
        region: The part that is returned; None for all of it.
    """
    sigma = estimate_sigma(image)
    return prepare_deblur(image, kernel, sigma=sigma, detail=FIRST_DETAIL, seed=seed, region=region, prior=prior)
