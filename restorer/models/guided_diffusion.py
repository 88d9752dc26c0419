"""Files of guided-diffusion (Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233) in the layout of `UNet2DModel`.

    time_embed.{0,2}            time_embedding.linear_{1,2}
    input_blocks.0.0            conv_in
    input_blocks.k.0, .1        down_blocks.l.resnets.j, .attentions.j       k = 1 + l (n + 1) + j,   j < n
    input_blocks.k.0[.op]       down_blocks.l.downsamplers.0[.conv]          k = (l + 1) (n + 1)
    middle_block.{0,1,2}        mid_block.resnets.0, .attentions.0, .resnets.1
    output_blocks.k.0, .1       up_blocks.l.resnets.j, .attentions.j         k = l (n + 1) + j,       j < n + 1
    output_blocks.k.last[.conv] up_blocks.l.upsamplers.0[.conv]              of a level's last k
    out.{0,2}                   conv_norm_out, conv_out

n is the number of resnets of a level. A raw file is a table of weights without a configuration. Most of it can be read
off the names and shapes. What cannot are the heads of the attention, the order of their features, the size of the
pictures and the noise schedule: these come from a JSON file beside it, with the names of guided-diffusion's own
options, from what is known of a published network, or from that program's habits.
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
from restorer.models.weight_files import plain
from restorer.networks.unet import UNetConfig
from restorer.priors.unet_prior import ModelSpec

__all__ = ["convert", "is_guided", "split_qkv", "unet_config"]

log = logging.getLogger(__name__)

# What the weights do not tell, under guided-diffusion's names; -1 stands for "not used" there.
DEFAULTS: dict[str, Any] = {
    "num_heads": None,
    "num_head_channels": 64,
    "use_new_attention_order": False,
    "image_size": None,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "predict_xstart": False,
}
# Published networks by their number of parameters. Those of 256 pixels are ImageNet, LSUN, and RePaint's CelebA-HQ and
# Places; the next is trained on FFHQ (DPS, DiffPIR), and the last is ImageNet of 512 pixels, freed of its classes.
KNOWN = {552_814_086: {"image_size": 256}, 93_563_910: {"image_size": 256}, 557_973_638: {"image_size": 512}}
# Options that the weights tell, and that a JSON file may repeat.
TOLD = ("num_channels", "num_res_blocks", "learn_sigma", "class_cond", "use_scale_shift_norm", "resblock_updown")
# Options that change nothing here: of training, of another sampler, or told by the weights in another form.
WITHOUT_EFFECT = (
    *("attention_resolutions", "channel_mult", "dropout", "use_checkpoint", "use_fp16", "timestep_respacing"),
    *("use_kl", "rescale_learned_sigmas", "model_path", "num_classes"),
)
GROUPS = 32  # of every normalization

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}


def is_guided(state: Mapping[str, Tensor]) -> bool:
    """Whether weights carry the names of guided-diffusion."""
    return "input_blocks.0.0.weight" in state and "time_embed.0.weight" in state


def _size(state: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    if name not in state or state[name].ndim <= axis:
        raise ValueError(f"it is no U-Net of guided-diffusion: {name} is missing")
    return state[name].shape[axis]


def _count(state: Mapping[str, Tensor], part: str) -> int:
    """How many blocks a part has, such as input_blocks."""
    numbers = {name.split(".")[1] for name in state if name.startswith(f"{part}.")}
    if numbers != {str(k) for k in range(len(numbers))}:
        raise ValueError(f"it is no U-Net of guided-diffusion: {part} are not numbered in a row")
    return len(numbers)


def unet_config(state: Mapping[str, Tensor]) -> UNetConfig:
    """The shape of a network from the names and shapes of its weights, with one head of attention.

    Raises:
        ValueError: a network of another kind.
    """
    if "label_emb.weight" in state:
        raise ValueError(CONDITIONAL)
    if any("transformer" in name or "encoder_kv" in name for name in state):
        raise ValueError(TEXT)
    channels, inputs = _size(state, "time_embed.0.weight", 1), _size(state, "input_blocks.0.0.weight", 1)
    if inputs not in (1, 3):
        raise ValueError(f"it takes {inputs} channels, so it is conditioned on a picture; a prior takes 3, or 1")
    n_in, n_out = _count(state, "input_blocks"), _count(state, "output_blocks")
    rises = [k for k in range(n_out) if _sampler(state, k) is not None]
    levels, n = len(rises) + 1, rises[0] if rises else n_out - 1
    if n < 1 or not n_in == n_out == levels * (n + 1):
        raise ValueError(f"it is no U-Net of guided-diffusion: {n_in} and {n_out} blocks on {levels} levels")
    first = [1 + level * (n + 1) for level in range(levels)]
    widths = tuple(_size(state, f"input_blocks.{k}.0.out_layers.3.weight") for k in first)
    attends = [f"input_blocks.{k}.1.qkv.weight" in state for k in first]
    resnet = bool(rises) and not str(_sampler(state, rises[0])).endswith("conv")
    shifts = _size(state, "input_blocks.1.0.emb_layers.1.weight") == 2 * widths[0]
    plain_down, plain_up = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resnet else ("DownBlock2D", "UpBlock2D")
    )
    return UNetConfig(
        in_channels=inputs,
        out_channels=_size(state, "out.2.weight"),
        block_out_channels=widths,
        down_block_types=tuple("AttnDownBlock2D" if a else plain_down for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else plain_up for a in reversed(attends)),
        layers_per_block=n,
        norm_num_groups=GROUPS,
        attn_norm_num_groups=GROUPS,
        attention_head_dim=None,
        resnet_time_scale_shift="scale_shift" if shifts else "default",
        downsample_type="resnet" if resnet else "conv",
        upsample_type="resnet" if resnet else "conv",
        # The first level may have half the channels that all else is a multiple of (512 pixels).
        time_embedding_dim=None if channels == widths[0] else 4 * channels,
        time_features=None if channels == widths[0] else channels,
    )


def _sampler(state: Mapping[str, Tensor], k: int) -> str | None:
    """The name of what doubles the size at the end of an output block, if it has that: a convolution, or a resnet."""
    for place in (f"output_blocks.{k}.1", f"output_blocks.{k}.2"):
        if f"{place}.conv.weight" in state:
            return f"{place}.conv"
        if f"{place}.in_layers.2.weight" in state:
            return place
    return None


def _modules(config: UNetConfig) -> dict[str, str]:
    """The name in our layout of every module with weights, by its name in guided-diffusion's."""
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
        # What doubles the size comes last, behind the attention where there is one.
        last = 2 if config.up_block_types[level] == "AttnUpBlock2D" else 1
        add(f"{place}.{last}", f"up_blocks.{level}.upsamplers.0", {**RESNET, "conv": "conv"})
    add("middle_block.0", "mid_block.resnets.0", RESNET)
    add("middle_block.1", "mid_block.attentions.0", ATTENTION)
    add("middle_block.2", "mid_block.resnets.1", RESNET)
    return names


def split_qkv(qkv: Tensor, heads: int, *, by_head: bool) -> tuple[Tensor, ...]:
    """Queries, keys and values, (C, ...) each, of joint weights (3 C, ...).

    `by_head`: the older order, where each head has its queries, keys and values together.

    Raises:
        ValueError: the rows are no three of as many heads.
    """
    if qkv.shape[0] % (3 * heads):
        raise ValueError(f"the attention has {qkv.shape[0]} rows, which are no {heads} heads of three")
    if by_head:
        qkv = qkv.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    return qkv.chunk(3)


def _renamed(state: Mapping[str, Tensor], config: UNetConfig, by_head: bool) -> dict[str, Tensor]:
    """Weights under the names of our layout; unknown ones keep theirs, and are refused later."""
    names, renamed = _modules(config), {}
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
        value = value.flatten(1) if kind == "weight" else value  # convolutions of width 1
        if last == "0":
            renamed[f"{place}.{kind}"] = value
            continue
        width = value.shape[0] // 3
        heads = config.attention_heads or width // (config.attention_head_dim or width)
        for letter, part in zip("qkv", split_qkv(value, max(heads, 1), by_head=by_head), strict=True):
            renamed[f"{parent}.to_{letter}.{kind}"] = part
    return renamed


def _check_told(options: Mapping[str, Any], config: UNetConfig) -> None:
    """What a JSON file repeats must be what the weights tell; anything unknown in it is a slip of the pen."""
    known = {*DEFAULTS, *TOLD, *WITHOUT_EFFECT, "num_heads_upsample", "rescale_timesteps"}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"unknown options {', '.join(plain(name, 40) for name in unknown[:5])}")
    told = (
        config.time_features or config.block_out_channels[0],
        config.layers_per_block,
        config.out_channels == 2 * config.in_channels,
        False,
        config.resnet_time_scale_shift == "scale_shift",
        config.downsample_type == "resnet",
    )
    for name, value in zip(TOLD, told, strict=True):
        if name in options and options[name] != value:
            raise ValueError(f"{name} is {plain(options[name], 40)}, but the weights say {value}")
    if options.get("num_heads_upsample", -1) not in (-1, options.get("num_heads", -1)):
        raise ValueError("num_heads_upsample other than num_heads is not supported")
    if options.get("rescale_timesteps") and options.get("diffusion_steps", 1000) != 1000:
        raise ValueError("rescale_timesteps with a diffusion_steps other than 1000 is not supported")


def _whole(options: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = options[name]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, not {plain(repr(value), 40)}")
    return value


def _flag(options: Mapping[str, Any], name: str) -> bool:
    if not isinstance(options[name], bool):
        raise ValueError(f"{name} must be true or false, not {plain(repr(options[name]), 40)}")
    return options[name]


def _schedule(options: Mapping[str, Any]) -> Schedule:
    """guided-diffusion's schedules; its linear one keeps the noise of the whole chain the same at any T."""
    steps = _whole(options, "diffusion_steps", 2, 4096)
    if (name := options["noise_schedule"]) == "linear":
        return Schedule("linear", steps, 1e-4 * 1000 / steps, 0.02 * 1000 / steps)
    if name == "cosine":
        return Schedule("squaredcos_cap_v2", steps)
    raise ValueError(f"noise_schedule {plain(name, 40)} is not supported, only linear and cosine")


def _with_heads(config: UNetConfig, options: Mapping[str, Any]) -> UNetConfig:
    """The network with its heads: of `num_head_channels` features each, else `num_heads` at every width."""
    if options["num_head_channels"] not in (None, -1):
        return replace(config, attention_head_dim=_whole(options, "num_head_channels", 1, 2048))
    heads, last = _whole(options, "num_heads", 1, 2048), config.block_out_channels[-1]
    with_heads = replace(config, attention_heads=heads)
    levels = zip(config.block_out_channels, config.down_block_types, strict=True)
    if all(width == last for width, kind in levels if kind == "AttnDownBlock2D"):
        return replace(config, attention_head_dim=last // heads)  # one width attends: in the words of the layout
    return with_heads


def convert(
    path: Path, state: Mapping[str, Tensor], given: Mapping[str, Any] | None
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The spec and the renamed weights of a raw file; `given` is what stands in the JSON file beside it.

    Raises:
        ValueError: a network of another kind, or options that it cannot have.
    """
    config = unet_config(state)
    given = dict(given or {})
    _check_told(given, config)
    known = KNOWN.get(sum(value.numel() for value in state.values()))
    options = {**DEFAULTS, **(known or {}), **given}
    if given.get("num_heads", -1) != -1 and "num_head_channels" not in given:
        options["num_head_channels"] = -1
    if options["image_size"] is None:  # guided-diffusion's own networks all go down to 8 pixels
        options["image_size"] = 8 * 2 ** (len(config.block_out_channels) - 1)
    spec = ModelSpec(
        network=_with_heads(config, options),
        schedule=_schedule(options),
        prediction_type="sample" if _flag(options, "predict_xstart") else "epsilon",
        native_size=_whole(options, "image_size", 1, MAX_SIDE),
    )
    by_head = not _flag(options, "use_new_attention_order")
    if known is None and "num_heads" not in given and "num_head_channels" not in given:
        assumed = {k: v for k, v in options.items() if k not in given and v is not None and k != "predict_xstart"}
        log.warning("%s does not say how it was trained; taken for granted: %s", path, json.dumps(assumed))
    return spec, _renamed(state, spec.network, by_head)  # type: ignore[arg-type]
