"""The uncertainty of a restored picture: against Gaussian priors, whose posterior is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import generic_filter
from torch import Tensor

from restorer.diffusion.reverse import Canvas
from restorer.diffusion.uncertainty import local_mean, local_variance, posterior_variance
from tests.gaussian import GaussianPrior

SIGMA = 0.3


def test_the_variance_of_independent_pixels_is_exact() -> None:
    """The posterior variance is v s^2 / (v + s^2), and the derivative of D is diagonal, so that no probe errs."""
    x = torch.randn(1, 3, 12, 17, dtype=torch.float64)
    prior = GaussianPrior(mu=torch.rand_like(x), v=0.25)
    found = posterior_variance(lambda z: prior.denoise(z, SIGMA), x, prior.denoise(x, SIGMA), SIGMA, probes=1)
    true = 0.25 * SIGMA**2 / (0.25 + SIGMA**2) * 127.5**2
    assert found.shape == (12, 17)
    torch.testing.assert_close(found, torch.full_like(found, true), rtol=1e-9, atol=0)


def correlated(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the gain C (C + s^2 I)^-1 of a Gaussian prior with correlated neighbours and channels, and its posterior.

    Returns:
        The gain and the posterior covariance, both (3 H W, 3 H W).
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows, columns], -1).reshape(-1, 2).double()
    near = torch.exp(-torch.cdist(place, place) / 2)
    # The prior is wider on the right.
    scale = torch.linspace(0.2, 1.0, width, dtype=torch.float64).expand(height, width).reshape(-1)
    space = scale[:, None] * near * scale
    channels = torch.full((3, 3), 0.6, dtype=torch.float64) + 0.4 * torch.eye(3, dtype=torch.float64)
    covariance = torch.kron(channels, space)
    gain = covariance @ torch.linalg.inv(covariance + SIGMA**2 * torch.eye(len(covariance), dtype=torch.float64))
    return gain, SIGMA**2 * gain


@pytest.mark.parametrize("is_gray", [False, True])
def test_the_variance_of_correlated_pixels_is_right_on_the_mean(is_gray: bool) -> None:
    """Hutchinson's estimator is unbiased, in colour and for the mean of the channels."""
    height, width = 7, 9
    gain, posterior = correlated(height, width)

    def denoise(x: Tensor) -> Tensor:
        return (gain @ x.reshape(-1)).reshape(x.shape)

    x = torch.randn(1, 3, height, width, dtype=torch.float64)
    # Probes of one seed are independent of each other, and so are those of many seeds.
    found = posterior_variance(denoise, x, denoise(x), SIGMA, probes=4000, is_gray=is_gray)
    blocks = posterior.reshape(3, height * width, 3, height * width)
    pairs = torch.einsum("ipjp->ijp", blocks).reshape(3, 3, height, width)
    true = pairs.mean((0, 1)) if is_gray else torch.einsum("iihw->hw", pairs) / 3
    torch.testing.assert_close(found, true * 127.5**2, rtol=0.12, atol=0)
    assert float((found.mean() / (true.mean() * 127.5**2) - 1).abs()) < 0.02


def test_the_estimate_of_a_part_is_that_of_the_whole() -> None:
    """The signs depend on the place in the whole picture, so that a region gets the map that it has in the whole."""
    gain = torch.rand(1, 3, 20, 30, dtype=torch.float64)

    def estimate(window: tuple[slice, slice], canvas: Canvas | None) -> Tensor:
        x, part = torch.ones(1, 3, 20, 30, dtype=torch.float64)[..., *window], gain[..., *window]
        return posterior_variance(lambda z: part * z.roll(1, -1), x, part * x, SIGMA, canvas=canvas)

    whole = estimate((slice(0, 20), slice(0, 30)), None)
    part = estimate((slice(4, 16), slice(8, 30)), Canvas(20, 30, 4, 8))
    # The mixing with the left neighbour wraps around, so the first column differs.
    torch.testing.assert_close(part[:, 1:], whole[4:16, 9:30])


@pytest.mark.parametrize("shape", [(1, 1), (3, 20), (17, 12)])
def test_local_means_and_variances_are_those_of_the_window(shape: tuple[int, int]) -> None:
    """Squares are cut at the border of the picture."""
    picture = torch.rand(2, *shape, dtype=torch.float64)
    padded = [np.pad(255 * c.numpy(), 4, constant_values=np.nan) for c in picture]
    expected = [generic_filter(c, np.nanvar, 9, mode="constant", cval=np.nan)[4:-4, 4:-4] for c in padded]
    np.testing.assert_allclose(local_variance(picture).numpy(), np.mean(expected, 0), rtol=1e-4, atol=1e-2)
    means = generic_filter(padded[0], np.nanmean, 9, mode="constant", cval=np.nan)[4:-4, 4:-4]
    np.testing.assert_allclose(local_mean(255 * picture[0]).numpy(), means)


def test_a_weighted_mean_counts_what_has_weight() -> None:
    x, weight = torch.arange(40.0).reshape(1, 40), torch.zeros(1, 40)
    weight[0, 10:12] = 1
    found = local_mean(x, weight)
    assert found[0, 8] == 10.5
    assert found[0, 6] == 10  # the square reaches only the first of the two
    assert found[0, 30] == 0
