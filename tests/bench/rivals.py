"""Compare the speed of sampling with that of other libraries, with the same network, weights and evaluations.

    python tests/bench/rivals.py [--against ddim repaint deepinv] [--networks cifar plain ...] [--side PX ...]
    python tests/bench/rivals.py --whole

The comparison needs diffusers, and uses deepinv if it is installed. The networks have random weights, which take as
long as trained ones, so nothing is downloaded. Each line of a table is a library in a precision: the fastest round and
the median of the rounds, and the speed relative to the first line, also as the median of the rounds. The first line is
the other library in float32, the default of its pipelines. Samplers that need different numbers of network evaluations
are not compared. Each library has a process of its own; the memory and the threads of this project's process are set
up as `restore` does (`restorer/machine/malloc.py`, `threads.py`).

`--side` applies to the network that accepts any size (plain). This project cuts large pictures into tiles, as the
command does; the other libraries have no tiles, and are left out if an evaluation of the whole picture would not fit
into memory.

`--whole` instead times whole commands, from start to written file, with the embedded prior.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from importlib.util import find_spec

import torch
from rival_deepinv import against_deepinv
from rival_diffusers import against_ddim, against_repaint
from rival_networks import NETWORKS, Setting, difference
from rival_race import header
from rival_whole import time_whole_commands

from restorer.machine.memory import available, human_bytes
from restorer.machine.torchvision import import_torchvision

AGAINST = {"ddim": against_ddim, "repaint": against_repaint, "deepinv": against_deepinv}
# Memory of a UNet2DModel relative to `evaluation_bytes`; 1.4 to 2 were measured with 1024 and 1536 pixels.
MEMORY_FACTOR = 2


def main() -> None:
    """Print one table for each network, size and library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", nargs="+", choices=AGAINST, default=list(AGAINST))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["cifar", "plain"])
    parser.add_argument("--side", nargs="+", type=int, help="side of the pictures for plain, in pixels")
    parser.add_argument("--steps", type=int, help="network evaluations (default: 20, celebahq 2)")
    parser.add_argument("--rounds", type=int, help="rounds that are timed (default: 3, celebahq 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--channels-last", action="store_true", help="use this memory format for the others too")
    parser.add_argument("--whole", action="store_true", help="time whole commands instead: inpaint 768x512 pixels")
    options = parser.parse_args()
    import_torchvision()
    print(f"python {shlex.join(sys.argv)}\n{header(options.device)}\n", flush=True)
    rivals = list(options.against)
    if find_spec("deepinv") is None and ("deepinv" in rivals or options.whole):
        print("deepinv is not installed and therefore left out\n")
        rivals = [rival for rival in rivals if rival != "deepinv"]
    if options.whole:
        time_whole_commands(options.steps or 20, options.rounds or 3, options.precisions)
        return
    for name in options.networks:
        layout = NETWORKS[name]
        steps, rounds = options.steps or layout.steps, options.rounds or layout.rounds
        settings = [
            Setting(layout, precision, options.device, layout.side, steps, options.channels_last)
            for precision in options.precisions
        ]
        full = next((setting for setting in settings if setting.precision == "fp32"), None)
        if full is not None:
            print(f"{name}: in fp32 the predictions differ by at most {difference(full):.1e} of the noise level\n")
        for side in (options.side or [layout.side]) if name == "plain" else [layout.side]:
            sized = [replace(setting, side=side) for setting in settings]
            for rival in rivals:
                AGAINST[rival](f"{name} {side}x{side}", filter_fitting(sized), sized, rounds)


def filter_fitting(settings: list[Setting]) -> list[Setting]:
    """Return the settings with which a network can be evaluated on the whole picture at once."""
    room, fitting = available(torch.device(settings[0].device)), []
    room = None if room is None else room // (2 * len(settings))  # the processes of all libraries exist at once
    for setting in settings:
        needed = MEMORY_FACTOR * setting.network_bytes
        if room is None or needed <= room:
            fitting.append(setting)
        else:
            print(
                f"the other library in {setting.precision} is left out at {setting.side} pixels: it needs about "
                f"{human_bytes(needed)} of memory, and {human_bytes(room)} are free for each process"
            )
    return fitting


if __name__ == "__main__":
    main()
