"""Training of the network that finds scratches (`restorer.networks.scratch_finder`).

    python -m restorer.training.scratch_finder shard-*.tar --hold-out 10 -o weights/scratches/model.safetensors

Every example is a part of a photograph: resized, gray, toned or faded at times, with grain and with thin structures
that are no damage (`thin_structures`), then with or without damage (`simulated_scratches`), and compressed at times. Of
each example some pixels are taken: as many damaged ones as others, of which half are those with the strongest lines.

The loss is the binary cross entropy, in which a pixel counts as often as there are others that it stands for. A damaged
pixel counts as much as its damage can be seen, and the rim of a stroke, which nobody can assign, does not count.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from restorer.networks.scratch_finder import ScratchFinder, describe
from restorer.training.datasets import Source, find_sources
from restorer.training.edits import as_stored, blur, from_pil, jpeg
from restorer.training.simulated_scratches import damage
from restorer.training.thin_structures import draw_structure

__all__ = ["Example", "Pixels", "example_of", "fit", "gather", "loss_of", "pixels_of"]

SIDE = 160  # pixels of an example
PARTS = 4  # examples of a photograph, one after the other
LEAST_SIDE = 192  # pixels of a photograph; smaller ones are left out
TAKEN = 400  # damaged pixels of an example that are taken at most, and as many others
STRONG_SHARE = 0.05  # of the other pixels, those with the strongest lines
BEST_LINES = [6, 7, 12, 13]  # positions of the strengths of lines in a description
BATCH, EPOCHS, RATE = 4096, 6, 4e-3
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


class Pixels(NamedTuple):
    """Pixels of examples.

    Args:
        described: Their descriptions, (N, FEATURES).
        target: 1 for damaged ones, (N,).
        weight: How many pixels each of them stands for, (N,).
    """

    described: Tensor
    target: Tensor
    weight: Tensor


def pixels_of(example: Example, rng: np.random.Generator) -> Pixels:
    """Return some pixels of an example."""
    described = describe(example.picture[None])[0].flatten(1).T
    target, weight = example.target.flatten(), example.weight.flatten()
    damaged = (target > 0).nonzero().flatten()
    others = ((target == 0) & (weight > 0)).nonzero().flatten()
    strength = described[others][:, BEST_LINES].amax(1)
    strong = strength >= strength.quantile(1 - STRONG_SHARE)
    parts = []
    for group, most in ((damaged, TAKEN), (others[strong], TAKEN // 2), (others[~strong], TAKEN // 2)):
        if len(group):
            chosen = group[torch.from_numpy(rng.permutation(len(group))[:most])]
            parts.append((chosen, len(group) / len(chosen)))
    at = torch.cat([chosen for chosen, _ in parts])
    stands_for = torch.cat([torch.full((len(chosen),), factor) for chosen, factor in parts])
    return Pixels(described[at], target[at], weight[at] * stands_for)


def gather(sources: Sequence[Source], count: int, seed: int) -> Pixels:
    """Return pixels of `count` examples.

    Args:
        sources: The photographs.
        count: Number of examples.
        seed: Seed of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(-(-count // PARTS)):
        photo = Image.fromarray(sources[int(rng.integers(len(sources)))].read())
        parts += [pixels_of(example_of(photo, rng), rng) for _ in range(PARTS)]
        if number % 50 == 0:
            print(f"{len(parts)} of {count} examples", flush=True)
    return Pixels(*(torch.cat(part) for part in zip(*parts, strict=True)))


def loss_of(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the loss of pixels; all arguments are of one shape."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (weight * entropy).sum() / weight.sum()


def fit(pixels: Pixels, *, epochs: int = EPOCHS, seed: int = 0) -> ScratchFinder:
    """Return a network that was trained on pixels.

    Args:
        pixels: The pixels.
        epochs: Number of passes over them.
        seed: Seed of the weights, and of the order of the pixels.
    """
    torch.manual_seed(seed)
    network = ScratchFinder()
    network.mean.copy_(pixels.described.mean(0))
    network.std.copy_(pixels.described.std(0) + 1e-3)
    share = float((pixels.weight * pixels.target).sum() / pixels.weight.sum())
    nn.init.constant_(network.last.bias, math.log(share / (1 - share)))  # so that it begins at the mean
    steps = epochs * (len(pixels.target) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(epochs):
        order, total = torch.randperm(len(pixels.target)), 0.0
        for batch in order.split(BATCH)[: len(order) // BATCH]:
            described, target, weight = (part[batch] for part in pixels)
            loss = loss_of(network.decide(described), target, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1} of {epochs}: loss {total * BATCH / len(order):.4f}", flush=True)
    return network.eval()


def main() -> None:
    """Run the command of the module docstring."""
    parser = argparse.ArgumentParser(description="Train the network that finds scratches.")
    parser.add_argument("shards", type=Path, nargs="+")
    parser.add_argument("--hold-out", type=int, default=0, help="leave out every Nth photograph")
    parser.add_argument("--examples", type=int, default=1000, help="examples of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    sources: Sequence[Source] = find_sources(options.shards, LEAST_SIDE).sources
    if options.hold_out:
        sources = [source for number, source in enumerate(sources) if number % options.hold_out]
    with torch.inference_mode():
        gathered = [gather(sources, options.examples, seed) for seed in options.seeds]
    network = fit(Pixels(*(torch.cat(part) for part in zip(*gathered, strict=True))))
    save_file({name: weight.contiguous() for name, weight in network.state_dict().items()}, options.output)


if __name__ == "__main__":
    main()
