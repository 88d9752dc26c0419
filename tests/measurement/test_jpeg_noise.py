"""Noise that a picture had before it was compressed is found in the coefficients of its file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.measurement.jpeg import Jpeg, read_jpeg
from restorer.measurement.jpeg_noise import _energy_that_passes, find_noise_before, white_noise_before
from restorer.training.edits import blur

IMAGES = Path(__file__).resolve().parents[1] / "images"
PHOTOGRAPHS = ("eagles", "gates", "grapes")


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


@pytest.mark.parametrize("s", [0.2, 1.0, 3.0, 20.0, 90.0])
@pytest.mark.parametrize("step", [2.0, 10.0, 60.0])
def test_the_energy_that_passes_is_that_of_drawn_noise(s: float, step: float):
    z = torch.randn(1 << 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    true = float(((s * z / step).round() * step).square().mean())
    found = float(_energy_that_passes(torch.tensor(s), torch.tensor(step)))
    assert found == pytest.approx(true, rel=0.03, abs=0.01)


@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize(("sigma", "quality"), [(5, 90), (5, 95), (10, 75), (19, 50), (19, 75), (30, 75), (30, 92)])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_white_noise_is_measured_through_the_compression(name: str, sigma: float, quality: int, sampling: int):
    clean = photograph(name)
    jpeg, decoded = as_file(clean + sigma * drawn(), quality, sampling)
    found = find_noise_before(jpeg)
    assert found is not None
    assert found.sigma == pytest.approx(sigma, rel=0.25, abs=1.5), "texture adds to weak noise"
    assert found.is_white or sigma < 10
    assert found.error == pytest.approx(float((decoded - clean).square().mean().sqrt()), rel=0.4)


@pytest.mark.parametrize("quality", [75, 90, 95])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_coarse_noise_is_not_white(name: str, quality: int):
    clean = photograph(name)
    jpeg, decoded = as_file(clean + 15 * drawn(0.8), quality)
    found = find_noise_before(jpeg)
    assert found is not None
    assert not found.is_white
    luminance = found.variances[0]
    assert luminance[7, 7] < 0.2 * luminance[2, 2]
    assert found.error == pytest.approx(float((decoded - clean).square().mean().sqrt()), rel=0.4)


@pytest.mark.parametrize("quality", [30, 50, 75, 85])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_compression_alone_shows_no_noise(name: str, quality: int):
    found = find_noise_before(as_file(photograph(name), quality)[0])
    assert found is None or found.sigma < 3


def test_noise_of_gray_pictures_is_that_of_the_luminance():
    jpeg, _ = as_file(photograph("gates").mean(0, keepdim=True).expand(3, -1, -1) + 12 * drawn()[:1], 85)
    found = find_noise_before(jpeg.luminance())
    assert found is not None
    assert found.variances[0].mean().sqrt() == pytest.approx(12, rel=0.25)


def test_too_little_says_nothing():
    clean = photograph("gates")[:, :48, :48]
    assert find_noise_before(as_file(clean + 20 * drawn()[:, :48, :48], 80)[0]) is None


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
    assert float(found.variances[0][3, 3]) == pytest.approx(100 * float(planes[0].var()), rel=0.05)
    small = torch.nn.functional.avg_pool2d(planes[1:], 2)
    assert float(found.variances[1][3, 3]) == pytest.approx(100 * float(small.var()), rel=0.05)
