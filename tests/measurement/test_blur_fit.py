"""The fit of a kernel to a spectrum is exact where the model holds, and close on photographs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.measurement.blur_fit import EXPONENT, SpectrumFit
from restorer.measurement.blur_spectrum import SIDE, describe_spectrum

IMAGES = Path(__file__).parents[1] / "images"
POINT = torch.ones(1, 1)


def modelled(kernel: Tensor, exponent: float, noise: float) -> Tensor:
    """Return the energy that the model gives for a kernel, smoothed by a Hann taper as a convolution of 3x3."""
    gain = torch.fft.fft2(kernel.double(), s=(SIDE, SIDE)).abs().square()
    smooth = torch.zeros_like(gain)
    for dy, a in ((-1, 1), (0, 4), (1, 1)):
        for dx, b in ((-1, 1), (0, 4), (1, 1)):
            smooth += a * b / 36 * gain.roll((dy, dx), (0, 1))
    frequency = torch.fft.fftfreq(SIDE, dtype=torch.float64)
    radius = torch.hypot(frequency[:, None], frequency).clamp(min=1e-3)
    return (smooth * radius**exponent + noise)[:, : SIDE // 2 + 1].float()


@pytest.mark.parametrize("kernel", [POINT, gaussian_kernel(1.3), defocus_kernel(3), motion_kernel(11, 40)])
@pytest.mark.parametrize(("exponent", "noise"), [(-2.4, 0.5), (-2.4, 2.0), (-2.0, 6.0), (-3.0, 20.0)])
def test_a_spectrum_of_the_model_is_explained_exactly(kernel: Tensor, exponent: float, noise: float) -> None:
    found = SpectrumFit(modelled(kernel, exponent, noise)).fit(kernel)
    assert found.loss < 0.002  # the prior of the exponent alone
    assert math.exp(float(found.coefficients[-1])) == pytest.approx(noise, rel=0.25)
    from_prior = abs(exponent - EXPONENT)  # towards whose middle a spectrum with noise is drawn
    assert float(found.coefficients[1]) == pytest.approx(exponent, abs=0.05 + 0.5 * from_prior)


@pytest.mark.parametrize(
    ("make", "true", "values"),
    [
        (gaussian_kernel, 1.7, [1.3, 1.5, 1.7, 1.9, 2.1]),
        (defocus_kernel, 4.0, [3.6, 3.8, 4.0, 4.2, 4.4]),
        (lambda length: motion_kernel(length, 65), 14.0, [12.0, 13.0, 14.0, 15.0, 16.0]),
        (lambda angle: motion_kernel(14, angle), 65.0, [59.0, 62.0, 65.0, 68.0, 71.0]),
    ],
)
def test_the_best_value_is_the_true_one(make, true, values) -> None:
    found, fit = SpectrumFit(modelled(make(true), -2.3, 2.0)).best(make, values)
    assert found == pytest.approx(true, rel=0.02) and fit.loss < 0.002


def test_a_value_between_two_of_a_grid_is_interpolated() -> None:
    found, _ = SpectrumFit(modelled(defocus_kernel(3.1), -2.4, 1.0)).best(defocus_kernel, [2.6, 2.8, 3.0, 3.2, 3.4])
    assert found == pytest.approx(3.1, abs=0.04)


@pytest.mark.parametrize("name", ["eagles", "gates", "grapes"])
def test_photographs_tell_the_size_of_their_blur(name: str) -> None:
    with Image.open(IMAGES / f"{name}.jpg") as image:
        half = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    photograph = torch.from_numpy(np.asarray(half).copy()).permute(2, 0, 1) / 255
    for make, true in ((defocus_kernel, 3.0), (lambda length: motion_kernel(length, 30), 13.0)):
        y = Blur(make(true)).measure(photograph[None])[0]
        y = y + 2.55 / 255 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
        described = describe_spectrum((y * 255).round().clamp(0, 255) / 255)
        assert described is not None
        fit = SpectrumFit(described.energy)
        found, best = fit.best(make, [true * math.exp(0.05 * i) for i in range(-5, 6)])
        assert found == pytest.approx(true, rel=0.05)
        assert best.loss < fit.fit(POINT).loss - 0.005
