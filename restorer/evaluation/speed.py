"""The speed of this machine: the time of one network evaluation, compared with that of a matrix product.

The yardstick is the time of as many operations at the rate at which the machine multiplies matrices in the same
precision. An evaluation may be faster than that, because 3x3 convolutions in fp32 take half the multiplications that
are counted (Winograd's algorithm). The evaluation and the matrix product are timed alternately, so that other
load on the machine affects both, and the fastest of several runs counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from restorer.diffusion.prior import Prior
from restorer.models.devices import PRECISIONS
from restorer.networks.fast.precision import is_native
from restorer.networks.fast.prepacked import unaccelerated
from restorer.priors.tiled import tile_starts
from restorer.tasks.tiles import OVERLAP

__all__ = [
    "MATRIX",
    "SIZES",
    "Speed",
    "best_tile",
    "candidates",
    "count_operations",
    "estimate_seconds",
    "measure",
    "usual_precisions",
]

MATRIX = {"cpu": 2048, "mps": 4096, "cuda": 8192, "xpu": 8192}  # side of the matrices, large enough for the full rate
SIZES = (64, 128, 256, 512)  # sides of the squares that are timed by default, in pixels
MIN_RUNS, MAX_RUNS = 3, 20  # number of runs that are timed, depending on the time available


@dataclass(frozen=True)
class Speed:
    """The speed of the network in one precision at one size.

    Args:
        precision: Precision of the network.
        size: Side of the square that is evaluated, in pixels.
        seconds: Time of one evaluation.
        flop: Floating-point operations of one evaluation; an addition and a multiplication are two operations.
        matrix_rate: Rate of a matrix product in this precision, in operations per second.
    """

    precision: str
    size: int
    seconds: float
    flop: int
    matrix_rate: float

    @property
    def rate(self) -> float:
        """Rate of the network, in operations per second."""
        return self.flop / self.seconds

    @property
    def share(self) -> float:
        """Rate of the network divided by that of a matrix product."""
        return self.rate / self.matrix_rate


def usual_precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that may be worthwhile on a device: those that it does not emulate."""
    return tuple(name for name in candidates(device) if is_native(PRECISIONS[name], device))


def candidates(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that devices of this type may be fast in.

    fp16 is left out for the CPU, because PyTorch computes most of a network in it by converting every number.
    """
    return ("fp32", "bf16") if device.type == "cpu" else ("fp32", "bf16", "fp16")


def measure(prior: Prior, precision: str, size: int, budget: float = 1.0) -> Speed:
    """Measure the speed of a prior.

    Args:
        prior: A prior that is not tiled and that works on pixels.
        precision: Name of the precision in which the prior computes.
        size: Side of the square to evaluate, in pixels.
        budget: Approximate time to spend, in seconds. The first run, which chooses kernels, is not counted.
    """
    side = MATRIX.get(prior.device.type, MATRIX["cpu"])
    a = torch.randn(side, side, device=prior.device).to(PRECISIONS[precision])
    x = torch.randn(1, prior.channels, size, size, device=prior.device)

    def multiply() -> None:
        _wait_for(a @ a)

    def evaluate() -> None:
        _wait_for(prior.denoise(x, 0.4))

    flop = count_operations(evaluate)
    evaluate()
    multiply()
    seconds, product_seconds = _time_alternately((evaluate, multiply), budget)
    return Speed(precision, size, seconds, flop, 2 * side**3 / product_seconds)


def count_operations(run: Callable[[], None]) -> int:
    """Count the floating-point operations of a function, with each convolution computed by its definition."""
    with unaccelerated(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _wait_for(x: torch.Tensor) -> None:
    """Wait until a tensor is computed."""
    if x.device.type != "cpu":
        torch.accelerator.synchronize(x.device)


def _time_alternately(runs: Sequence[Callable[[], None]], budget: float) -> list[float]:
    """Time functions one after the other, several times, and return the shortest time of each in seconds."""
    best, start_of_all = [float("inf")] * len(runs), time.perf_counter()
    for count in range(MAX_RUNS):
        if count >= MIN_RUNS and time.perf_counter() - start_of_all > budget:
            break
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def best_tile(speeds: Sequence[Speed]) -> Speed:
    """Return the entry whose precision and size, as a tile, take the least time for a large picture.

    The overlap of the tiles is computed twice and therefore does not count as a result.
    """

    def seconds_per_pixel(speed: Speed) -> float:
        return speed.seconds / (speed.size - min(OVERLAP, speed.size // 4)) ** 2

    return min(speeds, key=seconds_per_pixel)


def estimate_seconds(speed: Speed, width: int, height: int, steps: int, tile: int, overlap: int) -> float:
    """Estimate the time of the network evaluations of one result, assuming the same speed per pixel at all sizes.

    Args:
        speed: The measured speed.
        width: Width of the result in pixels.
        height: Height of the result in pixels.
        steps: Number of evaluations of the whole picture.
        tile: Side of a tile in pixels.
        overlap: Number of pixels that neighbouring tiles share.

    Returns:
        Seconds.
    """
    tiles = len(tile_starts(width, tile, overlap)) * len(tile_starts(height, tile, overlap))
    evaluated_pixels = tiles * min(tile, width) * min(tile, height)
    return steps * evaluated_pixels * speed.seconds / speed.size**2
