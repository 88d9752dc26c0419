"""Measure how busy a folder of small pictures keeps the network.

PYTHONPATH=. python tests/bench/folders.py [--device cpu]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from restorer.cli.app import run
from restorer.priors.unet_prior import UNetPrior

FOLDERS = ((40, 160, 120), (20, 640, 480))  # number of pictures, width, height
NOISE = 25.0  # standard deviation in levels


def write_pictures(folder: Path, count: int, width: int, height: int) -> None:
    """Write PNG files of smooth colours and white noise, which take as long to compress as noisy photographs."""
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        noisy = smooth + NOISE * rng.standard_normal(smooth.shape)
        Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(folder / f"{i:03}.png")


class Stopwatch:
    """The total time of the network evaluations since `seconds` was last set to zero.

    Creating a stopwatch replaces `UNetPrior.predict`.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        original = UNetPrior.predict

        def predict(prior: UNetPrior, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            prediction = original(prior, *args, **kwargs)
            if prior.device.type == "cuda":
                torch.cuda.synchronize(prior.device)
            self.seconds += time.perf_counter() - start
            return prediction

        UNetPrior.predict = predict  # type: ignore[method-assign]


def time_run(folder: Path, device: str, stopwatch: Stopwatch) -> tuple[float, float]:
    """Return the seconds of a run over a folder, loading of the model included, and those of the network alone."""
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        stopwatch.seconds, start = 0.0, time.perf_counter()
        code = run(["denoise", str(folder), "-r", "-o", out, "--device", device, "-q"])
        seconds = time.perf_counter() - start
    if code:
        raise SystemExit(code)
    return seconds, stopwatch.seconds


def main() -> None:
    """Print one line for each folder, the fastest of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    device, stopwatch = options.device, Stopwatch()
    with tempfile.TemporaryDirectory() as parent:
        write_pictures(Path(parent, "warm-up"), 1, 64, 64)
        time_run(Path(parent, "warm-up"), device, stopwatch)  # work that a process does only once
        for count, width, height in FOLDERS:
            folder = Path(parent, f"{width}x{height}")
            write_pictures(folder, count, width, height)
            total, busy = min(time_run(folder, device, stopwatch) for _ in range(options.rounds))
            print(
                f"{count} pictures of {width}x{height}: {total:.2f} s, {100 * busy / total:.0f} % of it in the network",
                flush=True,
            )


if __name__ == "__main__":
    main()
