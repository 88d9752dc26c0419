"""Measure what the removal of noise and of compression leaves of a blurred picture, and what a deblurring allows for.

python tests/bench/left_over.py FOLDER --first 1 --every 5

Crops are blurred, and then get camera noise, compression, or both (`tests/bench/auto_damages.py`). The noise and the
compression are removed as `denoise --detail 0` does, and the true blur is undone in the result for several strengths
of noise. A row shows the error after and before the removal as standard deviations in levels, and the PSNR of the
deblurred crop by the noise that was allowed for: by shares of the noise that was found, or of the error of the
compression where there is one, and for what is really left.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from auto import crops
from auto_damages import MARGIN, _draw_blur, damage
from torch import Tensor

from restorer.evaluation.metrics import psnr
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.models.load import load_prior
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.denoise import prepare_denoise

KINDS = (("camera",), ("jpeg",), ("camera", "jpeg"))
SHARES = (0.3, 0.5, 0.7, 1.0, 1.5)


def deviation(x: Tensor, y: Tensor) -> float:
    """Return the standard deviation of a difference, in levels."""
    return 255 * float((x - y).square().mean().sqrt())


def main() -> None:
    """Print a row for each crop in which something is found and removed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--first", type=int, default=0, help="number of the first picture of the folder")
    parser.add_argument("--every", type=int, default=1)
    options = argparse.Namespace(**vars(parser.parse_args()), only=None)
    prior = load_prior()
    print("damage; before; left; best share;", "; ".join(map(str, SHARES)), "; what is left")
    for number, _, wide in crops(options, MARGIN):
        kinds = KINDS[number % len(KINDS)]
        kernel, _ = _draw_blur(random.Random(number))
        blurred, _ = damage(wide, ("blur",), number)
        found, true = damage(wide, ("blur", *kinds), number)
        jpeg = find_jpeg(found.pixels, found.file)
        job = prepare_denoise(found.pixels, jpeg=jpeg, outliers="off", detail=0, prior=prior).measured()
        if job.is_copy or job.noise is None:
            print(f"{found.words}; nothing is found")
            continue
        removed = job.run().image
        before, left = (deviation(x, blurred.pixels) for x in (found.pixels, removed))
        unit = job.noise.sigma if jpeg is None else jpeg.sigma
        allowed = [*(share * unit for share in SHARES), left]
        scores = [
            psnr(prepare_deblur(removed, kernel, sigma=sigma, detail=0, prior=prior).run().image, true)
            for sigma in allowed
        ]
        best = SHARES[max(range(len(SHARES)), key=scores.__getitem__)]
        figures = "; ".join(f"{score:.2f}" for score in scores)
        print(f"{found.words}; {before:.1f}; {left:.1f} ({left / before:.2f}); {best}; {figures}", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
