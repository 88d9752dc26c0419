"""What the trainings of the networks that give a first answer share (`restorer/priors/experts.py`).

Such a network begins with the weights of a prior and keeps its shape and its parametrization. Its input is a degraded
picture, and in place of a noise level it is told what is known of the damage.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from restorer.diffusion.schedule import alpha_bar_of
from restorer.errors import ModelError, UsageError
from restorer.models.checkpoints import load_model, save_model
from restorer.networks import Network
from restorer.networks.fast.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from restorer.networks.residual_unet import ResidualUNet
from restorer.priors.unet_prior import ModelSpec
from restorer.training.datasets import Dataset, find_sources
from restorer.training.run_folder import CHECKPOINT, METRICS

__all__ = [
    "AnswerTrainer",
    "answer_once",
    "begin_with",
    "in_advance",
    "read_pictures",
    "read_recipe",
    "resume_from",
    "run_training",
    "training_parser",
]

MEMORY = 4_000_000_000  # bytes for decoded pictures
SAVE_EVERY = 240.0  # seconds
LOG_EVERY = 50  # steps
AHEAD = 4  # batches that are made in advance

P = TypeVar("P", contravariant=True)
T = TypeVar("T")
R = TypeVar("R")


class AnswerTrainer(Protocol[P]):
    """What `run_training` asks of a trainer whose steps take pairs of the type P."""

    device: torch.device
    spec: ModelSpec
    step: int
    meter: dict[str, float]

    @property
    def average(self) -> Network:
        """The network with the moving average of its weights, which is written."""

    def run_step(self, pairs: P) -> None:
        """Update everything that is trained."""

    def state_dict(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Take over the content of a checkpoint."""


def begin_with(init: Path, device: torch.device) -> tuple[ResidualUNet, ModelSpec]:
    """Return the network of a prior in float32, ready to be trained, and its spec.

    Args:
        init: Folder of the prior, a `ResidualUNet` that predicts v.
        device: Device of the network.

    Raises:
        ModelError: The prior is of another kind.
    """
    network, spec = load_model(init)
    if not isinstance(network, ResidualUNet) or spec.prediction_type != "v_prediction":
        raise ModelError(f"{init} is not a ResidualUNet that predicts v")
    moved: ResidualUNet = network.float().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved, spec


def answer_once(network: Any, spec: ModelSpec, x: Tensor, level: Tensor) -> Tensor:
    """Return the network's answer, as `UNetPrior` computes it, not clipped.

    Args:
        network: (folded x_t, t) -> v.
        spec: Its schedule and patch size.
        x: Degraded pictures, (B, 3, H, W) on [-1, 1].
        level: What the network is told, float64 (B,).
    """
    abar = alpha_bar_of(level).to(x.device, x.dtype).view(-1, 1, 1, 1)
    t = spec.schedule.t_at(level).to(x.device, torch.float32)
    folded = pixel_unshuffle(abar.sqrt() * x, spec.patch_size, x.dtype)
    v = pixel_shuffle(network(folded, t).float(), spec.patch_size)
    return abar * x - (1 - abar).sqrt() * v


def training_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the arguments that both trainings take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", nargs="+", type=Path, help="folders, .tar shards and pictures")
    parser.add_argument("--recipe", type=Path, help="a TOML file; the defaults without it")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, and to continue from")
    parser.add_argument("--init", type=Path, help="folder of the prior to begin with; the embedded one without it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fp32", action="store_true", help="compute in float32 instead of bfloat16")
    return parser


def in_advance(make: Callable[[int], T], first: int) -> Iterator[T]:
    """Yield what `make` returns for `first` and all later numbers, made in advance by a thread."""
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for number in count(first):
            pending.append(pool.submit(make, number))
            if len(pending) == AHEAD:
                yield pending.popleft().result()


def read_pictures(data: Sequence[Path], crop: int, out: Path, seed: int) -> list[np.ndarray]:
    """Return the decoded pictures of a training, uint8 (H, W, 3) each.

    Args:
        data: Folders, .tar shards and pictures.
        crop: Side of a crop, which no side of a picture is shorter than.
        out: The folder of the run, which is left out.
        seed: Seed of the choice of pictures if they do not fit in memory.
    """
    return Dataset(find_sources(data, crop, exclude=out).sources, MEMORY, seed).decode_share(0)


def read_recipe(path: Path, kind: type[R]) -> R:
    """Read a recipe: a TOML file with the fields of a class.

    Raises:
        UsageError: The file cannot be read, or a field is unknown.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"the recipe {path} cannot be read: {error}") from error


def run_training(trainer: AnswerTrainer[T], make: Callable[[int], T], out: Path, steps: int) -> None:
    """Train to a number of steps, and write the model, its checkpoint and metrics.jsonl into a folder.

    Args:
        trainer: The trainer, which has taken over its checkpoint if there is one (`resume_from`).
        make: Returns the pairs of a step, counted from 0.
        out: The folder.
        steps: Number of steps in all.
    """
    saved = noted = time.monotonic()
    for pairs in in_advance(make, trainer.step):
        if trainer.step >= steps:
            break
        trainer.run_step(pairs)
        now = time.monotonic()
        if trainer.step % LOG_EVERY == 0:
            rounded = {name: round(value, 5) for name, value in trainer.meter.items()}
            line = {"step": trainer.step, "seconds": round(now - noted, 1), **rounded}
            with (out / METRICS).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            noted = now
        if now - saved > SAVE_EVERY:
            _save(trainer, out)
            saved = now
    _save(trainer, out)


def resume_from(out: Path, trainer: AnswerTrainer[Any]) -> None:
    """Take over the checkpoint of a folder, which is created if there is none."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / CHECKPOINT).exists():
        trainer.load_state_dict(torch.load(out / CHECKPOINT, map_location=trainer.device, weights_only=True))


def _save(trainer: AnswerTrainer[Any], out: Path) -> None:
    """Write the model and the checkpoint, each in one operation."""
    partial = out / f".{CHECKPOINT}.partial"
    torch.save(trainer.state_dict(), partial)
    save_model(out, trainer.average, trainer.spec)
    partial.replace(out / CHECKPOINT)
