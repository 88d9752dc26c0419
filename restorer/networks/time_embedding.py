"""The time embedding of a network: sinusoidal features, two linear layers, and a projection for each block.

The features are those of Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762). What the blocks see of the time
depends on the timestep alone, so a network is evaluated in two parts: from the timesteps to the projections of
all blocks (`TimeEmbedding`), and from a picture and these projections to the output (`TimedNetwork.evaluate`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TimeEmbedding", "TimeMLP", "TimedBlock", "TimedNetwork", "timestep_features"]


def timestep_features(t: Tensor, dim: int, *, flip: bool, shift: int) -> Tensor:
    """Return the sinusoidal features of timesteps.

    Args:
        t: Real-valued timesteps, (B,).
        dim: Number of features, even.
        flip: Whether the cosines come before the sines.
        shift: Number s in the frequencies 10000^(-k / (dim / 2 - s)), where k counts from 0.

    Returns:
        Features, float32 (B, dim).
    """
    half = dim // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - shift)
    angles = t[:, None].float() * torch.exp(exponent)[None, :]
    features = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
    if flip:
        features = torch.cat([features[:, half:], features[:, :half]], dim=-1)
    return features


class TimeMLP(nn.Module):
    """Two linear layers with a SiLU between them.

    Args:
        dim: Number of sinusoidal features.
        width: Number of features of the embedding.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Embed sinusoidal features: (B, dim) -> (B, width)."""
        return self.linear_2(F.silu(self.linear_1(features)))


class TimedBlock(nn.Module):
    """A block that sees the time through a projection of its own.

    Attributes:
        time_emb_proj: The projection.
        slot: Index of this block's projection in what `TimeEmbedding` returns.
    """

    slot = 0
    time_emb_proj: nn.Linear


class TimeEmbedding(nn.Module):
    """The map from timesteps to the projection of every block. All its layers belong to the network.

    Args:
        network: The network; each `TimedBlock` in it is given its slot.
        mlp: The two linear layers.
        flip: See `timestep_features`.
        shift: See `timestep_features`.
    """

    def __init__(self, network: nn.Module, mlp: TimeMLP, *, flip: bool, shift: int) -> None:
        super().__init__()
        blocks = [module for module in network.modules() if isinstance(module, TimedBlock)]
        for slot, block in enumerate(blocks):
            block.slot = slot
        self.projections = tuple(block.time_emb_proj for block in blocks)  # tuples, so that nothing is registered twice
        self.mlp = (mlp,)
        self._flip, self._shift = flip, shift

    def features(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the sinusoidal features of timesteps (B,) in a precision: (B, dim)."""
        dim = self.mlp[0].linear_1.in_features
        return timestep_features(t, dim, flip=self._flip, shift=self._shift).to(dtype)

    def forward(self, t: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        """Return the projection of every block.

        Args:
            t: Real-valued timesteps, (B,).
            dtype: Precision of the result.

        Returns:
            A tensor (B, features) for each slot. Callers must not write to them.
        """
        embedded = F.silu(self.mlp[0](self.features(t, dtype)))
        return [projection(embedded) for projection in self.projections]


class TimedNetwork(nn.Module):
    """A network whose blocks see the time through their projections alone."""

    embed_time: TimeEmbedding

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: Input, (B, C, H, W).
            t: Timesteps, (B,), or (1,) for the whole batch; they need not be integers.
        """
        return self.evaluate(x, self.embed_time(t, x.dtype))

    def evaluate(self, x: Tensor, times: Sequence[Tensor]) -> Tensor:
        """Evaluate the network with the projections that `embed_time` returned for the timesteps."""
        raise NotImplementedError
