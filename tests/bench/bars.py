"""Measure how much texture inpaint puts into bars, relative to what surrounds them.

    python tests/bench/bars.py PICTURE@X,Y ... [--widths 8 12 ...] [--noise SD] [--candidates N]

Each picture is a square of 192 pixels whose upper left corner is (X, Y). A bar of 128 pixels lies across its middle.
The texture is the energy of the bar beyond half the Nyquist frequency, divided by the mean of that of two bars of the
same size in the picture, above and below.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import restorer
from restorer.evaluation.metrics import high_energy, psnr

SIDE, LENGTH, GAP = 192, 128, 4


def read(spec: str, noise: float) -> torch.Tensor:
    """Read the square of a picture named `PATH@X,Y`, with white noise of a standard deviation in levels."""
    path, _, corner = spec.rpartition("@")
    left, top = map(int, corner.split(","))
    image = Image.open(path).convert("RGB").crop((left, top, left + SIDE, top + SIDE))
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return ((x + noise / 255 * drawn).clamp(0, 1) * 255).round() / 255


def main() -> None:
    """Print the texture and the PSNR of every picture and width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", metavar="PICTURE@X,Y")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 12, 16, 24, 40])
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--candidates", type=int, default=None)
    parser.add_argument("--save", type=Path, default=None, help="folder for the filled squares")
    options = parser.parse_args()
    prior = restorer.load_prior("photo")
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
    extra = {} if options.candidates is None else {"candidates": options.candidates}
    columns = slice((SIDE - LENGTH) // 2, (SIDE + LENGTH) // 2)
    for spec in options.pictures:
        x, told = read(spec, options.noise), []
        for width in options.widths:
            top = (SIDE - width) // 2
            hole = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            hole[top : top + width, columns] = True
            filled = restorer.inpaint(torch.where(hole, 1.0, x), hole, prior=prior, **extra)
            inside = (slice(None), slice(top, top + width), columns)
            around = [
                high_energy(x[:, first : first + width, columns]) for first in (top - GAP - width, top + width + GAP)
            ]
            told.append(
                f"{width}: {100 * high_energy(filled[inside]) / np.mean(around):.0f} % "
                f"({psnr(filled[inside], x[inside]):.1f} dB)"
            )
            if options.save is not None:
                both = torch.cat([torch.where(hole, 1.0, x), filled, x], 2)
                pixels = (both.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(options.save / f"{Path(spec).stem}_{width}.png")
        print(f"{Path(spec).name}: " + ", ".join(told), flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
