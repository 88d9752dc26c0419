"""What the network that enlarges is trained with: the recipe of a run, and the pairs of each of its steps.

The pairs of a step are made from photographs (`shrinking.py`), or cut from pairs that were made before the training
(`prepared_pairs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from restorer.priors.experts import SPREAD, first_level
from restorer.training.crops import Augmentation
from restorer.training.prepared_pairs import Prepared, random_crop
from restorer.training.shrinking import enlarge_bicubic, shrink

__all__ = ["EnlargerRecipe", "Pairs", "make_pairs"]

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
        classifier_ratio: Norm of the gradient of the classifier's distance over that of the difference of pixels; 0 if
            no classifier takes part.
        levels: Least and largest noise level of the features, on the [-1, 1] scale.
        heads_alone: Steps at the beginning of the second stage in which the discriminator alone is trained.
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
    classifier_ratio: float = 0.0
    levels: tuple[float, float] = (0.03, 0.4)
    heads_alone: int = 0
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
        warm = min(1.0, (step - self.mean_steps - self.heads_alone + 1) / WARMUP)
        return self.rate * max(0.0, warm) * 0.5 * (1 + math.cos(math.pi * fall))


@dataclass(frozen=True)
class Pairs:
    """The crops of a step.

    Args:
        large: float (B, 3, S, S) on [-1, 1].
        enlarged: Their small pictures enlarged by the bicubic filter, the same shape.
        taught: What a teacher made of the small pictures, the same shape; the crops themselves where there is none.
        level: What the network is told, float64 (B,).
        is_noisy: Whether the small picture may be noisy, bool (B,).
    """

    large: Tensor
    enlarged: Tensor
    taught: Tensor
    level: Tensor
    is_noisy: Tensor


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
    large, enlarged, taught, levels, states = [], [], [], [], []
    for i in rng.choice(len(pictures), size=recipe.batch, p=areas / areas.sum()):
        if made and rng.random() < recipe.prepared:
            pair = made[int(rng.integers(len(made)))]
            part = random_crop(pair, recipe.crop, rng)
            large.append(part.large)
            enlarged.append(part.enlarged)
            taught.append(part.large if part.taught is None else part.taught)
            levels.append(first_level(pair.factor, pair.state) / SPREAD)
            states.append(pair.state)
            continue
        crop = augmentation.random_crop(pictures[i], rng)
        small = shrink(crop, rng)
        large.append(crop)
        taught.append(crop)
        enlarged.append(enlarge_bicubic(small.pixels, recipe.crop))
        levels.append(first_level(recipe.crop / len(small.pixels), small.state) / SPREAD)
        states.append(small.state)
    return Pairs(
        _to_tensor(large).div_(127.5).sub_(1),
        _to_tensor(enlarged),
        _to_tensor(taught).div_(127.5).sub_(1),
        torch.tensor(levels, dtype=torch.float64),
        torch.tensor([state == "damaged" for state in states]),
    )


def _to_tensor(pictures: Sequence[np.ndarray]) -> Tensor:
    """Return pictures (S, S, 3) as float32 (B, 3, S, S)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().contiguous()
