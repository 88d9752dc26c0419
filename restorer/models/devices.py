"""The devices and the precisions that names stand for."""

from __future__ import annotations

import torch

from restorer.errors import DeviceError, UsageError
from restorer.networks.fast.precision import faster_dtype

__all__ = ["DEVICE_NAMES", "PRECISIONS", "count_devices", "resolve_device", "resolve_dtype"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

DEVICE_NAMES = "auto, cpu, cuda, cuda:N, mps, xpu or xpu:N"
"""The names of devices, for messages."""

_MISSING = {
    "cuda": "there is no CUDA device, or this PyTorch was built without CUDA",
    "mps": "there is no Apple GPU, or this PyTorch was built without MPS",
    "xpu": "there is no Intel GPU, or this PyTorch was built without XPU",
}


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device that a name stands for.

    Args:
        name: "auto" (the CUDA device if there is one, else the CPU), "cpu", "cuda", "cuda:N", "mps", "xpu" or "xpu:N",
            in upper or lower case. The devices of Apple and Intel have to be named, because the program has not been
            tested on them.

    Raises:
        DeviceError: The machine does not have the device. A run never falls back to the CPU silently.
        UsageError: The name is unknown.
    """
    kind, _, index = name.strip().lower().partition(":")
    if kind == "auto" and not index:
        return torch.device("cuda" if count_devices("cuda") else "cpu")
    if kind not in ("cpu", *_MISSING) or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UsageError(f"unknown device {name!r}", f"use {DEVICE_NAMES}")
    if kind == "cpu":
        return torch.device("cpu")
    if not (count := count_devices(kind)):
        raise DeviceError(_MISSING[kind], "use --device cpu")
    if index and int(index) >= count:
        devices = f"{count} {kind.upper()} device{'' if count == 1 else 's'}"
        raise DeviceError(f"there is no device {kind}:{index}: {devices}", f"use --device {kind}")
    return torch.device(f"{kind}:{int(index)}" if index else kind)


def count_devices(kind: str) -> int:
    """Return the number of devices of a kind, "cuda", "mps" or "xpu", that PyTorch can use on this machine."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    backend = getattr(torch, kind, None)
    return max(backend.device_count(), 1) if backend is not None and backend.is_available() else 0


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the data type that the name of a precision stands for.

    Args:
        name: "auto", "fp32", "bf16" or "fp16". "auto" is bf16 if the device is known to compute in bf16 natively and
            faster, else fp32, as on the devices of Apple and Intel.
        device: The device that computes.

    Raises:
        UsageError: The name is unknown.
    """
    if name == "auto":
        if device.type == "cpu":
            return faster_dtype()
        is_faster = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if is_faster else torch.float32
    if name not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}", f"use auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
