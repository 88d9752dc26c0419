"""The training loop of a denoising diffusion model: settings, checkpoints, reports, and the end of a run.

`losses` has the mathematics, and `step` one step of the optimizer. The weights that are saved as a model are an
exponential moving average.

The crops, timesteps and noise of step k are a function of the recipe, the pictures and k. A run that is stopped in any
way and resumed from its checkpoint therefore ends with the same bytes as one that is never stopped, on a CPU, with the
same number of PyTorch threads and of processes, and with the same memory for pictures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from restorer.errors import DeviceError, ModelError, OutputError, UsageError
from restorer.models.checkpoints import load_model
from restorer.models.devices import resolve_dtype
from restorer.models.layout import CONFIG, SAFETENSORS
from restorer.priors.unet_prior import ModelSpec
from restorer.training.crops import CropStream
from restorer.training.datasets import Dataset, Inventory, find_sources
from restorer.training.device_crops import cut_on_device, fits_on_device
from restorer.training.meter import Meter, Progress
from restorer.training.peak import peak_rate
from restorer.training.ranks import Ranks, device_of
from restorer.training.recipe import Recipe, read_recipe
from restorer.training.run_folder import CHECKPOINT, RECIPE, RunFolder
from restorer.training.state import State, is_compatible, read_checkpoint, read_initial_weights
from restorer.training.step import Stepper

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
        processes: Number of processes that share each batch.
        earlier_processes: Number of processes that did the steps so far; 0 for a new run.
    """

    inventory: Inventory
    too_large: int
    step: int
    device: torch.device
    dtype: torch.dtype
    processes: int = 1
    earlier_processes: int = 0


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
    ranks: Ranks | None = None,
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
        stop: Called after each step; if it returns True in any process, the state is saved and the run ends.
        ranks: The processes of the run, which all call this function with the same arguments; see `joined`. The first
            of them alone reads and writes `out` and calls `on_progress` and `on_save`. None for a single process.

    Raises:
        OutputError: `out` already contains a run and neither `resume` nor `overwrite` is set, or it cannot be written.
        ModelError: The checkpoint or `init` does not fit, or the loss is not finite (the last good state is kept).
        PictureError: There is nothing to train on.
        UsageError: The settings cannot be combined.
        OtherProcessError: Another process of the run has failed.
    """
    machine, ranks = machine or Machine(), ranks or Ranks()
    # What the first process knows of the recipe, the folder and the pictures holds for all.
    spec, recipe = ranks.from_first(lambda: (_completed(spec, recipe), recipe))
    is_resumed = ranks.from_first(lambda: _check(spec, recipe, machine, out, resume, overwrite, ranks.count))
    checkpoint = out / CHECKPOINT
    device = device_of(machine.device, ranks.place)
    if device.type == "mps":  # the losses are summed up in float64
        raise DeviceError("training needs numbers of 64 bits, which Apple's GPUs do not have", "use --device cpu")
    dtype = resolve_dtype(machine.precision, device)
    inventory = ranks.from_first(lambda: find_sources(data, recipe.crop, exclude=out))
    dataset = Dataset(inventory.sources, machine.memory, recipe.seed)
    weights = None
    if init is not None and not is_resumed:
        weights = ranks.from_first(lambda: read_initial_weights(init, spec))
    state = State(spec, recipe, device, weights, ranks)
    if is_resumed:
        state.load(ranks.from_first(lambda: read_checkpoint(checkpoint)), checkpoint)

    def begin() -> RunFolder:
        facts = {"pictures": inventory.summary, **({"initial weights": init.name} if init else {})}
        folder = RunFolder(out, spec, recipe, facts, dataset.read_example())
        folder.begin(state.step)
        return folder

    folder = ranks.by_first(begin)

    def save(with_images: bool = True) -> None:
        if folder is not None and state.average is not None:
            folder.save(state.average, state.content(), with_images=with_images)

    if on_start is not None:
        on_start(Start(inventory, dataset.too_large, state.step, device, dtype, ranks.count, state.processes))
    if not is_resumed:  # from now on the folder is a model, and loading it shows at once whether it is a valid one
        ranks.by_first(lambda: (save(), load_model(out)))  # type: ignore[func-returns-value]
    part = ranks.part(recipe.batch)
    stream = CropStream(dataset, recipe.augmentation, recipe.batch, recipe.seed, machine.threads, part)
    peak = peak_rate(spec, recipe.crop, device, dtype, ranks.count)
    try:
        take_step = Stepper(state, spec, recipe, device, dtype, machine.compile, ranks)
        meter, timer = Meter(device, state.step, ranks, peak), _SaveTimer(machine.save_every)
        with closing(_batches(stream, device, state.step * recipe.accumulate)) as batches:
            while state.step < recipe.steps:
                take_step(batches, meter)
                # The processes agree, because a signal may have reached one of them only, and their clocks differ.
                is_stopped, is_due = map(bool, ranks.largest(stop(), ranks.is_first and timer.is_due()))
                is_last = is_stopped or state.step == recipe.steps
                if not is_last and state.step % machine.log_every and not is_due:
                    continue
                progress = meter.report(state.step, recipe)
                if not (state.is_finite() and math.isfinite(progress.loss) and math.isfinite(progress.gradient)):
                    message = f"the loss or a weight is not finite at step {state.step}"
                    error = ModelError(f"{message}; the last good state is {checkpoint}", "lower --learning-rate")
                    raise ranks.together(error)
                if folder is not None:
                    folder.append_metrics(asdict(progress))
                    if on_progress is not None:
                        on_progress(progress)
                    if is_last or is_due:
                        save(with_images=not is_stopped)
                        timer.reset()
                        if on_save is not None:
                            on_save(state.step)
                meter = Meter(device, state.step, ranks, peak)
                if is_last:
                    break
    except torch.OutOfMemoryError as error:
        hint = "lower --batch and raise --accumulate, or lower --crop"
        raise DeviceError(f"not enough memory on {device} for a batch of {recipe.batch}", hint) from error
    return Outcome(state.step, state.step >= recipe.steps, inventory.unreadable + len(dataset.broken))


def _completed(spec: ModelSpec, recipe: Recipe) -> ModelSpec:
    """Return the spec with what the recipe makes of the model."""
    if spec.network.attends:
        spec = replace(spec, native_size=recipe.crop)
    return replace(spec, mirrors=recipe.augmentation.turn)


def _batches(stream: CropStream, device: torch.device, first: int) -> Generator[np.ndarray] | Generator[Tensor]:
    """Yield batch `first` and all later batches, cut by the device if it has room for the pictures."""
    if fits_on_device(stream.dataset.share_bytes, device):
        return cut_on_device(stream, device, first)
    return stream.batches(first)


def _check(
    spec: ModelSpec, recipe: Recipe, machine: Machine, out: Path, resume: bool, overwrite: bool, processes: int
) -> bool:
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
    if recipe.batch < processes:
        raise UsageError(
            f"a batch of {recipe.batch} crops cannot be divided among {processes} processes",
            f"raise --batch, or start no more than {recipe.batch} processes",
        )
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
