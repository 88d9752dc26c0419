"""Training of the network that finds the blur of a picture (`restorer.networks.blur_estimator`).

    python -m restorer.training.blur_estimator describe shard-*.tar -o described.pt
    python -m restorer.training.blur_estimator fit described.pt --hold-out 20 -o weights/blur/model.safetensors
    python -m restorer.training.blur_estimator examine described.pt --hold-out 20 weights/blur/model.safetensors

The first command makes examples: parts of photographs with a simulated blur, each described by its spectrum. It takes
ten minutes on one core, and `--part 0/2` and `--part 1/2` share it among processes. The second fits the network. The
third prints how it judges the examples of the photographs that were held out. All of them run on one thread and from
fixed seeds, so that they give the same bytes wherever the processor and PyTorch are the same.

The loss is the cross entropy of the kind and of the direction of a motion, and the negative log likelihood of a Laplace
distribution for the logarithms of the widths, the radius and the length, each over the examples that have one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from restorer.measurement.blur_spectrum import describe_spectrum
from restorer.networks.blur_estimator import ANGLES, KINDS, BlurEstimator, Raw, SpectrumNetwork, turn, turned
from restorer.training.datasets import find_sources
from restorer.training.edits import from_pil
from restorer.training.other_blurs import RESAMPLING
from restorer.training.simulated_blur import choose_kind, drawing, simulate_blur

__all__ = ["Examples", "examples_of", "fit"]

PER_PHOTO = 24  # examples of a photograph
DRAWINGS = 0.05  # share of the examples that are drawings
LEAST_SIDE = 192  # pixels of a photograph; smaller ones are left out
DIRECTION_WIDTH = 4.0  # degrees by which the direction of a motion is smoothed for the loss
SAVE_EVERY = 50  # photographs between two saves of the examples


@dataclass(frozen=True)
class Examples:
    """Pictures whose blur is known, as tensors with one row a picture.

    Args:
        photo: Number of the photograph, (N,).
        maps: As in `SpectrumNetwork.forward`, float16.
        profiles: As in `SpectrumNetwork.forward`.
        kind: Index of the kind in KINDS, (N,).
        widths: As in `restorer.training.simulated_blur.Blurred`, (N, ANGLES).
        scalar: As there, (N,).
        angle: As there, (N,).
    """

    photo: Tensor
    maps: Tensor
    profiles: Tensor
    kind: Tensor
    widths: Tensor
    scalar: Tensor
    angle: Tensor

    def __getitem__(self, index: Tensor) -> Examples:
        return Examples(*(part[index] for part in vars(self).values()))


NAMES = tuple(field.name for field in fields(Examples))


def part_of(photo: Image.Image, rng: random.Random) -> Tensor:
    """Return a random part of a photograph that was shrunk at random, (3, H, W) on the 0..255 scale."""
    if rng.random() < DRAWINGS:
        return drawing(rng.randint(200, 420), rng.randint(200, 420), rng)
    shrunk = max(rng.choice([1.0, 0.8, 0.67, 0.5]), min(1.0, 240 / min(photo.size)))
    height, width = rng.randint(220, 480), rng.randint(220, 480)
    height, width = min(height, int(shrunk * photo.height)), min(width, int(shrunk * photo.width))
    tall, wide = height / shrunk, width / shrunk
    left, top = rng.uniform(0, max(0.0, photo.width - wide)), rng.uniform(0, max(0.0, photo.height - tall))
    if shrunk == 1:
        left, top = int(left), int(top)
        return from_pil(photo.crop((left, top, left + width, top + height)))
    box = left, top, min(left + wide, photo.width), min(top + tall, photo.height)
    return from_pil(photo.resize((width, height), rng.choice(RESAMPLING), box))


def examples_of(photo: Image.Image, number: int, count: int = PER_PHOTO) -> Iterator[tuple[Tensor, ...]]:
    """Yield the examples of one photograph as rows of `Examples`."""
    rng = random.Random(number)
    for _ in range(count):
        made = simulate_blur(part_of(photo, rng), choose_kind(rng), rng)
        described = describe_spectrum(made.picture[None] / 255)
        if described is not None:
            kind, scalar = torch.tensor(KINDS.index(made.kind)), torch.tensor(made.scalar)
            angle = torch.tensor(made.angle)
            maps, profiles = described.maps.half(), described.profiles
            yield torch.tensor(number), maps, profiles, kind, made.widths, scalar, angle


def normalize(network: SpectrumNetwork, examples: Examples) -> None:
    """Set the means and spreads by which the network normalizes what it sees."""
    maps = examples.maps[::5].float()
    network.map_mean.copy_(maps.mean((0, 2), keepdim=True)[0])
    network.map_std.copy_(maps.std((0, 2), keepdim=True)[0] + 0.05)
    network.profile_mean.copy_(examples.profiles.mean(0))
    network.profile_std.copy_(examples.profiles.std(0) + 0.05)


def loss_of(raw: Raw, examples: Examples) -> Tensor:
    """Return the loss of the module docstring over a batch."""
    kinds = [examples.kind == KINDS.index(name) for name in ("gaussian", "defocus", "motion")]
    loss = F.cross_entropy(raw.kinds, examples.kind, label_smoothing=0.01)
    errors = (
        (raw.widths - examples.widths).abs().mean(1),
        (raw.scalars[:, 0] - examples.scalar).abs(),
        (raw.scalars[:, 1] - examples.scalar).abs(),
    )
    for i, (is_kind, error) in enumerate(zip(kinds, errors, strict=True)):
        spread = raw.log_spreads[:, i]
        likelihood = error * (-spread).exp() + spread
        loss = loss + 0.5 * (likelihood * is_kind).sum() / is_kind.sum().clamp(min=1)
    directions = torch.arange(ANGLES) * (180 / ANGLES)
    distance = (examples.angle[:, None] - directions + 90) % 180 - 90
    target = (-0.5 * (distance / DIRECTION_WIDTH).square()).softmax(1)
    entropy = F.cross_entropy(raw.directions, target, reduction="none")
    return loss + 0.5 * (entropy * kinds[2]).sum() / kinds[2].sum().clamp(min=1)


def fit(examples: Examples, *, epochs: int, seed: int = 0, batch: int = 64, rate: float = 3e-3) -> SpectrumNetwork:
    """Return a network that was trained on examples.

    Args:
        examples: The examples.
        epochs: Number of passes over them.
        seed: Seed of the weights, of the order of the examples, and of how they are turned.
        batch: Number of examples in a batch.
        rate: The highest learning rate of AdamW.
    """
    torch.manual_seed(seed)
    rng, network, count = random.Random(seed), SpectrumNetwork(), len(examples.photo)
    normalize(network, examples)
    steps = count // batch
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    for epoch in range(epochs):
        order, losses = torch.randperm(count), []
        for i in range(steps):
            part = examples[order[i * batch : (i + 1) * batch]]
            quarters, mirrored = rng.randrange(2), rng.random() < 0.5
            raw = turn(network(turned(part.maps.float(), quarters, mirrored), part.profiles), quarters, mirrored)
            loss = loss_of(raw, part)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}: loss {sum(losses) / steps:.4f}", flush=True)
    return network.eval()


def _collected(rows: Sequence[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    return {name: torch.stack(part) for name, part in zip(NAMES, zip(*rows, strict=True), strict=True)}


def load_examples(paths: Sequence[Path]) -> Examples:
    """Return the examples of files that the command `describe` has written."""
    parts = [torch.load(path, weights_only=True) for path in paths]
    examples = Examples(*(torch.cat([part[name] for part in parts]) for name in NAMES))
    return examples[examples.photo.argsort(stable=True)]  # in the same order however they were shared out


def is_held_out(examples: Examples, every: int) -> Tensor:
    """Return which examples are those of every Nth photograph, bool (N,); none of them for 0."""
    return examples.photo % every == 0 if every else torch.zeros_like(examples.photo, dtype=torch.bool)


def load_estimator(path: Path) -> BlurEstimator:
    """Return the network of a file that the command `fit` has written."""
    weights = load_file(path)
    estimator = BlurEstimator(members=1 + max(int(name.split(".")[1]) for name in weights))
    estimator.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return estimator.eval()


@torch.inference_mode()
def examine(estimator: BlurEstimator, examples: Examples) -> str:
    """Return a table of how examples are judged: how often each kind is taken for which, and the errors of sizes."""
    found = estimator(examples.maps.float(), examples.profiles)
    lines = ["true kind: mean probability of " + ", ".join(KINDS) + "; likeliest; median and 90 % error of the size"]
    sizes = {"gaussian": found.widths.mean(1), "defocus": found.radius, "motion": found.length}
    for index, kind in enumerate(KINDS):
        rows = examples.kind == index
        probabilities, count = found.kinds[rows], int(rows.sum())
        mean = " ".join(f"{value:.2f}" for value in probabilities.mean(0).tolist())
        likeliest = torch.bincount(probabilities.argmax(1), minlength=len(KINDS))
        line = f"{kind:9} {count:5} {mean};" + "".join(f"{100 * n / count:5.0f}%" for n in likeliest.tolist())
        if kind in sizes:
            true = examples.widths.mean(1) if kind == "gaussian" else examples.scalar
            errors = (sizes[kind] - true)[rows].abs()
            line += f"; {float(errors.median().expm1()):.1%}, {float(errors.quantile(0.9).expm1()):.1%}"
        lines.append(line)
    truth = F.one_hot(examples.kind, len(KINDS)).float()
    brier = (found.kinds - truth).square().sum(1).mean()
    likelihood = F.nll_loss(found.kinds.clamp(min=1e-6).log(), examples.kind)
    lines.append(f"all       {len(truth):5} Brier score {float(brier):.4f}, cross entropy {float(likelihood):.4f}")
    return "\n".join(lines)


def main() -> None:
    """Run one of the commands of the module docstring."""
    parser = argparse.ArgumentParser(description="Train the network that finds the blur of a picture.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("describe", help="make examples of the photographs in tar files")
    making.add_argument("shards", type=Path, nargs="+")
    making.add_argument("--part", default="0/1", help="which share of the photographs, such as 0/2")
    making.add_argument("-o", "--output", type=Path, required=True)
    fitting = commands.add_parser("fit", help="fit the network to examples")
    fitting.add_argument("described", type=Path, nargs="+")
    fitting.add_argument("--hold-out", type=int, default=0, help="leave out every Nth photograph")
    fitting.add_argument("--epochs", type=int, default=8)
    fitting.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one network for each")
    fitting.add_argument("-o", "--output", type=Path, required=True)
    examining = commands.add_parser("examine", help="print how a network judges what was held out of its training")
    examining.add_argument("described", type=Path, nargs="+")
    examining.add_argument("weights", type=Path)
    examining.add_argument("--hold-out", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "describe":
        part, parts = map(int, options.part.split("/"))
        rows: list[tuple[Tensor, ...]] = []
        for number, source in enumerate(find_sources(options.shards, LEAST_SIDE).sources):
            if number % parts == part:
                rows += examples_of(Image.fromarray(source.read()), number)
                if number // parts % SAVE_EVERY == 0:
                    print(f"photograph {number}: {len(rows)} examples", flush=True)
                    torch.save(_collected(rows), options.output)
        torch.save(_collected(rows), options.output)
        return
    examples = load_examples(options.described)
    held_out = is_held_out(examples, options.hold_out)
    if options.command == "examine":
        print(examine(load_estimator(options.weights), examples[held_out.nonzero()[:, 0]]))
        return
    examples = examples[(~held_out).nonzero()[:, 0]]
    estimator = BlurEstimator(0)
    for seed in options.seeds:
        estimator.members.append(fit(examples, epochs=options.epochs, seed=seed))
    save_file({name: weight.half() for name, weight in estimator.state_dict().items()}, options.output)


if __name__ == "__main__":
    main()
