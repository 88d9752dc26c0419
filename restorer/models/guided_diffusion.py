"""Files of guided-diffusion (Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233) in the layout of `UNet2DModel`.

    time_embed.{0,2}            time_embedding.linear_{1,2}
    input_blocks.0.0            conv_in
    input_blocks.k.0, .1        down_blocks.l.resnets.j, .attentions.j       k = 1 + l (n + 1) + j,   j < n
    input_blocks.k.0[.op]       down_blocks.l.downsamplers.0[.conv]          k = (l + 1) (n + 1)
    middle_block.{0,1,2}        mid_block.resnets.0, .attentions.0, .resnets.1
    output_blocks.k.0, .1       up_blocks.l.resnets.j, .attentions.j         k = l (n + 1) + j,       j < n + 1
    output_blocks.k.last[.conv] up_blocks.l.upsamplers.0[.conv]              for the last k of a level
    out.{0,2}                   conv_norm_out, conv_out

n is the number of resnets per level. A raw file is a table of weights without a configuration. Most of the
configuration follows from the names and shapes of the weights. The heads of the attention, the order of their features,
the size of the images and the noise schedule do not. They come from a JSON file beside the weights, which uses the
names of guided-diffusion's own options; from the known options of a published network; or from guided-diffusion's
usual values.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from restorer.diffusion.schedule import Schedule
from restorer.models.configs import CONDITIONAL, MAX_SIDE, TEXT
from restorer.models.weight_files import printable
from restorer.networks.unet import UNetConfig
from restorer.priors.unet_prior import ModelSpec

__all__ = ["convert", "is_guided_diffusion", "split_qkv", "unet_config"]

log = logging.getLogger(__name__)

# Options that the weights do not determine, under guided-diffusion's names; there, -1 means "not used".
DEFAULTS: dict[str, Any] = {
    "num_heads": None,
    "num_head_channels": 64,
    "use_new_attention_order": False,
    "image_size": None,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "predict_xstart": False,
}
# Options of published networks by their number of parameters. The first entry stands for the networks for 256 pixels
# trained on ImageNet and LSUN, and for those of RePaint on CelebA-HQ and Places; the second for the network trained on
# FFHQ (DPS, DiffPIR); the third for the network trained on ImageNet at 512 pixels whose classes were removed later.
PUBLISHED = {552_814_086: {"image_size": 256}, 93_563_910: {"image_size": 256}, 557_973_638: {"image_size": 512}}
# Options that the weights determine, and that a JSON file may repeat.
DERIVED_OPTIONS = (
    "num_channels",
    "num_res_blocks",
    "learn_sigma",
    "class_cond",
    "use_scale_shift_norm",
    "resblock_updown",
)
# Options without effect here: they concern training or another sampler, or the weights determine them in another form.
IGNORED_OPTIONS = (
    *("attention_resolutions", "channel_mult", "dropout", "use_checkpoint", "use_fp16", "timestep_respacing"),
    *("use_kl", "rescale_learned_sigmas", "model_path", "num_classes"),
)
GROUPS = 32  # the groups of every normalization

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}


def is_guided_diffusion(state: Mapping[str, Tensor]) -> bool:
    """Return whether weights have the names of guided-diffusion."""
    return "input_blocks.0.0.weight" in state and "time_embed.0.weight" in state


def _dimension(state: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    if name not in state or state[name].ndim <= axis:
        raise ValueError(f"it is not a U-Net of guided-diffusion: {name} is missing")
    return state[name].shape[axis]


def _count_blocks(state: Mapping[str, Tensor], part: str) -> int:
    """Return the number of blocks of a part, such as input_blocks."""
    numbers = {name.split(".")[1] for name in state if name.startswith(f"{part}.")}
    if numbers != {str(k) for k in range(len(numbers))}:
        raise ValueError(f"it is not a U-Net of guided-diffusion: {part} are not numbered consecutively")
    return len(numbers)


def unet_config(state: Mapping[str, Tensor]) -> UNetConfig:
    """Return the configuration of a network from the names and shapes of its weights.

    The weights do not show the number of attention heads, so the configuration has a single head.

    Args:
        state: The weights by guided-diffusion's names.

    Raises:
        ValueError: The network is not an unconditional U-Net of guided-diffusion.
    """
    if "label_emb.weight" in state:
        raise ValueError(CONDITIONAL)
    if any("transformer" in name or "encoder_kv" in name for name in state):
        raise ValueError(TEXT)
    channels, inputs = _dimension(state, "time_embed.0.weight", 1), _dimension(state, "input_blocks.0.0.weight", 1)
    if inputs not in (1, 3):
        raise ValueError(f"it takes {inputs} channels, so it is conditioned on an image; a prior takes 3, or 1")
    n_in, n_out = _count_blocks(state, "input_blocks"), _count_blocks(state, "output_blocks")
    upsampling = [k for k in range(n_out) if _find_upsampler(state, k) is not None]  # one per level but the last
    levels, n = len(upsampling) + 1, upsampling[0] if upsampling else n_out - 1
    if n < 1 or not n_in == n_out == levels * (n + 1):
        found = f"{n_in} input and {n_out} output blocks on {levels} levels"
        raise ValueError(f"it is not a U-Net of guided-diffusion: {found}")
    first_blocks = [1 + level * (n + 1) for level in range(levels)]
    widths = tuple(_dimension(state, f"input_blocks.{k}.0.out_layers.3.weight") for k in first_blocks)
    has_attention = [f"input_blocks.{k}.1.qkv.weight" in state for k in first_blocks]
    resamples_by_resnet = bool(upsampling) and not str(_find_upsampler(state, upsampling[0])).endswith("conv")
    has_scale_shift = _dimension(state, "input_blocks.1.0.emb_layers.1.weight") == 2 * widths[0]
    plain_down, plain_up = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resamples_by_resnet else ("DownBlock2D", "UpBlock2D")
    )
    return UNetConfig(
        in_channels=inputs,
        out_channels=_dimension(state, "out.2.weight"),
        block_out_channels=widths,
        down_block_types=tuple("AttnDownBlock2D" if a else plain_down for a in has_attention),
        up_block_types=tuple("AttnUpBlock2D" if a else plain_up for a in reversed(has_attention)),
        layers_per_block=n,
        norm_num_groups=GROUPS,
        attn_norm_num_groups=GROUPS,
        attention_head_dim=None,
        resnet_time_scale_shift="scale_shift" if has_scale_shift else "default",
        downsample_type="resnet" if resamples_by_resnet else "conv",
        upsample_type="resnet" if resamples_by_resnet else "conv",
        # In the network for 512 pixels, the first level has half the base number of channels.
        time_embedding_dim=None if channels == widths[0] else 4 * channels,
        time_features=None if channels == widths[0] else channels,
    )


def _find_upsampler(state: Mapping[str, Tensor], k: int) -> str | None:
    """Return the name of the convolution or resnet that doubles the size in output block k, or None without one."""
    for place in (f"output_blocks.{k}.1", f"output_blocks.{k}.2"):
        if f"{place}.conv.weight" in state:
            return f"{place}.conv"
        if f"{place}.in_layers.2.weight" in state:
            return place
    return None


def _module_names(config: UNetConfig) -> dict[str, str]:
    """Return the name in diffusers' layout of every module with weights, by its name in guided-diffusion's."""
    names = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }

    def add(old: str, new: str, parts: Mapping[str, str]) -> None:
        names.update({f"{old}.{a}": f"{new}.{b}" for a, b in parts.items()})

    n, levels = config.layers_per_block, len(config.block_out_channels)
    for level in range(levels):
        for j in range(n):
            place = f"input_blocks.{1 + level * (n + 1) + j}"
            add(f"{place}.0", f"down_blocks.{level}.resnets.{j}", RESNET)
            add(f"{place}.1", f"down_blocks.{level}.attentions.{j}", ATTENTION)
        place = f"input_blocks.{(level + 1) * (n + 1)}.0"
        add(place, f"down_blocks.{level}.downsamplers.0", {**RESNET, "op": "conv"})
        for j in range(n + 1):
            place = f"output_blocks.{level * (n + 1) + j}"
            add(f"{place}.0", f"up_blocks.{level}.resnets.{j}", RESNET)
            add(f"{place}.1", f"up_blocks.{level}.attentions.{j}", ATTENTION)
        # The upsampler comes last, after the attention if the level has one.
        last = 2 if config.up_block_types[level] == "AttnUpBlock2D" else 1
        add(f"{place}.{last}", f"up_blocks.{level}.upsamplers.0", {**RESNET, "conv": "conv"})
    add("middle_block.0", "mid_block.resnets.0", RESNET)
    add("middle_block.1", "mid_block.attentions.0", ATTENTION)
    add("middle_block.2", "mid_block.resnets.1", RESNET)
    return names


def split_qkv(qkv: Tensor, heads: int, *, by_head: bool) -> tuple[Tensor, ...]:
    """Split joint attention weights into queries, keys and values.

    Args:
        qkv: The joint weights, (3 C, ...).
        heads: The number of attention heads.
        by_head: Whether the rows have the older order, in which the queries, keys and values of each head are adjacent.

    Returns:
        The queries, keys and values, (C, ...) each.

    Raises:
        ValueError: The number of rows is not a multiple of 3 * heads.
    """
    if qkv.shape[0] % (3 * heads):
        raise ValueError(f"the attention has {qkv.shape[0]} rows, which is not a multiple of 3 x {heads} heads")
    if by_head:
        qkv = qkv.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    return qkv.chunk(3)


def _rename_weights(state: Mapping[str, Tensor], config: UNetConfig, by_head: bool) -> dict[str, Tensor]:
    """Return the weights under the names of diffusers' layout.

    Unknown names stay as they are; they are refused later, when the weights are compared with the network.
    """
    names, renamed = _module_names(config), {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        place = names.get(module)
        if place is None:
            renamed[name] = value
            continue
        parent, _, last = place.rpartition(".")
        if last not in ("qkv", "0") or "attentions" not in place:
            renamed[f"{place}.{kind}"] = value
            continue
        value = value.flatten(1) if kind == "weight" else value  # 1x1 convolutions become matrices
        if last == "0":
            renamed[f"{place}.{kind}"] = value
            continue
        width = value.shape[0] // 3
        heads = config.attention_heads or width // (config.attention_head_dim or width)
        for letter, part in zip("qkv", split_qkv(value, max(heads, 1), by_head=by_head), strict=True):
            renamed[f"{parent}.to_{letter}.{kind}"] = part
    return renamed


def _check_options(options: Mapping[str, Any], config: UNetConfig) -> None:
    """Check that a JSON file has no unknown options, and that repeated options agree with the weights."""
    known = {*DEFAULTS, *DERIVED_OPTIONS, *IGNORED_OPTIONS, "num_heads_upsample", "rescale_timesteps"}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"unknown options {', '.join(printable(name, 40) for name in unknown[:5])}")
    derived = (
        config.time_features or config.block_out_channels[0],
        config.layers_per_block,
        config.out_channels == 2 * config.in_channels,
        False,
        config.resnet_time_scale_shift == "scale_shift",
        config.downsample_type == "resnet",
    )
    for name, value in zip(DERIVED_OPTIONS, derived, strict=True):
        if name in options and options[name] != value:
            raise ValueError(f"{name} is {printable(options[name], 40)}, but according to the weights it is {value}")
    if options.get("num_heads_upsample", -1) not in (-1, options.get("num_heads", -1)):
        raise ValueError("a num_heads_upsample other than num_heads is not supported")
    if options.get("rescale_timesteps") and options.get("diffusion_steps", 1000) != 1000:
        raise ValueError("rescale_timesteps with a diffusion_steps other than 1000 is not supported")


def _integer_option(options: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = options[name]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, not {printable(repr(value), 40)}")
    return value


def _flag_option(options: Mapping[str, Any], name: str) -> bool:
    if not isinstance(options[name], bool):
        raise ValueError(f"{name} must be true or false, not {printable(repr(options[name]), 40)}")
    return options[name]


def _schedule(options: Mapping[str, Any]) -> Schedule:
    """Return the schedule that the options name; the linear one has the same total noise for any number of steps."""
    steps = _integer_option(options, "diffusion_steps", 2, 4096)
    if (name := options["noise_schedule"]) == "linear":
        return Schedule("linear", steps, 1e-4 * 1000 / steps, 0.02 * 1000 / steps)
    if name == "cosine":
        return Schedule("squaredcos_cap_v2", steps)
    raise ValueError(f"noise_schedule {printable(name, 40)} is not supported, only linear and cosine")


def _with_heads(config: UNetConfig, options: Mapping[str, Any]) -> UNetConfig:
    """Return the configuration with its attention heads.

    The heads have `num_head_channels` features each if that option is set; else there are `num_heads` at every width.
    """
    if options["num_head_channels"] not in (None, -1):
        return replace(config, attention_head_dim=_integer_option(options, "num_head_channels", 1, 2048))
    heads, last = _integer_option(options, "num_heads", 1, 2048), config.block_out_channels[-1]
    with_heads = replace(config, attention_heads=heads)
    levels = zip(config.block_out_channels, config.down_block_types, strict=True)
    if all(width == last for width, kind in levels if kind == "AttnDownBlock2D"):
        # Only one width attends, so the number of heads can be expressed by diffusers' own field.
        return replace(config, attention_head_dim=last // heads)
    return with_heads


def convert(
    path: Path, state: Mapping[str, Tensor], file_options: Mapping[str, Any] | None
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Return the spec and the renamed weights of a raw file.

    Args:
        path: The file, for the warning about assumed options.
        state: The weights by guided-diffusion's names.
        file_options: The options in the JSON file beside the weights; None without such a file.

    Raises:
        ValueError: The network is of an unsupported kind, or the options do not fit it.
    """
    config = unet_config(state)
    file_options = dict(file_options or {})
    _check_options(file_options, config)
    known = PUBLISHED.get(sum(value.numel() for value in state.values()))
    options = {**DEFAULTS, **(known or {}), **file_options}
    if file_options.get("num_heads", -1) != -1 and "num_head_channels" not in file_options:
        options["num_head_channels"] = -1
    if options["image_size"] is None:  # all of guided-diffusion's own networks go down to 8 pixels
        options["image_size"] = 8 * 2 ** (len(config.block_out_channels) - 1)
    spec = ModelSpec(
        network=_with_heads(config, options),
        schedule=_schedule(options),
        prediction_type="sample" if _flag_option(options, "predict_xstart") else "epsilon",
        native_size=_integer_option(options, "image_size", 1, MAX_SIDE),
    )
    by_head = not _flag_option(options, "use_new_attention_order")
    if known is None and "num_heads" not in file_options and "num_head_channels" not in file_options:
        assumed = {
            k: v for k, v in options.items() if k not in file_options and v is not None and k != "predict_xstart"
        }
        log.warning("%s does not state how it was trained; assumed: %s", path, json.dumps(assumed))
    return spec, _rename_weights(state, spec.network, by_head)  # type: ignore[arg-type]
