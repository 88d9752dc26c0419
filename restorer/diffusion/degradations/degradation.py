r"""Degradations of an image as linear operators, and the exact correction of an estimate towards the data.

    y = A x + n,   n ~ N(0, s_y^2 I)

Here x is a clean image (B, C, H, W) on [-1, 1], and y are the measured data. The operator A keeps the image (denoise),
hides pixels (inpaint), shrinks the image (upscale) or blurs it (deblur):

    class           A                                    A^T                          A A^T
    Identity        I                                    I                            I
    ColouredNoise   I, and noise that is not white       I                            I
    Quantization    DCT S M: JPEG coefficients           M^T S^T DCT^T                see `quantization.py`
    Mask            diag(m), m in {0, 1}                 diag(m)                      diag(m)
    Bicubic         R_h (x) R_w, Pillow's resampling     R_h^T (x) R_w^T              R_h R_h^T (x) R_w R_w^T
    Blur            M P K, a convolution                 K^T P^T M                    see `blur.py`

If a network estimates x as x0 with variance r^2, the most probable image given the data is the proximal point

    correct(x0) = argmin_x |y - A x|^2 / s_y^2 + |x - x0|^2 / r^2
                = x0 + r^2 A^T (s_y^2 I + r^2 A A^T)^-1 (y - A x0)
                = x0 + A^T w (w A A^T + (1 - w) I)^-1 (y - A x0),   w = r^2 / (r^2 + s_y^2).

The data weight w keeps the last form finite in both limits. For w = 1 (no noise, or r^2 = inf) it is the projection
x0 + A^+ (y - A x0), which keeps the part of x0 that A does not see. For w = 0 (data that carry no weight) it is x0.

A noise of sigma on the 0..255 scale is s_y = 2 sigma / 255 on the [-1, 1] scale of this module.

Sources:
    Wang et al. 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model" (DDNM),
        https://arxiv.org/abs/2212.00490: the decomposition into the range and the null space of A.
    Zhu et al. 2023, "Denoising Diffusion Models for Plug-and-Play Image Restoration" (DiffPIR),
        https://arxiv.org/abs/2305.08995: the proximal point.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Degradation", "at_least_float32", "data_weight"]


class Degradation(ABC):
    """A linear operator A with its transpose, its proximal point, and the exact restoration of noise-free data."""

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """Return A x, the data without noise.

        Args:
            x: Clean images, (B, C, H, W).
        """

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """Return A^T y.

        Args:
            y: Data, shaped like the result of `measure`.

        Returns:
            Images shaped like the argument of `measure`.
        """

    @abstractmethod
    def correct(self, x0: Tensor, y: Tensor, noise_variance: float | Tensor, prior_variance: float | Tensor) -> Tensor:
        """Return the proximal point of x0 for the data y, as the module docstring defines it.

        A noise variance of 0 or a prior variance of inf gives the projection of x0 onto the data.

        Args:
            x0: Estimates of the clean images, (B, C, H, W) on [-1, 1].
            y: Data, shaped like the result of `measure`.
            noise_variance: s_y^2 on the [-1, 1] scale, from 0 to inf: a float or (B, 1, 1, 1). `Identity` and `Mask`
                also accept a map that broadcasts to y.
            prior_variance: r^2 on the [-1, 1] scale, in the same form.

        Returns:
            Corrected images, shaped like x0.
        """

    @abstractmethod
    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x with noise-free data put back as the written file will hold them.

        Args:
            x: The result of the reverse process, (B, C, H, W) on [-1, 1].
            y: Data without noise, shaped like the result of `measure`.
        """

    def whiten(self, noise: Tensor) -> Tensor:
        """Return noise like that of the data as white noise of the same mean variance, where the class offers it.

        Args:
            noise: Noise, shaped like the data.

        Raises:
            NotImplementedError: The class does not offer it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not make noise white")

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Return A^+ y, the image of least norm that A maps to y."""
        return self.correct(torch.zeros_like(self.transpose(y)), y, 0.0, 1.0)


def data_weight(noise_variance: float | Tensor, prior_variance: float | Tensor, like: Tensor) -> float | Tensor:
    """Return w = r^2 / (r^2 + s_y^2), which is 1 if s_y^2 is 0 or r^2 is inf."""
    if not isinstance(noise_variance, Tensor) and not isinstance(prior_variance, Tensor):
        is_projection = noise_variance == 0 or math.isinf(prior_variance)
        return 1.0 if is_projection else prior_variance / (prior_variance + noise_variance)
    noise, prior = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (noise_variance, prior_variance))
    return torch.where((noise == 0) | prior.isinf(), 1.0, 1 / (1 + noise / prior))


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or in float64 if it is float64."""
    return x if x.dtype == torch.float64 else x.float()
