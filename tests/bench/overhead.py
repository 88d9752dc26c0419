"""What a run costs beside the evaluations of its network: PYTHONPATH=. python tests/bench/overhead.py [--side 512 768]

Of each verb at its defaults, on a made-up picture: evaluations, seconds of one (the fastest of them all), seconds of
sampling, their ratio, and what is spent beside the evaluations. Enlarging also on a photograph, since its last touch,
which makes the result shrink to exactly what was given, takes the more steps the more of it is clipped. With
`--command` whole processes as well, alternating with `import torch` alone: when the first evaluation of `restore
denoise` begins, and when it ends. With `--pixels` the time of `denoise --steps 2` against the pixels instead, and the
exponent of the line through it. All of it with what the command tells its process about memory and threads.
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


def picture(height: int, width: int) -> torch.Tensor:
    """Something smooth with edges, and noise of 25 levels: (3, H, W)."""
    down, across = torch.meshgrid(torch.linspace(0, 20, height), torch.linspace(0, 20, width), indexing="ij")
    x = 0.5 + 0.3 * torch.sin(down) * torch.cos(across).sign()
    return x.repeat(3, 1, 1) + 25 / 255 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))


def photograph(height: int, width: int) -> torch.Tensor:
    """One of those that the tests have, shrunk: (3, H, W)."""
    with Image.open(PHOTOGRAPH) as image:
        pixels = np.array(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


class Timed:
    """Times a prior's evaluations."""

    def __init__(self, prior: Any) -> None:
        self.seconds: list[float] = []
        self._predict = prior.predict
        prior.predict = self

    def __call__(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        prediction = self._predict(*arguments)
        if prediction.x0.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - began)
        return prediction


def compare(name: str, prepare: Callable[[], Job], timed: Timed) -> None:
    """One verb: the round that spends the least beside its evaluations."""
    rows = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        job = prepare()
        decided = time.perf_counter()
        timed.seconds.clear()
        restored = job.run()
        ended = time.perf_counter()
        rows.append((ended - decided, sum(timed.seconds), len(timed.seconds), min(timed.seconds), decided - began))
        del restored
    sampling, inside, count, one, deciding = min(rows, key=lambda row: row[0] - row[1])
    print(
        f"{name}: {count} evaluations of {1000 * one:.0f} ms (mean {1000 * inside / count:.0f}), sampling "
        f"{sampling:.2f} s, {sampling / (count * one):.3f} times evaluations times one, "
        f"{sampling / inside - 1:.1%} beside them; "
        f"deciding {1000 * deciding:.0f} ms",
        flush=True,
    )


def commands(height: int, width: int) -> None:
    """Whole processes: `import torch`, and `restore denoise`, alternating."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "noisy.png"
        pixels = (picture(height, width).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(place)
        tell = (
            "import sys, time; from restorer.cli.app import app; import restorer.diffusion.reverse as r, "
            "restorer.priors.unet_prior as u; p = u.UNetPrior.predict; d = []\n"
            "def first(*a, **k):\n  d.append(time.time()); return p(*a, **k)\n"
            "u.UNetPrior.predict = first\n"
            "app(args=sys.argv[1:], standalone_mode=False); print(d[0])"
        )
        runs = {"import torch": [], "first evaluation begins": [], "whole command": []}
        for _ in range(ROUNDS):
            began = time.time()
            subprocess.run([sys.executable, "-c", "import torch"], check=True)
            runs["import torch"].append(time.time() - began)
            command = ["denoise", str(place), "-o", str(Path(folder) / "out.png"), "--overwrite", "-q"]
            began = time.time()
            done = subprocess.run([sys.executable, "-c", tell, *command], check=True, capture_output=True, text=True)
            runs["first evaluation begins"].append(float(done.stdout.split()[-1]) - began)
            began = time.time()
            subprocess.run([sys.executable, "-m", "restorer", *command], check=True, capture_output=True)
            runs["whole command"].append(time.time() - began)
    for label, seconds in runs.items():
        print(f"{label}: {min(seconds):.2f} s", flush=True)


def pixels(prior: Any) -> None:
    """From .06 to 16 megapixels, tiles as they are by default."""
    found = []
    for side in (256, 512, 1024, 2048, 4096):
        noisy, best = picture(side, side), float("inf")
        for _ in range(ROUNDS if side < 2048 else 1):
            job = prepare_denoise(noisy, 25, steps=2, prior=prior)
            began = time.perf_counter()
            job.run()
            best = min(best, time.perf_counter() - began)
        found.append((side * side, best))
        print(f"{side * side / 1e6:.2f} megapixels, {job.tiles} tiles: {best:.2f} s", flush=True)
    print(f"exponent {np.polyfit(*np.log(np.array(found)).T, 1)[0]:.3f}", flush=True)


def main() -> None:
    """Print one line a verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, nargs=2, default=(512, 768), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--command", action="store_true")
    parser.add_argument("--pixels", action="store_true")
    options = parser.parse_args()
    height, width = options.side
    prior = load_prior(device=options.device)
    if options.pixels:
        with torch.inference_mode():
            pixels(prior)
        return
    timed = Timed(prior)
    noisy = picture(height, width)
    clean = noisy.clamp(0, 1)
    thin = torch.zeros(height, width, dtype=torch.bool)
    thin[:: height // 16] = True
    small = torch.nn.functional.interpolate(clean[None], scale_factor=0.25, mode="area")[0]
    shrunk = photograph(height // 4, width // 4)
    with torch.inference_mode():
        compare("denoise", lambda: prepare_denoise(noisy, prior=prior), timed)
        compare("inpaint", lambda: prepare_inpaint(clean, thin, prior=prior), timed)
        compare("upscale x4 of a photograph", lambda: prepare_upscale(shrunk, 4, prior=prior), timed)
        compare("upscale x4 of noise", lambda: prepare_upscale(small, 4, prior=prior), timed)
    if options.command:
        commands(height, width)


if __name__ == "__main__":
    main()
