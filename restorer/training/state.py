"""Everything that changes during a training run, and the checkpoint that contains it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restorer.errors import DeviceError, ModelError
from restorer.models.checkpoints import load_model
from restorer.priors.unet_prior import ModelSpec
from restorer.training.losses import LevelMeans
from restorer.training.optimizer import make_optimizer
from restorer.training.ranks import Ranks
from restorer.training.recipe import Recipe

__all__ = ["State", "is_compatible", "read_checkpoint", "read_initial_weights"]


def is_compatible(a: ModelSpec, b: ModelSpec) -> bool:
    """Return whether two specs have the same architecture and the same meaning of the network's output."""
    plain_a, plain_b = (replace(spec, clip=True, native_size=None, mirrors=False) for spec in (a, b))
    return plain_a == plain_b


def read_initial_weights(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    """Read the weights of a model with which a run begins.

    Raises:
        ModelError: The model cannot be read, or is not of the kind that the recipe describes.
    """
    network, found = load_model(path)
    if not is_compatible(found, spec):
        raise ModelError(f"{path} is not the kind of network that the recipe describes", "leave out --recipe")
    return network.state_dict()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint into the memory of the host.

    Raises:
        ModelError: The file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception class of its own
        raise _unfit(path, error) from error


def _unfit(path: Path, error: Exception) -> ModelError:
    """Return the error for a checkpoint that cannot be used."""
    hint = "start a new run in another folder, or use --overwrite"
    return ModelError(f"{path} does not fit this recipe, or is damaged: {str(error)[:200]}", hint)


class State:
    """Everything that changes during a run and that a checkpoint therefore contains.

    Every process of a run has the same state. Only the first one has the moving average.

    Args:
        spec: The network with its schedule and prediction type.
        recipe: The numbers of the training.
        device: Device of the network.
        weights: The first weights; None for random ones.
        ranks: The processes of the run.

    Attributes:
        network: The network that is trained.
        average: The network with the averaged weights; None in every process but the first.
        optimizer: The optimizer.
        levels: The running means of the loss.
        step: Number of steps done.
        processes: Number of processes that have done them; 0 before the first step.
    """

    def __init__(
        self, spec: ModelSpec, recipe: Recipe, device: torch.device, weights: dict[str, Tensor] | None, ranks: Ranks
    ) -> None:
        torch.manual_seed(recipe.seed)
        network = spec.network.build()
        if weights is not None:
            network.load_state_dict(weights)
        network = network.to(device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(self.network).requires_grad_(False) if ranks.is_first else None
        self.optimizer = make_optimizer(recipe.optimizer, self.network, recipe.learning_rate)
        self.levels = LevelMeans(spec.schedule.steps, device)
        self.step, self.processes, self._ranks = 0, 0, ranks

    def load(self, content: dict[str, Any], path: Path) -> None:
        """Take over the content of a checkpoint, which lies at `path`.

        Raises:
            ModelError: The checkpoint belongs to another network.
        """
        try:
            self.network.load_state_dict(content["network"])
            if self.average is not None:
                self.average.load_state_dict(content["average"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.levels.sums = content["levels"].to(self.levels.sums.device)
            self.step = int(content["step"])
            self.processes = int(content.get("processes", 1))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # state dictionaries raise exceptions of many types
            raise self._ranks.together(_unfit(path, error)) from error

    def content(self) -> dict[str, Any]:
        """Return the content of a checkpoint, in the first process."""
        assert self.average is not None
        networks = {"network": self.network.state_dict(), "average": self.average.state_dict()}
        return {
            **networks,
            "optimizer": self.optimizer.state_dict(),
            "levels": self.levels.sums,
            "step": self.step,
            "processes": self._ranks.count,
        }

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Update the moving average of the weights; the decay is smaller during the first steps."""
        if self.average is not None:
            decay = min(decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Return whether all weights are finite in every process, those of the average in 16 bits as well.

        Raises:
            DeviceError: The processes do not have the same weights.
        """
        average = [] if self.average is None else [p.half() for p in self.average.parameters()]
        weights = list(self.network.parameters())
        checks = torch.stack([p.isfinite().all() for p in (*average, *weights)]).all()
        total = torch.stack([p.sum(dtype=torch.float64) for p in weights]).sum()
        broken, largest, smallest = self._ranks.largest(float(~checks), float(total), -float(total))
        if not broken and largest != -smallest:
            error = DeviceError(
                f"the processes no longer have the same weights at step {self.step}",
                "give all of them GPUs of one kind and the same PyTorch, and continue with --resume",
            )
            raise self._ranks.together(error)
        return not broken
