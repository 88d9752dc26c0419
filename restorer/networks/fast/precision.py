"""The precision in which a processor is faster: measured once, and remembered.

A processor that multiplies bfloat16 natively is usually twice as fast in it, but not every such processor is, and not
with every version of PyTorch; and float32 needs fewer multiplications (`winograd.py`). So where the instructions exist,
one convolution of the embedded prior is timed in both precisions, accelerated as in a run, once for each
processor, version of PyTorch and number of threads. The measurement takes a tenth of a second.
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

from restorer.networks.fast.prepacked import can_prepack
from restorer.networks.fast.replacement import accelerate

__all__ = ["MIN_GAIN", "cache_file", "faster_dtype", "has_bf16", "is_native", "time_convolution"]

MIN_GAIN = 1.1  # how much faster bfloat16 must be to be worth its rounding
WIDTH, SIDE, ROUNDS = 64, 128, 5  # channels, side of the map, and runs of the convolution that is timed
KERNELS = 2  # version of the timed work; a new number makes every machine measure again


def has_bf16() -> bool:
    """Return whether the processor multiplies bfloat16 natively; otherwise it is emulated, and slow."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def is_native(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a device computes in a precision itself, and does not emulate it.

    Args:
        dtype: float32, bfloat16 or float16.
        device: The device. Every GPU computes in float16.
    """
    if dtype == torch.float32:
        return True
    if device.type == "cpu":
        return dtype == torch.bfloat16 and has_bf16()
    if dtype == torch.float16:
        return True
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported()
    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    return False


def faster_dtype(measure: Callable[[torch.dtype], float] | None = None) -> torch.dtype:
    """Return float32 or bfloat16, whichever this processor is faster in.

    Args:
        measure: Function that returns the seconds of the same work in a precision; `time_convolution` if left out.
    """
    if not has_bf16():
        return torch.float32
    cached, threads = _read_cache(), torch.get_num_threads()
    machine = f"{_processor()}, {threads} threads, PyTorch {torch.__version__}, kernels {KERNELS}"
    gain = cached.get(machine)
    if not isinstance(gain, (int, float)):
        measure = measure or time_convolution
        gain = measure(torch.float32) / measure(torch.bfloat16)
        _write_cache({**cached, machine: round(gain, 3)})
    return torch.bfloat16 if gain >= MIN_GAIN else torch.float32


@torch.no_grad()
def time_convolution(dtype: torch.dtype) -> float:
    """Return the seconds of one convolution in a precision, the fastest of several."""
    x = torch.ones(1, WIDTH, SIDE, SIDE, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):  # drawing the weights must not change the caller's random numbers
        network = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, dtype=dtype))
    if can_prepack(x.device, dtype):
        accelerate(network)
    best = float("inf")
    for count in range(ROUNDS + 1):  # the first call chooses the kernel
        began = time.perf_counter()
        network(x)
        if count:
            best = min(best, time.perf_counter() - began)
    return best


def cache_file() -> Path:
    """Return the path of the file that remembers the gains, by processor."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or str(Path.home() / ".cache")
    return Path(base) / "restorer" / "bf16.json"


def _read_cache() -> dict[str, object]:
    with suppress(OSError, ValueError, RuntimeError):
        content = json.loads(cache_file().read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _write_cache(content: dict[str, object]) -> None:
    with suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder; the next run then measures again
        file = cache_file()
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(file)


def _processor() -> str:
    """Return the processor's name, as far as the system reports it."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
