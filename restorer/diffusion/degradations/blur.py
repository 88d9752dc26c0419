r"""Blur by a kernel, with borders as photographs have them: what lies outside was blurred in, and is unknown.

    y = A x + n,   A = M P K

K is the convolution with a kernel k of (2 a + 1) x (2 b + 1) pixels, sum 1. The image x is larger than the data by a
pixels above and below and by b at the sides, and P keeps the pixels whose whole neighbourhood lies in x. M drops pixels
that say nothing, such as highlights that were clipped after they had been blurred.

With circular borders, A A^T would be diagonalized by the Fourier transform. Without them, the system of the proximal
point

    (w A A^T + 1 - w) u = y - A x0,    correct(x0) = x0 + w A^T u

is solved by conjugate gradients, preconditioned by the inverse of the circular system. A few steps suffice, because
the two systems differ at the borders alone. A A^T is the convolution with the autocorrelation of the kernel, which
reaches 2 a and 2 b pixels: on data continued by as many zeros it is a circular one, so that the system is a
multiplication of the spectrum by w |K|^2 + 1 - w, and its preconditioner a division by it.

The solution need not be more exact than the data. A residual e of the system moves the proximal point by
w A^T (w A A^T + 1 - w)^-1 e, which is at most e r / (2 s_y) at any frequency, and e is held to a share of s_y.

Sources:
    Almeida and Figueiredo 2013, "Deconvolving Images With Unknown Boundaries Using the Alternating Direction Method of
        Multipliers", IEEE Transactions on Image Processing 22(8): the outside as unknown pixels.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import torch
from torch import Tensor

from restorer.diffusion.degradations.conjugate_gradients import conjugate_gradients
from restorer.diffusion.degradations.degradation import Degradation, at_least_float32, data_weight

__all__ = ["Blur"]

TOLERANCE = 1e-2
"""The residual at which the conjugate gradients stop, as a share of the standard deviation of the noise. It moves the
proximal point by at most 0.005 r, and the restored pictures by less than rounding to bfloat16 does."""

LEAST_TOLERANCE = 2e-6
"""The least such residual, relative to an image on [-1, 1]: what is below it is the rounding of float32."""

MOST_WEIGHT = 1 - 1e-6
"""Largest weight of the data. An exact projection onto blurred data would amplify the rounding without limit."""

SPECTRUM = 128
"""Least side of the spectrum of a kernel by which the noise that is passed on is computed."""


class Blur(Degradation):
    """Convolution with a kernel, of an image that reaches beyond the data.

    Args:
        kernel: k, float (2 a + 1, 2 b + 1), not negative, with a sum above 0; it is divided by its sum.
        known: M, bool (1, 1, H, W) in the size of the data, True at the pixels that count; None if all do.

    Raises:
        ValueError: The kernel has another shape, an even side, a negative value, or the sum 0.
    """

    def __init__(self, kernel: Tensor, known: Tensor | None = None) -> None:
        is_valid = kernel.ndim == 2 and all(side % 2 for side in kernel.shape) and bool((kernel >= 0).all())
        if not is_valid or not float(kernel.sum()) > 0:
            raise ValueError(f"a kernel has odd sides and no negative values, unlike this one of {tuple(kernel.shape)}")
        self.kernel = kernel.double() / kernel.double().sum()
        self.known = known
        self.reach = (kernel.shape[0] // 2, kernel.shape[1] // 2)
        self._transfers: dict[tuple[tuple[int, int], torch.dtype, torch.device], Tensor] = {}

    def measure(self, x: Tensor) -> Tensor:
        """Return A x.

        Args:
            x: Images, (B, C, H + 2 a, W + 2 b).

        Returns:
            Blurred images, (B, C, H, W), in the precision of x.

        Raises:
            ValueError: The image is smaller than the kernel.
        """
        height, width = (side - 2 * reach for side, reach in zip(x.shape[-2:], self.reach, strict=True))
        if height < 1 or width < 1:
            raise ValueError(f"{x.shape[-1]}x{x.shape[-2]} pixels are fewer than the kernel has")
        size = _fast_size(x.shape[-2]), _fast_size(x.shape[-1])
        blurred = torch.fft.irfft2(torch.fft.rfft2(at_least_float32(x), s=size) * self._transfer(size, x), s=size)
        top, left = (2 * reach for reach in self.reach)
        return self._kept(blurred[..., top : top + height, left : left + width]).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        """Return A^T y.

        Args:
            y: Blurred images, (B, C, H, W).

        Returns:
            Images, (B, C, H + 2 a, W + 2 b), in the precision of y.
        """
        height, width = (side + 2 * reach for side, reach in zip(y.shape[-2:], self.reach, strict=True))
        size = _fast_size(height), _fast_size(width)
        top, left = (2 * reach for reach in self.reach)
        shifted = at_least_float32(y).new_zeros(*y.shape[:-2], height, width)
        shifted[..., top:, left:] = self._kept(at_least_float32(y))
        transfer = self._transfer(size, y).conj()
        return torch.fft.irfft2(torch.fft.rfft2(shifted, s=size) * transfer, s=size)[..., :height, :width].to(y.dtype)

    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """Return x0 + w A^T (w A A^T + 1 - w)^-1 (y - A x0). See `Degradation.correct`.

        The weight is at most MOST_WEIGHT.

        Raises:
            ValueError: A variance differs between pixels or images.
        """
        weight = min(float(torch.as_tensor(data_weight(noise_variance, prior_variance, like=x0))), MOST_WEIGHT)
        if weight == 0:
            return x0.clone()
        estimate, data = at_least_float32(x0), at_least_float32(y)
        residual = self._kept(data - self.measure(estimate))
        tolerance = max(TOLERANCE * float(noise_variance) ** 0.5, LEAST_TOLERANCE)
        u = self._solve(residual, weight, tolerance)
        return (estimate + weight * self.transpose(u)).to(x0.dtype)

    def noise_passed(self, noise_variance: float, prior_variance: float) -> float:
        """Return the variance of the noise of the data in the result of `correct`, the mean over an image.

        A frequency is multiplied by r^2 conj(K) / (r^2 |K|^2 + s_y^2), with the transform K of the kernel. The borders
        and the pixels that are not known are left out of account, as if the image were circular.

        Args:
            noise_variance: s_y^2 on any scale, above 0.
            prior_variance: r^2 on the same scale.
        """
        gain = self._gain
        passed = prior_variance**2 * gain / (prior_variance * gain + noise_variance).square()
        return noise_variance * float(passed.mean())

    @cached_property
    def _gain(self) -> Tensor:
        """|K|^2 of a circular image in the size of SPECTRUM, or in that of a larger kernel."""
        return torch.fft.fft2(self.kernel, s=[max(SPECTRUM, *self.kernel.shape)] * 2).abs().square()

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x unchanged, because noise in y was amplified by everything that follows it exactly."""
        return x

    def _kept(self, y: Tensor) -> Tensor:
        return y if self.known is None else torch.where(self.known.to(y.device), y, 0.0)

    def _solve(self, b: Tensor, weight: float, tolerance: float) -> Tensor:
        """Return (w A A^T + 1 - w)^-1 b by preconditioned conjugate gradients."""
        height, width = b.shape[-2:]
        size = _fast_size(height + 2 * self.reach[0]), _fast_size(width + 2 * self.reach[1])
        response = weight * self._transfer(size, b).abs().square() + 1 - weight
        inverse = 1 / response

        def multiplied(u: Tensor, factor: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(u, s=size).mul_(factor)
            return self._kept(torch.fft.irfft2(spectrum, s=size)[..., :height, :width])

        return conjugate_gradients(
            lambda u: multiplied(u, response), b, lambda r: multiplied(r, inverse), tolerance=tolerance
        )

    def _transfer(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """Return the Fourier transform of the kernel with its first pixel at the origin, in the size of `rfft2`."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = (size, dtype, like.device)
        if key not in self._transfers:
            self._transfers[key] = torch.fft.rfft2(self.kernel.to(like.device, dtype), s=size)
        return self._transfers[key]


@lru_cache(maxsize=1024)
def _fast_size(length: int) -> int:
    """Return the least number from `length` on whose only prime factors are 2, 3 and 5."""
    size = length
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1
