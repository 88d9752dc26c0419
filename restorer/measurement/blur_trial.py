r"""How well the prior gets along with a kernel: a window is deblurred with it, and blurred again.

The spectrum says what a kernel has taken away. It does not say whether the edges are sharp where the kernel is undone,
which depends on phases, and compression fills the zeros of a kernel, so that even the true one explains the spectrum
badly. The prior knows sharp edges. The window y, with white noise of standard deviation s, is restored by the
half-quadratic splitting of `restorer.tasks.deblur` in a few evaluations of the prior, for a kernel and for none:

    misfit      log(mean (y - K x)^2)  of the last x = D(z, s)      minus that without a kernel
    surprise    log(mean (z - x)^2)    of the last prox point z     minus that without a kernel

If the kernel is wrong, undoing it makes edges ring. The prior takes the ringing away, and what is left no longer gives
the window when it is blurred: the misfit is many times the noise. If the kernel is right, what the prior takes away is
noise, and the misfit is little more than that of denoising the window.

Neither number is a reason to prefer a blur. The misfit is least for no blur at all, as is every energy of a prior
(Levin et al. 2009): it can refute a kernel that the spectrum suggests, or fail to.

Sources:
    Levin, Weiss, Durand and Freeman 2009, "Understanding and evaluating blind deconvolution algorithms", CVPR.
    Zhang, Li, Zuo, Zhang, Van Gool and Timofte 2021, "Plug-and-Play Image Restoration With Deep Denoiser Prior",
        https://arxiv.org/abs/2008.13751: the splitting and its levels.
    Morozov 1966, "On the solution of functional equations by the method of regularization", Soviet Mathematics
        Doklady 7: a solution is believed as far as its misfit is that of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.plan import log_levels
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import NotFiniteError

__all__ = ["EVALUATIONS", "Trial", "trial_of"]

EVALUATIONS, FIRST = 4, 49.0
"""Evaluations of the prior in a trial, and the first of their levels; the last is that of the noise."""

TRUST = 4.37
"""Ratio of r^2 to sigma^2 in the corrections, which is that of DPIR."""

LEAST_NOISE = 1.0
"""Least standard deviation of the noise that a trial allows for, in levels. Less would count the rounding to 8 bits and
the errors of the prior as a misfit."""

CAUTION = 1.05
"""Factor on the noise, as in `restorer.tasks.deblur`."""


@dataclass(frozen=True)
class Trial:
    """What the trial of a kernel found. Both numbers are logarithms of ratios, 0 for a kernel of one point.

    Args:
        misfit: By how much the restored window, blurred again, is farther from the window than without a kernel.
        surprise: By how much more the prior takes away from the last proximal point than without a kernel.
    """

    misfit: float
    surprise: float


def trial_of(prior: Prior, window: Tensor, sigma: float) -> Callable[[Tensor], Trial]:
    """Return the function that tries a kernel on a window of a picture.

    Args:
        prior: The prior, on any device.
        window: The luminance of the window, (H, W) on the 0..255 scale.
        sigma: Standard deviation of the noise of the luminance, in levels.

    Returns:
        A function of a kernel (2 a + 1, 2 b + 1), at most as large as the window. It costs EVALUATIONS evaluations of
        the prior, on a picture that is larger than the window by the kernel.

    Raises:
        NotFiniteError: The network returns values that are not finite, in full precision, too.
    """
    y = (window.float() / 127.5 - 1).expand(1, 3, -1, -1).to(prior.device)
    # Three equal channels have sqrt(3) times as much noise along the gray axis as the prior expects of white noise.
    s = math.sqrt(3) * 2 / 255 * max(CAUTION * sigma, LEAST_NOISE)
    without = _energies(prior, y, torch.ones(1, 1), s)

    def attempt(kernel: Tensor) -> Trial:
        misfit, surprise = (math.log(a / b) for a, b in zip(_energies(prior, y, kernel, s), without, strict=True))
        return Trial(misfit, surprise)

    return attempt


@torch.inference_mode()
def _energies(prior: Prior, y: Tensor, kernel: Tensor, s: float) -> tuple[float, float]:
    """Return the mean squares of y - K x and of z - x after the last evaluation."""
    operator, levels = Blur(kernel), log_levels(max(2 * FIRST / 255, 2 * s), s, EVALUATIONS)
    down, across = operator.reach
    noise_variance = s**2 * (levels[0] / levels[1]) ** 2 / TRUST  # a step corrects for the level of the next one
    x = z = F.pad(y, (across, across, down, down), mode="reflect")
    with prior.resources.run(levels):
        for corrected, level in zip((levels[0], *levels), levels, strict=False):
            z = operator.correct(x, y, noise_variance, corrected**2)
            x = prior.denoise(z, level).float()
    if not bool(x.isfinite().all()):
        if (precise := prior.resources.full_precision()) is None:
            raise NotFiniteError("the network returned values that are not finite")
        return _energies(precise, y, kernel, s)
    removed = (z - x)[..., down : down + y.shape[-2], across : across + y.shape[-1]]
    return float((y - operator.measure(x)).square().mean()), float(removed.square().mean())
