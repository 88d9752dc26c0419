"""The U-Net of denoising diffusion models (Ho et al. 2020, appendix B), in the layout of diffusers' `UNet2DModel`.

    x -> conv_in -> down blocks -> middle -> up blocks -> conv_norm_out, SiLU, conv_out
                      |  every output is pushed on a stack  ^
                      +------------- skip connections ------+  each up-resnet pops one and concatenates it

Modules carry the names that the Hub's checkpoints use, so a state dict loads without a converter. The order of
operations follows that layout too: with equal weights the outputs are equal bit for bit (tests/networks/test_unet.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.attention import Attention
from restorer.networks.layers import AddConv2d, GroupNorm, UpsampleConv2d, double_size
from restorer.networks.time_embedding import TimedBlock, TimedNetwork, TimeEmbedding, TimeMLP

__all__ = ["UNet", "UNetConfig"]

DOWN_BLOCKS: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS: tuple[str, ...] = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")


@dataclass(frozen=True)
class UNetConfig:
    """The fields of a `UNet2DModel` configuration that shape the network or its output, under their own names.

    If `attention_head_dim` is None, one head is as wide as the block. If `downsample_padding` is 0, maps are padded at
    the right and bottom only. `downsample_type` and `upsample_type` say how the attending blocks change the size:
    "conv" for a convolution, or "resnet" for a resnet that averages 2x2 pixels or repeats them (Dhariwal & Nichol 2021,
    https://arxiv.org/abs/2105.05233). The type of every other block says so itself. `attn_norm_num_groups` concerns the
    middle attention alone, which with "scale_shift" has no normalization unless this field is given. The defaults are
    those of the layout, because checkpoints rely on them for every field that they leave out.

    Two fields do not belong to that layout, but networks of guided-diffusion may need them: `attention_heads`, a number
    of heads that is the same at every width and replaces `attention_head_dim`; and `time_features`, the number of
    features of a timestep if it is not the number of channels of the first level.

    Raises:
        ValueError: No network of this layout has the combination.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    attention_head_dim: int | None = 8
    add_attention: bool = True
    downsample_padding: int = 1
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    center_input_sample: bool = False
    mid_block_scale_factor: float = 1.0
    resnet_time_scale_shift: str = "default"
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    attn_norm_num_groups: int | None = None
    time_embedding_dim: int | None = None
    attention_heads: int | None = None
    time_features: int | None = None

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if not levels == len(self.down_block_types) == len(self.up_block_types):
            raise ValueError("block_out_channels, down_block_types and up_block_types differ in length")
        for kinds, known in (
            (self.down_block_types, DOWN_BLOCKS),
            (self.up_block_types, UP_BLOCKS),
        ):
            if unknown := set(kinds) - set(known):
                raise ValueError(f"unknown block types {sorted(unknown)}: this network has {', '.join(known)}")
        for name, values in (
            ("resnet_time_scale_shift", ("default", "scale_shift")),
            ("downsample_type", ("conv", "resnet")),
            ("upsample_type", ("conv", "resnet")),
        ):
            if getattr(self, name) not in values:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}")
        if any(width % self.norm_num_groups for width in self.block_out_channels):
            raise ValueError(f"every width must be a multiple of norm_num_groups ({self.norm_num_groups})")
        if self.block_out_channels[-1] % (self.attn_norm_num_groups or 1):
            raise ValueError(f"the last width must be a multiple of attn_norm_num_groups ({self.attn_norm_num_groups})")
        self._check_heads()

    def _check_heads(self) -> None:
        down = zip(self.block_out_channels, self.down_block_types, strict=True)
        up = zip(reversed(self.block_out_channels), self.up_block_types, strict=True)
        attending = {width for width, kind in (*down, *up) if kind.startswith("Attn")}
        attending |= {self.block_out_channels[-1]} if self.add_attention else set()
        for name in ("attention_heads", "attention_head_dim"):
            parts = getattr(self, name)
            if parts is not None and (parts < 1 or any(width % parts for width in attending)):
                raise ValueError(f"{name} {parts} does not divide every width that attends")

    @property
    def attends(self) -> bool:
        """Whether any block attends, which ties the network to the size it was trained on."""
        kinds = (*self.down_block_types, *self.up_block_types)
        return self.add_attention or any(kind.startswith("Attn") for kind in kinds)

    def build(self) -> UNet:
        """Return the network with fresh weights."""
        return UNet(self)


def half_size(x: Tensor) -> Tensor:
    """Average 2x2 pixels: (B, C, H, W) -> (B, C, H / 2, W / 2)."""
    return F.avg_pool2d(x, kernel_size=2, stride=2)


class ResnetBlock(TimedBlock):
    """Two convolutions, each after normalization and SiLU, with the time in between; the input is added at the end.

    The input passes through a 1x1 convolution if the widths differ.

    Args:
        config: Configuration of the network.
        c_in: Channels of the input.
        c_out: Channels of the output.
        time: Features of the time embedding.
        divide_by: Number that the output is divided by.
        resize: Function that changes the size of the features before the first convolution, and of the input that is
            added; None keeps the size.
    """

    def __init__(
        self,
        config: UNetConfig,
        c_in: int,
        c_out: int,
        time: int,
        divide_by: float = 1.0,
        resize: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.resize = resize
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.divide_by = divide_by
        self.norm1 = GroupNorm(config.norm_num_groups, c_in, config.norm_eps)
        self.conv1 = AddConv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, 2 * c_out if self.scale_shift else c_out)
        self.norm2 = GroupNorm(config.norm_num_groups, c_out, config.norm_eps)
        self.conv2 = AddConv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, times: Sequence[Tensor]) -> Tensor:
        h = self.norm1(x, silu=True)
        if self.resize is not None:
            x, h = self.resize(x), self.resize(h)
        projection = times[self.slot]
        if self.scale_shift:
            scale, shift = projection[:, :, None, None].chunk(2, dim=1)
            h = F.silu(self.norm2(self.conv1(h)) * (1 + scale) + shift)
        else:
            h = self.norm2(self.conv1(h, shift=projection), silu=True)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        fresh = self.conv_shortcut is not None or self.resize is not None  # otherwise x may be a skip connection too
        h = self.conv2(h, other=x, overwrite=fresh)
        return h / self.divide_by if self.divide_by != 1 else h


def attention(config: UNetConfig, width: int, groups: int | None = None, *, divide_by: float = 1.0) -> Attention:
    """Return the configuration's attention at a width, with the configuration's groups unless `groups` is given."""
    heads = config.attention_heads
    head_dim = width // heads if heads else config.attention_head_dim or width
    groups = config.norm_num_groups if groups is None else groups
    return Attention(width, head_dim, groups, config.norm_eps, divide_by=divide_by)


class Downsample(nn.Module):
    """A convolution of stride 2. With padding 0, one row at the bottom and one column at the right are padded."""

    def __init__(self, width: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by two, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = UpsampleConv2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def resized(sampler: nn.Module, x: Tensor, times: Sequence[Tensor]) -> Tensor:
    """Apply a layer that changes the size: a convolution, or a resnet, which sees the time too."""
    return sampler(x, times) if isinstance(sampler, ResnetBlock) else sampler(x)


class DownBlock(nn.Module):
    """One level of the contracting half: resnets, with attention after each if the type has it; then half the size."""

    def __init__(self, config: UNetConfig, kind: str, c_in: int, c_out: int, time: int, *, last: bool) -> None:
        super().__init__()
        n, attends = config.layers_per_block, kind == "AttnDownBlock2D"
        by_resnet = config.downsample_type == "resnet" if attends else kind == "ResnetDownsampleBlock2D"
        down = (
            ResnetBlock(config, c_out, c_out, time, resize=half_size)
            if by_resnet
            else Downsample(c_out, config.downsample_padding)
        )
        self.attentions = nn.ModuleList([attention(config, c_out) for _ in range(n if attends else 0)])
        self.resnets = nn.ModuleList([ResnetBlock(config, c_out if j else c_in, c_out, time) for j in range(n)])
        self.downsamplers = nn.ModuleList([] if last else [down])

    def forward(self, x: Tensor, times: Sequence[Tensor], skips: list[Tensor]) -> Tensor:
        for j, resnet in enumerate(self.resnets):
            x = resnet(x, times)
            if self.attentions:
                x = self.attentions[j](x)
            skips.append(x)
        for down in self.downsamplers:
            x = resized(down, x, times)
            skips.append(x)
        return x


class MidBlock(nn.Module):
    """The block between the two halves: a resnet, attention if the configuration has it, and a resnet."""

    def __init__(self, config: UNetConfig, width: int, time: int) -> None:
        super().__init__()
        scale = config.mid_block_scale_factor
        # In this layout the middle attention has no normalization with scale_shift, unless it has groups of its own.
        groups = config.norm_num_groups if config.resnet_time_scale_shift == "default" else 0
        groups = config.attn_norm_num_groups or groups
        attends = [attention(config, width, groups, divide_by=scale)] if config.add_attention else []
        self.attentions = nn.ModuleList(attends)
        self.resnets = nn.ModuleList([ResnetBlock(config, width, width, time, scale) for _ in range(2)])

    def forward(self, x: Tensor, times: Sequence[Tensor]) -> Tensor:
        x = self.resnets[0](x, times)
        for attend in self.attentions:
            x = attend(x)
        return self.resnets[1](x, times)


class UpBlock(nn.Module):
    """One level of the expanding half: resnets, each of which takes one skip connection, then twice the size."""

    def __init__(
        self, config: UNetConfig, kind: str, c_in: int, c_out: int, c_skip: int, time: int, *, last: bool
    ) -> None:
        super().__init__()
        n, attends = config.layers_per_block + 1, kind == "AttnUpBlock2D"
        by_resnet = config.upsample_type == "resnet" if attends else kind == "ResnetUpsampleBlock2D"
        up = ResnetBlock(config, c_out, c_out, time, resize=double_size) if by_resnet else Upsample(c_out)
        widths = [(c_out if j else c_in) + (c_skip if j == n - 1 else c_out) for j in range(n)]
        self.attentions = nn.ModuleList([attention(config, c_out) for _ in range(n if attends else 0)])
        self.resnets = nn.ModuleList([ResnetBlock(config, width, c_out, time) for width in widths])
        self.upsamplers = nn.ModuleList([] if last else [up])

    def forward(self, x: Tensor, times: Sequence[Tensor], skips: list[Tensor]) -> Tensor:
        for j, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), times)
            if self.attentions:
                x = self.attentions[j](x)
        for up in self.upsamplers:
            x = resized(up, x, times)
        return x


class UNet(TimedNetwork):
    """The U-Net. Height and width of its input must be multiples of `stride`, which is 2 ** (levels - 1)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths: Sequence[int] = config.block_out_channels
        time = config.time_embedding_dim or 4 * widths[0]
        self.stride = 2 ** (len(widths) - 1)
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeMLP(config.time_features or widths[0], time)

        self.down_blocks = nn.ModuleList()
        for i, kind in enumerate(config.down_block_types):
            c_in, last = widths[max(i - 1, 0)], i == len(widths) - 1
            self.down_blocks.append(DownBlock(config, kind, c_in, widths[i], time, last=last))

        self.mid_block = MidBlock(config, widths[-1], time)

        rising = list(reversed(widths))
        self.up_blocks = nn.ModuleList()
        for i, kind in enumerate(config.up_block_types):
            c_in, last = rising[max(i - 1, 0)], i == len(rising) - 1
            c_skip = rising[min(i + 1, len(rising) - 1)]
            self.up_blocks.append(UpBlock(config, kind, c_in, rising[i], c_skip, time, last=last))

        flip, shift = config.flip_sin_to_cos, config.freq_shift
        self.embed_time = TimeEmbedding(self, self.time_embedding, flip=flip, shift=shift)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def evaluate(self, x: Tensor, times: Sequence[Tensor]) -> Tensor:
        """Evaluate the network; see `TimedNetwork`. The input has `in_channels` channels, the output `out_channels`."""
        if self.config.center_input_sample:
            x = 2 * x - 1.0
        x = self.conv_in(x)
        skips = [x]
        for down in self.down_blocks:
            x = down(x, times, skips)
        x = self.mid_block(x, times)
        for up in self.up_blocks:
            x = up(x, times, skips)
        return self.conv_out(self.conv_norm_out(x, silu=True))
