"""Compare deblurring with DPIR and DiffPIR of deepinv, with the same network and kernel, in turn.

python tests/bench/rival_deblur.py FOLDER --every 8 --side 256

Each picture is blurred by the three kernels of `tests/bench/deblur.py`, with noise of 2.55 levels and 8 bits. deepinv
gets the operator whose borders are unknown, as this project has, the level of the noise, and the embedded prior as its
denoiser, each evaluation of which is counted. DPIR has its own schedule of 8 evaluations; DiffPIR the default 100, or
as many as `--steps` says. This project runs with its default, and with as few evaluations as `--own-steps` says. All
run in this process, with the same number of threads, one after the other for each picture, so that other load on the
machine affects them equally.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from blind_deblur import pictures
from deblur import KERNELS, blurred
from torch import Tensor, nn

from restorer.evaluation.metrics import psnr
from restorer.machine.torchvision import import_torchvision
from restorer.models.load import load_prior
from restorer.tasks.deblur import prepare_deblur


class Denoiser(nn.Module):
    """The embedded prior as deepinv calls a denoiser: pictures in [0, 1], and the noise on the same scale."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.calls = load_prior(), 0

    def forward(self, x: Tensor, sigma: float | Tensor, **_: object) -> Tensor:
        """Return pictures (B, 3, H, W) without noise of a standard deviation."""
        self.calls += 1
        level = 2 * float(torch.as_tensor(sigma).flatten()[0])
        return (self.prior.denoise(2 * x - 1, level) + 1) / 2


def rivals(denoiser: Denoiser, kernel: Tensor, size: tuple[int, int], sigma: float, steps: int):
    """Return the operator of deepinv and its two methods by name."""
    import_torchvision()
    import deepinv

    flipped = kernel.flip(0, 1)[None, None]  # of point-symmetric kernels, which these are, no matter
    physics = deepinv.physics.Blur(filter=flipped, padding="valid")
    physics.noise_model = deepinv.physics.GaussianNoise(sigma / 255)
    fidelity = deepinv.optim.data_fidelity.L2()
    return physics, {
        "DPIR": deepinv.optim.DPIR(sigma=sigma / 255, denoiser=denoiser),
        "DiffPIR": deepinv.sampling.DiffPIR(denoiser, fidelity, sigma=sigma / 255, max_iter=steps),
    }


@torch.no_grad()
def main() -> None:
    """Print the mean PSNR, the evaluations and the median time relative to this project's, for each kernel."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("input", type=Path)
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--side", type=int, help="side of the part that is restored; default: the whole picture")
    parser.add_argument("--sigma", type=float, default=2.55)
    parser.add_argument("--steps", type=int, default=100, help="evaluations of DiffPIR")
    parser.add_argument("--own-steps", type=int, nargs="*", default=[6], help="fewer evaluations of this project")
    options = parser.parse_args()
    denoiser = Denoiser()
    for name, kernel in KERNELS.items():
        scores: dict[str, list[float]] = {}
        times: dict[str, list[float]] = {}
        calls: dict[str, int] = {}
        for _, pixels in pictures(options.input, options.every):
            y, true = blurred(pixels[:, : options.side, : options.side], kernel, options.sigma)
            physics, methods = rivals(denoiser, kernel, y.shape[-2:], options.sigma, options.steps)
            down, across = (side // 2 for side in kernel.shape)

            def theirs(method: nn.Module) -> Tensor:
                restored = method(y[None], physics)[0]  # noqa: B023
                return restored[:, down : down + y.shape[-2], across : across + y.shape[-1]].clamp(0, 1)  # noqa: B023

            def own(steps: int | None) -> Tensor:
                used = {"sigma": options.sigma, "steps": steps, "detail": 0, "prior": denoiser.prior}
                return prepare_deblur(y, kernel, **used).run().image  # noqa: B023

            runs = {"restore": lambda: own(None)}
            runs |= {f"restore, {n} steps": lambda n=n: own(n) for n in options.own_steps}
            runs |= {label: lambda method=method: theirs(method) for label, method in methods.items()}
            for label, run in runs.items():
                before, start = denoiser.calls, time.perf_counter()
                result = run()
                times.setdefault(label, []).append(time.perf_counter() - start)
                calls[label] = denoiser.calls - before
                scores.setdefault(label, []).append(psnr((result * 255).round() / 255, true))
        for label, values in scores.items():
            ratio = statistics.median(a / b for a, b in zip(times[label], times["restore"], strict=True))
            count = f", {calls[label]} evaluations" if calls[label] else ""
            score = statistics.mean(values)
            print(f"{name}: {label}: {score:.2f} dB{count}, {ratio:.2f} times the time of restore", flush=True)


if __name__ == "__main__":
    main()
