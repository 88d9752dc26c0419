"""The autoencoders of latent diffusion, in the layout of diffusers' `VQModel` and `AutoencoderKL`.

    picture (B, 3, H, W) -> encoder -> quant_conv -> latents z (B, C, H / stride, W / stride)
    z -> [nearest code of the codebook] -> post_quant_conv -> decoder -> picture

The network is that of VQGAN (Esser et al. 2021, https://arxiv.org/abs/2012.09841, appendix A); Rombach et al. 2022
(https://arxiv.org/abs/2112.10752, section 3.1) run the diffusion on its latents. Two means keep the latents close to
unit size: a codebook, which is looked up after the diffusion as the first layer of the decoder, or a Gaussian posterior
that is drawn slightly towards N(0, I), as in the variational autoencoder of Kingma & Welling 2014
(https://arxiv.org/abs/1312.6114).

Modules carry the names that the Hub's checkpoints use, so a state dict loads without a converter. The order of
operations follows that layout too: with equal weights the outputs are equal bit for bit
(tests/networks/test_autoencoder.py). Pictures are on [-1, 1], and decoded pictures are not clamped. Latents are not
scaled here: whoever runs a diffusion on them applies the `scaling_factor` of the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from restorer.networks.attention import Attention
from restorer.networks.layers import AddConv2d, GroupNorm
from restorer.networks.unet import Downsample, Upsample

__all__ = ["AUTOENCODERS", "Autoencoder", "AutoencoderConfig", "AutoencoderKL", "KLConfig", "VQConfig", "VQModel"]

EPS = 1e-6  # epsilon of every normalization; configurations of this layout do not state it
DISTANCES = 2**24  # entries of the table of distances to the codes that is held at once: 64 MiB
LOG_VARIANCE = (-30.0, 20.0)  # limits of the posterior's log variance, so that its exponential stays finite

# Fields that change the output, and the values of each that are implemented, the default first.
FIXED: dict[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "norm_type": ("group",),  # "spatial" is the normalization of MoVQ
    "lookup_from_codebook": (False,),  # if True, latents are the numbers of codes
    "latents_mean": (None,),
    "latents_std": (None,),
}
# Lowest and highest value of each whole number; no known network lies outside these limits.
INTEGERS = {
    "in_channels": (1, 8),
    "out_channels": (1, 8),
    "layers_per_block": (1, 6),
    "latent_channels": (1, 512),
    "norm_num_groups": (1, 1024),
    "num_vq_embeddings": (1, 2**18),
    "vq_embed_dim": (1, 512),
}
OPTIONAL = ("vq_embed_dim", "shift_factor")  # may be null in a config.json
WIDEST, DEEPEST, LARGEST = 2048, 8, 1e6  # limits of the features of a level, of the levels, and of other numbers


@dataclass(frozen=True)
class AutoencoderConfig:
    """The fields that both kinds of autoencoder have, under the layout's own names and with its defaults.

    Args:
        in_channels: Channels of pictures that are encoded.
        out_channels: Channels of decoded pictures.
        block_out_channels: Features of each level, the finest first. Every level but the last halves the size.
        down_block_types: Type of each level of the encoder, the finest first; those named Attn... attend.
        up_block_types: Type of each level of the decoder, the coarsest first.
        layers_per_block: Resnets of a level of the encoder; a level of the decoder has one more.
        latent_channels: Channels of latents.
        norm_num_groups: Groups of every normalization.
        mid_block_add_attention: Whether the coarsest level attends over all positions.
        scaling_factor: Factor of the diffusion, which runs on `scaling_factor * z` (Rombach et al. 2022, section
            4.3.2).

    Raises:
        ValueError: A field is of the wrong type or size, or no network of this layout has the combination.
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
            raise ValueError("scaling_factor must be above 0")
        widths, levels = self.block_out_channels, len(self.block_out_channels)
        if not 1 <= levels <= DEEPEST or not all(type(w) is int and 1 <= w <= WIDEST for w in widths):
            raise ValueError(f"block_out_channels must be 1 to {DEEPEST} whole numbers from 1 to {WIDEST}")
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
        """Return the configuration in a config.json. Missing fields take the defaults; unknown ones are ignored.

        Raises:
            ValueError: As for the class, or a field asks for something that is not implemented.
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
        """Pixels along one side of the area that one latent position covers."""
        return 2 ** (len(self.block_out_channels) - 1)

    def build(self) -> Autoencoder:
        """Return the network with fresh weights."""
        raise NotImplementedError


@dataclass(frozen=True)
class VQConfig(AutoencoderConfig):
    """The configuration of a `VQModel`.

    The default of scaling_factor is 1, although that of diffusers is 0.18215: the published models of this kind
    (CompVis) have no such field and were trained on unscaled latents.

    Args:
        num_vq_embeddings: Number of codes in the codebook.
        vq_embed_dim: Channels of a code; None for latent_channels.
    """

    num_vq_embeddings: int = 256
    vq_embed_dim: int | None = None

    def build(self) -> VQModel:
        """Return the network with fresh weights."""
        return VQModel(self)


@dataclass(frozen=True)
class KLConfig(AutoencoderConfig):
    """The configuration of an `AutoencoderKL`.

    Args:
        shift_factor: Shift of the diffusion, which runs on `scaling_factor * (z - shift_factor)`; None is 0.
        use_quant_conv: Whether a 1x1 convolution makes the latents.
        use_post_quant_conv: Whether a 1x1 convolution reads the latents.
    """

    latent_channels: int = 4
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def build(self) -> AutoencoderKL:
        """Return the network with fresh weights."""
        return AutoencoderKL(self)


def _check(name: str, kind: str | type, value: object, optional: bool) -> None:
    """Refuse a value that does not have the type of its field or that is out of range."""
    if value is None and optional:
        return
    kind, shown = str(kind), str(value)[:40]
    if name in INTEGERS:
        low, high = INTEGERS[name]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} must lie between {low} and {high}, not {shown}")
    elif kind.startswith("tuple"):
        if not isinstance(value, tuple):
            raise ValueError(f"{name} must be a list, not {shown}")
    elif kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, not {shown}")
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise ValueError(f"{name} must be a number of at most {LARGEST:g}, not {shown}")


class ResnetBlock(nn.Module):
    """Two convolutions, each after normalization and SiLU; the input is added to their result.

    The input passes through a 1x1 convolution if the widths differ. The block does not see the time. It may overwrite
    its input unless gradients are recorded.
    """

    def __init__(self, groups: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, c_in, EPS)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = GroupNorm(groups, c_out, EPS)
        self.conv2 = AddConv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x, silu=True))
        x = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return self.conv2(self.norm2(h, silu=True), other=x, overwrite=True)


def _attention(groups: int, width: int) -> Attention:
    """Return the attention of the U-Net with one head as wide as the block."""
    return Attention(width, width, groups, EPS)


class Level(nn.Module):
    """Resnets of one size, each followed by attention if `attend`. Subclasses add the change of size."""

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
    """A level of the encoder. Unless it is the last, it ends by halving maps, padded at the right and bottom only."""

    def __init__(self, groups: int, c_in: int, c_out: int, layers: int, *, attend: bool, last: bool) -> None:
        super().__init__(groups, c_in, c_out, layers, attend=attend)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(c_out, 0)])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return self.downsamplers[0](x) if len(self.downsamplers) else x


class UpLevel(Level):
    """A level of the decoder. Unless it is the last, it ends by doubling the size of maps."""

    def __init__(self, groups: int, c_in: int, c_out: int, layers: int, *, attend: bool, last: bool) -> None:
        super().__init__(groups, c_in, c_out, layers, attend=attend)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(c_out)])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return self.upsamplers[0](x) if len(self.upsamplers) else x


class Middle(nn.Module):
    """The coarsest level: a resnet, attention if the configuration has it, and a resnet."""

    def __init__(self, config: AutoencoderConfig, width: int) -> None:
        super().__init__()
        groups, attend = config.norm_num_groups, config.mid_block_add_attention
        self.attentions = nn.ModuleList([_attention(groups, width)] if attend else [])
        self.resnets = nn.ModuleList([ResnetBlock(groups, width, width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        return self.resnets[1](self.attentions[0](x) if len(self.attentions) else x)


class Encoder(nn.Module):
    """The encoder: (B, in_channels, H, W) -> (B, c_out, H // stride, W // stride). Odd rows and columns are dropped."""

    def __init__(self, config: AutoencoderConfig, c_out: int) -> None:
        super().__init__()
        groups, widths, layers = config.norm_num_groups, config.block_out_channels, config.layers_per_block
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, kind in enumerate(config.down_block_types):
            c_in, attend, last = widths[max(i - 1, 0)], kind.startswith("Attn"), i == len(widths) - 1
            self.down_blocks.append(DownLevel(groups, c_in, widths[i], layers, attend=attend, last=last))
        self.mid_block = Middle(config, widths[-1])
        self.conv_norm_out = GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for down in self.down_blocks:
            x = down(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), silu=True))


class Decoder(nn.Module):
    """The decoder: (B, latent_channels, h, w) -> (B, out_channels, stride * h, stride * w)."""

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
        self.conv_norm_out = GroupNorm(groups, rising[-1], EPS)
        self.conv_out = nn.Conv2d(rising[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for up in self.up_blocks:
            x = up(x)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class Quantizer(nn.Module):
    """The codebook, which replaces every position of the latents by the nearest code (Esser et al. 2021, eq. 2)."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    def indices(self, z: Tensor) -> Tensor:
        """Return the index of the nearest code at each position, (B, h, w) int64. Distances are always float32."""
        codes = self.embedding.weight.float()
        points = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).float()
        # The whole table would take 0.5 GB for latents of 128 x 128 and 8192 codes, so it is made in parts.
        rows = points.split(max(1, DISTANCES // len(codes)))
        nearest = torch.cat([torch.cdist(some, codes).argmin(1) for some in rows])
        return nearest.view(z.shape[0], *z.shape[2:])

    def forward(self, z: Tensor) -> Tensor:
        """Return the nearest code at each position, shaped like z (B, C, h, w). No gradient reaches z."""
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
        """Encode: (B, in_channels, H, W) -> (B, e, H // stride, W // stride), before the codebook is looked up."""
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor, *, quantize: bool = True) -> Tensor:
        """Decode: (B, e, h, w) -> (B, out_channels, stride * h, stride * w).

        Args:
            z: Unscaled latents.
            quantize: Whether to look them up in the codebook first.
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
        """Encode: (B, in_channels, H, W) -> (B, C, H // stride, W // stride).

        Args:
            x: Picture.
            noise: N(0, I) shaped like the latents, for a draw from the posterior q(z | x) = N(mean, variance I); None
                for its mode, which is its mean.
        """
        mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean if noise is None else mean + (0.5 * log_variance.clamp(*LOG_VARIANCE)).exp() * noise

    def decode(self, z: Tensor) -> Tensor:
        """Decode unscaled latents: (B, C, h, w) -> (B, out_channels, stride * h, stride * w)."""
        return self.decoder(self.post_quant_conv(z))


Autoencoder = VQModel | AutoencoderKL
AUTOENCODERS: dict[str, type[AutoencoderConfig]] = {"VQModel": VQConfig, "AutoencoderKL": KLConfig}
