"""Outliers: made ones of many kinds are found, and what only looks like them is left alone."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from outlier_pictures import (
    DRAWN,
    Made,
    demosaiced,
    hot_pixels,
    impulses,
    noisy,
    photograph,
    salt_and_pepper,
)
from PIL import Image

from restorer.measurement.isolation import isolation
from restorer.measurement.outlier_evidence import (
    are_apart_by_chance,
    are_in_flat_areas,
    are_spread_evenly,
    touch_by_chance,
)
from restorer.measurement.outliers import find_outliers

# What is made, the kind that is found, the least share of it, and the largest share of the found that is none.
MADE: dict[str, tuple[Callable[[], Made], str, float, float]] = {
    "salt and pepper, 1 %": (lambda: salt_and_pepper(photograph(), 0.01), "salt and pepper", 0.9, 0.05),
    "salt and pepper, 5 %": (lambda: salt_and_pepper(photograph(), 0.05), "salt and pepper", 0.95, 0.05),
    "salt and pepper, 30 %": (lambda: salt_and_pepper(photograph(), 0.3), "salt and pepper", 0.9, 0.05),
    "salt and pepper in each channel": (
        lambda: salt_and_pepper(photograph(), 0.1, each=True),
        "salt and pepper",
        0.9,
        0.05,
    ),
    "salt and pepper in noise": (
        lambda: salt_and_pepper(noisy(photograph(), 15), 0.1),
        "salt and pepper",
        0.7,
        0.1,
    ),
    "salt and pepper in gray": (
        lambda: salt_and_pepper(photograph().mean(0, keepdim=True).round(), 0.05),
        "salt and pepper",
        0.95,
        0.05,
    ),
    "impulses of any value": (lambda: impulses(photograph(), 0.05), "impulses", 0.7, 0.1),
    "a few impulses": (lambda: impulses(photograph(), 0.002), "pixels", 0.6, 0.1),
    "hot and dead pixels": (lambda: hot_pixels(photograph(), 0.002), "pixels", 0.75, 0.05),
    "hot pixels in noise": (lambda: hot_pixels(noisy(photograph(), 6), 0.003), "pixels", 0.5, 0.1),
    "hot pixels after demosaicing": (lambda: demosaiced(photograph(), 0.002), "pixels", 0.4, 0.6),
}


@pytest.mark.parametrize("name", MADE)
def test_made_outliers_are_found(name: str):
    make, kind, least, most_false = MADE[name]
    picture, truth = make()
    found = find_outliers(picture / 255)
    assert found.kind == kind
    assert found.values.shape == picture.shape
    assert float((found.values & truth).sum()) >= least * float(truth.sum())
    assert float((found.pixels & ~truth.any(0)).sum()) <= most_false * found.count
    assert found.sureness > 0.85


@pytest.mark.parametrize("name", DRAWN)
def test_what_looks_like_outliers_is_left_alone(name: str):
    found = find_outliers(DRAWN[name]() / 255)
    assert found.kind == "none" and found.count == 0 and found.describe() == ""


@pytest.mark.parametrize("name", ["denoise", "eagles", "enlarging", "gates", "grapes", "high_iso", "inpaint"])
def test_photographs_have_none(name: str):
    assert find_outliers(photograph(name, 40, 40, 192) / 255).kind == "none"


def test_areas_that_do_not_count_and_small_pictures_have_none():
    picture, _ = salt_and_pepper(photograph(), 0.05)
    assert find_outliers(picture / 255, torch.zeros(picture.shape[1:], dtype=torch.bool)).kind == "none"
    assert find_outliers(picture[:, :12, :12] / 255).kind == "none"
    assert find_outliers(torch.zeros(3, 64, 64)).kind == "none"


def test_outliers_beside_a_frame_are_found():
    picture, truth = salt_and_pepper(photograph(), 0.01)
    framed = torch.nn.functional.pad(picture, (40,) * 4, value=250.0)
    found = find_outliers(framed / 255)
    assert float((found.values[:, 40:-40, 40:-40] & truth).sum()) >= 0.8 * float(truth.sum())


def test_the_description_and_the_record_tell_number_and_share():
    picture, _ = salt_and_pepper(photograph(), 0.05)
    found = find_outliers(picture / 255)
    told = found.to_dict()
    assert told["kind"] == "salt and pepper" and told["pixels"] == found.count
    assert told["share"] == pytest.approx(found.count / SIZE_OF_PICTURE, abs=1e-6)
    assert found.describe() == f"outliers: {found.count} pixels ({100 * found.share:.2g} %), salt and pepper"


SIZE_OF_PICTURE = 160 * 160


def test_the_score_is_that_of_its_definition():
    x = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0)) * 255
    found, others = isolation(x), torch.cat([x[0, 3:6, 3:6].flatten()[:4], x[0, 3:6, 3:6].flatten()[5:]])
    median = others.sort().values[3:5].mean()
    assert float(found.median[0, 4, 4]) == pytest.approx(float(median))
    differences = x[0] - found.median[0]
    area = math.exp(float((differences[1:8, 1:8].abs() + 1).log().mean())) - 1
    scale = max(1.9 * area, float(others.max() - others.min()) / 2.85) + 1
    assert float(found.score[0, 4, 4]) == pytest.approx(float(x[0, 4, 4] - median) / scale, rel=1e-5)


@pytest.mark.parametrize("distance", [1, 2])
def test_bands_of_a_high_picture_join_without_a_seam(distance: int, monkeypatch: pytest.MonkeyPatch):
    x = torch.rand(2, 70, 11, generator=torch.Generator().manual_seed(0)) * 255
    whole = isolation(x, trim=1, distance=distance)
    monkeypatch.setattr("restorer.measurement.isolation.BAND", 16)
    parts = isolation(x, trim=1, distance=distance)
    assert torch.equal(whole.score, parts.score) and torch.equal(whole.median, parts.median)


def test_chance_is_told_from_clusters_lattices_and_texture():
    area = torch.ones(200, 200, dtype=torch.bool)
    random = torch.rand(200, 200, generator=torch.Generator().manual_seed(0)) < 0.01
    assert are_apart_by_chance(random, area) and are_spread_evenly(random, area) and touch_by_chance(random, area)
    assert not touch_by_chance(random | random.roll(1, 0), area)
    clusters = torch.zeros_like(random)
    for i in range(0, 200, 40):
        clusters[i : i + 12, i : i + 12] = torch.rand(12, 12, generator=torch.Generator().manual_seed(i)) < 0.3
    assert not are_apart_by_chance(clusters, area) and not are_spread_evenly(clusters, area)
    lattice = torch.zeros_like(random)
    lattice[5::9, 4::11] = True
    assert not are_apart_by_chance(lattice, area)
    ramp = torch.arange(200.0).expand(200, 200)
    assert are_in_flat_areas(random, area, ramp)
    assert not are_in_flat_areas(random & (ramp > 110), area, ramp)


@pytest.mark.parametrize("quality", [75, 90, 97])
@pytest.mark.parametrize("kind", [hot_pixels, salt_and_pepper], ids=["hot pixels", "salt and pepper"])
def test_what_compression_has_blurred_is_not_guessed(kind: Callable[[torch.Tensor, float], Made], quality: int):
    picture, truth = kind(photograph("gates", 20, 20), 0.01)
    file = io.BytesIO()
    Image.fromarray(picture.byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        decoded = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    near = torch.nn.functional.max_pool2d(truth.any(0)[None].float(), 5, 1, 2)[0] > 0
    found = find_outliers(decoded)
    assert int((found.pixels & ~near).sum()) <= 0.12 * found.count
    without = find_outliers(photograph("gates", 20, 20) / 255)
    assert without.kind == "none"
