"""Metrics agree with scikit-image, with the published luma, and with pictures whose spectrum is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from restorer.evaluation.metrics import psnr, ssim, texture, to_y

IMAGES = Path(__file__).resolve().parents[1] / "images"


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Draw random values in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 9, 7), (3, 16, 16), (2, 3, 5, 8)])
def test_psnr_is_that_of_scikit_image(shape: tuple[int, ...]) -> None:
    """The PSNR is that of scikit-image for any number of axes."""
    metrics = pytest.importorskip("skimage.metrics")
    truth, picture = noise(*shape), noise(*shape, seed=1)
    expected = metrics.peak_signal_noise_ratio(truth.double().numpy(), picture.double().numpy(), data_range=1.0)
    assert psnr(picture, truth) == pytest.approx(expected, rel=1e-12)


def test_psnr_of_known_errors() -> None:
    """The PSNR is infinite for equal pictures, follows its formula for a constant error, and is symmetric."""
    truth = torch.full((3, 8, 8), 0.25)
    assert psnr(truth, truth) == math.inf
    assert psnr(truth + 0.125, truth) == pytest.approx(20 * math.log10(8), rel=1e-12)  # the error is 1/8
    assert psnr(truth, truth + 0.125) == psnr(truth + 0.125, truth)


@pytest.mark.parametrize("shape", [(3, 24, 33), (1, 11, 11), (3, 40, 12), (2, 266, 14), (1, 267, 13)])
def test_ssim_is_that_of_scikit_image(shape: tuple[int, ...]) -> None:
    """The SSIM is that of scikit-image, and is symmetric."""
    metrics = pytest.importorskip("skimage.metrics")
    truth = F.avg_pool2d(noise(*shape)[None], 3, 1, 1)[0]
    picture = (truth + 0.1 * noise(*shape, seed=1)).clamp(0, 1)
    expected = metrics.structural_similarity(
        truth.double().numpy(),
        picture.double().numpy(),
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
    )
    assert ssim(picture, truth) == pytest.approx(expected, abs=1e-10)
    assert ssim(truth, picture) == pytest.approx(expected, abs=1e-10)


def test_psnr_and_ssim_of_a_photograph_on_luma_are_those_of_scikit_image() -> None:
    """On the BT.601 luma without a border of four pixels, the metrics are those of scikit-image."""
    metrics = pytest.importorskip("skimage.metrics")
    with Image.open(IMAGES / "small.png") as image:
        small = image.convert("RGB")
    coarse = small.resize((small.width // 4, small.height // 4), Image.Resampling.BICUBIC)
    blurred = coarse.resize(small.size, Image.Resampling.BICUBIC)
    truth, picture = (
        to_y(torch.from_numpy(np.asarray(z) / 255).permute(2, 0, 1))[:, 4:-4, 4:-4] for z in (small, blurred)
    )
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = metrics.structural_similarity(truth[0].numpy(), picture[0].numpy(), **options)
    assert ssim(picture, truth) == pytest.approx(expected, abs=1e-10)
    ratio = metrics.peak_signal_noise_ratio(truth.numpy(), picture.numpy(), data_range=1.0)
    assert psnr(picture, truth) == pytest.approx(ratio, abs=1e-10)


def test_ssim_of_known_pictures() -> None:
    """The SSIM is 1 for equal pictures, follows its formula for constants, and refuses too small a picture."""
    truth = noise(3, 20, 20)
    assert ssim(truth, truth) == pytest.approx(1, abs=1e-12)
    # Constant pictures differ in luminance alone: (2 a b + c) / (a^2 + b^2 + c), c = 0.01^2.
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(torch.full((1, 16, 16), 0.2), torch.full((1, 16, 16), 0.6)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="11x11"):
        ssim(truth[:, :10], truth[:, :10])


def test_luma_is_that_of_scikit_image() -> None:
    """The luma is that of scikit-image."""
    color = pytest.importorskip("skimage.color")
    picture = noise(3, 12, 10).double()
    expected = color.rgb2ycbcr(picture.permute(1, 2, 0).numpy())[..., 0] / 255
    assert to_y(picture).shape == (1, 12, 10)
    assert torch.allclose(to_y(picture)[0], torch.from_numpy(expected), atol=1e-12)


def test_luma_runs_from_16_to_235() -> None:
    """According to ITU-R BT.601, black is 16 and white is 235."""
    black, white = torch.zeros(3, 1, 1).double(), torch.ones(3, 1, 1).double()
    assert float(to_y(black)) * 255 == pytest.approx(16)
    assert float(to_y(white)) * 255 == pytest.approx(235)


def test_texture_counts_high_frequencies_relative_to_the_truth() -> None:
    """The texture is 1 for the truth, a quarter at half the amplitude, and almost 0 for a blurred picture."""
    truth = noise(3, 64, 48)
    assert texture(truth, truth) == 1
    # The energy is the square of the amplitude, and a constant has none.
    assert texture(0.5 + truth / 2, truth) == pytest.approx(0.25, rel=1e-4)
    blurred = F.avg_pool2d(truth[None], 9, 1, 4)[0]
    assert texture(blurred, truth) < 0.02
    assert texture(torch.full_like(truth, 0.3), truth) < 1e-6


def test_texture_ignores_low_frequencies() -> None:
    """A wave of length 8 pixels is below a quarter of a cycle per pixel, and one of length 2.5 pixels is above."""
    truth, columns = noise(1, 64, 64), torch.arange(64.0)
    slow, fast = (0.5 * torch.sin(2 * math.pi * columns / length).expand(1, 64, 64) for length in (8, 2.5))
    assert texture(truth + slow, truth) == pytest.approx(1, abs=1e-3)
    assert texture(truth + fast, truth) > 2
