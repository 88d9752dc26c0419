"""The figures of the README and the model card, measured on validation pictures.

    python tests/bench/figures.py denoise DATA [--limit N] [--model M] [--precision P] ...

DATA is a folder that holds CBSD68/, Set5/ and masks/ (PNG). Noise is seeded by the picture's place in the list.
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


def read(path: Path, mode: str = "RGB") -> torch.Tensor:
    pixels = np.asarray(Image.open(path).convert(mode), dtype=np.float32) / 255
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def eight_bit(x: torch.Tensor) -> torch.Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def noise(x: torch.Tensor, index: int) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(1000 + index))


def denoise(pictures: list[Path], prior, options) -> None:
    """One evaluation, unclipped noise: mean RGB PSNR."""
    for sigma in options.sigma:
        scores = [psnr(restorer.denoise(x + sigma / 255 * noise(x, i), sigma, steps=1, prior=prior), x)
                  for i, x in enumerate(map(read, pictures))]  # fmt: skip
        print(f"sigma {sigma:g}: {np.mean(scores):.2f} dB", flush=True)


def gray(pictures: list[Path], prior, options) -> None:
    """Mode L, one evaluation and at the defaults."""
    for sigma in options.sigma:
        one, default = [], []
        for i, path in enumerate(pictures):
            x = read(path, "L")
            y = x + sigma / 255 * noise(x, i)
            one.append(psnr(restorer.denoise(y, sigma, steps=1, prior=prior), x))
            default.append(psnr(restorer.denoise(y, sigma, prior=prior), x))
        print(f"gray, sigma {sigma:g}: {np.mean(one):.2f} dB, at the defaults {np.mean(default):.2f} dB", flush=True)


def blind(pictures: list[Path], prior, options) -> None:
    """8-bit noisy pictures without sigma, at the defaults; sigma 0 are the clean pictures themselves."""
    for sigma in options.sigma:
        rows = []
        for i, path in enumerate(pictures):
            x = read(path)
            y = eight_bit(x + sigma / 255 * noise(x, i))
            out = eight_bit(restorer.denoise(y, prior=prior))
            rows.append((estimate_sigma(y), psnr(out, y if sigma == 0 else x), psnr(y, x) if sigma else 0.0))
        estimate, score, before = np.array(rows).T
        if sigma == 0:
            print(
                f"clean: estimated {estimate.mean():.2f} (at most {estimate.max():.2f}), output to input "
                f"{np.median(score):.1f} dB in the median, at least {score.min():.1f} dB",
                flush=True,
            )
            continue
        wrong = np.abs(estimate / sigma - 1)
        near = 100 * (wrong <= 0.3).mean()
        print(
            f"blind, sigma {sigma:g}: estimate off by {100 * wrong.mean():.1f} % on average, within 30 % on "
            f"{near:.0f} % of the pictures; {before.mean():.2f} -> {score.mean():.2f} dB",
            flush=True,
        )


def detail(pictures: list[Path], prior, options) -> None:
    """The dial of denoise: PSNR and texture."""
    for sigma in options.sigma:
        for a in (0.0, 0.5, 0.7, 1.0) if options.detail is None else (options.detail,):
            rows = []
            for i, path in enumerate(pictures):
                x = read(path)
                out = restorer.denoise(x + sigma / 255 * noise(x, i), sigma, detail=a, steps=options.steps, prior=prior)
                rows.append((psnr(out, x), high_energy(out), high_energy(x)))
            score, energy, true = np.array(rows).mean(0)
            print(f"sigma {sigma:g}, detail {a:g}: {score:.2f} dB, texture {energy / true:.2f}", flush=True)


def masked(options) -> Iterator[tuple[Path, str, np.ndarray, np.ndarray]]:
    """Picture, kind, holes, and where to measure."""
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
    """PSNR inside the holes against OpenCV's two, and texture inside boxes; 8 bit, holes filled white.

    The kind scratch+box has the holes of both masks of a picture, and is measured in the scratches.
    """
    import cv2

    table = defaultdict(list)
    for source, kind, hole, measured in masked(options):
        x = read(source)
        y = torch.where(torch.from_numpy(hole), 1.0, x)
        bytes_ = np.ascontiguousarray((y * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1])
        began = time.monotonic()
        results = {
            "restorer": eight_bit(
                restorer.inpaint(
                    y, hole, steps=options.steps, detail=options.detail, method=options.method, prior=prior
                )
            )
        }
        seconds = time.monotonic() - began
        for label, flag in (("Telea", cv2.INPAINT_TELEA), ("Navier-Stokes", cv2.INPAINT_NS)):
            filled = cv2.inpaint(bytes_, hole.astype(np.uint8) * 255, 3, flag)[..., ::-1].transpose(2, 0, 1)
            results[label] = torch.from_numpy(filled.copy()).float() / 255
        scores = [psnr(r[:, measured], x[:, measured]) for r in results.values()]
        assert torch.equal(results["restorer"][:, ~hole], x[:, ~hole])
        energy = true = float("nan")
        if kind == "box":
            boxes = cv2.connectedComponentsWithStats(hole.astype(np.uint8))[2][1:, :4]
            places = [(slice(None), slice(t, t + h), slice(c, c + w)) for c, t, w, h in boxes]
            energy, true = (sum(high_energy(z[place]) for place in places) for z in (results["restorer"], x))
        table[kind].append((*scores, energy, true, seconds))
    for kind, rows in table.items():
        ours, telea, ns, energy, true, seconds = np.array(rows).mean(0)
        rivals = f"Telea {telea:.2f}, Navier-Stokes {ns:.2f}"
        print(
            f"{kind} ({len(rows)}): {ours:.2f} dB, {rivals}, texture {energy / true:.2f}, {seconds:.1f} s", flush=True
        )


def upscale(pictures: list[Path], prior, options) -> None:
    """Set5, or the pictures given, shrunk by Pillow's bicubic filter and enlarged again."""
    for scale in options.scale:
        rows = []
        for path in pictures:
            image = Image.open(path).convert("RGB")
            image = image.crop((0, 0, image.width // scale * scale, image.height // scale * scale))
            size = (image.width // scale, image.height // scale)
            small = image.resize(size, Image.Resampling.BICUBIC)
            began = time.monotonic()
            big = restorer.upscale(
                small, scale, steps=options.steps, detail=options.detail, method=options.method, prior=prior
            )
            seconds = time.monotonic() - began
            plain = small.resize(image.size, Image.Resampling.BICUBIC)
            x, ours, bicubic = (torch.from_numpy(np.array(i)).permute(2, 0, 1) / 255 for i in (image, big, plain))
            again = np.asarray(big.resize(size, Image.Resampling.BICUBIC), dtype=float)
            rms = np.sqrt(np.mean((again - np.asarray(small, dtype=float)) ** 2))
            inner = (slice(None), slice(scale, -scale), slice(scale, -scale))
            on_y = [psnr(to_y(z)[inner], to_y(x)[inner]) for z in (ours, bicubic)]
            rows.append((psnr(ours, x), psnr(bicubic, x), *on_y, high_energy(ours), rms, seconds, high_energy(x)))
        worst = max(row[5] for row in rows)
        rgb, rgb0, y, y0, energy, _, seconds, true = np.array(rows).mean(0)
        print(
            f"x{scale}: RGB {rgb:.2f} (bicubic {rgb0:.2f}), Y {y:.2f} ({y0:.2f}), texture {energy / true:.2f}, "
            f"shrunk again at most {worst:.2f} levels RMS off, {seconds:.1f} s",
            flush=True,
        )


def tiles(pictures: list[Path], prior, options) -> None:
    """Agreement of tiled and whole pictures in dB, worst picture."""

    def compare(label: str, restore: Callable) -> None:
        whole = {p: restore(read(p), Tiled(prior, 1 << 30, overlap=0), i) for i, p in enumerate(pictures)}
        for side in (128, 256):
            worst = min(
                psnr(restore(read(p), Tiled(prior, side, overlap=min(64, side // 4)), i), whole[p])
                for i, p in enumerate(pictures)
            )
            print(f"{label}: tiles of {side} against the whole picture, at least {worst:.1f} dB", flush=True)

    for sigma in options.sigma:
        compare(f"denoise, sigma {sigma:g}", lambda x, p, i, s=sigma: restorer.denoise(
            x + s / 255 * noise(x, i), s, prior=p))  # fmt: skip
    compare("upscale x2, detail 0", lambda x, p, i: restorer.upscale(
        torch.nn.functional.interpolate(x[None], scale_factor=0.5, mode="bicubic", antialias=True)[0].clamp(0, 1),
        2, detail=0.0, prior=p))  # fmt: skip


TASKS = {f.__name__: f for f in (denoise, gray, blind, detail, inpaint, upscale, tiles)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default=None, help="folder of DATA to use (Set5 for upscale, else CBSD68)")
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
