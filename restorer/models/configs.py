"""config.json and scheduler_config.json of the Hub: from fields that a stranger wrote to a checked `ModelSpec`.

Fields that are left out take diffusers' defaults, which old files rely on. A field that changes the output is either
implemented or refused; none is passed over. Of a scheduler a restoration needs what it was trained on (the betas, the
parametrization) and whether pictures are clipped; the fields of its own sampler (`timestep_spacing`, `steps_offset`,
`set_alpha_to_one`, a fixed variance) mean nothing here. Everything is bounded before anything is built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restorer.diffusion.schedule import Schedule
from restorer.errors import ModelError
from restorer.models.layout import DECODERS
from restorer.models.weight_files import plain
from restorer.networks import NETWORKS, NetworkConfig, UNetConfig
from restorer.networks.autoencoder import AUTOENCODERS, AutoencoderConfig
from restorer.priors.unet_prior import ModelSpec

__all__ = [
    "LATENT",
    "TrainedBetas",
    "autoencoder_config",
    "check_pipeline",
    "decoder_of",
    "model_spec",
    "network_config",
    "read_json",
    "schedule_of",
]

MAX_JSON = 64 * 1024
MAX_WIDTH, MAX_LEVELS, MAX_SIDE = 2048, 8, 8192

Ranges = Mapping[str, tuple[float, float]]

# Lowest and highest value of every number; whatever lies outside belongs to no network that is known.
NETWORK_INTEGERS = {
    "in_channels": (1, 4096),
    "out_channels": (1, 8192),
    "layers_per_block": (1, 6),
    "norm_num_groups": (1, 1024),
    "attn_norm_num_groups": (1, 1024),
    "attention_head_dim": (1, MAX_WIDTH),
    "attention_heads": (1, MAX_WIDTH),
    "time_embedding_dim": (1, 4 * MAX_WIDTH),
    "time_features": (2, MAX_WIDTH),
    "downsample_padding": (0, 1),
    "freq_shift": (0, 1),
    "patch_size": (1, 32),
}
NETWORK_NUMBERS = {"norm_eps": (1e-12, 1.0), "mid_block_scale_factor": (1e-3, 1e3)}
SCHEDULE_INTEGERS = {"num_train_timesteps": (2, 4096)}
SCHEDULE_NUMBERS = {
    "beta_start": (0, 1),
    "beta_end": (0, 1),
    "clip_sample_range": (1e-3, 1e3),
    "sample_max_value": (1e-3, 1e3),
}
NULLABLE = {"attn_norm_num_groups", "attention_head_dim", "attention_heads", "time_embedding_dim", "time_features"}
LISTS: Mapping[str, tuple[type, str]] = {
    "block_out_channels": (int, "whole numbers"),
    "down_block_types": (str, "names"),
    "up_block_types": (str, "names"),
}
FLAGS = ("mirrors", "center_input_sample", "flip_sin_to_cos", "add_attention", "attention_legacy_order")
SCHEDULE_FLAGS = ("clip_sample", "thresholding", "rescale_betas_zero_snr")

SCORE = "a score model whose noise grows without bound (VE), not a DDPM"
CONSISTENCY = "a consistency model, which predicts a picture in one step; not a DDPM"
CONDITIONAL = "a class-conditional network; only unconditional ones are a prior"
TEXT = "a text-conditional network; only unconditional ones are a prior"
LATENT = "it works on the latents of an autoencoder, not on pictures"

# What a class of another kind is, by a part of its name; the first that fits.
FOREIGN = {
    "ScoreSde": SCORE,
    "KarrasVe": SCORE,
    "Consistency": CONSISTENCY,
    "CMStochastic": CONSISTENCY,
    "LCMScheduler": CONSISTENCY,
    "EDM": "a model with the preconditioning of EDM, not a DDPM",
    "FlowMatch": "a flow-matching model, not a DDPM",
    "LDMTextToImage": TEXT,
    "StableDiffusion": TEXT,
    "UNet2DConditionModel": TEXT,
    "UNetUnconditionalModel": "a file of before the first release of diffusers; take a newer revision",
    "GaussianDDPMScheduler": "a file of before the first release of diffusers; take a newer revision",
}
# Samplers of diffusers for the variance-preserving process; the fields of that process are the same in all.
SCHEDULERS = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "RePaintScheduler", "DDPMParallelScheduler"),
    *("DDIMParallelScheduler", "DDIMInverseScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"),
    *("KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("DPMSolverSDEScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler"),
)
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range")


@dataclass(frozen=True)
class TrainedBetas(Schedule):
    """A schedule given by its betas, `values`: what `trained_betas` holds, or a named one after a change."""

    values: tuple[float, ...] = ()

    @cached_property
    def betas(self) -> Tensor:
        """beta_t, (T,) float64."""
        return torch.tensor(self.values, dtype=torch.float64)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of at most 64 kB.

    Raises:
        ModelError: the file is absent, too large, or no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise ModelError(f"{path} is larger than {MAX_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", "a model folder holds config, scheduler config and weights") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {plain(error, 200)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no JSON object")
    return content


def decoder_of(index: dict[str, Any]) -> str | None:
    """The folder of the autoencoder that a model_index.json names; None where the network works on pictures."""
    named = next((name for name in DECODERS if name in index), None)
    return named or (DECODERS[0] if "LDM" in str(index.get("_class_name", ""))[:200] else None)


def check_pipeline(index: dict[str, Any]) -> None:
    """Refuse a model_index.json of anything but an unconditional model, of pictures or of latents.

    Raises:
        ValueError: saying what it is.
    """
    _check_class(index.get("_class_name", ""))
    if "text_encoder" in index or "tokenizer" in index:
        raise ValueError(TEXT)


def _check_class(name: object) -> None:
    for part, what in FOREIGN.items():
        if part in str(name)[:200]:
            raise ValueError(f"{plain(name)}: {what}")


def _check_fields(content: dict[str, Any], integers: Ranges, numbers: Ranges, flags: tuple[str, ...]) -> None:
    """Refuse what no network of this layout has, before anything is built from it."""
    for name, (low, high) in {**integers, **numbers}.items():
        value, kind = content.get(name, low), int if name in integers else (int, float)
        if value is None and name in NULLABLE:
            continue
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {plain(repr(value), 40)}")
    for name in flags:
        if not isinstance(content.get(name, False), bool):
            raise ValueError(f"{name} must be true or false, not {plain(repr(content[name]), 40)}")


def _check_lists(content: dict[str, Any]) -> None:
    for name, (item, items) in LISTS.items():
        value = content.get(name, ())
        if not isinstance(value, (list, tuple)) or not all(type(part) is item for part in value):
            raise ValueError(f"{name} must be a list of {items}, not {plain(repr(value), 40)}")


def network_config(config: dict[str, Any]) -> NetworkConfig:
    """The shape of a network from its config.json.

    Raises:
        ValueError, TypeError: a network of another kind, or one that is not known.
    """
    _check_class(name := config.get("_class_name", "UNet2DModel"))
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"_class_name {plain(repr(name))} is not one of {', '.join(NETWORKS)}")
    _check_lists(config)
    _check_kind(config)
    _check_fields(config, NETWORK_INTEGERS, NETWORK_NUMBERS, FLAGS)
    kind = NETWORKS[name]
    shape = {f.name: config[f.name] for f in fields(kind) if f.name in config}
    shape |= {name: tuple(shape[name]) for name in LISTS if name in shape}
    for name in ("downsample_type", "upsample_type"):  # diffusers takes null for "conv"
        if name in shape:
            shape[name] = shape[name] or "conv"
    if config.get("time_embedding_type") == "adm":
        # Forks that hold guided-diffusion's networks. Their files say 1e-6, but those networks were trained with 1e-5.
        shape |= {"flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5}
    network = kind(**shape)
    widths = network.block_out_channels
    if not all(0 < width <= MAX_WIDTH for width in widths) or len(widths) > MAX_LEVELS:
        raise ValueError("the network is larger than any that is known")
    return network


def autoencoder_config(config: dict[str, Any]) -> AutoencoderConfig:
    """The shape of an autoencoder from its config.json.

    Raises:
        ValueError, TypeError: one of another kind, or one that makes no colour pictures.
    """
    if not isinstance(name := config.get("_class_name"), str) or name not in AUTOENCODERS:
        raise ValueError(f"_class_name {plain(repr(name))} is not one of {', '.join(AUTOENCODERS)}")
    shape = AUTOENCODERS[name].from_fields(config)
    if shape.out_channels != 3:
        raise ValueError(f"the autoencoder makes pictures of {shape.out_channels} channels, not of 3")
    return shape


def _check_kind(config: dict[str, Any]) -> None:
    """Networks of other kinds, by the fields that give them away."""
    blocks = [*config.get("down_block_types", ()), *config.get("up_block_types", ())]
    if config.get("time_embedding_type") == "fourier" or any("Skip" in kind for kind in blocks):
        raise ValueError(SCORE)
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise ValueError(CONDITIONAL)
    if any("CrossAttn" in kind for kind in blocks) or config.get("cross_attention_dim") is not None:
        raise ValueError(TEXT)
    for name, known in (
        ("act_fn", ("silu", "swish")),
        ("time_embedding_type", ("positional", "adm")),
        ("mid_block_type", ("UNetMidBlock2D",)),
    ):
        if (value := config.get(name, known[0])) not in known:
            raise ValueError(f"{name} {plain(value, 40)} is not supported, only {' and '.join(known)}")


def schedule_of(scheduler: dict[str, Any], prediction_type: str = "epsilon") -> Schedule:
    """The schedule a network was trained on, from its scheduler_config.json.

    With `rescale_betas_zero_snr` (Lin et al. 2023, https://arxiv.org/abs/2305.08891, algorithm 1) the last timestep is
    noise alone and has no finite sigma: it is left out, as a restoration knows more than nothing.

    Raises:
        ValueError, TypeError: an unknown schedule, betas outside (0, 1), or infinite noise for a network that predicts
            the noise alone.
    """
    steps = scheduler.get("num_train_timesteps", 1000)
    if (betas := scheduler.get("trained_betas")) is not None:
        if not isinstance(betas, list) or len(betas) != steps or not all(type(b) in (int, float) for b in betas):
            raise ValueError(f"trained_betas must be a list of {steps} numbers")
        schedule: Schedule = TrainedBetas("trained_betas", steps, betas[0], betas[-1], tuple(map(float, betas)))
    else:
        schedule = Schedule(
            name=scheduler.get("beta_schedule", "linear"),
            steps=steps,
            beta_start=scheduler.get("beta_start", 1e-4),
            beta_end=scheduler.get("beta_end", 0.02),
        )
    if not scheduler.get("rescale_betas_zero_snr", False):
        return schedule
    if prediction_type == "epsilon":
        raise ValueError("rescale_betas_zero_snr: of noise alone, a network that predicts the noise tells no picture")
    root = schedule.alpha_bars.sqrt()
    alpha_bars = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
    values = (1 - alpha_bars / before)[:-1].tolist()
    return TrainedBetas("trained_betas", steps - 1, values[0], values[-1], tuple(values))


def _clips(scheduler: dict[str, Any]) -> bool:
    """Whether predicted pictures are clamped to [-1, 1]. Thresholding (Saharia et al. 2022) takes precedence."""
    thresholds = scheduler.get("thresholding", False)
    if thresholds and scheduler.get("sample_max_value", 1.0) != 1:
        # It divides each picture by a quantile of its own: tiles of one picture would differ in contrast.
        raise ValueError("thresholding with a sample_max_value other than 1 is not supported")
    clips = thresholds or scheduler.get("clip_sample", True)
    if clips and not thresholds and scheduler.get("clip_sample_range", 1.0) != 1:
        raise ValueError("clip_sample_range must be 1: pictures lie in [-1, 1]")
    return clips


def model_spec(
    network: NetworkConfig, config: dict[str, Any], scheduler: dict[str, Any], channels: int | None = None
) -> ModelSpec:
    """A spec from the two configurations.

    Args:
        network, config, scheduler: the shape of the network, its configuration and that of its scheduler.
        channels: what the diffusion runs on, where the network takes a condition beside it; None for all it takes.

    Raises:
        ValueError, TypeError: a model of another kind, or one that is not known.
    """
    _check_class(name := scheduler.get("_class_name", "DDPMScheduler"))
    if name not in SCHEDULERS:
        raise ValueError(f"the scheduler {plain(repr(name))} is not known")
    if scheduler.get("use_flow_sigmas"):
        raise ValueError(FOREIGN["FlowMatch"])
    if scheduler.get("timestep_type", "discrete") != "discrete":
        raise ValueError(FOREIGN["EDM"])
    _check_fields(scheduler, SCHEDULE_INTEGERS, SCHEDULE_NUMBERS, SCHEDULE_FLAGS)
    patch_size = config.get("patch_size", 1)
    if channels is not None:
        width = channels * patch_size**2
        if network.in_channels < width or network.out_channels not in (width, 2 * width):
            there = f"{network.in_channels} channels in and {network.out_channels} out"
            raise ValueError(f"the network has {there}, the latents of the autoencoder have {channels}")
        network = replace(network, in_channels=width)
    learned = network.out_channels == 2 * network.in_channels
    if (variance := scheduler.get("variance_type", "fixed_small")) not in VARIANCES and (
        variance is not None and learned
    ):
        raise ValueError(f"variance_type {plain(variance, 40)} is not supported")
    prediction_type = scheduler.get("prediction_type", "epsilon")
    attends = isinstance(network, UNetConfig) and network.attends
    return ModelSpec(
        network=network,
        schedule=schedule_of(scheduler, prediction_type),
        prediction_type=prediction_type,
        clip=_clips(scheduler),
        patch_size=patch_size,
        native_size=_side(config.get("sample_size")) if attends else None,
        mirrors=config.get("mirrors", False),
    )


def _side(size: object) -> int | None:
    """The side of the squares a network was trained on; of a rectangle, the shorter one."""
    sides = size if isinstance(size, list) and size else [size]
    if size is None:
        return None
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"sample_size must lie between 1 and {MAX_SIDE}, not {plain(repr(size), 40)}")
    return min(sides)
