"""config.json and scheduler_config.json of the Hub: from untrusted fields to a checked `ModelSpec`.

Fields that are left out take diffusers' defaults, which old files rely on. A field that changes the output is either
implemented or refused; none is ignored. A restoration needs from a scheduler only the process that the network was
trained on (the betas, the parametrization) and whether images are clipped; the fields of its own sampler
(`timestep_spacing`, `steps_offset`, `set_alpha_to_one`, a fixed variance) have no meaning here. All values are bounded
before anything is built.
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
from restorer.models.weight_files import printable
from restorer.networks import NETWORKS, NetworkConfig, UNetConfig
from restorer.networks.autoencoder import AUTOENCODERS, AutoencoderConfig
from restorer.priors.unet_prior import ModelSpec

__all__ = [
    "LATENT",
    "TrainedBetas",
    "autoencoder_config",
    "check_pipeline",
    "decoder_in_index",
    "model_spec",
    "network_config",
    "read_json",
    "read_schedule",
]

MAX_JSON = 64 * 1024  # bytes
MAX_WIDTH, MAX_LEVELS, MAX_SIDE = 2048, 8, 8192

Ranges = Mapping[str, tuple[float, float]]

# The lowest and highest value of every number; no known network has a value outside these ranges.
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
# The numbers that may be null.
NULLABLE = {"attn_norm_num_groups", "attention_head_dim", "attention_heads", "time_embedding_dim", "time_features"}
LISTS: Mapping[str, tuple[type, str]] = {
    "block_out_channels": (int, "whole numbers"),
    "down_block_types": (str, "names"),
    "up_block_types": (str, "names"),
}
FLAGS = ("mirrors", "center_input_sample", "flip_sin_to_cos", "add_attention", "attention_legacy_order")
SCHEDULE_FLAGS = ("clip_sample", "thresholding", "rescale_betas_zero_snr")

SCORE = "a score model whose variance explodes (VE), not a DDPM"
CONSISTENCY = "a consistency model, which predicts the image in one step, not a DDPM"
CONDITIONAL = "a class-conditional network; only an unconditional network can be a prior"
TEXT = "a text-conditional network; only an unconditional network can be a prior"
LATENT = "it works on the latents of an autoencoder, not on images"

# Descriptions of unsupported classes, by a part of the class name; the first match counts.
UNSUPPORTED_CLASSES = {
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
    "UNetUnconditionalModel": "a file from before the first release of diffusers; use a newer revision",
    "GaussianDDPMScheduler": "a file from before the first release of diffusers; use a newer revision",
}
# The samplers of diffusers for the variance-preserving process; all of them share the fields of that process.
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
    """A schedule that is given by its betas, `values`, in (0, 1).

    The betas come from the field `trained_betas`, or from a named schedule that was rescaled.
    """

    values: tuple[float, ...] = ()

    @cached_property
    def betas(self) -> Tensor:
        """Variances beta_t of the single steps, float64 (T,)."""
        return torch.tensor(self.values, dtype=torch.float64)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 64 KiB.

    Raises:
        ModelError: The file is absent, unreadable or too large, or does not hold a JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise ModelError(f"{path} is larger than {MAX_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = "a model folder holds config.json, scheduler_config.json and the weights"
        raise ModelError(f"{path} is missing", hint) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {printable(error, 200)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object")
    return content


def decoder_in_index(index: dict[str, Any]) -> str | None:
    """Return the folder of the autoencoder that a model_index.json names, or None for a model of images."""
    named = next((name for name in DECODERS if name in index), None)
    return named or (DECODERS[0] if "LDM" in str(index.get("_class_name", ""))[:200] else None)


def check_pipeline(index: dict[str, Any]) -> None:
    """Check that a model_index.json describes an unconditional model, of images or of latents.

    Raises:
        ValueError: It describes another kind of model; the message says which.
    """
    _check_class(index.get("_class_name", ""))
    if "text_encoder" in index or "tokenizer" in index:
        raise ValueError(TEXT)


def _check_class(name: object) -> None:
    for part, description in UNSUPPORTED_CLASSES.items():
        if part in str(name)[:200]:
            raise ValueError(f"{printable(name)}: {description}")


def _check_fields(content: dict[str, Any], integers: Ranges, numbers: Ranges, flags: tuple[str, ...]) -> None:
    """Check the ranges of the numbers and the types of the flags, before anything is built from them."""
    for name, (low, high) in {**integers, **numbers}.items():
        value, kind = content.get(name, low), int if name in integers else (int, float)
        if value is None and name in NULLABLE:
            continue
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {printable(repr(value), 40)}")
    for name in flags:
        if not isinstance(content.get(name, False), bool):
            raise ValueError(f"{name} must be true or false, not {printable(repr(content[name]), 40)}")


def _check_lists(content: dict[str, Any]) -> None:
    for name, (item, items) in LISTS.items():
        value = content.get(name, ())
        if not isinstance(value, (list, tuple)) or not all(type(part) is item for part in value):
            raise ValueError(f"{name} must be a list of {items}, not {printable(repr(value), 40)}")


def network_config(config: dict[str, Any]) -> NetworkConfig:
    """Return the configuration of a network from the fields of its config.json.

    Raises:
        ValueError: The network is of an unsupported kind, or a field has an unsupported value.
        TypeError: A field has a value of the wrong type.
    """
    _check_class(name := config.get("_class_name", "UNet2DModel"))
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"_class_name {printable(repr(name))} is not one of {', '.join(NETWORKS)}")
    _check_lists(config)
    _check_kind(config)
    _check_fields(config, NETWORK_INTEGERS, NETWORK_NUMBERS, FLAGS)
    kind = NETWORKS[name]
    shape = {f.name: config[f.name] for f in fields(kind) if f.name in config}
    shape |= {name: tuple(shape[name]) for name in LISTS if name in shape}
    for name in ("downsample_type", "upsample_type"):  # diffusers reads null as "conv"
        if name in shape:
            shape[name] = shape[name] or "conv"
    if config.get("time_embedding_type") == "adm":
        # Some forks of diffusers hold networks of guided-diffusion. Their files state a norm_eps of 1e-6, but these
        # networks were trained with 1e-5.
        shape |= {"flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5}
    network = kind(**shape)
    widths = network.block_out_channels
    if not all(0 < width <= MAX_WIDTH for width in widths) or len(widths) > MAX_LEVELS:
        raise ValueError("the network is larger than any known network")
    return network


def autoencoder_config(config: dict[str, Any]) -> AutoencoderConfig:
    """Return the configuration of an autoencoder from the fields of its config.json.

    Raises:
        ValueError: The autoencoder is of an unsupported kind, or does not decode to colour images.
        TypeError: A field has a value of the wrong type.
    """
    if not isinstance(name := config.get("_class_name"), str) or name not in AUTOENCODERS:
        raise ValueError(f"_class_name {printable(repr(name))} is not one of {', '.join(AUTOENCODERS)}")
    shape = AUTOENCODERS[name].from_fields(config)
    if shape.out_channels != 3:
        raise ValueError(f"the autoencoder must decode to 3 channels, not to {shape.out_channels}")
    return shape


def _check_kind(config: dict[str, Any]) -> None:
    """Check the fields that reveal an unsupported kind of network."""
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
            raise ValueError(f"{name} {printable(value, 40)} is not supported, only {' and '.join(known)}")


def read_schedule(scheduler: dict[str, Any], prediction_type: str = "epsilon") -> Schedule:
    """Return the schedule that a network was trained on, from the fields of its scheduler_config.json.

    With `rescale_betas_zero_snr` (Lin et al. 2023, https://arxiv.org/abs/2305.08891, algorithm 1) the last timestep is
    noise alone and has no finite sigma. This timestep is left out, because a restoration always has some information
    about the image.

    Args:
        scheduler: The fields of scheduler_config.json.
        prediction_type: What the network predicts: "epsilon", "v_prediction" or "sample".

    Raises:
        ValueError: The schedule is unknown, a beta lies outside (0, 1), or the last timestep is noise alone and the
            network predicts the noise.
        TypeError: A field has a value of the wrong type.
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
        raise ValueError(
            "rescale_betas_zero_snr needs a network that predicts the image or v: at a timestep of noise alone, "
            "a prediction of the noise does not determine the image"
        )
    root = schedule.alpha_bars.sqrt()
    alpha_bars = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
    values = (1 - alpha_bars / before)[:-1].tolist()
    return TrainedBetas("trained_betas", steps - 1, values[0], values[-1], tuple(values))


def _read_clip(scheduler: dict[str, Any]) -> bool:
    """Return whether predicted images are clamped to [-1, 1].

    Thresholding (Saharia et al. 2022) takes precedence over clip_sample.
    """
    thresholds = scheduler.get("thresholding", False)
    if thresholds and scheduler.get("sample_max_value", 1.0) != 1:
        # Thresholding divides each image by a quantile of its own, so the tiles of one image would differ in contrast.
        raise ValueError("thresholding with a sample_max_value other than 1 is not supported")
    clips = thresholds or scheduler.get("clip_sample", True)
    if clips and not thresholds and scheduler.get("clip_sample_range", 1.0) != 1:
        raise ValueError("clip_sample_range must be 1: images lie in [-1, 1]")
    return clips


def model_spec(
    network: NetworkConfig, config: dict[str, Any], scheduler: dict[str, Any], channels: int | None = None
) -> ModelSpec:
    """Return the spec of a model from its two configuration files.

    Args:
        network: The configuration of the network, from `network_config`.
        config: The fields of its config.json.
        scheduler: The fields of its scheduler_config.json.
        channels: The number of channels that the diffusion runs on, if the network also takes a condition; None if it
            runs on all channels.

    Raises:
        ValueError: The model is of an unsupported kind, or a field has an unsupported value.
        TypeError: A field has a value of the wrong type.
    """
    _check_class(name := scheduler.get("_class_name", "DDPMScheduler"))
    if name not in SCHEDULERS:
        raise ValueError(f"the scheduler {printable(repr(name))} is not known")
    if scheduler.get("use_flow_sigmas"):
        raise ValueError(UNSUPPORTED_CLASSES["FlowMatch"])
    if scheduler.get("timestep_type", "discrete") != "discrete":
        raise ValueError(UNSUPPORTED_CLASSES["EDM"])
    _check_fields(scheduler, SCHEDULE_INTEGERS, SCHEDULE_NUMBERS, SCHEDULE_FLAGS)
    patch_size = config.get("patch_size", 1)
    if channels is not None:
        width = channels * patch_size**2
        if network.in_channels < width or network.out_channels not in (width, 2 * width):
            found = f"{network.in_channels} channels in and {network.out_channels} out"
            raise ValueError(f"the network has {found}, but the latents of the autoencoder have {channels}")
        network = replace(network, in_channels=width)
    learned = network.out_channels == 2 * network.in_channels
    if (variance := scheduler.get("variance_type", "fixed_small")) not in VARIANCES and (
        variance is not None and learned
    ):
        raise ValueError(f"variance_type {printable(variance, 40)} is not supported")
    prediction_type = scheduler.get("prediction_type", "epsilon")
    attends = isinstance(network, UNetConfig) and network.attends
    return ModelSpec(
        network=network,
        schedule=read_schedule(scheduler, prediction_type),
        prediction_type=prediction_type,
        clip=_read_clip(scheduler),
        patch_size=patch_size,
        native_size=_read_native_size(config.get("sample_size")) if attends else None,
        mirrors=config.get("mirrors", False),
    )


def _read_native_size(size: object) -> int | None:
    """Return the side of the images that a network was trained on, in pixels; the shorter side of a rectangle."""
    sides = size if isinstance(size, list) and size else [size]
    if size is None:
        return None
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"sample_size must lie between 1 and {MAX_SIDE}, not {printable(repr(size), 40)}")
    return min(sides)
