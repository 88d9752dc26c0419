"""What is measured of noise that is not white: on simulated noise, and on noise with a known spectrum."""

from __future__ import annotations

import math
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stubs import Smooth
from torch import Tensor

from restorer.measurement.camera_noise import (
    MAX_PIXELS,
    CameraNoise,
    Residual,
    _ratio_of_tones,
    _scale_to_bands,
    autocovariance_of,
    measure_camera_noise,
    quiet_spectrum,
    residuals_of,
)
from restorer.measurement.noise import Noise
from restorer.measurement.windows import band_energies, opponent_axes, windows_of
from restorer.models.load import load_noise_estimator, load_prior
from restorer.training.edits import blur
from restorer.training.simulated_camera import Camera, photograph
from restorer.training.simulated_noise import Kind, _grain, simulate

IMAGES = Path(__file__).resolve().parents[1] / "images"
PHOTOS = ("eagles", "gates", "grapes")


@cache
def photo(name: str) -> Tensor:
    """Return a photograph of 288x288 pixels, (3, H, W) on the 0..255 scale."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        return torch.from_numpy(np.array(image.crop((96, 36, 384, 324)))).permute(2, 0, 1).float()


def measured(picture: Tensor, evidence: Tensor | None = None) -> CameraNoise:
    """Return the noise of a picture (3, H, W) on the 0..255 scale, by the weights that ship."""
    found = measure_camera_noise(picture / 255, load_prior(precision="fp32"), load_noise_estimator(), evidence)
    assert found is not None
    return found


def coloured(size: int, reach: float, seed: int = 0) -> Tensor:
    """Return noise (3, size, size) of standard deviation 1 whose channels are correlated."""
    white = torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed))
    mixed = torch.einsum("ij,jhw->ihw", torch.tensor([[1.0, 0.4, 0.0], [0.4, 0.8, 0.2], [0.0, 0.2, 1.2]]), white)
    grain = blur(mixed, reach)
    return grain / grain.std()


# On photographs


@pytest.mark.parametrize("kind", ["camera", "phone", "reduced", "resized", "shared", "scanner"])
def test_simulated_noise_is_found_and_its_strength(kind: Kind):
    """The median error of the three photographs is at most 30 %, and the noise is never missed where it is strong."""
    ratios = []
    for number, name in enumerate(PHOTOS):
        pair = simulate(photo(name), kind, random.Random(number))
        sigma = float((pair.noisy - pair.clean).square().mean().sqrt())
        found = measured(pair.noisy)
        if sigma > 4:
            assert found.probability > 0.5, f"{kind} noise of {sigma:.1f} levels is missed in {name}"
        ratios.append(found.sigma / sigma)
    assert sorted(ratios)[1] == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("length", [0.8, 1.5])
def test_the_grain_of_a_film_is_found(length: float):
    pair = _grain(photo("gates"), length, 9.0, random.Random(0), 1)
    found = measured(pair.noisy)
    assert found.probability > 0.9
    assert found.sigma == pytest.approx(9, rel=0.25)
    assert found.correlation == pytest.approx(math.exp(-1 / (2 * length**2)), abs=0.25)


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photograph_without_noise_is_left_alone(name: str):
    assert measured(photo(name)).probability < 0.5


def test_texture_is_not_noise():
    """A woven cloth, whose threads are everywhere equal."""
    down, across = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    light = 120 + 40 * torch.sin(across / 90) + 12 * torch.sin(1.9 * across) * torch.sin(2.1 * down)
    cloth = (light * torch.tensor([1.0, 0.9, 0.8]).view(3, 1, 1)).round()
    assert measured(cloth).probability < 0.5


def test_the_result_is_deterministic():
    noisy = photograph(photo("gates"), Camera(gain=0.01), 1)
    first, second = measured(noisy), measured(noisy)
    assert first.sigma == second.sigma
    assert torch.equal(first.autocovariance, second.autocovariance)


def test_pixels_without_evidence_do_not_count():
    noisy = photograph(photo("gates"), Camera(gain=0.01), 1)
    framed = noisy.clone()
    framed[:, :, 144:] = 255 * torch.rand(3, 288, 144, generator=torch.Generator().manual_seed(0))
    evidence = torch.ones(288, 288, dtype=torch.bool)
    evidence[:, 144:] = False
    alone = measured(noisy[:, :, :144])
    assert measured(framed, evidence).sigma == pytest.approx(alone.sigma, rel=0.1)
    assert measured(framed).sigma > 1.5 * alone.sigma


@pytest.mark.parametrize("name", PHOTOS)
def test_scratches_in_every_window_hide_little_of_the_noise(name: str):
    noisy = photograph(photo(name), Camera(gain=0.01), 1)
    alone, evidence = measured(noisy), torch.ones(288, 288, dtype=torch.bool)
    evidence[:, 7::24] = evidence[:, 8::24] = False
    found = measured(torch.where(evidence, noisy, 255.0), evidence)
    assert found.probability > 0.9 and found.sigma == pytest.approx(alone.sigma, rel=0.2)
    assert measured(torch.where(evidence, photo(name), 255.0), evidence).probability < 0.5


# The spectrum


def test_the_spectrum_of_known_noise():
    """On a flat picture the cross-spectrum is that of the noise: its trace, its correlations, its channels."""
    grain = 5 * coloured(512, 1.0)
    windows = windows_of(128 + grain, 16)
    autocovariance = autocovariance_of(quiet_spectrum(Residual(windows, torch.full_like(windows, 128))))
    true = torch.einsum("ihw,jhw->ij", grain, grain) / grain[0].numel()
    torch.testing.assert_close(autocovariance[:, :, 0, 0], true, rtol=0.1, atol=1)
    beside = torch.einsum("ihw,jhw->ij", grain[..., 1:], grain[..., :-1]) / grain[0].numel()
    # The taper and the windows take a sixteenth and a little more.
    torch.testing.assert_close(autocovariance[:, :, 0, 1], beside, rtol=0.15, atol=1)


def test_no_direction_has_negative_energy():
    spectrum = quiet_spectrum(Residual(windows_of(coloured(128, 0.7), 8), windows_of(torch.zeros(3, 128, 128), 8)))
    matrices = torch.fft.fft2(autocovariance_of(spectrum)).permute(2, 3, 0, 1)
    assert torch.linalg.eigvalsh(matrices).min() > -1e-5


def test_the_bands_are_scaled_to_what_was_found():
    spectrum = quiet_spectrum(Residual(windows_of(coloured(256, 0.5), 8), windows_of(torch.zeros(3, 256, 256), 8)))
    same = _scale_to_bands(spectrum, torch.full((3, 6), 9.0))
    axes = opponent_axes().to(same.dtype)
    opponent = torch.einsum("ai,hwij,bj->hwab", axes, same, axes).diagonal(dim1=-2, dim2=-1).real
    assert opponent.mean((0, 1)).tolist() == pytest.approx([9, 9, 9], rel=0.25)


def test_white_noise_has_equal_energy_in_all_bands_and_axes():
    white = 7 * torch.randn(3, 512, 512, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(band_energies(windows_of(white, 16)).mean(0), torch.full((3, 6), 49.0), rtol=0.1, atol=0)


@pytest.mark.parametrize(("dark", "bright"), [(8.0, 4.0), (4.0, 8.0)])
def test_the_stronger_tones_are_known(dark: float, bright: float):
    noise = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([60.0] * 20 + [190.0] * 20).view(-1, 1, 1, 1).expand_as(noise)
    strength = torch.tensor([dark] * 20 + [bright] * 20).view(-1, 1, 1, 1)
    assert _ratio_of_tones(Residual(levels + strength * noise, levels)) == pytest.approx(dark / bright, rel=0.05)
    assert math.isnan(_ratio_of_tones(Residual(levels[:20] + noise[:20], levels[:20])))


# Cost and limits


class Counting(Smooth):
    """A prior that counts the pixels that it sees."""

    seen = 0

    def predict(self, x: Tensor, *args: object, **options: object):
        """Count the pixels, and return the answer of the base class."""
        self.seen += x.shape[0] * x.shape[-2] * x.shape[-1]
        return super().predict(x, *args, **options)


@pytest.mark.parametrize("size", [(700, 900), (3000, 2000), (300, 20_000), (1025, 1024)])
def test_large_pictures_cost_no_more_than_a_megapixel(size: tuple[int, int]):
    prior = Counting()
    residuals = residuals_of(torch.rand(1, *size), prior)
    assert prior.seen <= 1.35 * min(MAX_PIXELS, size[0] * size[1])
    assert len(residuals[0].pixels) > 500


@pytest.mark.parametrize("size", [(8, 8), (31, 200), (32, 40)])
def test_a_picture_that_is_too_small_has_no_result(size: tuple[int, int]):
    assert measure_camera_noise(torch.rand(3, *size), Smooth(), load_noise_estimator()) is None


# In words


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (Noise("none", 0.0, True), "no noise that can be told from texture"),
        (Noise("white", 25.04, True), "white noise of 25.0 levels"),
        (
            Noise("camera", 6.14, True, 1.0, 0.99, 0.5, 0.4, 1.5),
            "camera noise of 6.1 levels, coarse, stronger in the shadows",
        ),
        (
            Noise("camera", 3.0, True, 1.0, 0.99, 0.1, 0.05, 0.5),
            "camera noise of 3.0 levels, without colour, stronger in the highlights",
        ),
        (
            Noise("camera", 3.0, True, 1.0, 0.99, 0.9, 0.8, math.nan),
            "camera noise of 3.0 levels, very coarse, mostly colour",
        ),
    ],
)
def test_the_noise_in_words(noise: Noise, words: str):
    assert noise.describe() == words


def test_what_is_not_known_is_null():
    assert Noise("white", 25.04, True).to_dict() == {
        "kind": "white",
        "sigma": 25.04,
        "estimated": True,
        "probability": None,
        "correlation": None,
        "chroma": None,
        "shadows": None,
    }
