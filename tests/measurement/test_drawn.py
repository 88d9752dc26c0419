"""Drawings are told from photographs, and no enlargement leaves the range of their lines and grounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from restorer.measurement.credible import LEVEL, bicubic_enlargement
from restorer.measurement.drawn import (
    BAND,
    DRAWN,
    GROUND_MARGIN,
    MARGIN,
    NEAR,
    find_limits,
    share_of_drawn_edges,
)

IMAGES = Path(__file__).resolve().parents[1] / "images"


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def page(ground: str, ink: str, smooth: int, width: int = 96, height: int = 64) -> Image.Image:
    """Return text, a line, a disk and a box, drawn `smooth` times as large and shrunk by the mean of squares."""
    image = Image.new("RGB", (width * smooth, height * smooth), ground)
    draw = ImageDraw.Draw(image)
    draw.text((5 * smooth, 4 * smooth), "Some words", fill=ink)
    draw.line((5 * smooth, 60 * smooth, 90 * smooth, 30 * smooth), fill=ink, width=smooth)
    draw.ellipse((10 * smooth, 24 * smooth, 40 * smooth, 50 * smooth), fill="#c04030")
    draw.rectangle((60 * smooth, 6 * smooth, 90 * smooth, 24 * smooth), outline=ink, width=smooth)
    return image.reduce(smooth)


def photograph(name: str, scale: int, filter_: Image.Resampling) -> Image.Image:
    """Return a photograph shrunk by a filter."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        return image.convert("RGB").resize((image.width // scale, image.height // scale), filter_)


@pytest.mark.parametrize("smooth", [1, 4])
@pytest.mark.parametrize(("ground", "ink"), [("white", "black"), ("#1e1e1e", "#d0d0d0"), ("#f2efe9", "#405080")])
def test_drawings_are_recognized(ground: str, ink: str, smooth: int):
    assert share_of_drawn_edges(to_tensor(page(ground, ink, smooth))) > DRAWN + 0.2


@pytest.mark.parametrize("filter_", [Image.Resampling.BICUBIC, Image.Resampling.NEAREST])
@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("name", ["gates", "grapes", "eagles", "high_iso"])
def test_photographs_are_not(name: str, scale: int, filter_: Image.Resampling):
    assert share_of_drawn_edges(to_tensor(photograph(name, scale, filter_))) < DRAWN - 0.2


def test_a_photograph_beside_white_is_no_drawing():
    """An overexposed sky is a plain place, too, but few edges lie beside it."""
    image = Image.new("RGB", (120, 90), "white")
    image.paste(photograph("gates", 4, Image.Resampling.BICUBIC).crop((0, 0, 120, 60)), (0, 30))
    assert share_of_drawn_edges(to_tensor(image)) < DRAWN - 0.2


def test_a_picture_without_edges_is_no_drawing():
    assert share_of_drawn_edges(torch.full((3, 40, 40), 0.5)) == 0


@pytest.mark.parametrize("scale", [2, 4])
def test_the_limits_are_those_of_the_pixels_around(scale: int):
    """Against a loop over the pixels, for a result that is far off in both directions."""
    y = 2 * to_tensor(page("#e0e0e0", "#204060", 4, 48, BAND + 21))[None] - 1
    limits = find_limits(y, everywhere=True)
    assert limits is not None
    smooth = bicubic_enlargement(y, scale)
    highest = limits.apply(torch.full_like(smooth, 3.0))
    lowest = limits.apply(torch.full_like(smooth, -3.0))
    height, width = y.shape[-2:]
    for row in (0, 1, 2, 17, 30, BAND - 1, BAND, BAND + 1, height - 1):
        for column in range(0, width, 2):
            around = y[..., max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
            large = (..., slice(row * scale, (row + 1) * scale), slice(column * scale, (column + 1) * scale))
            high, low = (around.amax((2, 3), keepdim=True), around.amin((2, 3), keepdim=True))
            if bool((high == low).all()):
                expected = (
                    (high + GROUND_MARGIN).expand_as(smooth[large]),
                    (low - GROUND_MARGIN).expand_as(smooth[large]),
                )
            else:
                expected = torch.maximum(high, smooth[large]) + MARGIN, torch.minimum(low, smooth[large]) - MARGIN
            torch.testing.assert_close(highest[large], expected[0])
            torch.testing.assert_close(lowest[large], expected[1])


def test_what_lies_within_the_limits_stays():
    y = 2 * to_tensor(page("#e0e0e0", "black", 1))[None] - 1
    limits = find_limits(y, everywhere=True)
    assert limits is not None
    smooth = bicubic_enlargement(y, 3)
    torch.testing.assert_close(limits.apply(smooth), smooth, rtol=0, atol=1e-5)
    assert torch.equal(limits.apply(smooth[:, :1]), limits.apply(smooth)[:, :1])


def test_only_places_beside_plain_ones_are_limited():
    """The right half varies everywhere, so that nothing of it but a margin is beside a plain place."""
    y = torch.zeros(1, 3, 40, 60)
    y[..., 30:] = 0.5 * torch.rand(3, 40, 30, generator=torch.Generator().manual_seed(1))
    limits = find_limits(y)
    assert limits is not None
    far = torch.full((1, 3, 80, 120), 0.9)
    result = limits.apply(far)
    assert (result[..., : 2 * 27] - 0).abs().max() <= GROUND_MARGIN + 1e-6
    first_free = 2 * (29 + NEAR)
    assert torch.equal(result[..., first_free:], far[..., first_free:])


def test_a_picture_without_plain_places_is_not_limited():
    y = torch.rand(1, 3, 30, 30, generator=torch.Generator().manual_seed(2)) * 2 - 1
    assert find_limits(y) is None
    doubt = torch.zeros(1, 1, 30, 30)
    doubt[..., 5:9, 5:9] = 1
    limits = find_limits(y, doubt=doubt)
    assert limits is not None
    assert torch.equal(limits.is_limited, doubt > 0)


def test_grounds_that_compression_has_changed_are_plain_within_a_tolerance():
    y = torch.zeros(1, 3, 30, 30)
    y[..., ::2, :] = 1.5 * LEVEL
    assert find_limits(y) is None
    assert find_limits(y, tolerance=2.0) is not None
