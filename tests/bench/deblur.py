"""Measure what undoing a known blur brings, beside the Wiener filter of scikit-image.

python tests/bench/deblur.py FOLDER --every 8

Each picture is blurred by a Gaussian of standard deviation 1.6, by a disk of radius 3 and by a line of 13 pixels at 30
degrees. Its borders are cut off where the kernel would reach beyond them, white noise is added, and the result is
rounded to 8 bits. The Wiener filter gets the picture continued by its mirror image, and the best balance of a sweep.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.restoration import wiener
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.evaluation.metrics import psnr
from restorer.models.load import load_prior
from restorer.tasks.deblur import prepare_deblur

KERNELS = {"gaussian 1.6": gaussian_kernel(1.6), "defocus 3": defocus_kernel(3), "motion 13@30": motion_kernel(13, 30)}
BALANCES = np.geomspace(3e-3, 0.3, 13)
BORDER = 20  # pixels by which the picture is continued for the Wiener filter


def blurred(true: Tensor, kernel: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Return a picture (3, H, W) in [0, 1] after the blur, with noise, in 8 bits; and the part of it that is left."""
    operator = Blur(kernel)
    y = operator.measure(true[None].double())[0].float()
    y = y + sigma / 255 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    down, across = operator.reach
    return (y * 255).round().clamp(0, 255) / 255, true[:, down : down + y.shape[-2], across : across + y.shape[-1]]


def best_wiener(y: Tensor, true: Tensor, kernel: Tensor) -> float:
    """Return the PSNR of the Wiener filter with its best balance."""
    continued = np.pad(y.numpy(), ((0, 0), (BORDER,) * 2, (BORDER,) * 2), mode="reflect")
    found = []
    for balance in BALANCES:
        planes = [wiener(plane, kernel.numpy(), balance) for plane in continued]
        inside = np.stack(planes)[:, BORDER:-BORDER, BORDER:-BORDER].clip(0, 1)
        found.append(psnr(torch.from_numpy(inside).float(), true))
    return max(found)


def main() -> None:
    """Print the mean PSNR of the blurred pictures, of the Wiener filter and of `restore deblur`, for each kernel."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("input", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--sigma", type=float, default=2.55)
    parser.add_argument("--detail", type=float, default=0.0)
    parser.add_argument("--steps", type=int, help="evaluations of the prior; default: that of the program")
    parser.add_argument("--kernel", choices=KERNELS, nargs="+", default=list(KERNELS))
    parser.add_argument("--model", default="photo")
    options = parser.parse_args()
    prior = load_prior(options.model)
    paths = sorted(path for path in options.input.iterdir() if path.suffix in (".png", ".jpg", ".bmp"))
    print("kernel: blurred, Wiener, restored; gain over Wiener, least gain")
    for name in options.kernel:
        kernel, rows = KERNELS[name], []
        for path in paths[:: options.every]:
            with Image.open(path) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
            y, true = blurred(pixels, kernel, options.sigma)
            result = prepare_deblur(y, kernel, detail=options.detail, steps=options.steps, prior=prior).run().image
            rows.append([psnr(y, true), best_wiener(y, true, kernel), psnr((result * 255).round() / 255, true)])
        before, wiener_filter, after = np.mean(rows, 0)
        least = min(row[2] - row[1] for row in rows)
        gain = f"{after - wiener_filter:+.2f}, {least:+.2f}"
        print(f"{name}: {before:.2f}, {wiener_filter:.2f}, {after:.2f}; {gain}", flush=True)


if __name__ == "__main__":
    main()
