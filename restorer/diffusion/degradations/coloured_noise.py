r"""Noise that is neither white nor independent between channels: A = I, and a covariance for each frequency.

    y = x + n,   cov(n) = s_y^2 C

n is stationary. Its covariance is given by the 3x3 matrices c(d) of the pixels at a distance d, the autocovariance, and
it is diagonalized by the Fourier transform, up to the three channels: C(f) = sum_d c(d) exp(-2 pi i f d), a Hermitian
3x3 matrix for each frequency. The proximal point of `degradation.py` then is, frequency by frequency,

    correct(x0) = x0 + F^-1 r^2 (r^2 I + s_y^2 C(f))^-1 F (y - x0)

White noise is the special case c(0) = I and c(d) = 0 elsewhere, in which this is the proximal point of `Identity`.
F^-1 C(f)^-1/2 F n / s_y is white noise of variance 1.

The image is processed in blocks that overlap, so that the memory for the matrices does not grow with the image. The
filter hardly reaches farther than the autocovariance. Each block is computed with a margin of twice that reach, which
is then cut off. Beyond its borders the image is continued by its mirror image.

Source:
    Mäkinen, Azzari and Foi 2020, "Collaborative Filtering of Correlated Noise", IEEE Transactions on Image Processing
        29: noise described by its power spectral density, and the memory that a small kernel for it saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from restorer.diffusion.degradations.degradation import Degradation, at_least_float32, data_weight

__all__ = ["ColouredNoise"]

BLOCK = 256
"""Largest side in pixels of what one block contributes to the result."""

LEAST_DENSITY = 0.5
"""Eigenvalue of C to which lower ones are raised before noise is made white. Where there is hardly any noise, its
strength is not known well, and the residual of a prediction is not noise but what the prediction lacks."""


class ColouredNoise(Degradation):
    """The identity, A = I, with noise that is correlated between neighbouring pixels and between channels.

    Args:
        autocovariance: The matrices c(d), (C, C, n, n), in units of s_y^2: entry (i, j, dy, dx) is the covariance of
            channel i at (y + dy, x + dx) with channel j at (y, x). Distances are counted from 0 and wrap around: the
            second half of an axis holds the negative ones. The matrices C(f) must not have eigenvalues below 0.

    Raises:
        ValueError: The shape is another one.
    """

    def __init__(self, autocovariance: Tensor) -> None:
        if autocovariance.ndim != 4 or autocovariance.shape[0] != autocovariance.shape[1]:
            raise ValueError(f"an autocovariance has the shape (C, C, n, n), not {tuple(autocovariance.shape)}")
        self.autocovariance = autocovariance

    def measure(self, x: Tensor) -> Tensor:
        """Return x unchanged."""
        return x

    def transpose(self, y: Tensor) -> Tensor:
        """Return y unchanged."""
        return y

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x unchanged, because the data are the image itself."""
        return x

    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """Return x0 + F^-1 w (w I + (1 - w) C)^-1 F (y - x0). See `Degradation.correct`.

        Raises:
            ValueError: A variance differs between pixels or images.
        """
        weight = float(torch.as_tensor(data_weight(noise_variance, prior_variance, like=x0)))
        if weight in (0.0, 1.0):
            return x0 + weight * (y - x0)
        difference = at_least_float32(y) - at_least_float32(x0)
        return self._filtered(difference, partial(self._gain, weight)).add_(x0).to(x0.dtype)

    def whiten(self, noise: Tensor) -> Tensor:
        """Return F^-1 C^-1/2 F noise, in which eigenvalues of C below LEAST_DENSITY are raised to it."""
        return self._filtered(at_least_float32(noise), self._whitening_gain).to(noise.dtype)

    def _filtered(self, x: Tensor, gain_of: Callable[[tuple[int, int], Tensor], Tensor]) -> Tensor:
        """Return F^-1 G F x, computed block by block, for the matrices G of a block, by its size and x."""
        height, width = x.shape[-2:]
        margin = self.autocovariance.shape[-1]  # the reach is half as long
        result = torch.empty_like(x)
        rows, columns = _blocks(height), _blocks(width)
        size = rows[0].stop - rows[0].start + 2 * margin, columns[0].stop - columns[0].start + 2 * margin
        gain = gain_of(size, x)
        for row in rows:
            across = x.index_select(-2, _mirrored_range(row, margin, height, x.device))
            for column in columns:
                block = across.index_select(-1, _mirrored_range(column, margin, width, x.device))
                spectrum = torch.einsum("ijhw,bjhw->bihw", gain, torch.fft.rfft2(block))
                filtered = torch.fft.irfft2(spectrum, s=size)
                result[..., row, column] = filtered[..., margin : size[0] - margin, margin : size[1] - margin]
        return result

    def _gain(self, weight: float, size: tuple[int, int], like: Tensor) -> Tensor:
        """Return w (w I + (1 - w) C)^-1 for the frequencies of `rfft2` on blocks of a size, (C, C, H, W / 2 + 1)."""
        covariance = self._covariance(size, like)
        identity = torch.eye(covariance.shape[-1], dtype=like.dtype, device=like.device)
        gain = torch.linalg.inv(identity + (1 - weight) / weight * covariance)
        return gain.movedim((-2, -1), (0, 1))

    def _whitening_gain(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """Return C^-1/2 for the same frequencies, in the same shape."""
        values, vectors = torch.linalg.eigh(self._covariance(size, like))
        scaled = vectors * values.clamp(min=LEAST_DENSITY).rsqrt()[..., None, :]
        return (scaled @ vectors.mH).movedim((-2, -1), (0, 1))

    def _covariance(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """Return C for the same frequencies, (H, W / 2 + 1, C, C)."""
        count, n = self.autocovariance.shape[1:3]
        distances = torch.arange(n)
        distances = torch.where(distances < n - n // 2, distances, distances - n)
        padded = torch.zeros(count, count, *size, dtype=like.dtype)
        padded[..., (distances % size[0])[:, None], distances % size[1]] = self.autocovariance.to("cpu", like.dtype)
        return torch.fft.rfft2(padded.to(like.device)).movedim((0, 1), (-2, -1))


def _blocks(length: int) -> list[slice]:
    """Return equally long slices of at most BLOCK that cover an axis; the last ones may overlap."""
    count = math.ceil(length / BLOCK)
    side = math.ceil(length / count)
    starts = (min(i * side, length - side) for i in range(count))
    return [slice(start, start + side) for start in starts]


def _mirrored_range(block: slice, margin: int, length: int, device: torch.device) -> Tensor:
    """Return the positions of a block with a margin on an axis that is continued by its mirror image."""
    positions = torch.arange(block.start - margin, block.stop + margin, device=device)
    period = max(2 * (length - 1), 1)
    positions = positions % period
    return torch.minimum(positions, period - positions)
