"""Noise that a picture had before it was compressed is found in the coefficients of its file."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.quantization import dct_matrix
from restorer.measurement.jpeg import Jpeg, read_jpeg
from restorer.measurement.jpeg_noise import _energy_that_passes, find_noise_before, white_noise_before
from restorer.training.edits import blur

IMAGES = Path(__file__).resolve().parents[1] / "images"
PHOTOGRAPHS = ("eagles", "gates", "grapes")
KINDS = [(5, 90), (5, 95), (10, 75), (10, 90), (19, 50), (19, 75), (30, 75), (30, 92)]  # strength and quality
LUMINANCE_OF_WHITE = 0.299**2 + 0.587**2 + 0.114**2  # its variance in white noise of variance 1


def photograph(name: str) -> Tensor:
    """Return a photograph of 256x256 pixels without the noise that it has itself, (3, H, W) on the 0..255 scale."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        return blur(torch.from_numpy(np.array(image.crop((112, 52, 368, 308)))).permute(2, 0, 1).float(), 1.0)


def drawn(width: float = 0.0, seed: int = 3) -> Tensor:
    """Return noise of variance 1, blurred by some pixels, (3, 256, 256)."""
    noise = blur(torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(seed)), width)
    return noise / noise.std()


def as_file(x: Tensor, quality: int, sampling: int = 2) -> tuple[Jpeg, Tensor]:
    """Return a picture as a JPEG file, and the decoded picture on the 0..255 scale."""
    file = io.BytesIO()
    pixels = x.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=sampling)
    found = read_jpeg(file.getvalue())
    assert found is not None
    return found, torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float()


def coarse_variances(width: float) -> Tensor:
    """Return the variance of each coefficient of a block of Gaussian noise of variance 1 that was blurred, (8, 8).

    Its autocovariance at the distance d is exp(-d^2 / 4 width^2) along each axis.
    """
    place = torch.arange(8.0)
    covariance = (-(place[:, None] - place).square() / (4 * width**2)).exp()
    transform = dct_matrix().float()
    along = (transform @ covariance @ transform.T).diagonal()
    return torch.outer(along, along)


@pytest.mark.parametrize("s", [0.2, 1.0, 3.0, 20.0, 90.0])
@pytest.mark.parametrize("step", [2.0, 10.0, 60.0])
def test_the_energy_that_passes_is_the_sum_over_the_cells(s: float, step: float):
    k = torch.arange(-1000, 1001, dtype=torch.float64)
    within = torch.special.ndtr((k + 0.5) * step / s) - torch.special.ndtr((k - 0.5) * step / s)
    true = float(((k * step).square() * within).sum())
    found = float(_energy_that_passes(torch.tensor(s), torch.tensor(step)))
    assert found == pytest.approx(true, rel=1e-3, abs=1e-4), "to a hundredth of a level"


@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize(("sigma", "quality"), KINDS)
def test_white_noise_on_a_flat_picture_is_measured_exactly(sigma: float, quality: int, sampling: int):
    """The error of a coefficient that passes counts its cell twice, so that it is told up to a sixth too large."""
    clean = torch.full((3, 256, 256), 118.0)
    jpeg, decoded = as_file(clean + sigma * drawn(), quality, sampling)
    found = find_noise_before(jpeg)
    assert found is not None
    assert found.sigma == pytest.approx(sigma, rel=0.05)
    assert found.is_white and found.is_even and found.is_wide
    assert 0.97 < found.error / float((decoded - clean).square().mean().sqrt()) < 1.17


@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize(("sigma", "quality"), KINDS)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_white_noise_is_measured_through_the_compression(name: str, sigma: float, quality: int, sampling: int):
    """Texture adds up to a level and a quarter. Black and white clip strong noise, which makes it weaker."""
    clean = photograph(name)
    jpeg, decoded = as_file(clean + sigma * drawn(), quality, sampling)
    found = find_noise_before(jpeg)
    assert found is not None
    assert 0.85 * sigma < found.sigma < sigma + 1.25
    assert found.is_white or found.sigma > 1.12 * sigma, "where texture adds to it, the spectrum is that of both"
    excess = max(found.sigma / sigma, 1.0)  # the error of what is taken for stronger noise is larger as well
    assert 0.93 < found.error / float((decoded - clean).square().mean().sqrt()) < 1.23 * excess


@pytest.mark.parametrize(("quality", "tolerance"), [(75, 0.5), (90, 0.2), (95, 0.2)])
@pytest.mark.parametrize("name", [*PHOTOGRAPHS, "flat"])
def test_coarse_noise_has_the_spectrum_that_its_blur_has(name: str, quality: int, tolerance: float):
    """At quality 75, no file shows the high frequencies, so that they are taken for stronger than they are.

    The chroma is taken for white, so that its part of the error of coarse noise is told too large.
    """
    clean = torch.full((3, 256, 256), 118.0) if name == "flat" else photograph(name)
    jpeg, decoded = as_file(clean + 15 * drawn(0.8), quality)
    found = find_noise_before(jpeg)
    assert found is not None
    assert not found.is_white
    luminance, true = found.variances[0], 15**2 * LUMINANCE_OF_WHITE * coarse_variances(0.8)
    assert float(luminance.mean()) == pytest.approx(float(true.mean()), rel=tolerance)
    assert float(luminance[2, 2]) == pytest.approx(float(true[2, 2]), rel=tolerance)
    assert luminance[7, 7] < 0.12 * luminance[2, 2]
    assert 0.95 < found.error / float((decoded - clean).square().mean().sqrt()) < 1.4


@pytest.mark.parametrize("quality", [30, 50, 75, 85])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_compression_alone_shows_no_noise(name: str, quality: int):
    found = find_noise_before(as_file(photograph(name), quality)[0])
    assert found is None or found.sigma < 3, "fine texture looks like weak noise"


def test_noise_of_gray_pictures_is_that_of_the_luminance():
    """A file without a chroma, and one with a chroma that is known to be 0, say the same."""
    jpeg, _ = as_file(photograph("gates").mean(0, keepdim=True).expand(3, -1, -1) + 12 * drawn()[:1], 85)
    found = find_noise_before(jpeg.luminance())
    assert found is not None
    assert found.sigma == pytest.approx(12, rel=0.1)
    assert len(found.variances) == 1
    alone = replace(jpeg, colour="gray", components=jpeg.components[:1])
    assert find_noise_before(alone) is not None
    for file in (alone, jpeg.luminance()):
        known = white_noise_before(file, 12.0)
        assert known is not None
        torch.testing.assert_close(known.variances, (torch.full((8, 8), 144.0),))
        assert known.error == pytest.approx(found.error, rel=0.1)


def test_too_little_says_nothing():
    noisy = photograph("gates") + 20 * drawn()
    assert find_noise_before(as_file(noisy[:, :80, :80], 80)[0]) is None
    assert find_noise_before(as_file(noisy[:, :96, :96], 80)[0]) is not None


def test_a_strength_scales_the_noise():
    jpeg, _ = as_file(photograph("gates") + 10 * drawn(), 85)
    found = find_noise_before(jpeg)
    assert found is not None
    more = found.scaled(1.5, jpeg)
    assert more.sigma == pytest.approx(1.5 * found.sigma)
    torch.testing.assert_close(more.variances[0], 2.25 * found.variances[0])
    assert more.error > found.error


def test_white_noise_that_is_known_is_shared_out_to_the_planes():
    jpeg, _ = as_file(photograph("gates"), 85)
    planes = torch.einsum("ij,jhw->ihw", torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5]]), drawn())
    found = white_noise_before(jpeg, 10.0)
    assert found is not None
    assert float(found.variances[0][3, 3]) == pytest.approx(100 * float(planes[0].var()), rel=0.05)
    small = torch.nn.functional.avg_pool2d(planes[1:], 2)
    assert float(found.variances[1][3, 3]) == pytest.approx(100 * float(small.var()), rel=0.05)


def test_white_noise_is_shared_out_to_no_other_planes():
    jpeg, _ = as_file(photograph("gates"), 85)
    assert white_noise_before(replace(jpeg, colour="rgb"), 10.0) is None


def test_a_picture_is_as_busy_as_its_lowest_frequencies_exceed_the_noise():
    """The median of the mean of five squares of normal numbers is 0.87."""
    jpeg, _ = as_file(torch.full((3, 256, 256), 118.0) + 12 * drawn(), 95)
    found = find_noise_before(jpeg)
    assert found is not None
    for strength in (0.5, 1.0, 2.0):
        told = white_noise_before(jpeg, 12 * strength)
        assert told is not None and told.busyness == pytest.approx(0.87 / strength**2, rel=0.1)
        assert found.scaled(strength, jpeg).busyness == pytest.approx(0.87 / strength**2, rel=0.15)
    busy, _ = as_file(photograph("gates") + 12 * drawn(), 95)
    of_photograph = find_noise_before(busy)
    assert of_photograph is not None and of_photograph.busyness > 2 * found.busyness
