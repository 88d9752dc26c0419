"""Muon together with AdamW: which weights each of them moves, how far, and that the matrices share their memory."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from restorer.errors import UsageError
from restorer.networks import NetworkConfig
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.networks.unet import UNetConfig
from restorer.training.optimizer import MuonAndAdamW, make_optimizer

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
RESIDUAL = ResidualUNetConfig(3, 3, (8, 16))
PLAIN = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
)


def build_network(config: NetworkConfig) -> nn.Module:
    """Build a network with random weights, laid out as channels_last."""
    torch.manual_seed(0)
    network = config.build()
    for parameter in network.parameters():  # layers initialized to zero would have gradients of zero
        nn.init.normal_(parameter, std=0.1)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compute_gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    """Compute gradients of the network's weights, and return a copy of the weights."""
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    network(x, torch.tensor([3.0, 700.0])).square().mean().backward()
    return before


@needs_muon
@pytest.mark.parametrize("config", [RESIDUAL, PLAIN])
def test_every_weight_moves_and_by_adamw_where_it_is_no_hidden_layer(config: NetworkConfig) -> None:
    """The first step of AdamW is the learning rate times the sign of the gradient, minus the weight decay."""
    network = build_network(config)
    before = compute_gradients(network)
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}  # type: ignore[union-attr]
    optimizer = MuonAndAdamW(network, 1e-2)
    optimizer.step()
    for name, parameter in network.named_parameters():
        # The sign of a gradient near zero (of a bias before a normalization) is that of rounding errors.
        is_certain = gradients[name].abs() > 1e-6
        moved = (parameter.detach() - before[name])[is_certain]
        if parameter.ndim == 4 and name not in ("conv_in.weight", "conv_out.weight"):
            assert len(moved) and float(moved.abs().max()) > 1e-5
            continue
        expected = -1e-2 * gradients[name].sign() - 1e-4 * before[name]
        assert torch.allclose(moved, expected[is_certain], atol=2e-4)


@needs_muon
def test_a_hidden_layer_moves_by_an_orthogonal_matrix() -> None:
    """The update has the singular vectors of the gradient, and singular values of about 1.

    (Newton-Schulz iterations with the coefficients of the paper end between .68 and 1.13, in bfloat16 in a slightly
    wider range.)
    """
    network = build_network(RESIDUAL)
    before = compute_gradients(network)
    name = "up_blocks.0.0.conv1.weight"
    weight = dict(network.named_parameters())[name]
    assert weight.grad is not None
    left, _, right = torch.linalg.svd(weight.grad.permute(0, 2, 3, 1).flatten(1), full_matrices=False)
    MuonAndAdamW(network, 1e-2).step()
    m, n = 8, 72
    moved = (weight.detach() - before[name] * (1 - 1e-4)).permute(0, 2, 3, 1).flatten(1) / (-1e-2 * 0.2 * n**0.5)
    inside = left.T @ moved @ right.T
    values = inside.diagonal()
    assert (m, n) == tuple(moved.shape)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.25
    assert float((inside - torch.diag(values)).abs().max()) < 0.05


@needs_muon
def test_a_step_after_a_restart_is_the_step_without() -> None:
    """A step after the state was saved and loaded changes the weights exactly as a step without a restart."""
    networks = [build_network(RESIDUAL), build_network(RESIDUAL)]
    first, second = (MuonAndAdamW(network, 1e-3) for network in networks)
    for network, optimizer in zip(networks, (first, second), strict=True):
        compute_gradients(network)
        optimizer.step()
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in network.parameters())
    second = MuonAndAdamW(networks[1], 1e-3)
    second.load_state_dict(deepcopy(first.state_dict()))  # a copy, as if read from a file
    for network, optimizer in zip(networks, (first, second), strict=True):
        compute_gradients(network)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))


def test_weights_that_lie_otherwise_are_refused() -> None:
    """Weights in another memory layout are refused, because only a copy of them would be updated."""
    with pytest.raises(ValueError, match="channels_last"):
        MuonAndAdamW(RESIDUAL.build(), 1e-3)


def test_a_pytorch_without_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW works with a PyTorch that has no Muon, and asking for Muon is a usage error."""
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    assert isinstance(make_optimizer("adamw", build_network(RESIDUAL), 1e-3), torch.optim.AdamW)
    with pytest.raises(UsageError, match="no Muon"):
        make_optimizer("muon", build_network(RESIDUAL), 1e-3)
