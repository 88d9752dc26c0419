"""The U-Net of denoising diffusion models (Ho et al. 2020, appendix B), in the layout of diffusers' `UNet2DModel`.

    x -> conv_in -> down blocks -> middle -> up blocks -> conv_norm_out, SiLU, conv_out
                      |  every output is pushed on a stack  ^
                      +------------- skip connections ------+  each up-resnet pops one and concatenates it

Modules carry the names that the Hub's checkpoints use, so a state dict loads without a converter. The order of
operations follows that layout too: with equal weights the outputs are equal bit for bit (tests/test_unet.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet", "UNetConfig"]


@dataclass(frozen=True)
class UNetConfig:
    """The fields of a `UNet2DModel` configuration that shape the network or its output, under their own names.

    `attention_head_dim` None means one head as wide as the block. `downsample_padding` 0 pads right and bottom only.
    The defaults are those of the layout, which a checkpoint relies on for every field that it leaves out.

    Raises:
        ValueError: a combination that no network of this layout has.
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

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if not levels == len(self.down_block_types) == len(self.up_block_types):
            raise ValueError("block_out_channels, down_block_types and up_block_types differ in length")
        for kinds, known in (
            (self.down_block_types, ("DownBlock2D", "AttnDownBlock2D")),
            (self.up_block_types, ("UpBlock2D", "AttnUpBlock2D")),
        ):
            if unknown := set(kinds) - set(known):
                raise ValueError(f"unknown block types {sorted(unknown)}: this network has {', '.join(known)}")
        if self.resnet_time_scale_shift not in ("default", "scale_shift"):
            raise ValueError(f"unknown resnet_time_scale_shift {self.resnet_time_scale_shift!r}")
        levels_down = zip(self.block_out_channels, self.down_block_types, strict=True)
        attending = {width for width, kind in levels_down if kind.startswith("Attn")}
        attending |= {self.block_out_channels[-1]} if self.add_attention else set()
        head = self.attention_head_dim
        if head is not None and (head < 1 or any(width % head for width in attending)):
            raise ValueError(f"attention_head_dim {head} does not divide every width that attends")
        if any(width % self.norm_num_groups for width in self.block_out_channels):
            raise ValueError(f"every width must be a multiple of norm_num_groups ({self.norm_num_groups})")

    @property
    def attends(self) -> bool:
        """Whether any block attends, which ties the network to the size it was trained on."""
        return self.add_attention or any(kind.startswith("Attn") for kind in self.down_block_types)

    def build(self) -> UNet:
        """The network, with fresh weights."""
        return UNet(self)


def timestep_embedding(t: Tensor, dim: int, *, flip: bool, shift: int) -> Tensor:
    """Sinusoidal features of real-valued timesteps t (B,): (B, dim), sines first, or cosines first with `flip`."""
    half = dim // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - shift)
    angles = t[:, None].float() * torch.exp(exponent)[None, :]
    features = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
    if flip:
        features = torch.cat([features[:, half:], features[:, :half]], dim=-1)
    return features


class TimeMLP(nn.Module):
    """Two linear layers over the sinusoidal features."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


class ResnetBlock(nn.Module):
    """norm, SiLU, conv; time embedding; norm, SiLU, conv; plus the input, by a 1x1 convolution if widths differ."""

    def __init__(self, config: UNetConfig, c_in: int, c_out: int, time: int, divide_by: float = 1.0) -> None:
        super().__init__()
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.divide_by = divide_by
        self.norm1 = nn.GroupNorm(config.norm_num_groups, c_in, config.norm_eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, 2 * c_out if self.scale_shift else c_out)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, c_out, config.norm_eps)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        e = self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + e)
        h = self.conv2(F.silu(h))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return (x + h) / self.divide_by if self.divide_by != 1 else x + h


class Attention(nn.Module):
    """Self-attention over all positions of a feature map, with its residual (Vaswani et al. 2017)."""

    def __init__(self, config: UNetConfig, width: int, *, norm: bool = True, divide_by: float = 1.0) -> None:
        super().__init__()
        self.head_dim = config.attention_head_dim or width
        self.divide_by = divide_by
        self.group_norm = nn.GroupNorm(config.norm_num_groups, width, config.norm_eps) if norm else None
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, breadth = x.shape
        h = x.reshape(batch, width, height * breadth)
        if self.group_norm is not None:
            h = self.group_norm(h)
        h = h.transpose(1, 2)
        heads = (batch, -1, width // self.head_dim, self.head_dim)
        q, k, v = (layer(h).view(heads).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, width)
        h = self.to_out[0](h).transpose(-1, -2).reshape(x.shape)
        return (h + x) / self.divide_by if self.divide_by != 1 else h + x


class Downsample(nn.Module):
    """Convolution of stride 2; padding 0 pads one row and column at the right and bottom instead of all round."""

    def __init__(self, width: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)


class Upsample(nn.Module):
    """Nearest neighbour times two, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class DownBlock(nn.Module):
    """One level of the contracting half: resnets, attention after each where asked for, then half the size."""

    def __init__(self, config: UNetConfig, c_in: int, c_out: int, time: int, *, attend: bool, last: bool) -> None:
        super().__init__()
        n = config.layers_per_block
        self.attentions = nn.ModuleList([Attention(config, c_out) for _ in range(n if attend else 0)])
        self.resnets = nn.ModuleList([ResnetBlock(config, c_out if j else c_in, c_out, time) for j in range(n)])
        self.downsamplers = nn.ModuleList([] if last else [Downsample(c_out, config.downsample_padding)])

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        for j, resnet in enumerate(self.resnets):
            x = resnet(x, embedding)
            if self.attentions:
                x = self.attentions[j](x)
            skips.append(x)
        for down in self.downsamplers:
            x = down(x)
            skips.append(x)
        return x


class MidBlock(nn.Module):
    """The bottom: resnet, attention where asked for, resnet."""

    def __init__(self, config: UNetConfig, width: int, time: int) -> None:
        super().__init__()
        scale = config.mid_block_scale_factor
        # With scale_shift and no groups of its own, the middle attention has no normalization in this layout.
        norm = config.resnet_time_scale_shift == "default"
        attention = [Attention(config, width, norm=norm, divide_by=scale)] if config.add_attention else []
        self.attentions = nn.ModuleList(attention)
        self.resnets = nn.ModuleList([ResnetBlock(config, width, width, time, scale) for _ in range(2)])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.resnets[0](x, embedding)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x, embedding)


class UpBlock(nn.Module):
    """One level of the expanding half: each resnet takes one skip connection; then twice the size."""

    def __init__(
        self, config: UNetConfig, c_in: int, c_out: int, c_skip: int, time: int, *, attend: bool, last: bool
    ) -> None:
        super().__init__()
        n = config.layers_per_block + 1
        widths = [(c_out if j else c_in) + (c_skip if j == n - 1 else c_out) for j in range(n)]
        self.attentions = nn.ModuleList([Attention(config, c_out) for _ in range(n if attend else 0)])
        self.resnets = nn.ModuleList([ResnetBlock(config, width, c_out, time) for width in widths])
        self.upsamplers = nn.ModuleList([] if last else [Upsample(c_out)])

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        for j, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), embedding)
            if self.attentions:
                x = self.attentions[j](x)
        for up in self.upsamplers:
            x = up(x)
        return x


class UNet(nn.Module):
    """The network. `forward(x, t)` takes (B, in_channels, H, W) and timesteps (B,), which need not be integers.

    H and W must be multiples of `stride`, which is 2 ** (levels - 1).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths: Sequence[int] = config.block_out_channels
        time = 4 * widths[0]
        self.stride = 2 ** (len(widths) - 1)
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeMLP(widths[0], time)

        self.down_blocks = nn.ModuleList()
        for i, kind in enumerate(config.down_block_types):
            c_in, last = widths[max(i - 1, 0)], i == len(widths) - 1
            attend = kind == "AttnDownBlock2D"
            self.down_blocks.append(DownBlock(config, c_in, widths[i], time, attend=attend, last=last))

        self.mid_block = MidBlock(config, widths[-1], time)

        rising = list(reversed(widths))
        self.up_blocks = nn.ModuleList()
        for i, kind in enumerate(config.up_block_types):
            c_in, last = rising[max(i - 1, 0)], i == len(rising) - 1
            c_skip = rising[min(i + 1, len(rising) - 1)]
            attend = kind == "AttnUpBlock2D"
            self.up_blocks.append(UpBlock(config, c_in, rising[i], c_skip, time, attend=attend, last=last))

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        config = self.config
        if config.center_input_sample:
            x = 2 * x - 1.0
        features = timestep_embedding(
            t, self.conv_in.out_channels, flip=config.flip_sin_to_cos, shift=config.freq_shift
        )
        embedding = self.time_embedding(features.to(x.dtype))
        x = self.conv_in(x)
        skips = [x]
        for down in self.down_blocks:
            x = down(x, embedding, skips)
        x = self.mid_block(x, embedding)
        for up in self.up_blocks:
            x = up(x, embedding, skips)
        return self.conv_out(F.silu(self.conv_norm_out(x)))
