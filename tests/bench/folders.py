"""How busy a folder of small pictures keeps the network: PYTHONPATH=. python tests/bench/folders.py [--device cpu]"""

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

FOLDERS = ((40, 160, 120), (20, 640, 480))  # pictures, width, height
NOISE = 25.0


def draw(folder: Path, count: int, width: int, height: int) -> None:
    """Smooth colours with white noise, which a PNG takes as long to hold as a photograph's."""
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        noisy = smooth + NOISE * rng.standard_normal(smooth.shape)
        Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(folder / f"{i:03}.png")


class Watch:
    """Adds up the seconds in which the network was evaluating."""

    def __init__(self) -> None:
        self.seconds = 0.0
        usual = UNetPrior.predict

        def predict(prior: UNetPrior, *arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            prediction = usual(prior, *arguments, **named)
            if prior.device.type == "cuda":
                torch.cuda.synchronize(prior.device)
            self.seconds += time.perf_counter() - began
            return prediction

        UNetPrior.predict = predict  # type: ignore[method-assign]


def restored(folder: Path, device: str, watch: Watch) -> tuple[float, float]:
    """Seconds that a run over a folder takes, the model's loading included, and those of the network."""
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        watch.seconds, began = 0.0, time.perf_counter()
        code = run(["denoise", str(folder), "-r", "-o", out, "--device", device, "-q"])
        seconds = time.perf_counter() - began
    if code:
        raise SystemExit(code)
    return seconds, watch.seconds


def main() -> None:
    """One line a folder, the fastest of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    device, watch = given.device, Watch()
    with tempfile.TemporaryDirectory() as place:
        draw(Path(place, "warm"), 1, 64, 64)
        restored(Path(place, "warm"), device, watch)  # what is done only once
        for count, width, height in FOLDERS:
            folder = Path(place, f"{width}x{height}")
            draw(folder, count, width, height)
            wall, busy = min(restored(folder, device, watch) for _ in range(given.rounds))
            print(f"{count} of {width}x{height}: {wall:.2f} s, {100 * busy / wall:.0f} % of it the network", flush=True)


if __name__ == "__main__":
    main()
