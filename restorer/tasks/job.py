"""One restoration, decided but not begun: how it is run, and what is done where memory or precision do not suffice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from restorer.diffusion.degradations import Degradation, Mask
from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import NotFiniteError, Step, reverse
from restorer.errors import DeviceError, ModelError
from restorer.machine.memory import FIXED, SAMPLING, TWICE, available, check_room, human_bytes
from restorer.priors.latent import Conditioned, LatentPrior, latent_of
from restorer.priors.tiled import Tiled, tile_starts

__all__ = [
    "LEAST_TILE",
    "OVERLAP",
    "SIDES",
    "TILE",
    "WHOLE",
    "Job",
    "Restored",
    "best_side",
    "is_out_of_memory",
    "tiled",
    "usual_tiles",
]

WHOLE = 1_300_000  # pixels up to which a picture is not tiled
TILE, OVERLAP, LEAST_TILE = 512, 64, 64
SIDES = range(448, 769, 16)  # of tiles: about as fast a pixel as any


@dataclass(frozen=True)
class Restored:
    """A result.

    Args:
        image: float32 (C, H, W) in [0, 1], on the CPU.
        prior: as it was used in the end.
        notes: one line for each thing that did not go as planned.
    """

    image: Tensor
    prior: Tiled
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One restoration, decided but not begun.

    Args:
        prior: the diffusion model, tile by tile.
        plan: of the reverse process; None where there is nothing to do and the picture is returned as it is.
        image: the input, float32 (C, H, W) in [0, 1].
        sigma: noise of the input, 0..255 scale; `estimated` says by whom.
        detail: as used.
        start, degradation, y: as `reverse` takes them.
        finish: (last state, first prediction) -> picture (C, H, W) in [0, 1]. Of a latent prior the last state is the
            picture that its latents decode to.
        condition: what a conditional prior sees beside the state, (B, K, H, W).
        notes: what the user should know before it begins.
        then: (restored picture, prior as it was used) -> what is done to it next, with `more` evaluations.
    """

    prior: Tiled
    plan: Plan | None
    image: Tensor
    sigma: float
    estimated: bool
    detail: float
    start: Tensor
    finish: Callable[[Tensor, Tensor], Tensor]
    degradation: Degradation | None = None
    y: Tensor | None = None
    noise_variance: float = 0.0
    condition: Tensor | None = None
    notes: tuple[str, ...] = ()
    then: Callable[[Tensor, Tiled], Job] | None = None
    more: int = 0

    @property
    def evaluations(self) -> int:
        """Of the whole picture, in all."""
        return (self.plan.evaluations if self.plan else 0) + self.more

    @property
    def tiles(self) -> int:
        """Tiles an evaluation of the whole picture takes."""
        return self.prior.count(*self.start.shape[-2:])

    @property
    def latent(self) -> LatentPrior | None:
        """The prior, where it works on latents."""
        return latent_of(self.prior)

    @property
    def factor(self) -> int:
        """Pixels of the result along one side of one position that the network sees."""
        return 1 if self.latent is None else self.latent.factor

    def noting(self, note: str) -> Job:
        """The same job with one more note, if there is one."""
        return replace(self, notes=(*self.notes, note)) if note else self

    def run(
        self, on_step: Callable[[Step], None] | None = None, on_tile: Callable[[int, int], None] | None = None
    ) -> Restored:
        """Do it: in float32 where low precision gave nan; in smaller tiles, then in bf16, where memory runs out.

        Raises:
            ModelError: the network's output is not finite in float32 either.
            DeviceError: there is not enough memory: foreseen, or found even with the smallest tile in bf16.
        """

        def counted(before: int) -> Callable[[Step], None] | None:
            return on_step and (lambda step: on_step(replace(step, index=before + step.index, total=self.evaluations)))

        restored = self._run(counted(0), on_tile)
        if self.then is None:
            return restored
        after = self.then(restored.image, restored.prior).run(counted(self.evaluations - self.more), on_tile)
        return replace(after, notes=(*restored.notes, *after.notes))

    def _run(self, on_step: Callable[[Step], None] | None, on_tile: Callable[[int, int], None] | None) -> Restored:
        """Without what is done next."""
        if self.plan is None:
            return Restored(self.image, self.prior)
        tiled, notes = self._that_fits()
        sampled: tuple[Tensor, Tensor] | None = None
        lowered = False
        while True:
            try:
                sampled = sampled or self._sample(self.plan, tiled.watched(on_tile), on_step)
                last, first = sampled
                return Restored(self.finish(self._decoded(last, tiled).cpu(), first), tiled, tuple(notes))
            except NotFiniteError as error:
                precise, sampled = None if lowered else tiled.full_precision(), None
                if precise is None:
                    precision = "low precision, for which alone there is memory" if lowered else "fp32"
                    raise ModelError(f"the network gave values that are not finite, even in {precision}") from error
                tiled = precise
                notes.append("low precision gave values that are not finite: repeated in fp32")
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                again = "repeated" if sampled is None else "decoded"  # what is sampled is not sampled again
                if (smaller := self._smaller(tiled)) is not None:
                    notes.append(f"out of memory: {again} with {self.factor * smaller.tile}-pixel tiles")
                elif (smaller := tiled.low_precision()) is not None and sampled is None:
                    lowered = True
                    notes.append("out of memory: repeated in bf16")
                else:
                    raise DeviceError(
                        f"not enough memory on {tiled.device} even with {self.factor * tiled.tile}-pixel tiles",
                        "close other programs, or use --device cpu",
                    ) from error
                tiled = smaller

    def memory(self, prior: Tiled | None = None, *, low: bool = False) -> int:
        """About what sampling, finishing and writing take at their highest, in bytes, beside what is held already.

        Args:
            prior: in other tiles than its own. low: in low precision.
        """
        positions = self.start.shape[-2] * self.start.shape[-1]
        pixels = positions * self.factor**2
        held = (SAMPLING if self.then is None else SAMPLING + TWICE) * pixels
        tiles = prior or self.prior
        return FIXED + held + tiles.evaluation_bytes(positions, low=low) + tiles.kept_bytes(low=low)

    def _that_fits(self) -> tuple[Tiled, list[str]]:
        """The prior in tiles for which there is memory, and a note where they are smaller than was meant.

        Raises:
            DeviceError: there is too little for the picture itself.
        """
        tiled, room = self.prior, available(self.prior.device)
        while room is not None and self.memory(tiled) > room and (smaller := self._smaller(tiled)) is not None:
            tiled = smaller
        if room is None or (tiled is self.prior and self.memory(tiled) <= room):
            return tiled, []
        if self.memory(tiled) > room:  # in low precision, which is what comes after the smallest tile, it may fit
            height, width = (self.factor * side for side in self.start.shape[-2:])
            what = f"a result of {width}x{height} pixels"
            check_room(self.memory(tiled, low=True), what, tiled.device)
        return tiled, [f"{human_bytes(room)} of memory are free: {self.factor * tiled.tile}-pixel tiles"]

    def _smaller(self, prior: Tiled) -> Tiled | None:
        """The same in smaller tiles; None where these are the smallest."""
        return prior.cut_to(max(self.start.shape[-2:])).halved(max(LEAST_TILE // self.factor, 1))

    def _sample(self, plan: Plan, prior: Tiled, on_step: Callable[[Step], None] | None) -> tuple[Tensor, Tensor]:
        """The last state, on the prior's device, and the first prediction, on the CPU."""
        first: list[Tensor] = []

        def watch(step: Step) -> None:
            if not first:
                first.append(step.x0)
            if on_step is not None:
                on_step(step)

        device = prior.device
        y = None if self.y is None else self.y.to(device)
        degradation = self.degradation
        if isinstance(degradation, Mask):
            degradation = Mask(degradation.known.to(device))
        x = reverse(
            prior if self.condition is None else Conditioned(prior, self.condition),
            degradation,
            y,
            plan,
            self.start.to(device),
            noise_variance=self.noise_variance,
            on_step=watch,
        )
        return x, first[0].cpu()

    def _decoded(self, x: Tensor, prior: Tiled) -> Tensor:
        """The picture of a state: itself, or what latents decode to."""
        if (latent := latent_of(prior)) is None:
            return x
        picture = latent.decode(x, tile=prior.tile)
        if not bool(torch.isfinite(picture).all()):
            raise NotFiniteError("the autoencoder gave values that are not finite")
        return picture


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error means."""
    # The CPU allocator has no exception class of its own.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def tiled(prior: Prior, height: int, width: int) -> Tiled:
    """The prior with the tiles that suit a picture of this size; one that is tiled already stays as it is."""
    if isinstance(prior, Tiled):
        return prior
    side, overlap = usual_tiles(height, width, prior.native_size)
    return Tiled(prior, side, overlap=overlap)


def usual_tiles(height: int, width: int, native_size: int | None = None) -> tuple[int, int]:
    """The side of the tiles that suit a picture of this size, and what neighbours share; the network's own, if any."""
    if native_size is not None:
        return native_size, native_size // 4
    side = max(height, width) if height * width <= WHOLE else best_side(height, width)
    return side, min(OVERLAP, side // 4)


def best_side(height: int, width: int) -> int:
    """The side of tiles that a picture of this size is computed in with the least overlap, from SIDES.

    Tiles are squares of one size, so where one too few fits along an axis all of them move closer together: 2048x2048
    takes 25 of 512 pixels, half as much again as the picture has, and 9 of 736, a sixth.
    """

    def seen(side: int) -> int:
        """Pixels that the network sees."""
        down, across = (len(tile_starts(extent, side, OVERLAP)) * min(side, extent) for extent in (height, width))
        return down * across

    return min(SIDES, key=seen)
