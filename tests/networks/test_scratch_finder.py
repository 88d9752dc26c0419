"""The network that finds scratches: its shape, its scales, and what a shift does to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from restorer.networks.scratch_finder import MULTIPLE, PRIOR_WIDTHS, ScratchFinder


def trained_a_bit() -> ScratchFinder:
    """Return a network without the zeros that it begins with."""
    torch.manual_seed(0)
    network = ScratchFinder().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return network


def features(count: int, height: int, width: int) -> list[Tensor]:
    """Return random features as the encoder of the prior shapes them."""
    return [torch.randn(count, n, height >> k, width >> k) for k, n in enumerate(PRIOR_WIDTHS, 1)]


@pytest.mark.parametrize("size", [(16, 16), (32, 80), (48, 16)])
def test_one_number_a_pixel(size: tuple[int, int]) -> None:
    with torch.no_grad():
        odds = trained_a_bit()(torch.rand(2, 3, *size), features(2, *size))
    assert odds.shape == (2, *size) and odds.std() > 0


def test_a_shift_by_the_multiple_shifts_the_result() -> None:
    network, side = trained_a_bit(), 25 * MULTIPLE
    x, given = torch.rand(1, 3, side, side), features(1, side, side)
    shifted = [feature[..., MULTIPLE >> k :, MULTIPLE >> k :] for k, feature in enumerate(given, 1)]
    with torch.no_grad():
        whole, part = network(x, given), network(x[..., MULTIPLE:, MULTIPLE:], shifted)
    reach = 11 * MULTIPLE  # the blocks of the coarsest level reach 6, all others together 4 more
    inner = (slice(None), slice(reach, -reach), slice(reach, -reach))
    assert part[inner].numel() > 0
    torch.testing.assert_close(whole[:, MULTIPLE:, MULTIPLE:][inner], part[inner], atol=1e-4, rtol=1e-4)


def test_scales_make_features_of_unit_mean_square() -> None:
    network, given = ScratchFinder(), [40 * feature for feature in features(3, 64, 64)]
    network.calibrate(given)
    for scale, feature in zip(network.scales, given, strict=True):
        scaled = feature * scale[: feature.shape[1], None, None]
        torch.testing.assert_close(scaled.square().mean((0, 2, 3)), torch.ones(feature.shape[1]))


def test_scales_are_stored_with_the_weights() -> None:
    network, given, x = trained_a_bit(), features(1, 32, 32), torch.rand(1, 3, 32, 32)
    network.calibrate([7 * feature for feature in given])
    other = ScratchFinder().eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(other(x, given), network(x, given))


def test_every_weight_learns() -> None:
    network = trained_a_bit().train()
    network(torch.rand(1, 3, 64, 64), features(1, 64, 64)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())
