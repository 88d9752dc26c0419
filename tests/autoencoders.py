"""Small autoencoders in diffusers' terms, and pairs of ours and diffusers' with the same random weights."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from restorer.networks.autoencoder import AUTOENCODERS

__all__ = ["TINY", "VQ", "normal", "pair", "random_weights"]

TINY: dict[str, Any] = {
    "block_out_channels": (8, 16, 24),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
}
VQ: dict[str, Any] = {**TINY, "num_vq_embeddings": 64}


def random_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return random weights by name.

    The weights are as large as after an initialization, those of norms lie around 1, and the codebook is drawn from
    N(0, 1), so that the codes lie far apart.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in network.state_dict().items():
        bound = 1 / math.sqrt(max(value[0].numel(), 16)) if value.ndim > 1 else 0.2
        weight = torch.empty(value.shape).uniform_(-bound, bound, generator=generator)
        state[key] = weight + 1 if "norm" in key and key.endswith("weight") else weight
        if key == "quantize.embedding.weight":
            state[key] = torch.randn(value.shape, generator=generator)
    return state


def pair(diffusers: ModuleType, kind: str, fields: dict[str, Any]) -> tuple[Any, Any]:
    """Return our network and diffusers' with the same weights, and check that names and shapes agree.

    Args:
        diffusers: The module.
        kind: The class name, which both packages share.
        fields: The fields of the configuration.
    """
    with torch.device("meta"):
        ours = AUTOENCODERS[kind](**fields).build().eval()
        theirs = getattr(diffusers, kind)(**fields).eval()
    state = random_weights(theirs)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in state.items()}
    ours.load_state_dict(state, assign=True)
    theirs.load_state_dict(state, assign=True)
    return ours, theirs


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Return standard normal noise of the given shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
