"""Training a denoising diffusion model: data, loop, checkpoints.

    L_simple = E_{x_0, eps, t} || target - network(x_t, t) ||^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

(Ho et al. 2020, eq. 14; the other objectives are in `diffusion/objective.py`). t is drawn more often where the noise is
low, because that is where pictures are restored. The weights kept are an exponential moving average.

What step k sees (crops, timesteps, noise) is a function of the recipe and of k, so a run that was stopped in any way
and goes on from its checkpoint ends with the same bytes as one that was not, on a CPU with the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.datasets import CropStream, Dataset, Found, find_sources
from restorer.diffusion.objective import hybrid_loss, min_snr_weight, simple_loss, target
from restorer.diffusion.schedule import alpha_bar_of
from restorer.errors import ModelError, OutputError, UsageError
from restorer.priors.catalog import resolve_device, resolve_dtype
from restorer.priors.checkpoints import load_model
from restorer.priors.unet_prior import ModelSpec
from restorer.recipe import Recipe
from restorer.run_folder import CHECKPOINT, RunFolder

__all__ = ["Machine", "Outcome", "Progress", "Start", "train"]

FIRST_SAVE = 20.0  # seconds after which the output folder is a model for the first time
LEVELS = 10  # intervals of t over which the loss is told apart


@dataclass(frozen=True)
class Machine:
    """What a run works with. None of it is in the recipe; on one machine the device and precision change the rounding.

    Args:
        device, precision: as `load_prior` takes them; low precision is autocast, the weights stay float32.
        compile: run the network through torch.compile.
        memory: bytes for decoded pictures. threads: how many cut crops.
        save_every: seconds between checkpoints. log_every: steps between lines of metrics.
    """

    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    memory: int = 4_000_000_000
    threads: int = 1
    save_every: float = 300.0
    log_every: int = 50


@dataclass(frozen=True)
class Start:
    """What a run begins with: the pictures found, the step it goes on from, the device and the precision."""

    found: Found
    step: int
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Progress:
    """How far a run is, over the steps since the last report.

    Args:
        step, steps: done, and in all. loss: mean. levels: mean loss of each tenth of t, nan where none was drawn.
        rate: crops a second. waiting: share of the time spent waiting for crops. left: seconds.
        learning_rate: of the last step. gradient: largest norm before clipping.
    """

    step: int
    steps: int
    loss: float
    levels: tuple[float, ...]
    rate: float
    waiting: float
    left: float
    learning_rate: float
    gradient: float


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the step it reached, whether that was the last, and how many files could not be read."""

    step: int
    finished: bool
    unreadable: int


class _State:
    """Everything that changes during a run, and that a checkpoint holds."""

    def __init__(self, spec: ModelSpec, recipe: Recipe, device: torch.device, init: Path | None) -> None:
        torch.manual_seed(recipe.seed)
        network = spec.network.build()
        if init is not None:
            start, start_spec = load_model(init)
            if start_spec.network != spec.network:
                raise ModelError(f"{init} holds a network of another shape than the recipe's", "leave out --recipe")
            network.load_state_dict(start.state_dict())
        network = network.to(device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=recipe.learning_rate, fused=True)
        self.step = 0

    def restore(self, path: Path, device: torch.device) -> None:
        """Go on from a checkpoint.

        Raises:
            ModelError: it is damaged, or belongs to another network.
        """
        try:
            content = torch.load(path, map_location=device, weights_only=True)
            self.network.load_state_dict(content["network"])
            self.average.load_state_dict(content["average"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.step = int(content["step"])
        except Exception as error:  # torch.load has no exception class of its own
            hint = "begin anew in another folder, or with --overwrite"
            raise ModelError(f"{path} does not fit this recipe, or is damaged: {str(error)[:200]}", hint) from error

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        networks = {"network": self.network.state_dict(), "average": self.average.state_dict()}
        return {**networks, "optimizer": self.optimizer.state_dict(), "step": self.step}

    @torch.no_grad()
    def average_in(self, decay: float) -> None:
        """One step of the moving average; its decay grows from the first steps on."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)


class _Meter:
    """Sums since the last report; on the device, so that nothing waits for a GPU."""

    def __init__(self, device: torch.device, step: int) -> None:
        self._sums = torch.zeros(LEVELS, 2, dtype=torch.float64, device=device)
        self._gradient = torch.zeros((), device=device)
        self.waited, self._began, self._first = 0.0, time.monotonic(), step

    def add(self, t: Tensor, errors: Tensor, steps: int) -> None:
        level = (t.to(errors.device) / steps * LEVELS).long()
        self._sums[:, 0].index_add_(0, level, errors.detach().double())
        self._sums[:, 1].index_add_(0, level, torch.ones_like(errors, dtype=torch.float64))

    def gradient(self, norm: Tensor) -> None:
        self._gradient.copy_(torch.maximum(self._gradient, norm.to(self._gradient.dtype)))

    def report(self, step: int, recipe: Recipe) -> Progress:
        totals, counts = self._sums.T.tolist()
        seconds = max(time.monotonic() - self._began, 1e-9)
        steps = max(step - self._first, 1)
        return Progress(
            step=step,
            steps=recipe.steps,
            loss=sum(totals) / max(sum(counts), 1),
            levels=tuple(s / n if n else math.nan for s, n in zip(totals, counts, strict=True)),
            rate=steps * recipe.batch * recipe.accumulate / seconds,
            waiting=self.waited / seconds,
            left=(recipe.steps - step) * seconds / steps,
            learning_rate=learning_rate(step - 1, recipe),
            gradient=float(self._gradient),
        )


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, times a cosine that ends at zero (Loshchilov & Hutter 2017, arXiv:1608.03983, one period)."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / recipe.steps)))


def draw_t(count: int, recipe: Recipe, steps: int, generator: torch.Generator) -> Tensor:
    """Timesteps (B,) float64: real-valued in [0, T - 1], or whole numbers from 0 to T - 1 where the recipe says so."""
    low_t, last = min(recipe.low_t, steps - 1), steps if recipe.discrete else steps - 1
    share = torch.rand(count, generator=generator)
    u = torch.rand(count, dtype=torch.float64, generator=generator)
    t = torch.where(share < recipe.low_share, u * low_t, low_t + u * (last - low_t))
    return t.floor() if recipe.discrete else t


def probability(t: Tensor, recipe: Recipe, steps: int) -> Tensor:
    """How likely `draw_t` was to draw whole numbers t."""
    low_t = min(recipe.low_t, steps - 1)
    low, high = recipe.low_share / max(low_t, 1), (1 - recipe.low_share) / (steps - low_t)
    return torch.where(t < low_t, low, high)


def losses(
    network: Callable[..., Tensor], spec: ModelSpec, recipe: Recipe, x0: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """The loss of every picture, (B,). x0, eps: (B, C, H, W) where the network is; t: float64 (B,) on the CPU."""
    schedule, gamma = spec.schedule, recipe.min_snr or None
    alpha_bar = alpha_bar_of(schedule.sigma_at(t)).view(-1, 1, 1, 1).to(x0.device, x0.dtype)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    folded = F.pixel_unshuffle(x_t, spec.patch_size).contiguous(memory_format=torch.channels_last)
    output = F.pixel_shuffle(network(folded, t.to(x0.device, torch.float32)).float(), spec.patch_size)
    if output.shape[1] == x0.shape[1]:
        wanted = target(spec.prediction_type, x0, eps, alpha_bar)
        return min_snr_weight(spec.prediction_type, alpha_bar, gamma) * simple_loss(output, wanted)
    drawn = probability(t, recipe, schedule.steps)
    whole = t.long().to(x0.device)
    return hybrid_loss(
        schedule, spec.prediction_type, output, x0, eps, whole, gamma=gamma, probability=drawn.to(x0.device)
    )


def train(
    spec: ModelSpec,
    recipe: Recipe,
    data: Sequence[Path],
    out: Path,
    machine: Machine | None = None,
    *,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[Start], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_save: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a prior. `out` is a model folder within the first minute, and better after every checkpoint.

    Args:
        spec, recipe: what is trained and how.
        data: folders, .tar shards, pictures.
        out: the folder; see `run_folder`.
        machine: what the run works with.
        init: a model folder to begin with, in place of random weights.
        resume: go on where `out` has a checkpoint; begin where it has none. overwrite: begin anew all the same.
        on_start, on_progress, on_save: told what was found, how it goes, and the step of each save.
        stop: asked after every step; where it says True the state is saved and the run ends.

    Raises:
        OutputError: `out` holds a run already, and neither `resume` nor `overwrite` was said; or it cannot be written.
        ModelError: the checkpoint or `init` does not fit, or the loss is not finite (the last good state is kept).
        PictureError: nothing to train on.
        UsageError: the recipe asks for what does not go together.
    """
    machine = machine or Machine()
    _check(spec, recipe)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not (resume or overwrite):
        raise OutputError(f"{out} holds a run already", "--resume goes on with it, --overwrite begins anew")
    device = resolve_device(machine.device)
    dtype = resolve_dtype(machine.precision, device)
    found = find_sources(data, recipe.crop)
    dataset = Dataset(found.sources, machine.memory, recipe.seed)
    state = _State(spec, recipe, device, init)
    if resume and checkpoint.exists():
        state.restore(checkpoint, device)
    folder = RunFolder(out, spec, recipe, {"pictures": found.described}, dataset.example())
    folder.begin(state.step)
    if on_start is not None:
        on_start(Start(found, state.step, device, dtype))
    stream = CropStream(dataset, recipe.augmentation, recipe.batch, recipe.seed, machine.threads)
    batches = stream.batches(state.step * recipe.accumulate)
    step = _Stepper(state, spec, recipe, device, dtype, machine.compile)
    meter, clock = _Meter(device, state.step), _Clock(machine.save_every)
    try:
        while state.step < recipe.steps:
            step(batches, meter)
            ended = state.step == recipe.steps or stop()
            if not ended and state.step % machine.log_every and not clock.due():
                continue
            progress = meter.report(state.step, recipe)
            if not (math.isfinite(progress.loss) and math.isfinite(progress.gradient)):
                kept = f"the last good state is {checkpoint}" if checkpoint.exists() else "nothing was saved yet"
                raise ModelError(f"the loss is not finite at step {state.step}; {kept}", "lower --learning-rate")
            folder.record(asdict(progress))
            if on_progress is not None:
                on_progress(progress)
            if ended or clock.due():  # only after the loss was seen to be finite
                folder.save(state.average, state.content())
                clock.reset()
                if on_save is not None:
                    on_save(state.step)
            meter = _Meter(device, state.step)
            if ended:
                break
    finally:
        batches.close()
    return Outcome(state.step, state.step >= recipe.steps, found.unreadable + len(dataset.broken))


def _check(spec: ModelSpec, recipe: Recipe) -> None:
    """Refuse what does not go together, before anything is read."""
    multiple = spec.patch_size * 2 ** (len(spec.network.block_out_channels) - 1)
    if recipe.crop % multiple:
        raise UsageError(f"a crop of {recipe.crop} pixels is no multiple of {multiple}, as this network needs")
    learned = spec.network.out_channels != spec.network.in_channels
    if learned and not recipe.discrete:
        raise UsageError("a learned variance needs whole timesteps", "set discrete = true in the recipe")
    if spec.network.in_channels != 3 * spec.patch_size**2:
        raise UsageError("this trainer makes priors of colour pictures: in_channels is 3 * patch_size ** 2")


class _Stepper:
    """One optimizer step: `accumulate` forward and backward passes, the gradient clipped, the average moved on."""

    def __init__(
        self,
        state: _State,
        spec: ModelSpec,
        recipe: Recipe,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool,
    ) -> None:
        self._state, self._spec, self._recipe, self._device, self._dtype = state, spec, recipe, device, dtype
        self._network = torch.compile(state.network) if compiled else state.network

    def __call__(self, batches: Iterator[np.ndarray], meter: _Meter) -> None:
        state, recipe = self._state, self._recipe
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(state.step, recipe)
        for part in range(recipe.accumulate):
            began = time.monotonic()
            crops = torch.from_numpy(next(batches))
            meter.waited += time.monotonic() - began
            x0 = crops.to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
            t, eps = self._draw(x0, part)
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                errors = losses(self._network, self._spec, recipe, x0, t, eps)
            (errors.mean() / recipe.accumulate).backward()
            meter.add(t, errors, self._spec.schedule.steps)
        meter.gradient(torch.nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_gradient))
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.average_in(recipe.ema)

    def _draw(self, x0: Tensor, part: int) -> tuple[Tensor, Tensor]:
        """Timesteps (B,) and noise like x0: a function of the seed, the step and the pass."""
        seed = ((self._recipe.seed * 1_000_003 + self._state.step) * 1_009 + part) % 2**63
        t = draw_t(len(x0), self._recipe, self._spec.schedule.steps, torch.Generator().manual_seed(seed))
        generator = torch.Generator(self._device).manual_seed(seed)
        return t, torch.randn(x0.shape, generator=generator, device=self._device)


class _Clock:
    """When to save: soon for the first time, so that the folder is a model early, then at intervals."""

    def __init__(self, interval: float) -> None:
        self._interval, self._at = interval, time.monotonic() + min(FIRST_SAVE, interval)

    def due(self) -> bool:
        return time.monotonic() >= self._at

    def reset(self) -> None:
        self._at = time.monotonic() + self._interval
