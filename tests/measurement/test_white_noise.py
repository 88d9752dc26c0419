"""The noise estimate for noise of known strength, on synthetic pictures with gradients, soft edges and texture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from restorer.measurement.white_noise import (
    _constant_areas,
    _dct,
    _noise_eigenvalue,
    estimate_sigma,
    is_in_luminance,
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


@pytest.mark.parametrize("sigma", [5, 8, 20])
def test_what_the_channels_share_is_told_from_independent_noise(sigma: float) -> None:
    shared = sigma * torch.randn(1, 192, 192, generator=torch.Generator().manual_seed(4))
    alike = ((scene() + shared).clamp(0, 255).round()) / 255
    independent, gray = noisy(scene(), sigma, seed=4), noisy(scene(channels=1), sigma, seed=4)
    assert is_in_luminance(alike, estimate_sigma(alike))
    assert not is_in_luminance(independent, estimate_sigma(independent))
    assert not is_in_luminance(gray, sigma) and not is_in_luminance(gray.expand(3, -1, -1), sigma)


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


@pytest.mark.parametrize("sigma", [3, 25, 60])
@pytest.mark.parametrize("value", [0.0, 0.4, 0.97, 1.0])
@pytest.mark.parametrize("inside", [(32, 32, 192, 192), (0, 0, 192, 210), (5, 3, 192, 192)])
def test_a_picture_in_a_frame_is_judged_by_its_inside(
    inside: tuple[int, int, int, int], value: float, sigma: float
) -> None:
    """A frame of any tone, a strip below, and a thin border beside a wide one leave the estimate as it is without."""
    top, left, height, width = inside
    bare = noisy(scene(210), sigma, 0)[:, :height, :width]
    framed = torch.full((3, 256, 256), value)
    framed[:, top : top + height, left : left + width] = bare
    # Strong noise scatters more: in the larger picture fewer patches of the inside are examined.
    assert estimate_sigma(framed) == pytest.approx(estimate_sigma(bare), rel=0.05 if sigma < 60 else 0.12)


def test_a_caption_with_text_is_no_evidence() -> None:
    bare = noisy(scene(), 25, 0)
    captioned = torch.ones(3, 224, 192)
    captioned[:, :192] = bare
    for left in range(8, 180, 12):  # strokes of letters
        captioned[:, 200:214, left : left + 2] = 0.1
    assert estimate_sigma(captioned) == pytest.approx(estimate_sigma(bare), rel=0.05)


def test_pixels_that_do_not_count_are_no_evidence() -> None:
    """The colour under transparency is made up, and far too smooth."""
    picture, visible = noisy(scene(), 25, 0), torch.ones(192, 192, dtype=torch.bool)
    visible[40:150, 60:] = False
    smooth = torch.nn.functional.avg_pool2d(picture, 31, 1, 15)
    cut_out = torch.where(visible, picture, smooth)
    assert estimate_sigma(cut_out) < 20
    assert estimate_sigma(cut_out, visible) == pytest.approx(25, rel=0.1)
    assert estimate_sigma(picture, torch.zeros(192, 192, dtype=torch.bool)) == 0.0


@pytest.mark.parametrize("paper", [1.0, 0.96])
def test_drawings_and_screenshots_have_none(paper: float) -> None:
    """Between flat areas there are only edges, which are not noise: a page of text, and slanted lines."""
    page = torch.full((3, 200, 200), paper)
    for top in range(10, 190, 16):
        for left in range(10, 190, 7):
            page[:, top : top + 9, left : left + 1 + (left + top) % 3] = 0.15
            page[:, top + (left % 8), left : left + 5] = 0.4
    y, x = torch.meshgrid(torch.arange(200.0), torch.arange(200.0), indexing="ij")
    lines = paper - 0.8 * torch.exp(-(((y + 0.6 * x) % 23) - 11).square()).expand(3, -1, -1)
    for drawing in (page, lines):
        assert estimate_sigma((drawing * 255).round() / 255) < 0.5


def test_constant_areas_are_those_of_the_definition() -> None:
    """Every rectangle of 8x3 or 3x8 equal values, tried one by one."""
    plane = torch.randint(0, 2, (40, 44), generator=torch.Generator().manual_seed(0)).float()
    plane[5:16, 7:11], plane[20:24, 20:40], plane[30:33, 2:9] = 3, 4, 5  # the last one is too short
    expected = torch.zeros(40, 44, dtype=torch.bool)
    for height, width in ((8, 3), (3, 8)):
        for top in range(40 - height + 1):
            for left in range(44 - width + 1):
                area = (slice(top, top + height), slice(left, left + width))
                expected[area] |= bool((plane[area] == plane[top, left]).all())
    assert torch.equal(_constant_areas(plane), expected) and expected[5:16, 7:11].all() and not expected[31, 5]


def test_a_flat_area_does_not_make_texture_noise() -> None:
    """A clean photograph in a frame is as clean as without it."""
    clean = scene(192).round() / 255
    framed = torch.full((3, 256, 256), 0.5)
    framed[:, 32:-32, 32:-32] = clean
    assert estimate_sigma(framed) <= estimate_sigma(clean) + 0.5


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
