"""The spectrum that the network for blur looks at: it turns with the picture, and hidden pixels take no part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import motion_kernel
from restorer.measurement.blur_spectrum import Described, describe_spectrum
from restorer.networks.blur_estimator import ANGLES, LEVELS, MAPS, PROFILE, RADII, turned


def moved(angle: float) -> Tensor:
    """Return white noise that moved along an angle, gray (1, H, W) in [0, 1]."""
    x = torch.rand(1, 1, 300, 340, generator=torch.Generator().manual_seed(0))
    return Blur(motion_kernel(9, angle)).measure(x)[0]


def described(image: Tensor, evidence: Tensor | None = None) -> Described:
    found = describe_spectrum(image, evidence)
    assert found is not None
    return found


def test_the_shapes_are_those_of_the_network() -> None:
    found = described(moved(20))
    assert found.maps.shape == (MAPS, ANGLES, RADII) and found.maps.isfinite().all()
    assert found.profiles.shape == (len(LEVELS) * PROFILE + 1,) and found.profiles.isfinite().all()
    assert found.energy.shape == (128, 65) and (found.energy >= 0).all()


@pytest.mark.parametrize("angle", [0.0, 22.5, 60.0, 90.0, 135.0])
def test_a_motion_keeps_most_energy_across_its_direction(angle: float) -> None:
    strongest = int(described(moved(angle)).maps[0].mean(1).argmax()) * 180 / ANGLES
    assert abs((strongest - angle - 90 + 90) % 180 - 90) <= 7.5


def test_it_turns_with_the_picture() -> None:
    x = moved(35)
    maps = described(x).maps[None]
    quarter = described(x.rot90(1, (1, 2))).maps
    mirrored = described(x.flip(2)).maps
    assert float((quarter - turned(maps, 1, False)[0]).abs().mean()) < 0.08
    assert float((mirrored - turned(maps, 0, True)[0]).abs().mean()) < 0.08
    assert float((quarter - maps[0]).abs().mean()) > 0.3


def test_hidden_pixels_take_no_part() -> None:
    x = moved(35)
    seen = torch.ones(x.shape[-2:], dtype=torch.bool)
    seen[:, :150] = False
    garbled = x.clone()
    garbled[:, :, :150] = torch.rand(x[:, :, :150].shape)
    torch.testing.assert_close(described(garbled, seen).maps, described(x, seen).maps)
    assert describe_spectrum(x, torch.zeros_like(seen)) is None


@pytest.mark.parametrize("image", [torch.rand(3, 100, 400), torch.full((3, 200, 200), 0.4)], ids=["small", "plain"])
def test_too_little_to_judge(image: Tensor) -> None:
    assert describe_spectrum(image) is None
