r"""The training of a network that enlarges in one evaluation, from the weights of a prior.

The network keeps the shape of the prior and its parametrization. Its input is the small picture enlarged by the bicubic
filter, and the level that it is told says by how much, and what is known of the picture (`priors/experts.py`). First
it learns the mean of what the large picture may be,

    L = E | G - x |,

then to look like a photograph as well (`adversary.py`, `classifier.py`):

    L = D_P + a D_F + b L_G + c D_C,    D = (d(G, x) + d(G, T)) / 2,

where d is a mean absolute difference: in D_P of the pixels, in D_F of the features of the prior, and in D_C of those of
a classifier. T is the enlargement of a teacher (`prepared_pairs.py`), and T = x where there is none. Where the
photograph is certain, x and T agree; where it is not, x is scattered, T is a function of the input, and the best answer
is T, which is crisp, where the median of x is blurred. a, b and c are such that the gradients of the parts at the
picture have fixed ratios (Esser, Rombach and Ommer 2021, "Taming Transformers", https://arxiv.org/abs/2012.09841, eq.
7).

The pairs of step k are a function of the pictures, the recipe and k (`shrinking.py`), and a run continues from its
checkpoint as if it had not been stopped:

    python -m restorer.training.enlarger SHARD... --recipe weights/enlarge/recipe.toml --out FOLDER
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restorer.errors import UsageError
from restorer.models.catalogue import weights_folder
from restorer.models.devices import resolve_device
from restorer.training.adversary import ROUNDING, Features, Heads, Seen, discriminator_loss, feature_distance
from restorer.training.classifier import Classifier, load_classifier
from restorer.training.enlarger_pairs import EnlargerRecipe, Pairs, make_pairs
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
from restorer.training.prepared_pairs import read_pairs

__all__ = ["Trainer", "train_enlarger"]

MEASURE_EVERY = 10  # steps between measurements of the norms of the gradients
RAMP = 300  # steps over which the weight of the discriminator rises


def _distance(made: Tensor, x: Tensor, taught: Tensor) -> Tensor:
    """Return the mean absolute difference from a picture and from the teacher's."""
    return ((made - x).abs().mean() + (made - taught).abs().mean()) / 2


def _classified(classifier: Classifier, made: Tensor, x: Tensor, taught: Tensor, generator: torch.Generator) -> Tensor:
    """Return the distance of the classifier's features from those of a picture and of the teacher's.

    All pictures are cut by a row and a column at random, so that no phase of the classifier's strides is preferred.
    """
    top, left = torch.randint(2, (2,), generator=generator).tolist()
    made, x, taught = (picture[..., top:, left:] for picture in (made, x, taught))
    with torch.no_grad():
        real = classifier(x)
        wished = real if torch.equal(x, taught) else classifier(taught)
    answered = classifier(made)
    return (feature_distance(real, answered) + feature_distance(wished, answered)) / 2


class Trainer:
    """Networks, optimizers and the number of steps done: everything that a checkpoint contains.

    Args:
        init: Folder of a prior, a `ResidualUNet` that predicts v, whose weights the network begins with and whose
            features judge it.
        recipe: The recipe.
        device: Device of the networks.
        bf16: Whether they compute in bfloat16; their weights stay in float32.
        start: Folder of a network of the same shape whose weights the network begins with instead.
        classifier: The classifier whose features take part; None for none.

    Raises:
        ModelError: The prior is of another kind.
        UsageError: The recipe has a part for a classifier, and there is none.
    """

    PARTS = ("network", "average", "heads", "first", "second", "of_heads")

    def __init__(
        self,
        init: Path,
        recipe: EnlargerRecipe,
        device: torch.device,
        *,
        bf16: bool,
        start: Path | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        if recipe.classifier_ratio > 0 and classifier is None:
            raise UsageError("the recipe asks for a classifier", "name its file of weights with --classifier")
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.bf16 = recipe, device, bf16
        network, self.spec = begin_with(init, device)
        self.features = Features(deepcopy(network), self.spec).to(device)
        self.classifier = None if classifier is None else classifier.to(device)
        self.network = (network if start is None else begin_with(start, device)[0]).requires_grad_(True)
        self.average = deepcopy(self.network).requires_grad_(False)
        self.heads = Heads(self.features.widths).to(device)
        self.first = make_optimizer("muon", self.network, recipe.mean_rate)
        self.second = torch.optim.AdamW(self.network.parameters(), lr=recipe.rate, betas=(0.8, 0.99), weight_decay=0.0)
        self.of_heads = torch.optim.AdamW(self.heads.parameters(), lr=recipe.heads_rate, betas=(0.5, 0.99))
        self.step = 0
        self.weights = torch.zeros(2 if classifier is None else 3)  # a, b and c of the module docstring
        self.meter: dict[str, float] = {}

    def run_step(self, pairs: Pairs) -> None:
        """Update the network and its average, and in the second stage the discriminator, which may begin alone."""
        x, y = pairs.large.to(self.device), pairs.enlarged.to(self.device)
        optimizer: Any = self.first if self.step < self.recipe.mean_steps else self.second
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(self.step)
        optimizer.zero_grad()
        heads_alone = 0 <= self.step - self.recipe.mean_steps < self.recipe.heads_alone
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
            torch.set_grad_enabled(not heads_alone),
        ):
            made = answer_once(self.network, self.spec, y, pairs.level)
        taught = pairs.taught.to(self.device)
        pixels = _distance(made, x, taught)
        self._note(l1=float(pixels.detach()))
        if heads_alone:
            self._gradient(made, x, y, taught, pairs.is_noisy)
            self.step += 1
            return
        if self.step < self.recipe.mean_steps:
            pixels.backward()
        else:
            made.backward(self._gradient(made, x, y, taught, pairs.is_noisy))
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)

    def _gradient(self, made: Tensor, x: Tensor, y: Tensor, taught: Tensor, is_noisy: Tensor) -> Tensor:
        """Train the heads, and return the gradient of the whole loss at the enlarged pictures."""
        low, high = map(math.log, self.recipe.levels)
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        sigma = (low + (high - low) * torch.rand(len(x), generator=generator)).exp()
        # The noise of the input is another one than that of the pictures, from which the heads could subtract it.
        noise, of_input = (
            torch.randn(x.shape, generator=generator).to(x) * sigma.view(-1, 1, 1, 1).to(x) for _ in "ab"
        )
        if self.step == self.recipe.mean_steps:
            self.features.calibrate(x + noise, sigma)
            if self.classifier is not None:
                self.classifier.calibrate(x)
        leaf = made.detach().requires_grad_(True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                real = self._see(x, noise, sigma, generator)
                given = self._see(y, of_input, sigma, generator).hide(is_noisy.to(self.device))
                wished = real.features if torch.equal(x, taught) else self.features(taught + noise, sigma)
            fake = self._see(leaf, noise, sigma, generator)
        sigma_d = sigma.to(x)
        self.of_heads.zero_grad()
        loss = discriminator_loss(self._judge(real, given, sigma_d), self._judge(fake.detach(), given, sigma_d))
        loss.backward()
        self.of_heads.step()
        self.heads.requires_grad_(False)
        adversarial = discriminator_loss(self._judge(fake, given, sigma_d), self._judge(real, given, sigma_d))
        distance = (feature_distance(real.features, fake.features) + feature_distance(wished, fake.features)) / 2
        parts, ratios = [distance, adversarial], [self.recipe.feature_ratio, self.recipe.adversary_ratio]
        if self.classifier is not None:
            parts.append(_classified(self.classifier, leaf, x, taught, generator))
            ratios.append(self.recipe.classifier_ratio)
            self._note(c=float(parts[-1].detach()))
        pixels = _distance(leaf, x, taught)
        (of_pixels,) = torch.autograd.grad(pixels, leaf)
        if (self.step - self.recipe.mean_steps) % MEASURE_EVERY == 0:  # measure the norms of the parts
            norms = torch.stack([torch.autograd.grad(part, leaf, retain_graph=True)[0].norm() for part in parts])
            now = torch.tensor(ratios) * of_pixels.norm().cpu() / norms.cpu().clamp(min=1e-12)
            self.weights = now if self.weights.sum() == 0 else torch.lerp(self.weights, now, 0.1)
        ramp = min(1.0, (self.step - self.recipe.mean_steps) / RAMP)
        ramps = [1.0, ramp, 1.0][: len(parts)]
        weighted = [w * r * part for w, r, part in zip(self.weights.tolist(), ramps, parts, strict=True)]
        (of_rest,) = torch.autograd.grad(torch.stack(weighted).sum(), leaf)
        self.heads.requires_grad_(True)
        self._note(d=float(loss.detach()), g=float(adversarial.detach()), f=float(distance.detach()))
        return of_pixels + of_rest

    def _see(self, x: Tensor, noise: Tensor, sigma: Tensor, generator: torch.Generator) -> Seen:
        """Return what the heads see of pictures: their pixels, and their features with noise of levels sigma (B,)."""
        rounding = ROUNDING * torch.randn(x.shape, generator=generator).to(x)
        return Seen(x + rounding, self.features(x + noise, sigma))

    def _judge(self, seen: Seen, given: Seen, sigma: Tensor) -> list[Tensor]:
        """Return what the heads make of pictures beside their inputs, in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            judgements = self.heads(seen, given, sigma)
        return [judgement.float() for judgement in judgements]

    def _note(self, **values: float) -> None:
        for name, value in values.items():
            self.meter[name] = value if name not in self.meter else 0.98 * self.meter[name] + 0.02 * value

    def state_dict(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        content = {name: getattr(self, name).state_dict() for name in self.PARTS}
        content |= {} if self.classifier is None else {"deviations": self.classifier.deviations}
        return {**content, "scales": self.features.scales, "weights": self.weights, "step": self.step}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Take over the content of a checkpoint."""
        for name in self.PARTS:
            getattr(self, name).load_state_dict(content[name])
        for group in self.of_heads.param_groups:  # the recipe may have changed
            group["lr"] = self.recipe.heads_rate
        self.features.scales.copy_(content["scales"])
        if self.classifier is not None:
            self.classifier.deviations.copy_(content["deviations"])
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
    start: Path | None = None,
    classifier: Path | None = None,
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
        start: As in `Trainer`.
        classifier: File of the classifier's weights (`classifier.py`); None if the recipe uses none.
    """
    judge = None if classifier is None else load_classifier(classifier)
    trainer = Trainer(init, recipe, resolve_device(device), bf16=bf16, start=start, classifier=judge)
    resume_from(out, trainer)
    pictures = read_pictures(data, recipe.crop, out, recipe.seed)
    made = [] if pairs is None else read_pairs(pairs)
    run_training(trainer, lambda number: make_pairs(pictures, recipe, number, made), out, recipe.steps)


def main() -> None:
    """Run the training from the command line."""
    parser = training_parser("Train the network that gives the first answer of an enlargement.")
    parser.add_argument("--pairs", type=Path, help="folder of pairs that restorer.training.prepared_pairs has made")
    parser.add_argument("--start", type=Path, help="folder of a network of this kind to continue from")
    parser.add_argument("--classifier", type=Path, help="file of the weights that restorer.training.classifier names")
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
        start=given.start,
        classifier=given.classifier,
    )


if __name__ == "__main__":
    main()
