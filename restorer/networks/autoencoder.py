"""The autoencoders of latent diffusion, in the layout of diffusers' `VQModel` and `AutoencoderKL`.

    picture (B, 3, H, W) -> encoder -> quant_conv -> latents z (B, C, H / stride, W / stride)
    z -> [nearest code of the codebook] -> post_quant_conv -> decoder -> picture

The network is that of VQGAN (Esser et al. 2021, https://arxiv.org/abs/2012.09841, appendix A); Rombach et al. 2022
(https://arxiv.org/abs/2112.10752, section 3.1) run the diffusion on its latents. What keeps these close to unit size is
either a codebook, looked up after the diffusion as the first layer of the decoder, or a Gaussian posterior drawn
slightly towards N(0, I), the variational autoencoder of Kingma & Welling 2014 (https://arxiv.org/abs/1312.6114).

Modules carry the names that the Hub's checkpoints use, so a state dict loads without a converter. The order of
operations follows that layout too: with equal weights the outputs are equal bit for bit
(tests/networks/test_autoencoder.py). Pictures are on [-1, 1], and what comes out is not clamped. Latents are those of
the network itself: `scaling_factor` stands in the configuration for whoever runs a diffusion on them, and is applied
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from restorer.networks.attention import Attention
from restorer.networks.fast.prepacked import convolved
from restorer.networks.layers import activated
from restorer.networks.unet import Downsample, Upsample

__all__ = ["AUTOENCODERS", "Autoencoder", "AutoencoderConfig", "AutoencoderKL", "KLConfig", "VQConfig", "VQModel"]

EPS = 1e-6  # of every normalization: in this layout it stands in no configuration
DISTANCES = 2**24  # entries of the table of distances to the codes that is held at one time: 64 MiB
LOG_VARIANCE = (-30.0, 20.0)  # limits of the posterior's log variance, so that its exponential stays finite

# Fields that change the output, and the values of each that are implemented, the default first.
FIXED: dict[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "norm_type": ("group",),  # "spatial": the normalization of MoVQ
    "lookup_from_codebook": (False,),  # True: latents are the numbers of codes
    "latents_mean": (None,),
    "latents_std": (None,),
}
# Lowest and highest value of every whole number; whatever lies outside belongs to no network that is known.
INTEGERS = {
    "in_channels": (1, 8),
    "out_channels": (1, 8),
    "layers_per_block": (1, 6),
    "latent_channels": (1, 512),
    "norm_num_groups": (1, 1024),
    "num_vq_embeddings": (1, 2**18),
    "vq_embed_dim": (1, 512),
}
OPTIONAL = ("vq_embed_dim", "shift_factor")  # may be left empty, by null in a config.json
WIDEST, DEEPEST, LARGEST = 2048, 8, 1e6


@dataclass(frozen=True)
class AutoencoderConfig:
    """The fields that both kinds of autoencoder have, under the layout's own names and with its defaults.

    Args:
        in_channels, out_channels: of pictures.
        block_out_channels: features of each level, the finest first; each level halves the size but the last.
        down_block_types, up_block_types: one a level, the coarsest first on the way up; Attn... attends.
        layers_per_block: resnets of a level of the encoder; the decoder has one more.
        latent_channels: channels of latents.
        norm_num_groups: groups of every normalization.
        mid_block_add_attention: whether the coarsest level attends over all positions.
        scaling_factor: the diffusion runs on `scaling_factor * z` (Rombach et al. 2022, section 4.3.2).

    Raises:
        ValueError: a field of the wrong kind or size, or a combination that no network of this layout has.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    layers_per_block: int = 1
    latent_channels: int = 3
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, field.type, getattr(self, field.name), field.name in OPTIONAL)
        if self.scaling_factor <= 0:
            raise ValueError("scaling_factor is above 0")
        widths, levels = self.block_out_channels, len(self.block_out_channels)
        if not 1 <= levels <= DEEPEST or not all(type(w) is int and 1 <= w <= WIDEST for w in widths):
            raise ValueError(f"block_out_channels are 1 to {DEEPEST} whole numbers from 1 to {WIDEST}")
        if not levels == len(self.down_block_types) == len(self.up_block_types):
            raise ValueError("block_out_channels, down_block_types and up_block_types differ in length")
        for kinds, known in (
            (self.down_block_types, ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")),
            (self.up_block_types, ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")),
        ):
            if unknown := {str(kind)[:40] for kind in kinds} - set(known):
                raise ValueError(f"unknown block types {sorted(unknown)}: an autoencoder has {', '.join(known)}")
        if any(width % self.norm_num_groups for width in widths):
            raise ValueError(f"every width must be a multiple of norm_num_groups ({self.norm_num_groups})")

    @classmethod
    def from_fields(cls, content: Mapping[str, Any]) -> Self:
        """What a config.json says. Fields left out take the defaults above; those unknown here are passed over.

        Raises:
            ValueError: as the class, and where a field asks for something that is not implemented.
        """
        for name, known in FIXED.items():
            if content.get(name, known[0]) not in known:
                raise ValueError(f"{name} {str(content[name])[:40]} is not supported")
        given: dict[str, Any] = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        for name, value in given.items():
            if isinstance(value, list):
                given[name] = tuple(value)
        return cls(**given)

    @property
    def stride(self) -> int:
        """Pixels of a picture along one side of one latent position."""
        return 2 ** (len(self.block_out_channels) - 1)

    def build(self) -> Autoencoder:
        """The network, with fresh weights."""
        raise NotImplementedError


@dataclass(frozen=True)
class VQConfig(AutoencoderConfig):
    """The configuration of a `VQModel`.

    A scaling_factor left out is 1 here, although diffusers says 0.18215: the published models of this kind (CompVis)
    have no such field and were trained on latents as they are.

    Args:
        num_vq_embeddings: codes in the codebook.
        vq_embed_dim: channels of a code; None for latent_channels.
    """

    num_vq_embeddings: int = 256
    vq_embed_dim: int | None = None

    def build(self) -> VQModel:
        """The network, with fresh weights."""
        return VQModel(self)


@dataclass(frozen=True)
class KLConfig(AutoencoderConfig):
    """The configuration of an `AutoencoderKL`.

    Args:
        shift_factor: the diffusion runs on `scaling_factor * (z - shift_factor)`; None is 0.
        use_quant_conv, use_post_quant_conv: whether there is a 1x1 convolution on either side of the latents.
    """

    latent_channels: int = 4
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def build(self) -> AutoencoderKL:
        """The network, with fresh weights."""
        return AutoencoderKL(self)


def _check(name: str, kind: str | type, value: object, optional: bool) -> None:
    """Refuse a value that is not of the kind that its field is annotated with, or out of range."""
    if value is None and optional:
        return
    kind, shown = str(kind), str(value)[:40]
    if name in INTEGERS:
        low, high = INTEGERS[name]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} must lie between {low} and {high}, not {shown}")
    elif kind.startswith("tuple"):
        if not isinstance(value, tuple):
            raise ValueError(f"{name} is a list, not {shown}")
    elif kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"{name} is true or false, not {shown}")
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise ValueError(f"{name} is a number of at most {LARGEST:g}, not {shown}")


class ResnetBlock(nn.Module):
    """norm, SiLU, conv, twice; plus the input, by a 1x1 convolution if the widths differ. It knows no time.

    Where no gradients are wanted, the input is overwritten.
    """

    def __init__(self, groups: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, EPS)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, c_out, EPS)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(activated(self.norm1, x))
        x = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return convolved(self.conv2, activated(self.norm2, h), plus=x, overwrite=True)


def _attention(groups: int, width: int) -> Attention:
    """The U-Net's attention, with one head as wide as the block."""
    return Attention(width, width, groups, EPS)


class Level(nn.Module):
    """Resnets of one size, with attention after each where asked for; the samplers after them are the subclass's."""

    def __init__(self, groups: int, c_in: int, c_out: int, layers: int, *, attend: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(groups, c_out if j else c_in, c_out) for j in range(layers)])
        self.attentions = nn.ModuleList([_attention(groups, c_out) for _ in range(layers if attend else 0)])

    def forward(self, x: Tensor) -> Tensor:
        for j, resnet in enumerate(self.resnets):
            x = resnet(x)
            if self.attentions:
                x = self.attentions[j](x)
        return x


class DownLevel(Level):
    """A level of the encoder; then half the size, padded at the right and bottom only."""

    def __init__(self, groups: int, c_in: int, c_out: int, layers: int, *, attend: bool, last: bool) -> None:
        super().__init__(groups, c_in, c_out, layers, attend=attend)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(c_out, 0)])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return self.downsamplers[0](x) if len(self.downsamplers) else x


class UpLevel(Level):
    """A level of the decoder; then twice the size."""

    def __init__(self, groups: int, c_in: int, c_out: int, layers: int, *, attend: bool, last: bool) -> None:
        super().__init__(groups, c_in, c_out, layers, attend=attend)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(c_out)])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return self.upsamplers[0](x) if len(self.upsamplers) else x


class Middle(nn.Module):
    """The coarsest level: resnet, attention where asked for, resnet."""

    def __init__(self, config: AutoencoderConfig, width: int) -> None:
        super().__init__()
        groups, attend = config.norm_num_groups, config.mid_block_add_attention
        self.attentions = nn.ModuleList([_attention(groups, width)] if attend else [])
        self.resnets = nn.ModuleList([ResnetBlock(groups, width, width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        return self.resnets[1](self.attentions[0](x) if len(self.attentions) else x)


class Encoder(nn.Module):
    """(B, in_channels, H, W) -> (B, c_out, H // stride, W // stride); rows and columns left over are dropped."""

    def __init__(self, config: AutoencoderConfig, c_out: int) -> None:
        super().__init__()
        groups, widths, layers = config.norm_num_groups, config.block_out_channels, config.layers_per_block
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, kind in enumerate(config.down_block_types):
            c_in, attend, last = widths[max(i - 1, 0)], kind.startswith("Attn"), i == len(widths) - 1
            self.down_blocks.append(DownLevel(groups, c_in, widths[i], layers, attend=attend, last=last))
        self.mid_block = Middle(config, widths[-1])
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for down in self.down_blocks:
            x = down(x)
        return self.conv_out(activated(self.conv_norm_out, self.mid_block(x)))


class Decoder(nn.Module):
    """(B, latent_channels, h, w) -> (B, out_channels, stride * h, stride * w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        groups, layers = config.norm_num_groups, config.layers_per_block + 1
        rising = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, rising[0], 3, padding=1)
        self.mid_block = Middle(config, rising[0])
        self.up_blocks = nn.ModuleList()
        for i, kind in enumerate(config.up_block_types):
            c_in, attend, last = rising[max(i - 1, 0)], kind.startswith("Attn"), i == len(rising) - 1
            self.up_blocks.append(UpLevel(groups, c_in, rising[i], layers, attend=attend, last=last))
        self.conv_norm_out = nn.GroupNorm(groups, rising[-1], EPS)
        self.conv_out = nn.Conv2d(rising[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for up in self.up_blocks:
            x = up(x)
        return self.conv_out(activated(self.conv_norm_out, x))


class Quantizer(nn.Module):
    """The codebook: every position of the latents becomes the nearest code (Esser et al. 2021, eq. 2)."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    def indices(self, z: Tensor) -> Tensor:
        """The number of the nearest code at each position, (B, h, w) int64. The distances are float32 in any case."""
        codes = self.embedding.weight.float()
        points = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).float()
        # A latent of 128 x 128 and 8192 codes would make a table of 0.5 GB: some rows at a time.
        rows = points.split(max(1, DISTANCES // len(codes)))
        nearest = torch.cat([torch.cdist(some, codes).argmin(1) for some in rows])
        return nearest.view(z.shape[0], *z.shape[2:])

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape, of codes alone. No gradient reaches z."""
        return self.embedding(self.indices(z)).permute(0, 3, 1, 2).contiguous()


class VQModel(nn.Module):
    """The autoencoder with a codebook (VQGAN)."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.stride
        z, e = config.latent_channels, config.vq_embed_dim or config.latent_channels
        self.latent_channels = e
        self.encoder = Encoder(config, z)
        self.quant_conv = nn.Conv2d(z, e, 1)
        self.quantize = Quantizer(config.num_vq_embeddings, e)
        self.post_quant_conv = nn.Conv2d(e, z, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, e, H // stride, W // stride) of a picture (B, in_channels, H, W), before the codebook."""
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor, *, quantize: bool = True) -> Tensor:
        """The picture (B, out_channels, stride * h, stride * w) of latents (B, e, h, w).

        Args:
            z: latents, not scaled.
            quantize: False leaves them as they are, where they are codes already or shall not become any.
        """
        return self.decoder(self.post_quant_conv(self.quantize(z) if quantize else z))


class AutoencoderKL(nn.Module):
    """The variational autoencoder, regularized by a Kullback-Leibler term."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.stride
        self.latent_channels = z = config.latent_channels
        self.encoder = Encoder(config, 2 * z)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(z, z, 1) if config.use_post_quant_conv else nn.Identity()
        self.decoder = Decoder(config)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents (B, C, H // stride, W // stride) of a picture (B, in_channels, H, W).

        Args:
            x: the picture.
            noise: N(0, I) shaped like the latents, for a draw from the posterior q(z | x) = N(mean, variance I); None
                for its mode, which is its mean.
        """
        mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean if noise is None else mean + (0.5 * log_variance.clamp(*LOG_VARIANCE)).exp() * noise

    def decode(self, z: Tensor) -> Tensor:
        """The picture (B, out_channels, stride * h, stride * w) of latents (B, C, h, w), not scaled."""
        return self.decoder(self.post_quant_conv(z))


Autoencoder = VQModel | AutoencoderKL
AUTOENCODERS: dict[str, type[AutoencoderConfig]] = {"VQModel": VQConfig, "AutoencoderKL": KLConfig}
