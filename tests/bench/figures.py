"""Measure the figures of the documentation and the model card on validation pictures.

    python tests/bench/figures.py denoise DATA [--limit N] [--model M] [--precision P] ...

DATA is a folder that contains CBSD68/, Set5/ and masks/ (PNG files). The seed of the noise is the position of the
picture in the list.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import restorer
from restorer.evaluation.metrics import high_energy, psnr, to_y
from restorer.measurement.white_noise import estimate_sigma
from restorer.priors.tiled import Tiled

COLOUR_TOLERANCE = 12
"""Levels by which the mean colour of holes may differ from the truth in each channel."""


def read(path: Path, mode: str = "RGB") -> torch.Tensor:
    """Read a picture in mode RGB or L: float (C, H, W) in [0, 1]."""
    pixels = np.asarray(Image.open(path).convert(mode), dtype=np.float32) / 255
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def round_to_8_bits(x: torch.Tensor) -> torch.Tensor:
    """Clip values to [0, 1] and round them to multiples of 1/255."""
    return (x.clamp(0, 1) * 255).round() / 255


def draw_noise(x: torch.Tensor, index: int) -> torch.Tensor:
    """Draw standard normal noise shaped like x for the picture at a position of the list."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(1000 + index))


def denoise(pictures: list[Path], prior, options) -> None:
    """Print the mean RGB PSNR of one evaluation on noise that is not clipped."""
    for sigma in options.sigma:
        scores = [psnr(restorer.denoise(x + sigma / 255 * draw_noise(x, i), sigma, steps=1, prior=prior), x)
                  for i, x in enumerate(map(read, pictures))]  # fmt: skip
        print(f"sigma {sigma:g}: {np.mean(scores):.2f} dB", flush=True)


def gray(pictures: list[Path], prior, options) -> None:
    """Print the mean PSNR of gray pictures for one evaluation and for the defaults."""
    for sigma in options.sigma:
        one, default = [], []
        for i, path in enumerate(pictures):
            x = read(path, "L")
            y = x + sigma / 255 * draw_noise(x, i)
            one.append(psnr(restorer.denoise(y, sigma, steps=1, prior=prior), x))
            default.append(psnr(restorer.denoise(y, sigma, prior=prior), x))
        print(f"gray, sigma {sigma:g}: {np.mean(one):.2f} dB, at the defaults {np.mean(default):.2f} dB", flush=True)


def blind(pictures: list[Path], prior, options) -> None:
    """Print the figures of 8-bit noisy pictures at the defaults, with an estimated sigma.

    A sigma of 0 stands for the clean pictures themselves.
    """
    for sigma in options.sigma:
        rows = []
        for i, path in enumerate(pictures):
            x = read(path)
            y = round_to_8_bits(x + sigma / 255 * draw_noise(x, i))
            out = round_to_8_bits(restorer.denoise(y, prior=prior))
            rows.append((estimate_sigma(y), psnr(out, y if sigma == 0 else x), psnr(y, x) if sigma else 0.0))
        estimate, score, before = np.array(rows).T
        if sigma == 0:
            print(
                f"clean: mean estimate {estimate.mean():.2f} (at most {estimate.max():.2f}); output against input: "
                f"median {np.median(score):.1f} dB, at least {score.min():.1f} dB",
                flush=True,
            )
            continue
        error = np.abs(estimate / sigma - 1)
        share_within = 100 * (error <= 0.3).mean()
        print(
            f"blind, sigma {sigma:g}: mean error of the estimate {100 * error.mean():.1f} %, within 30 % for "
            f"{share_within:.0f} % of the pictures; {before.mean():.2f} -> {score.mean():.2f} dB",
            flush=True,
        )


def detail(pictures: list[Path], prior, options) -> None:
    """Print the PSNR and the texture of denoise for several values of `--detail`."""
    for sigma in options.sigma:
        for a in (0.0, 0.5, 0.7, 1.0) if options.detail is None else (options.detail,):
            rows = []
            for i, path in enumerate(pictures):
                x = read(path)
                y = x + sigma / 255 * draw_noise(x, i)
                out = restorer.denoise(y, sigma, detail=a, steps=options.steps, prior=prior)
                rows.append((psnr(out, x), high_energy(out), high_energy(x)))
            score, energy, true_energy = np.array(rows).mean(0)
            print(f"sigma {sigma:g}, detail {a:g}: {score:.2f} dB, texture {energy / true_energy:.2f}", flush=True)


def find_masks(options) -> Iterator[tuple[Path, str, np.ndarray, np.ndarray]]:
    """Yield the picture, the kind, the holes and the region to measure for each mask of the requested kinds."""
    for path in sorted((options.data / "masks").glob("*.png"))[: options.limit]:
        folder, *name, kind = path.stem.split("_")
        source = options.data / folder / f"{'_'.join(name)}.png"
        hole = np.asarray(Image.open(path).convert("L")) >= 128
        if kind in options.kinds:
            yield source, kind, hole, hole
        box = path.with_name(path.name.replace("_scratch", "_box"))
        if kind == "scratch" and "scratch+box" in options.kinds and box.exists():
            wide = np.asarray(Image.open(box).convert("L")) >= 128
            yield source, "scratch+box", hole | wide, hole & ~wide


def inpaint(pictures: list[Path], prior, options) -> None:
    """Print the PSNR inside the holes, that of OpenCV's two methods, the texture inside boxes, and the mean colour.

    The mean colour of the holes of a picture counts as met if it is within 12 levels of the truth in every channel. The
    pictures have 8 bits, and their holes are white. The kind scratch+box has the holes of both masks of a picture
    and is measured in the scratches.
    """
    import cv2

    table = defaultdict(list)
    for source, kind, hole, measured in find_masks(options):
        x = read(source)
        y = torch.where(torch.from_numpy(hole), 1.0, x)
        pixels = np.ascontiguousarray((y * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1])
        start = time.monotonic()
        results = {
            "restorer": round_to_8_bits(
                restorer.inpaint(
                    y, hole, steps=options.steps, detail=options.detail, method=options.method, prior=prior
                )
            )
        }
        seconds = time.monotonic() - start
        for label, flag in (("Telea", cv2.INPAINT_TELEA), ("Navier-Stokes", cv2.INPAINT_NS)):
            filled = cv2.inpaint(pixels, hole.astype(np.uint8) * 255, 3, flag)[..., ::-1].transpose(2, 0, 1)
            results[label] = torch.from_numpy(filled.copy()).float() / 255
        scores = [psnr(r[:, measured], x[:, measured]) for r in results.values()]
        assert torch.equal(results["restorer"][:, ~hole], x[:, ~hole])
        stray = 255 * float((results["restorer"] - x)[:, measured].mean(1).abs().max())
        energy = true_energy = float("nan")
        if kind == "box":
            boxes = cv2.connectedComponentsWithStats(hole.astype(np.uint8))[2][1:, :4]
            regions = [(slice(None), slice(t, t + h), slice(c, c + w)) for c, t, w, h in boxes]
            energy, true_energy = (sum(high_energy(z[region]) for region in regions) for z in (results["restorer"], x))
        table[kind].append((*scores, energy, true_energy, seconds, stray))
    for kind, rows in table.items():
        ours, telea, ns, energy, true_energy, seconds, stray = np.array(rows).mean(0)
        met = sum(row[-1] <= COLOUR_TOLERANCE for row in rows)
        others = f"Telea {telea:.2f}, Navier-Stokes {ns:.2f}"
        print(
            f"{kind} ({len(rows)}): {ours:.2f} dB, {others}, texture {energy / true_energy:.2f}, "
            f"mean colour {stray:.1f} levels off, within {COLOUR_TOLERANCE} in {met} of {len(rows)}, {seconds:.1f} s",
            flush=True,
        )


def upscale(pictures: list[Path], prior, options) -> None:
    """Print the figures of pictures that are shrunk by Pillow's bicubic filter and enlarged again."""
    for scale in options.scale:
        rows = []
        for path in pictures:
            image = Image.open(path).convert("RGB")
            image = image.crop((0, 0, image.width // scale * scale, image.height // scale * scale))
            size = (image.width // scale, image.height // scale)
            small = image.resize(size, Image.Resampling.BICUBIC)
            start = time.monotonic()
            big = restorer.upscale(
                small, scale, steps=options.steps, detail=options.detail, method=options.method, prior=prior
            )
            seconds = time.monotonic() - start
            plain = small.resize(image.size, Image.Resampling.BICUBIC)
            x, ours, bicubic = (torch.from_numpy(np.array(i)).permute(2, 0, 1) / 255 for i in (image, big, plain))
            shrunk = np.asarray(big.resize(size, Image.Resampling.BICUBIC), dtype=float)
            rms = np.sqrt(np.mean((shrunk - np.asarray(small, dtype=float)) ** 2))
            inner = (slice(None), slice(scale, -scale), slice(scale, -scale))
            on_y = [psnr(to_y(z)[inner], to_y(x)[inner]) for z in (ours, bicubic)]
            rows.append(
                (
                    psnr(ours, x),
                    psnr(bicubic, x),
                    *on_y,
                    high_energy(ours),
                    rms,
                    seconds,
                    high_energy(x),
                )
            )
        worst = max(row[5] for row in rows)
        rgb, rgb0, y, y0, energy, _, seconds, true_energy = np.array(rows).mean(0)
        print(
            f"x{scale}: RGB {rgb:.2f} (bicubic {rgb0:.2f}), Y {y:.2f} ({y0:.2f}), texture {energy / true_energy:.2f}, "
            f"RMS error when shrunk again at most {worst:.2f} levels, {seconds:.1f} s",
            flush=True,
        )


def tiles(pictures: list[Path], prior, options) -> None:
    """Print how closely results in tiles agree with whole pictures: the PSNR of the worst picture in dB."""

    def compare(label: str, restore: Callable) -> None:
        whole = {p: restore(read(p), Tiled(prior, 1 << 30, overlap=0), i) for i, p in enumerate(pictures)}
        for side in (128, 256):
            worst = min(
                psnr(restore(read(p), Tiled(prior, side, overlap=min(64, side // 4)), i), whole[p])
                for i, p in enumerate(pictures)
            )
            print(f"{label}: tiles of {side} pixels against the whole picture, at least {worst:.1f} dB", flush=True)

    for sigma in options.sigma:
        compare(f"denoise, sigma {sigma:g}", lambda x, p, i, s=sigma: restorer.denoise(
            x + s / 255 * draw_noise(x, i), s, prior=p))  # fmt: skip
    compare("upscale x2, detail 0", lambda x, p, i: restorer.upscale(
        torch.nn.functional.interpolate(x[None], scale_factor=0.5, mode="bicubic", antialias=True)[0].clamp(0, 1),
        2, detail=0.0, prior=p))  # fmt: skip


TASKS = {f.__name__: f for f in (denoise, gray, blind, detail, inpaint, upscale, tiles)}


def main() -> None:
    """Measure one task and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--set", default=None, help="folder of DATA to use (default: Set5 for upscale, otherwise CBSD68)"
    )
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--every", type=int, default=1, help="take every N-th picture")
    parser.add_argument("--sigma", type=float, nargs="+", default=[15, 25, 50])
    parser.add_argument("--scale", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--kinds", nargs="+", default=["scratch", "text", "random70", "box"])
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--detail", type=float, default=None)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--model", default="photo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    folder = options.set or ("Set5" if options.task == "upscale" else "CBSD68")
    pictures = sorted((options.data / folder).glob("*.png"))[:: options.every][: options.limit]
    prior = restorer.load_prior(options.model, options.device, options.precision)
    with torch.inference_mode():
        TASKS[options.task](pictures, prior, options)


if __name__ == "__main__":
    main()
