r"""Shrinking by an integer factor, as Pillow's bicubic filter does it, with its exact proximal point.

Source:
    Keys 1981, "Cubic Convolution Interpolation for Digital Image Processing", IEEE Transactions on Acoustics, Speech,
        and Signal Processing 29(6): the kernel.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from restorer.diffusion.degradations.conjugate_gradients import conjugate_gradients
from restorer.diffusion.degradations.degradation import Degradation, at_least_float32, data_weight

__all__ = ["Bicubic"]

# Distance between two neighbouring 8-bit values on the [-1, 1] scale.
EIGHT_BIT_STEP = 2 / 255

# Momentum of the projected gradient steps in `Bicubic.finish`. Values from .85 to .95 take about as many steps.
MOMENTUM = 0.9


class Bicubic(Degradation):
    r"""Shrinking by an integer factor s: A = R_h (x) R_w is Pillow's `resize((W / s, H / s), BICUBIC)`.

    Along an axis of n pixels, row j of R, (n / s, n), is the cubic convolution kernel k (Keys 1981, a = -1/2). It is
    stretched by s for antialiasing, centred at (j + 1/2) s, and normalized to the sum 1:

        R_ji = k( (i + 1/2) / s - (j + 1/2) ) / n_j,    n_j = sum_{0 <= i < n} k( (i + 1/2) / s - (j + 1/2) )

        k(t) =  3/2 |t|^3 - 5/2 |t|^2 + 1               for |t| < 1
               -1/2 |t|^3 + 5/2 |t|^2 - 4 |t| + 2       for 1 <= |t| < 2
                0                                       otherwise

    Taps beyond the border are dropped, and the remaining taps of the row are renormalized. Without the normalization
    all rows have the same taps: R = diag(1 / n_j) S, where S is a strided convolution with zero padding.

    A A^T = R_h R_h^T (x) R_w R_w^T is banded, with seven diagonals per axis, and well conditioned (a condition number
    of at most 2.2 per axis). With R_h R_h^T = V_h diag(k_h) V_h^T and likewise for R_w, the system of the proximal
    point has the solution

        (w A A^T + 1 - w)^-1 b = V_h [ (V_h^T b V_w) / (w k_h k_w^T + 1 - w) ] V_w^T,

    which costs four matrix products. If an axis is too long for its eigenvectors, conjugate gradients solve the system
    to rounding in about 15 steps.

    R and R^T are computed as sums of slices and not by convolutions. TF32 and autocast would reduce the precision of a
    convolution, and a transposed convolution would not be reproducible. Half precision is computed in float32.

    Args:
        scale: The factor s, a positive integer. H and W must be multiples of it.

    Raises:
        ValueError: The scale is below 1.
    """

    # Longest axis of the shrunk image for which eigenvectors are used. At twice this length they gain nothing.
    MAX_DENSE_LENGTH = 512

    def __init__(self, scale: int) -> None:
        if scale < 1:
            raise ValueError(f"the scale must be a positive integer, not {scale}")
        self.scale = scale

    def measure(self, x: Tensor) -> Tensor:
        """Return A x.

        Args:
            x: Images, (B, C, H, W).

        Returns:
            Shrunk images, (B, C, H / s, W / s), in the precision of x.

        Raises:
            ValueError: H or W is not a multiple of the scale.
        """
        if x.shape[-1] % self.scale or x.shape[-2] % self.scale:
            raise ValueError(f"{x.shape[-1]}x{x.shape[-2]} pixels are not a multiple of the scale {self.scale}")
        return _shrink(_shrink(at_least_float32(x), self.scale, -2), self.scale, -1).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        """Return A^T y.

        Args:
            y: Shrunk images, (B, C, h, w).

        Returns:
            Images, (B, C, h s, w s), in the precision of y.
        """
        return _shrink_transpose(_shrink_transpose(at_least_float32(y), self.scale, -1), self.scale, -2).to(y.dtype)

    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """Return x0 + A^T w (w A A^T + 1 - w)^-1 (y - A x0). See `Degradation.correct`.

        Raises:
            ValueError: A variance is a map, or H or W is not a multiple of the scale.
        """
        estimate, data = at_least_float32(x0), at_least_float32(y)
        residual = data - self.measure(estimate)
        weight = data_weight(noise_variance, prior_variance, like=residual)
        if isinstance(weight, Tensor) and weight.numel() > 1 and weight.shape[1:] != (1, 1, 1):
            raise ValueError(f"Bicubic takes one variance per image, not a map of shape {tuple(weight.shape)}")

        if max(residual.shape[-2:]) <= self.MAX_DENSE_LENGTH and _is_matmul_exact():
            u = self._solve_by_eigenvectors(residual, weight)
        else:
            u = conjugate_gradients(
                lambda u: torch.lerp(u, _gram(_gram(u, self.scale, -1), self.scale, -2), weight), residual
            )
        x = estimate.expand(len(u), *estimate.shape[1:]).clone(memory_format=torch.contiguous_format)
        return self._add_transpose(u.mul_(weight), x).to(x0.dtype)

    def _solve_by_eigenvectors(self, b: Tensor, weight: float | Tensor) -> Tensor:
        """Return (w A A^T + 1 - w)^-1 b by the eigenvectors of both axes."""
        (k_h, v_h), (k_w, v_w) = (_gram_eigenvectors(n, self.scale, b.dtype, b.device) for n in b.shape[-2:])
        with torch.autocast(b.device.type, enabled=False):
            coefficients = v_h.T @ b @ v_w
            coefficients /= torch.lerp(torch.ones_like(b[:1, :1, :1, :1]), k_h[:, None] * k_w, weight)
            return v_h @ coefficients @ v_w.T

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """Return an 8-bit image near x that Pillow's 8-bit resize shrinks to y.

        The projection of x onto the data may leave [-1, 1], and clipping it violates the data. The violation is removed
        by minimizing |y - A x|^2 over the box [-1, 1] with projected gradient steps and momentum (Nesterov 1983):

            x_{i+1} = clip( z_i + rate A^T (y - A z_i) ),    z_{i+1} = clip( x_{i+1} + MOMENTUM (x_{i+1} - x_i) )

        The momentum is constant: the growing momentum of FISTA (Beck and Teboulle 2009) takes half as many steps again
        on photographs. A z is clipped after each axis, as Pillow clips 8-bit images, so that an overshoot beyond black
        or white costs nothing.

        For some y no such image exists, for example for one-pixel black lines on white, which no shrinking can produce.
        The result is then close to the least-squares solution. In a batch all images take as many steps as the slowest.

        Args:
            x: The result of the reverse process, (B, C, H, W) on [-1, 1].
            y: Shrunk images without noise, (B, C, H / s, W / s).

        Returns:
            Images of 8-bit values on [-1, 1], shaped like x.
        """
        data, start = at_least_float32(y), at_least_float32(x).clamp(-1, 1)
        rate = self.scale**2 / 1.1  # the largest eigenvalue of A A^T is at most 1.08 / scale^2, borders included
        residual = data - self._measure_clipped(start)
        best = self.correct(start, self.measure(start) + residual, 0.0, 1.0).clamp_(-1, 1)
        ahead = best.clone(memory_format=torch.contiguous_format)
        for _ in range(32):
            residual = data - self._measure_clipped(ahead)
            if residual.abs().max() <= EIGHT_BIT_STEP / 4:
                best = ahead
                break
            previous, best = best, self._add_transpose(residual.mul_(rate), ahead).clamp_(-1, 1)
            ahead = torch.lerp(previous, best, 1 + MOMENTUM).clamp_(-1, 1)
        return (best + 1).div_(EIGHT_BIT_STEP).round_().mul_(EIGHT_BIT_STEP).sub_(1).clamp_(-1, 1).to(x.dtype)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y - A x for an image of 8 bits, which Pillow clips after each axis, (B, C, h, w)."""
        return at_least_float32(y) - self._measure_clipped(at_least_float32(x))

    def _add_transpose(self, y: Tensor, x: Tensor) -> Tensor:
        """Add A^T y to x, a contiguous tensor, in place, and return the sum."""
        return _shrink_transpose(_shrink_transpose(y, self.scale, -1), self.scale, -2, onto=x)

    def _measure_clipped(self, x: Tensor) -> Tensor:
        """Return A x clipped after each axis, as Pillow shrinks an 8-bit image, but without rounding."""
        return _shrink(_shrink(x, self.scale, -1).clamp_(-1, 1), self.scale, -2).clamp_(-1, 1)


@lru_cache(maxsize=32)
def _cubic_taps(scale: int) -> tuple[tuple[float, ...], int]:
    """Return the taps of a row of S, and how many of them lie before the first of the row's own `scale` pixels."""
    reach = 3 * scale // 2
    count = scale + 2 * reach
    t = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2).abs() / scale
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return tuple(torch.where(t < 1, near, torch.where(t < 2, far, 0.0)).tolist()), reach


@lru_cache(maxsize=32)
def _row_sums_and_gram(length: int, scale: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the sums n_j of the rows of S, and the main and upper diagonals of R R^T, in float64.

    Args:
        length: Number of rows: the length of the shrunk axis.
        scale: The factor of the shrinking.
    """
    # Cached tensors outlive the inference mode of the first caller, and must serve gradients outside it.
    with torch.inference_mode(False):
        taps, reach = _cubic_taps(scale)
        offsets = torch.arange(len(taps)) - reach
        position = torch.arange(length)[:, None] * scale + offsets
        rows = torch.tensor(taps, dtype=torch.float64) * ((position >= 0) & (position < length * scale))
        sums = rows.sum(1)
        rows = rows / sums[:, None]
        bands = (
            (rows[: length - d, d * scale :] * rows[d:, : len(taps) - d * scale]).sum(1) for d in range(min(4, length))
        )
        return sums, tuple(bands)


@lru_cache(maxsize=64)  # tasks/batching.py alternates between images of several sizes
def _gram_eigenvectors(length: int, scale: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return k, (length,), and V, (length, length), of R R^T = V diag(k) V^T for a shrunk axis of this length."""
    with torch.inference_mode(False):  # as in `_row_sums_and_gram`
        main, *upper = _row_sums_and_gram(length, scale)[1]
        gram = torch.diag(main)
        for d, band in enumerate(upper, 1):
            gram += torch.diag(band, d) + torch.diag(band, -d)
        values, vectors = torch.linalg.eigh(gram)
        return values.to(device, dtype), vectors.to(device, dtype)


def _is_matmul_exact() -> bool:
    """Return whether PyTorch multiplies float32 matrices in float32, and not in TF32 or bf16."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # the precision has been set by the newer `torch.backends...fp32_precision`
        return False


@lru_cache(maxsize=32)
def _slices(length: int, scale: int) -> tuple[tuple[float, int, slice, slice], ...]:
    """Return S as a sum of slices, for a shrunk axis of this length.

    Returns:
        For each tap: its value, the index of the pixel that it reads within a block of `scale` pixels, the rows of S in
        which it lies inside the image, and the blocks that these rows read.
    """
    taps, reach = _cubic_taps(scale)
    table = []
    for i, tap in enumerate(taps):
        shift, pixel = divmod(i - reach, scale)
        first, last = max(0, -shift), min(length, length - shift)
        if first < last:
            table.append((tap, pixel, slice(first, last), slice(first + shift, last + shift)))
    return tuple(table)


def _along_first_axis(v: Tensor, like: Tensor) -> Tensor:
    """Return the vector v shaped to broadcast along the first axis of `like`, in its precision and on its device."""
    return v.to(like).reshape(-1, *[1] * (like.ndim - 1))


def _shrink(x: Tensor, scale: int, dim: int) -> Tensor:
    """Return R x along `dim`, which is -2 or -1."""
    parts = x.unflatten(dim, (-1, scale))
    if dim == -1:  # a column is read three times as fast if its values are adjacent in memory
        parts = parts.mT.contiguous().mT
    blocks = _blocks_first(parts, dim)
    y = torch.zeros_like(blocks[:, 0])
    for tap, pixel, rows, read in _slices(len(y), scale):
        y[rows].add_(blocks[read, pixel], alpha=tap)
    return y.div_(_along_first_axis(_row_sums_and_gram(len(y), scale)[0], y)).movedim(0, dim)


def _shrink_transpose(y: Tensor, scale: int, dim: int, onto: Tensor | None = None) -> Tensor:
    """Return R^T y along `dim`, which is -2 or -1.

    Args:
        y: Shrunk images.
        scale: The factor of the shrinking.
        dim: The axis to enlarge.
        onto: A contiguous tensor to which R^T y is added in place, for `dim` = -2 only.
    """
    shape = (*y.shape[:-1], scale, y.shape[-1])
    parts = y.new_zeros(shape) if onto is None else onto.view(shape)
    if dim == -1:  # as in `_shrink`
        parts = parts.mT
    blocks, y = _blocks_first(parts, dim), y.movedim(dim, 0)
    y = y / _along_first_axis(_row_sums_and_gram(len(y), scale)[0], y)
    for tap, pixel, rows, written in _slices(len(y), scale):
        blocks[written, pixel].add_(y[rows], alpha=tap)
    return parts.flatten(dim - 1, dim)


def _blocks_first(parts: Tensor, dim: int) -> Tensor:
    """Return a view whose first two axes are the blocks, and the pixels of a block, into which `dim` was split."""
    return parts.movedim((dim - 1, dim), (0, 1))


def _gram(u: Tensor, scale: int, dim: int) -> Tensor:
    """Return R R^T u along `dim`."""
    u = u.movedim(dim, 0)
    main, *upper = (_along_first_axis(band, u) for band in _row_sums_and_gram(len(u), scale)[1])
    v = main * u
    for d, band in enumerate(upper, 1):
        v[:-d].addcmul_(band, u[d:])
        v[d:].addcmul_(band, u[:-d])
    return v.movedim(0, dim)
