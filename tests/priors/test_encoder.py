"""The features of the embedded prior's encoder: the same as those of the whole network, and no others are read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from restorer.diffusion.schedule import Schedule, alpha_bar_of
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.networks.unet import UNetConfig
from restorer.priors.encoder import encode
from restorer.priors.unet_prior import ModelSpec, UNetPrior

SIGMA = 0.07


def made_prior(seed: int = 0) -> UNetPrior:
    """Return a prior with a small network whose every weight is drawn."""
    torch.manual_seed(seed)
    config = ResidualUNetConfig(12, 12, (8, 16, 24))
    network = config.build()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2)
    return UNetPrior(network, ModelSpec(config, Schedule("linear"), patch_size=2))


def test_features_are_what_the_network_makes_of_the_scaled_picture() -> None:
    prior, x = made_prior(), torch.rand(2, 3, 32, 48) * 2 - 1
    features = encode(prior, x, SIGMA)
    assert [tuple(f.shape) for f in features] == [(2, 8, 16, 24), (2, 16, 8, 12), (2, 24, 4, 6)]
    level = torch.tensor([SIGMA], dtype=torch.float64)
    folded = nn.functional.pixel_unshuffle(float(alpha_bar_of(level).sqrt()) * x, 2)
    network = prior.network
    t = prior.spec.schedule.t_at(level).float().expand(2)
    times = network.embed_time(t, torch.float32)  # type: ignore[operator]
    with torch.no_grad():
        first = network.down_blocks[0][0](network.conv_in(folded), times)  # type: ignore[operator,index]
        second = network.down_blocks[1][0](network.downsamplers[0](first), times)  # type: ignore[operator,index]
    torch.testing.assert_close(features[0], first)
    torch.testing.assert_close(features[1], second)


def test_the_noise_level_and_the_picture_matter() -> None:
    prior, x = made_prior(), torch.rand(1, 3, 32, 32)
    one, other = encode(prior, x, SIGMA), encode(prior, x, 4 * SIGMA)
    assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(one, other, strict=True))


def test_other_networks_are_refused() -> None:
    config = UNetConfig(3, 3, (8, 8), ("DownBlock2D",) * 2, ("UpBlock2D",) * 2, norm_num_groups=4, add_attention=False)
    prior = UNetPrior(config.build(), ModelSpec(config, Schedule("linear")))
    with pytest.raises(TypeError, match="ResidualUNet"):
        encode(prior, torch.rand(1, 3, 16, 16), SIGMA)
