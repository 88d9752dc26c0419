"""The U-Net without normalization: it computes its formula, and a pixel depends only on its surroundings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from restorer.networks.residual_unet import ResidualBlock, ResidualUNet, ResidualUNetConfig
from restorer.networks.time_embedding import timestep_features

SMALL = ResidualUNetConfig(in_channels=3, out_channels=6, block_out_channels=(8, 12), layers_per_block=1)


def build(config: ResidualUNetConfig = SMALL, seed: int = 0) -> ResidualUNet:
    """Return a network in which every parameter has an effect, because none is zero."""
    torch.manual_seed(seed)
    network = config.build().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def picture(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return normal random numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_block_is_its_formula() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 16).double()
    for parameter in block.parameters():
        parameter.data.copy_(torch.randn_like(parameter))
    x, embedding = picture(2, 8, 5, 7), picture(2, 16)
    before = x.clone()
    modulation = embedding @ block.time_emb_proj.weight.T + block.time_emb_proj.bias
    scale, shift = modulation[:, :8, None, None], modulation[:, 8:, None, None]
    h = F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1)
    h = ((1 + scale) * h + shift).clamp(min=0)
    expected = x + F.conv2d(h, block.conv2.weight, block.conv2.bias, padding=1)
    answer = block(x, [modulation])
    torch.testing.assert_close(answer, expected)
    assert torch.equal(x, before)  # with gradients, the block does not write to its input
    with torch.no_grad():
        again = block(x, [modulation])
    assert torch.equal(again, answer) and again.data_ptr() == x.data_ptr()


@torch.no_grad()
def test_the_network_is_its_drawing() -> None:
    """The output is that of the layers called one by one for two levels: down, bottom, up and one sum."""
    network = build()
    x, t = picture(2, 3, 8, 12), torch.tensor([3.5, 900.0], dtype=torch.float64)
    embedding = F.silu(network.time_embedding(timestep_features(t, 8, flip=True, shift=0).double()))

    def apply(block: ResidualBlock, h: torch.Tensor) -> torch.Tensor:
        """Apply a block, giving it no projection but its own."""
        return block(h, {block.slot: block.time_emb_proj(embedding)})

    fine = apply(network.down_blocks[0][0], network.conv_in(x))
    coarse = F.conv2d(fine, network.downsamplers[0].weight, network.downsamplers[0].bias, stride=2)
    for block in (network.down_blocks[1][0], *network.up_blocks[1]):
        coarse = apply(block, coarse)
    upsampled = F.conv_transpose2d(coarse, network.upsamplers[0].weight, network.upsamplers[0].bias, stride=2)
    h = fine + upsampled
    for block in network.up_blocks[0]:
        h = apply(block, h)
    torch.testing.assert_close(network(x, t), network.conv_out(h))


@pytest.mark.parametrize("widths", [(4,), (4, 6), (4, 6, 8, 10)])
@torch.no_grad()
def test_shape_and_stride(widths: tuple[int, ...]) -> None:
    network = build(ResidualUNetConfig(5, 7, widths, 2))
    assert network.stride == 2 ** (len(widths) - 1)
    x = picture(2, 5, network.stride, 3 * network.stride)
    assert network(x, torch.tensor([0.0, 999.0])).shape == (2, 7, *x.shape[-2:])


def test_every_parameter_counts() -> None:
    network = build()
    network(picture(2, 3, 8, 8), torch.tensor([10.0, 500.0])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


@torch.no_grad()
def test_pictures_of_a_batch_do_not_touch() -> None:
    network, x, t = build(), picture(3, 3, 8, 8), torch.tensor([1.0, 300.0, 999.0])
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, t), alone)
    assert not torch.allclose(network(x, t), network(x, t.flip(0)))


@torch.no_grad()
def test_a_pixel_depends_on_its_surroundings_alone() -> None:
    """Pixels far away change nothing, bit for bit, because no statistic of the whole picture enters; nearby ones do."""
    network, t = build(), torch.tensor([200.0])
    x = picture(1, 3, 96, 96)
    other = x.clone()
    other[..., 64:] = 5 * picture(1, 3, 96, 32, seed=2) + 1
    same = (network(x, t) == network(other, t)).all(dim=1)[0].all(dim=0)
    assert bool(same[:32].all()) and not bool(same[60:].any())


@torch.no_grad()
def test_moved_by_the_stride_is_moved_by_the_stride() -> None:
    """Far from the borders, the output moves with the input."""
    network, t = build(), torch.tensor([200.0])
    x = picture(1, 3, 96, 96)
    moved = torch.roll(x, (2, 4), dims=(-2, -1))
    inside = (..., slice(36, 60), slice(36, 60))
    torch.testing.assert_close(network(moved, t)[inside], torch.roll(network(x, t), (2, 4), dims=(-2, -1))[inside])


def test_it_starts_close_to_a_linear_map() -> None:
    """A residual block adds little after its initialization."""
    torch.manual_seed(0)
    block = ResidualBlock(64, 16)
    x = torch.randn(4, 64, 16, 16)
    with torch.no_grad():
        added = block(x.clone(), [block.time_emb_proj(torch.randn(4, 16))]) - x
    assert 0.01 < float(added.std()) < 0.3


@pytest.mark.parametrize(
    "fields",
    [
        {"block_out_channels": ()},
        {"block_out_channels": (8, 0)},
        {"in_channels": 0},
        {"out_channels": -1},
        {"layers_per_block": 0},
    ],
)
def test_shapes_that_no_network_has(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"block_out_channels|at least 1"):
        ResidualUNetConfig(**fields)  # type: ignore[arg-type]
