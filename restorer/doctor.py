"""What this installation is made of and can use: the first thing to look at when something does not work."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from restorer import __version__
from restorer.errors import ModelError
from restorer.machine.memory import available, total
from restorer.models.hub.download import free_bytes
from restorer.models.load import PRECISIONS, resolve_device, resolve_dtype, weights_folder, weights_sha256
from restorer.training.torchvision import import_torchvision

__all__ = ["examine"]

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "huggingface-hub", "typer", "rich")
VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def examine() -> dict[str, Any]:
    """What there is, by name; everything in it can be written as JSON. Memory and disk in GB (10^9 bytes)."""
    device = resolve_device()
    return {
        "restorer": __version__,
        "installed_in": str(Path(__file__).resolve().parent),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "torchvision_works": _vision(),
        "device": str(device),
        "precision": next(name for name, dtype in PRECISIONS.items() if dtype == resolve_dtype("auto", device)),
        "processor": {"threads": torch.get_num_threads(), "cores": os.cpu_count()},
        "cuda": [_card(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
        "memory": _memory(),
        "cache": _cache(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "embedded_model": _embedded(),
    }


def _version(name: str) -> str | None:
    if name == "torch":  # with its build, which the metadata may not tell
        return str(torch.__version__)
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _vision() -> bool | str:
    """Whether torchvision can be imported, which training wants; or why not."""
    try:
        import_torchvision()
    except Exception as error:  # an import of compiled code may fail in any way
        return str(error).splitlines()[0][:200]
    return True


def _card(index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    return {"name": torch.cuda.get_device_name(index), "memory": _gb(total), "free": _gb(free)}


def _memory() -> dict[str, float]:
    """Of the machine, and how much of it a restoration may take, as far as the system tells."""
    known = {"total": total(), "available": available()}
    return {name: _gb(count) for name, count in known.items() if count is not None}


def _cache() -> dict[str, Any]:
    """Where models of the Hub lie, how much they take, and how much room is left."""
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE)
    taken = (
        sum(p.stat().st_size for p in place.rglob("*") if p.is_file() and not p.is_symlink()) if place.is_dir() else 0
    )
    return {"folder": str(place), "taken": _gb(taken), "free": _gb(free_bytes())}


def _embedded() -> dict[str, str] | str:
    try:
        folder = weights_folder()
        return {"folder": str(folder), "sha256": weights_sha256(folder)}
    except (ModelError, OSError) as error:
        return str(error)


def _gb(count: int) -> float:
    return round(count / 1e9, 2)
