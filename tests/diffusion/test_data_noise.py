"""The noise of the data in the states of low levels, compared with the closed form of a Gaussian prior."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from gaussian import GaussianPrior
from torch import Tensor

from restorer.diffusion.data_noise import DataNoise, noised, texture_weight
from restorer.diffusion.degradations.coloured_noise import ColouredNoise
from restorer.diffusion.degradations.pointwise import Identity
from restorer.diffusion.plan import METHODS, Plan, make_plan
from restorer.diffusion.reverse import Step, reverse

V, S = 0.04, 0.2  # variance of the prior, standard deviation of the noise


def white(size: int = 32, variance: float = 1.0) -> ColouredNoise:
    """Return the degradation of white noise."""
    autocovariance = torch.zeros(3, 3, size, size, dtype=torch.float64)
    autocovariance[range(3), range(3), 0, 0] = variance
    return ColouredNoise(autocovariance)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Return white noise of variance 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plan(levels: tuple[float, ...], share: float, below: float = 1.3) -> Plan:
    """Return a plan of the levels, in units of the noise."""
    sigmas = (*(S * level for level in levels), 0.0)
    noise = DataNoise(S, below * S, share, share)
    zeta = (0.0,) * len(levels)
    return Plan(sigmas, zeta, kappa=0.0, data_noise=noise, correct_last=False, fresh_start=False)


def factor_of(levels: tuple[float, ...], share: float, trust: float = 1.0, below: float = 1.3) -> float:
    """Return what the result is of the data, by hand."""
    factor = V / (V + (levels[0] * S) ** 2)
    for before, after in pairwise(levels):
        if after <= below:
            state = factor + share * after * (1 - factor)
        else:
            r2 = (before * S) ** 2 / ((before * S) ** 2 + 1)
            state = factor + r2 / (r2 + S**2 / trust) * (1 - factor)
        factor = V / (V + (after * S) ** 2) * state
    return factor


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("levels", [(2.6,), (4.0, 0.5), (4.0, 2.0, 1.0, 0.5), (1.0, 0.8, 0.6, 0.4, 0.2)])
def test_the_result_is_that_of_the_closed_form(levels: tuple[float, ...], share: float):
    y = drawn(1, 3, 40, 40)
    result = reverse(GaussianPrior(0.0, V), white(), y, plan(levels, share), y, noise_variance=S**2 / 1.96)
    torch.testing.assert_close(result, factor_of(levels, share, trust=1.96) * y, rtol=0, atol=1e-8)


@pytest.mark.parametrize("share", [0.5, 1.0, 1.4])
@pytest.mark.parametrize("after", [1.0, 0.5])
def test_many_steps_tend_to_a_wiener_filter_for_less_noise(share: float, after: float):
    levels = (4.0, *[after] * 400)
    y = drawn(1, 3, 8, 8)
    result = reverse(GaussianPrior(0.0, V), white(), y, plan(levels, share), y, noise_variance=S**2)
    torch.testing.assert_close(result, V / (V + after * S * S / share) * y, rtol=0, atol=1e-6)


def test_the_texture_grows_with_the_share_up_to_that_of_the_prior():
    """The mean has the energy v^2 / (v + s^2), which the truth exceeds by 1 + s^2 / v."""
    energies = [factor_of((4.0, 2.0, 1.0, 0.5), share) ** 2 * (V + S**2) / V for share in (0.0, 0.6, 1.0, 1.4)]
    assert energies == sorted(energies)
    assert V / (V + S**2) < energies[2] < 1


def test_noise_that_is_known_is_a_state_of_the_level():
    """A prediction without error leaves white noise of the level, whatever the colour of the noise of the data."""
    kernel = torch.tensor([[0.2, 0.1], [0.3, 0.4]], dtype=torch.float64)[None, None]
    mixed = torch.nn.functional.conv2d(torch.nn.functional.pad(kernel, (1, 1, 1, 1)), kernel)[0, 0]
    autocovariance = torch.zeros(3, 3, 32, 32, dtype=torch.float64)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            autocovariance[range(3), range(3), down, across] = mixed[1 + down, 1 + across]
    autocovariance[range(3), range(3), 0, 0] += 0.5  # so that no frequency is without noise
    padded = torch.zeros(128, 128, dtype=torch.float64)
    wrapped = torch.arange(32) - 32 * (torch.arange(32) > 15)
    padded[(wrapped % 128)[:, None], wrapped % 128] = autocovariance[0, 0]
    density = torch.fft.fft2(padded).real.sqrt()
    noise = S * torch.fft.ifft2(torch.fft.fft2(drawn(1, 3, 128, 128)) * density).real
    x0 = 0.1 * drawn(1, 3, 128, 128, seed=1)
    state = noised(x0, x0 + noise, ColouredNoise(autocovariance), 0.1, DataNoise(S, 1.0, 1.0, 1.0))
    spectrum = (torch.fft.fft2((state - x0)[..., 24:-24, 24:-24]) / (80 * 0.1)).abs().square().mean((0, 1))
    radius = torch.hypot(torch.fft.fftfreq(80)[:, None], torch.fft.fftfreq(80)[None, :])
    for low, high in ((0.0, 0.15), (0.15, 0.3), (0.3, 0.5), (0.5, 0.8)):
        assert float(spectrum[(radius > low) & (radius <= high)].mean()) == pytest.approx(1, abs=0.12)


def test_the_share_follows_the_picture():
    """The noise is carried by the share of smooth places in one half, and by that of textured ones in the other."""
    x0 = torch.zeros(1, 3, 96, 192, dtype=torch.float64)
    x0[..., 96:] = drawn(1, 1, 96, 96)
    y = x0 + S * drawn(1, 3, 96, 192, seed=1)
    carried = (noised(x0, y, white(), 0.5 * S, DataNoise(S, S, 0.25, 1.5)) - x0) / (y - x0)
    assert carried.shape == y.shape
    torch.testing.assert_close(carried[..., :70], torch.full((1, 3, 96, 70), 0.125).double(), rtol=0, atol=1e-9)
    assert float(carried[..., 130:].min()) > 0.7
    assert float(carried.max()) <= 0.75
    middle = carried[0, 0, 48, 70:130].diff()
    assert float(middle.abs().max()) < 0.05, "the share has no edge"


def test_an_edge_is_not_texture():
    x = torch.zeros(1, 3, 96, 96)
    x[..., 48:] = 1.0
    weight = texture_weight(x, 0.01)
    assert weight.shape == (1, 1, 96, 96)
    assert float(weight.max()) < 0.3
    assert float(weight[..., :28].max()) == 0
    assert float(texture_weight(x + 0.1 * drawn(1, 3, 96, 96).float(), 0.01).min()) > 0.7


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 7)])
def test_tiny_pictures_have_a_weight(size: tuple[int, int]):
    weight = texture_weight(drawn(2, 3, *size), 0.01)
    assert weight.shape == (2, 1, *size)
    assert bool(((weight >= 0) & (weight <= 1)).all())


def test_the_listener_sees_predictions_and_not_the_noise():
    seen: list[Step] = []
    y = drawn(1, 3, 8, 8)
    reverse(GaussianPrior(0.0, V), white(), y, plan((4.0, 1.0, 0.5), 1.0), y, noise_variance=S**2, on_step=seen.append)
    assert [torch.equal(step.x0, step.corrected) for step in seen] == [True, True, True]


@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_published_methods_have_their_own_noise(method: str):
    assert make_plan(method, plan((4.0, 0.5), 1.0), start=0.8, end=0.1, steps=6).data_noise is None


@pytest.mark.parametrize(
    "fields", [(0.0, 1.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0), (1.0, 1.0, -0.1, 1.0), (1.0, 1.0, 1.0, math.nan)]
)
def test_impossible_settings_are_refused(fields: tuple[float, ...]):
    with pytest.raises(ValueError):
        DataNoise(*fields)


def test_no_other_noise_is_carried():
    with pytest.raises(ValueError, match="kappa"):
        Plan((1.0, 0.5, 0.0), (0.0, 0.0), kappa=0.5, data_noise=DataNoise(1.0, 1.0, 1.0, 1.0))


def test_other_degradations_do_not_make_noise_white():
    with pytest.raises(NotImplementedError, match="Identity"):
        Identity().whiten(drawn(1, 3, 4, 4))


def test_whitening_undoes_the_strength_and_hardly_amplifies():
    noise = drawn(1, 3, 40, 40)
    torch.testing.assert_close(white(variance=4.0).whiten(noise), noise / 2)
    torch.testing.assert_close(white(variance=0.01).whiten(noise), noise * math.sqrt(2))
