"""A cache of what the blocks of a network see of the time.

The projections of the blocks depend on the timestep alone. All tiles of a picture share them, and so do the pictures of
a folder, so they are remembered. They are computed for sixteen timesteps at a time, which a run has announced: most of
the work is reading weights from memory, so sixteen take as long as one. Sixteen rows are computed even where fewer
timesteps are known, because some processors would otherwise sum in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.networks.fast.prepacked import JointLinear, Prepacked
from restorer.networks.fast.weight_versions import Versions
from restorer.networks.time_embedding import TimeEmbedding

__all__ = ["TimeCache"]

AHEAD = 16  # timesteps that are computed together
CAPACITY = 1 << 20  # numbers that are remembered; a timestep has some thousands

_Cache = dict[tuple[float, torch.dtype], Sequence[Tensor]]


class TimeCache(Prepacked):
    """A `TimeEmbedding` with prepacked layers that remembers the projections of single timesteps."""

    def __init__(self, embed_time: TimeEmbedding) -> None:
        super().__init__()
        self._embed_time = (embed_time,)  # a tuple, so that it is not registered
        (mlp,) = embed_time.mlp
        self.linear_1 = JointLinear(mlp.linear_1)
        self.linear_2 = JointLinear(mlp.linear_2)
        self.projections = JointLinear(*embed_time.projections)
        self._layers = (mlp.linear_1, mlp.linear_2, *embed_time.projections)
        self._cache_of: _Cache = {}
        self._versions: Versions | None = None
        self._announced: list[float] = []

    @staticmethod
    def serves(embed_time: TimeEmbedding) -> bool:
        """Return whether every layer has the bias that joint layers need."""
        (mlp,) = embed_time.mlp
        return all(layer.bias is not None for layer in (mlp.linear_1, mlp.linear_2, *embed_time.projections))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        """Return the projection of every block; see `TimeEmbedding`."""
        if Prepacked.disabled or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.jit.is_tracing():
            return self._embed_time[0](t, dtype)  # type: ignore[no-any-return]
        if len(t) != 1:
            return self._compute(t, dtype)
        if self._versions is None or self._versions.changed():
            self.forget()
            self._versions = Versions(self._layers)
        timestep, cache = float(t), self._cache_of  # another thread may put an empty cache in its place
        found = cache.get((timestep, dtype))
        return self._fill(timestep, dtype, cache) if found is None else found

    def announce(self, timesteps: Sequence[float]) -> None:
        """Announce the timesteps that a run will ask for, one by one, so that they are computed together."""
        self._announced = list(dict.fromkeys(timesteps))

    def forget(self) -> None:
        """Empty the cache."""
        self._cache_of = {}

    def count_packed(self, dtype: torch.dtype) -> int:
        """Return 0: the joint layers count what they hold."""
        return 0

    def plain(self) -> TimeEmbedding:
        """Return the plain time embedding."""
        return self._embed_time[0].train(self.training)

    def _fill(self, timestep: float, dtype: torch.dtype, cache: _Cache) -> Sequence[Tensor]:
        """Compute a timestep and some of those announced after it, and remember them all."""
        announced = self._announced
        later = announced[announced.index(timestep) + 1 :] if timestep in announced else []
        batch = [timestep, *(t for t in later if (t, dtype) not in cache)][:AHEAD]
        rows = batch + [timestep] * (AHEAD - len(batch))
        parts = self._compute(torch.tensor(rows, device=self._layers[0].weight.device), dtype)
        if len(cache) * sum(part[0].numel() for part in parts) >= CAPACITY:
            cache.clear()
        computed = {(t, dtype): [part[i : i + 1] for part in parts] for i, t in enumerate(batch)}
        cache.update(computed)
        return computed[timestep, dtype]

    def _compute(self, t: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        (hidden,) = self.linear_1(self._embed_time[0].features(t, dtype))
        (embedded,) = self.linear_2(F.silu(hidden))
        return self.projections(F.silu(embedded))  # type: ignore[no-any-return]
