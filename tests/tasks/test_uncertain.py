"""The uncertainty of results: against a Gaussian prior, whose posterior is known, and against what tasks promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from restorer.diffusion.degradations.kernels import gaussian_kernel, motion_kernel
from restorer.diffusion.plan import Plan
from restorer.diffusion.reverse import Step
from restorer.diffusion.uncertainty import local_mean
from restorer.images.sizes import Region
from restorer.tasks.batching import batch_share
from restorer.tasks.deblur import _radius, prepare_deblur
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import mean_depth, prepare_inpaint
from restorer.tasks.job import Job, Restored
from restorer.tasks.uncertain import (
    Asked,
    Doubt,
    Spread,
    draw_samples,
    drawn_by_data,
    spread_by_derivative,
    spread_by_samples,
)
from restorer.tasks.upscale import prepare_upscale
from tests.gaussian import GaussianPrior

PRIOR = GaussianPrior(mu=0.0, v=0.02)
SIGMA = 20.0


def deviation(restored: Restored) -> Tensor:
    """Return the standard deviations of a result in levels."""
    assert restored.spread is not None
    return restored.spread.deviation


def certain(job: Job) -> Job:
    """Return the job with its uncertainty."""
    return replace(job, asked=Asked(spread=True))


def posterior_deviation(sigma: float) -> float:
    """Return the standard deviation of the posterior of PRIOR in levels, for noise of sigma levels."""
    variance = (2 * sigma / 255) ** 2
    return 127.5 * math.sqrt(PRIOR.v * variance / (PRIOR.v + variance))


@pytest.fixture
def picture() -> Tensor:
    """Return a draw from PRIOR with noise of SIGMA, (3, 40, 56) in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    clean = math.sqrt(PRIOR.v) * torch.randn(3, 40, 56, generator=generator)
    return (clean + 1) / 2 + SIGMA / 255 * torch.randn(3, 40, 56, generator=generator)


def test_the_mean_of_noisy_pixels_has_the_deviation_of_their_posterior(picture: Tensor) -> None:
    found = deviation(certain(prepare_denoise(picture, SIGMA, detail=0.0, prior=PRIOR)).run())
    assert found.shape == (40, 56)
    torch.testing.assert_close(found, torch.full_like(found, posterior_deviation(SIGMA)), rtol=1e-3, atol=0)


def test_a_gray_picture_has_the_deviation_of_the_mean_of_its_channels(picture: Tensor) -> None:
    """Gray is the mean of three independent channels that are seen through noise sqrt(3) times as strong."""
    found = deviation(certain(prepare_denoise(picture[:1], SIGMA, detail=0.0, prior=PRIOR)).run())
    expected = posterior_deviation(math.sqrt(3) * SIGMA) / math.sqrt(3)
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-3, atol=0)


def test_what_the_detail_adds_is_uncertain_too(picture: Tensor) -> None:
    """The expected squared error is the posterior variance and the squared distance from the mean."""
    faithful = prepare_denoise(picture, SIGMA, detail=0.0, prior=PRIOR).run().image
    restored = certain(prepare_denoise(picture, SIGMA, detail=1.0, prior=PRIOR)).run()
    added = (255 * (restored.image - faithful)).square().mean()
    assert added > 4
    found = deviation(restored).square().mean()
    torch.testing.assert_close(found, posterior_deviation(SIGMA) ** 2 + added, rtol=0.01, atol=0)


def test_the_hint_of_white_noise_does_not_depend_on_the_detail(picture: Tensor) -> None:
    """It is the distance from the mean to the last state, of which the result goes a part."""
    last, half, none = (
        certain(prepare_denoise(picture, SIGMA, detail=detail, prior=PRIOR)).run().spread for detail in (1.0, 0.5, 0.0)
    )
    assert last is not None and half is not None and none is not None
    assert last.hint is not None and half.hint is not None
    torch.testing.assert_close(last.hint, half.hint, rtol=1e-3, atol=1e-3)
    faithful = prepare_denoise(picture, SIGMA, detail=0.0, prior=PRIOR).run().image
    moved = 255 * (prepare_denoise(picture, SIGMA, detail=1.0, prior=PRIOR).run().image - faithful)
    torch.testing.assert_close(last.hint, local_mean(moved.square().mean(0)).sqrt(), rtol=1e-3, atol=1e-3)
    assert none.hint is None  # there is only the mean


def test_the_hint_of_other_noise_is_what_the_data_change_in_the_first_prediction() -> None:
    """A correction that moves every value by 3 levels has the hint 3 everywhere; in gray, the mean counts."""
    x0 = torch.zeros(1, 3, 12, 16)
    moved = x0 + 3 / 127.5 * torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1)
    step = Step(1, 1, 0.2, x0, moved, x0)
    drawn = drawn_by_data(Doubt("test", 1.0), step)
    torch.testing.assert_close(drawn, torch.full((12, 16), 9.0))
    gray = drawn_by_data(Doubt("test", 1.0, is_gray=True), step)
    torch.testing.assert_close(gray, torch.ones(12, 16))
    plan = Plan((0.2, 0.0), zeta=(0.0,))
    doubt = Doubt("test", 1.0, at=1.0, cut=lambda x: x[..., 2:10, 3:9])
    found = spread_by_derivative(doubt, PRIOR, plan, step, None, drawn)
    assert found.hint is not None
    torch.testing.assert_close(found.hint, torch.full((8, 6), 3.0))
    assert spread_by_derivative(doubt, PRIOR, plan, step, None, torch.zeros(12, 16)).hint is None


def test_the_interval_holds_the_truth(picture: Tensor) -> None:
    """Over a draw from the prior, the mean squared error is the squared deviation."""
    generator = torch.Generator().manual_seed(1)
    clean = (math.sqrt(PRIOR.v) * torch.randn(3, 40, 56, generator=generator) + 1) / 2
    restored = certain(prepare_denoise(picture, SIGMA, detail=0.0, prior=PRIOR)).run()
    error = (255 * (restored.image - clean)).square().mean()
    torch.testing.assert_close(error, deviation(restored).square().mean(), rtol=0.05, atol=0)


def fill_right(image: Tensor, **options: object) -> Job:
    """Return the job that fills a box."""
    fill = torch.zeros(image.shape[-2:], dtype=torch.bool)
    fill[10:30, 20:26] = True
    return prepare_inpaint(image, fill, detail=1.0, prior=PRIOR, **options)  # type: ignore[arg-type]


TASKS: dict[str, Callable[..., Job]] = {
    "denoise": partial(prepare_denoise, sigma=SIGMA, detail=1.0, prior=PRIOR),
    "deblur": partial(prepare_deblur, kernel=gaussian_kernel(1.0), sigma=2.0, prior=PRIOR),
    "inpaint": fill_right,
    "upscale": partial(prepare_upscale, scale=2, detail=1.0, prior=PRIOR),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_uncertainty_does_not_change_the_result(task: str, picture: Tensor) -> None:
    image = picture.clamp(0, 1)
    job = TASKS[task](image)
    plain, restored = job.run(), certain(job).run()
    assert plain.spread is None
    assert torch.equal(plain.image, restored.image)
    found = deviation(restored)
    assert found.shape == restored.image.shape[-2:]
    assert bool(found.isfinite().all())
    assert torch.equal(found, deviation(certain(job).run()))


@pytest.mark.parametrize("task", ["denoise", "deblur"])
def test_the_map_of_a_region_is_its_part_of_the_map(task: str, picture: Tensor) -> None:
    image = picture.clamp(0, 1).repeat(1, 8, 8)
    whole = deviation(certain(TASKS[task](image)).run())
    part = certain(TASKS[task](image, region=Region(128, 96, 40, 30))).run()
    found, expected = deviation(part), whole[96:126, 128:168]
    torch.testing.assert_close(found[4:-4, 4:-4], expected[4:-4, 4:-4], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)  # what the detail adds is not known outside


def test_known_pixels_are_certain_and_holes_have_their_own_deviation(picture: Tensor) -> None:
    """A Gaussian prior without correlation knows nothing of a hole: its posterior there is the prior itself."""
    restored = certain(fill_right(picture.clamp(0, 1))).run()
    found = deviation(restored)
    hole = torch.zeros(40, 56, dtype=torch.bool)
    hole[10:30, 20:26] = True
    assert bool((found[~hole] == 0).all())
    assert bool((found[hole] > 0).all())


def test_samples_have_the_seeds_that_follow(picture: Tensor) -> None:
    image = picture.clamp(0, 1)
    restored = replace(fill_right(image, seed=5), asked=Asked(samples=3)).run()
    assert restored.spread is None
    assert len(restored.samples) == 2
    for seed, sample in zip((5, 6, 7), (restored.image, *restored.samples), strict=True):
        assert torch.equal(sample, fill_right(image, seed=seed).run().image)


def test_samples_of_a_gray_picture_have_the_seeds_that_follow(picture: Tensor) -> None:
    """The colour noise of a gray picture depends on the seed as well."""
    prepare = partial(prepare_denoise, picture[:1], SIGMA, detail=1.0, method="ddpm", prior=PRIOR)
    restored = replace(prepare(seed=1), asked=Asked(spread=True, samples=2)).run()
    assert torch.equal(restored.samples[0], prepare(seed=2).run().image)
    assert deviation(restored).shape == (40, 56)


def test_steps_are_counted_over_all_samples(picture: Tensor) -> None:
    seen: list[tuple[int, int]] = []
    job = replace(fill_right(picture.clamp(0, 1)), asked=Asked(samples=3))
    job.run(lambda step: seen.append((step.index, step.total)))
    count = job.evaluations
    assert seen == [(i, 3 * count) for i in range(1, 3 * count + 1)]


def test_a_job_with_uncertainty_runs_alone_and_counts_its_memory(picture: Tensor) -> None:
    job = TASKS["denoise"](picture)
    assert batch_share(job) < 1
    assert batch_share(certain(job)) == 1
    assert certain(job).required_bytes() > job.required_bytes()


def test_the_variance_of_samples_is_unbiased() -> None:
    samples = [torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    known = torch.zeros(9, 9, dtype=torch.bool)
    known[:, :8] = True  # one column is unknown, so that its mean runs along it
    found = spread_by_samples(Doubt("test", 1.0, known=known), iter(samples)).deviation
    expected = (255 * torch.stack(samples)).var(0).mean(0)[:, 8]
    torch.testing.assert_close(found[4, 8], expected.mean().sqrt())
    assert bool((found[:, :8] == 0).all())


def test_samples_are_kept_only_if_they_are_wanted() -> None:
    drawn: list[int] = []

    def draw(number: int) -> Tensor:
        drawn.append(number)
        return torch.full((1, 2, 2), 0.1 * number)

    kept, spread = draw_samples(Asked(spread=True, samples=2), Doubt("test", 1.0), torch.zeros(1, 2, 2), draw)
    assert drawn == [1, 2, 3]
    assert len(kept) == 1
    assert isinstance(spread, Spread)


def test_the_depth_of_a_hole_is_the_mean_distance_from_its_rim() -> None:
    hole = torch.zeros(20, 20, dtype=torch.bool)
    hole[5:10, 5:10] = True  # 16 pixels at distance 1, 8 at 2, and 1 at 3
    assert mean_depth(hole) == pytest.approx((16 + 16 + 3) / 25)
    assert mean_depth(torch.zeros(4, 4, dtype=torch.bool)) == 1


def test_the_hint_of_a_wide_hole_is_the_depth(picture: Tensor) -> None:
    image = picture.clamp(0, 1).repeat(1, 2, 2)
    hole = torch.zeros(80, 112, dtype=torch.bool)
    hole[10:50, 20:60] = True
    restored = certain(prepare_inpaint(image, hole, steps=2, prior=PRIOR)).run()
    assert restored.spread is not None and restored.spread.hint is not None
    y, x = torch.meshgrid(torch.arange(80), torch.arange(112), indexing="ij")
    expected = torch.stack([y - 9, 50 - y, x - 19, 60 - x]).amin(0).clamp(min=0)
    torch.testing.assert_close(restored.spread.hint, expected.float())


def test_the_radius_of_a_kernel_is_its_deviation_along_an_axis() -> None:
    assert _radius(gaussian_kernel(1.6)) == pytest.approx(1.6, rel=0.02)
    # A line of 12 pixels has the variance 12^2 / 12 along itself and none across.
    assert _radius(motion_kernel(12, 0)) == pytest.approx(math.sqrt(144 / 12 / 2), rel=0.05)
