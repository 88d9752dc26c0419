"""A trial agrees with dense linear algebra, lets the true kernel of a photograph pass, and refutes others."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gaussian import GaussianPrior
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur as Operator
from restorer.diffusion.degradations.kernels import as_kernel, defocus_kernel, gaussian_kernel, motion_kernel
from restorer.measurement.blur import REFUTED
from restorer.measurement.blur_trial import CAUTION, EVALUATIONS, FIRST, TRUST, Trial, trial_of
from restorer.models.load import load_prior

IMAGES = Path(__file__).parents[1] / "images"
TRUE = {"gaussian": gaussian_kernel(1.8), "defocus": defocus_kernel(4), "motion": motion_kernel(13, 30)}
WRONG = {
    "gaussian": [defocus_kernel(6), motion_kernel(15, 70)],
    "defocus": [defocus_kernel(5.2), motion_kernel(9, 0), gaussian_kernel(3.5)],
    "motion": [motion_kernel(13, 120), motion_kernel(19, 30), defocus_kernel(4)],
}


def luminance(name: str) -> Tensor:
    """Return a photograph at half its size, (H, W) in levels."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        half = image.convert("L").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(half).copy()).float()


def blurred(sharp: Tensor, kernel: Tensor, sigma: float = 1.5, quality: int | None = None) -> Tensor:
    """Return a window of 128 pixels of a photograph with a blur and noise, at times compressed."""
    y = Operator(kernel).measure(sharp[None, None])[0, 0][20:148, 20:148]
    y = (y + sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).round().clamp(0, 255)
    if quality is None:
        return y
    file = io.BytesIO()
    Image.fromarray(y.byte().numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).float()


def test_no_kernel_is_the_measure_of_the_others() -> None:
    assert trial_of(GaussianPrior(), blurred(luminance("gates"), TRUE["motion"]), 1.5)(torch.ones(1, 1)) == Trial(0, 0)


@pytest.mark.parametrize("kernel", [TRUE["gaussian"], defocus_kernel(1.5), motion_kernel(5, 30)])
def test_it_is_the_splitting_of_dense_linear_algebra(kernel: Tensor) -> None:
    """With a prior of independent Gaussian pixels, every evaluation and every correction is a linear map."""
    prior, sigma, window = GaussianPrior(0.1, 0.2), 6.0, luminance("gates")[40:56, 60:78]

    def energies(kernel: Tensor) -> tuple[float, float]:
        operator = Operator(kernel)
        down, across = operator.reach
        y = window.double() / 127.5 - 1
        x = F.pad(y[None, None], (across, across, down, down), mode="reflect")[0, 0]
        basis = torch.eye(x.numel(), dtype=torch.float64).view(-1, 1, *x.shape)
        matrix = operator.measure(basis).flatten(1).T
        s = math.sqrt(3) * 2 * CAUTION * sigma / 255
        ratio = (s / (2 * FIRST / 255)) ** (1 / (EVALUATIONS - 1))
        levels = [2 * FIRST / 255 * ratio**i for i in range(EVALUATIONS)]
        noise = s**2 / ratio**2 / TRUST
        for corrected, level in zip([levels[0], *levels[:-1]], levels, strict=True):
            system = corrected**2 * matrix @ matrix.T + noise * torch.eye(y.numel(), dtype=torch.float64)
            residual = y.flatten() - matrix @ x.flatten()
            z = x + corrected**2 * (matrix.T @ torch.linalg.solve(system, residual)).view(x.shape)
            x = (prior.v * z + level**2 * prior.mu) / (prior.v + level**2)
        inner = (z - x)[down : down + y.shape[0], across : across + y.shape[1]]
        return float((y.flatten() - matrix @ x.flatten()).square().mean()), float(inner.square().mean())

    found, without = energies(kernel), energies(torch.ones(1, 1))
    tried = trial_of(prior, window, sigma)(kernel)
    assert tried.misfit == pytest.approx(math.log(found[0] / without[0]), abs=0.01)
    assert tried.surprise == pytest.approx(math.log(found[1] / without[1]), abs=0.01)


@pytest.mark.parametrize("quality", [None, 85])
@pytest.mark.parametrize("name", ["eagles", "gates", "grapes"])
def test_true_kernels_pass_and_wrong_ones_fare_worse(name: str, quality: int | None) -> None:
    sharp, prior = luminance(name), load_prior()
    for kind, kernel in TRUE.items():
        attempt = trial_of(prior, blurred(sharp, kernel, quality=quality), 1.5)
        true = attempt(kernel)
        assert true.misfit < 0.6 * REFUTED, (kind, true)
        for wrong in WRONG[kind]:
            tried = attempt(wrong)
            assert tried.misfit + tried.surprise > true.misfit + true.surprise + 0.1, (kind, tried, true)


@pytest.mark.parametrize("name", ["eagles", "gates", "grapes"])
def test_every_blur_of_a_sharp_photograph_is_refuted(name: str) -> None:
    attempt = trial_of(load_prior(), luminance(name)[20:148, 20:148], 1.0)
    for kernel in (*TRUE.values(), gaussian_kernel(1.1), defocus_kernel(1.6), motion_kernel(4, 60)):
        assert attempt(kernel).misfit > REFUTED


def test_two_exposures_are_no_line() -> None:
    kernel = torch.zeros(15, 15)
    kernel[7, 7], kernel[2, 14] = 1.0, 0.8
    attempt = trial_of(load_prior(), blurred(luminance("gates"), as_kernel(kernel)), 1.5)
    assert attempt(motion_kernel(8.6, 35)).misfit > REFUTED
