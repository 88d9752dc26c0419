"""Training of the network that finds scratches (`restorer.networks.scratch_finder`).

    python -m restorer.training.scratch_finder shard-*.tar --hold-out 10 -o weights/scratches/model.safetensors

Every example is a part of a photograph: resized, gray, toned or faded at times, with grain and with thin structures
that are no damage (`thin_structures`), then with or without damage (`simulated_scratches`), and compressed at times.
The loss is the binary cross entropy of every pixel. A damaged pixel counts as much as its damage can be seen, and the
rim of a stroke, which nobody can assign, does not count. The weights that are kept are a running mean.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from restorer.networks.scratch_finder import ScratchFinder
from restorer.training.datasets import Source, find_sources
from restorer.training.edits import as_stored, blur, from_pil, jpeg
from restorer.training.simulated_scratches import damage
from restorer.training.thin_structures import draw_structure

__all__ = ["Example", "Examples", "example_of", "fit", "loss_of"]

SIDE = 160  # pixels of an example
BATCH = 12
PARTS = 4  # examples of a photograph, one after the other
ECHOES = 2  # times that each batch is used, the second time turned: drawing takes as long as learning
LEAST_SIDE = 192  # pixels of a photograph; smaller ones are left out
RATE = 1.5e-3  # the highest learning rate
KEPT = 0.998  # decay of the running mean of the weights
SAVE_EVERY = 100  # steps
WARM_UP, COOL_DOWN = 100, 0.3  # steps until the highest rate is reached; share of the steps in which it falls to 0
DAMAGED_SHARE, STRUCTURE_SHARE = 0.65, 0.3
VISIBLE = 20.0  # levels from which damage counts in full
LEAST_WEIGHT = 0.1  # of damage that cannot be seen at all


class Example(NamedTuple):
    """A picture whose damage is known.

    Args:
        picture: (3, H, W) in [0, 1].
        target: 1 at the damaged pixels, (H, W).
        weight: How much each pixel counts, (H, W).
    """

    picture: Tensor
    target: Tensor
    weight: Tensor


def part_of(photo: Image.Image, rng: np.random.Generator) -> Tensor:
    """Return a random part of a photograph, resized, mirrored and turned, (3, SIDE, SIDE) on the 0..255 scale."""
    factor = rng.choice([1.0, 1.0, 0.75, 0.6, 0.5, 1.4, 2.0])
    side = min(round(SIDE / factor), *photo.size)
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
    box = (left, top, left + side, top + side)
    method = Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.LANCZOS
    x = from_pil(photo.resize((SIDE, SIDE), method, box))
    x = torch.rot90(x, int(rng.integers(4)), (1, 2))
    return x.flip(2) if rng.random() < 0.5 else x


def toned(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a picture as old prints show it: at times gray, toned, faded, or of another exposure."""
    chance = rng.random()
    if chance < 0.4:
        x = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True).expand(3, -1, -1)
    if rng.random() < 0.3:  # faded, or with more contrast
        x = (x - 128) * rng.uniform(0.5, 1.2) + 128 + rng.normal(0, 20)
    if 0.25 < chance < 0.5:  # sepia and other casts
        x = x * torch.from_numpy(rng.uniform(0.65, 1.05, 3)).float().view(3, 1, 1)
    return x.clamp(0, 255).clone()


def grained(x: Tensor, rng: np.random.Generator, most: float) -> Tensor:
    """Return a picture with grain of at most `most` levels, gray or coloured, fine or coarse."""
    planes = 1 if rng.random() < 0.6 or bool((x == x[:1]).all()) else 3
    noise = blur(torch.from_numpy(rng.normal(size=(planes, *x.shape[-2:]))).float(), rng.choice([0, 0.5, 0.9, 1.5]))
    return x + rng.uniform(0.5, most) * noise / noise.std()


def example_of(photo: Image.Image, rng: np.random.Generator) -> Example:
    """Return a part of a photograph with or without damage."""
    x = toned(part_of(photo, rng), rng)
    if rng.random() < STRUCTURE_SHARE:
        x = draw_structure(x, rng)
    if rng.random() < 0.3:
        x = grained(x, rng, 18).clamp(0, 255)
    target, weight, y = torch.zeros(SIDE, SIDE), torch.ones(SIDE, SIDE), x
    if rng.random() < DAMAGED_SHARE:
        damaged = damage(x, rng)
        y, target = damaged.picture, damaged.core.float()
        seen = ((y - x).abs().amax(0) / VISIBLE).clamp(LEAST_WEIGHT, 1)
        weight = torch.where(damaged.core, seen, torch.where(damaged.rim, 0.0, 1.0))
    if rng.random() < 0.15:
        y = blur(y, rng.uniform(0.3, 0.7))
    if rng.random() < 0.3:
        y = grained(y, rng, 8)
    y = as_stored(y)
    if rng.random() < 0.45:
        y = jpeg(y, int(rng.integers(50, 97)), subsampled=rng.random() < 0.6)
    return Example(y / 255, target, weight)


class Examples(IterableDataset[Example]):
    """An endless stream of examples.

    Args:
        sources: The photographs.
        seed: Seed of all that is drawn.
    """

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        self.sources, self.seed = sources, seed

    def __iter__(self) -> Iterator[Example]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, 0 if worker is None else worker.id])
        photos: dict[int, Image.Image] = {}  # decoding takes longer than drawing
        while True:
            number = int(rng.integers(len(self.sources)))
            if number not in photos:
                photos[number] = Image.fromarray(self.sources[number].read())
            for _ in range(PARTS):
                yield example_of(photos[number], rng)


def loss_of(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the loss of a batch; all arguments are (B, H, W)."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (weight * entropy).sum() / weight.sum()


def fit(sources: Sequence[Source], steps: int, output: Path, *, workers: int, seed: int = 0) -> ScratchFinder:
    """Train a network, and return the running mean of its weights.

    Args:
        sources: The photographs.
        steps: Number of steps.
        output: The file to which the weights are saved from time to time.
        workers: Number of processes that make examples.
        seed: Seed of the weights and of the examples.
    """
    torch.manual_seed(seed)
    network = ScratchFinder().to(memory_format=torch.channels_last)
    mean = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, 1.0, (1 - step / steps) / COOL_DOWN)
    )
    loader = iter(DataLoader(Examples(sources, seed), BATCH, num_workers=workers))
    total, batch = 0.0, next(loader)
    for step in range(1, steps + 1):
        if step % ECHOES == 1:
            batch = next(loader)
        picture, target, weight = batch if step % ECHOES == 1 else (part.mT.flip(-1) for part in batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(picture.contiguous(memory_format=torch.channels_last))
        loss = loss_of(logits.float(), target, weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(KEPT, step / (step + 10))
        with torch.no_grad():
            for kept, new in zip(mean.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        total += loss.item()
        if step % SAVE_EVERY == 0 or step == steps:
            print(f"step {step} of {steps}: loss {total / (step % SAVE_EVERY or SAVE_EVERY):.4f}", flush=True)
            total = 0.0
            save_file({name: value.half().contiguous() for name, value in mean.state_dict().items()}, output)
    return mean


def main() -> None:
    """Run the command of the module docstring."""
    parser = argparse.ArgumentParser(description="Train the network that finds scratches.")
    parser.add_argument("shards", type=Path, nargs="+")
    parser.add_argument("--hold-out", type=int, default=0, help="leave out every Nth photograph")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1, help="processes that make examples")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    sources = find_sources(options.shards, LEAST_SIDE).sources
    if options.hold_out:
        sources = [source for number, source in enumerate(sources) if number % options.hold_out]
    fit(sources, options.steps, options.output, workers=options.workers)


if __name__ == "__main__":
    main()
