"""Training of the network that judges the log odds of scratches (`restorer.networks.stroke_judge`).

    python -m restorer.training.stroke_judge shard-*.tar --hold-out 10 -o weights/scratches/judge.safetensors

The examples are those of the training of the finder (`restorer.training.scratch_finder`), in larger parts, because the
judge looks farther. The finder must be trained first. Its log odds are computed once for each example, as they are in
use, and the judge learns from all pixels that it would be asked about, with the same loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from restorer.measurement.scratches import Features, log_odds
from restorer.measurement.strokes import context_of
from restorer.models.load import load_prior, load_scratch_finder
from restorer.networks.scratch_finder import ScratchFinder
from restorer.networks.stroke_judge import StrokeJudge
from restorer.tasks.scratches import features_of
from restorer.training.datasets import Source, find_sources
from restorer.training.scratch_finder import LEAST_SIDE, Example, example_of

__all__ = ["fit", "pixels_of"]

SIDE = 320  # pixels of an example
BATCH = 4096  # pixels
STEPS, RATE = 1000, 1e-2

Pixels = tuple[Tensor, Tensor, Tensor]
"""The contexts of pixels (N, CONTEXT_SIZE), whether they are damaged (N,), and how much each counts (N,)."""


def examples_of(sources: Sequence[Source], count: int, seed: int) -> Iterator[Example]:
    """Yield examples of different photographs, which are taken in a random order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sources))
    for number in range(count):
        photo = Image.fromarray(sources[order[number % len(order)]].read())
        yield example_of(photo, rng, SIDE)


def pixels_of(example: Example, finder: ScratchFinder, features: Features) -> Pixels:
    """Return the pixels of an example that the judge is asked about and that count."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        odds = log_odds(example.picture, finder, features)
    chosen, contexts = context_of(odds.clone())
    target, weight = example.target[chosen], example.weight[chosen]
    counting = weight > 0
    return contexts[counting], target[counting], weight[counting]


def fit(pixels: Pixels, steps: int = STEPS, seed: int = 0) -> StrokeJudge:
    """Return a judge that has learned from pixels."""
    torch.manual_seed(seed)
    contexts, target, weight = pixels
    judge = StrokeJudge()
    judge.calibrate(contexts)
    optimizer = torch.optim.AdamW(judge.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        drawn = torch.randint(len(contexts), (BATCH,))
        entropy = F.binary_cross_entropy_with_logits(judge(contexts[drawn]), target[drawn], reduction="none")
        optimizer.zero_grad()
        ((weight[drawn] * entropy).sum() / weight[drawn].sum()).backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


def main() -> None:
    """Run the command of the module docstring."""
    parser = argparse.ArgumentParser(description="Train the network that judges the log odds of scratches.")
    parser.add_argument("shards", type=Path, nargs="+")
    parser.add_argument("--hold-out", type=int, default=0, help="leave out every Nth photograph")
    parser.add_argument("--count", type=int, default=120, help="number of examples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    found = find_sources(options.shards, LEAST_SIDE).sources
    sources = [source for number, source in enumerate(found) if not options.hold_out or number % options.hold_out]
    finder, features = load_scratch_finder(), features_of(load_prior(device="cpu"))
    made = [pixels_of(example, finder, features) for example in examples_of(sources, options.count, options.seed)]
    contexts, target, weight = (torch.cat(parts) for parts in zip(*made, strict=True))
    judge = fit((contexts, target, weight), seed=options.seed)
    with torch.no_grad():
        for name, odds in (("the finder", contexts[:, 0]), ("the judge", judge(contexts))):
            entropy = F.binary_cross_entropy_with_logits(odds, target, weight, reduction="sum") / weight.sum()
            print(f"cross entropy of {len(odds)} pixels by {name}: {entropy:.4f}")
    save_file({name: value.contiguous() for name, value in judge.state_dict().items()}, options.output)


if __name__ == "__main__":
    main()
