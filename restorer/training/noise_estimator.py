"""Training of the network that tells noise from texture (`restorer.networks.noise_estimator`).

    python -m restorer.training.noise_estimator describe shard-*.tar -o described.pt
    python -m restorer.training.noise_estimator fit described.pt -o weights/noise/model.safetensors

The first command makes examples: crops of photographs with simulated noise, each described by its windows. It takes an
hour on two cores, and `--part 0/2` and `--part 1/2` share it among processes. The second fits the network in minutes.

The loss is the pinball loss of both quantiles of every log energy, over the examples with noise, plus the binary cross
entropy of whether there is any.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from restorer.measurement.camera_noise import residuals_of
from restorer.measurement.white_noise import white_estimates
from restorer.measurement.windows import band_energies, band_masks, describe, windows_of
from restorer.models.load import load_prior
from restorer.networks.noise_estimator import (
    FEATURES,
    MEMBERS,
    QUANTILES,
    SCALES,
    NoiseEstimator,
    SetNetwork,
    log_total,
)
from restorer.training.datasets import find_sources
from restorer.training.edits import from_pil
from restorer.training.simulated_noise import KINDS, Kind, Pair, simulate

__all__ = ["Example", "describe_pair", "examples_of", "fit", "shares_of_bands"]

LEAST_ENERGY = 0.05  # squared levels that are added to every energy before its logarithm
HAS_NOISE, HAS_NONE = 1.2, 0.5  # standard deviations in levels from and up to which an example has noise, and has none
TEACHES_STRENGTH = 0.7  # standard deviation from which an example teaches how strong noise is
MAX_WINDOWS = 256  # windows of an example that are kept, in each scale
SAVE_EVERY = 50  # photographs between two saves of the examples
LEAST_SIDE = 192  # pixels of a photograph; smaller ones are left out
VARIANTS: tuple[Kind, ...] = (
    *("none",) * 4,
    *("camera", "camera", "phone", "reduced", "reduced", "reduced", "grain", "grain"),
)


@dataclass(frozen=True)
class Example:
    """A picture whose noise is known.

    Args:
        photo: Number of the photograph.
        kind: The kind of noise.
        windows: The descriptions of its windows in each scale, float16 (N, FEATURES).
        white: Its estimates of white noise, (6,); see `white_estimates`.
        log_energies: Log energies of its noise, (18,).
        log_sigma: Log of the standard deviation of its noise in levels.
    """

    photo: int
    kind: str
    windows: list[Tensor]
    white: Tensor
    log_energies: Tensor
    log_sigma: float

    @property
    def target(self) -> Tensor:
        """What the network should return, (19,)."""
        return torch.cat([self.log_energies, torch.tensor([self.log_sigma])])


def shares_of_bands() -> Tensor:
    """Return the share of each band in all Fourier coefficients of a window, (6,)."""
    masks = band_masks()
    return masks.sum((1, 2)) / masks[0].numel()


def crop_of(photo: Image.Image, rng: random.Random) -> Tensor:
    """Return a random part of a photograph that was shrunk at random, (3, H, W) on the 0..255 scale."""
    shrunk = max(rng.choice([1.0, 1.0, 0.75, 0.6, 0.5]), min(1.0, 224 / min(photo.size)))
    if shrunk < 1:
        photo = photo.resize((round(photo.width * shrunk), round(photo.height * shrunk)), Image.Resampling.BICUBIC)
    side = rng.choice([192, 256, 256, 320, 384])
    width, height = min(side, photo.width), min(side, photo.height)
    left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
    x = from_pil(photo.crop((left, top, left + width, top + height)))
    return x.mean(0, keepdim=True).round().expand(3, -1, -1).clone() if rng.random() < 0.1 else x


def describe_pair(pair: Pair, kind: str, photo: int, rng: random.Random) -> Example:
    """Return a picture and its noise as an example."""
    windows = []
    for residual in residuals_of(pair.noisy / 255, load_prior()):
        described = describe(residual.pixels, residual.denoised)
        chosen = rng.sample(range(len(described)), min(len(described), MAX_WINDOWS))
        windows.append(described[chosen].half())
    energies = band_energies(windows_of(pair.noisy - pair.clean, 16)).mean(0).flatten()
    logs = (energies + LEAST_ENERGY).log()
    white = white_estimates(pair.noisy / 255)
    return Example(photo, kind, windows, white, logs, float(log_total(logs, shares_of_bands())))


def examples_of(photo: Image.Image, number: int) -> Iterator[Example]:
    """Yield the examples of one photograph: as it is, and with noise of several kinds."""
    rng = random.Random(number)
    others = [kind for kind in KINDS if kind not in VARIANTS]
    for kind in (*VARIANTS, *rng.sample(others, 2)):
        yield describe_pair(simulate(crop_of(photo, rng), kind, rng), kind, number, rng)


def collate(examples: Sequence[Example], rng: random.Random | None = None) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return the windows of examples, which of them exist, and the estimates of white noise, as `SetNetwork` takes.

    Args:
        examples: The examples of a batch.
        rng: Chooses some of the windows, so that the network learns with any number; None for all.
    """
    windows, present = [], []
    for scale in range(len(SCALES)):
        chosen = []
        for example in examples:
            described = example.windows[scale].float()
            if rng is not None:
                count = min(len(described), rng.randint(40, 160))
                count = 0 if scale > 0 and rng.random() < 0.1 else count
                described = described[rng.sample(range(len(described)), count)]
            chosen.append(described)
        longest = max(1, *map(len, chosen))
        batch = torch.zeros(len(chosen), longest, FEATURES)
        there = torch.zeros(len(chosen), longest, dtype=torch.bool)
        for i, described in enumerate(chosen):
            batch[i, : len(described)], there[i, : len(described)] = described, True
        windows.append(batch)
        present.append(there)
    return windows, present, torch.stack([example.white for example in examples])


def normalize(network: SetNetwork, examples: Sequence[Example]) -> None:
    """Set the means and spreads by which the network normalizes what it sees and returns."""
    network.shares.copy_(shares_of_bands())
    for scale in range(len(SCALES)):
        described = torch.cat([example.windows[scale].float() for example in examples[::5]])
        network.mean[scale], network.std[scale] = described.mean(0), described.std(0) + 0.05
    quantiles = torch.cat([network.quantiles_of(*(part[0] for part in collate([example])[:2])) for example in examples])
    network.quantile_mean.copy_(quantiles.flatten(1).mean(0))
    network.quantile_std.copy_(quantiles.flatten(1).std(0) + 0.05)
    white = network.log_white(torch.stack([example.white for example in examples]))
    network.white_mean.copy_(white.mean(0))
    network.white_std.copy_(white.std(0) + 0.05)
    noisy = torch.tensor([example.log_sigma for example in examples]).exp() > TEACHES_STRENGTH
    errors = torch.stack([example.target for example in examples]) - network.base_of(quantiles)
    network.offset.copy_(errors[noisy].mean(0))
    network.spread.copy_(errors[noisy].std(0))


def fit(examples: Sequence[Example], *, members: int = MEMBERS, epochs: int = 30) -> NoiseEstimator:
    """Return an estimator that was trained on examples.

    Args:
        examples: The examples.
        members: Number of its networks.
        epochs: As in `fit_one`.
    """
    estimator = NoiseEstimator(0)
    estimator.members.extend(fit_one(examples, epochs=epochs, seed=seed) for seed in range(members))
    return estimator.eval()


def fit_one(
    examples: Sequence[Example], *, epochs: int = 30, batch: int = 32, rate: float = 2e-3, seed: int = 0
) -> SetNetwork:
    """Return one network that was trained on examples.

    Args:
        examples: The examples.
        epochs: Number of passes over them.
        batch: Number of examples in a batch.
        rate: The highest learning rate of AdamW.
        seed: Seed of the weights, and of the order of the examples.
    """
    torch.manual_seed(seed)
    rng, network = random.Random(seed), SetNetwork()
    normalize(network, examples)
    steps = len(examples) // batch
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    order = list(examples)
    for epoch in range(epochs):
        rng.shuffle(order)
        network.train()
        losses = []
        for i in range(steps):
            loss = loss_of(network, order[i * batch : (i + 1) * batch], rng)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}: loss {sum(losses) / steps:.4f}", flush=True)
    return network.eval()


def loss_of(network: SetNetwork, examples: Sequence[Example], rng: random.Random | None) -> Tensor:
    """Return the loss of the module docstring over a batch. The strength as a whole counts as much as six energies."""
    estimate = network(*collate(examples, rng))
    found = torch.cat([estimate.log_energies.flatten(2), estimate.log_sigma[..., None]], -1)
    error = (torch.stack([example.target for example in examples])[:, None] - found) / network.spread
    levels = torch.tensor(QUANTILES).view(1, -1, 1)
    weights = torch.ones(error.shape[-1])
    weights[-1] = 6
    pinball = (torch.maximum(levels * error, (levels - 1) * error) * weights).mean((1, 2))
    sigma = torch.tensor([example.log_sigma for example in examples]).exp()
    teaches = (sigma > TEACHES_STRENGTH).float()
    decided = ((sigma > HAS_NOISE) | (sigma < HAS_NONE)).float()
    entropy = F.binary_cross_entropy_with_logits(estimate.logit, (sigma > HAS_NOISE).float(), reduction="none")
    return (pinball * teaches).sum() / teaches.sum().clamp(min=1) + 0.5 * (entropy * decided).mean()


def main() -> None:
    """Run one of the commands of the module docstring."""
    parser = argparse.ArgumentParser(description="Train the network that tells noise from texture.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("describe", help="make examples of the photographs in tar files")
    making.add_argument("shards", type=Path, nargs="+")
    making.add_argument("--part", default="0/1", help="which share of the photographs, such as 0/2")
    making.add_argument("--leave-out", type=int, nargs="*", default=(), help="photographs that are noisy themselves")
    making.add_argument("-o", "--output", type=Path, required=True)
    fitting = commands.add_parser("fit", help="fit the network to examples")
    fitting.add_argument("described", type=Path, nargs="+")
    fitting.add_argument("--hold-out", type=int, default=0, help="leave out every Nth photograph")
    fitting.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "describe":
        part, parts = map(int, options.part.split("/"))
        examples: list[Example] = []
        with torch.inference_mode():
            for number, source in enumerate(find_sources(options.shards, LEAST_SIDE).sources):
                if number % parts == part and number not in options.leave_out:
                    examples += examples_of(Image.fromarray(source.read()), number)
                    print(f"photograph {number}: {len(examples)} examples", flush=True)
                    if number // parts % SAVE_EVERY == 0:
                        torch.save([vars(example) for example in examples], options.output)
        torch.save([vars(example) for example in examples], options.output)
        return
    examples = [Example(**fields) for path in options.described for fields in torch.load(path, weights_only=True)]
    if options.hold_out:
        examples = [example for example in examples if example.photo % options.hold_out]
    network = fit(examples)
    save_file({name: weight.half() for name, weight in network.state_dict().items()}, options.output)


if __name__ == "__main__":
    main()
