"""Which prior, on which device, in which precision: names to objects."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from restorer.diffusion.prior import Prior
from restorer.errors import DeviceError, ModelError, UsageError
from restorer.models.catalogue import EMBEDDED, weights_folder
from restorer.models.checkpoints import load_model
from restorer.models.hub.download import OnBytes, fetch, sha256_of
from restorer.models.hub.references import Plan, files_of, parse, revision_of, weights_of
from restorer.models.latent_pipelines import is_latent, load_latent
from restorer.networks.fast.precision import faster_dtype
from restorer.priors.latent import LatentPrior
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import UNetPrior

__all__ = [
    "EMBEDDED",
    "PRECISIONS",
    "identity",
    "load_prior",
    "precision_name",
    "resolve_device",
    "resolve_dtype",
    "weights_folder",
]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str = "auto") -> torch.device:
    """A device by its name: auto (the GPU where there is one), cpu, cuda, cuda:N.

    Raises:
        DeviceError: it is not there. A run never falls back to the CPU in silence.
        UsageError: no such name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UsageError(f"unknown device {name!r}", "auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError("there is no CUDA device, or this PyTorch was built without CUDA", "use --device cpu")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise DeviceError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices", "use --device cuda")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """A precision by its name: auto is bf16 where the device computes in it natively and faster, else fp32.

    Raises:
        UsageError: no such name.
    """
    if name == "auto":
        if device.type == "cpu":
            return faster_dtype()
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if name not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}", f"auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def precision_name(prior: Prior) -> str:
    """ "fp32", "bf16" or "fp16": what a prior computes in."""
    inner = prior.prior if isinstance(prior, Tiled) else prior
    dtype = inner.dtype if isinstance(inner, UNetPrior) else torch.float32
    return next(name for name, known in PRECISIONS.items() if known == dtype)


@cache
def _load(model: Path, device: torch.device, dtype: torch.dtype) -> UNetPrior:
    if not is_latent(model):
        network, spec = load_model(model)
        return UNetPrior(network, spec, device=device, dtype=dtype)
    network, spec, autoencoder = load_latent(model)
    return LatentPrior(network, spec, autoencoder, device=device, dtype=dtype)


def load_prior(model: str | Path = EMBEDDED, device: str = "auto", precision: str = "auto") -> UNetPrior:
    """A prior, ready to use; the same one if asked again. Of a model that works on latents it is a `LatentPrior`.

    Args:
        model: "photo" (the embedded one), the path of a model folder or file, a name of the catalogue, or
            "org/repo[@rev][:file]" on the Hugging Face Hub. An existing path wins over a name.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, bf16 or fp16.

    Raises:
        ModelError: there is no such model, it cannot be fetched, or it is damaged.
        DeviceError: the device is not there.
        UsageError: an unknown device or precision.
    """
    place = resolve_device(device)
    return _load(find_model(model), place, resolve_dtype(precision, place))


def find_model(
    model: str | Path = EMBEDDED, accept: Callable[[Plan], None] | None = None, on_bytes: OnBytes | None = None
) -> Path:
    """The folder or file of a model by its path or name, fetched from the Hub if need be; an existing path wins.

    Args:
        model: as in `load_prior`.
        accept, on_bytes: as in `restorer.models.hub.download.fetch`.

    Raises:
        ModelError: there is no such model, or it cannot be fetched.
    """
    if Path(model).exists():
        return Path(model).resolve()
    if str(model) == EMBEDDED:
        return weights_folder()
    if isinstance(model, str) and (reference := parse(model)):
        return fetch(reference, accept, on_bytes)
    raise ModelError(
        f"there is no model {str(model)!r}: neither a folder nor a known name",
        f"the embedded prior is {EMBEDDED!r}; restore models list tells the others; on the Hub, ORGANIZATION/NAME",
    )


@cache
def weights_sha256(model: Path) -> str:
    """The SHA-256 of the weights in a model's folder or file, in hexadecimal."""
    return sha256_of(weights_of(model))


@cache
def model_sha256(model: Path) -> str:
    """One SHA-256 for all of a model, in hexadecimal: its weights, and the configurations that say what they mean."""
    return sha256("".join(f"{path.name} {sha256_of(path)}\n" for path in files_of(model)).encode()).hexdigest()


def identity(model: str) -> dict[str, Any]:
    """Which weights a name or path stands for: as it was named, their SHA-256, and the commit of a model of the Hub.

    Raises:
        ModelError: as `find_model`.
    """
    place = find_model(model)
    return {"id": model, "sha256": weights_sha256(place), "revision": revision_of(place)}
