"""The network that tells scratches, dust and hairs from the thin structures of a scene.

It is a U-Net on the pixel-unshuffled picture. A scratch is recognized by what lies around it: that it crosses objects,
that it is sharper or softer than they are, that it has one colour, and that no texture continues it. There are four
levels, and each has half the resolution of the one above.

    h_0 = stem(unshuffle(x))               half the resolution of the picture
    h_k = blocks(down(h_{k-1}))            k = 1, 2, 3
    u_k = blocks(h_k + up(u_{k+1}))        from the coarsest level back
    logits = shuffle(head(u_0))            one number a pixel

The blocks are residual (He et al. 2016, https://arxiv.org/abs/1512.03385) and without normalization, so that what the
network says about a pixel does not depend on the tile that it is computed in.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MULTIPLE", "WIDTHS", "ScratchFinder"]

WIDTHS = (32, 48, 64, 96)
"""Channels of the levels, from half the resolution to a sixteenth."""

BLOCKS = (1, 1, 2, 2)  # residual blocks of each level, on the way down and again on the way up

MULTIPLE = 2 ** len(WIDTHS)
"""The number of whose multiples the sides of its input must be."""


class _Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class ScratchFinder(nn.Module):
    """The network of the module docstring."""

    def __init__(self) -> None:
        super().__init__()
        pairs = list(pairwise(WIDTHS))
        self.stem = nn.Conv2d(12, WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(above, below, 2, stride=2) for above, below in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, above, 2, stride=2) for above, below in pairs)
        self.encoder = nn.ModuleList(_blocks(width, count) for width, count in zip(WIDTHS, BLOCKS, strict=True))
        self.decoder = nn.ModuleList(_blocks(width, count) for width, count in zip(WIDTHS, BLOCKS, strict=True))
        self.head = nn.Conv2d(WIDTHS[0], 4, 3, padding=1)
        nn.init.constant_(self.head.bias, -4.0)  # so that it begins at about the share of damaged pixels

    def forward(self, x: Tensor) -> Tensor:
        """Return the log odds that each pixel is damaged, (B, H, W).

        Args:
            x: Pictures, float (B, 3, H, W) in [0, 1], whose sides are multiples of MULTIPLE.
        """
        h = self.encoder[0](self.stem(F.pixel_unshuffle(4 * x - 2, 2)))
        skips = [h]
        for down, blocks in zip(self.down, list(self.encoder)[1:], strict=True):
            h = blocks(down(h))
            skips.append(h)
        h = self.decoder[-1](skips.pop())
        for up, blocks in zip(reversed(self.up), reversed(list(self.decoder)[:-1]), strict=True):
            h = blocks(skips.pop() + up(h))
        return F.pixel_shuffle(self.head(F.silu(h)), 2)[:, 0]


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))
