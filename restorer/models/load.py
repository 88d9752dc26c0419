"""The objects that the names of a model, a device and a precision stand for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from restorer.diffusion.calibration import Calibration
from restorer.diffusion.prior import Prior
from restorer.errors import DeviceError, ModelError, UsageError
from restorer.models.calibration import calibration_file, read_calibration
from restorer.models.catalogue import EMBEDDED, weights_folder
from restorer.models.checkpoints import load_model
from restorer.models.foreign import explained
from restorer.models.hub.download import OnBytes, fetch, sha256_of
from restorer.models.hub.references import Snapshot, find_revision, model_files, parse_reference, weights_file
from restorer.models.latent_pipelines import is_latent, load_latent
from restorer.networks.fast.precision import faster_dtype
from restorer.networks.noise_estimator import NoiseEstimator
from restorer.priors.experts import Experts
from restorer.priors.latent import LatentPrior
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import UNetPrior

__all__ = [
    "EMBEDDED",
    "PRECISIONS",
    "calibration_of",
    "find_calibration",
    "identity",
    "load_noise_estimator",
    "load_prior",
    "measuring_prior",
    "precision_name",
    "resolve_device",
    "resolve_dtype",
    "weights_folder",
    "with_first_expert",
]

ENLARGING = "enlarge"
"""The folder of the network that gives the first answer of an enlargement."""

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
        is_faster = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if is_faster else torch.float32
    if name not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}", f"use auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def precision_name(prior: Prior) -> str:
    """Return the name of the precision that a prior computes in: "fp32", "bf16" or "fp16"."""
    inner = prior.prior if isinstance(prior, Tiled) else prior
    inner = inner.prior if isinstance(inner, Experts) else inner
    dtype = inner.dtype if isinstance(inner, UNetPrior) else torch.float32
    return next(name for name, known in PRECISIONS.items() if known == dtype)


@cache
def _load(model: Path, device: torch.device, dtype: torch.dtype) -> UNetPrior:
    try:
        prior = _build(model, device, dtype)
        prior.calibration = read_calibration(model)
        return prior
    except ModelError as error:
        raise explained(model, error) from error


def _build(model: Path, device: torch.device, dtype: torch.dtype) -> UNetPrior:
    if not is_latent(model):
        network, spec = load_model(model)
        return UNetPrior(network, spec, device=device, dtype=dtype)
    network, spec, autoencoder = load_latent(model)
    return LatentPrior(network, spec, autoencoder, device=device, dtype=dtype)


def load_prior(model: str | Path = EMBEDDED, device: str = "auto", precision: str = "auto") -> UNetPrior:
    """Return a prior that is ready to use.

    Repeated calls with the same arguments return the same object. The result is a `LatentPrior` for a model that works
    on latents.

    Args:
        model: "photo" (the embedded prior), the path of a model folder or file, a name of the catalogue, or
            "org/repo[@rev][:file]" on the Hugging Face Hub. An existing path takes precedence over a name.
        device: A name as in `resolve_device`.
        precision: "auto", "fp32", "bf16" or "fp16".

    Raises:
        ModelError: The model does not exist, cannot be fetched, or is damaged.
        DeviceError: The machine does not have the device.
        UsageError: The device or the precision is unknown.
    """
    resolved = resolve_device(device)
    return _load(find_model(model), resolved, resolve_dtype(precision, resolved))


def find_calibration(model: str | Path = EMBEDDED) -> Path:
    """Return the file in which the constants of a model lie, whether it exists or not.

    Raises:
        ModelError: As in `find_model`.
    """
    return calibration_file(find_model(model))


def calibration_of(prior: Prior) -> Calibration | None:
    """Return the constants that calibrate the uncertainty of a prior; None if it has none."""
    inner = prior.prior if isinstance(prior, Tiled) else prior
    return inner.calibration if isinstance(inner, UNetPrior) else None


def measuring_prior(prior: Prior) -> UNetPrior:
    """Return the embedded prior on the device and in the precision of another one, or that prior if it is the same.

    What is measured with a prior was calibrated with the embedded one.
    """
    inner = prior.prior if isinstance(prior, Tiled) else prior
    return _load(find_model(EMBEDDED), inner.device, PRECISIONS[precision_name(prior)])


def with_first_expert(prior: Prior) -> Prior | None:
    """Return the embedded prior with the network that gives the first answer of an enlargement.

    Args:
        prior: A prior, tiled or not.

    Returns:
        The pair of networks on the device and in the precision of the prior, tiled alike; None for any other prior,
        beside which there is no such network.
    """
    if isinstance(prior, Tiled):
        inner = with_first_expert(prior.prior)
        return None if inner is None else prior.with_prior(inner)
    if isinstance(prior, Experts):
        return prior
    return _experts(prior) if isinstance(prior, UNetPrior) and measuring_prior(prior) is prior else None


@cache
def _experts(prior: UNetPrior) -> Experts:
    return Experts(prior, _load(weights_folder(ENLARGING), prior.device, prior.dtype))


@cache
def load_noise_estimator() -> NoiseEstimator:
    """Return the network that tells noise from texture (`restorer.networks.noise_estimator`), ready to use.

    Raises:
        ModelError: The installation lacks its weights.
    """
    estimator = NoiseEstimator()
    weights = load_file(weights_folder("noise") / "model.safetensors")
    estimator.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return estimator.eval()


def find_model(
    model: str | Path = EMBEDDED, accept: Callable[[Snapshot], None] | None = None, on_bytes: OnBytes | None = None
) -> Path:
    """Return the folder or file of a model, downloading it from the Hub if necessary.

    Args:
        model: As in `load_prior`. An existing path takes precedence over a name.
        accept: As in `restorer.models.hub.download.fetch`.
        on_bytes: As in `restorer.models.hub.download.fetch`.

    Raises:
        ModelError: The model does not exist, or cannot be fetched.
    """
    if Path(model).exists():
        return Path(model).resolve()
    if str(model) == EMBEDDED:
        return weights_folder()
    if isinstance(model, str) and (reference := parse_reference(model)):
        return fetch(reference, accept, on_bytes)
    raise ModelError(
        f"there is no model {str(model)!r}: it is neither a path nor a known name",
        f"the embedded prior is {EMBEDDED!r}; restore models list prints the others; "
        "a repository of the Hub is ORGANIZATION/NAME",
    )


@cache
def weights_sha256(model: Path) -> str:
    """Return the SHA-256 of the weights in the folder or file of a model, in hexadecimal."""
    return sha256_of(weights_file(model))


@cache
def model_sha256(model: Path) -> str:
    """Return one SHA-256 for all files of a model, in hexadecimal.

    The hash covers the weights and every configuration file that determines how the weights are read.
    """
    return sha256("".join(f"{path.name} {sha256_of(path)}\n" for path in model_files(model)).encode()).hexdigest()


def identity(model: str) -> dict[str, Any]:
    """Return the identity of a model, as results record it.

    Args:
        model: A name or path, as in `load_prior`.

    Returns:
        `id`: The name or path as given. `sha256`: The SHA-256 of the weights. `revision`: The commit of a model of the
        Hub; None for any other model.

    Raises:
        ModelError: As in `find_model`.
    """
    path = find_model(model)
    return {"id": model, "sha256": weights_sha256(path), "revision": find_revision(path)}
