"""Measure the alternatives to the defaults of the three tasks: one constant is varied at a time.

    python tests/bench/defaults.py DATA [--tasks denoise scratch text random70 box x2 x4] [--vary NAME ...] > table.md

DATA is a folder that contains CBSD68/, Set5/ and masks/ (PNG files). The pictures are squares of 192 pixels from the
middle of the pictures of CBSD68 or, with a mask, from where most of the holes are. The tables give the PSNR in dB (for
inpaint, inside the holes) and the texture, which is the energy above half the Nyquist frequency relative to the truth.
The first row of each table contains the figures of the defaults.
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
from figures import draw_noise, read
from PIL import Image

import restorer
from restorer.diffusion.plan import _t_levels, log_levels
from restorer.evaluation.metrics import high_energy, psnr
from restorer.tasks import common, denoise, inpaint, upscale
from restorer.tasks.defaults import Defaults

SIDE = 192
MASK_KINDS = ("scratch", "text", "random70", "box")

DENOISE = {
    "steps": (2, 4, 8, 12),
    "detail": (0.0, 0.5, 1.0),
    "zeta": (0.1, 0.3),
    "extrapolation": (0.0, 0.5),
}
INPAINT = {
    "steps": (10, 20, 60),
    "detail": (0.0, 0.5, 0.7, 1.0),
    "zeta": (0.0, 0.1, 0.3, 1.0),
    "start": (1.0, 2.0, 5.0, 20.0),
    "prior_variance": (0.25,),
    "extrapolation": (0.0, 1.0),
    "inflation": (0.0, 0.02, 0.04),
    "spacing": ("quadratic",),
}
UPSCALE = {
    "steps": (6, 10, 30),
    "detail": (0.0, 0.3, 0.7, 1.0),
    "zeta": (0.0, 0.3),
    "start": (0.5, 0.75, 1.5, 2.0),
    "prior_variance": (0.25,),
    "extrapolation": (1.0,),
    "inflation": (0.02,),
    "spacing": ("quadratic",),
}

Score = tuple[float, float, float]  # PSNR, high-frequency energy of the result, and that of the truth


def variants(base: Defaults, grid: dict[str, tuple]) -> Iterator[tuple[str, Defaults, str]]:
    """Yield (label, constants, spacing) for the defaults and for each single change of the grid."""
    yield "defaults", base, "log"
    for name, values in grid.items():
        for value in values:
            if name == "spacing":
                yield f"spacing {value}", base, value
                continue
            if name == "start":  # for upscale the grid contains multiples of the default, for inpaint the level itself
                value = value * base.start if grid is UPSCALE else value
            if value != getattr(base, name):
                yield f"{name} {value:g}", replace(base, **{name: value}), "log"


def print_table(
    title: str,
    base: Defaults,
    grid: dict[str, tuple],
    set_defaults: Callable[[Defaults], None],
    cases: Sequence[Callable[[], Score]],
) -> None:
    """Measure all variants of the defaults and print a table.

    Args:
        title: Heading of the table.
        base: The defaults of the task.
        grid: The values to try, by the name of the constant.
        set_defaults: Replaces the defaults of the task.
        cases: Functions that restore one picture each.
    """
    print(f"\n### {title} ({len(cases)} pictures): {base}\n\n| | PSNR | texture |\n|---|---|---|", flush=True)
    for label, constants, spacing in variants(base, grid):
        set_defaults(constants)
        levels = log_levels if spacing == "log" else lambda *a: _t_levels(*a, power=2.0)
        common.log_levels = denoise.log_levels = levels  # type: ignore[attr-defined]
        score, energy, true_energy = np.array([case() for case in cases]).mean(0)
        print(f"| {label} | {score:.2f} | {energy / true_energy:.2f} |", flush=True)
    set_defaults(base)
    common.log_levels = denoise.log_levels = log_levels  # type: ignore[attr-defined]


def find_square(x: torch.Tensor, hole: torch.Tensor | None = None) -> tuple[slice, slice]:
    """Return the rows and columns of the square in the middle of a picture, or where most of the holes are."""
    height, width = x.shape[-2:]
    side = min(SIDE, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    if hole is not None:
        share = F.avg_pool2d(hole.float()[None, None], side, stride=1)[0, 0]
        top, left = divmod(int(share.argmax()), share.shape[1])
    return slice(top, top + side), slice(left, left + side)


def denoise_cases(pictures: list[Path], prior: Any, sigma: float) -> list[Callable[[], Score]]:
    """Return a function for each picture that denoises it and returns its score."""

    def case(i: int, path: Path) -> Score:
        x = read(path)
        x = x[(slice(None), *find_square(x))]
        out = restorer.denoise(x + sigma / 255 * draw_noise(x, i), sigma, prior=prior)
        return psnr(out, x), high_energy(out), high_energy(x)

    return [lambda i=i, path=path: case(i, path) for i, path in enumerate(pictures)]  # type: ignore[misc]


def inpaint_cases(data: Path, kind: str, limit: int, prior: Any) -> list[Callable[[], Score]]:
    """Return a function for each mask of a kind that fills its holes and returns the score."""

    def case(path: Path) -> Score:
        folder, *name, _ = path.stem.split("_")
        x = read(data / folder / f"{'_'.join(name)}.png")
        hole = torch.from_numpy(np.asarray(Image.open(path).convert("L")) >= 128)
        square = find_square(x, hole)
        x, hole = x[(slice(None), *square)], hole[square]
        out = restorer.inpaint(torch.where(hole, 0.5, x), hole, prior=prior)
        out = (out * 255).round() / 255
        # The texture of wide holes is measured inside them.
        regions = [torch.where(hole, z, z.mean()) if kind == "box" else z for z in (out, x)]
        energy, true_energy = map(high_energy, regions)
        return psnr(out[:, hole], x[:, hole]), energy, true_energy

    paths = sorted((data / "masks").glob(f"*_{kind}.png"))
    return [lambda path=path: case(path) for path in paths[:limit]]  # type: ignore[misc]


def upscale_cases(pictures: list[Path], scale: int, prior: Any) -> list[Callable[[], Score]]:
    """Return a function for each picture that shrinks it, enlarges it again, and returns the score."""

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
    """Print one table for each task, and for denoise one for each strength of noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["denoise", *MASK_KINDS, "x2", "x4"])
    parser.add_argument("--limit", type=int, default=8, help="number of pictures for each table")
    parser.add_argument("--vary", nargs="+", default=None, metavar="NAME", help="vary only these constants")
    parser.add_argument("--model", default="photo")
    options = parser.parse_args()
    prior = restorer.load_prior(options.model)
    if options.vary:
        for grid in (DENOISE, INPAINT, UPSCALE):
            for name in grid.keys() - set(options.vary):
                del grid[name]
    paths = sorted((options.data / "CBSD68").glob("*.png"))
    pictures = paths[:: len(paths) // options.limit][: options.limit]

    def set_denoise(d: Defaults) -> None:
        denoise.DENOISE = d  # type: ignore[misc]

    def set_inpaint(d: Defaults) -> None:
        inpaint.INPAINT = d  # type: ignore[misc]

    def set_inpaint_wide(d: Defaults) -> None:
        inpaint.INPAINT_WIDE = d  # type: ignore[misc]

    with torch.inference_mode():
        for task in options.tasks:
            if task == "denoise":
                for sigma in (15, 25, 50):
                    cases = denoise_cases(pictures, prior, sigma)
                    print_table(f"denoise, sigma {sigma}", denoise.DENOISE, DENOISE, set_denoise, cases)
            elif task == "box":
                cases = inpaint_cases(options.data, task, options.limit, prior)
                print_table("inpaint, box", inpaint.INPAINT_WIDE, INPAINT, set_inpaint_wide, cases)
            elif task in MASK_KINDS:
                cases = inpaint_cases(options.data, task, options.limit, prior)
                print_table(f"inpaint, {task}", inpaint.INPAINT, INPAINT, set_inpaint, cases)
            else:
                scale = int(task.removeprefix("x"))

                def set_upscale(d: Defaults, scale: int = scale) -> None:
                    upscale.UPSCALE[scale] = d

                cases = upscale_cases(pictures, scale, prior)
                print_table(f"upscale, {task}", upscale.UPSCALE[scale], UPSCALE, set_upscale, cases)


if __name__ == "__main__":
    main()
