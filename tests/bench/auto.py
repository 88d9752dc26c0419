"""Compare `restore auto` with the best sequence of single commands, and measure what it does to good pictures.

python tests/bench/auto.py damaged FOLDER            # 30 crops with one to three damages, PSNR by picture
python tests/bench/auto.py good FOLDER               # PSNR of crops without damage to themselves

A crop is blurred, shrunk by 2, made noisy and compressed, each if its turn in KINDS says so. Every sequence of commands
that a person may try is run with the same options, and its pictures are rounded to 8 bits in between, as files hold
them. Only the first command of a sequence sees the JPEG file. The best sequence is chosen by the truth, which a person
does not have.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from restorer.evaluation.metrics import psnr
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.models.load import load_prior
from restorer.tasks.auto import prepare_auto
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.job import Job
from restorer.tasks.repair import describe_repairs
from restorer.tasks.upscale import prepare_upscale
from restorer.training.simulated_camera import Camera, photograph

KINDS = (
    ("white",),
    ("camera",),
    ("jpeg",),
    ("small",),
    ("blur",),
    ("white", "jpeg"),
    ("camera", "jpeg"),
    ("white", "small"),
    ("camera", "small"),
    ("jpeg", "small"),
    ("blur", "white"),
    ("blur", "jpeg"),
    ("white", "jpeg", "small"),
    ("camera", "jpeg", "small"),
    ("blur", "white", "jpeg"),
)
"""The damages of the pictures, in turn."""

SCALE = 2
BAR, BAR_OF_GOOD = 0.1, 44.0  # dB below the best sequence, and to a good picture itself


@dataclass(frozen=True)
class Damaged:
    """A damaged picture.

    Args:
        pixels: (3, H, W) in [0, 1], in 8 bits.
        file: The bytes of its file if it is a JPEG; else None.
        words: What was done to it.
    """

    pixels: Tensor
    file: bytes | None
    words: str


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def to_image(x: Tensor) -> Image.Image:
    """Return (3, H, W) in [0, 1] as an image of 8 bits."""
    return Image.fromarray((x * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def damage(true: Image.Image, kinds: tuple[str, ...], rng: random.Random) -> Damaged:
    """Return a picture with damage of these kinds, whose strength is drawn."""
    image, words, file, seed = true, [], None, rng.getrandbits(32)
    if "blur" in kinds:
        radius = rng.uniform(0.7, 1.6)
        image = image.filter(ImageFilter.GaussianBlur(radius))
        words.append(f"blur {radius:.1f}")
    if "small" in kinds:
        image = image.resize((image.width // SCALE, image.height // SCALE), Image.Resampling.BICUBIC)
        words.append(f"shrunk by {SCALE}")
    x = to_tensor(image)
    if "white" in kinds:
        sigma = rng.uniform(4, 25)
        x = x + sigma / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        words.append(f"white noise {sigma:.0f}")
    if "camera" in kinds:
        camera = Camera(gain=rng.uniform(0.0005, 0.005), read=rng.uniform(0.5, 2.0), chroma=rng.choice([0.0, 1.5]))
        noise = (photograph(255 * x, camera, seed) - photograph(255 * x, camera, None)) / 255
        x = x + noise
        words.append(f"camera noise {255 * float(noise.std()):.0f}")
    image = to_image(x)
    if "jpeg" in kinds:
        quality, stored = rng.randint(25, 85), io.BytesIO()
        image.save(stored, "JPEG", quality=quality, subsampling=rng.choice([0, 2]))
        file = stored.getvalue()
        image = Image.open(stored)
        words.append(f"JPEG {quality}")
    return Damaged(to_tensor(image), file, ", ".join(words))


def commands(detail: float | None) -> dict[str, Callable[[Tensor, bytes | None], Job]]:
    """Return the single commands: functions of a picture and of the bytes of its file."""
    options = {"detail": detail, "prior": load_prior()}

    def denoise(x: Tensor, file: bytes | None) -> Job:
        return prepare_denoise(x, jpeg=find_jpeg(x, file), **options)

    def dejpeg(x: Tensor, file: bytes | None) -> Job:
        return prepare_dejpeg(x, find_jpeg(x, file), **options)

    def upscale(x: Tensor, file: bytes | None) -> Job:
        return prepare_upscale(x, SCALE, sigma=None, jpeg=find_jpeg(x, file), **options)

    return {"denoise": denoise, "dejpeg": dejpeg, "upscale": upscale}


def sequences(*, is_small: bool) -> list[tuple[str, ...]]:
    """Return the sequences of commands that are tried. A small picture is enlarged at some place of each.

    Compression is not undone after an enlargement, which leaves nothing of its grid.
    """
    names = ("denoise", "dejpeg", "upscale") if is_small else ("denoise", "dejpeg")
    every = [tried for count in range(len(names) + 1) for tried in permutations(names, count)]
    if not is_small:
        return every
    return [tried for tried in every if "upscale" in tried and "dejpeg" not in tried[tried.index("upscale") :]]


def run(job: Job) -> Tensor:
    """Return the result of a job as a file of 8 bits holds it."""
    return (job.run().image * 255).round().clamp(0, 255) / 255


def best_sequence(found: Damaged, true: Tensor, detail: float | None, *, is_small: bool) -> tuple[str, float]:
    """Return the sequence with the highest PSNR, and its PSNR."""
    known, made = commands(detail), {(): found.pixels}
    scores: dict[str, float] = {}
    for tried in sequences(is_small=is_small):
        for count in range(1, len(tried) + 1):
            if (part := tried[:count]) not in made:
                made[part] = run(known[part[-1]](made[part[:-1]], found.file if count == 1 else None))
        scores[" > ".join(tried) or "nothing"] = psnr(made[tried], true)
    name = max(scores, key=scores.__getitem__)
    return name, scores[name]


def crops(options: argparse.Namespace, count: int) -> list[tuple[str, Image.Image]]:
    """Return crops from the middle of pictures."""
    paths, result = sorted(p for p in options.input.iterdir() if p.suffix in (".png", ".jpg", ".bmp")), []
    for path in paths[options.first :: options.every][:count]:
        with Image.open(path) as image:
            left, top = (image.width - options.side) // 2, (image.height - options.side) // 2
            result.append((path.name, image.convert("RGB").crop((left, top, left + options.side, top + options.side))))
    return result


def damaged(options: argparse.Namespace) -> None:
    """Print for each picture the best sequence and what `auto` makes of it."""
    met, pictures = 0, list(enumerate(crops(options, options.count)))[options.skip :]
    print("picture: damage; input, best sequence by hand, auto, difference in dB; what auto found", flush=True)
    for number, (name, image) in pictures:
        kinds = KINDS[number % len(KINDS)]
        found, true, is_small = damage(image, kinds, random.Random(number)), to_tensor(image), "small" in kinds
        best, score = best_sequence(found, true, options.detail, is_small=is_small)
        job = prepare_auto(
            found.pixels,
            scale=SCALE if is_small else None,
            jpeg=find_jpeg(found.pixels, found.file),
            detail=options.detail,
            prior=load_prior(),
        ).measured()
        after = psnr(run(job), true)
        met += after >= score - BAR
        before = "" if is_small else f"{psnr(found.pixels, true):.2f}"
        figures = f"{before}, {best} {score:.2f}, {after:.2f}, {after - score:+.2f}"
        print(f"{name}: {found.words}; {figures}; {describe_repairs(job.repairs or ())}", flush=True)
    print(f"{met} of {len(pictures)} are at most {BAR} dB below the best sequence")


def good(options: argparse.Namespace) -> None:
    """Print the PSNR of good pictures to themselves, where they are changed."""
    met, pictures = 0, crops(options, options.count)
    for name, image in pictures:
        x = to_tensor(image)
        job = prepare_auto(x, jpeg=find_jpeg(x, None), detail=options.detail, prior=load_prior()).measured()
        score = psnr(run(job), x)
        met += score >= BAR_OF_GOOD
        print(f"{name}: {score:.1f} dB, {describe_repairs(job.repairs or ())}", flush=True)
    print(f"{met} of {len(pictures)} have at least {BAR_OF_GOOD} dB to themselves")


def main() -> None:
    """Run one of the commands of the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["damaged", "good"])
    parser.add_argument("input", type=Path)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="number of the first picture of the folder")
    parser.add_argument("--skip", type=int, default=0, help="crops to leave out, to continue an earlier run")
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--detail", type=float)
    options = parser.parse_args()
    with torch.inference_mode():
        {"damaged": partial(damaged, options), "good": partial(good, options)}[options.command]()


if __name__ == "__main__":
    main()
