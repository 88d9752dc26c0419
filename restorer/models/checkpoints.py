"""Models in the layouts of the Hub: folders of diffusers' `UNet2DModel`, and raw files of guided-diffusion.

    FOLDER/config.json           or FOLDER/unet/config.json
    FOLDER/diffusion_pytorch_model.safetensors, or .bin, beside config.json
    FOLDER/scheduler_config.json or FOLDER/scheduler/scheduler_config.json; the one beside config.json wins (layout.py)
    FILE.pt, FILE.pt.json        guided-diffusion: weights, and the options they do not contain (guided_diffusion.py)

A folder with an autoencoder beside `unet/` holds a model of latents, not of images: latent_pipelines.py reads it.

Folders are written with diffusers' own names and fields, so that `UNet2DModel.from_pretrained` reads them too;
config.json has the additional field `patch_size` (pixel-unshuffle) and, only if they are set, `mirrors` and those of
`OWN_FIELDS`. Everything that a model states is checked before memory is allocated for it: the configuration is bounded
(configs.py), the file is mapped (weight_files.py), and the network is built without memory and compared with the names
and shapes in the file.
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
    decoder_in_index,
    model_spec,
    network_config,
    read_json,
)
from restorer.models.layout import CONFIG, DECODERS, INDEX, PICKLED, SAFETENSORS, SCHEDULER, SCHEDULER_PLACES
from restorer.models.weight_files import check_finite, printable, read_weights
from restorer.networks import NETWORKS, Network, NetworkConfig, UNetConfig
from restorer.priors.unet_prior import ModelSpec

__all__ = [
    "build_with_weights",
    "find_decoder",
    "find_weights",
    "load_model",
    "load_unet",
    "locate_parts",
    "modernize_names",
    "save_model",
]

MAX_PARAMETERS = 1_500_000_000
LATENT_HINT = "it serves restore generate, or restore upscale if it was made for super-resolution"

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)

# The names of the attention layers before diffusers 0.15, and their names today.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OWN_FIELDS = ("attention_heads", "time_features")  # Diffusers' layout lacks these, so they are written only if set.


def save_model(folder: Path, network: Network, spec: ModelSpec, dtype: torch.dtype = torch.float16) -> None:
    """Write a network and its spec as a model folder.

    Each file appears complete, and no file appears before all of them are written.

    Args:
        folder: The folder, which is created if necessary; existing files are replaced.
        network: The network whose weights are written.
        spec: The spec of the network.
        dtype: The data type of the written weights.
    """
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
    has_trained_betas = isinstance(schedule, TrainedBetas)
    scheduler = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.steps,
        "beta_schedule": "linear" if has_trained_betas else schedule.name,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        **({"trained_betas": schedule.betas.tolist()} if has_trained_betas else {}),
        "prediction_type": spec.prediction_type,
        "clip_sample": spec.clip,
        "variance_type": "learned_range" if spec.network.out_channels > spec.network.in_channels else "fixed_small",
    }
    for name, content in ((CONFIG, config), (SCHEDULER, scheduler)):
        (folder / f".{name}.partial").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()}
    partial = folder / f".{SAFETENSORS}.partial"
    save_file(state, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes the file readable only by its owner
    for name in (CONFIG, SCHEDULER, SAFETENSORS):
        (folder / f".{name}.partial").replace(folder / name)


def load_model(path: Path) -> tuple[Network, ModelSpec]:
    """Read a model of images.

    Args:
        path: A model folder, a weights file in such a folder, or a raw file of guided-diffusion.

    Returns:
        The network, on the CPU and in the precision of the file, and its spec.

    Raises:
        ModelError: A file is missing or damaged, a field has an unknown value, the weights do not fit the
            configuration, or the model is not an unconditional DDPM of images.
    """
    path = Path(path)
    if path.is_file() and path.suffix != ".json":
        state = read_weights(path)
        if guided_diffusion.is_guided_diffusion(state):
            return _load_guided_diffusion(path, state)
    root, folder, weights = locate_parts(path)
    if part := find_decoder(root):
        where = index if (index := root / INDEX).is_file() else root / part
        raise ModelError(f"{where} is not a model of images: {LATENT}", LATENT_HINT)
    return load_unet(folder, weights)


def locate_parts(path: Path) -> tuple[Path, Path, Path | None]:
    """Return the root of a model, the folder of its network, and the weights file if the path names one.

    Args:
        path: A model folder, its `unet` folder, or a file in either: weights, or config.json.
    """
    folder, weights = (path.parent, path if path.suffix != ".json" else None) if path.is_file() else (path, None)
    return folder.parent if folder.name == "unet" else folder, folder, weights


def find_decoder(root: Path) -> str | None:
    """Return the name of the folder of a model's autoencoder, or None for a model of images.

    Args:
        root: The root folder of the model.

    Raises:
        ModelError: The model_index.json is damaged, or describes an unsupported kind of model.
    """
    if (index := root / INDEX).is_file():
        content = read_json(index)
        try:
            check_pipeline(content)
        except ValueError as error:
            raise ModelError(f"{index} describes a model that this program cannot use: {error}") from error
        if part := decoder_in_index(content):
            return part
    if not (root / "unet").is_dir():
        return None
    return next((part for part in DECODERS if (root / part / CONFIG).is_file()), None)


def load_unet(folder: Path, weights: Path | None = None, channels: int | None = None) -> tuple[Network, ModelSpec]:
    """Read the U-Net of a model folder, whether the pipeline works on images or on latents.

    Args:
        folder: A folder with config.json or unet/config.json.
        weights: The weights file; None for the usual one.
        channels: The number of channels that the diffusion runs on, if the network also takes a condition. The
            condition is then left out of the channels of `spec.network`, and included in those of the network's own
            `config`. None if the diffusion runs on all channels.

    Returns:
        The network, on the CPU and in the precision of the file, and its spec.

    Raises:
        ModelError: As in `load_model`.
    """
    root = folder.parent if folder.name == "unet" else folder
    place = _first_existing([folder / CONFIG, folder / "unet" / CONFIG]).parent
    config = read_json(place / CONFIG)
    try:
        shape = network_config(config)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{place / CONFIG} describes a network that cannot be used: {error}") from error
    scheduler = _first_existing(root / name for name in SCHEDULER_PLACES["unet/" if place.name == "unet" else ""])
    fields = read_json(scheduler)
    try:
        spec = model_spec(shape, config, fields, channels)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{scheduler} and {CONFIG} describe a model that cannot be used: {error}") from error
    path = weights or find_weights(place)
    state = modernize_names(read_weights(path))
    try:
        shape = _with_middle_norm(shape, state)
        if config.get("attention_legacy_order", False):
            state = _reorder_attention(state, shape)
    except ValueError as error:
        raise ModelError(f"{path} does not fit its {CONFIG}: {error}") from error
    build: Callable[[], Network] = shape.build
    without_condition = replace(shape, in_channels=spec.network.in_channels)
    return build_with_weights(path, build, state), replace(spec, network=without_condition)


def find_weights(folder: Path) -> Path:
    """Return the weights file of a folder, preferring the safe format."""
    return _first_existing([folder / SAFETENSORS, folder / PICKLED])


def _first_existing(paths: Iterable[Path]) -> Path:
    """Return the first path that is a file, or else the first path, so that opening it reports it as missing."""
    paths = list(paths)
    return next((path for path in paths if path.is_file()), paths[0])


def _load_guided_diffusion(path: Path, state: Mapping[str, Tensor]) -> tuple[Network, ModelSpec]:
    options_path = _first_existing([path.with_name(f"{path.name}.json"), path.with_suffix(".json")])
    options = read_json(options_path) if options_path.is_file() else None
    try:
        spec, converted = guided_diffusion.convert(path, state, options)
    except (ValueError, TypeError) as error:
        hint = (
            "put the options that the weights do not contain (num_heads, num_head_channels, image_size ...) "
            f"into {path.name}.json"
        )
        raise ModelError(f"{path} cannot be used: {error}", hint) from error
    build: Callable[[], Network] = spec.network.build
    return build_with_weights(path, build, converted), spec


def modernize_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the attention weights of files from before diffusers 0.15 to their names today.

    In those files the attention layers could be 1x1 convolutions; their weights become matrices.
    """
    modern = {}
    for name, value in state.items():
        parent, _, last = name.rpartition(".")
        block, _, layer = parent.rpartition(".")
        if "attentions." in block and layer in OLD_NAMES:
            name = f"{block}.{OLD_NAMES[layer]}.{last}"
            value = value.flatten(1) if value.ndim > 2 else value
        modern[name] = value
    return modern


def _with_middle_norm(network: NetworkConfig, state: Mapping[str, Tensor]) -> NetworkConfig:
    """Add the normalization of the middle attention to a configuration if the weights hold one.

    With scale_shift the middle attention has no normalization, except in forks of diffusers.
    """
    if not isinstance(network, UNetConfig) or network.resnet_time_scale_shift == "default":
        return network
    if network.attn_norm_num_groups is None and "mid_block.attentions.0.group_norm.weight" in state:
        return replace(network, attn_norm_num_groups=network.norm_num_groups)
    return network


def _reorder_attention(state: Mapping[str, Tensor], network: NetworkConfig) -> dict[str, Tensor]:
    """Restore the order of queries, keys and values in the files of some forks of diffusers.

    These forks cut the joint weights of guided-diffusion into thirds without sorting the rows first.

    Raises:
        ValueError: A query, key or value is missing, or the rows do not divide into heads.
    """
    head_dim = network.attention_head_dim if isinstance(network, UNetConfig) else None
    ordered = dict(state)
    for name in state:
        place, found, kind = name.rpartition(".to_q.")
        if not found:
            continue
        names = [f"{place}.to_{letter}.{kind}" for letter in "qkv"]
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"{printable(missing[0])} is missing")
        joint = torch.cat([state[name] for name in names])
        heads = max(len(joint) // 3 // head_dim, 1) if head_dim else 1
        ordered.update(zip(names, guided_diffusion.split_qkv(joint, heads, by_head=True), strict=True))
    return ordered


def build_with_weights(path: Path, build: Callable[[], AnyNetwork], state: dict[str, Tensor]) -> AnyNetwork:
    """Build a network and load its weights, comparing both before any memory is allocated.

    Args:
        path: The weights file, for messages.
        build: Returns the network.
        state: The weights by name.

    Raises:
        ModelError: The network cannot be built or is too large, or the weights do not fit it or are not finite.
    """
    try:
        with torch.device("meta"):
            network = build()
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ModelError(f"{path} belongs to a network that cannot be built: {printable(error, 200)}") from error
    if sum(p.numel() for p in network.parameters()) > MAX_PARAMETERS:
        raise ModelError(f"{path} belongs to a network of more than {MAX_PARAMETERS:,} parameters")
    expected = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: value.shape for key, value in state.items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        names = ", ".join(printable(name) for name in wrong[:5])
        raise ModelError(f"{path} does not fit its {CONFIG}: {names} ({len(wrong)} in all)")
    check_finite(path, state)
    network.load_state_dict(state, assign=True)
    return network
