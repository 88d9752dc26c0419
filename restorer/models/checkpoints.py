"""Models in the layouts of the Hub: folders of diffusers' `UNet2DModel`, and raw files of guided-diffusion.

    FOLDER/config.json           or FOLDER/unet/config.json
    FOLDER/diffusion_pytorch_model.safetensors, or .bin, beside config.json
    FOLDER/scheduler_config.json or FOLDER/scheduler/scheduler_config.json; beside config.json wins (layout.py)
    FILE.pt, FILE.pt.json        guided-diffusion: weights, and what they do not tell (guided_diffusion.py)

A folder with an autoencoder beside `unet/` works on latents, not on pictures: latent_pipelines.py reads it.

What is written has diffusers' own names and fields, so that `UNet2DModel.from_pretrained` reads the same folder;
`patch_size` (pixel-unshuffle) and `mirrors` are two fields more in config.json. Whatever a model says is checked before
memory is taken for it: the configuration is bounded (configs.py), the file is mapped (weight_files.py), and the network
is built without memory and compared with the file's names and shapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from restorer.errors import ModelError
from restorer.models import guided_diffusion
from restorer.models.configs import (
    LATENT,
    TrainedBetas,
    check_pipeline,
    decoder_of,
    model_spec,
    network_config,
    read_json,
)
from restorer.models.layout import CONFIG, DECODERS, INDEX, PICKLED, SAFETENSORS, SCHEDULER, SCHEDULER_PLACES
from restorer.models.weight_files import check_finite, plain, read_weights
from restorer.networks import NETWORKS, Network, NetworkConfig, UNetConfig
from restorer.priors.unet_prior import ModelSpec

__all__ = [
    "decoder_folder",
    "fitted",
    "load_model",
    "load_unet",
    "places",
    "renamed",
    "save_model",
    "weights_in",
]

MAX_PARAMETERS = 1_500_000_000
LATENT_HINT = "it serves restore generate, or restore upscale where it was made for that"

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)

# The attention of files written before diffusers 0.15.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OWN_FIELDS = ("attention_heads", "time_features")  # not of diffusers' layout: written only where they say something


def save_model(folder: Path, network: Network, spec: ModelSpec, dtype: torch.dtype = torch.float16) -> None:
    """Write network and spec as a model folder; the files appear whole, and none before all are written."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = {k: v for k, v in asdict(spec.network).items() if k not in OWN_FIELDS or v is not None}
    config = {
        "_class_name": next(name for name, kind in NETWORKS.items() if isinstance(spec.network, kind)),
        "sample_size": spec.native_size,
        **({"act_fn": "silu", "time_embedding_type": "positional"} if isinstance(spec.network, UNetConfig) else {}),
        **shape,
        "patch_size": spec.patch_size,
        **({"mirrors": True} if spec.mirrors else {}),
    }
    schedule = spec.schedule
    given = isinstance(schedule, TrainedBetas)
    scheduler = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.steps,
        "beta_schedule": "linear" if given else schedule.name,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        **({"trained_betas": schedule.betas.tolist()} if given else {}),
        "prediction_type": spec.prediction_type,
        "clip_sample": spec.clip,
        "variance_type": "learned_range" if spec.network.out_channels > spec.network.in_channels else "fixed_small",
    }
    for name, content in ((CONFIG, config), (SCHEDULER, scheduler)):
        (folder / f".{name}.partial").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()}
    partial = folder / f".{SAFETENSORS}.partial"
    save_file(state, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it readable by its owner alone
    for name in (CONFIG, SCHEDULER, SAFETENSORS):
        (folder / f".{name}.partial").replace(folder / name)


def load_model(path: Path) -> tuple[Network, ModelSpec]:
    """Read a model: the network on the CPU in the precision of the file, and its spec.

    Args:
        path: a folder, or a weights file: of guided-diffusion, or one that lies in a folder.

    Raises:
        ModelError: a file is missing or damaged, a field has a value that this program does not know, the weights do
            not fit the configuration, or it is no unconditional DDPM of pictures.
    """
    path = Path(path)
    if path.is_file() and path.suffix != ".json":
        state = read_weights(path)
        if guided_diffusion.is_guided(state):
            return _load_guided(path, state)
    root, folder, weights = places(path)
    if part := decoder_folder(root):
        where = index if (index := root / INDEX).is_file() else root / part
        raise ModelError(f"{where} is no model of pictures: {LATENT}", LATENT_HINT)
    return load_unet(folder, weights)


def places(path: Path) -> tuple[Path, Path, Path | None]:
    """The root of a model, the folder of its network, and the weights file where the path names one."""
    folder, weights = (path.parent, path if path.suffix != ".json" else None) if path.is_file() else (path, None)
    return folder.parent if folder.name == "unet" else folder, folder, weights


def decoder_folder(root: Path) -> str | None:
    """The folder below `root` of the autoencoder on whose latents a model works; None where it works on pictures.

    Raises:
        ModelError: model_index.json tells of a model of another kind.
    """
    if (index := root / INDEX).is_file():
        content = read_json(index)
        try:
            check_pipeline(content)
        except ValueError as error:
            raise ModelError(f"{index} is no model for this program: {error}") from error
        if part := decoder_of(content):
            return part
    if not (root / "unet").is_dir():
        return None
    return next((part for part in DECODERS if (root / part / CONFIG).is_file()), None)


def load_unet(folder: Path, weights: Path | None = None, channels: int | None = None) -> tuple[Network, ModelSpec]:
    """The U-Net of a model folder, whatever the pipeline works on.

    Args:
        folder: what holds config.json, or unet/config.json.
        weights: the file of weights, if it is not the usual one.
        channels: what the diffusion runs on, where the network may take a condition beside it: then `spec.network` is
            without that condition, and the network's own `config` with it. None for all that it takes.

    Raises:
        ModelError: as `load_model`.
    """
    root = folder.parent if folder.name == "unet" else folder
    place = _first([folder / CONFIG, folder / "unet" / CONFIG]).parent
    config = read_json(place / CONFIG)
    try:
        shape = network_config(config)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{place / CONFIG} describes no network that can be used: {error}") from error
    scheduler = _first(root / name for name in SCHEDULER_PLACES["unet/" if place.name == "unet" else ""])
    fields = read_json(scheduler)
    try:
        spec = model_spec(shape, config, fields, channels)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{scheduler}, with {CONFIG}, describes no model that can be used: {error}") from error
    path = weights or weights_in(place)
    state = renamed(read_weights(path))
    try:
        shape = _with_middle_norm(shape, state)
        if config.get("attention_legacy_order", False):
            state = _reordered(state, shape)
    except ValueError as error:
        raise ModelError(f"{path} does not fit its {CONFIG}: {error}") from error
    build: Callable[[], Network] = shape.build
    seen = replace(shape, in_channels=spec.network.in_channels)  # without the condition
    return fitted(path, build, state), replace(spec, network=seen)


def weights_in(folder: Path) -> Path:
    """The weights file of a folder, in the safe format where there is one."""
    return _first([folder / SAFETENSORS, folder / PICKLED])


def _first(places: Iterable[Path]) -> Path:
    """The first path that is there, else the first of all: whoever opens it says that it is missing."""
    places = list(places)
    return next((place for place in places if place.is_file()), places[0])


def _load_guided(path: Path, state: Mapping[str, Tensor]) -> tuple[Network, ModelSpec]:
    beside = _first([path.with_name(f"{path.name}.json"), path.with_suffix(".json")])
    options = read_json(beside) if beside.is_file() else None
    try:
        spec, converted = guided_diffusion.convert(path, state, options)
    except (ValueError, TypeError) as error:
        hint = f"what its weights do not tell (num_heads, num_head_channels, image_size ...) stands in {path.name}.json"
        raise ModelError(f"{path} cannot be used: {error}", hint) from error
    build: Callable[[], Network] = spec.network.build
    return fitted(path, build, converted), spec


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of today for those of the attention before diffusers 0.15, where layers could be 1x1 convolutions."""
    today = {}
    for name, value in state.items():
        parent, _, last = name.rpartition(".")
        block, _, layer = parent.rpartition(".")
        if "attentions." in block and layer in OLD_NAMES:
            name = f"{block}.{OLD_NAMES[layer]}.{last}"
            value = value.flatten(1) if value.ndim > 2 else value
        today[name] = value
    return today


def _with_middle_norm(network: NetworkConfig, state: Mapping[str, Tensor]) -> NetworkConfig:
    """With scale_shift the middle attention has no normalization, unless the weights hold one (forks of diffusers)."""
    if not isinstance(network, UNetConfig) or network.resnet_time_scale_shift == "default":
        return network
    if network.attn_norm_num_groups is None and "mid_block.attentions.0.group_norm.weight" in state:
        return replace(network, attn_norm_num_groups=network.norm_num_groups)
    return network


def _reordered(state: Mapping[str, Tensor], network: NetworkConfig) -> dict[str, Tensor]:
    """Queries, keys and values of forks that cut guided-diffusion's joint weights into thirds as they lay."""
    head_dim = network.attention_head_dim if isinstance(network, UNetConfig) else None
    ordered = dict(state)
    for name in state:
        place, found, kind = name.rpartition(".to_q.")
        if not found:
            continue
        names = [f"{place}.to_{letter}.{kind}" for letter in "qkv"]
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"{plain(missing[0])} is missing")
        joint = torch.cat([state[name] for name in names])
        heads = max(len(joint) // 3 // head_dim, 1) if head_dim else 1
        ordered.update(zip(names, guided_diffusion.split_qkv(joint, heads, by_head=True), strict=True))
    return ordered


def fitted(path: Path, build: Callable[[], AnyNetwork], state: dict[str, Tensor]) -> AnyNetwork:
    """The network with these weights, which are compared with it before it takes memory.

    Args:
        path: of the weights, for messages.
        build: makes the network.
        state: the weights by name.

    Raises:
        ModelError: there is no such network, it is too large, or the weights do not fit it or are not finite.
    """
    try:
        with torch.device("meta"):
            network = build()
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ModelError(f"{path} belongs to a network that cannot be built: {plain(error, 200)}") from error
    if sum(p.numel() for p in network.parameters()) > MAX_PARAMETERS:
        raise ModelError(f"{path} belongs to a network of more than {MAX_PARAMETERS:,} parameters")
    expected = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: value.shape for key, value in state.items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        some = ", ".join(plain(name) for name in wrong[:5])
        raise ModelError(f"{path} does not fit its {CONFIG}: {some} and others, {len(wrong)} in all")
    check_finite(path, state)
    network.load_state_dict(state, assign=True)
    return network
