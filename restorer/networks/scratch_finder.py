"""The network that tells scratches, dust and hairs from the thin structures of a scene.

It is a small U-Net that reads the picture and, on its way down, what the encoder of the embedded prior makes of it,
which has learned what photographs look like and is not changed. A scratch is recognized by what lies around it: that it
crosses objects, that it is sharper or softer than they are, that it has one colour, and that no texture continues it.
The features of the prior tell textures apart, but the prior was not trained to follow a thin stroke over a hundred
pixels. The way down of the network itself carries what looks like a stroke to the coarse levels, where the parts of a
stroke support each other.

    f_k = features of the prior's level k, k = 0..3      half the resolution of the picture, and down to a sixteenth
    d_0 = blocks(lateral f_0 + stem(unshuffle(x)))
    d_k = blocks(lateral f_k + down(d_{k-1}))            k = 1, 2, 3
    u_k = blocks(d_k + up(u_{k+1}))                      k = 2, 1, 0, with u_3 = d_3
    logits = shuffle(head(u_0))                          one number a pixel

The blocks are residual (He et al. 2016, https://arxiv.org/abs/1512.03385) and without normalization, so that what the
network says about a pixel does not depend on the tile that it is computed in. That the features of a denoiser serve to
label pixels from few examples was shown by Baranchuk et al. 2022, https://arxiv.org/abs/2112.03126.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MULTIPLE", "PRIOR_WIDTHS", "WIDTHS", "ScratchFinder"]

PRIOR_WIDTHS = (64, 128, 192, 256)
"""Features of the levels of the embedded prior, the finest first."""

WIDTHS = (48, 64, 96, 128)
"""Channels of the levels of this network."""

DOWN_BLOCKS, UP_BLOCKS = (1, 1, 1, 3), (2, 1, 1)  # residual blocks of each level

MULTIPLE = 2 ** len(WIDTHS)
"""The number of whose multiples the sides of its input must be."""


class _Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for zero in (self.second.weight, self.second.bias):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


def _blocks(count: int, width: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))


class ScratchFinder(nn.Module):
    """The network of the module docstring."""

    scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, WIDTHS[0], 3, padding=1)
        self.lateral = nn.ModuleList(nn.Conv2d(n, width, 1) for n, width in zip(PRIOR_WIDTHS, WIDTHS, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(above, below, 2, stride=2) for above, below in pairwise(WIDTHS))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, above, 2, stride=2) for above, below in pairwise(WIDTHS))
        self.down_blocks = nn.ModuleList(_blocks(n, width) for n, width in zip(DOWN_BLOCKS, WIDTHS, strict=True))
        self.up_blocks = nn.ModuleList(_blocks(n, width) for n, width in zip(UP_BLOCKS, WIDTHS[:-1], strict=True))
        self.head = nn.Conv2d(WIDTHS[0], 4, 3, padding=1)
        if self.head.bias is not None:
            nn.init.constant_(self.head.bias, -3.0)  # so that it begins at about the share of damaged pixels
        self.register_buffer("scales", torch.ones(len(WIDTHS), max(PRIOR_WIDTHS)))

    @torch.no_grad()
    def calibrate(self, features: Sequence[Tensor]) -> None:
        """Set the scales by which features are multiplied so that these have a mean square of 1."""
        for scale, feature in zip(self.scales, features, strict=True):
            scale[: feature.shape[1]] = feature.float().square().mean((0, 2, 3)).add(1e-4).rsqrt()

    def forward(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Return the log odds that each pixel is damaged, (B, H, W).

        Args:
            x: Pictures, float (B, 3, H, W) in [0, 1], whose sides are multiples of MULTIPLE.
            features: What the encoder of the prior makes of them, (B, PRIOR_WIDTHS[k], H / 2**(k+1), W / 2**(k+1)).
        """
        sides = [
            lateral(feature.to(x.dtype) * scale[: feature.shape[1], None, None])
            for lateral, feature, scale in zip(self.lateral, features, self.scales, strict=True)
        ]
        h = self.down_blocks[0](sides[0] + self.stem(F.pixel_unshuffle(4 * x - 2, 2)))
        levels = [h]
        for side, down, blocks in zip(sides[1:], self.down, self.down_blocks[1:], strict=True):
            h = blocks(side + down(h))
            levels.append(h)
        for level, up, blocks in zip(levels[-2::-1], reversed(self.up), reversed(self.up_blocks), strict=True):
            h = blocks(level + up(h))
        return F.pixel_shuffle(self.head(F.relu(h)), 2)[:, 0]
