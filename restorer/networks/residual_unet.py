"""A U-Net without normalization, for restoration on any size: the network of the embedded prior.

    x -> conv_in -> blocks, half the size -> ... -> blocks -> ... -> twice the size, + skip, blocks -> conv_out

It follows DRUNet (Zhang et al. 2021, https://arxiv.org/abs/2008.13751): residual blocks of two convolutions, strided
and transposed convolutions of 2x2 between the levels, and skip connections that are added rather than concatenated.
Instead of a noise map, the timestep scales and shifts the features inside every block (FiLM, Perez et al. 2018).

GroupNorm measures its whole input, so the result for a tile differs from that for the same pixels in the whole picture.
Here an output pixel depends on its surroundings alone, and tiles agree. The network is also faster: a block reads and
writes its features about half as often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.layers import AddConv2d
from restorer.networks.time_embedding import TimedBlock, TimedNetwork, TimeEmbedding, TimeMLP

__all__ = ["ResidualUNet", "ResidualUNetConfig"]


@dataclass(frozen=True)
class ResidualUNetConfig:
    """The shape of a `ResidualUNet`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        block_out_channels: Features of each level, the finest first. A level has half the height and width of the one
            before it.
        layers_per_block: Residual blocks of a level on the way down; on the way up a level has one more.

    Raises:
        ValueError: There is no level, or a number is below 1.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64, 128, 192, 256)
    layers_per_block: int = 1

    def __post_init__(self) -> None:
        if not self.block_out_channels:
            raise ValueError("block_out_channels names no level")
        if min(self.in_channels, self.out_channels, self.layers_per_block, *self.block_out_channels) < 1:
            raise ValueError("channels and layers_per_block must be at least 1")

    @property
    def attends(self) -> bool:
        """Whether any block attends: none does, so any size will do."""
        return False

    def build(self) -> ResidualUNet:
        """Return the network with fresh weights."""
        return ResidualUNet(self)


class ResidualBlock(TimedBlock):
    """x + conv2(relu((1 + scale(t)) * conv1(x) + shift(t))).

    The block starts close to the identity, so that depth does no harm.

    The block overwrites x unless gradients are recorded, because new memory costs more than the arithmetic.
    """

    def __init__(self, width: int, time: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, 2 * width)
        self.conv2 = AddConv2d(width, width, 3, padding=1)
        if not self.conv1.weight.is_meta:  # there PyTorch would load its compiler, only to draw nothing
            self._initialize()

    def _initialize(self) -> None:
        """Draw fresh weights."""
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.conv2.weight, nonlinearity="relu")
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)
        for zero in (self.conv1.bias, self.conv2.bias, self.time_emb_proj.weight, self.time_emb_proj.bias):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(self, x: Tensor, times: Sequence[Tensor]) -> Tensor:
        scale, shift = times[self.slot][:, :, None, None].chunk(2, dim=1)
        h = self.conv1(x)
        h = torch.addcmul(shift, h, 1 + scale, out=None if torch.is_grad_enabled() else h)
        return self.conv2(F.relu(h, inplace=True), other=x, overwrite=True)


class ResidualUNet(TimedNetwork):
    """The network. Height and width of its input must be multiples of `stride`, which is 2 ** (levels - 1)."""

    def __init__(self, config: ResidualUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, blocks = config.block_out_channels, config.layers_per_block
        time = 4 * widths[0]
        self.stride = 2 ** (len(widths) - 1)

        def level(width: int, count: int) -> nn.ModuleList:
            return nn.ModuleList([ResidualBlock(width, time) for _ in range(count)])

        steps = list(pairwise(widths))
        self.time_embedding = TimeMLP(widths[0], time)
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList([level(width, blocks) for width in widths])
        self.downsamplers = nn.ModuleList([nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps])
        self.upsamplers = nn.ModuleList([nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps])
        self.up_blocks = nn.ModuleList([level(width, blocks + 1) for width in widths])
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

        self.embed_time = TimeEmbedding(self, self.time_embedding, flip=True, shift=0)

    def encode(self, x: Tensor, times: Sequence[Tensor]) -> list[Tensor]:
        """Return the features of each level on the way down, the finest first; see `evaluate`."""
        x, features = self.conv_in(x), []
        for i, blocks in enumerate(self.down_blocks):
            if i:
                x = self.downsamplers[i - 1](x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, times)
            features.append(x)
        return features

    def evaluate(self, x: Tensor, times: Sequence[Tensor]) -> Tensor:
        """Evaluate the network; see `TimedNetwork`. The input has `in_channels` channels, the output `out_channels`."""
        skips = self.encode(x, times)
        x = skips.pop()
        for i, blocks in reversed(list(enumerate(self.up_blocks))):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, times)
            if i:
                x = self.upsamplers[i - 1](x).add_(skips.pop())
        return self.conv_out(x)
