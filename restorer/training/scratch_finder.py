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
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from restorer.models.load import load_prior
from restorer.networks.fast.replacement import to_channels_last
from restorer.networks.scratch_finder import ScratchFinder
from restorer.priors.unet_prior import UNetPrior
from restorer.tasks.scratches import features_of
from restorer.training.datasets import Source, find_sources
from restorer.training.edits import as_stored, blur, from_pil, jpeg
from restorer.training.optimizer import MuonAndAdamW
from restorer.training.simulated_scratches import damage
from restorer.training.thin_structures import draw_structure

__all__ = ["Example", "Examples", "example_of", "fit", "loss_of"]

SIDE = 192  # pixels of an example
BATCH = 6
PARTS = 2  # examples of a photograph, one after the other
KEPT_BATCHES, USES = 60, 4  # batches that are kept, and uses of each
AHEAD = 4  # batches that are drawn ahead
LEAST_SIDE = 192  # pixels of a photograph; smaller ones are left out
RATE = 2e-3  # the highest learning rate
KEPT = 0.995  # decay of the running mean of the weights
SAVE_EVERY = 3.0  # minutes
WARM_UP, COOL_DOWN = 60, 0.4  # steps until the highest rate is reached; share of the training in which it falls to 0
DAMAGED_SHARE, STRUCTURE_SHARE = 0.75, 0.3
INVISIBLE, VISIBLE = 4.0, 24.0  # levels up to which damage does not count, and from which it counts in full


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


Batch = tuple[Example, Sequence[Tensor]]
"""Examples whose tensors have a first axis, and the features of their pictures."""


def part_of(photo: Image.Image, rng: np.random.Generator, side: int) -> Tensor:
    """Return a random part of a photograph, resized, mirrored and turned, (3, side, side) on the 0..255 scale."""
    factor = rng.choice([1.0, 1.0, 0.75, 0.6, 0.5, 1.4, 2.0])
    cut = min(round(side / factor), *photo.size)
    left, top = (int(rng.integers(0, extent - cut + 1)) for extent in photo.size)
    box = (left, top, left + cut, top + cut)
    method = Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.LANCZOS
    x = from_pil(photo.resize((side, side), method, box))
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


def example_of(photo: Image.Image, rng: np.random.Generator, side: int | None = None) -> Example:
    """Return a part of a photograph with or without damage, `side` pixels high and wide; SIDE by default."""
    side = SIDE if side is None else side
    x = toned(part_of(photo, rng, side), rng)
    if rng.random() < 0.1:  # an old lens, or a print that was scanned coarsely
        x = blur(x, rng.uniform(0.5, 2.0))
    if rng.random() < STRUCTURE_SHARE:
        x = draw_structure(x, rng)
    if rng.random() < 0.2:
        x = grained(x, rng, 18).clamp(0, 255)
    target, weight, y = torch.zeros(side, side), torch.ones(side, side), x
    if rng.random() < DAMAGED_SHARE:
        damaged = damage(x, rng, objects=1 + rng.poisson(rng.uniform(0, 8) * side / 192))
        y, target = damaged.picture, damaged.core.float()
        seen = (((y - x).abs().amax(0) - INVISIBLE) / (VISIBLE - INVISIBLE)).clamp(0, 1)
        weight = torch.where(damaged.core, seen, torch.where(damaged.rim, 0.0, 1.0))
    if rng.random() < 0.1:
        y = blur(y, rng.uniform(0.3, 0.7))
    if rng.random() < 0.25:
        y = grained(y, rng, 8)
    y = as_stored(y)
    if rng.random() < 0.35:
        y = jpeg(y, int(rng.integers(50, 97)), subsampled=rng.random() < 0.6)
    return Example(y / 255, target, weight)


class Examples:
    """An endless stream of batches of examples, with the features of the prior.

    Drawing an example and evaluating the prior takes longer than learning from it, so that the newest batches are kept,
    and each of them is used about USES times.

    Args:
        sources: The photographs.
        prior: The embedded prior.
        seed: Seed of all that is drawn.
    """

    def __init__(self, sources: Sequence[Source], prior: UNetPrior, seed: int) -> None:
        self.sources, self.features_of, self.rng = sources, features_of(prior), np.random.default_rng(seed)
        self.photos: dict[int, Image.Image] = {}  # decoding takes longer than drawing

    def _photo(self) -> Image.Image:
        number = int(self.rng.integers(len(self.sources)))
        if number not in self.photos:
            self.photos[number] = Image.fromarray(self.sources[number].read())
        return self.photos[number]

    def batch(self) -> Batch:
        """Return a new batch."""
        photos = [self._photo() for _ in range(BATCH // PARTS)]
        made = [example_of(photo, self.rng) for photo in photos for _ in range(PARTS)]
        stacked = Example(*(torch.stack(parts) for parts in zip(*made, strict=True)))
        return stacked, self.features_of(stacked.picture)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches, each of which was drawn anew or is one of the newest."""
        kept: deque[Batch] = deque(maxlen=KEPT_BATCHES)
        while True:
            kept.append(self.batch())
            for _ in range(USES):
                yield kept[int(self.rng.integers(len(kept)))]


class DrawnBeside(Examples):
    """The same stream, of which another process draws the batches; how often each is used depends on its pace."""

    def __iter__(self) -> Iterator[Batch]:
        queue: Any = torch.multiprocessing.get_context("fork").Queue(AHEAD)
        process = torch.multiprocessing.get_context("fork").Process(target=draw, args=(self, queue), daemon=True)
        process.start()
        kept: deque[Batch] = deque([queue.get()], maxlen=KEPT_BATCHES)
        while process.is_alive():
            with suppress(Empty):
                kept.append(queue.get_nowait())
            yield kept[int(self.rng.integers(len(kept)))]


def draw(examples: Examples, queue: Any) -> None:
    """Put new batches into a queue for ever, at a low priority."""
    os.nice(10)
    while True:
        example, features = examples.batch()
        queue.put((example, features))


def loss_of(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the loss of a batch; all arguments are (B, H, W)."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (weight * entropy).sum() / weight.sum()


def fit(
    examples: Examples,
    steps: int,
    output: Path,
    *,
    minutes: float = math.inf,
    seed: int = 0,
    start: Path | None = None,
    rate: float = RATE,
    cool_down: float = COOL_DOWN,
) -> ScratchFinder:
    """Train a network, and return the running mean of its weights.

    Args:
        examples: The examples.
        steps: Number of steps.
        output: The file to which the weights are saved from time to time.
        minutes: The time after which the training ends before all steps are made; the learning rate follows it.
        seed: Seed of the weights.
        start: A file of weights from which the training goes on; None for fresh ones.
        rate: The highest learning rate.
        cool_down: The share of the training in which the learning rate falls to 0.
    """
    torch.manual_seed(seed)
    network = to_channels_last(ScratchFinder())
    optimizer = MuonAndAdamW(network, rate)
    if start is None:
        network.calibrate(examples.batch()[1])
    else:
        network.load_state_dict({name: value.float() for name, value in load_file(start).items()})
    mean = copy.deepcopy(network).eval()
    begun, saved, total, count = time.monotonic(), 0.0, 0.0, 0
    for step, ((picture, target, weight), features) in enumerate(examples, 1):
        elapsed = (time.monotonic() - begun) / 60
        left = 1 - max((step - 1) / steps, elapsed / minutes)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(step / WARM_UP, 1.0, max(left, 0.0) / cool_down)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(picture.contiguous(memory_format=torch.channels_last), features)
        loss = loss_of(logits.float(), target, weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(KEPT, step / (step + 10))
        with torch.no_grad():
            for kept, new in zip(mean.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        total, count = total + loss.item(), count + 1
        is_last = step == steps or left <= 0
        if is_last or elapsed - saved >= SAVE_EVERY:
            print(f"step {step}, {elapsed:.0f} minutes: loss {total / count:.4f}", flush=True)
            saved, total, count = elapsed, 0.0, 0
            save_file({name: value.half().contiguous() for name, value in mean.state_dict().items()}, output)
        if is_last:
            break
    return mean


def main() -> None:
    """Run the command of the module docstring."""
    parser = argparse.ArgumentParser(description="Train the network that finds scratches.")
    parser.add_argument("shards", type=Path, nargs="+")
    parser.add_argument("--hold-out", type=int, default=0, help="leave out every Nth photograph")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this time")
    parser.add_argument("--start", type=Path, help="go on from these weights")
    parser.add_argument("--rate", type=float, default=RATE, help="the highest learning rate")
    parser.add_argument("--cool-down", type=float, default=COOL_DOWN, help="share in which the rate falls to 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", action="store_true", help="draw the examples in another process")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    found = find_sources(options.shards, LEAST_SIDE).sources
    sources = [source for number, source in enumerate(found) if not options.hold_out or number % options.hold_out]
    examples = (DrawnBeside if options.beside else Examples)(sources, load_prior(device="cpu"), options.seed)
    fit(
        examples,
        options.steps,
        options.output,
        minutes=options.minutes,
        seed=options.seed,
        start=options.start,
        rate=options.rate,
        cool_down=options.cool_down,
    )


if __name__ == "__main__":
    main()
