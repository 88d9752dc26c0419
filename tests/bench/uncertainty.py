"""Calibrate the uncertainty of the embedded model, and measure how well it is calibrated.

python tests/bench/uncertainty.py measure FOLDER --half 0 --out a.pickle      # restore every other picture
python tests/bench/uncertainty.py measure FOLDER --half 1 --out b.pickle      # and the others
python tests/bench/uncertainty.py pairs FOLDER --half 1 --out c.pickle        # NAME_noisy.png beside NAME_clean.png
python tests/bench/uncertainty.py constants a.pickle --out calibration.json   # the constants that pictures give
python tests/bench/uncertainty.py table b.pickle c.pickle                     # what they are worth on other pictures
python tests/bench/uncertainty.py ceiling FOLDER --half 1 --every 4           # how well any map can tell errors

`restore evaluate --calibrate` does the first, the second and the fourth at once. The parts can run side by side here,
and `--kinds denoise camera` and `--every 2` make them smaller.

The table gives the share of the values within their intervals, that of each quarter of the local variance of the
results, the rank correlation (Spearman) of the map with the squared error, both as means over 9x9 pixels, as the mean
over the pictures and over all pixels together, and the mean half width over that of other maps of the same coverage: a
constant one, the size of the residual, and one that knows the mean squared error around each pixel, which no map can.
The last two columns say what such knowledge is worth: the width of that map over the constant one, and that of a map
with the same knowledge that is as narrow as can be, because it leaves more values outside where errors are large.

The ceiling is the rank correlation of the squared error with its mean over DRAWS other draws of white noise on the same
picture. It is that of a map that knows the picture, and not the noise.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from restorer.diffusion.calibration import Calibration, half_width
from restorer.diffusion.uncertainty import local_mean
from restorer.evaluation.bound import centre_crop
from restorer.evaluation.calibration import Measured, Trial, coverage, find_constants, measure, trials
from restorer.models.calibration import parse, to_json
from restorer.models.load import calibration_of, load_prior
from restorer.tasks.denoise import prepare_denoise
from restorer.training.simulated_noise import Kind, simulate

CAMERAS: tuple[Kind, ...] = ("camera", "phone", "grain")
CHECKED = ("grain noise",)  # which only tests
PAIR_SIDE = 160
DRAWS = 8
LEAST = 1 / 12  # squared levels: the rounding to 8 bits


def load(path: Path) -> Tensor:
    """Return a picture as (3, H, W) in [0, 1]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def add_noise(x: Tensor, seed: int, kind: Kind) -> tuple[Tensor, Tensor]:
    """Return a picture in [0, 1] with simulated noise, and without."""
    pair = simulate(x * 255, kind, random.Random(f"{kind} {seed}"))
    return pair.noisy / 255, pair.clean / 255


def restore_all(options: argparse.Namespace) -> None:
    """Restore the pictures of a half, and write what was measured."""
    found = trials(load_prior(), {kind: partial(add_noise, kind=kind) for kind in CAMERAS})
    paths = sorted(options.inputs[0].glob("*.png"))
    measured: list[Measured] = []
    for trial in (t for t in found if not options.kinds or t.kind in options.kinds):
        for number in list(range(options.half, len(paths), 2))[:: options.every]:
            m = measure(trial, centre_crop(load(paths[number]), trial.side), number)
            measured += [] if m is None else [m]
        print(f"{trial.name}: {sum(m.name == trial.name for m in measured)} pictures", flush=True)
        options.out.write_bytes(pickle.dumps(measured))


def restore_pairs(options: argparse.Namespace) -> None:
    """Restore photographs whose noise is real, and write what was measured."""
    prior, measured = load_prior(), list[Measured]()
    for noisy in sorted(options.inputs[0].glob("*_noisy.png")):
        truth = centre_crop(load(noisy.with_name(noisy.name.replace("_noisy", "_clean"))), PAIR_SIDE)
        taken = centre_crop(load(noisy), PAIR_SIDE)
        job = prepare_denoise(taken, noise="camera", prior=prior)
        name = f"photographs of {options.inputs[0].name}"
        m = measure(Trial("camera", name, lambda x, seed, job=job, truth=truth: (job, truth)), truth, 0)
        measured += [] if m is None else [m]
    measured = measured[options.half :: 2]
    options.out.write_bytes(pickle.dumps(measured))
    print(f"{len(measured)} pictures")


def read(options: argparse.Namespace) -> list[Measured]:
    """Return what was measured."""
    return [m for path in options.inputs for m in pickle.loads(path.read_bytes())]  # our own files


def write_constants(options: argparse.Namespace) -> None:
    """Write the constants that restorations give."""
    found = Calibration(find_constants([m for m in read(options) if m.name not in CHECKED]), options.data, options.date)
    options.out.write_text(to_json(found), encoding="utf-8")


def smooth(x: Tensor, m: Measured) -> Tensor:
    """Return the 9x9 mean of a map over the unknown pixels, at those pixels."""
    return local_mean(x.float(), m.unknown.float())[m.unknown]


def narrowest(error: Tensor, scale: Tensor, share: float) -> float:
    """Return the least mean half width at a coverage of maps that know the deviations of Gaussian errors.

    Where the mean width is least, the density of the errors at the ends of the intervals is the same everywhere,
    exp(-h^2 / (2 s^2)) / s = 1 / k, so that h = s sqrt(2 log(k / s)), and 0 where s exceeds k.
    """
    low, high = float(scale.min()), 1e3 * float(scale.max())
    for _ in range(50):
        k = (low * high) ** 0.5
        half = scale * (2 * (k / scale).log().clamp(min=0)).sqrt()
        low, high = (low, k) if float((error <= half).double().mean()) >= share else (k, high)
    return float(half.mean())


def widths_over_others(members: list[Measured], half: Tensor, share: float) -> list[float]:
    """Return the mean half width over that of a constant map, of the residual's size, and of the mean squared error.

    Two more values are what the knowledge of that error is worth: the width of its map, and of the narrowest map that
    has it, over that of the constant map.
    """
    error = torch.cat([m.error[:, m.unknown].abs() for m in members], 1)
    has_residual = all(m.residual is not None for m in members)
    residual = [smooth(m.residual, m) for m in members if m.residual is not None]
    others = [torch.ones_like(half), torch.cat(residual) if has_residual else None]
    others.append(torch.cat([smooth(m.error.square().mean(0), m) for m in members]))
    widths = []
    for other in others:
        if other is None:
            widths.append(float("nan"))
            continue
        scale = other.clamp(min=LEAST).sqrt()
        factor = float(np.quantile((error / scale).numpy(), share))
        widths.append(factor * float(scale.mean()))
    least = narrowest(error, scale, share)
    return [*(float(half.mean()) / width for width in widths), widths[2] / widths[0], least / widths[0]]


def print_table(options: argparse.Namespace) -> None:
    """Print what the constants are worth."""
    measured, calibration = read(options), calibration_of(load_prior())
    if options.constants is not None:
        calibration = parse(json.loads(options.constants.read_text(encoding="utf-8")))
    assert calibration is not None, "the model has no constants"
    print(
        "| degradation | pictures | within | by quarter of local variance | mean half width | rank correlation | "
        "over all pixels | width over constant | over residual | over the best | the best over constant | narrowest |"
    )
    print(12 * "|---" + "|")
    for row in coverage(measured, calibration.at):
        members = [m for m in measured if m.name == row.name]
        halves = [half_width(calibration.at(m.kind, m.strength), m.deviation, m.variance, m.hint) for m in members]
        errors = [smooth(m.error.square().mean(0), m).numpy() for m in members]
        maps = [smooth(h, m).numpy() for h, m in zip(halves, members, strict=True)]
        ranks = [spearmanr(a, b).statistic for a, b in zip(maps, errors, strict=True)]
        pooled = spearmanr(np.concatenate(maps), np.concatenate(errors)).statistic
        half = torch.cat([h[m.unknown] for h, m in zip(halves, members, strict=True)])
        over = widths_over_others(members, half, row.whole)
        quarters = " ".join(f"{100 * q:.1f}" for q in row.quarters)
        ratios = " | ".join("-" if np.isnan(r) else f"{r:.2f}" for r in over)
        print(
            f"| {row.name} | {row.pictures} | {100 * row.whole:.1f} % | {quarters} | {row.width:.1f} | "
            f"{np.nanmean(ranks):.2f} | {pooled:.2f} | {ratios} |",
            flush=True,
        )


def print_ceiling(options: argparse.Namespace) -> None:
    """Print the rank correlation of a map that knows the errors under other draws of white noise, and that of ours."""
    prior, paths = load_prior(), sorted(options.inputs[0].glob("*.png"))
    calibration = calibration_of(prior)
    assert calibration is not None, "the model has no constants"
    for trial in (t for t in trials(prior) if t.name in (options.kinds or ["white noise 25", "white noise 50"])):
        found, ours = list[float](), list[float]()
        for number in list(range(options.half, len(paths), 2))[:: options.every]:
            picture = centre_crop(load(paths[number]), trial.side)
            drawn = [measure(trial, picture, number + 1000 * draw) for draw in range(1 + DRAWS)]
            first, *others = [m for m in drawn if m is not None]
            error, *rest = [smooth(m.error.square().mean(0), m) for m in (first, *others)]
            constants = calibration.at(first.kind, first.strength)
            half = half_width(constants, first.deviation, first.variance, first.hint)
            found.append(spearmanr(torch.stack(rest).mean(0), error).statistic)
            ours.append(spearmanr(smooth(half, first), error).statistic)
        print(
            f"{trial.name}: {np.mean(found):.2f}, and {np.mean(ours):.2f} by our map ({len(found)} pictures)",
            flush=True,
        )


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "measure": restore_all,
    "pairs": restore_pairs,
    "constants": write_constants,
    "table": print_table,
    "ceiling": print_ceiling,
}


def main() -> None:
    """Run one of the commands of the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--half", type=int, choices=(0, 1), default=0)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--constants", type=Path)
    parser.add_argument("--data", default="")
    parser.add_argument("--date", default="")
    options = parser.parse_args()
    COMMANDS[options.command](options)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
