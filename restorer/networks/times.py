"""What the blocks of a network see of the time: sinusoidal features (Vaswani et al. 2017), two linear layers, and a
projection for each block.

It depends on the timestep alone. The tiles of a picture have theirs in common, and so have the pictures of a folder, so
what a timestep gave is remembered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.layers import Together
from restorer.networks.packed import Packed, parameter_state

__all__ = ["TimeMLP", "TimedBlock", "Times", "timestep_embedding"]

REMEMBERED = 1 << 20  # numbers; a timestep has some thousands


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


class TimedBlock(nn.Module):
    """A block that sees the time, by a projection of its own. `Times` computes all of them together; `slot` says which
    is the block's.
    """

    slot = 0
    time_emb_proj: nn.Linear


class Times(nn.Module):
    """From timesteps to what each block's projection makes of them. The layers remain their owners'.

    Args:
        network: its `TimedBlock`s get their slots.
        embedding: the two linear layers.
        flip, shift: see `timestep_embedding`.
    """

    def __init__(self, network: nn.Module, embedding: TimeMLP, *, flip: bool, shift: int) -> None:
        super().__init__()
        blocks = [module for module in network.modules() if isinstance(module, TimedBlock)]
        for slot, block in enumerate(blocks):
            block.slot = slot
        self.projections = Together(*(block.time_emb_proj for block in blocks))
        self._embedding = (embedding,)  # a tuple, so that it is not registered twice
        self._layers = (embedding.linear_1, embedding.linear_2, *self.projections.layers)
        self._flip, self._shift = flip, shift
        self._known: dict[tuple[float, torch.dtype], Sequence[Tensor]] = {}
        self._known_for: list[tuple[int, int]] = []

    def forward(self, t: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        """Timesteps (B,) -> of each slot (B, features), in a precision. None of it may be written to."""
        if len(t) > 1 or not self._remembers(t):
            return self._computed(t, dtype)
        state = [parameter_state(p) for layer in self._layers for p in layer._parameters.values() if p is not None]
        if state != self._known_for:
            self._known, self._known_for = {}, state
        key = float(t), dtype
        known = self._known.get(key)
        if known is None:
            known = self._computed(t, dtype)
            if len(self._known) * sum(part.numel() for part in known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = known
        return known

    def _remembers(self, t: Tensor) -> bool:
        """Not where gradients are wanted, on a GPU, which would be waited for, nor in a precision not its own."""
        evaluates = not (torch.is_grad_enabled() or torch.compiler.is_compiling() or Packed.plain)
        return evaluates and t.device.type == "cpu" and not torch.is_autocast_enabled("cpu")

    def _computed(self, t: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        (embedding,) = self._embedding
        features = timestep_embedding(t, embedding.linear_1.in_features, flip=self._flip, shift=self._shift)
        return self.projections(F.silu(embedding(features.to(dtype))))  # type: ignore[no-any-return]
