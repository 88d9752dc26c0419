"""The course of an enlargement with the network of the first answer, and what is found out about small pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from stubs import Smooth

from restorer import load_prior, upscale
from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.images.resampling import resample
from restorer.images.sizes import Enlargement, Region
from restorer.measurement.blur import Blur
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.priors.experts import Experts, first_level
from restorer.tasks import soft as soft_pictures
from restorer.tasks.defaults import DEBLUR, DENOISE, EXPERT, UPSCALE
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.enlarge import FIRST_DETAIL
from restorer.tasks.enlarging_plan import course_of
from restorer.tasks.soft import LEFT_OF_BLUR, blur_of_softness, undo_blur
from restorer.tasks.upscale import LEAST_NOISE, prepare_upscale

PHOTOGRAPH = Path(__file__).parents[1] / "images" / "gates.jpg"


@pytest.fixture(scope="module")
def photo():
    return load_prior("photo", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def truth() -> Image.Image:
    return Image.open(PHOTOGRAPH).convert("RGB").crop((100, 60, 292, 252))


@pytest.fixture(scope="module")
def small(truth) -> Image.Image:
    return truth.resize((48, 48), Image.Resampling.BICUBIC)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def with_noise(image: Image.Image, sigma: float) -> Image.Image:
    noisy = np.asarray(image) + sigma * np.random.default_rng(0).standard_normal((*image.size[::-1], 3))
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def shrink(result: torch.Tensor) -> torch.Tensor:
    return Bicubic(4).measure(result[None])[0]


def texture(x: torch.Tensor) -> float:
    """Return the energy of a picture in its finest octave."""
    spectrum = torch.fft.rfft2(x.mean(0)).abs().square()
    down, across = torch.fft.fftfreq(x.shape[-2]).abs(), torch.fft.rfftfreq(x.shape[-1])
    return float(spectrum[(down > 0.15)[:, None] | (across > 0.15)].sum())


@pytest.mark.parametrize(
    ("detail", "evaluations", "share"), [(None, 1, 0.0), (0.5, 1, 0.0), (0.25, 13, 0.5), (0.1, 13, 0.2), (1.0, 5, 0.0)]
)
def test_courses_begin_with_the_first_network(photo, detail, evaluations, share) -> None:
    course = course_of(photo, 4, None, detail, "auto", 7, state="clean")
    assert isinstance(course.prior, Experts) and course.is_expert
    assert course.plan.evaluations == evaluations and course.plan.sigmas[0] == first_level(4, "clean")
    assert course.share == pytest.approx(share)
    assert not course.plan.fresh_start and course.plan.seed == 7
    assert all(level < 0.5 for level in course.plan.sigmas[1:])


def test_steps_are_those_that_were_asked_for(photo) -> None:
    for steps in (1, 2, 5, 20):
        for detail in (0.2, 0.5, 0.7, 1.0):
            for state in ("clean", "damaged"):
                assert course_of(photo, 2, steps, detail, "auto", 0, state=state).plan.evaluations == steps


def test_the_answer_to_a_damaged_picture_is_the_networks(photo) -> None:
    course = course_of(photo, 4, None, None, "auto", 0, state="damaged")
    assert course.plan.sigmas == (first_level(4, "damaged"), 0.0) and course.plan.prior_variance == EXPERT.variance
    again = course_of(photo, 4, 2, None, "auto", 0, state="damaged")
    assert again.plan.sigmas == (first_level(4, "damaged"), EXPERT.calming, 0.0) and again.plan.kappa == 1


def test_without_the_network_the_prior_is_asked_alone(photo) -> None:
    for prior, factor, detail, method in (
        (Smooth(), 4, None, "auto"), (photo, 4, 0.0, "auto"), (photo, 8, None, "auto"), (photo, 4, None, "ddnm"),
    ):  # fmt: skip
        course = course_of(prior, factor, None, detail, method, 0, state="clean")
        assert not course.is_expert and course.prior is prior and course.share == 0
        assert course.plan.evaluations == UPSCALE[factor].steps


@pytest.mark.parametrize(
    ("steps", "detail", "evaluations"), [(None, None, 2), (None, 1.0, 10), (7, 0.8, 7), (2, None, 2), (1, None, 1)]
)
def test_a_large_factor_is_two_enlargements(photo, small, steps, detail, evaluations) -> None:
    y = tensor(small)[:, :16, :20]
    counted = []
    job = prepare_upscale(y, 8, sigma=0.0, steps=steps, detail=detail, prior=photo)
    assert job.evaluations == evaluations
    result = job.run(counted.append).image
    assert result.shape == (3, 128, 160)
    assert [(step.index, step.total) for step in counted] == [(i + 1, evaluations) for i in range(evaluations)]
    eight_bits = (result * 255).round() / 255
    again = Bicubic(8).measure(eight_bits[None])[0]
    assert 255 * float((again - y).square().mean().sqrt()) < 1


def test_the_faithful_picture_of_a_large_factor_is_that_of_the_prior_alone(photo, small) -> None:
    y = tensor(small)[:, :16, :16]
    job = prepare_upscale(y, 8, sigma=0.0, detail=0.0, prior=photo)
    assert job.second_pass is None and job.plan.evaluations == UPSCALE[8].steps
    assert texture(job.run().image) < texture(prepare_upscale(y, 8, sigma=0.0, prior=photo).run().image)


def test_any_size_follows_from_two_enlargements(photo, small) -> None:
    y = tensor(small)[:, :15, :20]
    for size in (Enlargement(5.5), Enlargement(width=97), Enlargement(height=81)):
        wide, high = size.size(20, 15)
        assert prepare_upscale(y, size, sigma=0.0, prior=photo).run().image.shape == (3, high, wide)


def test_a_region_of_two_enlargements_is_that_of_the_whole(photo, small) -> None:
    y = tensor(small)
    whole = prepare_upscale(y, 8, sigma=0.0, prior=photo).run().image
    part = prepare_upscale(y, 8, sigma=0.0, region=Region(16, 20, 8, 12), prior=photo).run().image
    assert part.shape == (3, 96, 64)
    assert 255 * float((part - whole[:, 160:256, 128:192]).abs().max()) < 2


def test_samples_of_two_enlargements_differ(photo, small) -> None:
    job = prepare_upscale(tensor(small)[:, :16, :16], 8, sigma=0.0, prior=photo)
    one, two = (job.with_seed(seed).run().image for seed in (1, 2))
    assert one.shape == two.shape == (3, 128, 128) and float((one - two).abs().max()) > 0.01


def test_more_detail_has_more_texture_and_each_result_gives_the_input_back(photo, small) -> None:
    y = tensor(small)
    results = [upscale(y, 4, detail=detail, prior=photo, jpeg="off") for detail in (0.0, 0.25, 0.5, 0.75, 1.0)]
    energies = [texture(x) for x in results]
    assert energies[0] < energies[1] < energies[2]
    assert energies[2] < energies[3] < energies[4]
    for result in results:
        eight_bits = (result * 255).round() / 255
        assert 255 * float((shrink(eight_bits) - y).square().mean().sqrt()) < 1


def test_the_first_answer_is_crisper_than_the_faithful_picture_and_near_to_it(photo, small, truth) -> None:
    x = tensor(truth)
    faithful, sharp = (upscale(tensor(small), 4, detail=d, prior=photo, jpeg="off") for d in (0.0, None))
    assert texture(faithful) < texture(sharp)
    error = [float((r - x).square().mean()) for r in (faithful, sharp)]
    assert error[1] < 1.6 * error[0]


@pytest.mark.parametrize(("sigma", "share"), [(8, 0.85), (15, 0.7)])
def test_noise_is_measured_and_removed_before(photo, small, truth, sigma, share) -> None:
    noisy = tensor(with_noise(small, sigma))
    job = prepare_upscale(noisy, 4, sigma=None, prior=photo)
    assert job.estimated and job.sigma == pytest.approx(sigma, rel=0.25)
    assert job.evaluations == DENOISE.steps + 1 and job.noise is None and job.redo is None
    removed = prepare_denoise(noisy, job.sigma, outliers="off", detail=FIRST_DETAIL, prior=photo).run().image
    torch.testing.assert_close(replace(job, second_pass=None).run().image, removed)
    second = job.second_pass(removed, job.prior)
    assert second.plan.sigmas[0] == first_level(4, "repaired") and 0 < second.sigma < job.sigma
    results = [upscale(noisy, 4, sigma=s, prior=photo, jpeg="off") for s in (None, 0)]
    error = [float((r - tensor(truth)).square().mean()) for r in results]
    assert error[0] < share * error[1]


def test_detail_is_not_taken_for_noise(photo, small) -> None:
    job = prepare_upscale(tensor(small), 4, sigma=None, prior=photo)
    assert job.sigma == 0 and job.plan.sigmas[0] == first_level(4, "clean") and not job.notes
    assert prepare_upscale(tensor(with_noise(small, 1)), 4, sigma=None, prior=photo).sigma < LEAST_NOISE


@pytest.mark.parametrize(("sigma", "is_found"), [(8, False), (15, True)])
def test_what_the_channels_share_is_noise_only_where_it_is_strong(photo, small, sigma, is_found) -> None:
    shared = sigma * np.random.default_rng(2).standard_normal((*small.size[::-1], 1))
    pixels = np.clip(np.rint(np.asarray(small) + shared), 0, 255).astype(np.uint8)
    job = prepare_upscale(tensor(Image.fromarray(pixels)), 4, sigma=None, prior=photo)
    assert (job.sigma > 0) is is_found


def test_a_given_noise_is_taken_as_it_is(photo, small) -> None:
    job = prepare_upscale(tensor(small), 4, sigma=7.0, prior=photo)
    assert job.sigma == 7.0 and not job.estimated and job.second_pass is not None
    assert prepare_upscale(tensor(with_noise(small, 15)), 4, sigma=0.0, prior=photo).sigma == 0


@pytest.mark.parametrize("options", [{"detail": 0.0}, {"method": "ddnm"}])
def test_the_prior_alone_takes_noise_as_it_is(photo, small, options) -> None:
    job = prepare_upscale(tensor(with_noise(small, 15)), 4, sigma=15.0, prior=photo, **options)
    assert job.second_pass is None and job.noise_variance == pytest.approx((30 / 255) ** 2)


@pytest.mark.parametrize("is_gray", [False, True])
def test_noise_is_removed_from_what_a_region_needs(photo, small, is_gray) -> None:
    noisy = tensor(with_noise(small, 15))
    noisy = noisy[:1] if is_gray else noisy
    whole, part = (prepare_upscale(noisy, 4, sigma=15.0, region=r, prior=photo) for r in (None, Region(8, 16, 20, 12)))
    x, y = whole.run().image, part.run().image
    assert y.shape == (len(noisy), 48, 80)
    assert 255 * float((x[:, 64:112, 32:112] - y).square().mean().sqrt()) < 2


def test_a_soft_picture_is_sharpened_and_this_is_said(photo, small, truth) -> None:
    soft = tensor(small.filter(ImageFilter.GaussianBlur(1.2)))
    job = prepare_upscale(soft, 4, sigma=None, prior=photo)
    assert any("softer" in note for note in job.notes) and job.sigma == 0 and job.estimated
    assert job.evaluations == DEBLUR.steps + 1 and job.noise is None and job.blur is None
    second = job.second_pass(soft, job.prior)
    assert second.plan.sigmas[0] == first_level(4, "repaired") and second.sigma == LEFT_OF_BLUR
    sharp, faithful = (upscale(soft, 4, detail=d, prior=photo, jpeg="off") for d in (None, 0))
    assert texture(sharp) > 2 * texture(faithful)
    assert float((shrink(faithful) - soft).abs().mean()) < 1 / 255


def test_the_blur_of_a_soft_picture_is_undone_before(photo, truth) -> None:
    small = truth.resize((truth.width // 2, truth.height // 2), Image.Resampling.BICUBIC)
    soft = tensor(small.filter(ImageFilter.GaussianBlur(1)))
    kernel = blur_of_softness(soft, photo)
    assert kernel is not None and 0.8 < _width(kernel) < 1.3
    sharp = undo_blur(soft, kernel, 0, photo, None).measured().run().image
    assert float((sharp - tensor(small)).square().mean()) < 0.6 * float((soft - tensor(small)).square().mean())
    assert blur_of_softness(tensor(small), photo) is None


def test_a_blur_that_is_sure_is_undone_as_it_is(monkeypatch, small) -> None:
    soft = tensor(small.filter(ImageFilter.GaussianBlur(1.2)))
    prior, found = Smooth(), []
    monkeypatch.setattr(soft_pictures, "find_blur", lambda *_: found[-1])
    for blur in (Blur("gaussian", 1.0, probability=0.9), None):
        found.append(blur)
        assert 1 < _width(blur_of_softness(soft, prior)) < 1.6
    found.append(Blur("defocus", 2.0, probability=0.99))
    torch.testing.assert_close(blur_of_softness(soft, prior), found[-1].kernel())
    found.append(Blur("other", 0.0, probability=0.99))
    assert blur_of_softness(soft, prior) is None
    job = prepare_upscale(soft, 4, sigma=None, prior=load_prior(precision="fp32"))
    assert job.second_pass is None and job.plan.sigmas[0] == first_level(4, "soft")


def _width(kernel: torch.Tensor) -> float:
    """Return the standard deviation of a kernel along its rows, in pixels."""
    weights, places = kernel.sum(0) / kernel.sum(), torch.arange(kernel.shape[1], dtype=kernel.dtype)
    mean = (weights * places).sum()
    return float((weights * (places - mean).square()).sum().sqrt())


@pytest.mark.parametrize("options", [{"detail": 0.0}, {"detail": 0.25}, {"method": "ddnm"}])
def test_softness_stays_where_the_result_is_to_be_faithful(photo, small, options) -> None:
    soft = tensor(small.filter(ImageFilter.GaussianBlur(1.2)))
    assert prepare_upscale(soft, 4, sigma=None, prior=photo, **options).second_pass is None


def test_a_jpeg_is_restored_and_then_enlarged_as_a_damaged_picture(photo, small, tmp_path) -> None:
    path = tmp_path / "small.jpg"
    small.save(path, quality=40)
    pixels = tensor(Image.open(path).convert("RGB"))
    jpeg = find_jpeg(pixels, path.read_bytes())
    job = prepare_upscale(pixels, 4, sigma=None, jpeg=jpeg, prior=photo)
    assert job.jpeg is jpeg and job.sigma == 0 and job.second_pass_evaluations == 1
    second = job.second_pass(pixels, job.prior)
    assert second.plan.sigmas[0] == first_level(4, "repaired") and second.plan.prior_variance == EXPERT.variance


@pytest.mark.parametrize("of", [(20, 31), (33, 16)])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_interpolation_is_that_of_pillow(of, factor) -> None:
    x = torch.rand(3, *of, generator=torch.Generator().manual_seed(0))
    mine = x
    for axis in (-2, -1):
        length = factor * x.shape[axis]
        mine = resample(mine, axis, length, x.shape[axis], first=0, count=length)
    size = (factor * of[1], factor * of[0])
    theirs = [np.asarray(Image.fromarray(plane.numpy()).resize(size, Image.Resampling.BICUBIC)) for plane in x]
    np.testing.assert_allclose(mine.numpy(), np.stack(theirs), atol=2e-6)
