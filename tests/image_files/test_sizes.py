"""Sizes of results and parts of pictures, as options name them."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.errors import UsageError
from restorer.images.resampling import resample
from restorer.images.sizes import Enlargement, Geometry, Region, parse_region
from restorer.limits import real_number, whole_number


@pytest.mark.parametrize("value", ["4,3,2,1", " 4, 3,2 ,1", (4, 3, 2, 1), [4.0, np.int64(3), 2, 1], Region(4, 3, 2, 1)])
def test_a_region(value: Any) -> None:
    region = parse_region(value)
    assert region == (4, 3, 2, 1) and region.option == "4,3,2,1" and region.tag == "2x1+4+3"
    assert parse_region(region.option) == region


@pytest.mark.parametrize(
    "value", ["", "1,2,3", "1,2,3,4,5", "a,2,3,4", "1,2,0,4", "1,2,3,-4", "-1,2,3,4", "1.5,2,3,4", "1--2,2,3,4",
              (1, 2, 3), (1, 2, 3, True), 7, None, (0, 0, float("nan"), 1)]
)  # fmt: skip
def test_what_is_no_region(value: Any) -> None:
    with pytest.raises(UsageError):
        parse_region(value)


def test_a_region_must_lie_inside() -> None:
    Region(4, 3, 2, 1).check_inside(6, 4)
    for size in ((5, 4), (6, 3)):
        with pytest.raises(UsageError, match=f"the picture has {size[0]}x{size[1]} pixels"):
            Region(4, 3, 2, 1).check_inside(*size)


@pytest.mark.parametrize(
    ("options", "size", "factor", "tag"),
    [
        ({"scale": 4}, (400, 240), 4, "x4"), ({"scale": 1.5}, (150, 90), 2, "x1.5"),
        ({"scale": 2.01}, (201, 121), 3, "x2.01"),
        ({"scale": 5}, (500, 300), 8, "x5"), ({"width": 300}, (300, 180), 3, "w300"),
        ({"width": 201}, (201, 121), 3, "w201"),
        ({"height": 61}, (102, 61), 2, "h61"), ({"width": 300, "height": 300}, (300, 180), 3, "300x300"),
        ({"width": 999, "height": 120}, (200, 120), 2, "999x120"), ({}, (400, 240), 4, "x4"),
    ],
    ids=str,
)  # fmt: skip
def test_sizes_of_a_picture_of_100x60(options: dict[str, Any], size: tuple[int, int], factor: int, tag: str) -> None:
    """A side that is given is met exactly, the other is rounded, and the model enlarges by the next larger factor."""
    enlargement = Enlargement.of(**options)
    assert enlargement.size(100, 60) == size and enlargement.factor(100, 60) == factor and enlargement.tag == tag


def test_a_whole_scale_is_recorded_as_a_whole_number() -> None:
    assert Enlargement(2.0).options() == (("scale", 2),) and isinstance(Enlargement(2.0).options()[0][1], int)
    assert Enlargement(1.5).options() == (("scale", 1.5),)
    assert Enlargement(width=300, height=200).options() == (("width", 300), ("height", 200))


@pytest.mark.parametrize(
    "options", [{"width": 100}, {"width": 99}, {"height": 481}, {"width": 500, "height": 60}], ids=str
)
def test_what_is_no_enlargement_is_refused_for_the_picture(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="100x60"):
        Enlargement(**options).size(100, 60)


def test_parts_of_a_result_meet_without_gaps() -> None:
    for scale in (1.01, 1.5, 2.37, 4, 7.9):
        size = Enlargement(scale)
        parts = [size.part(Region(left, 0, 1, 23), 37, 23) for left in range(37)]
        assert parts[0].left == 0 and parts[-1].right == size.size(37, 23)[0]
        assert all(a.right == b.left and a.width >= 1 for a, b in pairwise(parts))
        assert all(part.height == size.size(37, 23)[1] for part in parts)


def test_the_geometry_of_a_result() -> None:
    assert Geometry().result(100, 60) == Geometry().computed(100, 60) == (100, 60) and Geometry().is_plain
    part = Geometry(Enlargement(1.5), Region(10, 20, 30, 40))
    assert part.result(100, 60) == (45, 60) and part.computed(100, 60) == (60, 80)
    assert part.ratio(100, 60) == pytest.approx((45 * 60 / 6000) ** 0.5) and part.tag == "_30x40+10+20"
    with pytest.raises(UsageError, match="50x60"):
        part.result(50, 60)[0] and Geometry(region=Region(30, 0, 30, 9)).result(50, 60)


@pytest.mark.parametrize(("length", "of"), [(30, 40), (31, 64), (20, 53), (39, 40)])
@pytest.mark.parametrize("axis", [-2, -1])
def test_resampling_is_pillow_s(length: int, of: int, axis: int) -> None:
    x = torch.rand(of, of, generator=torch.Generator().manual_seed(0))
    size = (of, length) if axis == -2 else (length, of)
    expected = np.asarray(Image.fromarray(x.numpy()).resize(size, Image.Resampling.BICUBIC))
    found = resample(x, axis, length, of, first=0, count=length)
    assert np.abs(found.numpy() - expected).max() < 2e-6
    part = resample(x.narrow(axis, 8, of - 8), axis, length, of, first=length - 9, count=8, offset=8)
    assert torch.allclose(part, found.narrow(axis, length - 9, 8), atol=1e-6)


@pytest.mark.parametrize("value", [3, 3.0, np.int8(3), np.float64(3), torch.tensor(3), torch.tensor(3.0), np.array(3)])
def test_whole_numbers(value: Any) -> None:
    number = whole_number("steps", value)
    assert number == 3 and type(number) is int
    assert real_number("sigma", value) == 3.0


def test_large_whole_numbers_are_exact() -> None:
    assert whole_number("seed", 2**62 + 1) == 2**62 + 1


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), torch.tensor(True), "3", b"3", None, [3], np.array([3]), 3j, float("nan"),
              float("inf"), 10**400, object(), torch.ones(2)]
)  # fmt: skip
def test_what_is_no_number(value: Any) -> None:
    for convert in (whole_number, real_number):
        with pytest.raises(UsageError, match="steps must be") as caught:
            convert("steps", value)
        assert "\n" not in str(caught.value)


def test_fractions_are_no_whole_numbers() -> None:
    with pytest.raises(UsageError, match=r"steps must be a whole number, not 2\.5"):
        whole_number("steps", 2.5)


def test_the_options_are_checked_without_pytorch() -> None:
    """This process has PyTorch, so the module is looked at for what it imports."""
    module = sys.modules["restorer.images.sizes"]
    assert not any(name in vars(module) for name in ("torch", "Tensor", "np", "Image"))
