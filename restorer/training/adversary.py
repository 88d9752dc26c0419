r"""A discriminator made of the prior itself, and the distance of its features.

The prior has learned what photographs look like, so its features tell an enlargement from a photograph, at every noise
level another property: fine texture at low levels, structure at higher ones. Both pictures receive the same noise, the
encoder of the frozen prior is evaluated once for each, and small heads on the features of its levels are trained to
tell them apart:

    L_D = E max(0, 1 - D(F(x + sigma z))) + E max(0, 1 + D(F(G + sigma z))),    L_G = - E D(F(G + sigma z))

The mean difference of the same features is the second loss. No other network and no other pictures take part.

Sources: Sauer, Boesel, Dockhorn, Blattmann, Esser and Rombach 2024, "Fast High-Resolution Image Synthesis with Latent
Adversarial Diffusion Distillation", https://arxiv.org/abs/2403.12015 (a discriminator on the features of the diffusion
model); Lin and Yang 2023, "Diffusion Model with Perceptual Loss", https://arxiv.org/abs/2401.00110 (its features as a
loss); Lim and Ye 2017, "Geometric GAN", https://arxiv.org/abs/1705.02894 (the hinge).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.diffusion.schedule import alpha_bar_of
from restorer.networks.fast.pixel_shuffle import pixel_unshuffle
from restorer.networks.residual_unet import ResidualUNet
from restorer.priors.unet_prior import ModelSpec

__all__ = ["Features", "Heads", "discriminator_loss", "feature_distance"]

WIDTH = 64  # features of a head


class Features(nn.Module):
    """The features of a frozen network at each level of its encoder, scaled to a mean square of 1.

    Args:
        network: A `ResidualUNet` that no gradient changes.
        spec: Its schedule and patch size.
    """

    scales: Tensor

    def __init__(self, network: ResidualUNet, spec: ModelSpec) -> None:
        super().__init__()
        self.network, self.spec = network.requires_grad_(False), spec
        self.widths = network.config.block_out_channels
        self.register_buffer("scales", torch.ones(len(self.widths), max(self.widths)))

    @torch.no_grad()
    def calibrate(self, x: Tensor, sigma: Tensor) -> None:
        """Set the scales by pictures x (B, C, H, W) on [-1, 1] at noise levels sigma (B,)."""
        self.scales.fill_(1)
        for i, feature in enumerate(self(x, sigma)):
            self.scales[i, : feature.shape[1]] = feature.square().mean((0, 2, 3)).add(1e-4).rsqrt()

    def forward(self, x: Tensor, sigma: Tensor) -> list[Tensor]:
        """Return the features of noisy pictures x (B, C, H, W) at levels sigma (B,), the finest level first."""
        network, abar = self.network, alpha_bar_of(sigma.double())
        t = self.spec.schedule.t_at(sigma.double()).to(x.device, torch.float32)
        folded = pixel_unshuffle(abar.sqrt().to(x).view(-1, 1, 1, 1) * x, self.spec.patch_size, x.dtype)
        features = network.encode(folded, network.embed_time(t, folded.dtype))
        return [f.float() * scale[: f.shape[1], None, None] for f, scale in zip(features, self.scales, strict=True)]


class Heads(nn.Module):
    """A small convolutional head on the features of each level, which is told the noise level.

    Args:
        widths: Number of features of each level.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width + 1, WIDTH, 3),
                nn.LeakyReLU(0.2),
                nn.Conv2d(WIDTH, WIDTH, 3),
                nn.LeakyReLU(0.2),
                nn.Conv2d(WIDTH, 1, 1),
            )
            for width in widths
        )

    def forward(self, features: list[Tensor], sigma: Tensor) -> list[Tensor]:
        """Return the judgement of each level and place: positive for a photograph."""
        level = sigma.log().view(-1, 1, 1, 1)
        return [
            head(torch.cat([f, level.to(f).expand(-1, 1, *f.shape[-2:])], dim=1))
            for head, f in zip(self.heads, features, strict=True)
        ]


def discriminator_loss(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Return the hinge loss of the heads, the mean over the levels."""
    losses = [F.relu(1 - r).mean() + F.relu(1 + m).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(losses).mean()


def feature_distance(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Return the mean absolute difference of features, the mean over the levels."""
    return torch.stack([(r - m).abs().mean() for r, m in zip(real, made, strict=True)]).mean()
