"""Facts about this installation, the first thing to look at when something does not work, and about a picture."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from restorer import __version__
from restorer.errors import ModelError
from restorer.evaluation.map_figures import MapFigures, find_map, map_figures
from restorer.images.files import Picture, to_tensor, visible_pixels
from restorer.images.metadata import RECORD
from restorer.images.uncertainty_map import UncertaintyMap, read_map
from restorer.machine.memory import available, total
from restorer.machine.torchvision import import_torchvision
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.noise import Noise
from restorer.measurement.outliers import Outliers
from restorer.models.devices import PRECISIONS, resolve_device, resolve_dtype
from restorer.models.hub.download import free_bytes
from restorer.models.load import (
    DECOMPRESSING,
    ENLARGING,
    expert_sha256,
    load_blur_estimator,
    load_noise_estimator,
    load_scratch_finder,
    load_stroke_judge,
    weights_folder,
    weights_sha256,
)
from restorer.tasks.denoise import prepare_denoise

__all__ = ["MapBeside", "examine", "examine_map", "examine_picture", "map_beside"]

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "huggingface-hub", "typer", "rich")
VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")

NETWORKS: dict[str, Callable[[], object]] = {
    "blur": load_blur_estimator,
    "enlarge": partial(expert_sha256, ENLARGING),
    "jpeg": partial(expert_sha256, DECOMPRESSING),
    "noise": load_noise_estimator,
    "scratches": load_scratch_finder,
    "strokes": load_stroke_judge,
}
"""The networks that ship beside the embedded model, each with a function that fails if its weights cannot be read."""


def examine() -> dict[str, Any]:
    """Collect the facts about this installation.

    Returns:
        Facts by name, which can all be written as JSON. Memory and disk space are in GB (10^9 bytes).
    """
    device = resolve_device()
    dtype = resolve_dtype("auto", device)  # once: where the choice cannot be kept, each call times both precisions anew
    return {
        "restorer": __version__,
        "installed_in": str(Path(__file__).resolve().parent),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "torchvision_works": _check_torchvision(),
        "device": str(device),
        "precision": next(name for name, own in PRECISIONS.items() if own == dtype),
        "processor": {"threads": torch.get_num_threads(), "cores": os.cpu_count()},
        "cuda": [_gpu(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
        "memory": _memory(),
        "cache": _cache(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "embedded_model": _embedded_model(),
        "embedded_networks": {name: _state_of(load) for name, load in NETWORKS.items()},
    }


def _version(name: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    if name == "torch":  # the metadata may lack the build, such as +cpu
        return str(torch.__version__)
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _check_torchvision() -> bool | str:
    """Return True if torchvision, which training needs, can be imported, and otherwise the reason why it cannot."""
    try:
        import_torchvision()
    except Exception as error:  # an import of compiled code may fail in any way
        return str(error).splitlines()[0][:200]
    return True


def _gpu(index: int) -> dict[str, Any]:
    """Return the name and the memory of a CUDA device."""
    free, total = torch.cuda.mem_get_info(index)
    return {"name": torch.cuda.get_device_name(index), "memory": _gigabytes(total), "free": _gigabytes(free)}


def _memory() -> dict[str, float]:
    """Return the memory of the machine and the part that a restoration may take, if the system reports them."""
    sizes = {"total": total(), "available": available()}
    return {name: _gigabytes(count) for name, count in sizes.items() if count is not None}


def _cache() -> dict[str, Any]:
    """Return the folder of models from the Hub, the space that they take, and the free space."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) if folder.is_dir() else ()
    size = sum(p.stat().st_size for p in files)
    return {"folder": str(folder), "taken": _gigabytes(size), "free": _gigabytes(free_bytes())}


def _embedded_model() -> dict[str, str] | str:
    """Return the folder and the hash of the embedded model, or the error if they cannot be read."""
    try:
        folder = weights_folder()
        return {"folder": str(folder), "sha256": weights_sha256(folder)}
    except (ModelError, OSError) as error:
        return str(error)


def _state_of(load: Callable[[], object]) -> str:
    """Return "ok" if a network that ships with the program can be loaded, and otherwise the reason why it cannot."""
    try:
        load()
    except Exception as error:  # a broken file fails in any way
        return str(error).splitlines()[0][:200]
    return "ok"


def _gigabytes(count: int) -> float:
    """Convert bytes to GB, rounded to two decimals."""
    return round(count / 1e9, 2)


def examine_picture(picture: Picture) -> tuple[Noise, Outliers | None, Jpeg | None]:
    """Return the noise and the outliers of a picture, as `restore denoise` would find them, and its compression."""
    image = to_tensor(picture)
    jpeg = find_jpeg(image, picture.original)
    job = prepare_denoise(image, evidence=visible_pixels(picture), jpeg=jpeg).measured()
    assert job.noise is not None, "denoise always looks for noise"
    return job.noise, job.outliers, jpeg


def examine_map(path: Path) -> tuple[UncertaintyMap, MapFigures] | None:
    """Return a map of the uncertainty and what it says; None for any other file."""
    found = read_map(path)
    return None if found is None else (found, map_figures(found))


@dataclass(frozen=True)
class MapBeside:
    """The map that belongs to a result.

    Args:
        name: The name under which it was written.
        path: Where it lies; None if no map with the record of the result lies beside it.
    """

    name: str
    path: Path | None

    def describe(self) -> str:
        """Return in words where the map lies."""
        if self.path is not None:
            return str(self.path)
        return f"it was written as {self.name}, and no map of this result lies beside it"


def map_beside(result: Path, name: Any, text: str) -> MapBeside | None:
    """Return the map of a result; None if none was made with it.

    Args:
        result: The file of the result.
        name: The name of the map in the record of the result, as far as there is one.
        text: The record as the file of the result holds it. The map holds it too.
    """
    if not isinstance(name, str) or not name:
        return None
    named = result.parent / Path(name).name  # a record may come from anywhere
    for path in (named, find_map(result.parent, Path(), [result.stem])):
        found = None if path is None or not path.is_file() else read_map(path)
        if found is not None and found.text.get(RECORD, "") == text:
            return MapBeside(name, path)
    return MapBeside(name, None)
