"""How many threads PyTorch gets: what a control group allows, where that is less than the machine has.

PyTorch takes a thread for every core it may run on. A container that is given two of 64 cores by a quota of time, and
not by their numbers, would have 64 threads take turns on two.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from restorer.memory import control_groups

__all__ = ["keep_to_quota", "quota"]


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
