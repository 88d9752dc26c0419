"""Files of networks that restore in a single pass, with random weights, in the layouts in which people have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from restorer.machine.torchvision import import_torchvision
from restorer.models.feed_forward import FeedForward

__all__ = ["NETWORKS", "compact", "described", "dncnn", "nafnet", "photograph", "rrdb", "save", "spandrel", "swinir"]

import_torchvision()  # before spandrel imports it, which cannot repair it
spandrel: Any = pytest.importorskip("spandrel", reason="the extra spandrel is not installed")

State = dict[str, Tensor]


def convolution(state: State, name: str, inputs: int, outputs: int, gain: float = 1.0, bias: float = 0.0) -> None:
    """Add the weights of a convolution with a kernel of 3x3."""
    state[f"{name}.weight"] = gain * torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    state[f"{name}.bias"] = torch.full((outputs,), bias)


def rrdb(blocks: int = 1, features: int = 8, inputs: int = 3, seed: int = 0) -> State:
    """Return the weights of an RRDBNet by the names in RealESRGAN_x4plus.pth.

    With 12 inputs, it is the network of RealESRGAN_x2plus.pth, which folds blocks of 2x2 pixels into channels.
    """
    torch.manual_seed(seed)
    state: State = {}
    growth = 32  # in spandrel it is the same for all
    convolution(state, "conv_first", inputs, features)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for k in range(1, 6):
                outputs = growth if k < 5 else features
                convolution(state, f"body.{block}.rdb{dense}.conv{k}", features + (k - 1) * growth, outputs)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        convolution(state, name, features, features)
    convolution(state, "conv_last", features, 3, gain=0.2, bias=0.45)
    return state


def compact(scale: int = 4, features: int = 8, channels: int = 3, seed: int = 0) -> State:
    """Return the weights of a compact network of Real-ESRGAN (SRVGGNetCompact), which sees 3 pixels around."""
    torch.manual_seed(seed)
    state: State = {}
    convolution(state, "body.0", channels, features)
    state["body.1.weight"] = torch.rand(features)
    convolution(state, "body.2", features, features)
    state["body.3.weight"] = torch.rand(features)
    convolution(state, "body.4", features, channels * scale**2, gain=0.1)
    return state


def _state_of(network: Any, seed: int) -> State:
    torch.manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return {name: value.clone() for name, value in network.state_dict().items()}


def swinir(seed: int = 0) -> State:
    """Return the weights of a small SwinIR that enlarges by 2. They hold tables of integers."""
    sizes = {"depths": [2, 2], "num_heads": [2, 2], "embed_dim": 12, "window_size": 8, "mlp_ratio": 2.0}
    return _state_of(spandrel.architectures.SwinIR.SwinIR(upscale=2, upsampler="pixelshuffledirect", **sizes), seed)


def nafnet(seed: int = 0) -> State:
    """Return the weights of a small NAFNet, which keeps the size."""
    network = spandrel.architectures.NAFNet.NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    return _state_of(network, seed)


def dncnn(channels: int = 1, seed: int = 0) -> State:
    """Return the weights of a small DnCNN, which keeps the size and sees 8 pixels around."""
    return _state_of(
        spandrel.architectures.DnCNN.DnCNN(in_nc=channels, out_nc=channels, nc=8, nb=8, act_mode="R"), seed
    )


NETWORKS: dict[str, tuple[Callable[[], State], str, int]] = {
    "RealESRGAN_x4plus": (rrdb, "ESRGAN", 4),
    "RealESRGAN_x2plus": (lambda: rrdb(inputs=12), "ESRGAN", 2),
    "realesr-general-x4v3": (compact, "RealESRGAN Compact", 4),
    "SwinIR": (swinir, "SwinIR", 2),
    "NAFNet": (nafnet, "NAFNet", 1),
    "DnCNN": (lambda: dncnn(3), "DnCNN", 1),
}
"""By name: a function that returns the weights, what spandrel calls the architecture, and the scale."""


def save(path: Path, state: State, key: str | None = None) -> Path:
    """Write weights as the ending of the path says, under a key of a pickle if one is given."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state if key is None else {key: state}, path)
    return path


def photograph(height: int, width: int, channels: int = 3, seed: int = 1) -> Tensor:
    """Return a smooth random picture, (C, H, W) in [0, 1], of whole levels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, max(height // 6, 2), max(width // 6, 2), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return ((0.15 + 0.7 * fine).clamp(0, 1) * 255).round() / 255


def described(module: Any, scale: int = 2, purpose: str = "SR", masked: bool = False) -> FeedForward:
    """Return a module as a network, described by spandrel's own classes."""
    common = {"supports_half": True, "supports_bfloat16": True, "input_channels": 3, "output_channels": 3}
    kind, extra = spandrel.ImageModelDescriptor, {"scale": scale}
    if masked:
        kind, extra = spandrel.MaskedImageModelDescriptor, {}
    architecture = spandrel.MAIN_REGISTRY["ESRGAN"].architecture
    network = kind(module, module.state_dict(), architecture, purpose=purpose, tags=[], **common, **extra)
    return FeedForward("network.pth", "0" * 64, None, network, torch.device("cpu"), torch.float32)
