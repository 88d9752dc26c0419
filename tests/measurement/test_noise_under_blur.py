"""The noise of a blurred picture at the frequencies that its blur takes away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.measurement.noise_under_blur import noise_under_blur
from restorer.measurement.white_noise import estimate_sigma

IMAGES = Path(__file__).resolve().parents[1] / "images"
KERNELS = {"gaussian": gaussian_kernel(1.6), "defocus": defocus_kernel(3.0), "motion": motion_kernel(10, 30)}


def blurred(kernel: Tensor, name: str = "gates.jpg") -> Tensor:
    with Image.open(IMAGES / name) as image:
        small = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    x = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None, :, :176, :176] / 255
    return Blur(kernel).measure(x)[0]


def gaussian_noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0)) / 255


@pytest.mark.parametrize("name", ["gates.jpg", "grapes.jpg", "eagles.jpg"])
@pytest.mark.parametrize("kind", KERNELS)
def test_white_noise_is_as_strong_as_it_is(kind: str, name: str) -> None:
    soft = blurred(KERNELS[kind], name)
    for sigma in (2.5, 8.0):
        found = noise_under_blur(soft + sigma * gaussian_noise(soft), KERNELS[kind])
        assert found == pytest.approx(sigma, rel=0.1)
    assert noise_under_blur((soft * 255).round() / 255, KERNELS[kind]) < 0.7, "texture is not taken for noise"


@pytest.mark.parametrize("kind", KERNELS)
def test_coarse_noise_is_seen_where_the_finest_detail_does_not_show_it(kind: str) -> None:
    soft = blurred(KERNELS[kind])
    noise = torch.nn.functional.avg_pool2d(gaussian_noise(soft)[None], 3, 1, 1, count_include_pad=False)[0]
    y = soft + 9 * noise
    assert noise_under_blur(y, KERNELS[kind]) > 1.5 * estimate_sigma(y)


def test_the_channel_with_most_noise_counts() -> None:
    soft = blurred(KERNELS["defocus"])
    noise = gaussian_noise(soft)
    noise[:2] = 0
    assert noise_under_blur(soft + 6 * noise, KERNELS["defocus"]) == pytest.approx(6, rel=0.12)


def test_what_does_not_count_is_left_out() -> None:
    soft = blurred(KERNELS["defocus"])
    hidden, evidence = soft.clone(), torch.ones(soft.shape[1:], dtype=torch.bool)
    evidence[:, :90] = False
    hidden[:, :, :90] += 20 * gaussian_noise(soft)[:, :, :90]
    assert noise_under_blur(hidden, KERNELS["defocus"], evidence) < 0.7
    assert noise_under_blur(hidden, KERNELS["defocus"], torch.zeros_like(evidence)) == 0


def test_what_cannot_be_judged() -> None:
    assert noise_under_blur(torch.rand(3, 20, 40), KERNELS["defocus"]) == 0
    assert noise_under_blur(torch.rand(3, 64, 64), torch.ones(1, 1)) == 0
