"""Latent diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752): sampled on latents, decoded at the end.

    latents   x_0 = scaling_factor * (z - shift_factor),  z the autoencoder's own
    sampling  the ordinary reverse process on x_0, which has about unit variance and is not clipped
    picture   decoder( nearest code( x_0 / scaling_factor + shift_factor ) )

White noise on pixels is not white on latents, so such a prior cannot take a measurement of pixels as the restoring
tasks do; it can be sampled. Super-resolution by four (section 4.4 there) is a conditional network instead: it sees the
small picture, which has the size of the latents of the large one, beside the noisy latents. The published pipeline
resizes that picture to multiples of 32 first; here the network sees it reflected at the right and bottom, as far as its
own stride asks for.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Around, Prediction, Prior
from restorer.diffusion.reverse import NoiseField
from restorer.diffusion.schedule import Schedule
from restorer.networks import Network
from restorer.networks.autoencoder import Autoencoder, VQModel
from restorer.networks.fast.prepacked import can_pack, left_to_pack, pack, unpack
from restorer.networks.unet import to_channels_last
from restorer.priors.tiled import Tiled, ramp, tile_starts
from restorer.priors.unet_prior import MAPS, ModelSpec, UNetPrior

__all__ = ["Conditioned", "LatentPrior", "ddim_plan", "first_mean", "latent_of"]


class LatentPrior(UNetPrior):
    """A U-Net on latents, and the autoencoder that they belong to.

    Sizes, `native_size` too, count positions of the latents; a picture has `factor` times as many pixels a side.

    Args:
        network: the U-Net. Channels that it takes beyond those of the latents are a condition (`condition_channels`).
        spec: what its configuration says, with `network.in_channels` those of the latents alone, and `clip` False.
        autoencoder: moved to `device`, and run in float32: some overflow in half precision.
        device, dtype: as `UNetPrior`; they say where and how the U-Net runs.

    Raises:
        ValueError: the latents are clipped, or have not the channels that the autoencoder decodes.
    """

    def __init__(
        self,
        network: Network,
        spec: ModelSpec,
        autoencoder: Autoencoder,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(network, spec, device=device, dtype=dtype)
        if spec.clip:
            raise ValueError("latents do not lie in [-1, 1]: their prior cannot clip")
        if self.channels != autoencoder.latent_channels:
            raise ValueError(
                f"the network makes latents of {self.channels} channels, "
                f"but the autoencoder decodes {autoencoder.latent_channels}"
            )
        if not can_pack(self.device, torch.float32):
            unpack(autoencoder)
        self.autoencoder = autoencoder.eval().requires_grad_(False).to(self.device, torch.float32)
        if can_pack(self.device, torch.float32):
            pack(to_channels_last(self.autoencoder))
        self.factor = autoencoder.stride
        self.condition_channels = network.config.in_channels // spec.patch_size**2 - self.channels

    @property
    def serves(self) -> str:
        """The one verb that it is for."""
        return "upscale" if self.condition_channels else "generate"

    @property
    def most_steps(self) -> int:
        """Of `ddim_plan`."""
        return self.spec.schedule.steps // 2

    def full_precision(self) -> LatentPrior | None:
        """See `UNetPrior.full_precision`. The autoencoder is shared."""
        if self.dtype == torch.float32:
            return None
        return LatentPrior(self._copy(), self.spec, self.autoencoder, device=self.device)

    def low_precision(self) -> LatentPrior | None:
        """See `UNetPrior.low_precision`. The autoencoder is shared, and stays in float32."""
        if self.dtype != torch.float32:
            return None
        half = torch.bfloat16
        return LatentPrior(self._copy(), self.spec, self.autoencoder, device=self.device, dtype=half)

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """See `Prior.evaluation_bytes`. Decoding as many positions of latents counts as well."""
        decoding = MAPS * self.autoencoder.config.block_out_channels[0] * 4 * pixels * self.factor**2
        return max(super().evaluation_bytes(pixels, low=low), decoding)

    def kept_bytes(self, *, low: bool = False) -> int:
        """See `Prior.kept_bytes`: what the decoder packs as well."""
        return super().kept_bytes(low=low) + 4 * left_to_pack(self.autoencoder.decoder, torch.float32)

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """See `Prior.predict`.

        Raises:
            ValueError: the condition is missing, not asked for, or of another shape than the network takes.
        """
        given = 0 if condition is None else condition.shape[1]
        if given != self.condition_channels:
            raise ValueError(f"the network takes a condition of {self.condition_channels} channels, not {given}")
        if condition is not None and (condition.shape[0], *condition.shape[2:]) != (x.shape[0], *x.shape[2:]):
            raise ValueError("the condition has not the batch, height and width of the latents")
        return super().predict(x, sigma, condition)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, tile: int | None = None) -> Tensor:
        """The picture of latents, with the codebook looked up where there is one.

        Args:
            latents: float (B, channels, h, w), clean.
            tile: side of overlapping tiles that are decoded one by one and blended; None for all at once.

        Returns:
            (B, 3, factor * h, factor * w), about [-1, 1], not clamped.
        """
        config = self.autoencoder.config
        # The published super-resolution was trained on latents as they are, whatever its configuration came to say:
        # diffusers' pipeline for it knows no factor either.
        scale = 1.0 if self.condition_channels else config.scaling_factor
        z = latents.to(self.device, torch.float32) / scale + (getattr(config, "shift_factor", None) or 0.0)
        if isinstance(self.autoencoder, VQModel):
            z = self.autoencoder.quantize(z)
        if tile is None or max(z.shape[-2:]) <= tile:
            return self._decode(z)
        return self._decode_tiles(z, tile)

    def _decode(self, z: Tensor) -> Tensor:
        """The picture of the autoencoder's own latents, which are codes already where it has a codebook."""
        network = self.autoencoder
        if can_pack(self.device, torch.float32):
            z = z.contiguous(memory_format=torch.channels_last)
        return network.decode(z, quantize=False) if isinstance(network, VQModel) else network.decode(z)

    def _decode_tiles(self, z: Tensor, tile: int) -> Tensor:
        """Tiles that share a quarter, blended as `Tiled` blends."""
        height, width = z.shape[-2:]
        factor, overlap = self.factor, tile // 4
        down, across = min(tile, height), min(tile, width)
        tops, lefts = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
        above, before = [factor * top for top in tops], [factor * left for left in lefts]
        total = torch.zeros(height * factor, width * factor, device=z.device)
        result: Tensor | None = None
        for i, top in enumerate(tops):
            for j, left in enumerate(lefts):
                part = self._decode(z[..., top : top + down, left : left + across])
                if result is None:
                    result = part.new_zeros(*part.shape[:2], *total.shape)
                window = ramp(above, i, down * factor)[:, None] * ramp(before, j, across * factor)[None, :]
                rows = slice(above[i], above[i] + down * factor)
                columns = slice(before[j], before[j] + across * factor)
                result[..., rows, columns] += window.to(part) * part
                total[rows, columns] += window.to(total)
        assert result is not None
        return result / total


def latent_of(prior: Prior) -> LatentPrior | None:
    """The latent prior behind a prior, tiled or not; None where it is one of pictures."""
    inner = prior.prior if isinstance(prior, Tiled) else prior
    return inner if isinstance(inner, LatentPrior) else None


class Conditioned(Around):
    """A conditional prior with its condition given: an ordinary prior, of what fits that condition.

    Args:
        prior: the one asked, tiled or not.
        condition: float (B, K, H, W), as large as what will be asked.
    """

    def __init__(self, prior: Prior, condition: Tensor) -> None:
        super().__init__(prior)
        self.condition = condition.to(prior.device)

    def mirrored(self, dims: tuple[int, ...]) -> Conditioned:
        """See `Prior.mirrored`: the condition with it."""
        return Conditioned(self.prior.mirrored(dims), self.condition)

    def full_precision(self) -> Conditioned | None:
        """See `Prior.full_precision`."""
        inner = self.prior.full_precision()
        return None if inner is None else Conditioned(inner, self.condition)

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """See `Prior.predict`; there is nothing left to give a condition for."""
        return self.prior.predict(x, sigma, self.condition)


def ddim_plan(schedule: Schedule, steps: int, *, eta: float = 0.0, offset: int = 1, seed: int = 0) -> Plan:
    """DDIM as latent diffusion is sampled (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12 and 16).

    The timesteps are offset + k * (T // steps), k from steps - 1 down to 0; then the clean latents.

    Args:
        schedule: the network's own.
        steps: network evaluations.
        eta: 0 is deterministic, 1 the ancestral process of a DDPM.
        offset: `steps_offset` of the published scheduler.
        seed: of the noise field.

    Raises:
        ValueError: eta outside 0..1, a negative offset, or more steps than the schedule has timesteps for.
    """
    most = schedule.steps // (offset + 1) if offset >= 0 else 0
    if not 0 <= eta <= 1 or not 1 <= steps <= most:
        raise ValueError(f"eta lies between 0 and 1, and steps between 1 and {most}")
    stride = schedule.steps // steps
    levels = [float(schedule.sigmas[offset + k * stride]) for k in reversed(range(steps))]
    sigmas = (*levels, 0.0)
    zeta = tuple(eta**2 * (1 - (after / before) ** 2) for before, after in pairwise(sigmas))
    return Plan(sigmas=sigmas, zeta=zeta, seed=seed)


def first_mean(plan: Plan, shape: tuple[int, ...]) -> Tensor:
    """The mean that `reverse` is to be given so that the process begins as it is published, with x_T = N(0, I).

    Under sigma and unit variance of the latents that is sqrt(1 + sigma^2) of a white field in the units of `reverse`.
    It draws the same field first and adds sigma of it, so what is lacking is given as its mean.

    Args:
        plan: one that starts from fresh noise.
        shape: (B, channels, h, w) of the latents.
    """
    highest = plan.sigmas[0]
    return (math.sqrt(1 + highest**2) - highest) * NoiseField(plan.seed).like(torch.zeros(shape))
