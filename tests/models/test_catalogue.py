"""The facts about models in the catalogue agree with the networks, which are built without memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import GUIDED, SIX, blocks
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from restorer.models.catalogue import cards, read_facts, weights_folder
from restorer.models.checkpoints import load_model
from restorer.networks.autoencoder import VQConfig
from restorer.networks.unet import UNetConfig

# The shapes stand in notes/hub.md 1.1 and 3.3.
DDPM = {**blocks(128, SIX, (4,)), "attention_head_dim": None}
NETWORKS: dict[str, dict[str, Any]] = {
    **{card.name: DDPM for card in cards() if card.repo.startswith("google/ddpm-") and card.size == 256},
    "ddpm-cifar10-32": {**blocks(128, (1, 2, 2, 2), (1,)), "attention_head_dim": None},
    "ffhq-10m": {**blocks(128, SIX, (4,), resnets=True), **GUIDED, "layers_per_block": 1},
    "adm-256": {**blocks(256, SIX, (3, 4, 5), resnets=True), **GUIDED},
    "ldm-sr": {**blocks(160, (1, 2, 2, 4), (3,)), "attention_head_dim": 32, "in_channels": 6},
    "ldm-celebahq-256": {**blocks(224, (1, 2, 3, 4), (1, 2, 3)), "attention_head_dim": 32},
}
AUTOENCODER = VQConfig(
    block_out_channels=(128, 256, 512),
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    layers_per_block=2,
    num_vq_embeddings=8192,
)


def gflop_of(network: nn.Module, channels: int, side: int) -> float:
    """Return the GFLOP of one evaluation; a multiplication and an addition count as two operations."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, channels, side, side, device="meta"), torch.zeros(1, device="meta"))
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_size_and_cost_in_the_catalogue(card: Any) -> None:
    config = UNetConfig(**NETWORKS[card.name])
    with torch.device("meta"):
        network, autoencoder = config.build(), AUTOENCODER.build() if card.task else nn.Module()
    assert card.parameters == sum(p.numel() for part in (network, autoencoder) for p in part.parameters())
    assert card.bytes == pytest.approx(4 * card.parameters, rel=0.01)
    side = card.size // 4 if card.task else card.size  # latents are smaller than images
    assert card.gflop == pytest.approx(gflop_of(network, config.in_channels, side), rel=0.005)


def test_size_and_cost_of_the_embedded_prior() -> None:
    """The model card states the cost of the network, and the prior stays within the budget of the design."""
    facts = read_facts(weights_folder())
    network, spec = load_model(weights_folder())
    assert facts["parameters"] == sum(p.numel() for p in network.parameters())
    side = 256 // spec.patch_size
    assert facts["gflop"] == pytest.approx(
        gflop_of(network.float().to("meta"), spec.network.in_channels, side), rel=0.005
    )
    assert facts["size"] is None and facts["licence"] == "mit"
    # The design allows 25 MB, and 35 GFLOP for 256 x 256 pixels.
    assert facts["bytes"] <= 25e6 and facts["gflop"] <= 35


def test_a_folder_without_a_model_card_tells_less(tmp_path: Path) -> None:
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copy(weights_folder() / name, tmp_path)
    assert read_facts(tmp_path).keys() == {"parameters", "bytes", "size"}
