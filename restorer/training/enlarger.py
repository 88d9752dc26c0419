r"""The training of a network that enlarges in one evaluation, from the weights of a prior.

The network keeps the shape of the prior and its parametrization. Its input is the small picture enlarged by the bicubic
filter, and the level that it is told says by how much, and what is known of the picture (`priors/experts.py`). First
it learns the mean of what the large picture may be,

    L = E | G - x |,

then to look like a photograph as well (`adversary.py`):

    L = E (| G - x | + | G - T |) / 2 + a E (| F(G) - F(x) | + | F(G) - F(T) |) / 2 + b L_G,

where T is the enlargement of a teacher (`prepared_pairs.py`), and T = x where there is none. Where the photograph is
certain, x and T agree; where it is not, x is scattered, T is a function of the input, and the best answer is T, which
is crisp, where the median of x is blurred. a and b are such that the gradients of the parts at the picture have fixed
ratios (Esser, Rombach and Ommer 2021, "Taming Transformers", https://arxiv.org/abs/2012.09841, eq. 7).

The pairs of step k are a function of the pictures, the recipe and k (`shrinking.py`), and a run continues from its
checkpoint as if it had not been stopped:

    python -m restorer.training.enlarger SHARD... --recipe weights/enlarge/recipe.toml --out FOLDER
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

from restorer.models.catalogue import weights_folder
from restorer.models.devices import resolve_device
from restorer.priors.experts import SPREAD, first_level
from restorer.training.adversary import Features, Heads, discriminator_loss, feature_distance
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
from restorer.training.prepared_pairs import Prepared, random_crop, read_pairs
from restorer.training.shrinking import enlarge_bicubic, shrink

__all__ = ["EnlargerRecipe", "Pairs", "Trainer", "make_pairs", "train_enlarger"]

MEASURE_EVERY = 10  # steps between measurements of the norms of the gradients
RAMP = 300  # steps over which the weight of the discriminator rises
WARMUP = 50  # steps over which a rate rises


@dataclass(frozen=True)
class EnlargerRecipe:
    """All numbers that determine how the network is trained.

    Args:
        mean_steps: Steps of the first stage.
        steps: Steps in all.
        batch: Crops a step.
        crop: Side of a large crop in pixels.
        mean_rate: Learning rate of the first stage, with Muon, which falls to a tenth by half a cosine.
        rate: Learning rate of the second stage, with AdamW, which falls to zero by half a cosine after `hold`.
        heads_rate: Learning rate of the discriminator.
        hold: Share of the second stage for which its rate stays at its peak.
        feature_ratio: Norm of the gradient of the feature distance over that of the difference of pixels.
        adversary_ratio: Norm of the gradient of L_G over that of the difference of pixels.
        levels: Least and largest noise level of the features, on the [-1, 1] scale.
        ema: Decay of the moving average of the weights.
        downscale: Probability that a crop is cut from a window of up to twice the side and shrunk.
        gray: Probability that a crop is converted to gray.
        prepared: Probability that a crop is cut from the pairs of `prepared_pairs.py`.
        seed: Seed of everything that is drawn.
    """

    mean_steps: int = 700
    steps: int = 5000
    batch: int = 8
    crop: int = 128
    mean_rate: float = 8e-4
    rate: float = 2e-4
    heads_rate: float = 4e-4
    hold: float = 0.5
    feature_ratio: float = 1.0
    adversary_ratio: float = 1.0
    levels: tuple[float, float] = (0.03, 0.4)
    ema: float = 0.997
    downscale: float = 0.6
    gray: float = 0.05
    prepared: float = 0.0
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.mean_steps:
            share = step / self.mean_steps
            return self.mean_rate * min(1, (step + 1) / WARMUP) * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))
        share = (step - self.mean_steps) / max(1, self.steps - self.mean_steps)
        fall = min(max(0.0, share - self.hold) / (1 - self.hold), 1.0)
        return self.rate * min(1, (step - self.mean_steps + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * fall))


@dataclass(frozen=True)
class Pairs:
    """The crops of a step.

    Args:
        large: float (B, 3, S, S) on [-1, 1].
        enlarged: Their small pictures enlarged by the bicubic filter, the same shape.
        taught: What a teacher made of the small pictures, the same shape; the crops themselves where there is none.
        level: What the network is told, float64 (B,).
    """

    large: Tensor
    enlarged: Tensor
    taught: Tensor
    level: Tensor


def make_pairs(
    pictures: Sequence[np.ndarray], recipe: EnlargerRecipe, number: int, made: Sequence[Prepared] = ()
) -> Pairs:
    """Return the pairs of step `number`.

    Args:
        pictures: uint8 (H, W, 3) each, with sides of at least a crop; each is drawn with a probability proportional to
            its area.
        recipe: The recipe.
        number: The step, from 0.
        made: Pairs that were made before.
    """
    areas = np.array([float(p.shape[0] * p.shape[1]) for p in pictures])
    rng = np.random.default_rng([recipe.seed, 7, number])
    augmentation = Augmentation(recipe.crop, recipe.downscale, recipe.gray)
    large, enlarged, taught, levels = [], [], [], []
    for i in rng.choice(len(pictures), size=recipe.batch, p=areas / areas.sum()):
        if made and rng.random() < recipe.prepared:
            pair = made[int(rng.integers(len(made)))]
            part = random_crop(pair, recipe.crop, rng)
            large.append(part.large)
            enlarged.append(part.enlarged)
            taught.append(part.large if part.taught is None else part.taught)
            levels.append(first_level(pair.factor, pair.state) / SPREAD)
            continue
        crop = augmentation.random_crop(pictures[i], rng)
        small = shrink(crop, rng)
        large.append(crop)
        taught.append(crop)
        enlarged.append(enlarge_bicubic(small.pixels, recipe.crop))
        levels.append(first_level(recipe.crop / len(small.pixels), small.state) / SPREAD)
    return Pairs(
        _to_tensor(large).div_(127.5).sub_(1),
        _to_tensor(enlarged),
        _to_tensor(taught).div_(127.5).sub_(1),
        torch.tensor(levels, dtype=torch.float64),
    )


def _to_tensor(pictures: Sequence[np.ndarray]) -> Tensor:
    """Return pictures (S, S, 3) as float32 (B, 3, S, S)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().contiguous()


def _distance(made: Tensor, x: Tensor, taught: Tensor) -> Tensor:
    """Return the mean absolute difference from a picture and from the teacher's."""
    return ((made - x).abs().mean() + (made - taught).abs().mean()) / 2


class Trainer:
    """Networks, optimizers and the number of steps done: everything that a checkpoint contains.

    Args:
        init: Folder of a prior, a `ResidualUNet` that predicts v, whose weights the network begins with and whose
            features judge it.
        recipe: The recipe.
        device: Device of the networks.
        bf16: Whether they compute in bfloat16; their weights stay in float32.

    Raises:
        ModelError: The prior is of another kind.
    """

    PARTS = ("network", "average", "heads", "first", "second", "of_heads")

    def __init__(self, init: Path, recipe: EnlargerRecipe, device: torch.device, *, bf16: bool) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.bf16 = recipe, device, bf16
        network, self.spec = begin_with(init, device)
        self.features = Features(deepcopy(network), self.spec).to(device)
        self.network = network.requires_grad_(True)
        self.average = deepcopy(self.network).requires_grad_(False)
        self.heads = Heads(self.features.widths).to(device)
        self.first = make_optimizer("muon", self.network, recipe.mean_rate)
        self.second = torch.optim.AdamW(self.network.parameters(), lr=recipe.rate, betas=(0.8, 0.99), weight_decay=0.0)
        self.of_heads = torch.optim.AdamW(self.heads.parameters(), lr=recipe.heads_rate, betas=(0.5, 0.99))
        self.step = 0
        self.weights = torch.zeros(2)  # a and b of the module docstring
        self.meter: dict[str, float] = {}

    def run_step(self, pairs: Pairs) -> None:
        """Update the network, its average and, in the second stage, the discriminator."""
        x, y = pairs.large.to(self.device), pairs.enlarged.to(self.device)
        optimizer: Any = self.first if self.step < self.recipe.mean_steps else self.second
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(self.step)
        optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            made = answer_once(self.network, self.spec, y, pairs.level)
        taught = pairs.taught.to(self.device)
        pixels = _distance(made, x, taught)
        if self.step < self.recipe.mean_steps:
            pixels.backward()
        else:
            made.backward(self._gradient(made, x, taught))
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        self._note(l1=float(pixels.detach()))

    def _gradient(self, made: Tensor, x: Tensor, taught: Tensor) -> Tensor:
        """Train the heads, and return the gradient of the whole loss at the enlarged pictures."""
        low, high = map(math.log, self.recipe.levels)
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        sigma = (low + (high - low) * torch.rand(len(x), generator=generator)).exp()
        noise = torch.randn(x.shape, generator=generator).to(x) * sigma.view(-1, 1, 1, 1).to(x)
        sigma_d = sigma.to(x)
        if self.step == self.recipe.mean_steps:
            self.features.calibrate(x + noise, sigma)
        leaf = made.detach().requires_grad_(True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                real = self.features(x + noise, sigma)
                wished = real if torch.equal(x, taught) else self.features(taught + noise, sigma)
            fake = self.features(leaf + noise, sigma)
        self.of_heads.zero_grad()
        loss = discriminator_loss(self._judged(real, sigma_d), self._judged([f.detach() for f in fake], sigma_d))
        loss.backward()
        self.of_heads.step()
        self.heads.requires_grad_(False)
        adversarial = torch.stack([-j.mean() for j in self._judged(fake, sigma_d)]).mean()
        distance = (feature_distance(real, fake) + feature_distance(wished, fake)) / 2
        pixels = _distance(leaf, x, taught)
        (of_pixels,) = torch.autograd.grad(pixels, leaf)
        if (self.step - self.recipe.mean_steps) % MEASURE_EVERY == 0:  # measure the norms of the parts
            (of_features,) = torch.autograd.grad(distance, leaf, retain_graph=True)
            (of_adversary,) = torch.autograd.grad(adversarial, leaf, retain_graph=True)
            norms = torch.stack([of_features.norm(), of_adversary.norm()]).cpu().clamp(min=1e-12)
            wanted = torch.tensor([self.recipe.feature_ratio, self.recipe.adversary_ratio])
            now = wanted * of_pixels.norm().cpu() / norms
            self.weights = now if self.weights.sum() == 0 else torch.lerp(self.weights, now, 0.1)
        a, b = self.weights.tolist()
        ramp = min(1.0, (self.step - self.recipe.mean_steps) / RAMP)
        (of_rest,) = torch.autograd.grad(a * distance + b * ramp * adversarial, leaf)
        self.heads.requires_grad_(True)
        self._note(d=float(loss.detach()), g=float(adversarial.detach()), f=float(distance.detach()))
        return of_pixels + of_rest

    def _judged(self, features: list[Tensor], sigma: Tensor) -> list[Tensor]:
        """Return what the heads make of features, in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            judgements = self.heads(features, sigma)
        return [judgement.float() for judgement in judgements]

    def _note(self, **values: float) -> None:
        for name, value in values.items():
            self.meter[name] = value if name not in self.meter else 0.98 * self.meter[name] + 0.02 * value

    def state_dict(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        content = {name: getattr(self, name).state_dict() for name in self.PARTS}
        return {**content, "scales": self.features.scales, "weights": self.weights, "step": self.step}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Take over the content of a checkpoint."""
        for name in self.PARTS:
            getattr(self, name).load_state_dict(content[name])
        self.features.scales.copy_(content["scales"])
        self.weights, self.step = content["weights"], content["step"]


def train_enlarger(
    init: Path,
    data: Sequence[Path],
    out: Path,
    recipe: EnlargerRecipe,
    *,
    pairs: Path | None = None,
    device: str = "auto",
    bf16: bool = True,
) -> None:
    """Train a network that enlarges, or continue from the checkpoint in the folder.

    Args:
        init: As in `Trainer`.
        data: Folders, .tar shards and pictures.
        out: The folder to write: a model, its checkpoint, and metrics.jsonl.
        recipe: The recipe.
        pairs: Folder of pairs that `prepared_pairs.py` has made; None if the recipe uses none.
        device: A name as in `resolve_device`.
        bf16: As in `Trainer`.
    """
    trainer = Trainer(init, recipe, resolve_device(device), bf16=bf16)
    resume_from(out, trainer)
    pictures = read_pictures(data, recipe.crop, out, recipe.seed)
    made = [] if pairs is None else read_pairs(pairs)
    run_training(trainer, lambda number: make_pairs(pictures, recipe, number, made), out, recipe.steps)


def main() -> None:
    """Run the training from the command line."""
    parser = training_parser("Train the network that gives the first answer of an enlargement.")
    parser.add_argument("--pairs", type=Path, help="folder of pairs that restorer.training.prepared_pairs has made")
    given = parser.parse_args()
    recipe = EnlargerRecipe() if given.recipe is None else read_recipe(given.recipe, EnlargerRecipe)
    print(asdict(recipe))
    train_enlarger(
        given.init or weights_folder(),
        given.data,
        given.out,
        recipe,
        pairs=given.pairs,
        device=given.device,
        bf16=not given.fp32,
    )


if __name__ == "__main__":
    main()
