"""Degradations that treat every pixel on its own: white noise, and hidden pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from restorer.diffusion.degradations.degradation import Degradation, data_weight

__all__ = ["Identity", "Mask"]


class Identity(Degradation):
    """The identity, A = I: the data are the image itself with noise added.

    The proximal point is the mean of x0 and y, weighted by their precisions 1 / r^2 and 1 / s_y^2 (DiffPIR):

        correct(x0) = x0 + w (y - x0)
    """

    def measure(self, x: Tensor) -> Tensor:
        """Return x unchanged."""
        return x

    def transpose(self, y: Tensor) -> Tensor:
        """Return y unchanged."""
        return y

    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """Return x0 + w (y - x0). See `Degradation.correct`."""
        return torch.lerp(x0, y, data_weight(noise_variance, prior_variance, like=x0))

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x unchanged, because the data are the image itself."""
        return x


class Mask(Degradation):
    """The selection of known pixels, A = diag(m) with m = 1 at known pixels and m = 0 elsewhere.

    A is symmetric and idempotent, hence A = A^T = A^+ = A A^T, and every pixel is corrected on its own:

        correct(x0) = x0 + m w (y - x0)

    Without noise (w = 1) this is the inpainting of DDNM; with noise it is the pixelwise proximal point of DiffPIR.

    Args:
        known: The mask m, (1 or B, 1 or C, H, W). True, or a number above 0.5, marks a known pixel. The values of y at
            unknown pixels are never read.
    """

    def __init__(self, known: Tensor) -> None:
        self.known = known if known.dtype == torch.bool else known > 0.5

    def measure(self, x: Tensor) -> Tensor:
        """Return x at the known pixels and 0 elsewhere."""
        return torch.where(self.known, x, 0.0)

    def transpose(self, y: Tensor) -> Tensor:
        """Return y at the known pixels and 0 elsewhere, because A is its own transpose."""
        return self.measure(y)

    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """Return x0 + w (y - x0) at the known pixels and x0 elsewhere. See `Degradation.correct`."""
        return torch.where(self.known, torch.lerp(x0, y, data_weight(noise_variance, prior_variance, like=x0)), x0)

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y at the known pixels, bit for bit, and x elsewhere."""
        return torch.where(self.known, y, x)
