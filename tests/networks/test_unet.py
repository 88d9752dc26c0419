"""The U-Net, compared with diffusers' `UNet2DModel` with the same weights: every variant is equal bit for bit."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from restorer.networks.attention import Attention
from restorer.networks.fast.replacement import to_channels_last
from restorer.networks.time_embedding import timestep_features
from restorer.networks.unet import UNet, UNetConfig

# The published configurations (notes/hub.md 1.1), and the small one of appendix A of those notes.
GOOGLE: dict[str, Any] = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
CELEBA: dict[str, Any] = {
    **GOOGLE,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
}
CIFAR: dict[str, Any] = {
    **GOOGLE,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
TINY: dict[str, Any] = {
    **GOOGLE,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
PLAIN: dict[str, Any] = {
    "in_channels": 12,
    "out_channels": 12,
    "block_out_channels": (16, 24, 32),
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "add_attention": False,
}
ADM: dict[str, Any] = {  # Dhariwal & Nichol 2021, in the fields of diffusers
    "block_out_channels": (16, 32, 48),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "out_channels": 6,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attn_norm_num_groups": 8,
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "scale_shift",
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
VARIANTS = {
    "appendix A": TINY,
    "community": {**TINY, "attention_head_dim": 8, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0},
    "scale and shift": {**TINY, "resnet_time_scale_shift": "scale_shift", "attention_head_dim": 16},
    "centred, middle divided": {**TINY, "center_input_sample": True, "mid_block_scale_factor": math.sqrt(2)},
    "all at once": {
        **TINY,
        "resnet_time_scale_shift": "scale_shift",
        "center_input_sample": True,
        "mid_block_scale_factor": 1.5,
        "layers_per_block": 2,
    },
    "12 channels, no attention": PLAIN,
    "learned variance": {**TINY, "out_channels": 6},
    "another width of the time embedding": {**TINY, "time_embedding_dim": 72},
    "resnets change the size": ADM,
    "resnets change the size, no shift": {**ADM, "resnet_time_scale_shift": "default", "attn_norm_num_groups": None},
    "resnets downsample, convolutions upsample": {**ADM, "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")},
    "the middle normalized in other groups": {**ADM, "attn_norm_num_groups": 4},
    "the middle without normalization": {**ADM, "attn_norm_num_groups": None},
    "one half attends": {**TINY, "down_block_types": ("DownBlock2D",) * 2, "attention_head_dim": 8},
    "three levels": {
        **TINY,
        "block_out_channels": (16, 32, 24),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
    },
}


def build_on_meta(network: type[nn.Module], config: Any, **fields: Any) -> nn.Module:
    """Return a network whose parameters have no memory."""
    with torch.device("meta"):
        return (network(config) if network is UNet else network(**fields)).eval()


def random_weights(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights that are as large as after an initialization; those of norms lie around 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in network.state_dict().items():
        bound = 1 / math.sqrt(max(value[0].numel(), 16)) if value.ndim > 1 else 0.2
        weight = torch.empty(value.shape).uniform_(-bound, bound, generator=generator)
        state[key] = weight + 1 if "norm" in key and key.endswith("weight") else weight
    return state


def pair(diffusers: ModuleType, fields: dict[str, Any]) -> tuple[UNet, nn.Module]:
    """Return our network and diffusers' with the same weights, and check that names and shapes agree."""
    theirs, ours = build_on_meta(diffusers.UNet2DModel, None, **fields), build_on_meta(UNet, UNetConfig(**fields))
    state = random_weights(theirs)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in state.items()}
    ours.load_state_dict(state, assign=True)
    theirs.load_state_dict(state, assign=True)
    assert isinstance(ours, UNet)
    return ours, theirs


def inputs(batch: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return random pictures and the timestep of each."""
    x = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([10.0, 731.25, 3.5])[:batch]


@torch.no_grad()
def assert_equal(ours: UNet, theirs: nn.Module, x: Tensor, t: Tensor) -> None:
    """Check that the outputs are equal bit for bit, finite and not constant."""
    output, reference = ours(x, t), theirs(x, t).sample
    assert output.shape == reference.shape and bool(output.isfinite().all()) and float(output.std()) > 1e-3
    assert torch.equal(output, reference)


@pytest.mark.parametrize(
    ("fields", "parameters", "shape"),
    [(CELEBA, 113_673_219, (1, 3, 32, 64)), (CIFAR, 35_746_307, (2, 3, 8, 16))],
    ids=["ddpm-celebahq-256", "ddpm-cifar10-32"],
)
def test_published_networks_in_full_width(
    diffusers: ModuleType, fields: dict[str, Any], parameters: int, shape: tuple[int, int, int, int]
) -> None:
    ours, theirs = pair(diffusers, fields)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert_equal(ours, theirs, *inputs(*shape))


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_every_variant(diffusers: ModuleType, fields: dict[str, Any]) -> None:
    ours, theirs = pair(diffusers, fields)
    assert_equal(ours, theirs, *inputs(3, ours.config.in_channels, 16, 24))


@torch.no_grad()
def test_as_many_heads_at_every_width(diffusers: ModuleType) -> None:
    """Two heads of 64 features have 32 each, so a number of heads and a width are the same if one width attends."""
    ours, theirs = pair(diffusers, {**TINY, "attention_head_dim": 32})
    same = build_on_meta(UNet, UNetConfig(**TINY, attention_heads=2))
    same.load_state_dict(ours.state_dict(), assign=True)
    x, t = inputs(2, 3, 16, 16)
    assert torch.equal(same(x, t), theirs(x, t).sample)
    widths = UNetConfig(**{**ADM, "attention_head_dim": None}, attention_heads=2)
    network = build_on_meta(UNet, widths)
    heads = {m.to_q.in_features: m.head_dim for m in network.modules() if isinstance(m, Attention)}
    assert heads == {32: 16, 48: 24}


def test_parameters_of_the_small_network() -> None:
    network = build_on_meta(UNet, UNetConfig(**TINY))
    assert sum(p.numel() for p in network.parameters()) == 702_499
    assert len(network.state_dict()) == 144


def test_what_a_configuration_leaves_out_is_the_default_of_diffusers(diffusers: ModuleType) -> None:
    ours, theirs = UNetConfig(), build_on_meta(diffusers.UNet2DModel, None).config
    for name in UNetConfig.__dataclass_fields__:
        is_ours_alone = name in ("attention_heads", "time_features")
        assert getattr(ours, name) == (None if is_ours_alone else theirs[name]), name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("downsample_padding", 1),
        ("freq_shift", 0),
        ("flip_sin_to_cos", True),
        ("attention_head_dim", 8),
        ("mid_block_scale_factor", 2.0),
        ("center_input_sample", True),
        ("norm_eps", 1e-2),
        ("norm_num_groups", 4),
        ("attn_norm_num_groups", 4),
    ],
)
@torch.no_grad()
def test_fields_that_a_state_dict_does_not_show(diffusers: ModuleType, field: str, value: Any) -> None:
    """The same weights load either way, so each field must change the picture, and change it as in diffusers."""
    ours, _ = pair(diffusers, TINY)
    changed, theirs = pair(diffusers, {**TINY, field: value})
    x, t = inputs(2, 3, 16, 16)
    assert float((ours(x, t) - changed(x, t)).abs().max()) > 1e-3
    assert_equal(changed, theirs, x, t)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("flip", [False, True])
def test_timestep_features(flip: bool, shift: int) -> None:
    """The features are sin and cos of t / 10000^(k / (half - shift))."""
    t, half = [0.0, 1.0, 41.5, 999.0], 8
    features = timestep_features(torch.tensor(t), 2 * half, flip=flip, shift=shift)
    angles = [[s / 10000 ** (k / (half - shift)) for k in range(half)] for s in t]
    sines, cosines = ([[f(a) for a in row] for row in angles] for f in (math.sin, math.cos))
    first, second = (cosines, sines) if flip else (sines, cosines)
    torch.testing.assert_close(features, torch.cat([torch.tensor(first), torch.tensor(second)], 1), rtol=0, atol=2e-4)


@torch.no_grad()
def test_items_of_a_batch_do_not_meet() -> None:
    network = UNet(UNetConfig(**PLAIN)).eval()
    x, t = inputs(3, 12, 8, 16)
    together = network(x, t)
    for k in range(3):
        torch.testing.assert_close(network(x[k : k + 1], t[k : k + 1])[0], together[k], rtol=1e-5, atol=1e-5)


def test_stride_is_what_sizes_must_be_a_multiple_of() -> None:
    network = UNet(UNetConfig(**PLAIN)).eval()
    assert network.stride == 4
    with torch.no_grad():
        assert network(torch.zeros(1, 12, 4, 12), torch.zeros(1)).shape == (1, 12, 4, 12)
        with pytest.raises(RuntimeError):  # the skip connections do not fit
            network(torch.zeros(1, 12, 6, 12), torch.zeros(1))


@pytest.mark.parametrize(
    "fields",
    [
        {"block_out_channels": (32, 64, 96)},
        {"down_block_types": ("DownBlock2D",)},
        {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
        {"down_block_types": ("SkipDownBlock2D", "DownBlock2D")},
        {"block_out_channels": (32, 60)},
        {"resnet_time_scale_shift": "spatial"},
        {"downsample_type": "fir"},
        {"upsample_type": None},
        {"attn_norm_num_groups": 7},
        {"attention_head_dim": 24},
        {"attention_heads": 24},
        {"attention_heads": 0},
    ],
    ids=str,
)
def test_impossible_networks_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        UNetConfig(**{**TINY, **fields})


@pytest.mark.parametrize("fields", [TINY, ADM], ids=["TINY", "ADM"])
def test_memory_formats_agree(fields: dict[str, Any]) -> None:
    """Attention reads channels_last maps without reordering them, and sums in another order."""
    torch.manual_seed(0)
    network = UNetConfig(**fields).build().eval()
    x, t = torch.randn(2, 3, 16, 24), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        plain = network(x, t)
        again = to_channels_last(network)(x.to(memory_format=torch.channels_last), t)
    assert float((again - plain).abs().max()) < 1e-5 * float(plain.abs().max())
