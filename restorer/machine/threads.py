"""The number of threads that PyTorch uses, and how long they wait for work before they sleep.

PyTorch uses a thread for every core that it may run on. A container may be limited to two of 64 cores by a quota of
CPU time rather than by core numbers; there, 64 threads would take turns on two cores. The number of threads is
therefore limited to what the control group allows.

GNU OpenMP lets an idle thread spin for some milliseconds, which keeps a core from other threads that have work. The
program's own threads, which draw noise, took 5 ms instead of 3 ms because of that. A fifth of the default spin time is
still many times the interval between two operations of a network.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from restorer.machine.memory import control_groups

__all__ = ["cpu_quota", "keep_to_quota", "shorten_spin_wait"]

SPIN_COUNT = 60_000
"""Spins of an idle thread, which take from less than a millisecond to a few, depending on the processor.

The default of GNU OpenMP is 300,000.
"""

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables with which a user sets the waiting time; if one of them is set, nothing is changed."""


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), names: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the number of cores that the control groups of this process allow (cgroup v2).

    Args:
        root: where the control groups are mounted.
        names: the file that names the control group of this process.

    Returns:
        The number of cores, rounded up; None if there is no limit.
    """
    allowed = []
    for group in control_groups(root, names):
        with suppress(OSError, ValueError):  # the limit is "max", or the root has no such file
            quota, period = map(int, (group / "cpu.max").read_text().split())
            allowed.append(max(math.ceil(quota / period), 1))
    return min(allowed, default=None)


def keep_to_quota(cores: int | None = None) -> None:
    """Limit the threads of PyTorch to the allowed cores; call this function before PyTorch is imported.

    OMP_NUM_THREADS has priority if it is set.

    Args:
        cores: number of allowed cores; None stands for the result of `cpu_quota`.
    """
    cores = cpu_quota() if cores is None else cores
    if cores is not None and cores < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def shorten_spin_wait() -> None:
    """Shorten the time for which idle threads of GNU OpenMP spin; call this function before PyTorch is imported."""
    if not any(name in os.environ for name in SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
