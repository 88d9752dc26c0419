"""Measure the time that a run spends outside its network evaluations.

    PYTHONPATH=. python tests/bench/overhead.py [--side 512 768] [--command] [--pixels]

For each verb at its defaults, on a synthetic picture, it prints the number of evaluations, the time of the fastest one,
the time of sampling, their ratio, and the share of the time outside the evaluations. Upscaling is also measured on a
photograph: its last operation, which makes the result shrink to exactly the input, takes more steps if more pixels are
clipped.

`--command` also times whole processes, alternating with `import torch` alone: the time until the first evaluation of
`restore denoise` begins, and until the command ends. `--pixels` instead times `denoise --steps 2` for several sizes and
prints the exponent of the fitted power law. The memory and the threads of the process are set up as the command does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import as_command  # noqa: F401

# isort: split

import numpy as np
import torch
from PIL import Image

from restorer.models.load import load_prior
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.upscale import prepare_upscale

ROUNDS = 3
PHOTOGRAPH = Path(__file__).resolve().parents[1] / "images" / "gates.jpg"


def synthetic(height: int, width: int) -> torch.Tensor:
    """Return a smooth picture with edges and noise of 25 levels, (3, H, W)."""
    down, across = torch.meshgrid(torch.linspace(0, 20, height), torch.linspace(0, 20, width), indexing="ij")
    x = 0.5 + 0.3 * torch.sin(down) * torch.cos(across).sign()
    return x.repeat(3, 1, 1) + 25 / 255 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))


def photograph(height: int, width: int) -> torch.Tensor:
    """Return a photograph of the tests, resized, (3, H, W) in [0, 1]."""
    with Image.open(PHOTOGRAPH) as image:
        pixels = np.array(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


class EvaluationTimer:
    """A replacement of a prior's `predict` that appends the time of each evaluation to `seconds`."""

    def __init__(self, prior: Any) -> None:
        self.seconds: list[float] = []
        self._predict = prior.predict
        prior.predict = self

    def __call__(self, *args: Any) -> Any:
        """Evaluate the prior and note the time."""
        start = time.perf_counter()
        prediction = self._predict(*args)
        if prediction.x0.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - start)
        return prediction


def time_verb(name: str, prepare: Callable[[], Job], timer: EvaluationTimer) -> None:
    """Time one verb, and print the round that spends the least time outside its evaluations."""
    rows = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        job = prepare()
        prepared = time.perf_counter()
        timer.seconds.clear()
        restored = job.run()
        end = time.perf_counter()
        rows.append((end - prepared, sum(timer.seconds), len(timer.seconds), min(timer.seconds), prepared - start))
        del restored
    sampling, evaluating, count, fastest, preparing = min(rows, key=lambda row: row[0] - row[1])
    print(
        f"{name}: {count} evaluations of {1000 * fastest:.0f} ms (mean {1000 * evaluating / count:.0f}), sampling "
        f"{sampling:.2f} s, {sampling / (count * fastest):.3f} times the evaluations at the speed of the fastest, "
        f"{sampling / evaluating - 1:.1%} outside the evaluations; "
        f"preparation {1000 * preparing:.0f} ms",
        flush=True,
    )


def time_commands(height: int, width: int) -> None:
    """Time whole processes, `import torch` and `restore denoise`, alternately."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noisy.png"
        pixels = (synthetic(height, width).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)
        script = (  # prints the time at which the first evaluation begins
            "import sys, time; from restorer.cli.app import app; import restorer.diffusion.reverse as r, "
            "restorer.priors.unet_prior as u; p = u.UNetPrior.predict; d = []\n"
            "def first(*a, **k):\n  d.append(time.time()); return p(*a, **k)\n"
            "u.UNetPrior.predict = first\n"
            "app(args=sys.argv[1:], standalone_mode=False); print(d[0])"
        )
        runs = {"import torch": [], "first evaluation begins": [], "whole command": []}
        for _ in range(ROUNDS):
            start = time.time()
            subprocess.run([sys.executable, "-c", "import torch"], check=True)
            runs["import torch"].append(time.time() - start)
            command = ["denoise", str(path), "-o", str(Path(folder) / "out.png"), "--overwrite", "-q"]
            start = time.time()
            done = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
            runs["first evaluation begins"].append(float(done.stdout.split()[-1]) - start)
            start = time.time()
            subprocess.run([sys.executable, "-m", "restorer", *command], check=True, capture_output=True)
            runs["whole command"].append(time.time() - start)
    for label, seconds in runs.items():
        print(f"{label}: {min(seconds):.2f} s", flush=True)


def time_sizes(prior: Any) -> None:
    """Time `denoise --steps 2` from .06 to 16 megapixels, in the default tiles."""
    points = []
    for side in (256, 512, 1024, 2048, 4096):
        noisy, best = synthetic(side, side), float("inf")
        for _ in range(ROUNDS if side < 2048 else 1):
            job = prepare_denoise(noisy, 25, steps=2, prior=prior)
            start = time.perf_counter()
            job.run()
            best = min(best, time.perf_counter() - start)
        points.append((side * side, best))
        print(f"{side * side / 1e6:.2f} megapixels, {job.tiles} tiles: {best:.2f} s", flush=True)
    print(f"exponent {np.polyfit(*np.log(np.array(points)).T, 1)[0]:.3f}", flush=True)


def main() -> None:
    """Print one line for each verb, command or size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, nargs=2, default=(512, 768), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--command", action="store_true", help="also time whole processes")
    parser.add_argument("--pixels", action="store_true", help="time pictures of several sizes instead")
    options = parser.parse_args()
    height, width = options.side
    prior = load_prior(device=options.device)
    if options.pixels:
        with torch.inference_mode():
            time_sizes(prior)
        return
    timer = EvaluationTimer(prior)
    noisy = synthetic(height, width)
    clean = noisy.clamp(0, 1)
    thin_lines = torch.zeros(height, width, dtype=torch.bool)
    thin_lines[:: height // 16] = True
    small = torch.nn.functional.interpolate(clean[None], scale_factor=0.25, mode="area")[0]
    shrunk = photograph(height // 4, width // 4)
    with torch.inference_mode():
        time_verb("denoise", lambda: prepare_denoise(noisy, prior=prior), timer)
        time_verb("inpaint", lambda: prepare_inpaint(clean, thin_lines, prior=prior), timer)
        time_verb("upscale x4 of a photograph", lambda: prepare_upscale(shrunk, 4, prior=prior), timer)
        time_verb("upscale x4 of noise", lambda: prepare_upscale(small, 4, prior=prior), timer)
    if options.command:
        time_commands(height, width)


if __name__ == "__main__":
    main()
