"""Simulated noise: what a linear camera adds is known in closed form, and every kind adds what its name says."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from restorer.training.edits import blur
from restorer.training.simulated_camera import (
    Camera,
    _apply_tone_curve,
    _demosaic_along_edges,
    _demosaic_bilinearly,
    _mosaic,
    _remove_tone_curve,
    photograph,
)
from restorer.training.simulated_noise import KINDS, Kind, simulate

LINEAR = Camera(gamma=1.0, contrast=0.0, red=1.0, blue=1.0, exposure=1.0, mixing=0.0, gain=0.004, read=5.0)


def scene(size: int = 160) -> Tensor:
    """Return a smooth picture, (3, size, size) on the 0..255 scale."""
    down, across = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    return torch.stack([60 + 120 * across, 80 + 90 * down, 150 - 60 * across * down]).round()


def test_a_linear_camera_adds_photon_and_read_noise_to_the_pixels_that_it_sees():
    """At green pixels that the mosaic holds, the variance is a x + b^2."""
    gray = torch.full((3, 400, 400), 128.0)
    noise = (photograph(gray, LINEAR, 1) - photograph(gray, LINEAR, None))[1]
    seen = _mosaic(gray, LINEAR.phase)[1] > 0
    expected = 255 * (LINEAR.gain * 128 / 255 + (LINEAR.gain * LINEAR.read) ** 2) ** 0.5
    assert float(noise[seen].std()) == pytest.approx(expected, rel=0.03)
    assert float(noise[~seen].std()) < 0.9 * expected, "interpolated pixels are smoother"


@pytest.mark.parametrize("demosaic", [_demosaic_bilinearly, _demosaic_along_edges])
def test_demosaicing_keeps_a_ramp(demosaic):
    x = torch.linspace(0.2, 0.8, 64).expand(3, 64, 64).contiguous()
    mosaic = _mosaic(x, (1, 0))
    assert torch.equal(mosaic.sum(0), torch.ones(64, 64))
    inside = demosaic((x * mosaic).sum(0), mosaic)[:, 4:-4, 4:-4]
    torch.testing.assert_close(inside, x[:, 4:-4, 4:-4], rtol=0, atol=1e-4)


def test_the_tone_curve_is_inverted():
    x = torch.linspace(0, 1, 100).view(1, 1, -1)
    for camera in (Camera(), Camera(gamma=1.8, contrast=1.0), Camera(gamma=2.6, contrast=0.0)):
        torch.testing.assert_close(_apply_tone_curve(_remove_tone_curve(x, camera), camera), x, rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_noise_of_whole_levels_that_a_seed_repeats(kind: Kind):
    first, second = (simulate(scene(), kind, random.Random(3)) for _ in range(2))
    assert torch.equal(first.noisy, second.noisy)
    assert first.noisy.shape == first.clean.shape
    assert torch.equal(first.noisy, first.noisy.round())
    assert 0 <= first.noisy.min() and first.noisy.max() <= 255
    noise = first.noisy - first.clean
    if kind == "none":
        assert not noise.any()
        return
    assert noise.std() > 1
    assert noise.mean().abs() < 0.4 * noise.std()


def test_shared_noise_has_no_colour_beyond_its_tint():
    noise = (lambda pair: pair.noisy - pair.clean)(simulate(scene(), "shared", random.Random(1)))
    correlation = torch.corrcoef(noise.flatten(1))
    assert correlation.min() > 0.95


def test_reduced_noise_is_coarser_in_colour_than_in_luminance():
    def neighbours(x: Tensor) -> float:
        return float((x[:, 1:] * x[:, :-1]).mean() / x.square().mean())

    camera = Camera(gain=0.01, chroma=2.0, luma="none")
    noise = photograph(scene(), camera, 1) - photograph(scene(), camera, None)
    assert neighbours(noise[0] - noise[2]) > neighbours(noise.mean(0)) + 0.2


def test_a_blur_keeps_the_mean_and_divides_the_variance():
    white = torch.randn(1, 256, 256, generator=torch.Generator().manual_seed(0))
    blurred = blur(white, 1.5)
    assert float(blurred.mean()) == pytest.approx(float(white.mean()), abs=0.01)
    assert float(blurred.var()) == pytest.approx(1 / (4 * torch.pi * 1.5**2), rel=0.05)
    assert blur(white, 0) is white


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind"):
        simulate(scene(), "rain", random.Random(0))  # type: ignore[arg-type]
