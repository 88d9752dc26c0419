"""The network for blur gives the same answer for a picture that was turned or mirrored, turned or mirrored too."""

from __future__ import annotations

import pytest
import torch

from restorer.networks.blur_estimator import (
    ANGLES,
    KINDS,
    LEVELS,
    MAPS,
    PROFILE,
    RADII,
    BlurEstimator,
    SpectrumNetwork,
    turn,
    turned,
)


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, MAPS, ANGLES, RADII, generator=generator)
    return maps, torch.randn(batch, len(LEVELS) * PROFILE + 1, generator=generator)


@pytest.mark.parametrize("quarters", [0, 1])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_estimate_turns_with_the_picture(quarters: int, mirrored: bool) -> None:
    torch.manual_seed(0)
    estimator, (maps, profiles) = BlurEstimator(2).eval(), inputs()
    with torch.no_grad():
        expected, found = estimator(maps, profiles), estimator(turned(maps, quarters, mirrored), profiles)
    torch.testing.assert_close(found.kinds, expected.kinds)
    torch.testing.assert_close(found.radius, expected.radius)
    torch.testing.assert_close(found.length, expected.length)
    as_maps = expected.directions[:, None, :, None]
    torch.testing.assert_close(found.directions, turned(as_maps, quarters, mirrored)[:, 0, :, 0])
    as_maps = expected.widths[:, None, :, None]
    torch.testing.assert_close(found.widths, turned(as_maps, quarters, mirrored)[:, 0, :, 0])


def test_turning_back_undoes_turning() -> None:
    torch.manual_seed(0)
    network, (maps, profiles) = SpectrumNetwork().eval(), inputs()
    raw = network(maps, profiles)
    for quarters in (0, 1):
        for mirrored in (False, True):
            forth = turned(raw.widths[:, None, :, None], quarters, mirrored)[:, 0, :, 0]
            back = turn(type(raw)(raw.kinds, forth, raw.scalars, forth, raw.log_spreads), quarters, mirrored)
            torch.testing.assert_close(back.widths, raw.widths)


def test_probabilities_add_up() -> None:
    found = BlurEstimator(1).eval()(*inputs())
    assert found.kinds.shape == (3, len(KINDS)) and found.directions.shape == (3, ANGLES)
    torch.testing.assert_close(found.kinds.sum(1), torch.ones(3))
    torch.testing.assert_close(found.directions.sum(1), torch.ones(3))
    assert (found.spreads > 0).all()
