"""One restoration, prepared but not yet run: how it runs, and what happens if memory or precision does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from restorer.diffusion.degradations.degradation import Degradation
from restorer.diffusion.degradations.pointwise import Mask
from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Asking, Prior, answered
from restorer.diffusion.reverse import Canvas, NotFiniteError, Step, reversing
from restorer.errors import DeviceError, ModelError
from restorer.images.sizes import Region
from restorer.machine.memory import (
    FIXED_BYTES,
    SAMPLE_BYTES,
    SAMPLING_BYTES,
    SECOND_PASS_BYTES,
    SPREAD_BYTES,
    available,
    check_memory,
    human_bytes,
    is_out_of_memory,
)
from restorer.measurement.blur import Blur
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.noise import Noise
from restorer.measurement.outliers import Outliers
from restorer.models.feed_forward import FeedForward
from restorer.priors.latent import Conditioned, LatentPrior, latent_of
from restorer.priors.tiled import Tiled
from restorer.tasks.repair import Repair
from restorer.tasks.tiles import MIN_TILE
from restorer.tasks.uncertain import (
    NOTHING,
    Asked,
    Doubt,
    Spread,
    draw_samples,
    drawn_by_data,
    is_by_samples,
    probed_index,
    runs,
    spread_by_derivative,
)

__all__ = ["Job", "Restored"]


@dataclass(frozen=True)
class Restored:
    """The result of a job.

    Args:
        image: The restored picture, float32 (C, H, W) in [0, 1], on the CPU.
        prior: The prior as it was used in the end, which may have smaller tiles or another precision than the job's.
        notes: One line for each thing that did not go as planned.
        alpha: The transparency of the result, float32 (H, W) in [0, 1], on the CPU; None if the job restores none.
        spread: How uncertain the result is, before any calibration; None if that was not asked for.
        samples: Further results, each like `image`; empty if they were not asked for.
    """

    image: Tensor
    prior: Tiled
    notes: tuple[str, ...] = ()
    alpha: Tensor | None = None
    spread: Spread | None = None
    samples: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Job:
    """One restoration, prepared but not yet run.

    Args:
        prior: The diffusion model, evaluated tile by tile.
        plan: Plan of the reverse process; None if there is nothing to do and the picture is returned as it is.
        image: The input, float32 (C, H, W) in [0, 1].
        sigma: Standard deviation of the noise of the input, on the 0..255 scale.
        estimated: Whether `sigma` was estimated, not given by the user.
        detail: The detail that is used, 0..1.
        start: As in `reverse`.
        finish: Maps (last state, first prediction) to the result, (C, H, W) in [0, 1]. For a latent prior, the last
            state is already decoded to a picture.
        degradation: As in `reverse`.
        y: As in `reverse`.
        noise_variance: As in `reverse`.
        condition: Condition that a conditional prior sees beside the state, float (B, K, H, W).
        notes: What the user should know before the job runs.
        noise: What was found out about the noise; None if the task does not look for noise.
        jpeg: What is known of the JPEG file; None if the picture is not a JPEG, or the task does not look for it.
        outliers: The outliers that are filled; None if none were found, or if the task does not look for them.
        blur: The blur that was found in the picture; None if none was, or if the task does not look for one. A task of
            several repairs leaves out the softness that photographs have.
        measure: Measures the picture with the prior, and returns the job that follows from what it finds; None if there
            is nothing left to measure.
        second_pass: Maps (restored picture, prior as it was used) to a job that continues from the result of this one;
            None if there is no second pass.
        second_pass_evaluations: Number of evaluations of the second pass.
        second_pass_size: Height and width of what the second pass computes; None if that is not larger.
        canvas: The whole picture of whose noise the job takes a part; None if it restores the whole picture.
        alpha: The job that restores the transparency, as a gray picture; None if there is none, or if it is resampled.
        starter: The network from whose result the job starts. If there is no plan, `image` is that result. None if the
            job starts from the picture.
        doubt: How the uncertainty of the result is estimated; None if it cannot be.
        asked: What the run returns beside the result.
        reseed: Returns the job of another seed; None if only the plan and the second pass depend on the seed.
        candidates: Number of fillings of wide holes, which are computed in one batch, and of which `finish` or that of
            the second pass keeps the best.
        again: Degrades the result, (C, H, W) in [0, 1], again; None if the degradation does not change pictures.
        redo: Returns the job that removes what was found from another state of the picture, (C, H, W), without
            measuring again. Its other arguments are the region, the prior and the detail. None if nothing was found, or
            if the task does not offer it.
        repairs: What was found and what is done about it, in the order of the work; None for a task of one kind.
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
    noise: Noise | None = None
    jpeg: Jpeg | None = None
    outliers: Outliers | None = None
    blur: Blur | None = None
    measure: Callable[[], Job] | None = None
    second_pass: Callable[[Tensor, Tiled], Job] | None = None
    second_pass_evaluations: int = 0
    second_pass_size: tuple[int, int] | None = None
    canvas: Canvas | None = None
    alpha: Job | None = None
    starter: FeedForward | None = None
    doubt: Doubt | None = None
    asked: Asked = NOTHING
    reseed: Callable[[int], Job] | None = None
    candidates: int = 1
    again: Callable[[Tensor], Tensor] | None = None
    redo: Callable[[Tensor, Region | None, Prior, float | None], Job] | None = None
    repairs: tuple[Repair, ...] | None = None

    @property
    def is_copy(self) -> bool:
        """Whether the result is the picture as it is. This is known once the job has been measured."""
        return self.plan is None and self.starter is None

    @property
    def evaluations(self) -> int:
        """Number of network evaluations of the whole picture, with those of the second pass and of the transparency."""
        own = (self.plan.evaluations if self.plan else 0) + self.second_pass_evaluations
        return own if self.alpha is None else own + self.alpha.evaluations

    @property
    def tiles(self) -> int:
        """Number of tiles that one evaluation of the whole picture takes."""
        return self.prior.count(*self.start.shape[-2:])

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width of the largest state that the network sees."""
        return self.second_pass_size or (self.start.shape[-2], self.start.shape[-1])

    @property
    def latent(self) -> LatentPrior | None:
        """The prior if it works on latents; otherwise None."""
        return latent_of(self.prior)

    @property
    def factor(self) -> int:
        """Ratio of the side of the result to that of the state that the network sees; 1 unless the prior is latent."""
        return 1 if self.latent is None else self.latent.factor

    def with_note(self, note: str) -> Job:
        """Return the same job with one more note; unchanged if the note is empty."""
        return replace(self, notes=(*self.notes, note)) if note else self

    def with_seed(self, seed: int) -> Job:
        """Return the same job with another seed, without its transparency; `measured` must have been called."""
        if self.reseed is not None:
            return replace(self.reseed(seed), asked=self.asked)
        second = self.second_pass
        return replace(
            self,
            plan=self.plan and replace(self.plan, seed=seed),
            second_pass=second and (lambda image, tiles: second(image, tiles).with_seed(seed)),
            alpha=None,
        )

    def measured(self) -> Job:
        """Return the job whose plan is known, measuring the picture first if that has not been done.

        Raises:
            ModelError: The network returns values that are not finite, even in float32.
            DeviceError: There is not enough memory.
        """
        if self.measure is None:
            return self
        try:
            return replace(self.measure(), asked=self.asked)
        except NotFiniteError as error:
            raise ModelError(f"{error}, even in fp32") from error
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"not enough memory on {self.prior.device} to measure the noise",
                _hint("name the noise with --sigma", self.prior.device),
            ) from error

    def run(
        self, on_step: Callable[[Step], None] | None = None, on_tile: Callable[[int, int], None] | None = None
    ) -> Restored:
        """Run the reverse process, and the second pass if there is one; several times if samples are drawn.

        A pass whose predictions are not finite in low precision is repeated in float32. A pass that runs out of memory
        is repeated in smaller tiles and, if even the smallest do not fit, in bf16.

        Args:
            on_step: Function called after every evaluation of the whole picture.
            on_tile: Function called with (tiles done, tiles in all) after every tile or batch of tiles.

        Raises:
            ModelError: The network returns values that are not finite, even in float32.
            DeviceError: There is not enough memory: by the estimate beforehand, or with the smallest tiles in bf16.
        """
        return answered(self.asking(on_step, on_tile))

    def asking(
        self, on_step: Callable[[Step], None] | None = None, on_tile: Callable[[int, int], None] | None = None
    ) -> Asking[Restored]:
        """Return the restoration as a computation that asks its prior; see `run`."""

        def counted_from(before: int) -> Callable[[Step], None] | None:
            """Return `on_step` with the evaluations counted over both passes, after `before` earlier ones."""
            return on_step and (lambda step: on_step(replace(step, index=before + step.index, total=self.evaluations)))

        if self.measure is not None:
            return (yield from self.measured().asking(on_step, on_tile))
        if self.plan is not None and runs(self.asked, self.doubt) > 1:
            return (yield from self._several(self.plan, on_step, on_tile))
        restored = yield from self._first_pass(counted_from(0), on_tile)
        of_alpha = 0 if self.alpha is None else self.alpha.evaluations
        if self.second_pass is not None:
            before = self.evaluations - self.second_pass_evaluations - of_alpha
            second = self.second_pass(restored.image, restored.prior)
            again = yield from replace(second, asked=self.asked).asking(counted_from(before), on_tile)
            restored = replace(again, notes=(*restored.notes, *second.notes, *again.notes))
        if self.alpha is not None:
            alpha = yield from self.alpha.asking(counted_from(self.evaluations - of_alpha), on_tile)
            restored = replace(restored, notes=(*restored.notes, *alpha.notes), alpha=alpha.image[0])
        return restored

    def _several(
        self, plan: Plan, on_step: Callable[[Step], None] | None, on_tile: Callable[[int, int], None] | None
    ) -> Asking[Restored]:
        """Return the result with the others that were drawn, and with the uncertainty that follows from them."""
        total = self.evaluations * runs(self.asked, self.doubt)

        def counted(number: int) -> Callable[[Step], None] | None:
            before = number * self.evaluations
            return on_step and (lambda step: on_step(replace(step, index=before + step.index, total=total)))

        def draw(number: int) -> Tensor:
            other = replace(self.with_seed(cast(int, plan.seed) + number), asked=NOTHING)
            return other.run(counted(number), on_tile).image

        alone = replace(
            self, asked=NOTHING if is_by_samples(self.asked, self.doubt) else replace(self.asked, samples=1)
        )
        first = yield from alone.asking(counted(0), on_tile)
        samples, spread = draw_samples(self.asked, self.doubt, first.image, draw)
        return replace(first, samples=samples, spread=spread or first.spread)

    def _first_pass(
        self, on_step: Callable[[Step], None] | None, on_tile: Callable[[int, int], None] | None
    ) -> Asking[Restored]:
        """Return the result without the second pass; see `run`."""
        if self.plan is None:
            return Restored(self.image, self.prior)
        prior, notes = self._fit_to_memory()
        sampled: tuple[Tensor, Tensor, tuple[Step, Tensor] | None] | None = None
        is_lowered = False
        while True:
            try:
                sampled = sampled or (yield from self._sample(self.plan, prior.with_callback(on_tile), on_step))
                state, first, probed = sampled
                image = self.finish(self._decode(state, prior).cpu(), first)
                spread: Spread | None = None
                if probed is not None and self.doubt is not None:
                    change = image - self.finish(first, first) if self.doubt.has_mean else None
                    spread = spread_by_derivative(self.doubt, prior, self.plan, probed[0], change, probed[1])
                return Restored(image, prior, tuple(notes), spread=spread)
            except NotFiniteError as error:
                precise, sampled = None if is_lowered else _in_tiles(prior.resources.full_precision()), None
                if precise is None:
                    precision = "low precision, the only one that fits in memory" if is_lowered else "fp32"
                    raise ModelError(f"the network returned values that are not finite, even in {precision}") from error
                prior = precise
                notes.append("low precision gave values that are not finite: repeated in fp32")
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                # A state that is already sampled is only decoded again.
                action = "repeated" if sampled is None else "decoded"
                if (smaller := self._with_smaller_tiles(prior)) is not None:
                    notes.append(f"out of memory: {action} with {self.factor * smaller.tile}-pixel tiles")
                elif (smaller := _in_tiles(prior.resources.low_precision())) is not None and sampled is None:
                    is_lowered = True
                    notes.append("out of memory: repeated in bf16")
                else:
                    raise DeviceError(
                        f"not enough memory on {prior.device}, even with {self.factor * prior.tile}-pixel tiles",
                        _hint("restore a part of the picture with --region", prior.device),
                    ) from error
                prior = smaller

    def required_bytes(self, prior: Tiled | None = None, *, low: bool = False) -> int:
        """Estimate the peak of the bytes that sampling, finishing and writing take, beside the memory in use already.

        Args:
            prior: The prior with other tiles; None for the job's own.
            low: Whether to count for low precision.
        """
        batch = len(self.start) if self.measure is None else self.candidates
        positions = batch * self.start.shape[-2] * self.start.shape[-1]
        pixels = positions * self.factor**2
        per_pixel = SAMPLING_BYTES if self.second_pass is None else SAMPLING_BYTES + SECOND_PASS_BYTES
        per_pixel += (SPREAD_BYTES if self.asked.spread else 0) + SAMPLE_BYTES * (self.asked.samples - 1)
        resources = (prior or self.prior).resources
        network = resources.evaluation_bytes(positions, low=low) + resources.kept_bytes(low=low)
        return FIXED_BYTES + per_pixel * pixels + network

    def _fit_to_memory(self) -> tuple[Tiled, list[str]]:
        """Return the prior in tiles that fit in memory, with a note if they are smaller than the job's own.

        Raises:
            DeviceError: There is too little memory for the picture itself.
        """
        prior, free = self.prior, available(self.prior.device)
        while free is not None and self.required_bytes(prior) > free:
            smaller = self._with_smaller_tiles(prior)
            if smaller is None:
                break
            prior = smaller
        if free is None or (prior is self.prior and self.required_bytes(prior) <= free):
            return prior, []
        if self.required_bytes(prior) > free:
            # Low precision follows the smallest tiles, so the job fails only if that does not fit either.
            height, width = (self.factor * side for side in self.start.shape[-2:])
            subject = f"a result of {width}x{height} pixels"
            check_memory(self.required_bytes(prior, low=True), subject, prior.device)
        return prior, [f"only {human_bytes(free)} of memory are free: using {self.factor * prior.tile}-pixel tiles"]

    def _with_smaller_tiles(self, prior: Tiled) -> Tiled | None:
        """Return the prior with tiles of half the side; None if its tiles are the smallest."""
        return prior.limited_to(max(self.start.shape[-2:])).halved(max(MIN_TILE // self.factor, 1))

    def _sample(
        self, plan: Plan, prior: Tiled, on_step: Callable[[Step], None] | None
    ) -> Asking[tuple[Tensor, Tensor, tuple[Step, Tensor] | None]]:
        """Return the last state, on the device of the prior, the first prediction, on the CPU, and signs of errors.

        That is the evaluation that is probed, and what the data changed in the first prediction; None if neither is
        wanted.
        """
        first: list[Tensor] = []
        drawn: list[Tensor] = []
        probed: list[Step] = []
        wanted = 0 if self.second_pass is not None else probed_index(self.asked, self.doubt, plan.evaluations)

        def keep_first(step: Step) -> None:
            if not first:
                first.append(step.x0)
                if wanted and self.doubt is not None:
                    drawn.append(drawn_by_data(self.doubt, step))
            if step.index == wanted:
                probed.append(step)
            if on_step is not None:
                on_step(step)

        device = prior.device
        y = None if self.y is None else self.y.to(device)
        degradation = self.degradation
        if isinstance(degradation, Mask):
            degradation = Mask(degradation.known.to(device))
        x = yield from reversing(
            prior if self.condition is None else Conditioned(prior, self.condition),
            degradation,
            y,
            plan,
            self.start.to(device),
            noise_variance=self.noise_variance,
            canvas=self.canvas,
            on_step=keep_first,
        )
        return x, first[0].cpu(), (probed[0], drawn[0]) if probed else None

    def _decode(self, x: Tensor, prior: Tiled) -> Tensor:
        """Return the picture of a state: the state itself, or the decoded latents."""
        if (latent := latent_of(prior)) is None:
            return x
        picture = latent.decode(x, tile=prior.tile)
        if not bool(torch.isfinite(picture).all()):
            raise NotFiniteError("the autoencoder returned values that are not finite")
        return picture


def _hint(remedy: str, device: torch.device) -> str:
    """Return what to do if memory does not suffice; on a CPU there is no other device to name."""
    last = remedy if device.type == "cpu" else f"{remedy}, or use --device cpu"
    return f"close other programs, {'or ' if device.type == 'cpu' else ''}{last}"


def _in_tiles(prior: Prior | None) -> Tiled | None:
    """Return another precision of a tiled prior, which is tiled too, with its exact type."""
    return cast(Tiled | None, prior)
