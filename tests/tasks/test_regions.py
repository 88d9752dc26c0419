"""A part of a picture that is restored alone equals the same part of the whole result."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stubs import Smooth, Spy

from restorer.diffusion.reverse import Canvas, NoiseField
from restorer.images.files import load, to_tensor
from restorer.images.sizes import Enlargement, Region
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.jpeg import read_jpeg
from restorer.measurement.jpeg_window import cut_jpeg
from restorer.models.load import load_prior
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.region import ALIGNMENT, MARGIN, Place
from restorer.tasks.upscale import prepare_upscale

IMAGES = Path(__file__).resolve().parents[1] / "images"


def photograph(name: str = "gates.jpg", width: int = 320, height: int = 240) -> torch.Tensor:
    """Return the corner of a photograph, float (3, height, width)."""
    return to_tensor(load(IMAGES / name))[:, :height, :width]


def levels(job: Job) -> torch.Tensor:
    """Return the result of a job in whole levels of 255."""
    return (job.measured().run().image * 255).round()


def test_the_place_of_a_region() -> None:
    image = torch.zeros(3, 1000, 1200)
    place = Place.of(image, Region(500, 400, 60, 50))
    window = place.window
    assert window.left % ALIGNMENT == window.top % ALIGNMENT == 0
    assert (1200 - window.right) % ALIGNMENT == (1000 - window.bottom) % ALIGNMENT == 0
    assert MARGIN <= 500 - window.left < MARGIN + ALIGNMENT and MARGIN <= window.bottom - 450 < MARGIN + ALIGNMENT
    assert place.canvas == Canvas(1000, 1200, window.top, window.left)
    x = torch.arange(1_200_000.0).view(1000, 1200)
    assert torch.equal(place.inner(place.seen(x)), x[400:450, 500:560])
    assert torch.equal(place.exact(x), x[400:450, 500:560])


def test_a_region_near_the_border_and_the_whole_picture() -> None:
    image = torch.zeros(1, 100, 120)
    assert Place.of(image, None).canvas is None and Place.of(image, Region(0, 0, 120, 100)).canvas is None
    corner = Place.of(torch.zeros(1, 500, 500), Region(0, 490, 9, 10))
    assert corner.window.left == 0 and corner.window.bottom == 500


def test_noise_is_that_of_the_whole_picture() -> None:
    whole = NoiseField(3).like(torch.zeros(1, 3, 40, 50))
    part = NoiseField(3, Canvas(40, 50, 7, 11)).like(torch.zeros(1, 3, 8, 9))
    assert torch.equal(part, whole[..., 7:15, 11:20])


def test_the_network_sees_no_more_than_the_surroundings() -> None:
    spy = Spy(Smooth())
    prepare_denoise(torch.rand(3, 600, 700), 25, region=Region(300, 300, 10, 10), prior=spy).run()
    assert all(max(call.x.shape[-2:]) <= 10 + 2 * (MARGIN + ALIGNMENT) for call in spy.calls) and spy.calls


Prepare = Callable[[Region | None], Job]


def denoise_white() -> Prepare:
    noise = torch.randn(3, 240, 320, generator=torch.Generator().manual_seed(0))
    image = (photograph() + 20 / 255 * noise).clamp(0, 1)
    return lambda region: prepare_denoise(image, region=region, steps=2, prior=load_prior("photo", "cpu", "fp32"))


def denoise_gray() -> Prepare:
    image = photograph()[:1].expand(3, -1, -1)
    return lambda region: prepare_denoise(image, 25, region=region, steps=2, prior=load_prior("photo", "cpu", "fp32"))


def dejpeg(orientation: int = 1) -> Prepare:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    pixels = (photograph().permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(pixels[:235, :309]).save(file, "JPEG", quality=25, exif=exif)
    image = to_tensor(load(io.BytesIO(file.getvalue())))
    found = find_jpeg(image, file.getvalue())
    return lambda region: prepare_dejpeg(image, found, region=region, steps=2, prior=load_prior("photo", "cpu", "fp32"))


def inpaint() -> Prepare:
    fill = torch.zeros(240, 320, dtype=torch.bool)
    fill[::20, 10:300] = True
    fill[60:110, 150:200] = True
    return lambda region: prepare_inpaint(
        photograph(), fill, region=region, steps=2, prior=load_prior("photo", "cpu", "fp32")
    )


def upscale(scale: float) -> Prepare:
    small = photograph(width=150, height=120)
    return lambda region: prepare_upscale(
        small, scale, region=region, steps=2, prior=load_prior("photo", "cpu", "fp32")
    )


@pytest.mark.parametrize(
    ("make", "scale"),
    [
        (denoise_white, 1), (denoise_gray, 1), (dejpeg, 1), (lambda: dejpeg(6), 1), (inpaint, 1),
        (lambda: upscale(2), 2),
        (lambda: upscale(1.5), 1.5),
    ],
    ids=["white noise", "gray", "JPEG", "turned JPEG", "holes", "x2", "x1.5"],
)  # fmt: skip
def test_a_region_equals_the_same_part_of_the_whole_within_a_level(make: Callable[[], Prepare], scale: float) -> None:
    """One level is what the rounding of nearly equal floats can make."""
    prepare, region = make(), Region(70, 50, 40, 30)
    part = region
    if scale != 1:
        part = Enlargement(scale).part(region, 150, 120)
    expected = levels(prepare(None))[:, part.rows, part.columns]
    found = levels(prepare(region))
    assert found.shape == expected.shape
    difference = (found - expected).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


def test_a_region_without_holes_is_copied() -> None:
    image, fill = torch.rand(3, 90, 90), torch.zeros(90, 90, dtype=torch.bool)
    fill[80:, 80:] = True
    spy = Spy(Smooth())
    job = prepare_inpaint(image, fill, region=Region(3, 4, 5, 6), prior=spy)
    assert job.plan is None and torch.equal(job.run().image, image[:, 4:10, 3:8]) and not spy.calls


def test_the_noise_is_measured_on_the_whole_picture() -> None:
    noise = torch.randn(3, 300, 300, generator=torch.Generator().manual_seed(0))
    image = (0.5 + 20 / 255 * noise).clamp(0, 1)
    whole, part = (prepare_denoise(image, region=region, prior=Smooth()) for region in (None, Region(0, 0, 9, 9)))
    assert part.sigma == whole.sigma == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_coefficients_of_a_part_of_a_jpeg(orientation: int) -> None:
    """The data of a part are those of the decoded part, wherever its blocks are whole."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.open(IMAGES / "gates.jpg").crop((0, 0, 203, 155)).save(file, "JPEG", quality=40, exif=exif)
    picture = to_tensor(load(io.BytesIO(file.getvalue())))
    found = read_jpeg(file.getvalue())
    assert found is not None
    height, width = picture.shape[-2:]
    for window in (Region(32, 64, 80, 61), Region(0, 0, 70, 50), Region(width - 64, height - 75, 64, 75)):
        part = cut_jpeg(found, window)
        operator = part.degradation()
        seen = picture[None, :, window.rows, window.columns] * 2 - 1
        assert operator.consistency(seen, part.data()) > 0.97
    assert cut_jpeg(found, Region(0, 0, width, height)) is found


@pytest.mark.parametrize("region", [Region(0, 0, 9, 1), Region(5, 5, 4, 4)])
def test_a_region_outside_is_refused(region: Region) -> None:
    from restorer.errors import UsageError

    image = torch.rand(3, 8, 8)
    for prepare in (prepare_denoise, prepare_upscale):
        with pytest.raises(UsageError, match="8x8 pixels"):
            prepare(image, region=region, prior=Smooth())
    with pytest.raises(UsageError, match="8x8 pixels"):
        prepare_inpaint(image, torch.from_numpy(np.eye(8, dtype=bool)), region=region, prior=Smooth())
