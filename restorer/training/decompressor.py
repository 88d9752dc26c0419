r"""The training of a network that undoes JPEG compression in one evaluation, from the weights of a prior.

The network keeps the shape of the prior and its parametrization. Its input is the decoded picture, and the level that
it is told says how coarse the file is (`compression_level`). It learns the mean of the pictures that the file may stand
for, by the root of the mean square error of each crop,

    L = E sqrt( |G - x|^2 / n + e^2 ),

so that a coarse file does not outweigh many fine ones, as it would in the mean square error.

The pairs of step k are a function of the pictures, the recipe and k (`compressing.py`), and a run continues from its
checkpoint as if it had not been stopped. What ships is `difference.safetensors`, which the end of a run writes:

    python -m restorer.training.decompressor SHARD... --recipe weights/jpeg/recipe.toml --out FOLDER
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restorer.errors import UsageError
from restorer.models.catalogue import weights_folder
from restorer.models.devices import resolve_device
from restorer.models.differences import DIFFERENCE, write_difference
from restorer.priors.experts import compression_level
from restorer.training.compressing import MCU, compress, draw_crop
from restorer.training.crops import Augmentation
from restorer.training.first_answer import (
    answer_once,
    begin_with,
    read_pictures,
    read_recipe,
    resume_from,
    run_training,
    training_parser,
)
from restorer.training.optimizer import make_optimizer

__all__ = ["DecompressorRecipe", "Pairs", "Trainer", "make_pairs", "train_decompressor"]

WARMUP = 50  # steps over which the rate rises
LEAST_ERROR = 0.3 / 127.5  # e of the module docstring


@dataclass(frozen=True)
class DecompressorRecipe:
    """All numbers that determine how the network is trained.

    Args:
        steps: Steps in all.
        batch: Crops a step.
        crop: Side of a crop in pixels, a multiple of `MCU`.
        rate: Learning rate, with Muon, which falls to zero by half a cosine after `hold`.
        hold: Share of the steps for which the rate stays at its peak.
        ema: Decay of the moving average of the weights.
        downscale: Probability that a crop is cut from a window of up to twice the side and shrunk.
        gray: Probability that a crop is converted to gray.
        seed: Seed of everything that is drawn.
    """

    steps: int = 8000
    batch: int = 8
    crop: int = 96
    rate: float = 8e-4
    hold: float = 0.1
    ema: float = 0.998
    downscale: float = 0.6
    gray: float = 0.06
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crop % MCU:
            raise UsageError(f"the side of a crop must be a multiple of {MCU}, and {self.crop} is none")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        fall = max(0.0, step / self.steps - self.hold) / max(1 - self.hold, 1 / self.steps)
        return self.rate * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(fall, 1)))


@dataclass(frozen=True)
class Pairs:
    """The crops of a step.

    Args:
        clean: float (B, 3, S, S) on [-1, 1].
        decoded: What their JPEG files decode to, the same shape.
        level: What the network is told, float64 (B,).
    """

    clean: Tensor
    decoded: Tensor
    level: Tensor


def make_pairs(pictures: Sequence[np.ndarray], recipe: DecompressorRecipe, number: int) -> Pairs:
    """Return the pairs of step `number`.

    Args:
        pictures: uint8 (H, W, 3) each, with sides of at least a crop; each is drawn with a probability proportional to
            its area.
        recipe: The recipe.
        number: The step, from 0.
    """
    areas = np.array([float(p.shape[0] * p.shape[1]) for p in pictures])
    rng = np.random.default_rng([recipe.seed, 13, number])
    augmentation = Augmentation(recipe.crop, recipe.downscale, recipe.gray)
    chosen = rng.choice(len(pictures), size=recipe.batch, p=areas / areas.sum())
    made = [compress(draw_crop(pictures[i], augmentation, rng), rng) for i in chosen]
    return Pairs(
        _to_tensor([pair.clean for pair in made]),
        _to_tensor([pair.decoded for pair in made]),
        torch.tensor([compression_level(torch.from_numpy(pair.steps)) for pair in made], dtype=torch.float64),
    )


def _to_tensor(crops: Sequence[np.ndarray]) -> Tensor:
    """Return crops, uint8 (S, S, 3) each, as float32 (B, 3, S, S) on [-1, 1]."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


class Trainer:
    """The network, its average, the optimizer and the number of steps done: everything that a checkpoint contains.

    Args:
        init: Folder of a prior, a `ResidualUNet` that predicts v, whose weights the network begins with.
        recipe: The recipe.
        device: Device of the network.
        bf16: Whether it computes in bfloat16; its weights stay in float32.

    Raises:
        ModelError: The prior is of another kind.
    """

    PARTS = ("network", "average", "optimizer")

    def __init__(self, init: Path, recipe: DecompressorRecipe, device: torch.device, *, bf16: bool) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.bf16 = recipe, device, bf16
        network, self.spec = begin_with(init, device)
        self.network = network.requires_grad_(True)
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizer: Any = make_optimizer("muon", self.network, recipe.rate)
        self.step = 0
        self.meter: dict[str, float] = {}  # moving average of the gain in PSNR of the crops, in dB

    def run_step(self, pairs: Pairs) -> None:
        """Update the network and its average."""
        x, y = pairs.clean.to(self.device), pairs.decoded.to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(self.step)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            made = answer_once(self.network, self.spec, y, pairs.level)
        errors = (made - x).square().mean((1, 2, 3)) + LEAST_ERROR**2
        errors.sqrt().mean().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
            before = (y - x).square().mean((1, 2, 3)) + LEAST_ERROR**2
            gain = float(10 * (before / errors.detach()).log10().mean())
        self.meter["gain"] = 0.98 * self.meter.get("gain", gain) + 0.02 * gain

    def state_dict(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        return {
            **{name: getattr(self, name).state_dict() for name in self.PARTS},
            "step": self.step,
            "meter": self.meter,
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Take over the content of a checkpoint."""
        for name in self.PARTS:
            getattr(self, name).load_state_dict(content[name])
        self.step, self.meter = content["step"], content["meter"]


def train_decompressor(
    init: Path, data: Sequence[Path], out: Path, recipe: DecompressorRecipe, *, device: str = "auto", bf16: bool = True
) -> None:
    """Train a network that undoes compression, or continue from the checkpoint in the folder.

    Args:
        init: As in `Trainer`.
        data: Folders, .tar shards and pictures.
        out: The folder to write: a model, its checkpoint, metrics.jsonl, and in the end the difference from `init`.
            The latter ships if `init` is the embedded prior.
        recipe: The recipe.
        device: A name as in `resolve_device`.
        bf16: As in `Trainer`.
    """
    trainer = Trainer(init, recipe, resolve_device(device), bf16=bf16)
    resume_from(out, trainer)
    pictures = read_pictures(data, recipe.crop, out, recipe.seed)
    run_training(trainer, lambda number: make_pairs(pictures, recipe, number), out, recipe.steps)
    write_difference(out / DIFFERENCE, trainer.average.state_dict(), begin_with(init, trainer.device)[0].state_dict())


def main() -> None:
    """Run the training from the command line."""
    parser = training_parser("Train the network that undoes JPEG compression.")
    given = parser.parse_args()
    recipe = DecompressorRecipe() if given.recipe is None else read_recipe(given.recipe, DecompressorRecipe)
    print(asdict(recipe))
    train_decompressor(
        given.init or weights_folder(), given.data, given.out, recipe, device=given.device, bf16=not given.fp32
    )


if __name__ == "__main__":
    main()
