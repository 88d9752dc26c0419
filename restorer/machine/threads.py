"""How many threads PyTorch gets, and how long they wait for work before they sleep.

PyTorch takes a thread for every core it may run on. A container that is given two of 64 cores by a quota of time, and
not by their numbers, would have 64 threads take turns on two. So they are as many as the control group allows.

GNU's OpenMP lets a thread that has nothing to do turn in circles for some milliseconds, which keeps a core from whoever
else has work for it: noise is drawn by threads of our own, and took 5 ms where it takes 3. A fifth of that time is
still many times what lies between two operations of a network.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from restorer.machine.memory import control_groups

__all__ = ["keep_to_quota", "quota", "wait_briefly"]

TURNS = 60_000  # under a millisecond or a few, by the processor; GNU's OpenMP has 300,000
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def quota(root: Path = Path("/sys/fs/cgroup"), names: Path = Path("/proc/self/cgroup")) -> int | None:
    """Cores that the control groups of this process allow, rounded up; None where there is no limit (cgroup v2)."""
    allowed = []
    for group in control_groups(root, names):
        with suppress(OSError, ValueError):  # "max", or no such file at the root
            used, period = map(int, (group / "cpu.max").read_text().split())
            allowed.append(max(math.ceil(used / period), 1))
    return min(allowed, default=None)


def keep_to_quota(cores: int | None = None) -> None:
    """Say so to PyTorch, before it is imported. OMP_NUM_THREADS decides where it is set.

    Args:
        cores: allowed; by `quota` if left out.
    """
    cores = quota() if cores is None else cores
    if cores is not None and cores < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def wait_briefly() -> None:
    """Say so to GNU's OpenMP, before PyTorch is imported. What the user has set decides."""
    if not any(name in os.environ for name in SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = str(TURNS)
