"""One network in two implementations, diffusers and this project, with the same weights and a count of evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.diffusion.prior import Prediction
from restorer.diffusion.schedule import Schedule, alpha_bar_of
from restorer.models.devices import PRECISIONS
from restorer.networks.fast.time_cache import TimeCache
from restorer.networks.unet import UNet, UNetConfig
from restorer.priors.unet_prior import ModelSpec, UNetPrior

__all__ = ["NETWORKS", "CountingPrior", "Layout", "Setting", "TheirNetwork", "difference", "fold"]

GOOGLE = {"attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1}


@dataclass(frozen=True)
class Layout:
    """The architecture of a network to compare with, and the default settings of its comparison.

    Args:
        fields: Configuration of a UNet2DModel.
        side: Side of the pictures in pixels; a fully convolutional network accepts other sizes too.
        patch: Side of the blocks of pixels that are folded into channels.
        steps: Number of network evaluations that is practical on a CPU.
        rounds: Number of rounds that is practical on a CPU.
    """

    fields: dict[str, Any]
    side: int
    patch: int = 1
    steps: int = 20
    rounds: int = 3


NETWORKS = {
    "cifar": Layout(  # google/ddpm-cifar10-32
        {
            **GOOGLE,
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        },
        32,
    ),
    "plain": Layout(  # without attention, and therefore for pictures of any size
        {
            **GOOGLE,
            "in_channels": 12,
            "out_channels": 12,
            "block_out_channels": (48, 96, 144, 192),
            "down_block_types": ("DownBlock2D",) * 4,
            "up_block_types": ("UpBlock2D",) * 4,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "add_attention": False,
        },
        128,
        patch=2,
    ),
    "celebahq": Layout(  # google/ddpm-celebahq-256, about 500 GFLOP per evaluation
        {
            **GOOGLE,
            "block_out_channels": (128, 128, 256, 256, 512, 512),
            "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
        },
        256,
        steps=2,
        rounds=1,
    ),
}


def fold(x: Tensor, patch: int) -> Tensor:
    """Fold blocks of pixels into channels; blocks of one pixel leave x as it is."""
    return x if patch == 1 else F.pixel_unshuffle(x, patch)


class TheirNetwork(nn.Module):
    """The wrapper that a user writes to pass a network to another library.

    It folds pictures, converts them to the precision of the network, and returns a plain tensor.

    Args:
        network: (B, C, H, W), t -> a tensor, or an object with a tensor in its attribute `sample`.
        patch: Side of the blocks that are folded into channels; 1 if the pictures are folded already.
    """

    def __init__(self, network: nn.Module, patch: int) -> None:
        super().__init__()
        self.network, self.patch, self.calls = network, patch, 0
        self.dtype = next(network.parameters()).dtype

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Evaluate the network and count the evaluation."""
        self.calls += 1
        output = self.network(fold(x, self.patch).to(self.dtype), t)
        output = getattr(output, "sample", output).to(x.dtype)
        return output if self.patch == 1 else F.pixel_shuffle(output, self.patch)


class CountingPrior(UNetPrior):
    """A `UNetPrior` that counts its evaluations in `calls`."""

    calls = 0

    def forget(self) -> None:
        """Empty the caches of the time embedding, so that each round computes it as a new picture would."""
        for module in self.network.modules():
            if isinstance(module, TimeCache):
                module.forget()

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Evaluate the network and count the evaluation."""
        self.calls += 1
        return super().predict(x, sigma, condition)


@dataclass(frozen=True)
class Setting:
    """A network and the settings of its runs.

    Args:
        layout: Architecture of the network; its random weights come from one seed in both implementations.
        precision: "fp32", "bf16" or "fp16".
        device: Where the network runs.
        side: Side of the pictures in pixels.
        steps: Number of network evaluations.
        channels_last: Whether the network of diffusers has this memory format too, which its pipelines leave to the
            user.
    """

    layout: Layout
    precision: str
    device: str
    side: int
    steps: int
    channels_last: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the precision."""
        return PRECISIONS[self.precision]

    @property
    def spec(self) -> ModelSpec:
        """Spec of this project's network: the linear schedule of 1000 steps, without clipping."""
        return ModelSpec(UNetConfig(**self.layout.fields), Schedule(), clip=False, patch_size=self.layout.patch)

    @property
    def network_bytes(self) -> int:
        """Estimated memory of an evaluation of the whole picture by this project, in bytes."""
        return self.spec.evaluation_bytes(self.side**2, self.dtype.itemsize)

    def _build(self) -> UNet:
        """Build the network of this project with random weights, always the same ones."""
        torch.manual_seed(0)
        return UNet(UNetConfig(**self.layout.fields))

    def theirs(self) -> nn.Module:
        """Build the UNet2DModel of diffusers."""
        import diffusers

        diffusers.utils.logging.set_verbosity_error()  # suppresses a warning about layers in float32
        network = diffusers.UNet2DModel(**self.layout.fields)
        network.load_state_dict(self._build().state_dict())
        network = network.eval().requires_grad_(False).to(self.device, self.dtype)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def ours(self) -> CountingPrior:
        """Build the prior of this project."""
        return CountingPrior(self._build(), self.spec, device=self.device, dtype=self.dtype)


@torch.no_grad()
def difference(setting: Setting, t: int = 500) -> float:
    """Return the largest difference between the two predictions of the clean picture, relative to the noise level."""
    prior, side = setting.ours(), setting.side
    sigma = prior.spec.schedule.sigmas[t]
    x = sigma.float() * torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    x = x.to(prior.device)
    scaled = float(alpha_bar_of(sigma).sqrt()) * x
    eps = TheirNetwork(setting.theirs(), setting.layout.patch)(scaled, torch.tensor(t, device=x.device))
    return float((x - float(sigma) * eps - prior.denoise(x, float(sigma))).abs().max() / sigma)
