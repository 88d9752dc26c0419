"""Configurations of U-Nets in diffusers' terms, and networks of diffusers with random weights."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

__all__ = ["GUIDED", "SIX", "blocks", "theirs_of"]

# The fields of guided-diffusion with resblock_updown, use_scale_shift_norm and learn_sigma (Dhariwal & Nichol 2021).
GUIDED: dict[str, Any] = {
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
    "attention_head_dim": 64,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
SIX = (1, 1, 2, 2, 4, 4)  # the multiples of the width at each level in most networks for 256 pixels


def blocks(width: int, mult: tuple[float, ...], attends: tuple[int, ...], *, resnets: bool = False) -> dict[str, Any]:
    """Return the fields that describe the levels of a U-Net.

    Args:
        width: The base number of features.
        mult: The multiple of `width` at each level.
        attends: The levels with attention.
        resnets: Whether resnets, not convolutions, change the size at the levels without attention.
    """
    others = "ResnetDownsampleBlock2D" if resnets else "DownBlock2D"
    down = tuple("AttnDownBlock2D" if level in attends else others for level in range(len(mult)))
    return {
        "block_out_channels": tuple(int(width * m) for m in mult),
        "down_block_types": down,
        "up_block_types": tuple(kind.replace("Down", "Up") for kind in reversed(down)),
    }


def theirs_of(diffusers: ModuleType, fields: dict[str, Any], seed: int = 0) -> nn.Module:
    """Return a network of diffusers with random weights."""
    torch.manual_seed(seed)
    network = diffusers.UNet2DModel(**fields).eval()
    for name, value in network.named_parameters():  # Norms start at one and zero, which hides their effect.
        if "norm" in name:
            nn.init.normal_(value, mean=float(name.endswith("weight")), std=0.2)
    return network
