"""Outliers are filled as holes in the loop, alone or with the noise beside them."""

from __future__ import annotations

import pytest
import torch
from outlier_pictures import hot_pixels, impulses, noisy, photograph, salt_and_pepper
from stubs import Smooth, Spy
from torch import Tensor

from restorer.api import denoise
from restorer.evaluation.metrics import psnr
from restorer.images.sizes import Region
from restorer.models.load import load_prior
from restorer.tasks.defaults import INPAINT, OUTLIERS
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.outliers import SPARSE, filled_smoothly

SIDE = 128


def clean() -> Tensor:
    """Return a photograph, (3, 128, 128) in [0, 1]."""
    return photograph("eagles", size=SIDE) / 255


def test_the_smooth_filling_reads_nothing_under_an_outlier():
    picture, holes = clean(), torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) < 0.2
    filled = filled_smoothly(picture, holes)
    assert torch.equal(filled, filled_smoothly(torch.where(holes, 7.0, picture), holes))
    assert torch.equal(filled[~holes], picture[~holes])
    assert psnr(filled, picture) > 30
    holes[1] = True
    assert torch.equal(filled_smoothly(picture, holes)[1], picture[1]), "nothing is known of this channel"


@pytest.mark.parametrize("share", [0.005, 0.1])
def test_only_outliers_change_where_there_is_no_noise(share: float):
    damaged, truth = salt_and_pepper(clean() * 255, share, each=True)
    spy = Spy(Smooth(v=0.04))
    job = prepare_denoise(damaged / 255, noise="off", prior=spy).measured()
    assert job.outliers is not None and not job.is_copy and job.noise is not None and job.noise.kind == "none"
    restored = job.run().image
    found = job.outliers.values
    assert torch.equal(restored[~found], (damaged / 255)[~found])
    assert len(spy.calls) == job.evaluations == (OUTLIERS.steps if share < SPARSE else INPAINT.steps)
    assert float((found & truth).sum()) > 0.7 * float(truth.sum())


def test_a_few_outliers_cost_no_evaluation_beside_noise():
    damaged, _ = hot_pixels(noisy(clean() * 255, 10), 0.004)
    with_them = prepare_denoise(damaged / 255, noise="white", prior=Smooth()).measured()
    without = prepare_denoise(damaged / 255, noise="white", outliers="off", prior=Smooth()).measured()
    assert with_them.outliers is not None and without.outliers is None
    assert with_them.evaluations == without.evaluations
    assert with_them.sigma == pytest.approx(10, rel=0.15)


def test_the_noise_beside_many_outliers_is_estimated_as_without_them():
    damaged, _ = salt_and_pepper(noisy(clean() * 255, 10), 0.1)
    spy = Spy(Smooth(v=0.04))
    job = prepare_denoise(damaged / 255, noise="white", prior=spy).measured()
    assert job.noise is not None and job.noise.kind == "white" and job.sigma == job.noise.sigma
    assert job.sigma == pytest.approx(10, rel=0.1)
    restored = job.run().image
    assert len(spy.calls) == job.evaluations == 4 and job.estimated
    assert restored.shape == (3, SIDE, SIDE)


@pytest.mark.parametrize("share", [0.005, 0.1])
@pytest.mark.parametrize("sigma", [0, 8])
def test_a_region_has_its_own_size(share: float, sigma: int):
    damaged, _ = salt_and_pepper(noisy(clean() * 255, sigma), share)
    job = prepare_denoise(damaged / 255, noise="white", region=Region(8, 16, 40, 24), prior=Smooth(v=0.04)).measured()
    assert job.outliers is not None
    assert job.run().image.shape == (3, 24, 40)


def test_gray_pictures_stay_gray():
    gray = (photograph("gates", 60, 60, SIDE).mean(0, keepdim=True)).round()
    damaged, _ = salt_and_pepper(gray, 0.05)
    restored = denoise(damaged.expand(3, -1, -1) / 255, noise="off", steps=2, prior=Smooth(v=0.04))
    assert bool((restored == restored[:1]).all())


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda x: salt_and_pepper(x, 0.05), 34),
        (lambda x: impulses(x, 0.03), 32),
        (lambda x: hot_pixels(x, 0.003), 40),
    ],
    ids=["salt and pepper", "impulses", "hot pixels"],
)
def test_the_embedded_prior_fills_them_well(make, least):
    damaged, _ = make(clean() * 255)
    restored = denoise(damaged / 255, noise="off", prior=load_prior(precision="fp32"))
    assert psnr(restored, clean()) > max(least, psnr(damaged / 255, clean()) + 4)


def test_nothing_is_looked_for_where_the_user_says_so():
    damaged, _ = salt_and_pepper(clean() * 255, 0.05)
    for options in ({"outliers": "off", "noise": "off"}, {"sigma": 0.0}):
        job = prepare_denoise(damaged / 255, prior=Smooth(), **options).measured()
        assert job.outliers is None and job.is_copy
