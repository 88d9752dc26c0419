"""The network that finds scratches: its shape, and what a shift does to it."""

from __future__ import annotations

import pytest
import torch

from restorer.networks.scratch_finder import MULTIPLE, ScratchFinder


def trained_a_bit() -> ScratchFinder:
    """Return a network without the zeros that it begins with."""
    torch.manual_seed(0)
    network = ScratchFinder().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return network


@pytest.mark.parametrize("size", [(16, 16), (32, 80), (48, 16)])
def test_one_number_a_pixel(size: tuple[int, int]) -> None:
    with torch.no_grad():
        odds = trained_a_bit()(torch.rand(2, 3, *size))
    assert odds.shape == (2, *size) and odds.std() > 0


def test_a_shift_by_the_multiple_shifts_the_result() -> None:
    network, x = trained_a_bit(), torch.rand(1, 3, 25 * MULTIPLE, 25 * MULTIPLE)
    with torch.no_grad():
        whole, part = network(x), network(x[..., MULTIPLE:, MULTIPLE:])
    reach = 11 * MULTIPLE  # from every border
    inner = (slice(None), slice(reach, -reach), slice(reach, -reach))
    torch.testing.assert_close(whole[:, MULTIPLE:, MULTIPLE:][inner], part[inner], atol=1e-4, rtol=1e-4)


def test_every_weight_learns() -> None:
    network = trained_a_bit().train()
    network(torch.rand(1, 3, 64, 64)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())
