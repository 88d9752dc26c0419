"""Tiny latent diffusion models with random weights, in the layout and with the fields of the published models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from autoencoders import random_weights
from safetensors.torch import save_file

from restorer.networks.autoencoder import AUTOENCODERS
from restorer.networks.unet import UNet, UNetConfig

__all__ = ["UNET", "VQ", "write_config", "write_model", "write_part"]

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
# Narrow and shallow versions of CompVis/ldm-super-resolution-4x-openimages and CompVis/ldm-celebahq-256
# (notes/hub.md 1.1).
UNET: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 16,
}
VQ: dict[str, Any] = {
    "_class_name": "VQModel",
    "block_out_channels": [8, 16, 24],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "norm_num_groups": 4,
    "latent_channels": 3,
    "num_vq_embeddings": 64,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,
}
SUPER = {**SCHEDULER, "beta_end": 0.0155}
CELEBA = {**SCHEDULER, "beta_end": 0.0195}


def write_config(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, creating its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_part(folder: Path, config: dict[str, Any]) -> None:
    """Write a network of a pipeline: its configuration, and random weights that fit the configuration."""
    shape = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    kind = shape.pop("_class_name")
    with torch.device("meta"):
        if kind == "UNet2DModel":
            del shape["sample_size"]
            network: torch.nn.Module = UNet(UNetConfig(**shape))
        else:
            network = AUTOENCODERS[kind](**shape).build()
    write_config(folder / CONFIG, config)
    save_file(random_weights(network), folder / WEIGHTS)


def write_model(folder: Path, *, super_resolution: bool) -> Path:
    """Write a pipeline for 4x super-resolution, or one that generates images from noise, and return its folder."""
    kind = "LDMSuperResolutionPipeline" if super_resolution else "LDMPipeline"
    parts = {"scheduler": "DDIMScheduler", "unet": "UNet2DModel", "vqvae": "VQModel"}
    write_config(folder / "model_index.json", {"_class_name": kind, **{k: ["diffusers", v] for k, v in parts.items()}})
    write_config(folder / "scheduler" / "scheduler_config.json", SUPER if super_resolution else CELEBA)
    write_part(folder / "unet", {**UNET, "in_channels": 6 if super_resolution else 3})
    # The published models have no scaling_factor, for which diffusers assumes 0.18215, or the right factor in a later
    # revision.
    write_part(folder / "vqvae", VQ if super_resolution else {**VQ, "scaling_factor": 1.0})
    return folder
