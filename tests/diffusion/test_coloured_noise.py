"""The proximal point for coloured noise agrees with the dense linear algebra that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from restorer.diffusion.degradations import coloured_noise
from restorer.diffusion.degradations.coloured_noise import ColouredNoise
from restorer.diffusion.degradations.pointwise import Identity

REACH = 4  # pixels: half the extent of the autocovariances below


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return images of uniform white noise on [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def autocovariance_of(kernels: Tensor) -> Tensor:
    """Return that of the noise that kernels (C, K, k, k) make of K channels of white noise."""
    n = 2 * REACH
    transfer = torch.fft.fft2(kernels.double(), s=(n, n))
    return torch.fft.ifft2(torch.einsum("ikhw,jkhw->ijhw", transfer, transfer.conj())).real


def white(channels: int = 3) -> Tensor:
    """Return the autocovariance of white noise of variance 1."""
    return autocovariance_of(torch.eye(channels)[:, :, None, None])


def grainy() -> Tensor:
    """Return an autocovariance that differs along the axes and between the channels, which lag behind each other."""
    kernels = torch.rand(3, 3, 2, 3, generator=torch.Generator().manual_seed(3))
    return autocovariance_of(kernels / kernels.square().sum().sqrt())


def dense(autocovariance: Tensor, height: int, width: int) -> Tensor:
    """Return the covariance matrix of the noise of an image (C, height, width)."""
    channels, n = autocovariance.shape[1:3]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    dy, dx = (p.flatten()[:, None] - p.flatten() for p in (y, x))
    near = (dy.abs() < n // 2) & (dx.abs() < n // 2)
    blocks = [
        [torch.where(near, autocovariance[i, j][dy % n, dx % n], 0.0) for j in range(channels)] for i in range(channels)
    ]
    return torch.cat([torch.cat(row, 1) for row in blocks])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 5), (100, 70), (300, 520)])
def test_white_noise_is_the_special_case(size: tuple[int, int]):
    x0, y = random(2, 3, *size), random(2, 3, *size, seed=1)
    torch.testing.assert_close(ColouredNoise(white()).correct(x0, y, 0.3, 0.2), Identity().correct(x0, y, 0.3, 0.2))


def test_it_is_the_proximal_point_of_the_dense_covariance():
    """Only the middle is compared: at the borders the image is continued, which the matrix does not know."""
    side, middle = 28, slice(12, 16)
    x0, y, s2, r2 = random(1, 3, side, side), random(1, 3, side, side, seed=1), 0.3, 0.2
    covariance = s2 * dense(grainy(), side, side)
    solved = torch.linalg.solve(r2 * torch.eye(len(covariance)).double() + covariance, (y - x0).flatten())
    expected = x0 + r2 * solved.view_as(x0)
    actual = ColouredNoise(grainy()).correct(x0, y, s2, r2)
    torch.testing.assert_close(actual[..., middle, middle], expected[..., middle, middle], rtol=0, atol=5e-5)
    flipped = ColouredNoise(grainy().transpose(0, 1)).correct(x0, y, s2, r2)
    assert (flipped - expected)[..., middle, middle].abs().max() > 1e-2, "the order of the channels does not matter"


def test_the_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch):
    x0, y = random(1, 3, 150, 200), random(1, 3, 150, 200, seed=1)
    whole = ColouredNoise(grainy()).correct(x0, y, 0.3, 0.2)
    monkeypatch.setattr(coloured_noise, "BLOCK", 64)
    # Real residuals are some twenty times smaller than these, and their autocovariances reach four times as far.
    torch.testing.assert_close(ColouredNoise(grainy()).correct(x0, y, 0.3, 0.2), whole, rtol=0, atol=2e-3)


def test_noise_that_the_channels_share_leaves_the_chroma_of_the_data():
    shared = autocovariance_of(torch.ones(3, 1, 1, 1))
    x0, y = random(1, 3, 20, 20), random(1, 3, 20, 20, seed=1)
    corrected = ColouredNoise(shared).correct(x0, y, 0.3, 0.2)
    chroma = lambda x: x - x.mean(1, keepdim=True)  # noqa: E731
    torch.testing.assert_close(chroma(corrected), chroma(y))
    expected = torch.lerp(x0.mean(1), y.mean(1), 0.2 / (0.2 + 3 * 0.3))  # 1 1^T has the eigenvalue 3
    torch.testing.assert_close(corrected.mean(1), expected)


def test_the_limits():
    x0, y, degradation = random(1, 3, 9, 9), random(1, 3, 9, 9, seed=1), ColouredNoise(grainy())
    assert torch.equal(degradation.correct(x0, y, 0.0, 0.2), y)
    assert torch.equal(degradation.correct(x0, y, 0.3, float("inf")), y)
    assert torch.equal(degradation.correct(x0, y, float("inf"), 0.2), x0)
    assert degradation.correct(x0.half(), y.half(), 0.3, 0.2).dtype == torch.float16


def test_what_it_does_not_take_is_refused():
    with pytest.raises(ValueError, match="shape"):
        ColouredNoise(torch.ones(3, 1, 8, 8))
    with pytest.raises((ValueError, RuntimeError)):
        ColouredNoise(white()).correct(random(1, 3, 9, 9), random(1, 3, 9, 9), torch.ones(1, 1, 9, 9), 0.2)
