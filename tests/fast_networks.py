"""Configurations of small networks of every kind that has faster modules for evaluation."""

from __future__ import annotations

import dataclasses

from restorer.networks import ResidualUNetConfig, UNetConfig

__all__ = ["GUIDED", "ONE_HEAD", "PLAIN", "RESIDUAL"]

PLAIN = UNetConfig(
    block_out_channels=(32, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    downsample_padding=0,
)
ONE_HEAD = dataclasses.replace(PLAIN, attention_head_dim=None)
GUIDED = dataclasses.replace(
    PLAIN,
    down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    resnet_time_scale_shift="scale_shift",
    downsample_type="resnet",
    upsample_type="resnet",
    attention_head_dim=None,
    attention_heads=4,
    attn_norm_num_groups=32,
)
RESIDUAL = ResidualUNetConfig(in_channels=12, out_channels=12, block_out_channels=(16, 32, 48), layers_per_block=1)
