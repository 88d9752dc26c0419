"""Measure what undoing JPEG compression brings.

python tests/bench/jpeg.py gain FOLDER                     # PSNR over the decoded file, by quality, and the cells
python tests/bench/jpeg.py gain FOLDER --then 90 --crop 5  # the same after a crop and a second compression
python tests/bench/jpeg.py enlarge FOLDER                  # thumbnails that are JPEG files, enlarged
python tests/bench/jpeg.py png FOLDER                      # what happens to pictures as they are, without their file
python tests/bench/jpeg.py cost PICTURE                    # seconds over those of one evaluation

`--set steps=4 first=0.8` changes constants of `DECOMPRESS` (restorer/tasks/defaults.py). `--alone` asks the prior
without the network that gives the first answer; `--set` then changes those of `JPEG`.
"""

from __future__ import annotations

import argparse
import io
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restorer.evaluation.metrics import high_energy, psnr
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.jpeg import read_jpeg
from restorer.models.load import load_prior
from restorer.tasks import dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.upscale import prepare_upscale


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def stored(image: Image.Image, quality: int, sampling: int) -> bytes:
    """Return an image as a JPEG file with the tables of libjpeg."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=sampling)
    return file.getvalue()


def pictures(options: argparse.Namespace) -> list[Path]:
    """Return the pictures to measure."""
    return sorted(p for p in options.input.iterdir() if p.suffix in (".png", ".jpg", ".bmp"))[:: options.every]


def gain(options: argparse.Namespace) -> None:
    """Print the gain by quality, its least value, the texture, and the share of coefficients that fall into cells."""
    print("quality: input, gain, least gain; texture before, after; coefficients in their cells; not found")
    for quality in options.quality:
        rows, energies, missed = [], [], 0
        for path in pictures(options):
            with Image.open(path) as image:
                true = image.convert("RGB")
            data = stored(true, quality, options.sampling)
            first, whole = read_jpeg(data), true
            if options.crop or options.then:
                box = (2 * options.crop + 1, options.crop, true.width, true.height) if options.crop else None
                true, decoded = (x.crop(box) if box else x for x in (true, Image.open(io.BytesIO(data))))
                data = stored(decoded, options.then, options.sampling) if options.then else None
                image = Image.open(io.BytesIO(data)).convert("RGB") if data else decoded.convert("RGB")
            else:
                image = Image.open(io.BytesIO(data)).convert("RGB")
            clean, y = to_tensor(true), to_tensor(image)
            jpeg = find_jpeg(y, data)
            missed += jpeg is None or (bool(options.crop or options.then) and not jpeg.is_earlier)
            job = dejpeg.prepare_dejpeg(y, jpeg, detail=options.detail, prior=load_prior())
            result = (job.run().image * 255).round() / 255
            known = first if whole.size == true.size else jpeg
            share = known.degradation().consistency(result[None] * 2 - 1, known.data()) if known is not None else np.nan
            rows.append([psnr(y, clean), psnr(result, clean) - psnr(y, clean), share])
            energies.append([high_energy(x) for x in (y, result, clean)])
        (before, gained, share), least = np.mean(rows, 0), np.min(rows, 0)[1]
        energy = np.sum(energies, 0)
        print(
            f"{quality}: {before:.2f}, {gained:+.2f}, {least:+.2f}; {energy[0] / energy[2]:.2f}, "
            f"{energy[1] / energy[2]:.2f}; {share:.2%}; {missed} of {len(rows)}",
            flush=True,
        )


def enlarge(options: argparse.Namespace) -> None:
    """Print PSNR of thumbnails that were shrunk and stored as JPEG, enlarged by bicubic and by `restore upscale`."""
    print("scale, quality: bicubic, as it is, compression undone first; least gain over bicubic")
    for scale in options.scale:
        for quality in options.quality:
            rows = []
            for path in pictures(options):
                with Image.open(path) as image:
                    sides = [side // scale * scale for side in image.size]
                    true = image.convert("RGB").crop((0, 0, *sides))
                small = true.resize((true.width // scale, true.height // scale), Image.Resampling.BICUBIC)
                data = stored(small, quality, options.sampling)
                small = Image.open(io.BytesIO(data)).convert("RGB")
                y, clean = to_tensor(small), to_tensor(true)
                detail = 0.0 if options.detail is None else options.detail
                prepare = partial(prepare_upscale, y, scale, detail=detail, prior=load_prior())
                results = [prepare(jpeg=jpeg).run().image for jpeg in (None, find_jpeg(y, data))]
                bicubic = to_tensor(small.resize(true.size, Image.Resampling.BICUBIC))
                rows.append([psnr((x * 255).round() / 255, clean) for x in (bicubic, *results)])
            before, plain, first = np.mean(rows, 0)
            least = min(row[2] - row[0] for row in rows)
            print(f"{scale}, {quality}: {before:.2f}, {plain:.2f}, {first:.2f}; {least:+.2f}", flush=True)


def png(options: argparse.Namespace) -> None:
    """Print which pictures are changed although they are no JPEG files, and by how much."""
    copied, paths = 0, pictures(options)
    for path in paths:
        with Image.open(path) as image:
            y = to_tensor(image)
        job = prepare_denoise(y, jpeg=find_jpeg(y, None), prior=load_prior()).measured()
        if job.plan is None:
            copied += 1
            continue
        found = "; ".join(f.describe() for f in (job.noise, job.jpeg) if f is not None)
        print(f"{path.name}: {psnr(job.run().image, y):.1f} dB, {found}", flush=True)
    print(f"{copied} of {len(paths)} are copied")


def cost(options: argparse.Namespace) -> None:
    """Print the seconds of reading and of restoring a file, and both over those of one evaluation."""
    data = stored(Image.open(options.input).convert("RGB"), 50, 2)
    y = to_tensor(Image.open(io.BytesIO(data)))
    once = prepare_denoise(y, 10.0, steps=1, prior=load_prior())
    job = dejpeg.prepare_dejpeg(y, find_jpeg(y, data), prior=load_prior())
    seconds = []
    for run in (once.run, lambda: find_jpeg(y, data), job.run):
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        seconds.append(min(taken))
    one, reading, restoring = seconds
    size = f"{y.shape[-1]}x{y.shape[-2]}"
    print(f"{size}: {reading:.2f} s + {restoring:.2f} s, {reading / one:.2f} + {restoring / one:.2f} evaluations")


def main() -> None:
    """Run one of the commands of the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["gain", "enlarge", "png", "cost"])
    parser.add_argument("input", type=Path)
    parser.add_argument("--quality", type=int, nargs="+", default=[10, 20, 30, 40, 75, 90])
    parser.add_argument("--scale", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--sampling", type=int, default=2, help="0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0")
    parser.add_argument("--then", type=int, default=0, help="quality of a second compression; 0 for none")
    parser.add_argument("--crop", type=int, default=0, help="rows that are cut off, and half the columns but one")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--detail", type=float)
    parser.add_argument("--alone", action="store_true", help="ask the prior without the network for JPEG")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    kind = "JPEG" if options.alone else "DECOMPRESS"
    settings = getattr(dejpeg, kind)
    changed = {name: type(getattr(settings, name))(value) for name, value in (s.split("=") for s in options.set)}
    setattr(dejpeg, kind, replace(settings, **changed))
    if options.alone:
        dejpeg.with_first_expert = lambda *arguments: None
    with torch.inference_mode():
        {"gain": gain, "enlarge": enlarge, "png": png, "cost": cost}[options.command](options)


if __name__ == "__main__":
    main()
