"""The training loop of a denoising diffusion model, with its losses and checkpoints.

    L_simple = E_{x_0, eps, t} || target - network(x_t, t) ||^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

(Ho et al. 2020, eq. 14; the other objectives are in `diffusion/objective.py`). t is drawn more often where the noise is
low, because restoration takes place there. The weights that are saved as a model are an exponential moving average.

The crops, timesteps and noise of step k are a function of the recipe, the pictures and k. A run that is stopped in any
way and resumed from its checkpoint therefore ends with the same bytes as one that is never stopped, on a CPU, with the
same number of PyTorch threads, and with the same memory for pictures.
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
from restorer.networks.fast.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from restorer.priors.unet_prior import ModelSpec
from restorer.training.damage import Draw, damage_some
from restorer.training.datasets import CropStream, Dataset, Inventory, find_sources
from restorer.training.meter import Meter, Progress
from restorer.training.optimizer import make_optimizer
from restorer.training.recipe import Recipe, read_recipe
from restorer.training.run_folder import CHECKPOINT, RECIPE, RunFolder

__all__ = ["Machine", "Outcome", "Progress", "Start", "train"]


@dataclass(frozen=True)
class Machine:
    """The resources of a training run. They are not part of the recipe.

    The device, the precision and `compile` change the rounding of the result; `memory` changes the crops if the
    pictures do not fit into it together.

    Args:
        device: As in `load_prior`.
        precision: As in `load_prior`; low precision means autocast, and the weights stay in float32.
        compile: Whether the network runs through torch.compile.
        memory: Bytes for decoded pictures.
        threads: Number of threads that cut crops.
        save_every: Seconds between checkpoints.
        log_every: Steps between lines of metrics.
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
    """The facts that are known when a training run starts.

    Args:
        inventory: The pictures.
        too_large: Number of pictures that are left out because they do not fit into the memory.
        step: Number of steps already done, 0 for a new run.
        device: Device of the network.
        dtype: Data type in which the network computes.
    """

    inventory: Inventory
    too_large: int
    step: int
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Outcome:
    """The end of a training run.

    Args:
        step: Number of steps done.
        finished: Whether these are all steps of the recipe.
        unreadable: Number of files that could not be read.
    """

    step: int
    finished: bool
    unreadable: int


class _State:
    """Everything that changes during a run and that a checkpoint therefore contains."""

    def __init__(self, spec: ModelSpec, recipe: Recipe, device: torch.device, init: Path | None) -> None:
        torch.manual_seed(recipe.seed)
        network = spec.network.build()
        if init is not None:
            initial, initial_spec = load_model(init)
            if not is_compatible(initial_spec, spec):
                raise ModelError(f"{init} is not the kind of network that the recipe describes", "leave out --recipe")
            network.load_state_dict(initial.state_dict())
        network = network.to(device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizer = make_optimizer(recipe.optimizer, self.network, recipe.learning_rate)
        self.levels = LevelMeans(spec.schedule.steps, device)
        self.step = 0

    def load_checkpoint(self, path: Path, device: torch.device) -> None:
        """Take over the state of a checkpoint.

        Raises:
            ModelError: The checkpoint is damaged, or belongs to another network.
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
            hint = "start a new run in another folder, or use --overwrite"
            raise ModelError(f"{path} does not fit this recipe, or is damaged: {str(error)[:200]}", hint) from error

    def state_dict(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        networks = {"network": self.network.state_dict(), "average": self.average.state_dict()}
        return {
            **networks,
            "optimizer": self.optimizer.state_dict(),
            "levels": self.levels.sums,
            "step": self.step,
        }

    def is_finite(self) -> bool:
        """Return whether all weights are finite, those of the average in 16 bits as well."""
        can_be_saved = all(bool(p.half().isfinite().all()) for p in self.average.parameters())
        return can_be_saved and all(bool(p.isfinite().all()) for p in self.network.parameters())

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Update the moving average of the weights; the decay is smaller during the first steps."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)


class LevelMeans:
    """The running mean of the loss at each of a hundred noise levels.

    The loss divided by this mean gives all levels the same weight, so that a tenth of a decibel counts the same at each
    of them. These are the weights of least variance for errors of unequal size, and the values towards which the
    learned weights of Karras et al. 2024 (https://arxiv.org/abs/2312.02696, eq. 14) tend. Without the division, the
    lowest levels weigh most, where noise cannot be distinguished from the rounding of the picture.

    Args:
        steps: Number of timesteps T of the schedule.
        device: Device of the losses.
    """

    COUNT = 100  # number of levels
    DECAY = 0.99  # factor by which each visit of a level reduces the weight of the earlier visits

    def __init__(self, steps: int, device: torch.device) -> None:
        self._steps = steps
        # Weighted sums of the losses and of the number of visits at each level.
        self.sums = torch.zeros(self.COUNT, 2, dtype=torch.float64, device=device)

    def __call__(self, t: Tensor, errors: Tensor) -> Tensor:
        """Return the mean of each crop's level before the call, and add the new losses to the means.

        Args:
            t: Timesteps, (B,).
            errors: Losses, (B,).

        Returns:
            (B,); for a level that has no mean yet, the loss itself.
        """
        level = (t / self._steps * self.COUNT).long().clamp(max=self.COUNT - 1).to(errors.device)
        sums, values = self.sums[level], errors.detach().double()
        means = torch.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], values).clamp(min=1e-8)
        added = torch.zeros_like(self.sums)
        added.index_add_(0, level, torch.stack([values, torch.ones_like(values)], dim=1))
        self.sums = self.sums * self.DECAY ** added[:, 1:] + added
        return means.to(errors.dtype)


def is_compatible(a: ModelSpec, b: ModelSpec) -> bool:
    """Return whether two specs have the same architecture and the same meaning of the network's output."""
    plain_a, plain_b = (replace(spec, clip=True, native_size=None, mirrors=False) for spec in (a, b))
    return plain_a == plain_b


def draw_t(count: int, recipe: Recipe, steps: int, generator: torch.Generator) -> Tensor:
    """Draw random timesteps.

    Args:
        count: Number B of timesteps.
        recipe: Says how often the lower timesteps are drawn, and whether timesteps are integers.
        steps: Number of timesteps T of the schedule.
        generator: Source of the random numbers.

    Returns:
        float64 (B,): integers from 0 to T - 1 if the recipe is discrete, otherwise real numbers in [0, T - 1].
    """
    low_t, low_share = _low_range(recipe, steps)
    last = steps if recipe.discrete else steps - 1
    share = torch.rand(count, generator=generator)
    u = torch.rand(count, dtype=torch.float64, generator=generator)
    t = torch.where(share < low_share, u * low_t, low_t + u * (last - low_t))
    return t.floor() if recipe.discrete else t


def probability(t: Tensor, recipe: Recipe, steps: int) -> Tensor:
    """Return the probability with which `draw_t` draws each of the integer timesteps t."""
    low_t, low_share = _low_range(recipe, steps)
    low, high = low_share / max(low_t, 1), (1 - low_share) / (steps - low_t)
    return torch.where(t < low_t, low, high)


def _low_range(recipe: Recipe, steps: int) -> tuple[int, float]:
    """Return the end of the lower timesteps and the share of draws among them.

    If no timesteps are below or none above, the result is (0, 0.0), so that all timesteps are equally likely.
    """
    return (recipe.low_t, recipe.low_share) if 0 < recipe.low_t < steps - 1 else (0, 0.0)


def losses(
    network: Callable[..., Tensor], spec: ModelSpec, recipe: Recipe, x0: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """Compute the loss of each crop.

    Args:
        network: (folded x_t, t) -> output.
        spec: Schedule, prediction type and patch size of the network.
        recipe: Gamma of the min-SNR weights, and the distribution from which t is drawn.
        x0: Clean crops on [-1, 1], (B, C, H, W), on the device of the network.
        t: Timesteps, float64 (B,), on the CPU.
        eps: Standard normal noise, shaped like x0 and on the same device.

    Returns:
        Losses, (B,).
    """
    schedule, gamma = spec.schedule, recipe.min_snr or None
    alpha_bar = alpha_bar_of(schedule.sigma_at(t)).view(-1, 1, 1, 1).to(x0.device, x0.dtype)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    folded = pixel_unshuffle(x_t, spec.patch_size, x_t.dtype)
    output = pixel_shuffle(network(folded, t.to(x0.device, torch.float32)).float(), spec.patch_size)
    if output.shape[1] == x0.shape[1]:
        expected = target(spec.prediction_type, x0, eps, alpha_bar)
        return min_snr_weight(spec.prediction_type, alpha_bar, gamma) * simple_loss(output, expected)
    t_probability = probability(t, recipe, schedule.steps).to(x0.device)
    integer_t = t.long().to(x0.device)
    return hybrid_loss(
        schedule, spec.prediction_type, output, x0, eps, integer_t, gamma=gamma, probability=t_probability
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
    """Train a prior. `out` becomes a model folder within the first minute, and a better one with each checkpoint.

    Args:
        spec: The network, its schedule and its prediction type.
        recipe: All other numbers that shape the result.
        data: Folders, .tar shards and pictures.
        out: The folder to write; see `run_folder`.
        machine: The resources of the run.
        init: A model folder whose weights replace the random initial weights.
        resume: Continue from the checkpoint in `out` if there is one, and start a new run otherwise.
        overwrite: Start a new run even if `out` contains one.
        on_start: Called once, before the first step.
        on_progress: Called with each report of the progress.
        on_save: Called with the number of steps done after each checkpoint.
        stop: Called after each step; if it returns True, the state is saved and the run ends.

    Raises:
        OutputError: `out` already contains a run and neither `resume` nor `overwrite` is set, or it cannot be written.
        ModelError: The checkpoint or `init` does not fit, or the loss is not finite (the last good state is kept).
        PictureError: There is nothing to train on.
        UsageError: The settings cannot be combined.
    """
    machine = machine or Machine()
    if spec.network.attends:
        spec = replace(spec, native_size=recipe.crop)
    spec = replace(spec, mirrors=recipe.augmentation.turn)
    is_resumed = _check(spec, recipe, machine, out, resume, overwrite)
    checkpoint = out / CHECKPOINT
    device = resolve_device(machine.device)
    if device.type == "mps":  # the losses are summed up in float64
        raise DeviceError("training needs numbers of 64 bits, which Apple's GPUs do not have", "use --device cpu")
    dtype = resolve_dtype(machine.precision, device)
    inventory = find_sources(data, recipe.crop, exclude=out)
    dataset = Dataset(inventory.sources, machine.memory, recipe.seed)
    state = _State(spec, recipe, device, None if is_resumed else init)
    if is_resumed:
        state.load_checkpoint(checkpoint, device)
    facts = {"pictures": inventory.summary, **({"initial weights": init.name} if init else {})}
    folder = RunFolder(out, spec, recipe, facts, dataset.read_example())
    folder.begin(state.step)
    if on_start is not None:
        on_start(Start(inventory, dataset.too_large, state.step, device, dtype))
    if not is_resumed:  # from now on the folder is a model, and loading it shows at once whether it is a valid one
        folder.save(state.average, state.state_dict())
        load_model(out)
    stream = CropStream(dataset, recipe.augmentation, recipe.batch, recipe.seed, machine.threads)
    batches = stream.batches(state.step * recipe.accumulate)
    take_step = _Stepper(state, spec, recipe, device, dtype, machine.compile)
    meter, timer = Meter(device, state.step), _SaveTimer(machine.save_every)
    try:
        while state.step < recipe.steps:
            take_step(batches, meter)
            is_stopped = stop()
            is_last = is_stopped or state.step == recipe.steps
            if not is_last and state.step % machine.log_every and not timer.is_due():
                continue
            progress = meter.report(state.step, recipe)
            if not (math.isfinite(progress.loss) and math.isfinite(progress.gradient) and state.is_finite()):
                raise ModelError(
                    f"the loss or a weight is not finite at step {state.step}; the last good state is {checkpoint}",
                    "lower --learning-rate",
                )
            folder.append_metrics(asdict(progress))
            if on_progress is not None:
                on_progress(progress)
            if is_last or timer.is_due():
                folder.save(state.average, state.state_dict(), with_images=not is_stopped)
                timer.reset()
                if on_save is not None:
                    on_save(state.step)
            meter = Meter(device, state.step)
            if is_last:
                break
    except torch.OutOfMemoryError as error:
        hint = "lower --batch and raise --accumulate, or lower --crop"
        raise DeviceError(f"not enough memory on {device} for a batch of {recipe.batch}", hint) from error
    finally:
        batches.close()
    return Outcome(state.step, state.step >= recipe.steps, inventory.unreadable + len(dataset.broken))


def _check(spec: ModelSpec, recipe: Recipe, machine: Machine, out: Path, resume: bool, overwrite: bool) -> bool:
    """Check the settings before any picture is read, and return whether an earlier run is resumed."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite cannot be combined")
    if machine.precision == "fp16":
        raise UsageError("gradients are too small for fp16", "train in bf16 or fp32")
    is_resumed = resume and (out / CHECKPOINT).exists()
    if is_resumed and (out / RECIPE).exists() and not is_compatible(read_recipe(out / RECIPE)[0], spec):
        raise ModelError(f"{out} contains a run of another kind of network", "use --overwrite to start a new run")
    if not is_resumed and not overwrite and (out / CHECKPOINT).exists():
        raise OutputError(f"{out} already contains a run", "use --resume to continue it, or --overwrite to replace it")
    others = [name for name in (CONFIG, SAFETENSORS, "README.md") if (out / name).exists()]
    if others and not is_resumed and not overwrite:
        raise OutputError(f"{out} contains other files: {', '.join(others)}", "name another folder, or use --overwrite")
    multiple = spec.patch_size * 2 ** (len(spec.network.block_out_channels) - 1)
    if recipe.crop % multiple:
        raise UsageError(
            f"this network needs crops whose side is a multiple of {multiple}, not {recipe.crop} pixels",
            "choose another --crop",
        )
    has_learned_variance = spec.network.out_channels != spec.network.in_channels
    if has_learned_variance and not recipe.discrete:
        raise UsageError("a learned variance needs integer timesteps", "set discrete = true in the recipe")
    if spec.network.in_channels != 3 * spec.patch_size**2:
        raise UsageError("only priors for colour pictures can be trained: in_channels must be 3 * patch_size ** 2")
    return is_resumed


class _Stepper:
    """One optimizer step: `accumulate` forward and backward passes, gradient clipping, and the weight average."""

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
        """Take one step on the next batches, and add its figures to the meter."""
        state, recipe = self._state, self._recipe
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.rate_at(state.step)
        for part in range(recipe.accumulate):
            start = time.monotonic()
            crops = torch.from_numpy(next(batches))
            meter.wait_seconds += time.monotonic() - start
            x0 = crops.to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
            drawn = self._draw(x0, part)
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                errors = losses(self._network, self._spec, recipe, drawn.x0, drawn.t, drawn.eps) * drawn.weight
            weighted = errors / state.levels(drawn.level, errors) if recipe.balance else errors
            (weighted.mean() / recipe.accumulate).backward()
            meter.add_losses(drawn.level, errors, self._spec.schedule.steps)
        meter.add_gradient(torch.nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_gradient))
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.update_average(recipe.ema)

    def _draw(self, x0: Tensor, part: int) -> Draw:
        """Draw timesteps, noise and damage as a function of the seed, the step and the pass."""
        recipe, schedule = self._recipe, self._spec.schedule
        seed = ((recipe.seed * 1_000_003 + self._state.step) * 1_009 + part) % 2**63
        t = draw_t(len(x0), recipe, schedule.steps, torch.Generator().manual_seed(seed))
        # The noise needs a random stream other than that of t.
        generator = torch.Generator(self._device).manual_seed(seed ^ 0x5EED_0000)
        eps = torch.randn(x0.shape, generator=generator, device=self._device)
        if recipe.jpeg + recipe.camera_noise == 0:
            return Draw(x0, t, eps, t, torch.ones(len(t), device=x0.device))
        return damage_some(
            x0, t, eps, jpeg_share=recipe.jpeg, noise_share=recipe.camera_noise, schedule=schedule, seed=seed
        )


class _SaveTimer:
    """A timer that is due when `interval` seconds have passed since its last reset."""

    def __init__(self, interval: float) -> None:
        self._interval, self._due_time = interval, time.monotonic() + interval

    def is_due(self) -> bool:
        """Return whether it is time to save."""
        return time.monotonic() >= self._due_time

    def reset(self) -> None:
        """Start the interval again."""
        self._due_time = time.monotonic() + self._interval
