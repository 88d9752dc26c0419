"""Measure what becomes of photographs with noise that were stored as JPEG files.

python tests/bench/noisy_jpeg.py SHARD...                       # white and coarse noise, by strength and quality
python tests/bench/noisy_jpeg.py SHARD... --sigma 19 --quality 75 --noise white --each

`restore denoise` is compared with what it could do if it were told the truth: the best of undoing the compression, of
removing white noise of the true strength after that, and of removing noise of the true covariance from the file. Every
160th photograph is taken (`--every`), shrunk by .6, and a square of 192 pixels (`--side`) is cut from its middle.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restorer.evaluation.metrics import psnr
from restorer.measurement.camera_noise import (
    LEAST_VARIANCE,
    CameraNoise,
    Residual,
    autocovariance_of,
    mean_variance,
    quiet_spectrum,
)
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.windows import opponent_axes, windows_of
from restorer.models.load import load_prior
from restorer.tasks import denoise
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.job import Job
from restorer.tasks.region import Place
from restorer.tasks.tiles import with_default_tiles
from restorer.training.datasets import find_sources
from restorer.training.edits import blur

WIDTHS = (0.7, 1.3, 1.1)  # blur in pixels of coarse noise in the three axes of colour
STRENGTHS = (2.0, 1.2, 1.0)  # its strength in them
SHRUNK = 0.6


def photographs(options: argparse.Namespace) -> Iterator[Tensor]:
    """Yield squares of photographs, (3, S, S) on the 0..255 scale."""
    for source in find_sources(options.inputs, options.side).sources[options.first :: options.every]:
        photo = Image.fromarray(source.read())
        photo = photo.resize((round(photo.width * SHRUNK), round(photo.height * SHRUNK)), Image.Resampling.BICUBIC)
        left, top = (photo.width - options.side) // 2, (photo.height - options.side) // 2
        cut = photo.crop((left, top, left + options.side, top + options.side))
        yield torch.from_numpy(np.array(cut)).permute(2, 0, 1).float()


def noise_of(x: Tensor, kind: str, sigma: float, seed: int) -> Tensor:
    """Return noise for a picture: white, or coarse, mostly of the luminance, and strongest in the middle tones."""
    white = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    if kind == "white" or sigma == 0:
        return sigma * white
    planes = [s * b / b.std() for s, b in zip(STRENGTHS, map(blur, white.split(1), WIDTHS), strict=True)]
    tone = x.mean(0, keepdim=True) / 255
    coarse = torch.einsum("ac,ahw->chw", opponent_axes(), torch.cat(planes)) * (4 * tone * (1 - tone)).clamp(0.3).sqrt()
    return sigma * coarse / coarse.square().mean().sqrt()


def stored(x: Tensor, quality: int, sampling: int) -> tuple[Tensor, bytes]:
    """Return a picture on the 0..255 scale as a JPEG file, decoded in [0, 1], and the bytes of the file."""
    file = io.BytesIO()
    pixels = x.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=sampling)
    decoded = np.array(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    return torch.from_numpy(decoded).permute(2, 0, 1) / 255, file.getvalue()


def true_noise(y: Tensor, x: Tensor) -> CameraNoise:
    """Return the difference of two pictures in [0, 1] as noise whose covariance is known."""
    noise = windows_of(255 * (y - x), 8)
    spectrum = quiet_spectrum(Residual(noise, torch.zeros_like(noise)), share=1.0)
    autocovariance = autocovariance_of(spectrum)
    sigma = 255 * float((y - x).square().mean().sqrt())
    autocovariance *= sigma**2 / mean_variance(autocovariance)
    autocovariance[range(3), range(3), 0, 0] += LEAST_VARIANCE
    return CameraNoise(1.0, sigma, sigma, autocovariance, 0.0, 0.5, 1.0)


def told(y: Tensor, x: Tensor, data: bytes, sigma: float) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield what can be done if the truth is known: its name, and a function that does it."""
    prior = load_prior()

    @cache
    def undone() -> Tensor:
        return prepare_dejpeg(y, find_jpeg(y, data), prior=prior).run().image

    def coloured() -> Tensor:
        model = with_default_tiles(prior, *y.shape[-2:])
        task = denoise._Denoising(y, Place.of(y, None), None, model, "camera", 1.0, None, None, None, "auto", 0)
        return task.remove_camera(true_noise(y, x)).run().image

    yield "undone", undone
    if sigma:
        yield "both", lambda: denoise.prepare_denoise(undone(), sigma, outliers="off", prior=prior).run().image
        yield "coloured", coloured


def main() -> None:
    """Print the PSNR of the file, of `restore denoise`, and of the best that the truth allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--noise", nargs="+", default=["white", "coarse"], choices=["white", "coarse"])
    parser.add_argument("--sigma", type=float, nargs="+", default=[5, 10, 19, 30])
    parser.add_argument("--quality", type=int, nargs="+", default=[50, 75, 90, 95])
    parser.add_argument("--sampling", type=int, default=2, help="0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0")
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--first", type=int, default=20)
    parser.add_argument("--every", type=int, default=160)
    parser.add_argument("--alone", action="store_true", help="without what the truth allows")
    parser.add_argument("--each", action="store_true", help="print what was found in each picture")
    options = parser.parse_args()
    pictures = list(photographs(options))
    print("noise, sigma, quality: file, denoise, told the truth (best of); worst loss to it, worst gain over the file")
    with torch.inference_mode():
        for kind, sigma, quality in ((k, s, q) for k in options.noise for s in options.sigma for q in options.quality):
            rows, names = [], []
            for number, x in enumerate(pictures):
                y, data = stored(x + noise_of(x, kind, sigma, number), quality, options.sampling)
                clean, jpeg = x / 255, find_jpeg(y, data)
                job: Job = denoise.prepare_denoise(y, jpeg=jpeg, prior=load_prior()).measured()
                ways = iter(()) if options.alone else told(y, clean, data, sigma)
                known = {name: psnr(run(), clean) for name, run in ways} or {"file": psnr(y, clean)}
                best = max(known, key=lambda name: known[name])
                rows.append((psnr(y, clean), psnr(job.run().image, clean), known[best]))
                names.append(best)
                if options.each:
                    said = job.noise.describe() if job.noise else ""
                    print(f"  {number}: {rows[-1][0]:.2f}, {rows[-1][1]:.2f}, {known}; {said}; {job.noise}", flush=True)
            table = np.array(rows)
            file, result, truth = table.mean(0)
            lost, gained = (table[:, 2] - table[:, 1]).max(), (table[:, 1] - table[:, 0]).min()
            print(
                f"{kind}, {sigma:g}, {quality}: {file:.2f}, {result:.2f}, {truth:.2f} ({' '.join(names)}); "
                f"{lost:.2f}, {gained:+.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
