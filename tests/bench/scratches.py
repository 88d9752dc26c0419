"""Measure the finder of scratches on photographs that took no part in its training.

    python tests/bench/scratches.py found SOURCE... [--every N] [--drawn here|training] [--noise SIGMA]
    python tests/bench/scratches.py clean SOURCE... [--every N] [--noise SIGMA]
    python tests/bench/scratches.py filled SOURCE... [--every N] [--drawn here|training]
    python tests/bench/scratches.py rules SOURCE... [--every N] [--drawn here|training]

`found` draws damage onto the photographs, and prints the share of the damaged pixels that is found, the share of the
others that is marked, and how faint the damage is that is missed. `clean` prints the share that is marked of
photographs without damage. With `--noise`, white noise is added to both, and the damage is looked for as `auto` looks
under strong noise. `filled` prints the PSNR in the damaged pixels before and after
`inpaint(picture, "scratches")`. `rules` prints what other rules of `restorer.measurement.scratches` would find, and
what they would mark of the photographs without damage.

The damage is drawn by the code of this script, which shares nothing with the simulation of the training: scratches,
hairs and dust of 1 to 6 pixels as an editor draws them, hard or antialiased, white, black or gray, opaque or not. With
`--drawn training` it is that of the training, with its creases, soft flanks and faint strokes. Every third photograph
is gray, every fourth is a JPEG of quality 85, and every fifth has grain of 6 levels. The seed is the place in the list.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import restorer
from restorer.evaluation.metrics import psnr
from restorer.measurement.scratches import RULE, Rule, Scratches, followed, judged, log_odds
from restorer.models.load import load_prior, load_scratch_finder, load_stroke_judge
from restorer.tasks.finding_scratches import are_sure, scratches_under_noise
from restorer.tasks.scratches import features_of, scratches_of
from restorer.training.datasets import find_sources
from restorer.training.edits import as_stored, jpeg
from restorer.training.simulated_scratches import damage

FINE = 4  # subpixels a pixel of antialiased strokes
TOUCHED = 0.5  # coverage from which a pixel is damaged
LEAST_SIDE = 192  # pixels of a photograph; as in the training, whose every tenth photograph is held out
FAIRS, CERTAINS, AMONGS = (-1.0, -0.75, -0.5), (7.0, 8.0, 9.0), (-2.0, -1.0, 0.0)  # of the rules that are tried
FAINT = (8, 16, 32)  # levels
SEEN = 4.0  # levels by which a pixel must differ to count as damaged


class Sample(NamedTuple):
    """A photograph with damage.

    Args:
        true: The photograph, (3, H, W) on the 0..255 scale.
        damaged: The photograph with damage, whole numbers.
        core: The damaged pixels, bool (H, W).
        rim: Pixels that a stroke touches by less than half, which count neither way.
    """

    true: Tensor
    damaged: Tensor
    core: Tensor
    rim: Tensor


def bezier(rng: np.random.Generator, width: int, height: int, reach: float) -> list[tuple[float, float]]:
    """Return the points of a cubic curve through four points near a random place."""
    centre = rng.uniform(0, 1, 2) * (width, height)
    corners = centre + rng.normal(0, reach, (4, 2))
    t = np.linspace(0, 1, 40)[:, None]
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    return [tuple(p) for p in sum(w * c for w, c in zip(weights, corners, strict=True))]


def stroke(kind: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return the coverage of one object, (H, W) in 0..1."""
    height, width = size
    fine = FINE if rng.random() < 0.6 else 1
    image = Image.new("L", (width * fine, height * fine))
    pen, thick = ImageDraw.Draw(image), int(rng.integers(1, 7))
    if kind == "scratch":
        angle, reach = rng.uniform(0, math.pi), rng.uniform(0.1, 0.7) * math.hypot(width, height)
        x, y = rng.uniform(0, 1, 2) * (width, height)
        bow = rng.normal(0, 0.03) * reach
        across, along = np.array([-math.sin(angle), math.cos(angle)]), np.array([math.cos(angle), math.sin(angle)])
        points = [(x, y) + s * reach * along + bow * (1 - s * s) * across for s in np.linspace(-1, 1, 30)]
        pen.line([tuple(fine * p) for p in points], 255, thick * fine, joint="curve")
    elif kind == "hair":
        points = bezier(rng, width, height, rng.uniform(10, 60))
        pen.line([(fine * x, fine * y) for x, y in points], 255, min(thick, 3) * fine, joint="curve")
    else:
        for _ in range(int(rng.integers(5, 40))):
            x, y = rng.uniform(0, 1, 2) * (width, height) * fine
            a, b = 0.5 * fine * rng.uniform(1, 6, 2)
            pen.ellipse((x - a, y - b, x + a, y + b), 255)
    return np.asarray(image if fine == 1 else image.reduce(fine), dtype=np.float32) / 255


def drawn_here(x: Tensor, rng: np.random.Generator) -> Sample:
    """Draw scratches, hairs and dust onto a photograph (3, H, W)."""
    y, size = x, (x.shape[-2], x.shape[-1])
    core, touched = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    kinds = [*["scratch"] * int(rng.integers(2, 7)), *["hair"] * int(rng.integers(1, 5)), "dust"]
    for kind in kinds:
        cover = torch.from_numpy(stroke(kind, size, rng))
        level = rng.choice([255, 240, 220, 0, 20, 40, 128], p=[0.3, 0.15, 0.1, 0.2, 0.1, 0.1, 0.05])
        y = y + rng.uniform(0.5, 1.0) * cover * (float(level) - y)
        core, touched = core | (cover >= TOUCHED), touched | (cover > 0)
    return Sample(x, y, core, touched & ~core)


def drawn_in_training(x: Tensor, rng: np.random.Generator) -> Sample:
    """Draw damage as the training does."""
    found = damage(x, rng)
    return Sample(x, found.picture, found.core, found.rim)


DRAWERS = {"here": drawn_here, "training": drawn_in_training}


def photographs(options: argparse.Namespace) -> Iterator[tuple[str, Tensor]]:
    """Yield the photographs of the folders and shards with their names, which are their places in the list."""
    sources = find_sources(options.sources, LEAST_SIDE).sources
    for number, source in list(enumerate(sources))[options.first :: options.every][: options.count]:
        photo = torch.from_numpy(source.read()).permute(2, 0, 1).float()
        yield f"{source.path.name} {number}", photo if options.side is None else centre_crop(photo, options.side)


def centre_crop(x: Tensor, side: int) -> Tensor:
    """Return the middle of a picture (C, H, W), at most `side` pixels high and wide."""
    top, left = (max(0, (extent - side) // 2) for extent in x.shape[-2:])
    return x[:, top : top + side, left : left + side]


def sample(photo: Tensor, index: int, drawn: str) -> Sample:
    """Return the photograph of a place in the list with damage; pixels that do not change visibly are no damage."""
    rng = np.random.default_rng(index)
    x = photo.mean(0, keepdim=True).round().expand(3, -1, -1).clone() if index % 3 == 2 else photo
    if index % 5 == 4:
        grain = torch.from_numpy(rng.normal(size=x.shape[-2:])).float()
        x = as_stored(x + 6 * grain)
    made = DRAWERS[drawn](x, rng)
    seen = (made.damaged - x).abs().amax(0) >= SEEN
    y = as_stored(made.damaged)
    if index % 4 == 3:
        x, y = (jpeg(z, 85, subsampled=True) for z in (x, y))
    return Sample(x, y, made.core & seen, made.rim | (made.core & ~seen))


def looked_for(picture: Tensor, sigma: float, seed: int) -> Scratches:
    """Return what is found in a picture (3, H, W) on the 0..255 scale; under noise, only what `auto` is sure of."""
    if sigma == 0:
        return scratches_of(picture / 255)
    drawn = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    noisy = as_stored(picture + sigma * drawn) / 255
    restored = restorer.denoise(noisy, sigma, detail=0, prior=load_prior())
    marked = scratches_under_noise(noisy, restored)
    return marked if are_sure(marked) else replace(marked, fill=np.zeros_like(marked.fill), places=0)


def found(options: argparse.Namespace) -> None:
    """Print the share of the damage that is found, and the share of the other pixels that is marked."""
    rows, missed = [], []
    for index, (name, photo) in enumerate(photographs(options)):
        made = sample(photo, index, options.drawn)
        fill = torch.from_numpy(looked_for(made.damaged, options.noise, index).fill)
        others = ~made.core & ~made.rim
        right = int((fill & made.core).sum())
        missed.append((made.damaged - made.true).abs().amax(0)[made.core & ~fill])
        rows.append((right, int(made.core.sum()), float((fill & others).sum() / others.sum())))
        print(
            f"{name}: {100 * float(made.core.float().mean()):.2f} % damaged, {100 * right / max(rows[-1][1], 1):.1f} % "
            f"found, {100 * rows[-1][2]:.3f} % of the others marked",
            flush=True,
        )
    right, all_of, others = np.array(rows).T
    print(
        f"{len(rows)} photographs: {100 * right.sum() / all_of.sum():.1f} % of all damaged pixels found (mean of the "
        f"photographs {100 * np.mean(right / all_of):.1f} %, worst {100 * np.min(right / all_of):.1f} %); of the "
        f"others {100 * others.mean():.3f} % marked on average, at most {100 * others.max():.3f} %"
    )
    levels = torch.cat(missed)
    faint = ", ".join(f"{100 * float((levels < least).float().mean()):.0f} % by less than {least}" for least in FAINT)
    print(f"of what is missed, the damage changes the picture {faint} levels")


def clean(options: argparse.Namespace) -> None:
    """Print the share of undamaged photographs that is marked."""
    shares = []
    for index, (name, photo) in enumerate(photographs(options)):
        marked = looked_for(photo, options.noise, index)
        shares.append(marked.share)
        print(f"{name}: {100 * marked.share:.3f} % marked, {marked.places} places", flush=True)
    print(
        f"{len(shares)} photographs: {100 * np.mean(shares):.3f} % marked on average, at most "
        f"{100 * np.max(shares):.3f} %; more than .3 % in {sum(s > 0.003 for s in shares)}, none in "
        f"{sum(s == 0 for s in shares)}"
    )


def rules(options: argparse.Namespace) -> None:
    """Print what other rules would find, and what they would mark of undamaged photographs."""
    drawn, untouched = [], []
    for index, (_, photo) in enumerate(photographs(options)):
        made = sample(photo, index, options.drawn)
        drawn.append((odds_of(made.damaged / 255), made.core.numpy(), ~(made.core | made.rim).numpy()))
        untouched.append(odds_of(photo / 255))
    for fair, certain, among in product(FAIRS, CERTAINS, AMONGS):
        rule = Rule(fair, certain, among, RULE.evidence)
        marked = np.array([followed(odds, rule).share for odds in untouched])
        fills = [followed(odds, rule).fill for odds, _, _ in drawn]
        right = sum((fill & core).sum() for fill, (_, core, _) in zip(fills, drawn, strict=True))
        wrong = np.mean([fill[others].mean() for fill, (_, _, others) in zip(fills, drawn, strict=True)])
        print(
            f"{rule}: {100 * right / sum(core.sum() for _, core, _ in drawn):.1f} % found, {100 * wrong:.3f} % of the "
            f"others; clean {100 * marked.mean():.3f} %, at most {100 * marked.max():.2f} %, more than .3 % in "
            f"{(marked > 0.003).sum()} of {len(marked)}",
            flush=True,
        )


def odds_of(image: Tensor) -> np.ndarray:
    """Return the log odds of damage in a picture (3, H, W) on [0, 1], float32 (H, W)."""
    with torch.inference_mode():
        odds = log_odds(image, load_scratch_finder(), features_of(load_prior(device="cpu")))
        return judged(odds, load_stroke_judge()).numpy()


def filled(options: argparse.Namespace) -> None:
    """Print the PSNR in the damaged pixels before and after the filling."""
    gains, prior = [], restorer.load_prior("photo")
    for index, (name, photo) in enumerate(photographs(options)):
        made = sample(photo, index, options.drawn)
        result = restorer.inpaint(made.damaged / 255, "scratches", prior=prior)
        before, after = (
            psnr(z[:, made.core] / 255, made.true[:, made.core] / 255) for z in (made.damaged, result * 255)
        )
        whole = [psnr(z / 255, made.true / 255) for z in (made.damaged, result * 255)]
        gains.append((before, after, *whole))
        print(f"{name}: {before:.2f} -> {after:.2f} dB; whole picture {whole[0]:.2f} -> {whole[1]:.2f} dB", flush=True)
    a, b, c, d = np.array(gains).T
    print(
        f"{len(gains)} photographs: {a.mean():.2f} -> {b.mean():.2f} dB in the damage ({np.mean(b - a):+.2f}, least "
        f"{np.min(b - a):+.2f}); whole picture {c.mean():.2f} -> {d.mean():.2f} dB"
    )


COMMANDS = {"found": found, "clean": clean, "filled": filled, "rules": rules}


def main() -> None:
    """Run one of the commands of the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("sources", type=Path, nargs="+", help="folders, pictures and .tar shards")
    parser.add_argument("--every", type=int, default=1, help="take every N-th photograph")
    parser.add_argument("--first", type=int, default=0, help="begin with the N-th photograph, from 0")
    parser.add_argument("--count", type=int, help="take at most that many photographs")
    parser.add_argument("--side", type=int, help="take the middle of each photograph, at most that high and wide")
    parser.add_argument("--drawn", choices=DRAWERS, default="here")
    parser.add_argument("--noise", type=float, default=0.0, help="levels of white noise under which it is looked for")
    options = parser.parse_args()
    COMMANDS[options.command](options)


if __name__ == "__main__":
    main()
