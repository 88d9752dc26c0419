"""Denoising of noise that is not white, from the measurement to the result."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.api import denoise
from restorer.diffusion.degradations.coloured_noise import ColouredNoise
from restorer.errors import UsageError
from restorer.evaluation.metrics import high_energy, psnr
from restorer.models.load import load_prior
from restorer.tasks import camera_plan as camera_plan_module
from restorer.tasks.camera_plan import camera_plan, probed_at
from restorer.tasks.defaults import CAMERA
from restorer.tasks.denoise import NOTHING_FOUND, prepare_denoise
from restorer.training.simulated_camera import Camera, photograph
from restorer.training.simulated_noise import Pair, simulate

IMAGES = Path(__file__).resolve().parents[1] / "images"


@cache
def photo(name: str) -> Tensor:
    """Return a photograph of 256x256 pixels, (3, H, W) on the 0..255 scale."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        return torch.from_numpy(np.array(image.crop((112, 52, 368, 308)))).permute(2, 0, 1).float()


@cache
def pair(name: str = "gates") -> Pair:
    """Return a photograph with and without the noise of a camera."""
    camera = Camera(gain=0.006, chroma=1.0, quality=95)
    return Pair(photograph(photo(name), camera, 1) / 255, photograph(photo(name), camera, None) / 255)


def gain(noisy: Tensor, clean: Tensor, **options: object) -> float:
    """Return by how many dB a restoration is nearer to the clean picture than its input."""
    restored = denoise(noisy, prior=load_prior(precision="fp32"), **options)
    return psnr(restored, clean) - psnr(noisy, clean)


@pytest.mark.parametrize("name", ["eagles", "gates", "grapes"])
def test_camera_noise_is_removed(name: str):
    assert gain(pair(name).noisy, pair(name).clean) > 3


def test_it_is_not_removed_as_white_noise():
    """The old estimate sees hardly any of it."""
    assert gain(pair().noisy, pair().clean, noise="white") < 1


@pytest.mark.parametrize("kind", ["phone", "shared", "resized", "scanner"])
def test_other_noise_is_removed_too(kind):
    made = simulate(photo("gates"), kind, random.Random(2))
    assert gain(made.noisy / 255, made.clean / 255) > 2.5


def test_a_gray_picture_stays_gray():
    gray = pair().noisy.mean(0, keepdim=True)
    assert gain(gray, pair().clean.mean(0, keepdim=True)) > 2
    equal = denoise(gray.expand(3, -1, -1), prior=load_prior(precision="fp32"))
    assert torch.equal(equal, equal[:1].expand(3, -1, -1))


def test_what_is_found_is_told_and_decides_the_job():
    job = prepare_denoise(pair().noisy)
    assert job.plan is None, "nothing is computed before the job is measured"
    assert job.measure is not None
    job = job.measured()
    assert job.noise is not None
    assert job.noise.kind == "camera"
    assert job.estimated
    sigma = float((pair().noisy - pair().clean).square().mean().sqrt()) * 255
    assert job.sigma == pytest.approx(sigma, rel=0.25)
    assert isinstance(job.degradation, ColouredNoise)
    assert job.evaluations == 4
    assert torch.equal(job.run().image, prepare_denoise(pair().noisy).run().image), "run measures by itself"


def test_the_strength_scales_what_is_removed():
    weak, normal, strong = (prepare_denoise(pair().noisy, strength=strength).measured() for strength in (0.5, 1.0, 1.5))
    assert weak.sigma == pytest.approx(0.5 * normal.sigma)
    assert strong.sigma == pytest.approx(1.5 * normal.sigma)
    change = [float((job.run().image - pair().noisy).square().mean()) for job in (weak, normal, strong)]
    assert change == sorted(change)


def test_detail_keeps_texture():
    texture = [denoise(pair().noisy, detail=d).diff(dim=-1).square().mean().item() for d in (0.0, 0.5, 1.0)]
    assert texture == sorted(texture)


def test_texture_comes_back_in_textured_places_alone():
    """The left half is smooth, and stays so, whatever the detail."""
    scene = photo("gates").clone()
    scene[:, :, :128] = torch.linspace(60, 160, 128)
    camera = Camera(gain=0.006, quality=0)
    noisy, clean = (photograph(scene, camera, seed) / 255 for seed in (1, None))
    results = [denoise(noisy, noise="camera", detail=d, prior=load_prior(precision="fp32")) for d in (0.0, 0.7)]

    def grain(picture: Tensor) -> float:
        """Return the standard deviation in levels of what differs between neighbours in the smooth half."""
        return float(255 * (picture - clean)[:, 16:-16, 16:88].diff(dim=-1).std())

    assert max(map(grain, results)) < 0.08 * grain(noisy)
    energies = [high_energy(picture[..., 136:]) for picture in (*results, clean)]
    assert energies[0] < energies[1] < 1.1 * energies[2]
    assert energies[1] > 1.1 * energies[0]


def test_the_plan_of_a_detail():
    plan, detail = camera_plan(10.0, None, 0.5, "auto", 7, is_mirrored=True)
    s_y = 20 / 255
    assert plan.sigmas == pytest.approx((4 * s_y, 2 * s_y, s_y, s_y / 2, 0))
    assert plan.data_noise is not None
    assert (detail, plan.data_noise.deviation, plan.seed, plan.mirrored) == (0.5, s_y, 7, True)
    assert (plan.data_noise.smooth, plan.data_noise.textured) == pytest.approx((0.65, 1.025))
    assert [plan.data_noise_at(sigma) is not None for sigma in plan.sigmas] == [False, False, True, True, False]
    assert probed_at(plan) == pytest.approx(2 / 3), "the last level that is not below the noise"


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 40])
def test_any_number_of_steps_has_a_plan(steps: int):
    plan, detail = camera_plan(10.0, steps, None, "auto", 0, is_mirrored=False)
    assert plan.evaluations == steps
    assert 0 <= probed_at(plan) <= 1
    assert (detail == 0) == (steps == 1)


def test_the_default_detail_rises_with_the_noise():
    assert [CAMERA.detail_at(sigma) for sigma in (1.0, 8.0, 9.8, 12.0, 50.0)] == [0.2, 0.2, 0.45, 0.7, 0.7]


def test_the_most_faithful_result_takes_more_texture_back_the_stronger_the_noise_was():
    assert CAMERA.shares(0.0, 4.0) == (0.6, 0.6), "the same everywhere"
    textured = [CAMERA.shares(0.0, sigma)[1] for sigma in (5.0, math.sqrt(45.0), 9.0, 50.0)]
    assert textured == pytest.approx([0.6, 0.8, 1.0, 1.0]), "it rises with the logarithm of the noise"
    assert CAMERA.shares(0.0, 50.0)[0] == 0.6, "grain in smooth places does not come back"


@pytest.mark.parametrize("name", ["eagles", "gates", "grapes"])
def test_texture_that_is_taken_back_raises_the_psnr_of_the_most_faithful_result(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    """A photograph at half its size has more fine texture."""
    small = torch.nn.functional.avg_pool2d(photo(name)[None], 2)[0].round()
    noisy, clean = (photograph(small, Camera(gain=0.004), seed) / 255 for seed in (1, None))
    reached = gain(noisy, clean, detail=0)
    monkeypatch.setattr(camera_plan_module, "CAMERA", replace(CAMERA, faithful_share=CAMERA.carried))
    assert reached > gain(noisy, clean, detail=0) + 0.2


@pytest.mark.parametrize("sigma", [2.0, 6.0, 8.0, 30.0])
def test_more_detail_carries_more_noise_however_strong_it_is(sigma: float):
    shares = [CAMERA.shares(detail / 10, sigma) for detail in range(11)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx((0.7, 1.45))


def test_one_step_and_other_methods():
    for options in ({"steps": 1}, {"method": "ddpm", "steps": 8}, {"method": "ddim", "steps": 6}):
        assert gain(pair().noisy, pair().clean, **options) > 1.5, options


def test_noise_that_is_not_to_be_found_stays():
    assert torch.equal(denoise(pair().noisy, noise="off"), pair().noisy)


def test_white_noise_needs_no_measurement_by_the_prior():
    white = (photo("eagles") + 25 * torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(0))).clamp(0, 255)
    job = prepare_denoise(white.round() / 255)
    assert job.measure is None
    assert job.noise is not None
    assert job.noise.kind == "white"


def test_a_clean_photograph_is_copied_and_that_is_said():
    job = prepare_denoise(photo("grapes") / 255).measured()
    assert job.plan is None
    assert job.notes == (NOTHING_FOUND,)
    assert job.noise is not None
    assert job.noise.kind == "none"


def test_frames_keep_their_colour():
    framed = torch.full((3, 320, 320), 0.8)
    framed[:, 32:-32, 32:-32] = pair().noisy
    restored = denoise(framed, prior=load_prior(precision="fp32"))
    assert torch.equal(restored[:, :24], framed[:, :24])
    inside = restored[:, 32:-32, 32:-32]
    assert psnr(inside, pair().clean) > psnr(pair().noisy, pair().clean) + 2.5


@pytest.mark.parametrize(
    "options", [{"noise": "grain"}, {"strength": 0.0}, {"strength": 11.0}, {"sigma": 5.0, "noise": "camera"}]
)
def test_options_out_of_range_are_refused(options: dict):
    with pytest.raises(UsageError):
        prepare_denoise(pair().noisy, **options)
