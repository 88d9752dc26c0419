"""Nearest patches: for every patch of a picture that touches a hole, the most similar one without unknown pixels.

Few patches are compared with all others. Many are matched by PatchMatch (Barnes et al. 2009,
https://doi.org/10.1145/1531326.1531330): the match of a patch, moved by a few pixels, is tried for its neighbours, and
random places around the best match so far are tried as well. All patches take each of these turns at once.

Patches are named by the places of their centres in a picture that is stored row by row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RADIUS", "SIDE", "Field"]

RADIUS = 3
"""Pixels of a patch on each side of its centre."""

SIDE = 2 * RADIUS + 1
"""Side of a patch in pixels."""

MOST_COMPARED = 6_000_000
"""Number of pairs of patches up to which all of them are compared."""

CHUNK = 1 << 14
"""Number of patches that are compared at a time, which bounds the memory."""

JUMPS = (4, 1)
"""Distances in pixels to the neighbours whose matches are tried."""


class Field:
    """The patches of a picture that touch a hole, and those that may replace them.

    Args:
        hole: The unknown pixels, bool (H, W), with H and W at least SIDE.

    Attributes:
        targets: The centres of the patches that touch the hole, int64 (N,), in ascending order.
        sources: The centres of those without unknown pixels, int64 (M,), in ascending order.
        offsets: The places of the pixels of a patch relative to its centre, int64 (SIDE^2,).
    """

    def __init__(self, hole: Tensor) -> None:
        self.height, self.width = hole.shape
        touches = F.max_pool2d(hole[None, None].float(), SIDE, 1)[0, 0] > 0
        self.targets = torch.nonzero(F.pad(touches, (RADIUS,) * 4).flatten()).flatten()
        self._is_source = F.pad(~touches, (RADIUS,) * 4).flatten()
        self.sources = torch.nonzero(self._is_source).flatten()
        side = torch.arange(-RADIUS, RADIUS + 1)
        self.offsets = (side[:, None] * self.width + side).flatten()

    def patches(self, pixels: Tensor, centres: Tensor) -> Tensor:
        """Return patches.

        Args:
            pixels: The picture, float (H W, C).
            centres: The centres of the patches, int64 (N,).

        Returns:
            (N, SIDE^2 C).
        """
        at = (centres[:, None] + self.offsets).flatten()
        return pixels.index_select(0, at).view(len(centres), -1)

    def moved(self, centres: Tensor, down: Tensor | int, right: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return places moved by some pixels, and whether they are still inside the picture, bool."""
        row, column = centres // self.width + down, centres % self.width + right
        inside = (row >= 0) & (row < self.height) & (column >= 0) & (column < self.width)
        return torch.where(inside, row * self.width + column, 0), inside

    def allowed(self, guess: Tensor, generator: torch.Generator) -> Tensor:
        """Return a guess with random sources in place of those that are none."""
        chance = torch.randint(len(self.sources), (len(guess),), generator=generator)
        return torch.where(self._is_source[guess], guess, self.sources[chance])

    def nearest(
        self, pixels: Tensor, guess: Tensor | None, generator: torch.Generator, rounds: int = 3
    ) -> tuple[Tensor, Tensor]:
        """Return the nearest source of every target; not always the very nearest one if there are many.

        Args:
            pixels: The picture, with its hole filled for now, float (H W, C).
            guess: Sources that are likely to be near, int64 (N,); None if none are known.
            generator: Source of the random numbers.
            rounds: Number of rounds of PatchMatch.

        Returns:
            The centres of the sources, int64 (N,), and the squared distances, float (N,).
        """
        if len(self.targets) * len(self.sources) <= MOST_COMPARED:
            return self._compare_all(pixels)
        if guess is None:
            guess = self.sources[torch.randint(len(self.sources), (len(self.targets),), generator=generator)]
        return self._match(pixels, guess, generator, rounds)

    def distances(self, pixels: Tensor, centres: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the squared distances of targets, all of them by default, from the patches at the given centres."""
        targets = self.targets if targets is None else targets
        parts = [
            (self.patches(pixels, ours) - self.patches(pixels, others)).square_().sum(1)
            for ours, others in zip(targets.split(CHUNK), centres.split(CHUNK), strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def _compare_all(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest source of every target by comparing all pairs."""
        ours = self.patches(pixels, self.targets)
        best, place = torch.full((len(ours),), torch.inf), torch.zeros(len(ours), dtype=torch.long)
        for centres in self.sources.split(CHUNK):
            others = self.patches(pixels, centres)
            least, at = torch.addmm(others.square().sum(1), ours, others.T, alpha=-2).min(1)
            is_better = least < best
            best, place = torch.where(is_better, least, best), torch.where(is_better, centres[at], place)
        return place, (best + ours.square().sum(1)).clamp_min_(0)

    def _match(self, pixels: Tensor, guess: Tensor, generator: torch.Generator, rounds: int) -> tuple[Tensor, Tensor]:
        """Return the nearest source of every target by PatchMatch."""
        place, best = guess.clone(), self.distances(pixels, guess)
        index = torch.full((self.height * self.width,), -1)
        index[self.targets] = torch.arange(len(place))

        def attempt(centres: Tensor, is_valid: Tensor) -> None:
            """Keep the proposed sources where they are nearer than the best so far."""
            at = torch.nonzero(is_valid & self._is_source[centres] & (centres != place)).flatten()
            proposed = centres[at]
            distances = self.distances(pixels, proposed, self.targets[at])
            is_better = distances < best[at]
            at = at[is_better]
            best[at], place[at] = distances[is_better], proposed[is_better]

        for _ in range(rounds):
            for jump in JUMPS:
                for down, right in ((0, jump), (jump, 0), (0, -jump), (-jump, 0)):
                    neighbours, inside = self.moved(self.targets, -down, -right)
                    other = index[neighbours]
                    centres, is_valid = self.moved(place[other.clamp_min(0)], down, right)
                    attempt(centres, is_valid & inside & (other >= 0))
            reach = max(self.height, self.width)
            while reach >= 1:
                shift = torch.randint(-reach, reach + 1, (2, len(place)), generator=generator)
                attempt(*self.moved(place, shift[0], shift[1]))
                reach //= 3
        return place, best
