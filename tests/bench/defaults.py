"""How the defaults of the three tasks were chosen: each constant varied alone, the others as they are.

    python tests/bench/defaults.py DATA [--tasks denoise scratch text random70 box x2 x4] [--vary NAME ...] > table.md

DATA is a folder that holds CBSD68/, Set5/ and masks/ (PNG). Pictures are squares of 192 pixels from the middle of
CBSD68 (for the masks: where most of the holes are). PSNR in dB (for holes: inside them), texture as energy beyond half
the Nyquist frequency relative to the truth. The first row of each table is the defaults themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from figures import noise, read
from PIL import Image

import restorer
from restorer.diffusion.plan import _t_levels, log_levels
from restorer.evaluation.metrics import high_energy, psnr
from restorer.tasks import common, denoise, inpaint, upscale
from restorer.tasks.defaults import Defaults

SIDE = 192
KINDS = ("scratch", "text", "random70", "box")

DENOISE = {
    "steps": (2, 4, 8, 12),
    "detail": (0.0, 0.5, 1.0),
    "zeta": (0.1, 0.3),
    "extrapolation": (0.0, 0.5),
}
FILL = {
    "steps": (10, 20, 60),
    "detail": (0.0, 0.5, 0.7, 1.0),
    "zeta": (0.0, 0.1, 0.3, 1.0),
    "start": (1.0, 2.0, 5.0, 20.0),
    "prior_variance": (0.25,),
    "extrapolation": (0.0, 1.0),
    "inflation": (0.0, 0.02, 0.04),
    "spacing": ("quadratic",),
}
ENLARGE = {
    "steps": (6, 10, 30),
    "detail": (0.0, 0.3, 0.7, 1.0),
    "zeta": (0.0, 0.3),
    "start": (0.5, 0.75, 1.5, 2.0),
    "prior_variance": (0.25,),
    "extrapolation": (1.0,),
    "inflation": (0.02,),
    "spacing": ("quadratic",),
}

Score = tuple[float, float, float]  # PSNR, high energy, that of the truth


def variants(base: Defaults, grid: dict[str, tuple]) -> Iterator[tuple[str, Defaults, str]]:
    """(what differs, the constants, the spacing)."""
    yield "defaults", base, "log"
    for name, values in grid.items():
        for value in values:
            if name == "spacing":
                yield f"spacing {value}", base, value
                continue
            if name == "start":  # a multiple of what the table has for upscaling, a level for holes
                value = value * base.start if grid is ENLARGE else value
            if value != getattr(base, name):
                yield f"{name} {value:g}", replace(base, **{name: value}), "log"


def table(title: str, base: Defaults, grid: dict[str, tuple], use: Callable[[Defaults], None], cases: Sequence) -> None:
    """Measure and print. `cases` are functions without arguments, each giving a Score."""
    print(f"\n### {title} ({len(cases)} pictures): {base}\n\n| | PSNR | texture |\n|---|---|---|", flush=True)
    for label, constants, spacing in variants(base, grid):
        use(constants)
        levels = log_levels if spacing == "log" else lambda *a: _t_levels(*a, power=2.0)
        common.log_levels = denoise.log_levels = levels  # type: ignore[attr-defined]
        score, energy, true = np.array([case() for case in cases]).mean(0)
        print(f"| {label} | {score:.2f} | {energy / true:.2f} |", flush=True)
    use(base)
    common.log_levels = denoise.log_levels = log_levels  # type: ignore[attr-defined]


def square(x: torch.Tensor, hole: torch.Tensor | None = None) -> tuple[slice, slice]:
    """Where to cut: the middle, or where most of a mask is."""
    height, width = x.shape[-2:]
    side = min(SIDE, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    if hole is not None:
        share = F.avg_pool2d(hole.float()[None, None], side, stride=1)[0, 0]
        top, left = divmod(int(share.argmax()), share.shape[1])
    return slice(top, top + side), slice(left, left + side)


def denoise_cases(pictures: list[Path], prior: Any, sigma: float) -> list[Callable[[], Score]]:
    def case(i: int, path: Path) -> Score:
        x = read(path)
        x = x[(slice(None), *square(x))]
        out = restorer.denoise(x + sigma / 255 * noise(x, i), sigma, prior=prior)
        return psnr(out, x), high_energy(out), high_energy(x)

    return [lambda i=i, path=path: case(i, path) for i, path in enumerate(pictures)]  # type: ignore[misc]


def fill_cases(data: Path, kind: str, limit: int, prior: Any) -> list[Callable[[], Score]]:
    def case(path: Path) -> Score:
        folder, *name, _ = path.stem.split("_")
        x = read(data / folder / f"{'_'.join(name)}.png")
        hole = torch.from_numpy(np.asarray(Image.open(path).convert("L")) >= 128)
        place = square(x, hole)
        x, hole = x[(slice(None), *place)], hole[place]
        out = restorer.inpaint(torch.where(hole, 0.5, x), hole, prior=prior)
        out = (out * 255).round() / 255
        energy = [high_energy(torch.where(hole, z, z.mean())) if kind == "box" else high_energy(z) for z in (out, x)]
        return psnr(out[:, hole], x[:, hole]), energy[0], energy[1]

    paths = sorted((data / "masks").glob(f"*_{kind}.png"))
    return [lambda path=path: case(path) for path in paths[:limit]]  # type: ignore[misc]


def enlarge_cases(pictures: list[Path], scale: int, prior: Any) -> list[Callable[[], Score]]:
    def case(path: Path) -> Score:
        image = Image.open(path).convert("RGB")
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        image = image.crop((left, top, left + SIDE, top + SIDE))
        small = image.resize((SIDE // scale, SIDE // scale), Image.Resampling.BICUBIC)
        out, x = (
            torch.from_numpy(np.array(z)).permute(2, 0, 1) / 255
            for z in (restorer.upscale(small, scale, prior=prior), image)
        )
        return psnr(out, x), high_energy(out), high_energy(x)

    return [lambda path=path: case(path) for path in pictures]  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["denoise", *KINDS, "x2", "x4"])
    parser.add_argument("--limit", type=int, default=8, help="pictures a table")
    parser.add_argument("--vary", nargs="+", default=None, metavar="NAME", help="only these constants")
    parser.add_argument("--model", default="photo")
    options = parser.parse_args()
    prior = restorer.load_prior(options.model)
    if options.vary:
        for grid in (DENOISE, FILL, ENLARGE):
            for name in grid.keys() - set(options.vary):
                del grid[name]
    every = sorted((options.data / "CBSD68").glob("*.png"))
    pictures = every[:: len(every) // options.limit][: options.limit]

    def denoising(d: Defaults) -> None:
        denoise.DENOISE = d  # type: ignore[misc]

    def filling(d: Defaults) -> None:
        inpaint.INPAINT = d  # type: ignore[misc]

    def filling_wide(d: Defaults) -> None:
        inpaint.INPAINT_WIDE = d  # type: ignore[misc]

    with torch.inference_mode():
        for task in options.tasks:
            if task == "denoise":
                for sigma in (15, 25, 50):
                    cases = denoise_cases(pictures, prior, sigma)
                    table(f"denoise, sigma {sigma}", denoise.DENOISE, DENOISE, denoising, cases)
            elif task == "box":
                cases = fill_cases(options.data, task, options.limit, prior)
                table("inpaint, box", inpaint.INPAINT_WIDE, FILL, filling_wide, cases)
            elif task in KINDS:
                cases = fill_cases(options.data, task, options.limit, prior)
                table(f"inpaint, {task}", inpaint.INPAINT, FILL, filling, cases)
            else:
                scale = int(task.removeprefix("x"))

                def enlarging(d: Defaults, scale: int = scale) -> None:
                    upscale.UPSCALE[scale] = d

                table(
                    f"upscale, {task}",
                    upscale.UPSCALE[scale],
                    ENLARGE,
                    enlarging,
                    enlarge_cases(pictures, scale, prior),
                )


if __name__ == "__main__":
    main()
