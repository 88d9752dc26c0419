"""Deblurring brings back what a known kernel took away, at the borders, beside highlights, and under noise and JPEG."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stubs import Smooth, Spy
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.errors import UsageError
from restorer.evaluation.metrics import psnr
from restorer.images.sizes import Region
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.defaults import DEBLUR

IMAGES = Path(__file__).resolve().parents[1] / "images"
KERNELS = {"gaussian": gaussian_kernel(1.6), "defocus": defocus_kernel(3), "motion": motion_kernel(13, 30)}


def photograph(name: str = "gates.jpg", side: int = 160) -> Tensor:
    """Return the middle of a photograph at half its size, (3, H, W) in [0, 1]."""
    with Image.open(IMAGES / name) as image:
        small = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 255
    return pixels[:, : side + 20, : side + 20]


def blurred(true: Tensor, kernel: Tensor, sigma: float = 2.55) -> tuple[Tensor, Tensor]:
    """Return a photograph blurred beyond its borders, with noise, in 8 bits; and the part of it that is seen."""
    operator = Blur(kernel)
    y = operator.measure(true[None])[0]
    y = y + sigma / 255 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    down, across = operator.reach
    seen = true[:, down : down + y.shape[-2], across : across + y.shape[-1]]
    return (y * 255).round().clamp(0, 255) / 255, seen


@pytest.mark.parametrize(("kind", "gain"), [("gaussian", 2.0), ("defocus", 3.5), ("motion", 5.0)])
def test_a_known_blur_is_undone_up_to_the_borders(kind: str, gain: float) -> None:
    y, true = blurred(photograph(), KERNELS[kind])
    job = prepare_deblur(y, KERNELS[kind], detail=0).measured()
    assert 2 < job.sigma < 3.3 and job.estimated
    result = job.run().image
    assert result.shape == y.shape
    assert psnr(result, true) > psnr(y, true) + gain
    for edge in (np.s_[:, :8], np.s_[:, -8:], np.s_[:, :, :8], np.s_[:, :, -8:]):
        assert psnr(result[edge], true[edge]) > psnr(y[edge], true[edge]) + 0.4 * gain


def test_the_level_can_be_given_and_a_lower_one_keeps_more() -> None:
    y, true = blurred(photograph(), KERNELS["gaussian"])
    given, strong = (prepare_deblur(y, KERNELS["gaussian"], sigma=s, detail=0).run().image for s in (2.55, 12.0))
    assert psnr(given, true) > psnr(strong, true) + 0.3


def test_gray_pictures_stay_gray() -> None:
    y, true = blurred(photograph().mean(0, keepdim=True), KERNELS["defocus"])
    gray = prepare_deblur(y, KERNELS["defocus"], sigma=2.55, detail=0).run().image
    assert gray.shape == y.shape and psnr(gray, true) > psnr(y, true) + 3
    colour = prepare_deblur(y.expand(3, -1, -1), KERNELS["defocus"], sigma=2.55, detail=0).run().image
    assert (colour == colour[:1]).all()
    torch.testing.assert_close(colour[:1], gray)


def test_clipped_highlights_do_not_ring() -> None:
    """A lamp that is brighter than white is a disk after a defocus, and no sharp picture explains it."""
    scene = photograph("eagles.jpg") * 0.5
    scene[:, 80:86, 80:86] = 12.0
    kernel = KERNELS["defocus"]
    y, true = blurred(scene, kernel, 1.0)
    assert float(y.max()) == 1
    job = prepare_deblur(y, kernel, sigma=1.0, detail=0)
    assert isinstance(job.degradation, Blur) and job.degradation.known is not None
    around = torch.zeros(true.shape[-2:], dtype=torch.bool)
    around[60:100, 60:100] = True
    around[70:90, 70:90] = False
    told = psnr(job.run().image[:, around], true[:, around])
    ignored = prepare_deblur(y * 0.99, kernel, sigma=1.0, detail=0)
    assert ignored.degradation.known is None  # type: ignore[union-attr]
    assert told > psnr(ignored.run().image[:, around], true[:, around]) + 1


def test_compression_is_undone_first() -> None:
    y, true = blurred(photograph(), KERNELS["gaussian"], 0.0)
    buffer = io.BytesIO()
    Image.fromarray((y.permute(1, 2, 0) * 255).byte().numpy()).save(buffer, "JPEG", quality=60)
    decoded = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1) / 255
    jpeg = find_jpeg(decoded, buffer.getvalue())
    job = prepare_deblur(decoded, KERNELS["gaussian"], jpeg=jpeg, detail=0).measured()
    assert job.second_pass is not None and job.jpeg is jpeg
    assert job.evaluations == job.plan.evaluations + DEBLUR.steps  # type: ignore[union-attr]
    result = job.run().image
    assert psnr(result, true) > psnr(decoded, true) + 1
    taken = prepare_deblur(decoded, KERNELS["gaussian"], sigma=0.5, detail=0).run().image
    assert psnr(result, true) > psnr(taken, true) + 1


def test_detail_is_carried_noise_and_steps_are_evaluations() -> None:
    y, _ = blurred(photograph(side=48), KERNELS["gaussian"])
    for steps, detail in ((1, None), (3, 0.0), (None, 1.0)):
        prior = Spy(Smooth())
        job = prepare_deblur(y, KERNELS["gaussian"], sigma=5.0, steps=steps, detail=detail, prior=prior)
        assert job.plan is not None and job.evaluations == (steps or DEBLUR.steps)
        assert job.plan.kappa == pytest.approx(DEBLUR.most_carried * (DEBLUR.detail if detail is None else detail))
        job.run()
        assert len(prior.calls) == (steps or DEBLUR.steps)
        assert prior.calls[-1].sigma == pytest.approx(2 * 5 * DEBLUR.caution / 255) or steps == 1


def test_the_data_are_trusted_as_far_as_their_noise_allows() -> None:
    """Above the least trust, a correction passes on no more than the share of a level that the defaults state."""
    y, _ = blurred(photograph(side=120), KERNELS["gaussian"])
    (least, most), found = DEBLUR.trusts, list[float]()

    def trust_in(kernel: Tensor) -> tuple[float, float]:
        job = prepare_deblur(y, kernel, sigma=2.55, detail=0, prior=Smooth())
        assert job.plan is not None and isinstance(job.degradation, Blur)
        levels, s_y = job.plan.sigmas[:-1], 2 * 2.55 * DEBLUR.caution / 255
        trust = s_y**2 * (levels[0] / levels[1]) ** 2 / job.noise_variance
        shares = [job.degradation.noise_passed(s_y**2, trust * level**2) / level**2 for level in levels]
        return trust, float(np.mean(shares))

    for size in (1.0, 1.3, 1.6, 2.5, 4.0):
        trust, share = trust_in(gaussian_kernel(size))
        assert least * 0.999 <= trust <= most * 1.001
        assert share <= DEBLUR.passed * 1.001 or trust == pytest.approx(least, rel=1e-3)
        assert share > DEBLUR.passed * 0.99 or trust == pytest.approx(most, rel=1e-3)
        found.append(trust)
    assert found == sorted(found) and found[-1] == pytest.approx(most)  # a wide Gaussian amplifies little
    assert trust_in(KERNELS["motion"])[0] == pytest.approx(least, rel=1e-3)


def test_the_seed_decides_the_noise() -> None:
    y, _ = blurred(photograph(side=48), KERNELS["gaussian"])
    a, b, c = (
        prepare_deblur(y, KERNELS["gaussian"], sigma=3.0, detail=1, seed=seed, prior=Smooth()).run().image
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_point_changes_nothing() -> None:
    y = photograph(side=30)
    job = prepare_deblur(y, torch.ones(1, 1), prior=Smooth()).measured()
    assert torch.equal(job.run().image, y) and any("single point" in note for note in job.notes)


@pytest.mark.parametrize("size", [(31, 33), (40, 25), (64, 64)])
def test_any_size_that_holds_the_kernel(size: tuple[int, int]) -> None:
    y = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    assert prepare_deblur(y, gaussian_kernel(3), sigma=2.0, prior=Smooth()).run().image.shape == (3, *size)


@pytest.mark.parametrize(
    "kernel", [torch.ones(90, 3), torch.zeros(3, 3), torch.full((3, 3), math.nan), -torch.ones(3, 3)]
)
def test_kernels_that_are_none(kernel: Tensor) -> None:
    with pytest.raises(UsageError, match="kernel"):
        prepare_deblur(photograph(side=40), kernel, prior=Smooth())


def test_a_region_is_that_part_of_the_whole() -> None:
    y, _ = blurred(photograph(side=220), KERNELS["motion"])
    region = Region(60, 50, 40, 30)
    whole = prepare_deblur(y, KERNELS["motion"], sigma=2.55, detail=1).run().image
    part = prepare_deblur(y, KERNELS["motion"], sigma=2.55, detail=1, region=region).run().image
    assert part.shape == (3, 30, 40)
    assert psnr(part, whole[:, region.rows, region.columns]) > 45
