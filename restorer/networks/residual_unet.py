"""A U-Net without normalization, for restoration on any size: the network of the embedded prior.

    x -> conv_in -> blocks, half the size -> ... -> blocks -> ... -> twice the size, + skip, blocks -> conv_out

It follows DRUNet (Zhang et al. 2021, https://arxiv.org/abs/2008.13751): residual blocks of two convolutions, strided
and transposed convolutions of 2x2 between the levels, and skip connections that are added rather than concatenated.
Instead of a noise map, the timestep scales and shifts the features inside every block (FiLM, Perez et al. 2018).

GroupNorm measures the whole of what it is given, so a tile of a picture comes out otherwise than the same pixels in the
whole picture. Here an output pixel depends on its surroundings alone, and tiles agree. It is also faster: a block
reads and writes its features about half as often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.fast.prepacked import convolved
from restorer.networks.time_embedding import TimedBlock, TimedNetwork, TimeMLP, Times

__all__ = ["ResidualUNet", "ResidualUNetConfig"]


@dataclass(frozen=True)
class ResidualUNetConfig:
    """The shape of a `ResidualUNet`.

    Args:
        in_channels, out_channels: of what goes in and comes out.
        block_out_channels: features of each level, the finest first; a level has half the height and width of the one
            before it.
        layers_per_block: residual blocks of a level on the way down; on the way up it has one more.

    Raises:
        ValueError: no level, or a number below 1.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64, 128, 192, 256)
    layers_per_block: int = 1

    def __post_init__(self) -> None:
        if not self.block_out_channels:
            raise ValueError("block_out_channels names no level")
        if min(self.in_channels, self.out_channels, self.layers_per_block, *self.block_out_channels) < 1:
            raise ValueError("channels and layers_per_block are at least 1")

    @property
    def attends(self) -> bool:
        """Nothing attends: any size will do."""
        return False

    def build(self) -> ResidualUNet:
        """The network, with fresh weights."""
        return ResidualUNet(self)


class ResidualBlock(TimedBlock):
    """x + conv2(relu(scale(t) * conv1(x) + shift(t))). It starts close to the identity, so that depth does no harm.

    Where no gradients are wanted, x is overwritten: what is new to the process's memory costs more than arithmetic.
    """

    def __init__(self, width: int, time: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, 2 * width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if not self.conv1.weight.is_meta:  # there is nothing to draw, and PyTorch would load its compiler for it
            self._draw()

    def _draw(self) -> None:
        """Fresh weights."""
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
        return convolved(self.conv2, F.relu(h, inplace=True), plus=x, overwrite=True)


class ResidualUNet(TimedNetwork):
    """The network. `forward(x, t)` takes (B, in_channels, H, W) and timesteps (B,), or (1,) for all, which need not be
    integers.

    H and W must be multiples of `stride`, which is 2 ** (levels - 1).
    """

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

        self.times = Times(self, self.time_embedding, flip=True, shift=0)

    def at(self, x: Tensor, times: Sequence[Tensor]) -> Tensor:
        """See `TimedNetwork`."""
        x, skips = self.conv_in(x), []
        for i, blocks in enumerate(self.down_blocks):
            if i:
                skips.append(x)
                x = self.downsamplers[i - 1](x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, times)
        for i, blocks in reversed(list(enumerate(self.up_blocks))):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, times)
            if i:
                x = self.upsamplers[i - 1](x).add_(skips.pop())
        return self.conv_out(x)
