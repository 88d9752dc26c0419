"""Photographs with noise that were saved as JPEG: the noise is not taken for compression, nor compression for noise."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.quantization import Quantization
from restorer.evaluation.metrics import psnr
from restorer.images.sizes import Region
from restorer.measurement.jpeg import Jpeg, read_jpeg
from restorer.measurement.noise import Noise
from restorer.models.load import load_prior
from restorer.tasks import denoise, noisy_jpeg
from restorer.tasks.auto import prepare_auto
from restorer.tasks.consistency import consistency_of
from restorer.tasks.defaults import JPEG, NOISY_JPEG
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.job import Job
from restorer.tasks.noisy_jpeg import removes_both
from restorer.training.edits import blur

IMAGES = Path(__file__).resolve().parents[1] / "images"


def photograph(name: str, side: int = 192) -> Tensor:
    """Return a square of a photograph without the noise that it has itself, (3, H, W) on the 0..255 scale."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        pixels = np.array(image.crop((112, 52, 112 + side, 52 + side)))
    return blur(torch.from_numpy(pixels).permute(2, 0, 1).float(), 0.8)


def saved(x: Tensor, sigma: float, quality: int, sampling: int) -> tuple[Tensor, Jpeg]:
    """Return a picture with white noise as a JPEG file: decoded, in [0, 1], and what is known of the file."""
    noisy = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    pixels, file = noisy.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy(), io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=sampling)
    jpeg = read_jpeg(file.getvalue())
    assert jpeg is not None
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) / 255, jpeg


def prepared(y: Tensor, jpeg: Jpeg, **options: object) -> Job:
    """Return the measured job of `denoise`."""
    return prepare_denoise(y, jpeg=jpeg, prior=load_prior(precision="fp32"), **options).measured()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["eagles", "gates", "grapes"])
@pytest.mark.parametrize(("sigma", "quality", "sampling"), [(19, 75, 0), (19, 75, 2), (10, 90, 2)])
def test_noise_is_not_taken_for_compression(name: str, sigma: float, quality: int, sampling: int):
    """The reference undoes the compression first, and is then told the noise."""
    clean, (y, jpeg) = photograph(name) / 255, saved(photograph(name), sigma, quality, sampling)
    job = prepared(y, jpeg)
    assert job.noise is not None
    assert job.noise.kind == "white"
    assert job.noise.sigma == pytest.approx(sigma, rel=0.25)
    assert isinstance(job.degradation, Quantization)
    assert job.evaluations == 4
    undone = prepare_dejpeg(y, jpeg, prior=job.prior).run().image
    told = prepare_denoise(undone, float(sigma), outliers="off", prior=job.prior).run().image
    assert psnr(job.run().image, clean) > psnr(told, clean) - 0.6


@pytest.mark.parametrize("name", ["eagles", "gates", "grapes"])
@pytest.mark.parametrize("side", [96, 192])
@pytest.mark.parametrize("quality", [50, 75])
def test_compression_is_not_taken_for_noise(name: str, side: int, quality: int):
    y, jpeg = saved(photograph(name, side), 0, quality, 2)
    job = prepared(y, jpeg)
    assert job.noise is not None
    assert job.noise.kind == "none"
    assert isinstance(job.degradation, Quantization)
    assert not job.degradation.is_noisy


def test_options_decide_what_is_removed():
    y, jpeg = saved(photograph("gates"), 15, 85, 2)
    job = prepared(y, jpeg)
    assert prepared(y, jpeg, strength=1.5).sigma == pytest.approx(1.5 * job.sigma)
    texture = [prepared(y, jpeg, detail=d).run().image.diff(dim=-1).square().mean().item() for d in (0.0, 0.5, 1.0)]
    assert texture == sorted(texture)
    assert prepared(y, jpeg, steps=1).evaluations == 1
    assert prepared(y, jpeg, method="ddim", steps=5).evaluations == 5
    off = prepared(y, jpeg, noise="off")
    assert isinstance(off.degradation, Quantization)
    assert not off.degradation.is_noisy
    assert not isinstance(prepare_denoise(y, prior=job.prior).measured().degradation, Quantization)


def test_a_region_is_the_same_part_of_the_whole():
    y, jpeg = saved(photograph("gates"), 15, 85, 2)
    region = Region(40, 56, 136, 120)
    whole, part = prepared(y, jpeg).run().image, prepared(y, jpeg, region=region).run().image
    inside = whole[:, region.rows, region.columns]
    assert part.shape == inside.shape
    assert float((part - inside).abs().max()) <= 2 / 255


def test_gray_pictures_stay_gray():
    gray = photograph("gates").mean(0, keepdim=True).expand(3, -1, -1)
    noise = torch.randn(1, *gray.shape[1:], generator=torch.Generator().manual_seed(5))
    y, jpeg = saved(gray + 15 * noise, 0, 85, 2)
    job = prepared(y, jpeg)
    result = job.run().image
    assert torch.equal(result, result[:1].expand(3, -1, -1))
    assert psnr(result, gray / 255) > psnr(y, gray / 255) + 3


def test_the_cells_of_a_noisy_picture_are_no_figure():
    y, jpeg = saved(photograph("gates"), 15, 85, 2)
    job = prepared(y, jpeg)
    assert consistency_of(job, job.run().image).cells is None


@pytest.mark.parametrize("name", ["eagles", "gates", "grapes"])
@pytest.mark.parametrize(("sigma", "quality", "sampling"), [(19, 75, 2), (5, 90, 0), (25, 50, 2)])
def test_white_noise_that_is_told_is_removed_with_the_compression(name: str, sigma: float, quality: int, sampling: int):
    """The reference knows nothing of the file, and returns the posterior mean."""
    clean, (y, jpeg) = photograph(name) / 255, saved(photograph(name), sigma, quality, sampling)
    job = prepared(y, jpeg, sigma=float(sigma))
    assert job.noise == Noise("white", float(sigma), estimated=False)
    assert removes_both(job) and job.jpeg is jpeg
    alone = prepare_denoise(y, float(sigma), detail=0.0, prior=job.prior).run().image
    assert psnr(job.run().image, clean) > psnr(alone, clean) + 0.1


def test_noise_that_is_told_leaves_what_hardly_was_compressed():
    y, jpeg = saved(photograph("gates"), 0, 100, 0)
    job = prepared(y, jpeg, sigma=15.0)
    assert job.noise == Noise("white", 15.0, estimated=False)
    assert job.degradation is None
    assert prepared(*saved(photograph("gates"), 15, 60, 2), sigma=0.0).is_copy


def test_white_noise_that_is_looked_for_is_removed_with_the_compression():
    y, jpeg = saved(photograph("gates"), 15, 75, 2)
    job = prepared(y, jpeg, noise="white")
    assert job.noise is not None and job.noise.kind == "white"
    assert removes_both(job)
    assert job.noise.sigma == pytest.approx(15, rel=0.15)
    compressed = prepared(*saved(photograph("gates"), 0, 75, 2), noise="white")
    assert compressed.noise is not None and compressed.noise.kind == "none"
    assert isinstance(compressed.degradation, Quantization) and not removes_both(compressed)


@pytest.mark.parametrize("detail", [None, 0.0])
def test_auto_removes_it_as_denoise_does(detail: float | None):
    y, jpeg = saved(photograph("grapes"), 12, 75, 2)
    alone = prepared(y, jpeg, detail=detail)
    job = prepare_auto(y, jpeg=jpeg, detail=detail, prior=alone.prior).measured()
    assert job.repairs is not None and job.noise is not None
    assert (job.noise, job.jpeg) == (alone.noise, jpeg)
    repair = job.repairs[0]
    assert repair.action == "denoise"
    assert repair.found == f"{job.noise.describe()}, compressed as JPEG of quality 75, 4:2:0"
    assert job.evaluations == alone.evaluations
    assert torch.equal(job.run().image, alone.run().image)


@pytest.mark.parametrize(("is_white", "quality"), [(False, 75), (False, 90), (True, 75), (True, 90)])
def test_the_last_level_is_lower_where_a_picture_is_full_of_texture(
    is_white: bool, quality: int, monkeypatch: pytest.MonkeyPatch
):
    y, jpeg = saved(photograph("gates"), 15, quality, 2)
    told, last = denoise.white_noise_before, []
    for busyness in (0.5, 1.0, 16.0, 1000.0):

        def found(*given, busyness=busyness):
            return replace(told(*given), busyness=busyness, is_white=is_white)

        monkeypatch.setattr(denoise, "white_noise_before", found)
        plan = prepared(y, jpeg, sigma=15.0).plan
        assert plan is not None
        last.append(plan.sigmas[-2])
    expected = [1, 1, 0.9, 0.9] if is_white and quality == 90 else [1, 1, 8 ** (-1 / 3), 0.52]
    assert [level / last[0] for level in last] == pytest.approx(expected, abs=0.03)


def test_coarse_colour_is_removed_from_a_compressed_picture(monkeypatch: pytest.MonkeyPatch):
    """Colour that was trusted as in a file without noise kept the coarse noise of cameras."""
    clean, told = photograph("eagles"), denoise.white_noise_before
    coarse = torch.nn.functional.interpolate(
        12 * torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(3)), scale_factor=4, mode="bilinear"
    )[0]
    y, jpeg = saved(clean + coarse - coarse.mean(0), 10, 75, 0)
    monkeypatch.setattr(denoise, "white_noise_before", lambda *given: replace(told(*given), is_white=False))
    trusted = psnr(prepared(y, jpeg, sigma=12.0, detail=0.0).run().image, clean / 255)
    monkeypatch.setattr(noisy_jpeg, "NOISY_JPEG", replace(NOISY_JPEG, shares=JPEG.shares))
    assert trusted > psnr(prepared(y, jpeg, sigma=12.0, detail=0.0).run().image, clean / 255) + 0.1


def test_gray_noise_is_told_as_strong_as_it_is():
    gray = photograph("gates").mean(0, keepdim=True).expand(3, -1, -1)
    noise = torch.randn(1, *gray.shape[1:], generator=torch.Generator().manual_seed(5))
    job = prepared(*saved(gray + 15 * noise, 0, 85, 2))
    assert job.noise is not None
    assert job.noise.sigma == pytest.approx(15, rel=0.1)
