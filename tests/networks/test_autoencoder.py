"""The autoencoders, compared with diffusers' `VQModel` and `AutoencoderKL` with the same weights."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from autoencoders import TINY, VQ, normal, pair
from torch import Tensor, nn

from restorer.networks import autoencoder
from restorer.networks.autoencoder import (
    AUTOENCODERS,
    AutoencoderConfig,
    AutoencoderKL,
    KLConfig,
    Quantizer,
    VQConfig,
    VQModel,
)

# The autoencoder of CompVis/ldm-super-resolution-4x-openimages and CompVis/ldm-celebahq-256 (notes/hub.md 1.1).
PUBLISHED: dict[str, Any] = {
    "block_out_channels": (128, 256, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 2,
    "latent_channels": 3,
    "num_vq_embeddings": 8192,
}
ATTENDING: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vq": ("VQModel", VQ),
    "vq, two resnets per level": ("VQModel", {**VQ, "layers_per_block": 2}),
    "vq, codes of another width": ("VQModel", {**VQ, "latent_channels": 5, "vq_embed_dim": 2}),
    "vq, no attention": ("VQModel", {**VQ, "mid_block_add_attention": False}),
    "vq, attention in the levels": ("VQModel", {**VQ, **ATTENDING}),
    "vq, gray in, five channels out": ("VQModel", {**VQ, "in_channels": 1, "out_channels": 5}),
    "kl": ("AutoencoderKL", TINY),
    "kl, two resnets per level": ("AutoencoderKL", {**TINY, "layers_per_block": 2}),
    "kl, no convolution before": ("AutoencoderKL", {**TINY, "use_quant_conv": False}),
    "kl, no convolution after": ("AutoencoderKL", {**TINY, "use_post_quant_conv": False}),
    "kl, no attention": ("AutoencoderKL", {**TINY, "mid_block_add_attention": False}),
    "kl, attention in the levels": ("AutoencoderKL", {**TINY, **ATTENDING}),
    "kl, 16 channels": ("AutoencoderKL", {**TINY, "latent_channels": 16}),
    "kl, one level": (
        "AutoencoderKL",
        {
            "block_out_channels": (8,),
            "down_block_types": ("DownEncoderBlock2D",),
            "up_block_types": ("UpDecoderBlock2D",),
            "norm_num_groups": 2,
        },
    ),
}


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    """Check that two outputs are equal bit for bit, finite and not constant."""
    assert ours.shape == theirs.shape and bool(ours.isfinite().all()) and float(ours.std()) > 1e-3
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("kind", "fields"), VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(("height", "width"), [(16, 24), (19, 13)])
@torch.no_grad()
def test_encode(diffusers: ModuleType, kind: str, fields: dict[str, Any], height: int, width: int) -> None:
    ours, theirs = pair(diffusers, kind, fields)
    x = normal(2, ours.config.in_channels, height, width)
    z, reference = ours.encode(x), theirs.encode(x)
    assert z.shape == (2, ours.latent_channels, height // ours.stride, width // ours.stride)
    assert_equal(z, reference.latents if kind == "VQModel" else reference.latent_dist.mode())


@pytest.mark.parametrize(("kind", "fields"), VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (1, 1)])
@torch.no_grad()
def test_decode(diffusers: ModuleType, kind: str, fields: dict[str, Any], height: int, width: int) -> None:
    ours, theirs = pair(diffusers, kind, fields)
    z = normal(2, ours.latent_channels, height, width)
    decoded, reference = ours.decode(z), theirs.decode(z).sample
    assert decoded.shape == (2, ours.config.out_channels, height * ours.stride, width * ours.stride)
    if kind == "AutoencoderKL":
        assert_equal(decoded, reference)
        return
    # For the gradient, diffusers returns z + (code - z), which rounds, so the outputs agree only to a tolerance.
    assert float(decoded.std()) > 1e-3 and float((decoded - reference).abs().max()) <= 1e-5
    assert_equal(ours.decode(z, quantize=False), theirs.decode(z, force_not_quantize=True).sample)
    assert float((decoded - ours.decode(z, quantize=False)).abs().max()) > 1e-2


@torch.no_grad()
def test_a_draw_from_the_posterior(diffusers: ModuleType) -> None:
    ours, theirs = pair(diffusers, "AutoencoderKL", TINY)
    x = normal(2, 3, 16, 24)
    noise = normal(2, 4, 4, 6, seed=5)
    drawn = theirs.encode(x).latent_dist.sample(torch.Generator().manual_seed(5))
    assert_equal(ours.encode(x, noise), drawn)
    assert float((drawn - ours.encode(x)).abs().max()) > 0.1


@pytest.mark.parametrize(("log_variance", "deviation"), [(1000.0, math.exp(10)), (-1000.0, math.exp(-15))])
@torch.no_grad()
def test_the_posterior_stays_finite(log_variance: float, deviation: float) -> None:
    """The log variance is clamped to -30..20."""
    network = KLConfig(**TINY).build()
    network.quant_conv.weight.zero_()
    network.quant_conv.bias.copy_(torch.tensor([0.0] * 4 + [log_variance] * 4))
    z = network.encode(torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 1, 1))
    torch.testing.assert_close(z, torch.full_like(z, deviation))


@torch.no_grad()
def test_the_published_network_in_full_width(diffusers: ModuleType) -> None:
    ours, theirs = pair(diffusers, "VQModel", PUBLISHED)
    assert sum(p.numel() for p in ours.parameters()) == 55_322_782
    assert ours.stride == 4
    z = normal(1, 3, 5, 4)
    assert float((ours.decode(z) - theirs.decode(z).sample).abs().max()) <= 1e-5
    assert_equal(ours.encode(normal(1, 3, 16, 16)), theirs.encode(normal(1, 3, 16, 16)).latents)


def test_the_quantizer_returns_the_nearest_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes are those of a search position by position, for any number of distances held at once."""
    quantizer = Quantizer(50, 3)
    nn.init.normal_(quantizer.embedding.weight, generator=torch.Generator().manual_seed(2))
    codes, z = quantizer.embedding.weight.detach(), normal(2, 3, 5, 4)
    nearest = torch.tensor(
        [[[int((codes - z[b, :, i, j]).square().sum(1).argmin()) for j in range(4)] for i in range(5)] for b in (0, 1)]
    )
    assert torch.equal(quantizer.indices(z), nearest)
    assert torch.equal(quantizer(z), codes[nearest].permute(0, 3, 1, 2))
    for distances in (1, 150, 1000):
        monkeypatch.setattr(autoencoder, "DISTANCES", distances)
        assert torch.equal(quantizer.indices(z), nearest)
    assert torch.equal(quantizer(quantizer(z)), quantizer(z))
    assert quantizer.bfloat16()(z.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", AUTOENCODERS)
@torch.no_grad()
def test_the_field_that_a_state_dict_does_not_show(diffusers: ModuleType, kind: str) -> None:
    """The same weights load with another norm_num_groups, and only the picture differs."""
    (ours, _), (changed, theirs) = pair(diffusers, kind, TINY), pair(diffusers, kind, {**TINY, "norm_num_groups": 2})
    x = normal(1, 3, 16, 16)
    z = ours.encode(x)
    assert float((z - changed.encode(x)).abs().max()) > 1e-3
    assert float((ours.decode(z) - changed.decode(z)).abs().max()) > 1e-3
    assert float((changed.decode(z) - theirs.decode(z).sample).abs().max()) <= 1e-5


@torch.no_grad()
def test_the_encoder_pads_at_the_right_and_bottom_only() -> None:
    """The first tap of the convolution lies on the picture, and the last one lies outside at the far borders."""
    network = VQConfig(
        block_out_channels=(2, 2),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=1,
    ).build()
    down = network.encoder.down_blocks[0].downsamplers[0]
    down.conv.weight.zero_()
    down.conv.bias.zero_()
    down.conv.weight[0, 0] = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 10]])
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 2, 4, 4)
    # The top left tap sees 0, 2, 8 and 10. The bottom right tap sees 10 once, and then zeros.
    assert down(x)[0, 0].tolist() == [[0 + 10 * 10, 2], [8, 10]]


def test_defaults_are_those_of_diffusers(diffusers: ModuleType) -> None:
    """All defaults agree except the scaling factor of a VQModel (notes/hub.md 4.1)."""
    with torch.device("meta"):
        theirs = {name: getattr(diffusers, name)().config for name in AUTOENCODERS}
    for kind, config in AUTOENCODERS.items():
        for name in config.__dataclass_fields__:
            if (kind, name) != ("VQModel", "scaling_factor"):
                assert getattr(config(), name) == theirs[kind][name], (kind, name)
    assert VQConfig().scaling_factor == 1.0
    assert theirs["VQModel"]["scaling_factor"] == KLConfig().scaling_factor == 0.18215


def test_every_field_of_diffusers_is_known_or_refused_or_changes_nothing(diffusers: ModuleType) -> None:
    """If a later diffusers adds a field, this test fails."""
    ignored = {"sample_size", "force_upcast"}  # the native size, and the precision in which a pipeline decodes
    for kind, config in AUTOENCODERS.items():
        with torch.device("meta"):
            names = {name for name in getattr(diffusers, kind)().config if not name.startswith("_")}
        assert names <= {*config.__dataclass_fields__, *autoencoder.FIXED, *ignored}


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_a_configuration_as_it_stands_in_a_file(diffusers: ModuleType, kind: str) -> None:
    config = AUTOENCODERS[kind]
    with torch.device("meta"):
        theirs = getattr(diffusers, kind)(**TINY, scaling_factor=0.5)
        content = {name: list(v) if isinstance(v, tuple) else v for name, v in theirs.config.items()}
        ours = config.from_fields({**content, "_class_name": kind, "_name_or_path": "somewhere"})
        assert ours == config(**TINY, scaling_factor=0.5)
        expected = {key: value.shape for key, value in theirs.state_dict().items()}
        assert {key: value.shape for key, value in ours.build().state_dict().items()} == expected


def test_a_configuration_of_next_to_nothing() -> None:
    assert VQConfig.from_fields({}) == VQConfig()
    assert KLConfig.from_fields({"shift_factor": 0.1159, "act_fn": "swish"}) == KLConfig(shift_factor=0.1159)


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (VQConfig, {"block_out_channels": [8, 16]}),
        (VQConfig, {"block_out_channels": []}),
        (VQConfig, {"block_out_channels": 8}),
        (VQConfig, {"block_out_channels": [8, 16, 4096]}),
        (VQConfig, {"block_out_channels": [8, 16, 18]}),
        (VQConfig, {"block_out_channels": [8, 16, 16.0]}),
        (VQConfig, {"block_out_channels": [8, 16, [16]]}),
        (VQConfig, {"block_out_channels": [4] * 9, "down_block_types": ["DownEncoderBlock2D"] * 9}),
        (VQConfig, {"down_block_types": ["DownBlock2D"] * 3}),
        (VQConfig, {"down_block_types": [["DownEncoderBlock2D"]] * 3}),
        (VQConfig, {"up_block_types": ["UpDecoderBlock2D"] * 2}),
        (VQConfig, {"up_block_types": None}),
        (VQConfig, {"in_channels": 0}),
        (VQConfig, {"in_channels": True}),
        (VQConfig, {"layers_per_block": 1.0}),
        (VQConfig, {"layers_per_block": 7}),
        (VQConfig, {"latent_channels": "3"}),
        (VQConfig, {"norm_num_groups": None}),
        (VQConfig, {"norm_num_groups": 0}),
        (VQConfig, {"num_vq_embeddings": 2**40}),
        (VQConfig, {"vq_embed_dim": 0}),
        (VQConfig, {"mid_block_add_attention": 1}),
        (VQConfig, {"scaling_factor": None}),
        (VQConfig, {"scaling_factor": 0}),
        (VQConfig, {"scaling_factor": -1.0}),
        (VQConfig, {"scaling_factor": math.nan}),
        (VQConfig, {"scaling_factor": math.inf}),
        (VQConfig, {"scaling_factor": 10**400}),
        (VQConfig, {"scaling_factor": True}),
        (VQConfig, {"act_fn": "gelu"}),
        (VQConfig, {"norm_type": "spatial"}),
        (VQConfig, {"lookup_from_codebook": True}),
        (KLConfig, {"latents_mean": [0.0] * 4}),
        (KLConfig, {"latents_std": [1.0] * 4}),
        (KLConfig, {"shift_factor": math.nan}),
        (KLConfig, {"shift_factor": "0"}),
        (KLConfig, {"use_quant_conv": None}),
        (KLConfig, {"use_post_quant_conv": "no"}),
    ],
    ids=str,
)
def test_impossible_networks_are_refused(config: type[AutoencoderConfig], fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        config.from_fields({**TINY, **fields})


def test_a_network_knows_its_shape() -> None:
    assert isinstance(VQConfig(**VQ).build(), VQModel) and isinstance(KLConfig(**TINY).build(), AutoencoderKL)
    assert VQConfig(**VQ).build().latent_channels == 3 and KLConfig(**TINY).build().latent_channels == 4
    assert KLConfig(**TINY).stride == 4 and VQConfig().stride == 1
