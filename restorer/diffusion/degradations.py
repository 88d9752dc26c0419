"""What happened to a picture, as a linear operator, and the exact way back to the data.

    y = A x + n,   n ~ N(0, s_y^2 I)

`x` is a clean picture (B, C, H, W) on [-1, 1]; A keeps it (denoise), hides pixels (inpaint) or shrinks it (upscale).
Given a network's estimate x0 with variance r^2, the most probable picture is the proximal point

    correct(x0) = argmin_x |y - A x|^2 / s_y^2 + |x - x0|^2 / r^2
                = x0 + r^2 A^T (s_y^2 I + r^2 A A^T)^-1 (y - A x0)
                = x0 + A^T w (w A A^T + (1 - w) I)^-1 (y - A x0),   w = r^2 / (r^2 + s_y^2).

The last form has no corner: w = 1 (no noise, or r^2 = inf) is the projection x0 + A^+ (y - A x0) that keeps what A does
not see; w = 0 (no trust in the data) is x0. A noise of sigma levels on the 0..255 scale is s_y = 2 sigma / 255 here.

Sources: Wang et al. 2022, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model" (DDNM, arXiv
2212.00490) for the range/null decomposition; Zhu et al. 2023, "Denoising Diffusion Models for Plug-and-Play Image
Restoration" (DiffPIR, arXiv 2305.08995) for the proximal point.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

LEVEL = 2 / 255
"""One step of an 8-bit picture on [-1, 1]."""
MOMENTUM = 0.9
"""Of the last touch of an enlargement. From .85 to .95 it takes about as many steps."""


class Degradation(ABC):
    """A linear operator A with its transpose, its proximal point and its last touch."""

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """A x: what is left of a clean picture (B, C, H, W)."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """A^T y, of the clean picture's shape."""

    @abstractmethod
    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """The proximal point of x0 for the data y (module docstring).

        Variances are s_y^2 and r^2 on the [-1, 1] scale: floats or (B, 1, 1, 1), for `Identity` and `Mask` also maps
        that broadcast to y. Either may be 0 or inf; no noise, or r^2 = inf, is the projection onto the data.
        """

    @abstractmethod
    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """The last touch when y is free of noise: x with the data put back as the written file will hold it."""

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y: the smallest picture that gives y."""
        return self.correct(torch.zeros_like(self.transpose(y)), y, 0.0, 1.0)


class Identity(Degradation):
    """A = I: the picture is all there, under noise. DiffPIR's proximal point is the precision-weighted mean."""

    def measure(self, x: Tensor) -> Tensor:
        """The picture itself."""
        return x

    def transpose(self, y: Tensor) -> Tensor:
        """The picture itself."""
        return y

    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """x0 + w (y - x0)."""
        return torch.lerp(x0, y, _trust(noise_variance, prior_variance, like=x0))

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """x: there is nothing to put back."""
        return x


class Mask(Degradation):
    """A = diag(known): the known pixels, 0 elsewhere. DDNM's inpainting; with noise DiffPIR's pixelwise proximal point.

    `known` broadcasts from (1 or B, 1 or C, H, W); true, or above 0.5, is known. What y holds at unknown pixels is
    never read.
    """

    def __init__(self, known: Tensor) -> None:
        self.known = known if known.dtype == torch.bool else known > 0.5

    def measure(self, x: Tensor) -> Tensor:
        """The known pixels of x, 0 elsewhere."""
        return torch.where(self.known, x, 0.0)

    def transpose(self, y: Tensor) -> Tensor:
        """The same: a mask is its own transpose and its own pseudo-inverse."""
        return self.measure(y)

    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """x0 + w (y - x0) at the known pixels, x0 elsewhere."""
        return torch.where(self.known, torch.lerp(x0, y, _trust(noise_variance, prior_variance, like=x0)), x0)

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """The known pixels of y, bit for bit, x elsewhere."""
        return torch.where(self.known, y, x)


class Bicubic(Degradation):
    """A = Pillow's `resize((W / scale, H / scale), BICUBIC)`, with its antialiasing and its borders: R_h (x) R_w.

    Row j of R holds the cubic kernel (Keys 1981, a = -1/2) stretched by the integer `scale` about (j + 1/2) scale; taps
    beyond the border are dropped and the others renormalized. So all rows have the same taps and R = diag(1/n) S, S
    a zero-padded strided convolution and n = S 1. A A^T = (R_h R_h^T) (x) (R_w R_w^T) is banded, seven diagonals per
    axis, and well conditioned (at most 2.2 per axis). The eigenvectors of either axis solve the proximal point in four
    products of matrices; where an axis is too long for them, conjugate gradients do, to rounding, in some 15 steps.

    Sums are written out and not left to a convolution: TF32 and autocast would cost exactness, and the transpose its
    repeatability. H and W must be multiples of `scale`. Half precision is computed in float32.
    """

    DENSE = 512  # longest axis of a small picture whose eigenvectors are kept; at twice that they gain nothing

    def __init__(self, scale: int) -> None:
        if scale < 1:
            raise ValueError(f"The scale must be a positive integer, not {scale}.")
        self.scale = scale

    def measure(self, x: Tensor) -> Tensor:
        """A x: (B, C, H, W) -> (B, C, H / scale, W / scale)."""
        if x.shape[-1] % self.scale or x.shape[-2] % self.scale:
            raise ValueError(f"{x.shape[-1]}x{x.shape[-2]} pixels cannot be shrunk by {self.scale}: not a multiple.")
        return _shrink(_shrink(_full(x), self.scale, -2), self.scale, -1).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        """A^T y: (B, C, h, w) -> (B, C, h scale, w scale)."""
        return _spread(_spread(_full(y), self.scale, -1), self.scale, -2).to(y.dtype)

    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """x0 + A^T w (w A A^T + 1 - w)^-1 (y - A x0); variances are floats or (B, 1, 1, 1)."""
        start, target = _full(x0), _full(y)
        missing = target - self.measure(start)
        trust = _trust(noise_variance, prior_variance, like=missing)
        if isinstance(trust, Tensor) and trust.numel() > 1 and trust.shape[1:] != (1, 1, 1):
            raise ValueError(f"Shrinking takes one variance per picture, not a map of shape {tuple(trust.shape)}.")

        if max(missing.shape[-2:]) <= self.DENSE and _products_are_exact():
            u = self._solved(missing, trust)
        else:
            u = _conjugate_gradients(
                lambda u: torch.lerp(u, _gram(_gram(u, self.scale, -1), self.scale, -2), trust), missing
            )
        sums = start.expand(len(u), *start.shape[1:]).clone(memory_format=torch.contiguous_format)
        return self._given(u.mul_(trust), sums).to(x0.dtype)

    def _solved(self, b: Tensor, trust: float | Tensor) -> Tensor:
        """(w A A^T + 1 - w)^-1 b by the eigenvectors of either axis."""
        (rows, down), (columns, across) = (_modes(n, self.scale, b.dtype, b.device) for n in b.shape[-2:])
        with torch.autocast(b.device.type, enabled=False):
            modes = down.T @ b @ across
            modes /= torch.lerp(torch.ones_like(b[:1, :1, :1, :1]), rows[:, None] * columns, trust)
            return down @ modes @ across.T

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """The 8-bit picture near x that Pillow's 8-bit resize shrinks to y, or to the nearest it can where none exists.

        The projection onto the data may leave [-1, 1], and what clipping takes away has to be given elsewhere:
        accelerated projected gradients on |y - A x|^2 over the box (Nesterov 1983), with a momentum that does not
        change: one that grows (FISTA, Beck and Teboulle 2009) takes half as many steps again on photographs. A is
        clipped after each axis, as Pillow does with 8 bits, so an overshoot beyond black or white costs nothing. Not
        every y has such a picture (one-pixel black lines on white, say, that no shrinking could have drawn): then this
        is close to the least-squares answer. On a batch the number of steps is the slowest picture's.
        """
        target, start = _full(y), _full(x).clamp(-1, 1)
        rate = self.scale**2 / 1.1  # the largest eigenvalue of A A^T is at most 1.08 / scale^2, borders included
        missing = target - self._clipped(start)
        best = self.correct(start, self.measure(start) + missing, 0.0, 1.0).clamp_(-1, 1)
        ahead = best.clone(memory_format=torch.contiguous_format)
        for _ in range(32):
            missing = target - self._clipped(ahead)
            if missing.abs().max() <= LEVEL / 4:
                best = ahead
                break
            previous, best = best, self._given(missing.mul_(rate), ahead).clamp_(-1, 1)
            ahead = torch.lerp(previous, best, 1 + MOMENTUM).clamp_(-1, 1)
        return (best + 1).div_(LEVEL).round_().mul_(LEVEL).sub_(1).clamp_(-1, 1).to(x.dtype)

    def _given(self, y: Tensor, x: Tensor) -> Tensor:
        """x + A^T y, in the place of x, which is contiguous."""
        return _spread(_spread(y, self.scale, -1), self.scale, -2, onto=x)

    def _clipped(self, x: Tensor) -> Tensor:
        """A x as Pillow takes it from an 8-bit picture, which is clipped after either axis, but for its rounding."""
        return _shrink(_shrink(x, self.scale, -1).clamp_(-1, 1), self.scale, -2).clamp_(-1, 1)


def _trust(noise_variance: float | Tensor, prior_variance: float | Tensor, like: Tensor) -> float | Tensor:
    """w = r^2 / (r^2 + s_y^2), 1 where there is no noise or no prior."""
    if not isinstance(noise_variance, Tensor) and not isinstance(prior_variance, Tensor):
        alone = noise_variance == 0 or math.isinf(prior_variance)
        return 1.0 if alone else prior_variance / (prior_variance + noise_variance)
    noise, prior = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (noise_variance, prior_variance))
    return torch.where((noise == 0) | prior.isinf(), 1.0, 1 / (1 + noise / prior))


def _full(x: Tensor) -> Tensor:
    """At least single precision."""
    return x if x.dtype == torch.float64 else x.float()


@lru_cache(maxsize=32)
def _taps(scale: int) -> tuple[tuple[float, ...], int]:
    """One row's taps before renormalization, and how many of them reach beyond the first pixel of its block."""
    reach = 3 * scale // 2
    count = scale + 2 * reach
    t = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2).abs() / scale
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return tuple(torch.where(t < 1, near, torch.where(t < 2, far, 0.0)).tolist()), reach


@lru_cache(maxsize=32)
def _axis(length: int, scale: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """For a small axis of `length` pixels: the sums n of its rows' taps, and R R^T's upper diagonals, in float64."""
    with torch.inference_mode(False):  # what is kept outlives whoever asks first
        taps, reach = _taps(scale)
        offsets = torch.arange(len(taps)) - reach
        position = torch.arange(length)[:, None] * scale + offsets
        rows = torch.tensor(taps, dtype=torch.float64) * ((position >= 0) & (position < length * scale))
        sums = rows.sum(1)
        rows = rows / sums[:, None]
        bands = (
            (rows[: length - d, d * scale :] * rows[d:, : len(taps) - d * scale]).sum(1) for d in range(min(4, length))
        )
        return sums, tuple(bands)


@lru_cache(maxsize=64)  # pictures of several sizes take turns (tasks/batching.py)
def _modes(length: int, scale: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """R R^T = V diag(k) V^T along a small axis: k, (n,), and V, (n, n)."""
    with torch.inference_mode(False):  # as in `_axis`
        main, *upper = _axis(length, scale)[1]
        gram = torch.diag(main)
        for d, band in enumerate(upper, 1):
            gram += torch.diag(band, d) + torch.diag(band, -d)
        values, vectors = torch.linalg.eigh(gram)
        return values.to(device, dtype), vectors.to(device, dtype)


def _products_are_exact() -> bool:
    """Whether PyTorch multiplies float32 matrices in float32, and not in TF32 or bf16."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # somebody has set it by the newer `torch.backends...fp32_precision`
        return False


@lru_cache(maxsize=32)
def _rows(length: int, scale: int) -> tuple[tuple[float, int, slice, slice], ...]:
    """R as sums of slices: each tap with its pixel in a block of `scale`, the rows it serves, the blocks they read."""
    taps, reach = _taps(scale)
    table = []
    for i, tap in enumerate(taps):
        shift, pixel = divmod(i - reach, scale)
        first, last = max(0, -shift), min(length, length - shift)
        if first < last:
            table.append((tap, pixel, slice(first, last), slice(first + shift, last + shift)))
    return tuple(table)


def _column(v: Tensor, like: Tensor) -> Tensor:
    """A vector over the first axis of `like`."""
    return v.to(like).reshape(-1, *[1] * (like.ndim - 1))


def _shrink(x: Tensor, scale: int, dim: int) -> Tensor:
    """R x along `dim`, -2 or -1."""
    parts = x.unflatten(dim, (-1, scale))
    if dim == -1:  # every scale-th column: side by side they are read three times as fast
        parts = parts.mT.contiguous().mT
    blocks = _first(parts, dim)
    y = torch.zeros_like(blocks[:, 0])
    for tap, pixel, rows, read in _rows(len(y), scale):
        y[rows].add_(blocks[read, pixel], alpha=tap)
    return y.div_(_column(_axis(len(y), scale)[0], y)).movedim(0, dim)


def _spread(y: Tensor, scale: int, dim: int, onto: Tensor | None = None) -> Tensor:
    """R^T y along `dim`, -2 or -1; where that is -2, onto x if it is given, contiguous."""
    shape = (*y.shape[:-1], scale, y.shape[-1])
    parts = y.new_zeros(shape) if onto is None else onto.view(shape)
    if dim == -1:  # as in `_shrink`
        parts = parts.mT
    blocks, y = _first(parts, dim), y.movedim(dim, 0)
    y = y / _column(_axis(len(y), scale)[0], y)
    for tap, pixel, rows, written in _rows(len(y), scale):
        blocks[written, pixel].add_(y[rows], alpha=tap)
    return parts.flatten(dim - 1, dim)


def _first(parts: Tensor, dim: int) -> Tensor:
    """What was `dim` before it was split into blocks and pixels of a block, in front, a view."""
    return parts.movedim((dim - 1, dim), (0, 1))


def _gram(u: Tensor, scale: int, dim: int) -> Tensor:
    """R R^T u along `dim`."""
    u = u.movedim(dim, 0)
    main, *upper = (_column(band, u) for band in _axis(len(u), scale)[1])
    v = main * u
    for d, band in enumerate(upper, 1):
        v[:-d].addcmul_(band, u[d:])
        v[d:].addcmul_(band, u[:-d])
    return v.movedim(0, dim)


def _conjugate_gradients(system: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
    """Solve system(u) = b, symmetric positive definite, for each picture of the batch on its own, to rounding.

    Where b is small that is the rounding of the pictures on [-1, 1] which u is added to.
    """
    tolerance = 1e-12 if b.dtype == torch.float64 else 1e-7

    def dot(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).sum((1, 2, 3), keepdim=True)

    u, r, p, rr = torch.zeros_like(b), b.clone(), b.clone(), dot(b, b)
    goal = tolerance**2 * rr.clamp(min=b[0].numel())
    for _ in range(100):
        active = rr > goal
        if not active.any():
            break
        q = system(p)
        step = torch.where(active, rr / dot(p, q), 0.0)
        u.addcmul_(step, p)
        r.addcmul_(step, q, value=-1)
        previous, rr = rr, dot(r, r)
        p.mul_(torch.where(active, rr / previous, 0.0)).add_(r)
    return u
