r"""A discriminator of pixels and of the features of the prior, and the distance of these features.

The prior has learned what photographs look like, so its features tell an enlargement from a photograph, at every noise
level another property: fine texture at low levels, structure at higher ones. Both pictures receive the same noise, the
encoder of the frozen prior is evaluated once for each, and small heads on the features of its levels are trained to
tell them apart. The head that sees the pixels themselves is larger, and they receive no more noise than hides the
rounding of photographs: the features have lost what repeats from pixel to pixel in enlargements alone, such as a mesh.
The heads see the input y beside what they judge, so that texture where the input has none counts as false, however
much it looks like the texture of some photograph:

    d = D(F(x + sigma z), F(y + sigma z')) - D(F(G + sigma z), F(y + sigma z')),
    L_D = E log(1 + exp(-d)),    L_G = E log(1 + exp(d))

Where y is noisy, it is hidden from the heads: they would find traces of its noise in G, and the best answer to that is
blur. The mean difference of the features is a loss of its own.

Sources: Sauer, Boesel, Dockhorn, Blattmann, Esser and Rombach 2024, "Fast High-Resolution Image Synthesis with Latent
Adversarial Diffusion Distillation", https://arxiv.org/abs/2403.12015 (a discriminator on the features of the diffusion
model); Lin and Yang 2023, "Diffusion Model with Perceptual Loss", https://arxiv.org/abs/2401.00110 (its features as a
loss); Jolicoeur-Martineau 2018, "The relativistic discriminator: a key element missing from standard GAN",
https://arxiv.org/abs/1807.00734 (the difference of a pair); Isola, Zhu, Zhou and Efros 2017, "Image-to-Image
Translation with Conditional Adversarial Networks", https://arxiv.org/abs/1611.07004 (the input beside what is judged,
and a judgement of each place).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.memory_format import convert_conv2d_weight_memory_format

from restorer.diffusion.schedule import alpha_bar_of
from restorer.networks.fast.pixel_shuffle import pixel_unshuffle
from restorer.networks.residual_unet import ResidualUNet
from restorer.priors.unet_prior import ModelSpec

__all__ = ["ROUNDING", "Features", "Heads", "Seen", "discriminator_loss", "feature_distance"]

LAYOUT = torch.channels_last  # twice as fast in bf16
FOLD = 2  # pixels in each direction that the head on the pixels sees as channels
OF_PIXELS = ((64, 1), (64, 1), (128, 2), (128, 1), (128, 2), (128, 1))  # width and stride of its convolutions
SHARE_OF_PIXELS = 2 / 3  # of its part of the loss
WIDTH = 64  # features of a head on features
SLOPE = 0.2  # of the activations below zero
ROUNDING = 0.008
"""Standard deviation of the noise that hides the rounding of photographs to 8 bits, on the [-1, 1] scale."""


@dataclass(frozen=True)
class Seen:
    """What the heads see of pictures.

    Args:
        pixels: The pictures, (B, C, H, W) on [-1, 1].
        features: Their features at each level, (B, C_l, H_l, W_l).
    """

    pixels: Tensor
    features: list[Tensor]

    def detach(self) -> Seen:
        """Return the same without a gradient."""
        return Seen(self.pixels.detach(), [f.detach() for f in self.features])

    def hide(self, where: Tensor) -> Seen:
        """Return zeros for the pictures where the mask, bool (B,), is true."""
        kept = (~where).view(-1, 1, 1, 1).to(self.pixels)
        return Seen(self.pixels * kept, [f * kept for f in self.features])


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
    """A head on the pixels, and one on the features of each level, which is told the noise level.

    Args:
        widths: Number of features of each level.
        channels: Number of channels of the pictures.
    """

    def __init__(self, widths: tuple[int, ...], channels: int = 3) -> None:
        super().__init__()
        self.of_pixels = _head(2 * channels * FOLD**2, OF_PIXELS, padding=1)
        self.of_features = nn.ModuleList(_head(2 * width + 1, ((WIDTH, 1), (WIDTH, 1)), padding=0) for width in widths)
        convert_conv2d_weight_memory_format(self, LAYOUT)

    def forward(self, seen: Seen, given: Seen, sigma: Tensor) -> list[Tensor]:
        """Return the judgement of each head and place, that of the pixels first: the larger, the more of a photograph.

        Args:
            seen: What is seen of the pictures to be judged.
            given: What is seen of the inputs that they were made from.
            sigma: Levels of the noise of the features, (B,).
        """
        level = sigma.log().view(-1, 1, 1, 1)
        inputs = [[pixel_unshuffle(p, FOLD, p.dtype) for p in (seen.pixels, given.pixels)]]
        for f, y in zip(seen.features, given.features, strict=True):
            inputs.append([f, y, level.to(f).expand(-1, 1, *f.shape[-2:])])
        joined = (torch.cat(each, dim=1).contiguous(memory_format=LAYOUT) for each in inputs)
        return [head(each).float() for head, each in zip([self.of_pixels, *self.of_features], joined, strict=True)]


def _head(width: int, layers: tuple[tuple[int, int], ...], padding: int) -> nn.Sequential:
    """Return convolutions of 3x3 pixels with these widths and strides, and a last one of a single pixel."""
    parts: list[nn.Module] = []
    for outputs, stride in layers:
        convolution = nn.Conv2d(width, outputs, 3, stride, padding)
        nn.init.kaiming_normal_(convolution.weight, SLOPE)  # smaller weights would hide the pixels from the last layer
        parts += [convolution, nn.LeakyReLU(SLOPE)]
        width = outputs
    return nn.Sequential(*parts, nn.Conv2d(width, 1, 1))


def discriminator_loss(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Return the loss of the heads: log 2 where they cannot tell, 0 where they are sure and right.

    Each place of a photograph is compared with the same place of what was made, so that nothing depends on how much
    there is to judge at that place. The loss of the network that makes the pictures is that of the reverse order.

    Args:
        real: The judgements of photographs, that of the pixels first.
        made: The judgements of what was made.
    """
    of_pixels, *of_features = (F.softplus(m - r).mean() for r, m in zip(real, made, strict=True))
    return SHARE_OF_PIXELS * of_pixels + (1 - SHARE_OF_PIXELS) * torch.stack(of_features).mean()


def feature_distance(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Return the mean absolute difference of features, the mean over the levels."""
    return torch.stack([(r - m).abs().mean() for r, m in zip(real, made, strict=True)]).mean()
