"""Pictures that were blurred by a known kernel, and the classical filters that undo it.

The borders are cut off where the kernel would reach beyond them, as a photograph's borders are: what lies outside was
blurred in. White noise is added, and the result is rounded to 8 bits.

Both filters are those of scikit-image. They get the picture continued by its mirror image, and the setting of a few
that brings the result closest to the truth, which a user could not know: their figures are the best that they can do.

Sources:
    Wiener 1949, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series".
    Richardson 1972, "Bayesian-Based Iterative Method of Image Restoration", Journal of the Optical Society of America
        62(1); Lucy 1974, "An iterative technique for the rectification of observed distributions", The Astronomical
        Journal 79(6).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import as_kernel
from restorer.errors import PictureError, UsageError
from restorer.evaluation.metrics import psnr

__all__ = ["BALANCES", "blurred", "check_filters", "filters"]

BALANCES = tuple(float(balance) for balance in np.geomspace(3e-3, 0.3, 13))
"""The balances of the Wiener filter of which the best is taken."""

ITERATIONS = (3, 5, 8, 12, 20, 30)
"""The numbers of iterations of Richardson and Lucy's method of which the best is taken."""

MARGIN = 20  # pixels by which a picture is continued at least


def check_filters() -> None:
    """Check that the filters are installed.

    Raises:
        UsageError: They are not.
    """
    if importlib.util.find_spec("skimage") is None:
        message = "the Wiener filter and Richardson and Lucy's method need scikit-image"
        raise UsageError(message, "install it with: pip install 'restorer[baselines]'")


def blurred(truth: Tensor, kernel: Tensor, sigma: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return a picture blurred by a kernel, and the part of the picture that is left of it.

    Args:
        truth: The picture, float32 (C, H, W) in [0, 1].
        kernel: The kernel, (h, w), not negative.
        sigma: Standard deviation of the noise on the 0..255 scale.
        seed: Seed of the noise.

    Returns:
        The blurred picture in 8 bits and the truth of the same size, both float32 (C, h, w) in [0, 1].

    Raises:
        PictureError: The picture is smaller than the kernel.
    """
    operator = Blur(as_kernel(kernel))
    down, across = operator.reach
    if truth.shape[-2] <= 2 * down or truth.shape[-1] <= 2 * across:
        size = f"{truth.shape[-1]}x{truth.shape[-2]}"
        raise PictureError(f"a picture of {size} pixels is smaller than the kernel", "use a smaller kernel")
    y = operator.measure(truth[None].double())[0].float()
    y = y + sigma / 255 * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
    part = truth[:, down : down + y.shape[-2], across : across + y.shape[-1]]
    return (y * 255).round().clamp(0, 255) / 255, part


def filters(y: Tensor, truth: Tensor, kernel: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the filters by name, as functions without arguments that return their best result.

    Args:
        y: The blurred picture, float32 (C, H, W) in [0, 1].
        truth: The truth, of the same size.
        kernel: The kernel, (h, w), not negative.
    """
    from skimage.restoration import richardson_lucy, wiener

    known = as_kernel(kernel).numpy()
    sides = zip(known.shape, y.shape[-2:], strict=True)
    down, across = (min(max(MARGIN, 2 * side), extent - 1) for side, extent in sides)
    continued = np.pad(y.numpy(), ((0, 0), (down, down), (across, across)), mode="reflect")

    def restored(by: Callable[..., np.ndarray], setting: dict[str, float]) -> Tensor:
        """Return what a filter makes of the planes with a setting."""
        planes = np.stack([by(plane, known, **setting) for plane in continued])
        inside = planes[:, down : down + y.shape[-2], across : across + y.shape[-1]]
        return torch.from_numpy(inside.astype(np.float32)).clamp(0, 1)

    def best(by: Callable[..., np.ndarray], name: str, values: Iterable[float]) -> Tensor:
        """Return the result that is closest to the truth over the values of a setting."""
        return max((restored(by, {name: value}) for value in values), key=lambda result: psnr(result, truth))

    def lucy(plane: np.ndarray, kernel: np.ndarray, num_iter: int) -> np.ndarray:
        """Return the result of Richardson and Lucy, whose method needs values above 0."""
        return np.asarray(richardson_lucy(plane.clip(1e-3), kernel, num_iter=num_iter))

    return {
        "Wiener": lambda: best(wiener, "balance", BALANCES),
        "Richardson-Lucy": lambda: best(lucy, "num_iter", ITERATIONS),
    }
