"""The memory that the machine has, and an estimate of the memory that a restoration needs.

The estimate is known before a restoration begins. `tests/bench/memory.py` measured it on 4 to 100 megapixels: the
memory of a restoration is linear in the number of pixels of its result, plus what the network needs for one tile.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.errors import DeviceError

if TYPE_CHECKING:
    import torch

__all__ = [
    "FIXED_BYTES",
    "LOADED_BYTES",
    "SAMPLE_BYTES",
    "SAMPLING_BYTES",
    "SECOND_PASS_BYTES",
    "SPREAD_BYTES",
    "available",
    "check_memory",
    "control_groups",
    "estimate_memory",
    "human_bytes",
    "is_out_of_memory",
    "share_memory",
    "total",
]

FIXED_BYTES = 130_000_000
"""Bytes that any run needs: loaded code, the numbers of one tile, and freed memory that stays in the process."""

LOADED_BYTES = 42
"""Bytes per pixel of a picture that is read and prepared: its file, its numbers and its first state."""

SAMPLING_BYTES = 84
"""Further bytes per pixel while a picture is sampled, finished and written: the states and estimates of a step."""

SECOND_PASS_BYTES = 60
"""Further bytes per pixel if a second pass follows, which keeps the start of the first pass, and extrapolates."""

SPREAD_BYTES = 48
"""Further bytes per pixel if the uncertainty is estimated: an evaluation that is kept, its probes, and the map."""

SAMPLE_BYTES = 12
"""Further bytes per pixel for every sample that is kept."""

_UNLIMITED = 1 << 60
_sharers = 1  # processes that share the free memory of the machine
_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")  # memory that the kernel frees on demand


def available(device: torch.device | str = "cpu") -> int | None:
    """Return the number of bytes that can still be allocated on a device; None if the system does not report it.

    On the CPU, the result is the least of what the system has, what a control group allows and what `ulimit -v` allows.
    Apple's devices share the memory of the system. If several processes share it (`share_memory`), each has its part.
    """
    if (kind := str(device).partition(":")[0]) in ("cuda", "xpu"):
        import torch

        backend = getattr(torch, kind)
        try:
            free, _ = backend.mem_get_info(device)
        except RuntimeError:  # the driver of an Intel device may not tell
            if kind == "cuda":
                raise
            return None
        return free + backend.memory_reserved(device) - backend.memory_allocated(device)
    limits = (_system_memory(), _control_group_memory(), _address_space())
    known = [limit for limit in limits if limit is not None]
    return max(min(known), 0) // _sharers if known else None


def share_memory(processes: int) -> None:
    """Make `available` count only the share of this process, if several like it work on the machine.

    Args:
        processes: Number of these processes, itself included.
    """
    global _sharers
    _sharers = max(processes, 1)


def estimate_memory(pixels: int) -> int:
    """Estimate the bytes that a restoration needs, without the memory of the network.

    Args:
        pixels: number of pixels of the result.
    """
    return FIXED_BYTES + (LOADED_BYTES + SAMPLING_BYTES) * pixels


def check_memory(needed: int, subject: str, device: torch.device | str = "cpu") -> None:
    """Check that a device has enough free memory.

    Args:
        needed: number of bytes.
        subject: what needs them; the subject of the error message.
        device: the device.

    Raises:
        DeviceError: the device has less memory.
    """
    if (room := available(device)) is not None and needed > room:
        raise DeviceError(
            f"{subject} needs about {human_bytes(needed)} of memory, but only {human_bytes(room)} are free on {device}",
            "close other programs, or split the picture into parts",
        )


def human_bytes(count: int) -> str:
    """Return a number of bytes in decimal units: 12345678 gives '12.3 MB'."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def total() -> int | None:
    """Return the bytes of physical memory; None if the system does not report them."""
    with suppress(AttributeError, ValueError, OSError):  # Windows has no `os.sysconf`
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _system_memory() -> int | None:
    """Return the bytes that the system can still allocate, swap included; on other systems than Linux, the total."""
    if sys.platform == "linux":
        with suppress(OSError, KeyError, ValueError):
            fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
            return 1024 * sum(int(fields[key].split()[0]) for key in ("MemAvailable", "SwapFree"))
    return total()


def control_groups(root: Path = Path("/sys/fs/cgroup"), names: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Return the folders of this process's control groups (cgroup v2), from its own up to the root.

    A container has a control group of its own.

    Args:
        root: where the control groups are mounted.
        names: the file that names the control group of this process.
    """
    try:
        name = next(line[3:] for line in names.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = root / name.lstrip("/")
    return [group, *(parent for parent in group.parents if parent == root or root in parent.parents)]


def _control_group_memory(root: Path = Path("/sys/fs/cgroup"), names: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the bytes that the control groups of this process still allow; None if there is no limit."""
    rooms = []
    for group in control_groups(root, names):
        with suppress(OSError, ValueError):  # the limit is "max", or the root has no such file
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            rooms.append(limit - used + sum(int(statistics.get(name, 0)) for name in _RECLAIMABLE))
    return min(rooms, default=None)


def _address_space() -> int | None:
    """Return the bytes that `ulimit -v` still allows; None if there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or not 0 <= limit < _UNLIMITED:
        return None
    with suppress(OSError, ValueError):
        return limit - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out."""
    import torch

    # The allocators of the CPU and of Apple's devices have no exception class of their own.
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text)
    )
