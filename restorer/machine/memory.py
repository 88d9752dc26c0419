"""How much memory there is, and how much a restoration takes: known before it begins.

Measured by `tests/bench/memory.py` over 4 to 100 megapixels: what a restoration takes is linear in the pixels of its
result, plus what the network takes for one tile.
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
    "FIXED",
    "HELD",
    "SAMPLING",
    "TWICE",
    "available",
    "check_room",
    "control_groups",
    "foreseen",
    "human_bytes",
    "total",
]

HELD = 42  # bytes a pixel of a picture that is read and prepared: its file, its numbers, its first state
FIXED = 130_000_000  # bytes that any run takes: code that is loaded, a tile's numbers, freed memory that stays
SAMPLING = 84  # more of them while it is sampled, finished and written: the states and estimates of a step
TWICE = 60  # more of them where a second pass follows, which holds what the first began with, and extrapolates
_UNLIMITED = 1 << 60
_GIVEN_BACK = ("inactive_file", "active_file", "slab_reclaimable")  # when somebody asks for it


def available(device: torch.device | str = "cpu") -> int | None:
    """Bytes that may still be taken on a device; None where the system does not tell.

    On the CPU the least of what the system has, what a control group leaves and what `ulimit -v` leaves.
    """
    if str(device).startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [room for room in (_of_system(), _of_group(), _of_process()) if room is not None]
    return max(min(known), 0) if known else None


def foreseen(pixels: int) -> int:
    """Bytes that a restoration takes whose result has so many pixels, beside the network's share."""
    return FIXED + (HELD + SAMPLING) * pixels


def check_room(needed: int, what: str, device: torch.device | str = "cpu") -> None:
    """See that a device has as many bytes.

    Args:
        what: needs them; the subject of the message.

    Raises:
        DeviceError: it has not.
    """
    if (room := available(device)) is not None and needed > room:
        raise DeviceError(
            f"{what} takes about {human_bytes(needed)} of memory, and {human_bytes(room)} are free on {device}",
            "close other programs, or cut it into parts first",
        )


def human_bytes(count: int) -> str:
    """12345678 -> '12.3 MB'."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def total() -> int | None:
    """Bytes that the machine has; None where the system does not tell."""
    with suppress(AttributeError, ValueError, OSError):  # Windows has none of this
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_system() -> int | None:
    if sys.platform == "linux":
        with suppress(OSError, KeyError, ValueError):
            fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
            return 1024 * sum(int(fields[key].split()[0]) for key in ("MemAvailable", "SwapFree"))
    return total()  # more cannot be had


def control_groups(root: Path = Path("/sys/fs/cgroup"), names: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """The folders of this process's control groups, from its own up to the root: a container has one (cgroup v2)."""
    try:
        name = next(line[3:] for line in names.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = root / name.lstrip("/")
    return [group, *(parent for parent in group.parents if parent == root or root in parent.parents)]


def _of_group(root: Path = Path("/sys/fs/cgroup"), names: Path = Path("/proc/self/cgroup")) -> int | None:
    """What the control groups of this process leave."""
    rooms = []
    for group in control_groups(root, names):
        with suppress(OSError, ValueError):  # "max", or no such file at the root
            limit = int((group / "memory.max").read_text())
            taken = int((group / "memory.current").read_text())
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            rooms.append(limit - taken + sum(int(statistics.get(name, 0)) for name in _GIVEN_BACK))
    return min(rooms, default=None)


def _of_process() -> int | None:
    """What `ulimit -v` leaves."""
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
