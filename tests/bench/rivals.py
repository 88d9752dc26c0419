"""Sampling alone against other libraries: the same network, the same weights, as many evaluations, in turn.

    python tests/bench/rivals.py [--against ddim repaint deepinv] [--networks cifar plain ...] [--side PX ...]
    python tests/bench/rivals.py --whole

Needs diffusers; deepinv where it is installed. The networks have random weights, which take as long as good ones, so
nothing is downloaded. Each line is a library in a precision: the fastest of the rounds and their median, and how many
times as fast as the first line it was, by the median of the rounds. The first is theirs in float32, as their pipelines
run unless told otherwise. What takes another number of network evaluations is not compared. Each has a process of its
own; ours is told about memory and threads what `restore` tells its own (`restorer/machine/malloc.py`, `threads.py`).

`--side` is for the network that takes any size (plain). Ours cuts large pictures into tiles, as the command does;
theirs has none, and is left out where an evaluation of the whole picture would not fit into memory.

`--whole` times whole commands instead, from start to the written file, with the embedded prior.
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
from rival_whole import whole

from restorer.machine.memory import available, human_bytes
from restorer.training.torchvision import import_torchvision

AGAINST = {"ddim": against_ddim, "repaint": against_repaint, "deepinv": against_deepinv}
ROOM = 2  # times `evaluation_bytes`; a UNet2DModel was measured at 1.4 to 2 with 1024 and 1536 pixels


def main() -> None:
    """Print one table for each network, size and rival."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", nargs="+", choices=AGAINST, default=list(AGAINST))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["cifar", "plain"])
    parser.add_argument("--side", nargs="+", type=int, help="of the pictures of plain, in pixels")
    parser.add_argument("--steps", type=int, help="network evaluations; default 20, celebahq 2")
    parser.add_argument("--rounds", type=int, help="that are timed; default 3, celebahq 1")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--channels-last", action="store_true", help="this memory format for theirs too")
    parser.add_argument("--graphs", action="store_true", help="record our networks (on a GPU)")
    parser.add_argument("--whole", action="store_true", help="whole commands instead: inpaint 512x768 pixels")
    options = parser.parse_args()
    import_torchvision()
    print(f"python {shlex.join(sys.argv)}\n{header(options.device)}\n", flush=True)
    rivals = list(options.against)
    if find_spec("deepinv") is None and ("deepinv" in rivals or options.whole):
        print("deepinv is not installed: left out\n")
        rivals = [rival for rival in rivals if rival != "deepinv"]
    if options.whole:
        whole(options.steps or 20, options.rounds or 3, options.precisions)
        return
    for name in options.networks:
        layout = NETWORKS[name]
        steps, rounds = options.steps or layout.steps, options.rounds or layout.rounds
        given = {"channels_last": options.channels_last, "graphs": options.graphs}
        settings = [
            Setting(layout, precision, options.device, layout.side, steps, **given) for precision in options.precisions
        ]
        exact = next((setting for setting in settings if setting.precision == "fp32"), None)
        if exact is not None:
            print(f"{name}: in fp32 the predictions differ by {difference(exact):.1e} of the noise at most\n")
        for side in (options.side or [layout.side]) if name == "plain" else [layout.side]:
            sized = [replace(setting, side=side) for setting in settings]
            for rival in rivals:
                AGAINST[rival](f"{name} {side}x{side}", those_that_fit(sized), sized, rounds)


def those_that_fit(settings: list[Setting]) -> list[Setting]:
    """Those whose network can be asked for the whole picture at once."""
    room, fitting = available(torch.device(settings[0].device)), []
    room = None if room is None else room // (2 * len(settings))  # all processes are there at once, theirs and ours
    for setting in settings:
        needed = ROOM * setting.network_bytes
        if room is None or needed <= room:
            fitting.append(setting)
        else:
            told = f"{human_bytes(needed)} of memory, and {human_bytes(room)} are free for each"
            print(f"theirs in {setting.precision} is left out at {setting.side} pixels: it takes about {told}")
    return fitting


if __name__ == "__main__":
    main()
