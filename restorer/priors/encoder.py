"""What the way down of the embedded prior makes of a picture: features that other networks read.

A denoiser has to tell texture from structure, and its features serve for other questions about a picture, from few
examples (Baranchuk et al. 2022, "Label-Efficient Semantic Segmentation with Diffusion Models",
https://arxiv.org/abs/2112.03126).
"""

from __future__ import annotations

import torch
from torch import Tensor

from restorer.diffusion.schedule import alpha_bar_of
from restorer.networks.fast.pixel_shuffle import pixel_unshuffle
from restorer.networks.residual_unet import ResidualUNet
from restorer.priors.unet_prior import UNetPrior

__all__ = ["encode"]


@torch.no_grad()
def encode(prior: UNetPrior, x: Tensor, sigma: float) -> list[Tensor]:
    """Return the features of each level of a prior's encoder, the finest first, in the precision of the prior.

    Args:
        prior: A prior whose network is a `ResidualUNet`, as that of the embedded prior is.
        x: Pictures on [-1, 1], float (B, C, H, W), whose sides are multiples of `prior.multiple`.
        sigma: The noise level that the network is told; see `Prior.predict`.

    Raises:
        TypeError: The prior has a network of another kind.
    """
    network, level = prior.network, torch.tensor([sigma], dtype=torch.float64)
    if not isinstance(network, ResidualUNet):
        raise TypeError("only the features of a ResidualUNet are read")
    folded = pixel_unshuffle(float(alpha_bar_of(level).sqrt()) * x, prior.spec.patch_size, prior.dtype)
    t = prior.spec.schedule.t_at(level).to(x.device, torch.float32).expand(len(x))
    return network.encode(folded, network.embed_time(t, prior.dtype))
