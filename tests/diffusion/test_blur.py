"""Blur agrees with SciPy's convolution and with dense linear algebra; kernels have the shapes of their names."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussian import GaussianPrior
from scipy.signal import convolve2d
from torch import Tensor

from restorer.diffusion.degradations.blur import TOLERANCE, Blur
from restorer.diffusion.degradations.kernels import as_kernel, defocus_kernel, gaussian_kernel, motion_kernel
from restorer.diffusion.plan import Plan, log_levels
from restorer.diffusion.reverse import reverse

KERNELS = {
    "gaussian": gaussian_kernel(1.1),
    "defocus": defocus_kernel(2.4),
    "motion": motion_kernel(7, 30),
    "lopsided": as_kernel(torch.tensor([[0.0, 1.0, 4.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.5]])),
    "flat": as_kernel(torch.ones(1, 5)),
    "point": as_kernel(torch.ones(1, 1)),
}
HEIGHT, WIDTH = 13, 17

every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def image_of(operator: Blur, batch: int = 1, channels: int = 3, seed: int = 0) -> Tensor:
    down, across = operator.reach
    return random(batch, channels, HEIGHT + 2 * down, WIDTH + 2 * across, seed=seed)


def some_known() -> Tensor:
    return random(1, 1, HEIGHT, WIDTH, seed=8) > -0.6


def dense(operator: Blur) -> Tensor:
    """Return A of one channel as a matrix."""
    down, across = operator.reach
    shape = (HEIGHT + 2 * down, WIDTH + 2 * across)
    basis = torch.eye(shape[0] * shape[1], dtype=torch.float64).view(-1, 1, *shape)
    return operator.measure(basis).flatten(1).T


@every_kernel
def test_it_is_the_convolution_of_scipy(kernel: Tensor) -> None:
    operator = Blur(kernel)
    x = image_of(operator, 2)
    expected = np.stack([[convolve2d(c, operator.kernel.numpy(), mode="valid") for c in image] for image in x.numpy()])
    np.testing.assert_allclose(operator.measure(x).numpy(), expected, atol=1e-12)
    assert operator.measure(x).shape == (2, 3, HEIGHT, WIDTH)
    single = operator.measure(x.float())
    assert single.dtype == torch.float32 and float((single - operator.measure(x)).abs().max()) < 1e-6


@pytest.mark.parametrize("known", [None, some_known()], ids=["all", "some"])
@every_kernel
def test_the_transpose_is_the_adjoint(kernel: Tensor, known: Tensor | None) -> None:
    operator = Blur(kernel, known)
    x, u = image_of(operator, 2), random(2, 3, HEIGHT, WIDTH, seed=1)
    torch.testing.assert_close((operator.measure(x) * u).sum(), (x * operator.transpose(u)).sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("noise", "prior"), [(0.01, 0.05), (1e-4, 0.02), (0.3, 0.1), (1e-3, 1.0)])
@pytest.mark.parametrize("known", [None, some_known()], ids=["all", "some"])
@every_kernel
def test_the_correction_is_the_proximal_point(kernel: Tensor, known: Tensor | None, noise: float, prior: float) -> None:
    operator = Blur(kernel, known)
    x0, y = image_of(operator, 1, 1), random(1, 1, HEIGHT, WIDTH, seed=2)
    matrix, data = dense(operator), y if known is None else y * known

    def objective(x: Tensor) -> float:
        return float((data - operator.measure(x)).square().sum() / noise + (x - x0).square().sum() / prior)

    system = prior * matrix @ matrix.T + noise * torch.eye(len(matrix), dtype=torch.float64)
    u = torch.linalg.solve(system, data.flatten() - matrix @ x0.flatten())
    best = objective(x0 + prior * (matrix.T @ u).view(x0.shape))
    found = objective(operator.correct(x0, y, noise, prior))
    assert best <= found * (1 + 1e-9) and found <= 1.002 * best


@pytest.mark.parametrize("noise", [1e-2, 3e-4, 4e-6])
@pytest.mark.parametrize("known", [None, some_known()], ids=["all", "some"])
@every_kernel
def test_the_correction_is_as_exact_as_it_says(kernel: Tensor, known: Tensor | None, noise: float) -> None:
    """It differs from the solution of the dense system by at most half the tolerance, as a share of r."""
    operator, prior = Blur(kernel, known), 20 * noise
    x0, y = image_of(operator, 1, 1), random(1, 1, HEIGHT, WIDTH, seed=2)
    matrix, data = dense(operator), y if known is None else y * known
    system = prior * matrix @ matrix.T + noise * torch.eye(len(matrix), dtype=torch.float64)
    u = torch.linalg.solve(system, data.flatten() - matrix @ x0.flatten())
    error = operator.correct(x0, y, noise, prior) - x0 - prior * (matrix.T @ u).view(x0.shape)
    assert float(error.norm()) <= TOLERANCE / 2 * math.sqrt(prior * y.numel())


@every_kernel
def test_data_without_weight_change_nothing(kernel: Tensor) -> None:
    operator = Blur(kernel)
    x0 = image_of(operator)
    assert torch.equal(operator.correct(x0, random(1, 3, HEIGHT, WIDTH, seed=2), math.inf, 1.0), x0)
    hidden = Blur(kernel, torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.bool))
    torch.testing.assert_close(hidden.correct(x0, random(1, 3, HEIGHT, WIDTH, seed=2), 0.01, 1.0), x0)


def test_consistent_data_are_a_fixed_point() -> None:
    operator = Blur(KERNELS["defocus"])
    x0 = image_of(operator)
    torch.testing.assert_close(operator.correct(x0, operator.measure(x0), 0.01, 1.0), x0, rtol=0, atol=1e-12)


def test_the_noise_that_is_passed_is_that_of_the_correction() -> None:
    """Corrected to data that are noise alone, an image of zeros holds what the correction passes of them."""
    for kernel in (KERNELS["defocus"], gaussian_kernel(1.6)):
        operator, generator = Blur(kernel), torch.Generator().manual_seed(0)
        noise = 0.02 * torch.randn(4, 3, 160, 160, generator=generator, dtype=torch.float64)
        for prior in (0.001, 0.02):
            passed = operator.correct(torch.zeros_like(operator.transpose(noise)), noise, 0.02**2, prior)
            inside = passed[..., 24:-24, 24:-24]
            assert operator.noise_passed(0.02**2, prior) == pytest.approx(float(inside.square().mean()), rel=0.05)
    # Without a blur, every value is multiplied by the data weight.
    assert Blur(KERNELS["point"]).noise_passed(0.01, 0.03) == pytest.approx(0.01 * 0.75**2)


def test_pixels_of_a_batch_do_not_mix() -> None:
    operator = Blur(KERNELS["motion"])
    x0, y = image_of(operator, 2), random(2, 3, HEIGHT, WIDTH, seed=2)
    together = operator.correct(x0, y, 0.01, 0.05)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], operator.correct(x0[i : i + 1], y[i : i + 1], 0.01, 0.05),
                                   rtol=0, atol=2e-3)  # fmt: skip


def test_the_reverse_process_finds_the_posterior_mean() -> None:
    """For a Gaussian prior of independent pixels, the posterior mean solves a linear system."""
    operator, variance, noise = Blur(KERNELS["gaussian"]), 0.2, 0.01
    truth = math.sqrt(variance) * torch.randn(
        image_of(operator, 1, 1).shape, generator=torch.Generator().manual_seed(4)
    )
    y = operator.measure(truth.double()).float()
    y = y + math.sqrt(noise) * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    matrix = dense(operator)
    system = variance * matrix @ matrix.T + noise * torch.eye(len(matrix), dtype=torch.float64)
    expected = variance * (matrix.T @ torch.linalg.solve(system, y.double().flatten())).view(truth.shape)
    count = 60
    plan = Plan(
        (*log_levels(3.0, 0.01, count), 0.0), zeta=(0.0,) * count, kappa=0.0, prior_variance=variance, fresh_start=False
    )
    prior = GaussianPrior(0.0, variance)
    found = reverse(prior, operator, y, plan, torch.zeros_like(truth), noise_variance=noise)
    assert float((found - expected).square().mean()) < 0.02 * float(expected.square().mean())


@pytest.mark.parametrize(
    "kernel", [torch.ones(2, 3), torch.ones(3), torch.zeros(3, 3), torch.tensor([[1.0, -0.1, 0.0]])]
)
def test_wrong_kernels(kernel: Tensor) -> None:
    with pytest.raises(ValueError, match="kernel"):
        Blur(kernel)


def test_an_image_smaller_than_the_kernel() -> None:
    with pytest.raises(ValueError, match="fewer than the kernel"):
        Blur(torch.ones(9, 9)).measure(torch.zeros(1, 3, 8, 20))


# The kernels


def moments(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean position (y, x) and the covariance of a kernel, in pixels from its middle."""
    height, width = kernel.shape
    y, x = torch.meshgrid(torch.arange(height) - height // 2, torch.arange(width) - width // 2, indexing="ij")
    positions, weights = torch.stack([y, x]).double().flatten(1), kernel.double().flatten()
    mean = positions @ weights
    return mean, (positions - mean[:, None]) * weights @ (positions - mean[:, None]).T


@pytest.mark.parametrize("sigma", [0.8, 1.0, 1.6, 3.3])
def test_a_gaussian(sigma: float) -> None:
    kernel = gaussian_kernel(sigma)
    mean, covariance = moments(kernel)
    assert float(kernel.sum()) == pytest.approx(1) and float(mean.abs().max()) < 1e-6
    torch.testing.assert_close(covariance, sigma**2 * torch.eye(2, dtype=torch.float64), rtol=0.005, atol=0.002)


@pytest.mark.parametrize("radius", [0.8, 1.5, 3.0, 6.2])
def test_a_disk_has_the_covariance_of_a_disk(radius: float) -> None:
    kernel = defocus_kernel(radius)
    mean, covariance = moments(kernel)
    expected = radius**2 / 4 * torch.eye(2, dtype=torch.float64)
    assert float(mean.abs().max()) < 1e-6 and float(kernel.sum()) == pytest.approx(1)
    torch.testing.assert_close(covariance, expected, rtol=0.05, atol=0.12)
    assert float(kernel.max()) == pytest.approx(1 / (math.pi * radius**2), rel=0.02) or radius < 1


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 135.0, -20.0])
def test_a_line_runs_anticlockwise_from_the_horizontal(angle: float) -> None:
    kernel = motion_kernel(13, angle)
    mean, covariance = moments(kernel)
    along = torch.tensor([-math.sin(math.radians(angle)), math.cos(math.radians(angle))], dtype=torch.float64)
    across = torch.tensor([along[1], -along[0]], dtype=torch.float64)
    assert float(mean.abs().max()) < 1e-5
    assert float(along @ covariance @ along) == pytest.approx(13**2 / 12, rel=0.03)
    assert 0 <= float(across @ covariance @ across) < 0.25


def test_numbers_become_a_kernel() -> None:
    assert as_kernel(torch.ones(2, 4)).shape == (3, 5)
    assert float(as_kernel(torch.ones(2, 4)).sum()) == pytest.approx(1)
    padded = torch.zeros(9, 9)
    padded[3:6, 4] = 1
    assert as_kernel(padded).shape == (3, 1)
    off_centre = torch.zeros(5, 5)
    off_centre[0, 2] = 1  # a shift by two rows stays one
    assert as_kernel(off_centre).shape == (5, 1) and float(as_kernel(off_centre)[0, 0]) == 1
    for wrong in (torch.zeros(3, 3), torch.full((3, 3), math.nan), -torch.ones(3, 3), torch.ones(3), torch.ones(0, 3)):
        with pytest.raises(ValueError, match="a kernel"):
            as_kernel(wrong)
