"""The models that names stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache, wraps
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file

from restorer.diffusion.calibration import Calibration
from restorer.diffusion.prior import Prior, PriorWrapper
from restorer.errors import ModelError
from restorer.models.calibration import calibration_file, read_calibration
from restorer.models.catalogue import EMBEDDED, Card, weights_folder
from restorer.models.checkpoints import load_model
from restorer.models.devices import PRECISIONS, resolve_device, resolve_dtype
from restorer.models.differences import DIFFERENCE, add_difference
from restorer.models.foreign import explained
from restorer.models.hub.download import OnBytes, fetch, sha256_of
from restorer.models.hub.references import Snapshot, find_revision, model_files, parse_reference, weights_file
from restorer.models.latent_pipelines import is_latent, load_latent
from restorer.networks.blur_estimator import BlurEstimator
from restorer.networks.noise_estimator import NoiseEstimator
from restorer.networks.scratch_finder import ScratchFinder
from restorer.networks.stroke_judge import StrokeJudge
from restorer.priors.experts import BOUNDARY, Experts, Shifted
from restorer.priors.latent import LatentPrior
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import UNetPrior

__all__ = [
    "DECOMPRESSING",
    "EMBEDDED",
    "ENLARGING",
    "Model",
    "calibration_of",
    "expert_sha256",
    "find_calibration",
    "first_expert_identity",
    "identity",
    "load_blur_estimator",
    "load_noise_estimator",
    "load_prior",
    "load_scratch_finder",
    "load_stroke_judge",
    "look_up",
    "measuring_prior",
    "precision_name",
    "weights_folder",
    "with_first_expert",
]

ENLARGING, DECOMPRESSING = "enlarge", "jpeg"
"""The folders of the networks that give the first answer: of an enlargement, and of the undoing of a compression."""

T = TypeVar("T")
N = TypeVar("N", bound=torch.nn.Module)

REMEMBERED = 8
"""Number of models whose hashes, and number of priors, that are remembered."""


def precision_name(prior: Prior) -> str:
    """Return the name of the precision that a prior computes in: "fp32", "bf16" or "fp16"."""
    inner = _without_experts(prior.prior if isinstance(prior, Tiled) else prior)
    dtype = inner.dtype if isinstance(inner, UNetPrior) else torch.float32
    return next(name for name, known in PRECISIONS.items() if known == dtype)


State = tuple[tuple[str, int, int], ...]


def _state(model: Path) -> State:
    """Return the names, sizes and times of the files of a model, which change when it is trained anew."""
    stats = [(path.name, path.stat()) for path in (*model_files(model), calibration_file(model)) if path.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _remembered(function: Callable[[Path], T]) -> Callable[[Path], T]:
    """Return a function of a model that remembers its values as long as the files of the model stay as they are."""
    known = lru_cache(REMEMBERED)(lambda model, state: function(model))

    @wraps(function)
    def remembering(model: Path) -> T:
        return known(model, _state(model))

    remembering.cache_clear = known.cache_clear  # type: ignore[attr-defined]
    return remembering


def _load(model: Path, device: torch.device, dtype: torch.dtype) -> UNetPrior:
    """Return the prior of a model, the same one as long as its files stay as they are.

    The networks of the package stay as they are, and are never forgotten: a prior is the embedded one if it is that
    object.
    """
    if model.parent == weights_folder().parent:
        return _load_embedded(model, device, dtype)
    return _load_any(model, _state(model), device, dtype)


@cache
def _load_embedded(model: Path, device: torch.device, dtype: torch.dtype) -> UNetPrior:
    return _build(model, device, dtype)


@lru_cache(REMEMBERED)
def _load_any(model: Path, state: State, device: torch.device, dtype: torch.dtype) -> UNetPrior:
    try:
        return _build(model, device, dtype)
    except ModelError as error:
        raise explained(model, error) from error


def _build(model: Path, device: torch.device, dtype: torch.dtype) -> UNetPrior:
    prior = _build_plain(model, device, dtype)
    prior.calibration = read_calibration(model)
    return prior


def _build_plain(model: Path, device: torch.device, dtype: torch.dtype) -> UNetPrior:
    if model.parent == weights_folder().parent and (model / DIFFERENCE).is_file():
        network, spec = load_model(weights_folder())
        network.load_state_dict(add_difference(model / DIFFERENCE, network.state_dict()), assign=True)
        return UNetPrior(network, spec, device=device, dtype=dtype)
    if not is_latent(model):
        network, spec = load_model(model)
        return UNetPrior(network, spec, device=device, dtype=dtype)
    network, spec, autoencoder = load_latent(model)
    return LatentPrior(network, spec, autoencoder, device=device, dtype=dtype)


@dataclass(frozen=True)
class Model:
    """A model that has been looked up, so that nobody needs to look it up again.

    Args:
        name: The name or path as given.
        path: Its folder or file on this machine.
        revision: The commit of a model of the Hub; None for any other model.
        card: Its card in the catalogue; None if it has none.
        prior: The prior; None until it is loaded.
    """

    name: str
    path: Path
    revision: str | None = None
    card: Card | None = None
    prior: UNetPrior | Tiled | None = field(default=None, compare=False, repr=False)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of all files of the model, in hexadecimal."""
        return model_sha256(self.path)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The identity of the model, as results record it; see `identity`."""
        return {"id": self.name, "sha256": weights_sha256(self.path), "revision": self.revision}

    def loaded(self, device: str, precision: str) -> Model:
        """Return the model with its prior; the arguments and the errors are those of `load_prior`."""
        return replace(self, prior=load_prior(self, device, precision))


def look_up(model: str) -> Model:
    """Return the model of a name, downloading it from the Hub if necessary.

    Raises:
        ModelError: As in `find_model`.
    """
    path = find_model(model)
    reference = None if Path(model).exists() or model == EMBEDDED else parse_reference(model)
    return Model(model, path, find_revision(path), None if reference is None else reference.card)


def load_prior(model: str | Path | Model = EMBEDDED, device: str = "auto", precision: str = "auto") -> UNetPrior:
    """Return a prior that is ready to use.

    Repeated calls with the same arguments return the same object, unless the files of the model have changed. The
    result is a `LatentPrior` for a model that works on latents.

    Args:
        model: "photo" (the embedded prior), the path of a model folder or file, a name of the catalogue, or
            "org/repo[@rev][:file]" on the Hugging Face Hub. An existing path takes precedence over a name. Or what
            `look_up` has returned.
        device: A name as in `resolve_device`.
        precision: "auto", "fp32", "bf16" or "fp16".

    Raises:
        ModelError: The model does not exist, cannot be fetched, or is damaged.
        DeviceError: The machine does not have the device.
        UsageError: The device or the precision is unknown.
    """
    resolved = resolve_device(device)
    path = model.path if isinstance(model, Model) else find_model(model)
    return _load(path, resolved, resolve_dtype(precision, resolved))


def find_calibration(model: str | Path = EMBEDDED) -> Path:
    """Return the file in which the constants of a model lie, whether it exists or not.

    Raises:
        ModelError: As in `find_model`.
    """
    return calibration_file(find_model(model))


def calibration_of(prior: Prior) -> Calibration | None:
    """Return the constants that calibrate the uncertainty of a prior; None if it has none."""
    while isinstance(prior, PriorWrapper):  # in tiles, or beside the network of the first answer
        prior = prior.prior
    return prior.calibration if isinstance(prior, UNetPrior) else None


def measuring_prior(prior: Prior) -> UNetPrior:
    """Return the embedded prior on the device and in the precision of another one, or that prior if it is the same.

    What is measured with a prior was calibrated with the embedded one.
    """
    inner = prior.prior if isinstance(prior, Tiled) else prior
    return _load(weights_folder(), inner.device, PRECISIONS[precision_name(prior)])


def with_first_expert(prior: Prior, name: str = ENLARGING, missing: tuple[int, int] = (0, 0)) -> Prior | None:
    """Return the embedded prior with a network that gives the first answer.

    Args:
        prior: A prior, tiled or not.
        name: Which network: `ENLARGING` or `DECOMPRESSING`.
        missing: Number of rows and columns of the first blocks of a JPEG file that are missing in the picture.

    Returns:
        The pair of networks on the device and in the precision of the prior, tiled alike; None for any other prior,
        beside which there is no such network.
    """
    if isinstance(prior, Tiled):
        inner = with_first_expert(prior.prior, name, missing)
        return None if inner is None else prior.with_prior(inner)
    plain = _without_experts(prior)
    if not isinstance(plain, UNetPrior) or measuring_prior(plain) is not plain:
        return None
    return prior if isinstance(prior, Experts) and prior.name == name == ENLARGING else _experts(prior, name, missing)


def first_expert_identity(prior: Prior, name: str = ENLARGING) -> dict[str, Any] | None:
    """Return the identity of a network that gave the first answer, as results record it; None if it gave none.

    Args:
        prior: The prior that was used, tiled or not.
        name: Which network.
    """
    while isinstance(prior, PriorWrapper):
        if isinstance(prior, Experts) and prior.name == name:
            return {"id": name, "sha256": expert_sha256(name)}
        prior = prior.prior
    return None


def expert_sha256(name: str) -> str:
    """Return the SHA-256 of the weights of a network that gives the first answer, in hexadecimal."""
    folder = weights_folder(name)
    return weights_sha256(folder / DIFFERENCE if (folder / DIFFERENCE).is_file() else folder)


def _without_experts(prior: Prior) -> Prior:
    """Return the prior beside which networks give the first answer."""
    while isinstance(prior, Experts):
        prior = prior.prior
    return prior


@lru_cache(maxsize=32)
def _experts(prior: UNetPrior | Experts, name: str, missing: tuple[int, int]) -> Experts:
    first: Prior = _load(weights_folder(name), prior.device, PRECISIONS[precision_name(prior)])
    first = first if missing == (0, 0) else Shifted(first, missing)
    return Experts(prior, first, name, BOUNDARY if name == DECOMPRESSING else 0.0)


@cache
def load_noise_estimator() -> NoiseEstimator:
    """Return the network that tells noise from texture (`restorer.networks.noise_estimator`), ready to use.

    Raises:
        ModelError: The installation lacks its weights.
    """
    return _filled(NoiseEstimator(), _own_weights("noise"))


@cache
def load_scratch_finder(device: torch.device | str = "cpu") -> ScratchFinder:
    """Return the network that finds scratches (`restorer.networks.scratch_finder`), ready to use.

    Args:
        device: Device to run on.

    Raises:
        ModelError: The installation lacks its weights.
    """
    return _filled(ScratchFinder(), _own_weights("scratches")).to(device)


@cache
def load_stroke_judge() -> StrokeJudge:
    """Return the network that judges what is said of scratches (`restorer.networks.stroke_judge`), ready to use.

    Raises:
        ModelError: The installation lacks its weights.
    """
    return _filled(StrokeJudge(), _own_weights("scratches", "judge"))


@cache
def load_blur_estimator() -> BlurEstimator:
    """Return the network that finds the blur of a picture (`restorer.networks.blur_estimator`), ready to use.

    Raises:
        ModelError: The installation lacks its weights.
    """
    weights = _own_weights("blur")
    return _filled(BlurEstimator(members=1 + max(int(name.split(".")[1]) for name in weights)), weights)


def _own_weights(name: str, part: str = "model") -> dict[str, torch.Tensor]:
    """Return the weights of a network for measuring, in float32, from a file of the folder of that name."""
    weights = load_file(weights_folder(name) / f"{part}.safetensors")
    return {name: weight.float() for name, weight in weights.items()}


def _filled(network: N, weights: dict[str, torch.Tensor]) -> N:
    """Return a network with these weights, ready to use."""
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


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


@_remembered
def weights_sha256(model: Path) -> str:
    """Return the SHA-256 of the weights in the folder or file of a model, in hexadecimal."""
    return sha256_of(weights_file(model))


@_remembered
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
    return look_up(model).identity
