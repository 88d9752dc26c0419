"""Measure how well blurs are found that the program is not told, and what undoing them brings.

python tests/bench/blind_deblur.py estimate FOLDER --every 4
python tests/bench/blind_deblur.py restore FOLDER --every 8
python tests/bench/blind_deblur.py left DATA --every 6

`estimate` blurs each picture by Gaussians (0.5 to 4 pixels, every other one longer along an angle), disks (1 to 8) and
lines (3 to 30, at any angle), adds white noise of 0 to 10 levels and stores every other picture as a JPEG file of
quality 60 to 100. It does the same without a blur, and with blurs of other kinds. `restore` undoes the three blurs of
`tests/bench/deblur.py` without being told, and compares the gain with that of the given kernel. `left` counts the
pictures without a blur that the program copies bit for bit, and names the others. DATA holds the folders CBSD68, Set5
and CC15; noise has 5 to 50 levels, and thumbnails are half as large and stored as JPEG files of quality 50 to 80.
"""

from __future__ import annotations

import argparse
import io
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from deblur import KERNELS, best_wiener, blurred
from PIL import Image, ImageFilter
from torch import Tensor

from restorer.diffusion.degradations.kernels import as_kernel, defocus_kernel, gaussian_kernel, motion_kernel
from restorer.evaluation.metrics import psnr
from restorer.measurement.blur import Blur, estimate_blur
from restorer.models.load import load_blur_estimator, load_prior
from restorer.priors.unet_prior import UNetPrior
from restorer.tasks.blind_deblur import find_blur, prepare_blind_deblur
from restorer.tasks.deblur import prepare_deblur

KINDS = ("sharp", "gaussian", "defocus", "motion", "other")


def pictures(folder: Path, every: int, first: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and the pixels, (3, H, W) in [0, 1], of every Nth picture from one on."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".bmp"))
    for path in paths[first::every]:
        with Image.open(path) as image:
            yield path.name, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def draw(kind: str, rng: random.Random) -> tuple[Tensor, Blur | None]:
    """Return a kernel of a kind whose sizes are drawn by their logarithms, and the blur that should be found."""

    def between(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    angle = rng.uniform(0, 180)
    if kind == "gaussian":
        size = between(0.5, 4)
        across = size if rng.random() < 0.5 else max(size / rng.uniform(1.3, 3), 0.3)
        return gaussian_kernel(size, across, angle), Blur("gaussian", size, across, angle)
    if kind == "defocus":
        radius = between(1, 8)
        return defocus_kernel(radius), Blur("defocus", radius)
    if kind == "motion":
        length = between(3, 30)
        return motion_kernel(length, angle), Blur("motion", length, 0, angle)
    if kind == "other":  # two exposures, or a path with a corner
        half = rng.randint(4, 10)
        kernel = torch.zeros(2 * half + 1, 2 * half + 1)
        if rng.random() < 0.5:
            kernel[half, half], kernel[rng.randrange(2 * half), -1] = 1, rng.uniform(0.4, 1)
        else:
            kernel[half, half:] = 1
            kernel[half : half + rng.randint(3, half), -1] = rng.uniform(0.7, 2)
        return as_kernel(kernel), Blur("other", 0)
    return torch.ones(1, 1), None


def stored(y: Tensor, rng: random.Random) -> Tensor:
    """Return a picture as a file holds it: in 8 bits, every other one compressed."""
    pixels = (y * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    if rng.random() < 0.5:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=rng.randint(60, 100))
        pixels = np.array(Image.open(file))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def estimate(folder: Path, every: int, draws: int, verbose: bool, spectrum_alone: bool) -> None:
    """Print how many blurs of each kind are found, and how far their sizes and angles are off."""
    found: dict[str, list[str]] = defaultdict(list)
    errors: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number, (name, true) in enumerate(pictures(folder, every)):
        rng = random.Random(number)
        for kind in KINDS * draws:
            kernel, expected = draw(kind, rng)
            y, _ = blurred(true, kernel, rng.choice([0.0, rng.uniform(0, 10)]))
            picture = stored(y, rng)
            blur = estimate_blur(picture, load_blur_estimator()) if spectrum_alone else find_blur(picture)
            if verbose:
                print(f"{name}: {expected or 'sharp'} -> {blur or 'sharp'}", flush=True)
            found[kind].append("sharp" if blur is None else blur.kind)
            if blur is not None and expected is not None and blur.kind == kind != "other":
                turn = abs((blur.angle - expected.angle + 90) % 180 - 90)
                errors[kind].append((blur.width / expected.width, turn))
    print("true kind: found as " + ", ".join(KINDS) + "; size over the true one at 5, 50, 95 %; angle off, 90 %")
    for kind in KINDS:
        counts = " ".join(f"{found[kind].count(other):4d}" for other in KINDS)
        ratios, turns = zip(*errors[kind], strict=True) if errors[kind] else ((), ())
        sizes = ", ".join(f"{v:.2f}" for v in np.quantile(ratios, [0.05, 0.5, 0.95])) if ratios else "-"
        angle = f"{np.quantile(turns, 0.9):.0f}" if kind == "motion" and turns else "-"
        print(f"{kind:9} {counts}; {sizes}; {angle}")


def restore(folder: Path, every: int, sigma: float, side: int | None, kernels: Sequence[str]) -> None:
    """Print what undoing a blur brings that is found, beside one that is given, for each of the kernels."""
    prior = load_prior()
    print("kernel, picture: blur found; gain over the input when found, when given; Wiener; share of the gain")
    for name in kernels:
        kernel = KERNELS[name]
        shares, over_wiener, worst = [], [], math.inf
        for picture, pixels in pictures(folder, every):
            y, true = blurred(pixels, kernel, sigma)
            blur = find_blur(y)  # in the whole picture, whatever is restored of it
            y, true = _middle(y, side), _middle(true, side)
            found = None if blur is None or blur.kind == "other" else blur.kernel()
            before, given = psnr(y, true), _gain(y, true, kernel, prior)
            after = 0.0 if found is None else _gain(y, true, found, prior)
            wiener = best_wiener(y, true, kernel) - before
            shares.append(after / given)
            over_wiener.append((after - wiener) / (given - wiener))
            worst = min(worst, after)
            told = f"{after:+.2f}, {given:+.2f}, {wiener:+.2f}; {shares[-1]:.2f}, over Wiener {over_wiener[-1]:.2f}"
            print(f"{name}, {picture}: {blur}; {told}", flush=True)
        enough, more = (sum(share >= 0.6 for share in one) for one in (shares, over_wiener))
        print(f"{name}: {enough} of {len(shares)} with 60 % of the gain over the input, {more} of that over Wiener; "
              f"worst {worst:+.2f} dB", flush=True)  # fmt: skip


def left(data: Path, every: int, side: int) -> None:
    """Print how many pictures without a blur are copied bit for bit, and what is found in those that are not."""
    prior = load_prior()
    print("pictures: copied bit for bit, of")
    for label, sources in unblurred(data, every, side).items():
        count, others = 0, list[str]()
        for name, picture in sources:
            job = prepare_blind_deblur(picture, detail=0, prior=prior).measured()
            count += 1
            if not (job.is_copy and torch.equal(job.run().image, picture)):
                others.append(f"{name}: {job.blur}")
        print(f"{label}: {count - len(others)}, {count}" + "".join(f"\n  {other}" for other in others), flush=True)


def unblurred(data: Path, every: int, side: int) -> dict[str, Iterator[tuple[str, Tensor]]]:
    """Return names and pictures (3, H, W) in [0, 1] without a blur, by what they are."""
    bsd, camera = data / "CBSD68", data / "CC15"
    return {
        "CBSD68": pictures(bsd, every, 3 % every),
        "CBSD68, noisy": (
            (name, noisy(x, (5, 15, 25, 50)[i % 4])) for i, (name, x) in enumerate(pictures(bsd, every, 5 % every))
        ),
        "CBSD68, sharpened": ((name, sharpened(x)) for name, x in pictures(bsd, every, 2 % every)),
        "Set5": pictures(data / "Set5", 1),
        "CC15, clean": ((name, _middle(x, side)) for name, x in pictures(camera, 1) if "clean" in name),
        "CC15, noisy": ((name, _middle(x, side)) for name, x in pictures(camera, 1) if "noisy" in name),
        "CBSD68, thumbnails": (
            (f"{name}, quality {quality}", thumbnail(x, quality))
            for i, (name, x) in enumerate(pictures(bsd, every, 1 % every))
            for quality in ((50, 80), (60, 70))[i % 2]
        ),
    }


def noisy(x: Tensor, sigma: float) -> Tensor:
    """Return a picture with white noise, in 8 bits."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x * 255 + sigma * noise).round().clamp(0, 255) / 255


def sharpened(x: Tensor) -> Tensor:
    """Return a picture after an unsharp mask of radius 1 and 80 percent, in 8 bits."""
    image = Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy())
    edited = image.filter(ImageFilter.UnsharpMask(1, 80, 0))
    return torch.from_numpy(np.array(edited)).permute(2, 0, 1) / 255


def thumbnail(x: Tensor, quality: int) -> Tensor:
    """Return a picture of half the size after JPEG compression."""
    image = Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy())
    file = io.BytesIO()
    image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255


def _middle(x: Tensor, side: int | None) -> Tensor:
    """Return a square from the middle of a picture (C, H, W); all of it without a side."""
    top, left = (0, 0) if side is None else ((x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2)
    return x if side is None else x[:, top : top + side, left : left + side]


def _gain(y: Tensor, true: Tensor, kernel: Tensor, prior: UNetPrior) -> float:
    """Return by how much deblurring with a kernel raises the PSNR."""
    result = prepare_deblur(y, kernel, detail=0, prior=prior).run().image
    return psnr((result * 255).round() / 255, true) - psnr(y, true)


def main() -> None:
    """Run one of the commands of the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("command", choices=("estimate", "restore", "left"))
    parser.add_argument("input", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--draws", type=int, default=2, help="pictures of each kind that are made of one")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--spectrum-alone", action="store_true", help="without trials of the kernels by the prior")
    parser.add_argument("--sigma", type=float, default=2.55)
    parser.add_argument(
        "--side", type=int, help="side of the middle that is restored and measured; default: the whole, and 256 of CC15"
    )
    parser.add_argument("--kernel", choices=KERNELS, nargs="+", default=list(KERNELS))
    options = parser.parse_args()
    if options.command == "estimate":
        estimate(options.input, options.every, options.draws, options.verbose, options.spectrum_alone)
    elif options.command == "left":
        left(options.input, options.every, options.side or 256)
    else:
        restore(options.input, options.every, options.sigma, options.side, options.kernel)


if __name__ == "__main__":
    main()
