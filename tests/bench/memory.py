"""Measure the peak memory of the verbs against the pixels of the result, with a network that takes no memory.

    PYTHONPATH=. python tests/bench/memory.py [--most 100] [--real]

Each run prints one line: the increase of the process's memory at its peak, in MB and in bytes per pixel, and the
estimate of `machine.memory`. `--real` uses the embedded prior, whose memory depends on the tile and not on the picture.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = (
    ("denoise", 4, ("--sigma", "25", "--detail", "0")),
    ("denoise", 16, ("--sigma", "25", "--detail", "0")),
    ("denoise", 100, ("--sigma", "25", "--detail", "0")),
    ("denoise", 4, ("--sigma", "25", "--steps", "3")),
    ("denoise", 16, ("--sigma", "25", "--steps", "3")),
    ("inpaint", 4, ("--steps", "3")),
    ("inpaint", 16, ("--steps", "3")),
    ("upscale", 4, ("--scale", "4", "--steps", "2")),
    ("upscale", 16, ("--scale", "4", "--steps", "2")),
    ("upscale", 64, ("--scale", "4", "--steps", "2")),
)


def main() -> None:
    """Do all runs one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=float, default=100, help="megapixels of the largest result")
    parser.add_argument("--real", action="store_true", help="use the embedded prior")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.child[0], float(options.child[1]), options.child[2:], real=options.real)
        return
    for verb, megapixels, arguments in RUNS:
        if megapixels <= options.most:
            flags = ["--real"] if options.real else []
            subprocess.run([sys.executable, __file__, *flags, "--child", verb, str(megapixels), *arguments], check=True)


def measure(verb: str, megapixels: float, arguments: list[str], *, real: bool) -> None:
    """Do one run in this process, in a temporary folder, and print its peak memory."""
    import numpy as np
    from PIL import Image

    from restorer.cli.app import run
    from restorer.machine.memory import estimate_memory
    from restorer.models import load as models_load

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from stubs import Smooth

    if not real:
        models_load.load_prior = lambda *args: Smooth()
    scale = int(arguments[arguments.index("--scale") + 1]) if verb == "upscale" else 1
    side = int((megapixels * 1e6) ** 0.5) // scale
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        blocks = np.random.default_rng(0).integers(0, 256, (side // 16 + 1, side // 16 + 1, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save("in.png")
        if verb == "inpaint":
            Image.fromarray(np.repeat(np.arange(side) % 97 == 0, side).reshape(side, side)).save("mask.png")
            arguments = [*arguments, "--mask", "mask.png"]
        import torch  # loaded before the first measurement of the memory

        torch.randn(8) @ torch.randn(8)
        before = read_status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        code = run([verb, "in.png", "-o", "out.png", "-q", *arguments])
        increase, pixels = read_status("VmHWM") - before, (scale * side) ** 2
        os.chdir("/")
    print(
        f"{verb} {' '.join(arguments)}: {pixels / 1e6:.1f} megapixels, {increase / 1e6:.0f} MB, "
        f"{increase / pixels:.0f} bytes per pixel, estimated {estimate_memory(pixels) / 1e6:.0f} MB, exit code {code}",
        flush=True,
    )


def read_status(name: str) -> int:
    """Return a field of this process's status in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
