"""Which precision a processor is faster in: measured once, and kept for the next time.

A processor that multiplies bfloat16 natively is usually twice as fast in it, but not everywhere and not with every
version of PyTorch, and fewer multiplications serve in float32 (`winograd.py`). So where the instructions are
there, one convolution of the embedded prior is timed in both, as it is evaluated, once for a processor, a PyTorch and a
number of threads: a tenth of a second.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from restorer.networks.fast.prepacked import can_pack, pack

__all__ = ["GAIN", "cache_file", "faster_dtype", "has_bf16", "time_convolution"]

GAIN = 1.1  # by how much bfloat16 must be faster to be worth its rounding
WIDTH, SIDE, ROUNDS = 64, 128, 5  # of the convolution that is timed
KERNELS = 2  # version of what is timed: counted up where it changes, so that it is timed again


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively; without that, it is emulated and slow."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def faster_dtype(timed: Callable[[torch.dtype], float] | None = None) -> torch.dtype:
    """float32 or bfloat16: what this processor is faster in.

    Args:
        timed: seconds of one and the same work in a precision; `time_convolution` if left out.
    """
    if not has_bf16():
        return torch.float32
    known, threads = _known(), torch.get_num_threads()
    machine = f"{_processor()}, {threads} threads, PyTorch {torch.__version__}, kernels {KERNELS}"
    gain = known.get(machine)
    if not isinstance(gain, (int, float)):
        timed = timed or time_convolution
        gain = timed(torch.float32) / timed(torch.bfloat16)
        _keep({**known, machine: round(gain, 3)})
    return torch.bfloat16 if gain >= GAIN else torch.float32


@torch.no_grad()
def time_convolution(dtype: torch.dtype) -> float:
    """Seconds of one convolution, the fastest of several."""
    x = torch.ones(1, WIDTH, SIDE, SIDE, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):  # weights are drawn, which changes no random numbers of others
        network = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, dtype=dtype))
    if can_pack(x.device, dtype):
        pack(network)
    best = float("inf")
    for count in range(ROUNDS + 1):  # the first one chooses the kernel
        began = time.perf_counter()
        network(x)
        if count:
            best = min(best, time.perf_counter() - began)
    return best


def cache_file() -> Path:
    """Where it is kept, by processor."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or str(Path.home() / ".cache")
    return Path(base) / "restorer" / "bf16.json"


def _known() -> dict[str, object]:
    with suppress(OSError, ValueError, RuntimeError):
        content = json.loads(cache_file().read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _keep(content: dict[str, object]) -> None:
    with suppress(OSError, RuntimeError):  # it is measured again, then; the latter where there is no home
        file = cache_file()
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(file)


def _processor() -> str:
    """Its name, as far as the system tells."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
