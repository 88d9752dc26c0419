"""Training a denoising diffusion model: data, loop, checkpoints.

    L_simple = E_{x_0, eps, t} || target - network(x_t, t) ||^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

(Ho et al. 2020, eq. 14; the other objectives are in `diffusion/objective.py`). t is drawn more often where the noise is
low, because that is where pictures are restored. The weights kept are an exponential moving average.

What step k sees (crops, timesteps, noise) is a function of the recipe, the pictures and k, so a run that was stopped in
any way and goes on from its checkpoint ends with the same bytes as one that was not: on a CPU, with as many threads of
PyTorch, and with as much memory for pictures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restorer.diffusion.objective import hybrid_loss, min_snr_weight, simple_loss, target
from restorer.diffusion.schedule import alpha_bar_of
from restorer.errors import DeviceError, ModelError, OutputError, UsageError
from restorer.models.checkpoints import load_model
from restorer.models.layout import CONFIG, SAFETENSORS
from restorer.models.load import resolve_device, resolve_dtype
from restorer.networks.layers import shuffled, unshuffled
from restorer.priors.unet_prior import ModelSpec
from restorer.training.datasets import CropStream, Dataset, Found, find_sources
from restorer.training.meter import Meter, Progress
from restorer.training.optimizer import make_optimizer
from restorer.training.recipe import Recipe, read_recipe
from restorer.training.run_folder import CHECKPOINT, RECIPE, RunFolder

__all__ = ["Machine", "Outcome", "Progress", "Start", "train"]


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
    """What a run begins with.

    Args:
        found: the pictures; too_large: how many of them are too large for the memory, and are left out.
        step: it goes on from. device, dtype: where and in which precision it computes.
    """

    found: Found
    too_large: int
    step: int
    device: torch.device
    dtype: torch.dtype


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
            if not same_kind(start_spec, spec):
                raise ModelError(f"{init} is not the kind of network that the recipe describes", "leave out --recipe")
            network.load_state_dict(start.state_dict())
        network = network.to(device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizer = make_optimizer(recipe.optimizer, self.network, recipe.learning_rate)
        self.levels = LevelMeans(spec.schedule.steps, device)
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
            self.levels.sums = content["levels"]
            self.step = int(content["step"])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # torch.load has no exception class of its own
            hint = "begin anew in another folder, or with --overwrite"
            raise ModelError(f"{path} does not fit this recipe, or is damaged: {str(error)[:200]}", hint) from error

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        networks = {"network": self.network.state_dict(), "average": self.average.state_dict()}
        return {
            **networks,
            "optimizer": self.optimizer.state_dict(),
            "levels": self.levels.sums,
            "step": self.step,
        }

    def is_sound(self) -> bool:
        """Whether all weights are finite, and those of the average in 16 bits as well."""
        kept = all(bool(p.half().isfinite().all()) for p in self.average.parameters())
        return kept and all(bool(p.isfinite().all()) for p in self.network.parameters())

    @torch.no_grad()
    def average_in(self, decay: float) -> None:
        """One step of the moving average; its decay grows from the first steps on."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)


class LevelMeans:
    """The running mean of the loss at each of a hundred noise levels.

    Divided by it, the loss of every level weighs alike, and so does a tenth of a decibel: the weights of least variance
    for errors of unequal size, and what the learned ones of Karras et al. 2024 (https://arxiv.org/abs/2312.02696, eq.
    14) tend to. Undivided, the lowest levels weigh most, where noise cannot be told from the rounding of the picture.
    """

    COUNT, MEMORY = 100, 0.99  # levels; what is left of a visit's weight after the next

    def __init__(self, steps: int, device: torch.device) -> None:
        self._steps = steps
        self.sums = torch.zeros(self.COUNT, 2, dtype=torch.float64, device=device)  # of losses, and of visits

    def __call__(self, t: Tensor, errors: Tensor) -> Tensor:
        """The means at timesteps t (B,), before these errors (B,) count; where none is known, the errors themselves."""
        level = (t / self._steps * self.COUNT).long().clamp(max=self.COUNT - 1).to(errors.device)
        seen, said = self.sums[level], errors.detach().double()
        means = torch.where(seen[:, 1] > 0, seen[:, 0] / seen[:, 1], said).clamp(min=1e-8)
        now = torch.zeros_like(self.sums).index_add_(0, level, torch.stack([said, torch.ones_like(said)], dim=1))
        self.sums = self.sums * self.MEMORY ** now[:, 1:] + now
        return means.to(errors.dtype)


def same_kind(a: ModelSpec, b: ModelSpec) -> bool:
    """Whether two specs describe networks that mean the same: all but what is done with their output."""
    plain_a, plain_b = (replace(spec, clip=True, native_size=None, mirrors=False) for spec in (a, b))
    return plain_a == plain_b


def draw_t(count: int, recipe: Recipe, steps: int, generator: torch.Generator) -> Tensor:
    """Timesteps (B,) float64: real-valued in [0, T - 1], or whole numbers from 0 to T - 1 where the recipe says so."""
    low_t, low_share = _low(recipe, steps)
    last = steps if recipe.discrete else steps - 1
    share = torch.rand(count, generator=generator)
    u = torch.rand(count, dtype=torch.float64, generator=generator)
    t = torch.where(share < low_share, u * low_t, low_t + u * (last - low_t))
    return t.floor() if recipe.discrete else t


def probability(t: Tensor, recipe: Recipe, steps: int) -> Tensor:
    """How likely `draw_t` was to draw whole numbers t."""
    low_t, low_share = _low(recipe, steps)
    low, high = low_share / max(low_t, 1), (1 - low_share) / (steps - low_t)
    return torch.where(t < low_t, low, high)


def _low(recipe: Recipe, steps: int) -> tuple[int, float]:
    """Where the lower timesteps end and how often they are drawn; with nothing below or above, all alike."""
    return (recipe.low_t, recipe.low_share) if 0 < recipe.low_t < steps - 1 else (0, 0.0)


def losses(
    network: Callable[..., Tensor], spec: ModelSpec, recipe: Recipe, x0: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """The loss of every picture, (B,). x0, eps: (B, C, H, W) where the network is; t: float64 (B,) on the CPU."""
    schedule, gamma = spec.schedule, recipe.min_snr or None
    alpha_bar = alpha_bar_of(schedule.sigma_at(t)).view(-1, 1, 1, 1).to(x0.device, x0.dtype)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    folded = unshuffled(x_t, spec.patch_size, x_t.dtype)
    output = shuffled(network(folded, t.to(x0.device, torch.float32)).float(), spec.patch_size)
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
    if spec.network.attends:
        spec = replace(spec, native_size=recipe.crop)
    spec = replace(spec, mirrors=recipe.augmentation.turn)
    goes_on = _check(spec, recipe, machine, out, resume, overwrite)
    checkpoint = out / CHECKPOINT
    device = resolve_device(machine.device)
    dtype = resolve_dtype(machine.precision, device)
    found = find_sources(data, recipe.crop, without=out)
    dataset = Dataset(found.sources, machine.memory, recipe.seed)
    state = _State(spec, recipe, device, None if goes_on else init)
    if goes_on:
        state.restore(checkpoint, device)
    facts = {"pictures": found.described, **({"begun from": init.name} if init else {})}
    folder = RunFolder(out, spec, recipe, facts, dataset.example())
    folder.begin(state.step)
    if on_start is not None:
        on_start(Start(found, dataset.too_large, state.step, device, dtype))
    if not goes_on:  # so that the folder is a model from now on, and one that can be loaded
        folder.save(state.average, state.content())
        load_model(out)
    stream = CropStream(dataset, recipe.augmentation, recipe.batch, recipe.seed, machine.threads)
    batches = stream.batches(state.step * recipe.accumulate)
    step = _Stepper(state, spec, recipe, device, dtype, machine.compile)
    meter, clock = Meter(device, state.step), _Clock(machine.save_every)
    try:
        while state.step < recipe.steps:
            step(batches, meter)
            stopped = stop()
            ended = stopped or state.step == recipe.steps
            if not ended and state.step % machine.log_every and not clock.due():
                continue
            progress = meter.report(state.step, recipe)
            if not (math.isfinite(progress.loss) and math.isfinite(progress.gradient) and state.is_sound()):
                said = f"the loss or a weight is not finite at step {state.step}; the last good state is {checkpoint}"
                raise ModelError(said, "lower --learning-rate")
            folder.record(asdict(progress))
            if on_progress is not None:
                on_progress(progress)
            if ended or clock.due():
                folder.save(state.average, state.content(), pictures=not stopped)
                clock.reset()
                if on_save is not None:
                    on_save(state.step)
            meter = Meter(device, state.step)
            if ended:
                break
    except torch.OutOfMemoryError as error:
        hint = "lower --batch and raise --accumulate, or lower --crop"
        raise DeviceError(f"not enough memory on {device} for a batch of {recipe.batch}", hint) from error
    finally:
        batches.close()
    return Outcome(state.step, state.step >= recipe.steps, found.unreadable + len(dataset.broken))


def _check(spec: ModelSpec, recipe: Recipe, machine: Machine, out: Path, resume: bool, overwrite: bool) -> bool:
    """Refuse what does not go together, before anything is read. Whether a run is to go on."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if machine.precision == "fp16":
        raise UsageError("gradients are too small for fp16", "train in bf16 or fp32")
    goes_on = resume and (out / CHECKPOINT).exists()
    if goes_on and (out / RECIPE).exists() and not same_kind(read_recipe(out / RECIPE)[0], spec):
        raise ModelError(f"{out} holds a run of another kind of network", "--overwrite begins anew")
    if not goes_on and not overwrite and (out / CHECKPOINT).exists():
        raise OutputError(f"{out} holds a run already", "--resume goes on with it, --overwrite begins anew")
    others = [name for name in (CONFIG, SAFETENSORS, "README.md") if (out / name).exists()]
    if others and not goes_on and not overwrite:
        raise OutputError(f"{out} holds other files: {', '.join(others)}", "name another folder, or say --overwrite")
    multiple = spec.patch_size * 2 ** (len(spec.network.block_out_channels) - 1)
    if recipe.crop % multiple:
        raise UsageError(f"a crop of {recipe.crop} pixels is no multiple of {multiple}, as this network needs")
    learned = spec.network.out_channels != spec.network.in_channels
    if learned and not recipe.discrete:
        raise UsageError("a learned variance needs whole timesteps", "set discrete = true in the recipe")
    if spec.network.in_channels != 3 * spec.patch_size**2:
        raise UsageError("this trainer makes priors of colour pictures: in_channels is 3 * patch_size ** 2")
    return goes_on


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

    def __call__(self, batches: Iterator[np.ndarray], meter: Meter) -> None:
        state, recipe = self._state, self._recipe
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.rate_at(state.step)
        for part in range(recipe.accumulate):
            began = time.monotonic()
            crops = torch.from_numpy(next(batches))
            meter.waited += time.monotonic() - began
            x0 = crops.to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
            t, eps = self._draw(x0, part)
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                errors = losses(self._network, self._spec, recipe, x0, t, eps)
            weighted = errors / state.levels(t, errors) if recipe.balance else errors
            (weighted.mean() / recipe.accumulate).backward()
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
        generator = torch.Generator(self._device).manual_seed(seed ^ 0x5EED_0000)  # another stream than that of t
        return t, torch.randn(x0.shape, generator=generator, device=self._device)


class _Clock:
    """When to save."""

    def __init__(self, interval: float) -> None:
        self._interval, self._at = interval, time.monotonic() + interval

    def due(self) -> bool:
        return time.monotonic() >= self._at

    def reset(self) -> None:
        self._at = time.monotonic() + self._interval
