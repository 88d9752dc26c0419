"""How fast this machine is: the time of one evaluation, beside the product of two matrices, and what follows from it.

The floor under an evaluation is its arithmetic over the rate at which the machine multiplies matrices in that
precision. Both are measured in turn, so that whatever else the machine is doing is in both; the fastest of several
runs counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from restorer.diffusion.prior import Prior
from restorer.models.load import PRECISIONS
from restorer.networks.fast.prepacked import plainly
from restorer.priors.tiled import tile_starts
from restorer.tasks.job import OVERLAP

__all__ = ["MATRIX", "SIZES", "Measured", "best_tile", "measure", "seconds_of", "usual_precisions"]

MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the matrices: large enough for their full rate
SIZES = (64, 128, 256, 512)
LEAST, MOST = 3, 20  # runs of each that are timed, by the time there is


@dataclass(frozen=True)
class Measured:
    """One precision at one size.

    Args:
        precision: of the network.
        size: side of the square, in pixels.
        seconds: of one evaluation.
        flop: floating-point operations of one evaluation, an addition and a multiplication being two.
        matrix_rate: of a matrix product in this precision, operations a second.
    """

    precision: str
    size: int
    seconds: float
    flop: int
    matrix_rate: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flop / self.seconds

    @property
    def share(self) -> float:
        """Of the rate of a matrix product."""
        return self.rate / self.matrix_rate


def usual_precisions(device: torch.device) -> tuple[str, ...]:
    """Those that may be worth it on a device: half precision is emulated, and slow, on most processors."""
    return ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")


def measure(prior: Prior, precision: str, size: int, budget: float = 1.0) -> Measured:
    """Time a prior.

    Args:
        prior: not tiled, and of pictures.
        precision: what it computes in, as it is to be called.
        size: side of the square, in pixels.
        budget: seconds, about; the first run, which chooses kernels, is not counted.
    """
    side = MATRIX.get(prior.device.type, MATRIX["cpu"])
    a = torch.randn(side, side, device=prior.device).to(PRECISIONS[precision])
    x = torch.randn(1, prior.channels, size, size, device=prior.device)

    def multiply() -> None:
        _wait(a @ a)

    def evaluate() -> None:
        _wait(prior.denoise(x, 0.4))

    flop = operations(evaluate)
    evaluate()
    multiply()
    seconds, product = _in_turn((evaluate, multiply), budget)
    return Measured(precision, size, seconds, flop, 2 * side**3 / product)


def operations(run: Callable[[], None]) -> int:
    """Floating-point operations of what is run, convolutions computed as they are defined."""
    with plainly(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _wait(x: torch.Tensor) -> None:
    """Until it is there."""
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _in_turn(runs: Sequence[Callable[[], None]], budget: float) -> list[float]:
    """The shortest time of each, in seconds."""
    best, began = [float("inf")] * len(runs), time.perf_counter()
    for count in range(MOST):
        if count >= LEAST and time.perf_counter() - began > budget:
            break
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def best_tile(timings: Sequence[Measured]) -> Measured:
    """The precision and the tile that take the least time for a large picture: what tiles share is computed twice."""

    def a_pixel(timing: Measured) -> float:
        return timing.seconds / (timing.size - min(OVERLAP, timing.size // 4)) ** 2

    return min(timings, key=a_pixel)


def seconds_of(timing: Measured, width: int, height: int, steps: int, tile: int, overlap: int) -> float:
    """What so many evaluations of a result of this size take in such tiles, at the speed a pixel that was measured."""
    tiles = len(tile_starts(width, tile, overlap)) * len(tile_starts(height, tile, overlap))
    seen = tiles * min(tile, width) * min(tile, height)
    return steps * seen * timing.seconds / timing.size**2
