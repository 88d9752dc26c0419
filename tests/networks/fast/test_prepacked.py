"""Prepacked layers, compared with plain layers, alone and in the networks."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from fast_networks import GUIDED, ONE_HEAD, PLAIN, RESIDUAL
from torch import nn

from restorer.diffusion.schedule import Schedule
from restorer.evaluation.speed import count_operations
from restorer.networks import ResidualUNetConfig, UNetConfig
from restorer.networks.attention import Attention
from restorer.networks.fast import prepacked, replacement, winograd
from restorer.networks.fast.attention import PackedAttention, SingleHeadAttention
from restorer.networks.fast.prepacked import (
    JointLinear,
    PackedConv2d,
    PackedConvTranspose2d,
    PackedUpsampleConv2d,
    Prepacked,
    can_prepack,
    unaccelerated,
)
from restorer.networks.fast.replacement import accelerate, decelerate
from restorer.networks.layers import AddConv2d, UpsampleConv2d
from restorer.priors.unet_prior import ModelSpec, UNetPrior
from restorer.tasks.denoise import prepare_denoise

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(not can_prepack(CPU, torch.float32), reason="this processor does not prepack")


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return |a - b| / |b|."""
    return float((a.double() - b.double()).norm() / b.double().norm())


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation"), [(3, 1, 1, 1), (3, 2, 0, 1), (1, 1, 0, 1), (2, 2, 0, 1), (3, 1, 2, 2)]
)
def test_it_is_the_same_convolution(size: int, stride: int, padding: int, dilation: int, bias: bool) -> None:
    """The results agree for several sizes of the picture and of the batch."""
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 40, size, stride, padding, dilation, bias=bias).requires_grad_(False)
    packed = PackedConv2d(conv.to(memory_format=torch.channels_last))
    for batch, height, width in ((1, 7, 5), (1, 64, 64), (3, 33, 130)):
        x = torch.randn(batch, 12, height, width).to(memory_format=torch.channels_last)
        exact = F.conv2d(x.double(), conv.weight.double(), None, stride, padding, dilation)
        exact = exact if conv.bias is None else exact + conv.bias.double()[:, None, None]
        out = packed(x)
        assert out.is_contiguous(memory_format=torch.channels_last) and relative(out, exact) < 1e-6
    assert torch.equal(packed.weight, conv.weight)


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shifts", [None, 1, 2])
@pytest.mark.parametrize("has_other", [True, False])
def test_what_is_added_on_the_way(shifts: int | None, has_other: bool, bias: bool) -> None:
    """A layer adds a shift for the whole batch or for each picture, another map, both or neither."""
    torch.manual_seed(0)
    conv = AddConv2d(12, 40, 3, padding=1, bias=bias).requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.randn(2, 12, 9, 14).to(memory_format=torch.channels_last)
    shift = None if shifts is None else torch.randn(shifts, 40)
    other = torch.randn(2, 40, 9, 14).to(memory_format=torch.channels_last) if has_other else None
    exact = F.conv2d(x.double(), conv.weight.double(), None if conv.bias is None else conv.bias.double(), padding=1)
    exact = (
        exact + (0 if shift is None else shift.double()[:, :, None, None]) + (0 if other is None else other.double())
    )
    before = None if other is None else other.clone()
    for layer in (conv, PackedConv2d(conv)):
        assert relative(layer(x, shift, other), exact) < 1e-6
        assert relative(layer(x, shift, other, overwrite=True), exact) < 1e-6  # has no effect with gradients
    assert other is None or torch.equal(other, before)
    with unaccelerated():
        assert torch.equal(PackedConv2d(conv)(x, None, other), conv(x, None, other))


@needs_packing
@pytest.mark.parametrize("threshold", [1, 1 << 40])
@pytest.mark.parametrize("channels_last", [True, False])
@torch.no_grad()
def test_what_is_added_may_be_overwritten(monkeypatch: pytest.MonkeyPatch, channels_last: bool, threshold: int) -> None:
    """Plain and prepacked layers, with Winograd's algorithm too, write to the added map if it has their layout."""
    torch.manual_seed(0)
    monkeypatch.setattr(prepacked, "MIN_MULTIPLICATIONS", threshold)
    monkeypatch.setattr(winograd, "CACHED", 20_000 // torch.get_num_threads())
    conv = AddConv2d(48, 40, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(2, 48, 9, 16).to(memory_format=torch.channels_last)
    other, shift = torch.randn(2, 40, 9, 16), torch.randn(1, 40)
    other = other.to(memory_format=torch.channels_last) if channels_last else other
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    exact = exact + shift.double()[:, :, None, None] + other.double()
    packed = PackedConv2d(conv)
    for layer in (conv, packed):
        added = other.clone()
        result = layer(x, shift, added, overwrite=True)
        assert relative(result, exact) < 2e-6
        assert not channels_last or result.data_ptr() == added.data_ptr()
    with unaccelerated():
        added = other.clone()
        result = packed(x, None, added, overwrite=True)
        assert (result.data_ptr() == added.data_ptr()) is channels_last


def test_four_outputs_of_six_products() -> None:
    """Winograd's transforms and the products between them give the convolution, in float64."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 7, 12).double(), torch.randn(3, 5, 3, 3).double(), torch.randn(3).double()
    inputs, y = torch.full((2, 7, 3, 6, 5), torch.nan).double(), torch.full((2, 7, 3, 4, 3), torch.nan).double()
    winograd.transform_input(x.permute(0, 2, 3, 1).unflatten(2, (3, 4)), inputs)
    kernels, shift = winograd.transform_weight(weight).unflatten(0, (6, 3)), winograd.transform_bias(bias)
    assert shift is not None and winograd.transform_bias(None) is None
    points = [F.conv2d(inputs[:, :, :, p].permute(0, 3, 1, 2), kernels[p], padding=(1, 0)) for p in range(6)]
    products = torch.stack(points, 1) + shift.view(6, 3, 1, 1)
    winograd.transform_output(products.permute(0, 3, 4, 1, 2), y)
    exact = F.conv2d(x, weight, bias, padding=1)
    assert relative(y.flatten(2, 3).permute(0, 3, 1, 2), exact) < 1e-14


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 8, 8), (1, 37, 40), (3, 10, 64), (1, 100, 4), (2, 1, 20)])
@pytest.mark.parametrize("cached", [1, 30_000, 1 << 20])
@torch.no_grad()
def test_by_fewer_products_it_is_the_same(
    monkeypatch: pytest.MonkeyPatch, cached: int, batch: int, height: int, width: int, bias: bool
) -> None:
    """The results agree in strips of one row, of several rows that do not divide the height, and of all rows."""
    torch.manual_seed(0)
    monkeypatch.setattr(prepacked, "MIN_MULTIPLICATIONS", 1)
    monkeypatch.setattr(winograd, "MIN_ROWS", 1)
    monkeypatch.setattr(winograd, "CACHED", cached)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    conv = nn.Conv2d(64, 48, 3, padding=1, bias=bias).requires_grad_(False)
    x, other = torch.randn(batch, 64, height, width), torch.randn(batch, 48, height, width)
    x, other = (map_.to(memory_format=torch.channels_last) for map_ in (x, other))
    exact = F.conv2d(x.double(), conv.weight.double(), None if conv.bias is None else conv.bias.double(), padding=1)
    layer, before, calls = PackedConv2d(conv), other.clone(), []
    transform = winograd.transform_input
    monkeypatch.setattr(winograd, "transform_input", lambda *maps: calls.append(1) or transform(*maps))
    out = layer(x)
    assert out.is_contiguous(memory_format=torch.channels_last) and relative(out, exact) < 2e-6
    assert relative(layer(x.contiguous(), other=other), exact + other.double()) < 2e-6 and torch.equal(other, before)
    assert relative(layer(x, other=other, overwrite=True), exact + before.double()) < 2e-6
    strips = len(calls) // 3
    assert strips == {1: height, 1 << 20: 1}.get(cached, strips) and (strips > 1 or cached > 1 or height == 1)
    assert cached != 30_000 or (strips > 1) == (batch * height * width * 6 * 64 // 4 > cached)
    with unaccelerated():
        assert torch.equal(layer(x), conv(x))


@needs_packing
def test_fewer_products_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's algorithm is used in float32, for many multiplications of many channels and a width divisible by 4.

    More threads need more multiplications.
    """
    threads = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[0])
    calls: list[int] = []
    transform = winograd.transform_input
    monkeypatch.setattr(winograd, "transform_input", lambda *maps: calls.append(1) or transform(*maps))

    def uses_winograd(
        conv: nn.Conv2d, height: int, width: int, dtype: torch.dtype = torch.float32, gradients: bool = False
    ) -> bool:
        """Return whether a convolution of a map of this size calls Winograd's transform."""
        calls.clear()
        x = torch.randn(1, conv.in_channels, height, width, dtype=dtype)
        with torch.set_grad_enabled(gradients):
            PackedConv2d(conv.to(dtype))(x)
        return bool(calls)

    assert uses_winograd(nn.Conv2d(128, 128, 3, padding=1), 32, 32)
    assert not uses_winograd(nn.Conv2d(128, 128, 3, padding=1), 16, 16)
    assert not uses_winograd(nn.Conv2d(128, 128, 3, padding=1), 32, 34)
    assert uses_winograd(nn.Conv2d(64, 64, 3, padding=1), 4, 2048)
    assert not uses_winograd(nn.Conv2d(64, 64, 3, padding=1), 8, 4096)  # strips have two rows
    assert not uses_winograd(nn.Conv2d(128, 128, 3, padding=1), 32, 32, gradients=True)
    assert not uses_winograd(nn.Conv2d(3, 512, 3, padding=1), 256, 128)
    assert not uses_winograd(nn.Conv2d(128, 128, 3, padding=1, stride=2), 64, 64)
    assert not uses_winograd(nn.Conv2d(128, 128, 3, padding=2, dilation=2), 32, 32)
    assert not uses_winograd(nn.Conv2d(512, 512, 1), 64, 64)
    if can_prepack(CPU, torch.bfloat16):
        assert not uses_winograd(nn.Conv2d(128, 128, 3, padding=1), 32, 32, torch.bfloat16)
    threads[0] = 4
    assert not uses_winograd(nn.Conv2d(128, 128, 3, padding=1), 32, 32)
    assert uses_winograd(nn.Conv2d(128, 128, 3, padding=1), 64, 64)
    # The caches of four threads hold strips of twice as many rows as those of two.
    assert uses_winograd(nn.Conv2d(64, 64, 3, padding=1), 8, 4096)
    network = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1))
    for heavy, is_allowed in ((1 << 30, True), (1, False)):
        monkeypatch.setattr(replacement, "HEAVY", heavy)
        decelerate(network)
        accelerate(network)
        assert network[0].winograd_allowed is is_allowed


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "stride", "padding", "dilation"), [(2, 2, 0, 1), (4, 2, 1, 1), (3, 1, 2, 2)])
def test_it_is_the_same_transposed_convolution(size: int, stride: int, padding: int, dilation: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(12, 40, size, stride, padding, bias=bias, dilation=dilation).requires_grad_(False)
    packed = PackedConvTranspose2d(conv.to(memory_format=torch.channels_last))
    for batch, height, width in ((1, 7, 5), (1, 32, 32), (3, 17, 30)):
        x = torch.randn(batch, 12, height, width).to(memory_format=torch.channels_last)
        exact = F.conv_transpose2d(x.double(), conv.weight.double(), None, stride, padding, dilation=dilation)
        exact = exact if conv.bias is None else exact + conv.bias.double()[:, None, None]
        out = packed(x)
        assert out.is_contiguous(memory_format=torch.channels_last) and relative(out, exact) < 1e-6
        with unaccelerated():
            assert torch.equal(packed(x), conv(x))
    again = packed.plain()
    assert type(again) is nn.ConvTranspose2d and torch.equal(again(x), conv(x))


@needs_packing
def test_upsampled_pixels_are_convolved_as_they_are() -> None:
    """Every pixel agrees at several sizes, those of the border included."""
    torch.manual_seed(0)
    conv = UpsampleConv2d(20).requires_grad_(False).to(memory_format=torch.channels_last)
    packed = PackedUpsampleConv2d(conv)
    for batch, height, width in ((1, 1, 1), (1, 4, 4), (2, 9, 16), (1, 33, 20)):
        x = torch.randn(batch, 20, height, width).to(memory_format=torch.channels_last)
        upsampled = x.double().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        exact = F.conv2d(upsampled, conv.weight.double(), conv.bias.double(), padding=1)
        assert relative(conv(x), exact) < 1e-6
        out = packed(x)
        assert out.shape == exact.shape and float((out - exact).abs().max()) < 1e-5 * float(exact.abs().max())
        with unaccelerated():
            assert torch.equal(packed(x), conv(x))
    again = packed.plain()
    assert type(again) is UpsampleConv2d and torch.equal(again(x), conv(x))


@needs_packing
def test_linear_layers_of_one_input() -> None:
    """Each layer gets its part of the joint product, for any shape of input, also after its weights change."""
    torch.manual_seed(0)
    layers = [nn.Linear(24, width).requires_grad_(False) for width in (8, 40, 16)]
    joint = JointLinear(*layers)
    for shape in ((1, 24), (5, 24), (2, 9, 24)):
        x = torch.randn(shape)
        for part, layer in zip(joint(x), layers, strict=True):
            exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
            assert part.shape == exact.shape and relative(part, exact) < 1e-6
        with unaccelerated():
            assert all(torch.equal(part, layer(x)) for part, layer in zip(joint(x), layers, strict=True))
    layers[1].bias.add_(1)
    layers[2].weight.mul_(-1)
    assert all(relative(part, layer(x)) < 1e-6 for part, layer in zip(joint(x), layers, strict=True))


@needs_packing
@pytest.mark.parametrize("divide_by", [1.0, 2.0])
@pytest.mark.parametrize("groups", [0, 4])
def test_one_head_attends_by_two_layers_as_by_four(groups: int, divide_by: float) -> None:
    """The results agree for weights so large that single positions get most of the attention, and with biases."""
    torch.manual_seed(0)
    attention = Attention(32, 32, groups, 1e-5, divide_by=divide_by).requires_grad_(False)
    for layer in (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]):
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    attention.channels_last = True
    x = torch.randn(2, 32, 6, 5).to(memory_format=torch.channels_last)
    before = attention(x)
    h = x if attention.group_norm is None else attention.group_norm(x)
    h = h.flatten(2).transpose(1, 2)
    weights = (attention.to_q(h) @ attention.to_k(h).transpose(1, 2) / 32**0.5).softmax(-1)
    assert float(weights.max(dim=-1).values.median()) > 0.5
    network = nn.Sequential(attention)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    accelerate(network)
    packed = network[0]
    assert isinstance(packed, SingleHeadAttention)
    assert relative(packed(x), before) < 1e-5
    with unaccelerated():
        assert torch.equal(packed(x), before)
    packed_state = network.state_dict()
    assert packed_state.keys() == state.keys() and all(
        torch.equal(packed_state[name], value) for name, value in state.items()
    )
    packed.to_out[0].bias.add_(1)
    assert relative(packed(x), before) > 0.01
    packed.to_out[0].bias.sub_(1)
    network.eval()
    decelerate(network)
    assert network[0] is attention and not attention.training and relative(attention(x), before) < 1e-6


@needs_packing
def test_several_heads_attend_as_they_are() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Attention(224, 8, 32, 1e-5).requires_grad_(False))
    x = torch.randn(1, 224, 4, 4)
    before = network(x)
    accelerate(network)
    assert type(network[0]) is PackedAttention
    assert relative(network(x), before) < 1e-6
    decelerate(network)
    assert type(network[0]) is Attention and torch.equal(network(x), before)


@needs_packing
@pytest.mark.skipif(not can_prepack(CPU, torch.bfloat16), reason="no bfloat16 kernels")
@pytest.mark.parametrize("config", [PLAIN, ONE_HEAD], ids=["heads", "one head"])
def test_networks_in_bfloat16_are_as_exact_as_plain_ones(config: UNetConfig) -> None:
    torch.manual_seed(0)
    network = config.build().eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    x, t = torch.randn(2, config.in_channels, 32, 16), torch.tensor([3.0, 700.0])
    exact = network(x, t)
    network.bfloat16()
    plain = relative(network(x.bfloat16(), t), exact)
    accelerate(network)
    assert relative(network(x.bfloat16(), t), exact) <= 1.2 * plain < 0.05


@needs_packing
@pytest.mark.skipif(not can_prepack(CPU, torch.bfloat16), reason="no bfloat16 kernels")
def test_in_bfloat16_as_exact_as_the_plain_one() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False).bfloat16()
    x = torch.randn(1, 64, 32, 32).bfloat16()
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    assert relative(PackedConv2d(conv)(x), exact) <= 1.05 * relative(conv(x), exact) < 3e-3


@needs_packing
@pytest.mark.parametrize(
    "config", [PLAIN, ONE_HEAD, GUIDED, RESIDUAL], ids=["UNet", "one head", "guided", "ResidualUNet"]
)
def test_networks_keep_parity_and_their_state(config: UNetConfig | ResidualUNetConfig) -> None:
    torch.manual_seed(0)
    network = config.build().eval().requires_grad_(False)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    x, t = torch.randn(2, config.in_channels, 32, 16), torch.tensor([3.0, 700.0])
    before = network(x, t)
    accelerate(network)
    assert sum(isinstance(module, PackedConv2d) for module in network.modules()) > 10
    assert not any(type(module) in replacement.REPLACEMENTS for module in network.modules())
    assert relative(network(x, t), before) < 1e-5
    packed_state = network.state_dict()
    assert packed_state.keys() == state.keys() and all(
        torch.equal(packed_state[key], value) for key, value in state.items()
    )
    other = config.build().eval()
    other.load_state_dict(packed_state)
    assert torch.equal(other(x, t), before)
    network.load_state_dict({key: 2 * value for key, value in state.items()})
    assert relative(network(x, t), before) > 0.1  # earlier packed weights are not used for other parameters
    network.load_state_dict(state)
    assert relative(network(x, t), before) < 1e-5
    decelerate(network)
    assert torch.equal(network(x, t), before)


@needs_packing
def test_weights_made_in_inference_mode_serve_too() -> None:
    with torch.inference_mode():
        network = RESIDUAL.build().eval()
        x, t = torch.randn(1, 12, 16, 16), torch.zeros(1)
        before = network(x, t)
        accelerate(network)
        assert relative(network(x, t), before) < 1e-5


@needs_packing
def test_what_cannot_be_packed_stays() -> None:
    network = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, padding_mode="reflect", padding=1))
    accelerate(network)
    assert not any(isinstance(module, PackedConv2d) for module in network)
    assert not can_prepack(CPU, torch.float64) and not can_prepack(torch.device("meta"), torch.float32)


@needs_packing
def test_priors_pack_and_change_their_precision() -> None:
    spec = ModelSpec(RESIDUAL, Schedule(), "v_prediction", patch_size=2)
    torch.manual_seed(0)
    network = RESIDUAL.build()
    plain = RESIDUAL.build()
    plain.load_state_dict(network.state_dict())
    prior = UNetPrior(network, spec)
    assert isinstance(prior.network.conv_in, PackedConv2d)
    again = UNetPrior(prior.network, spec)  # the network is prepacked already
    x = torch.randn(1, 3, 24, 24)
    assert torch.equal(prior.denoise(x, 0.3), again.denoise(x, 0.3))
    low = prior.resources.low_precision()
    assert low is not None and (full := low.resources.full_precision()) is not None
    assert relative(full.denoise(x, 0.3), prior.denoise(x, 0.3)) < 1e-2
    content = io.BytesIO()
    torch.save(prior.network.state_dict(), content)
    content.seek(0)
    plain.load_state_dict(torch.load(content, weights_only=True))


@needs_packing
@pytest.mark.parametrize("threshold", [1, 1 << 40])
def test_what_will_be_packed_is_foreseen(monkeypatch: pytest.MonkeyPatch, threshold: int) -> None:
    """The estimate counts all packed weights, twice for Winograd's algorithm, until the first evaluation packs them."""
    monkeypatch.setattr(prepacked, "MIN_MULTIPLICATIONS", threshold)
    prior = UNetPrior(RESIDUAL.build(), ModelSpec(RESIDUAL, Schedule(), "v_prediction", patch_size=2))
    layers = [m for m in prior.network.modules() if isinstance(m, Prepacked)]
    weights = sum(layer.count_packed(torch.float32) for layer in layers)
    direct = sum(layer.count_packed(torch.bfloat16) for layer in layers)  # without Winograd's algorithm
    assert 1.3 * direct < weights < 2 * direct
    parameters = sum(p.numel() for p in prior.network.parameters())
    assert weights > 10_000 and prior.resources.kept_bytes() == 4 * weights
    job = prepare_denoise(torch.rand(3, 32, 32), 10, prior=prior)
    before, low = job.required_bytes(), job.required_bytes(low=True)
    job.run()
    count = weights if threshold == 1 else direct
    assert sum(layer.held for layer in layers) == count
    caches = [layer._cache for layer in layers if layer.count_packed(torch.float32)]
    held = sum(torch.ops.mkldnn._nbytes(cache.weight) for cache in caches)
    held += sum(4 * cache.bias.numel() for cache in caches if cache.bias is not None)
    assert 1 <= held / (4 * count) <= 1.25  # layers of so few channels are padded to whole blocks
    assert prior.resources.kept_bytes() == 4 * (weights - count)
    assert before - job.required_bytes() == 4 * count
    # A copy in low precision has parameters of its own and has packed nothing yet.
    assert job.required_bytes(low=True) == low
    packed = direct if can_prepack(CPU, torch.bfloat16) else 0
    assert prior.resources.kept_bytes(low=True) == 2 * (packed + parameters)
    copy = prior.resources.low_precision()
    assert copy is not None and copy.resources.kept_bytes() == copy.resources.kept_bytes(low=True) == 2 * packed
    monkeypatch.setattr(prepacked, "MIN_MULTIPLICATIONS", 1)  # simulates a larger picture
    job.run()
    assert sum(layer.held for layer in layers) == weights and prior.resources.kept_bytes() == 0


@needs_packing
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [ONE_HEAD, RESIDUAL], ids=["UNet", "ResidualUNet"])
def test_under_autocast_they_still_answer(config: UNetConfig | ResidualUNetConfig, dtype: torch.dtype) -> None:
    """Under autocast, the input may have another precision than the weights."""
    torch.manual_seed(0)
    network = config.build().eval().requires_grad_(False)
    x, t = torch.randn(1, config.in_channels, 16, 16), torch.tensor([300.0])
    exact = network(x, t)
    accelerate(network)
    with torch.autocast("cpu", dtype):
        assert relative(network(x, t), exact) < 0.05


@needs_packing
@pytest.mark.parametrize("config", [ONE_HEAD, GUIDED, RESIDUAL], ids=["one head", "guided", "ResidualUNet"])
def test_its_operations_are_counted(config: UNetConfig | ResidualUNetConfig) -> None:
    network = config.build().eval().requires_grad_(False)
    x, t = torch.randn(1, config.in_channels, 16, 16), torch.zeros(1)
    plain = count_operations(lambda: network(x, t))
    accelerate(network)
    assert count_operations(lambda: network(x, t)) == plain > 1e6
