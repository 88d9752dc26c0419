"""What the blocks of a network see of the time: sinusoidal features (Vaswani et al. 2017), two linear layers, and a
projection for each block.

It depends on the timestep alone. The tiles of a picture have theirs in common, and so have the pictures of a folder, so
a packed network remembers what a timestep gave. It computes sixteen of them at a time, those that it is told of
beforehand: one takes as long, since most of that is reading weights from memory. It computes sixteen where it knows of
fewer, too, for some processors sum in another order then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.fast.prepacked import Packed, PackedTogether
from restorer.networks.fast.weight_versions import Weights
from restorer.networks.layers import Together

__all__ = ["PackedTimes", "TimeMLP", "TimedBlock", "TimedNetwork", "Times", "timestep_embedding"]

AHEAD = 16  # timesteps at a time
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
    """From timesteps to what each block's projection makes of them. All layers remain their owners'.

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
        self.embedding = (embedding,)  # a tuple, so that it is not registered twice
        self._flip, self._shift = flip, shift

    def features(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """What goes into them: (B,) -> (B, features)."""
        dim = self.embedding[0].linear_1.in_features
        return timestep_embedding(t, dim, flip=self._flip, shift=self._shift).to(dtype)

    def forward(self, t: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        """Timesteps (B,) -> of each slot (B, features), in a precision. None of it may be written to."""
        (embedding,) = self.embedding
        return self.projections(F.silu(embedding(self.features(t, dtype))))  # type: ignore[no-any-return]

    def expect(self, timesteps: Sequence[float]) -> None:
        """These are to be asked for, one by one: see `PackedTimes`."""

    def packed_form(self) -> PackedTimes | None:
        """See `pack`; without biases it stays as it is."""
        (embedding,) = self.embedding
        layers = (embedding.linear_1, embedding.linear_2, *self.projections.layers)
        return PackedTimes(self) if all(layer.bias is not None for layer in layers) else None


class TimedNetwork(nn.Module):
    """A network whose blocks see the time, and nothing else in it does.

    `forward(x, t)` takes (B, C, H, W) and timesteps (B,), or (1,) for all, which need not be integers.
    """

    times: Times | PackedTimes

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's answer."""
        return self.at(x, self.times(t, x.dtype))

    def at(self, x: Tensor, times: Sequence[Tensor]) -> Tensor:
        """The same, given what `times` makes of the timesteps."""
        raise NotImplementedError


_Known = dict[tuple[float, torch.dtype], Sequence[Tensor]]


class PackedTimes(Packed):
    """See `Packed` and `Times`: layers packed, and what single timesteps gave remembered."""

    def __init__(self, times: Times) -> None:
        super().__init__()
        self._times = (times,)
        (embedding,) = times.embedding
        self.linear_1 = PackedTogether(Together(embedding.linear_1))
        self.linear_2 = PackedTogether(Together(embedding.linear_2))
        self.projections = PackedTogether(times.projections)
        self._layers = (embedding.linear_1, embedding.linear_2, *times.projections.layers)
        self._known: _Known = {}
        self._known_for: Weights | None = None
        self._expected: list[float] = []

    def forward(self, t: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        """See `Times`."""
        changes = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.jit.is_tracing()
        if Packed.plain or changes:
            return self._times[0](t, dtype)  # type: ignore[no-any-return]
        if len(t) != 1:
            return self._computed(t, dtype)
        if self._known_for is None or self._known_for.changed():
            self.forget()
            self._known_for = Weights(self._layers)
        time, known = float(t), self._known  # where another thread has begun anew, it is not for that
        found = known.get((time, dtype))
        return self._learned(time, dtype, known) if found is None else found

    def expect(self, timesteps: Sequence[float]) -> None:
        """These are to be asked for, one by one: then they are computed `AHEAD` at a time."""
        self._expected = list(dict.fromkeys(timesteps))

    def forget(self) -> None:
        """Remember nothing."""
        self._known = {}

    def _learned(self, time: float, dtype: torch.dtype, known: _Known) -> Sequence[Tensor]:
        """What a timestep gives, from now on known as well as some that are expected after it."""
        expected = self._expected
        after = expected[expected.index(time) + 1 :] if time in expected else []
        coming = [time, *(t for t in after if (t, dtype) not in known)][:AHEAD]
        rows = coming + [time] * (AHEAD - len(coming))
        parts = self._computed(torch.tensor(rows, device=self._layers[0].weight.device), dtype)
        if len(known) * sum(part[0].numel() for part in parts) >= REMEMBERED:
            known.clear()
        given = {(t, dtype): [part[i : i + 1] for part in parts] for i, t in enumerate(coming)}
        known.update(given)
        return given[time, dtype]

    def packs(self, dtype: torch.dtype) -> int:
        """See `Packed.packs`: what its parts hold, they say themselves."""
        return 0

    def unpacked(self) -> Times:
        """See `Packed.unpacked`."""
        return self._times[0].train(self.training)

    def _computed(self, t: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        (hidden,) = self.linear_1(self._times[0].features(t, dtype))
        (embedded,) = self.linear_2(F.silu(hidden))
        return self.projections(F.silu(embedded))  # type: ignore[no-any-return]
