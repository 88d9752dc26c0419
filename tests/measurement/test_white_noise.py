"""The noise estimate for noise of known strength, on synthetic pictures with gradients, soft edges and texture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from restorer.measurement.white_noise import (
    _clipped_variance_share,
    _dct,
    _noise_eigenvalue,
    estimate_sigma,
    expected_when_clipped,
    undo_clipping,
)


def scene(size: int = 192, channels: int = 3, low: float = 20, high: float = 235) -> Tensor:
    """Return a picture with a sky-like gradient, a soft-edged disc, and a strong woven texture on its lower third.

    The values are on the 0..255 scale and not rounded.
    """
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    disc = torch.sigmoid((0.2 - ((x - 0.3) ** 2 + (y - 0.35) ** 2).sqrt()) * 80)
    weave = torch.sin(2.3 * size * x) * torch.sin(1.7 * size * y) * (y > 0.67)
    plane = 0.3 + 0.4 * y + 0.2 * disc + 0.25 * weave
    tints = torch.tensor([1.0, 0.9, 0.75])[:channels, None, None]
    return low + (high - low) * (plane * tints).clamp(0, 1)


def noisy(picture: Tensor, sigma: float, seed: int) -> Tensor:
    """Return the picture in [0, 1] with noise, clipped and rounded as in a file."""
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    return (picture + sigma * noise).clamp(0, 255).round() / 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [2, 5, 10, 15, 25, 50, 75])
def test_known_noise_is_found(channels: int, sigma: float) -> None:
    """The error is below 15 %, the target for photographs, for each of eight noise fields, and 7.5 % on average."""
    found = np.array([estimate_sigma(noisy(scene(channels=channels), sigma, seed)) for seed in range(8)])
    assert np.abs(found / sigma - 1).max() < 0.15
    assert np.abs(found / sigma - 1).mean() < 0.075


@pytest.mark.parametrize(("low", "high"), [(0, 60), (195, 255)])
@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_clipping_is_undone(low: float, high: float, sigma: float) -> None:
    """The estimate is right for dark and bright pictures, where clipping may remove half of the noise."""
    clipped = noisy(scene(low=low, high=high), sigma, 0)
    clean = (scene(low=low, high=high) / 255).clamp(0, 1)
    surviving = float((clipped - clean).std()) * 255
    found = estimate_sigma(clipped)
    assert abs(found / sigma - 1) < 0.15
    if sigma == 50:
        assert surviving < 0.85 * sigma  # so the error would exceed the bound without the correction


@pytest.mark.parametrize("channels", [1, 3])
def test_clean_pictures_are_left_nearly_alone(channels: int) -> None:
    """The estimate is below 1: rounding alone is sigma 0.29, and denoising at sigma 3.2 changes a picture by 38 dB."""
    assert estimate_sigma(noisy(scene(channels=channels), 0, 0)) < 1.0


def test_texture_does_not_pass_for_noise() -> None:
    """The estimate comes from the quiet part of a picture of which four fifths are white texture."""
    picture = noisy(torch.full((1, 200, 200), 128.0), 3, 1)
    picture[:, :160] = noisy(torch.full((1, 160, 200), 128.0), 60, 2)
    assert estimate_sigma(picture) < 4.5


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 3), (7, 513), (8, 8), (9, 12)])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiny_pictures_give_something_sane(channels: int, size: tuple[int, int]) -> None:
    sigma = estimate_sigma(torch.rand(channels, *size, generator=torch.Generator().manual_seed(0)))
    assert 0 <= sigma < 150
    assert sigma == 0 or min(size) >= 8


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_pictures_have_none(value: float) -> None:
    assert estimate_sigma(torch.full((3, 64, 64), value)) == pytest.approx(0, abs=1e-3)


def test_a_black_frame_is_no_evidence() -> None:
    framed = torch.zeros(3, 256, 256)
    framed[:, 32:-32, 32:-32] = noisy(scene(), 25, 0)
    assert estimate_sigma(framed) == pytest.approx(25, rel=0.1)


def test_the_input_is_untouched_and_the_answer_repeats() -> None:
    picture = noisy(scene(), 20, 3)
    before = picture.clone()
    assert estimate_sigma(picture) == estimate_sigma(picture)
    assert torch.equal(picture, before)


def test_large_pictures_are_sampled() -> None:
    assert estimate_sigma(noisy(scene(1500, 1), 25, 0)) == pytest.approx(25, rel=0.05)


def test_dct_is_orthonormal_and_sorted_by_frequency() -> None:
    patches = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0))
    coefficients = _dct(patches)
    torch.testing.assert_close(coefficients.square().sum((1, 2)), patches.square().sum((1, 2)))
    torch.testing.assert_close(coefficients[:, 0, 0], patches.mean((1, 2)) * 8)


def test_eigenvalues_of_texture_are_left_out() -> None:
    noise = np.full(12, 4.0)
    assert _noise_eigenvalue(np.concatenate([noise, [900.0, 50.0, 30.0]]), 0.0) == 4.0
    assert _noise_eigenvalue(np.zeros(15), 0.0) == 0.0


@pytest.mark.parametrize("sigma", [5.0, 30.0, 80.0])
def test_variance_of_clipped_noise_matches_a_simulation(sigma: float) -> None:
    draws = np.random.default_rng(0).normal(size=400_000)
    for level in (0.0, 10.0, 128.0, 250.0):
        clipped = np.clip(level + sigma * draws, 0, 255)
        share = _clipped_variance_share(np.array([clipped.mean()]), sigma)[0]
        assert share == pytest.approx(clipped.var() / sigma**2, abs=0.006)


# ------------------------------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3])
def test_the_mean_of_clipped_noise_is_its_closed_form(sigma: float):
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    n = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sampled = (x + sigma * n).clamp(0, 1).mean(0)
    torch.testing.assert_close(expected_when_clipped(x, sigma), sampled, rtol=0, atol=5 * sigma / math.sqrt(200_000))
    assert float(expected_when_clipped(x[-1], sigma)) == pytest.approx(
        1 - sigma / math.sqrt(2 * math.pi), abs=2e-4 + (0.02 if sigma > 0.2 else 0)
    )


@pytest.mark.parametrize("sigma", [0.004, 0.1, 0.3])
def test_the_mean_before_clipping_is_found_again(sigma: float):
    x = torch.linspace(0, 1, 101)
    torch.testing.assert_close(
        undo_clipping(expected_when_clipped(x.double(), sigma).float(), sigma), x, rtol=0, atol=1e-4
    )
    # Means below the darkest and above the brightest possible mean become black and white.
    assert undo_clipping(torch.tensor([0.0, 1.0]), sigma).tolist() == [0.0, 1.0]
