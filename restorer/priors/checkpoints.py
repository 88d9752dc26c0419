"""Model folders in the layout of the Hub: config.json, scheduler_config.json, diffusion_pytorch_model.safetensors.

The names and fields are diffusers' own, so that `UNet2DModel.from_pretrained` reads the same folder; `patch_size`
(pixel-unshuffle) is one field more in config.json. Whatever a folder says is checked before memory is taken for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from restorer.diffusion.schedule import Schedule
from restorer.errors import ModelError
from restorer.networks import NETWORKS, Network, UNetConfig
from restorer.priors.unet_prior import ModelSpec

__all__ = ["CONFIG", "SCHEDULER", "WEIGHTS", "load_model", "save_model"]

CONFIG, SCHEDULER, WEIGHTS = "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"
MAX_JSON = 64 * 1024
MAX_PARAMETERS = 1_500_000_000
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Ranges = Mapping[str, tuple[float, float]]

# Lowest and highest value of every whole number; whatever lies outside belongs to no network that is known.
NETWORK_INTEGERS = {
    "in_channels": (1, 4096),
    "out_channels": (1, 8192),
    "layers_per_block": (1, 6),
    "norm_num_groups": (1, 1024),
    "downsample_padding": (0, 1),
    "freq_shift": (0, 1),
    "patch_size": (1, 32),
}
NETWORK_NUMBERS = {"norm_eps": (1e-12, 1.0), "mid_block_scale_factor": (1e-3, 1e3)}
SCHEDULE_INTEGERS = {"num_train_timesteps": (2, 4096)}
SCHEDULE_NUMBERS = {"beta_start": (0, 1), "beta_end": (0, 1)}
# Fields that change the output, and the one value of each that is implemented.
FIXED = {
    "downsample_type": "conv",
    "upsample_type": "conv",
    "class_embed_type": None,
    "num_class_embeds": None,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}


def save_model(folder: Path, network: Network, spec: ModelSpec, dtype: torch.dtype = torch.float16) -> None:
    """Write network and spec as a model folder; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "_class_name": next(name for name, kind in NETWORKS.items() if isinstance(spec.network, kind)),
        "sample_size": spec.native_size,
        **({"act_fn": "silu", "time_embedding_type": "positional"} if isinstance(spec.network, UNetConfig) else {}),
        **asdict(spec.network),
        "patch_size": spec.patch_size,
    }
    scheduler = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": spec.schedule.steps,
        "beta_schedule": spec.schedule.name,
        "beta_start": spec.schedule.beta_start,
        "beta_end": spec.schedule.beta_end,
        "prediction_type": spec.prediction_type,
        "clip_sample": spec.clip,
        "variance_type": "fixed_small",
    }
    for name, content in ((CONFIG, config), (SCHEDULER, scheduler)):
        partial = folder / f".{name}.partial"
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / name)
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()}
    partial = folder / f".{WEIGHTS}.partial"
    save_file(state, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it readable by its owner alone
    partial.replace(folder / WEIGHTS)


def load_model(folder: Path) -> tuple[Network, ModelSpec]:
    """Read a model folder: the network on the CPU in the precision of the file, and its spec.

    Raises:
        ModelError: a file is missing or damaged, a field has a value that this program does not know, or the weights
            do not fit the configuration.
    """
    config = _read_json(folder / CONFIG)
    scheduler = _read_json(folder / SCHEDULER)
    try:
        spec = _spec(config, scheduler)
        with torch.device("meta"):
            network = spec.network.build()
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{folder / CONFIG} describes no network that can be built: {error}") from error
    if sum(p.numel() for p in network.parameters()) > MAX_PARAMETERS:
        raise ModelError(f"{folder / CONFIG} asks for more than {MAX_PARAMETERS:,} parameters")
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", "a model folder holds config, scheduler config and weights") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "the file is damaged; copy or download it again") from error
    expected = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: value.shape for key, value in state.items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise ModelError(f"{path} does not fit its {CONFIG}: {', '.join(wrong[:5])} and others, {len(wrong)} in all")
    if wrong := sorted(key for key, value in state.items() if value.dtype not in FLOATS):
        raise ModelError(f"{path} holds weights that are no floating-point numbers: {', '.join(wrong[:5])}")
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise ModelError(f"{path} holds weights that are not finite", "the file is damaged; copy or download it again")
    network.load_state_dict(state, assign=True)
    return network, spec


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON:
            raise ModelError(f"{path} is larger than {MAX_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", "a model folder holds config, scheduler config and weights") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no JSON object")
    return content


def _check_fields(content: dict[str, Any], integers: Ranges, numbers: Ranges) -> None:
    """Refuse what no network of this layout has, before anything is built from it."""
    for name, (low, high) in {**integers, **numbers}.items():
        if name not in content:
            continue
        value, kind = content[name], int if name in integers else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {str(value)[:40]}")
    for name, only in FIXED.items():
        if content.get(name, only) != only:
            raise ValueError(f"{name} {str(content[name])[:40]} is not supported")


def _spec(config: dict[str, Any], scheduler: dict[str, Any]) -> ModelSpec:
    """A spec from the two configurations; fields left out take the layout's defaults."""
    if (name := config.get("_class_name", "UNet2DModel")) not in NETWORKS:
        raise ValueError(f"_class_name {str(name)[:60]!r} is not one of {', '.join(NETWORKS)}")
    _check_fields(config, NETWORK_INTEGERS, NETWORK_NUMBERS)
    _check_fields(scheduler, SCHEDULE_INTEGERS, SCHEDULE_NUMBERS)
    for field, known in (("act_fn", ("silu", "swish")), ("time_embedding_type", ("positional",))):
        if (value := config.get(field, known[0])) not in known:
            raise ValueError(f"{field} {value!r} is not supported")
    kind = NETWORKS[name]
    shape = {f.name: config[f.name] for f in fields(kind) if f.name in config}
    for name in ("block_out_channels", "down_block_types", "up_block_types"):
        if name in shape:
            shape[name] = tuple(shape[name])
    network = kind(**shape)
    if not all(0 < width <= 2048 for width in network.block_out_channels) or len(network.block_out_channels) > 8:
        raise ValueError("the network is larger than any that is known")
    patch_size = config.get("patch_size", 1)
    attends = isinstance(network, UNetConfig) and network.attends
    size = config.get("sample_size")
    return ModelSpec(
        network=network,
        schedule=Schedule(
            name=scheduler.get("beta_schedule", "linear"),
            steps=scheduler.get("num_train_timesteps", 1000),
            beta_start=scheduler.get("beta_start", 1e-4),
            beta_end=scheduler.get("beta_end", 0.02),
        ),
        prediction_type=scheduler.get("prediction_type", "epsilon"),
        clip=scheduler.get("clip_sample", True),
        patch_size=patch_size,
        native_size=size if attends and isinstance(size, int) else None,
    )
