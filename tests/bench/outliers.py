"""Measure how outliers are found and filled, and that what only looks like them is left alone.

python tests/bench/outliers.py found PICTURE_OR_FOLDER...    # the share of made outliers that is found, by kind
python tests/bench/outliers.py gain PICTURE_OR_FOLDER...     # PSNR before and after, beside a median of 3x3 pixels
python tests/bench/outliers.py clean PICTURE_OR_FOLDER...    # the false alarms on pictures as they are, SHARD.tar too
python tests/bench/outliers.py drawn                         # the false alarms on drawn stars, dots, text and others
python tests/bench/outliers.py cost PICTURE                  # seconds of finding over those of one evaluation

`--every 8` takes every eighth picture, and `--side 256` its middle square of that size.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))

from outlier_pictures import DRAWN, Made, demosaiced, hot_pixels, impulses, noisy, salt_and_pepper

from restorer import denoise
from restorer.evaluation.metrics import psnr
from restorer.measurement.outliers import find_outliers
from restorer.models.load import load_prior
from restorer.training.datasets import find_sources

KINDS: dict[str, Callable[[Tensor, int], Made]] = {
    "salt and pepper .05 %": lambda x, seed: salt_and_pepper(x, 0.0005, seed=seed),
    "salt and pepper .5 %": lambda x, seed: salt_and_pepper(x, 0.005, seed=seed),
    "salt and pepper 5 %": lambda x, seed: salt_and_pepper(x, 0.05, seed=seed),
    "salt and pepper 30 %": lambda x, seed: salt_and_pepper(x, 0.3, seed=seed),
    "salt and pepper 10 % in each channel": lambda x, seed: salt_and_pepper(x, 0.1, each=True, seed=seed),
    "salt and pepper 10 %, noise of 25": lambda x, seed: salt_and_pepper(noisy(x, 25, seed), 0.1, seed=seed),
    "salt .2 %": lambda x, seed: salt_and_pepper(x, 0.002, salt=1.0, seed=seed),
    "impulses .1 %": lambda x, seed: impulses(x, 0.001, seed=seed),
    "impulses 2 %": lambda x, seed: impulses(x, 0.02, seed=seed),
    "impulses 10 %": lambda x, seed: impulses(x, 0.1, seed=seed),
    "hot pixels .05 %": lambda x, seed: hot_pixels(x, 0.0005, seed=seed),
    "hot pixels .2 %": lambda x, seed: hot_pixels(x, 0.002, seed=seed),
    "hot pixels .2 %, noise of 6": lambda x, seed: hot_pixels(noisy(x, 6, seed), 0.002, seed=seed),
    "hot pixels .1 %, demosaiced": lambda x, seed: demosaiced(x, 0.001, seed=seed),
}


def pictures(options: argparse.Namespace) -> Iterator[tuple[str, Tensor]]:
    """Yield pictures (3, H, W) on the 0..255 scale, with their names."""
    for source in find_sources(options.inputs, 32).sources[:: options.every]:
        x = torch.from_numpy(source.read()).permute(2, 0, 1).float()
        height, width = (min(side, options.side or side) for side in x.shape[1:])
        top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
        yield f"{source.path.name} at {source.offset}", x[:, top : top + height, left : left + width]


def found(options: argparse.Namespace) -> None:
    """Print what share of made outliers is found, and how many others are taken for some."""
    print("kind: pictures in which any are found, share of the values found, share of the found pixels that are false")
    for kind in options.kinds:
        hits, truths, false, pixels, with_any, count = 0, 0, 0, 0, 0, 0
        for seed, (_, x) in enumerate(pictures(options)):
            picture, truth = KINDS[kind](x, seed)
            outliers = find_outliers(picture / 255)
            hits += int((outliers.values & truth).sum())
            truths += int(truth.sum())
            false += int((outliers.pixels & ~truth.any(0)).sum())
            pixels += outliers.count
            with_any += outliers.kind != "none"
            count += 1
        print(f"{kind}: {with_any}/{count}, {hits / truths:.1%}, {false / max(pixels, 1):.1%}", flush=True)


def _median(x: Tensor) -> Tensor:
    """Return the median of 3x3 pixels, in each channel of (C, H, W)."""
    padded = F.pad(x[None], (1,) * 4, mode="reflect")[0]
    return padded.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3).median(-1).values


def gain(options: argparse.Namespace) -> None:
    """Print the PSNR of pictures with outliers, of their median, and of their restoration at the defaults."""
    prior = load_prior()
    print("kind: PSNR of the input, of the median, with --outliers off, at the defaults")
    for kind in options.kinds:
        rows = []
        for seed, (_, x) in enumerate(pictures(options)):
            picture = KINDS[kind](x, seed)[0] / 255
            results = [picture, _median(picture), denoise(picture, outliers="off", prior=prior)]
            results.append(denoise(picture, prior=prior))
            rows.append([psnr((255 * r).round() / 255, x / 255) for r in results])
        print(f"{kind}: " + " ".join(f"{value:.2f}" for value in np.mean(rows, 0)), flush=True)


def clean(options: argparse.Namespace) -> None:
    """Print the pictures in which outliers are found although none were made."""
    count = alarms = 0
    for name, x in pictures(options):
        outliers = find_outliers(x / 255)
        count += 1
        if outliers.kind != "none":
            alarms += 1
            print(f"{name}: {outliers.describe()}, sureness {outliers.sureness:.2f}", flush=True)
    print(f"{alarms} false alarms in {count} pictures")


def drawn(options: argparse.Namespace) -> None:
    """Print the drawn pictures in which outliers are found."""
    found = {name: find_outliers(make() / 255) for name, make in DRAWN.items()}
    for name, outliers in found.items():
        if outliers.kind != "none":
            print(f"{name}: {outliers.describe()}")
    print(f"{sum(o.kind != 'none' for o in found.values())} false alarms in {len(found)} pictures")


def cost(options: argparse.Namespace) -> None:
    """Print how long it takes to find outliers, over the time of one evaluation of the network."""
    prior = load_prior()
    with Image.open(options.inputs[0]) as image:
        x = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1) / 255
    damaged = hot_pixels((255 * x), 0.001)[0] / 255
    with torch.inference_mode():
        runs = {
            "clean": lambda: find_outliers(x),
            "hot pixels": lambda: find_outliers(damaged),
            "evaluation": lambda: prior.denoise(x[None] * 2 - 1, 0.1),
        }
        for run in runs.values():
            run()
        best = {name: min(_seconds(run) for _ in range(options.rounds)) for name, run in runs.items()}
    for name in ("clean", "hot pixels"):
        print(f"{name}: {best[name] / best['evaluation']:.2f} of an evaluation")


def _seconds(run: Callable[[], object]) -> float:
    """Return how long a function takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Run the measurement that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["found", "gain", "clean", "drawn", "cost"])
    parser.add_argument("inputs", nargs="*", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--side", type=int, default=0, help="of the middle square; 0 for whole pictures")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    {"found": found, "gain": gain, "clean": clean, "drawn": drawn, "cost": cost}[options.what](options)


if __name__ == "__main__":
    main()
