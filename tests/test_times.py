"""What blocks see of the time, and what is remembered of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from restorer.networks import ResidualUNet, ResidualUNetConfig, times
from restorer.networks.times import TimedBlock, Times

SMALL = ResidualUNetConfig(block_out_channels=(8, 16))


def built() -> ResidualUNet:
    """In evaluation mode, with projections that are not zero, as fresh ones are."""
    torch.manual_seed(0)
    network = SMALL.build().eval()
    for block in network.modules():
        if isinstance(block, TimedBlock):
            nn.init.normal_(block.time_emb_proj.weight)
    return network


class Counted:
    """How often the two linear layers were asked."""

    def __init__(self, network: ResidualUNet) -> None:
        self.count = 0
        network.time_embedding.register_forward_hook(self)

    def __call__(self, *_: object) -> None:
        self.count += 1


def afresh(network: ResidualUNet, t: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """By a `Times` that remembers nothing yet."""
    return list(Times(network, network.time_embedding, flip=True, shift=0)(t, dtype))


def same(a: object, b: object) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[call-overload]


@torch.no_grad()
def test_a_timestep_is_computed_once() -> None:
    network, early, late = built(), torch.tensor([3.5]), torch.tensor([700.0])
    expected = {t: afresh(network, t) for t in (early, late)}
    counted = Counted(network)
    for turn in range(3):
        for t in (early, late):
            assert same(network.times(t.clone(), torch.float32), expected[t]), turn
    assert counted.count == 2
    assert not same(expected[early], expected[late])
    several = network.times(torch.cat([early, late]), torch.float32)
    assert counted.count == 3
    for i, t in enumerate((early, late)):
        torch.testing.assert_close([part[i : i + 1] for part in several], expected[t])


@torch.no_grad()
def test_other_weights_are_other_answers() -> None:
    """Loaded, written to, or cast."""
    network, t = built(), torch.tensor([20.0])
    before = network.times(t, torch.float32)
    network.load_state_dict({name: 2 * weight for name, weight in network.state_dict().items()})
    loaded = network.times(t, torch.float32)
    assert same(loaded, afresh(network, t)) and not same(loaded, before)
    network.time_embedding.linear_2.bias.add_(1)
    written = network.times(t, torch.float32)
    assert same(written, afresh(network, t)) and not same(written, loaded)
    network.double()
    cast = network.times(t, torch.float64)
    assert cast[0].dtype == torch.float64 and same(cast, afresh(network, t, torch.float64))


def test_where_gradients_are_wanted_nothing_is_remembered() -> None:
    network, t = built(), torch.tensor([20.0])
    with torch.no_grad():
        known = network.times(t, torch.float32)
    counted = Counted(network)
    for _ in range(2):
        computed = network.times(t, torch.float32)
        assert same(computed, known) and all(part.requires_grad for part in computed)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network.times(t, torch.float32)[0].dtype == torch.bfloat16
    assert counted.count == 3
    with torch.no_grad():
        assert same(network.times(t, torch.float32), known)
    assert counted.count == 3


@torch.no_grad()
def test_it_does_not_remember_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built()
    one = sum(part.numel() for part in network.times(torch.tensor([0.0]), torch.float32))
    monkeypatch.setattr(times, "REMEMBERED", 3 * one)
    expected = {i: afresh(network, torch.tensor([float(i)])) for i in range(8)}
    for i in (*range(8), *range(8)):
        assert same(network.times(torch.tensor([float(i)]), torch.float32), expected[i])
        assert len(network.times._known) <= 3
