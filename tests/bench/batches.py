"""Measure the time that small pictures save by sharing an evaluation.

PYTHONPATH=. python tests/bench/batches.py [--device cpu]
"""

from __future__ import annotations

import argparse
import time

import torch

from restorer.models.load import load_prior

SIDES, BATCHES, ROUNDS = (32, 64, 128, 256), (1, 2, 4, 8), 5


def main() -> None:
    """Print one line for each size: the time of each batch relative to one picture, the fastest of several rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    prior = load_prior(device=parser.parse_args().device)
    for side in SIDES:
        seconds = {}
        for batch in BATCHES:
            x = torch.randn(batch, prior.channels, side, side, device=prior.device)
            times = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                prior.denoise(x, 0.4).sum().item()
                times.append(time.perf_counter() - start)
            seconds[batch] = min(times[1:])
        ratios = ", ".join(f"{seconds[batch] / seconds[1]:.1f} times for {batch}" for batch in BATCHES[1:])
        print(f"{side}x{side}: {1000 * seconds[1]:.1f} ms for one picture; {ratios}", flush=True)


if __name__ == "__main__":
    main()
