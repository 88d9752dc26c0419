"""The closed forms of clipped noise against draws of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from restorer.measurement.clipping import clipped_variance_share, expected_when_clipped, undo_clipping


@pytest.mark.parametrize("sigma", [5.0, 30.0, 80.0])
def test_variance_of_clipped_noise_matches_a_simulation(sigma: float) -> None:
    draws = np.random.default_rng(0).normal(size=400_000)
    for level in (0.0, 10.0, 128.0, 250.0):
        clipped = np.clip(level + sigma * draws, 0, 255)
        share = clipped_variance_share(np.array([clipped.mean()]), sigma)[0]
        assert share == pytest.approx(clipped.var() / sigma**2, abs=0.006)


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
