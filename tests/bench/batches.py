"""What small pictures gain by sharing an evaluation: PYTHONPATH=. python tests/bench/batches.py [--device cpu]"""

from __future__ import annotations

import argparse
import time

import torch

from restorer.models.load import load_prior

SIDES, BATCHES, ROUNDS = (32, 64, 128, 256), (1, 2, 4, 8), 5


def main() -> None:
    """One line a size: the time of a batch as a multiple of that of one picture, the fastest of several rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    prior = load_prior(device=parser.parse_args().device)
    for side in SIDES:
        seconds = {}
        for batch in BATCHES:
            x = torch.randn(batch, prior.channels, side, side, device=prior.device)
            times = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                prior.denoise(x, 0.4).sum().item()
                times.append(time.perf_counter() - began)
            seconds[batch] = min(times[1:])
        ratios = ", ".join(f"{batch}: {seconds[batch] / seconds[1]:.1f}" for batch in BATCHES[1:])
        print(f"{side}x{side}: one {1000 * seconds[1]:.1f} ms; times as long for {ratios}", flush=True)


if __name__ == "__main__":
    main()
