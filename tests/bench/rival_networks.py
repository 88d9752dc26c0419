"""One network, twice: in diffusers and here, with the same weights, and both counting how often they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.diffusion.prior import Prediction
from restorer.diffusion.schedule import Schedule, alpha_bar_of
from restorer.models.load import PRECISIONS
from restorer.networks.time_embedding import PackedTimes
from restorer.networks.unet import UNet, UNetConfig
from restorer.priors.unet_prior import ModelSpec, UNetPrior

__all__ = ["NETWORKS", "CountingPrior", "Layout", "Setting", "TheirNetwork", "difference", "folded"]

GOOGLE = {"attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1}


@dataclass(frozen=True)
class Layout:
    """A network to compare with.

    Args:
        fields: of a UNet2DModel.
        side: of the pictures, in pixels; what is fully convolutional takes others.
        patch: side of the blocks of pixels that are folded into its channels.
        steps, rounds: as many as a processor has patience for.
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
    "plain": Layout(  # no attention: any size
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
    "celebahq": Layout(  # google/ddpm-celebahq-256, some 500 GFLOP an evaluation
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


def folded(x: Tensor, patch: int) -> Tensor:
    """Blocks of pixels as channels; x itself where a block is one pixel."""
    return x if patch == 1 else F.pixel_unshuffle(x, patch)


class TheirNetwork(nn.Module):
    """What a user writes around a network for another library: folding, its precision, the plain tensor.

    Args:
        network: (B, C, H, W), t -> a tensor, or something that holds it as `sample`.
        patch: side of the blocks folded into channels; 1 where the pictures given are folded already.
    """

    def __init__(self, network: nn.Module, patch: int) -> None:
        super().__init__()
        self.network, self.patch, self.calls = network, patch, 0
        self.dtype = next(network.parameters()).dtype

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        output = self.network(folded(x, self.patch).to(self.dtype), t)
        output = getattr(output, "sample", output).to(x.dtype)
        return output if self.patch == 1 else F.pixel_shuffle(output, self.patch)


class CountingPrior(UNetPrior):
    """Ours, as it is, counting."""

    calls = 0

    def forget(self) -> None:
        """What single timesteps gave: a picture in one tile has no use for it, and another round is another picture."""
        for module in self.network.modules():
            if isinstance(module, PackedTimes):
                module.forget()

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        self.calls += 1
        return super().predict(x, sigma, condition)


@dataclass(frozen=True)
class Setting:
    """A network, and how it is run.

    Args:
        layout: of the network; its weights are random, and those of one seed wherever it is built.
        precision: fp32, bf16 or fp16.
        device: where it runs.
        side: of the pictures, in pixels.
        steps: network evaluations.
        channels_last: give theirs this memory format too, which its pipelines leave to the user.
        graphs: of ours; see `UNetPrior`.
    """

    layout: Layout
    precision: str
    device: str
    side: int
    steps: int
    channels_last: bool = False
    graphs: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The precision, as PyTorch has it."""
        return PRECISIONS[self.precision]

    @property
    def spec(self) -> ModelSpec:
        """Of ours: the linear schedule of 1000 steps, and nothing is clipped."""
        return ModelSpec(UNetConfig(**self.layout.fields), Schedule(), clip=False, patch_size=self.layout.patch)

    @property
    def network_bytes(self) -> int:
        """What ours takes for an evaluation of the whole picture."""
        return self.spec.evaluation_bytes(self.side**2, self.dtype.itemsize)

    def _fresh(self) -> UNet:
        torch.manual_seed(0)
        return UNet(UNetConfig(**self.layout.fields))

    def theirs(self) -> nn.Module:
        """A UNet2DModel."""
        import diffusers

        diffusers.utils.logging.set_verbosity_error()  # it warns of layers to be kept in float32, and names none
        network = diffusers.UNet2DModel(**self.layout.fields)
        network.load_state_dict(self._fresh().state_dict())
        network = network.eval().requires_grad_(False).to(self.device, self.dtype)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def ours(self) -> CountingPrior:
        """A prior of pictures with three channels."""
        return CountingPrior(self._fresh(), self.spec, device=self.device, dtype=self.dtype, graphs=self.graphs)


@torch.no_grad()
def difference(setting: Setting, t: int = 500) -> float:
    """The largest difference between what both predict as the clean picture, relative to the noise level."""
    prior, side = setting.ours(), setting.side
    sigma = prior.spec.schedule.sigmas[t]
    x = sigma.float() * torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    x = x.to(prior.device)
    scaled = float(alpha_bar_of(sigma).sqrt()) * x
    eps = TheirNetwork(setting.theirs(), setting.layout.patch)(scaled, torch.tensor(t, device=x.device))
    return float((x - float(sigma) * eps - prior.denoise(x, float(sigma))).abs().max() / sigma)
