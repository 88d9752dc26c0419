"""Latent diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752): sampled on latents, decoded at the end.

    latents   x_0 = scaling_factor * (z - shift_factor),  with z the latents of the autoencoder
    sampling  the ordinary reverse process on x_0, which has about unit variance and is not clipped
    picture   decoder( nearest code( x_0 / scaling_factor + shift_factor ) )

White noise on pixels is not white on latents, so a latent prior cannot take a measurement of pixels as the restoring
tasks do; it can only be sampled. Super-resolution by four (section 4.4 of the paper) is a conditional network instead:
beside the noisy latents it sees the small picture, which has the size of the latents of the large one. The published
pipeline first resizes the small picture to multiples of 32. Here the network sees it reflected at the right and bottom,
up to a multiple of its own stride.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Asking, Prediction, Prior, PriorWrapper, Resources, WrapperResources
from restorer.diffusion.reverse import NoiseField
from restorer.diffusion.schedule import Schedule
from restorer.networks import Network
from restorer.networks.autoencoder import Autoencoder, VQModel
from restorer.networks.fast.prepacked import can_prepack
from restorer.networks.fast.replacement import accelerate, count_unpacked, decelerate, to_channels_last
from restorer.priors.tiled import Tiled, ramp, tile_starts
from restorer.priors.unet_prior import PEAK_MAPS, ModelSpec, UNetPrior, UNetResources

__all__ = ["Conditioned", "LatentPrior", "ddim_plan", "first_mean", "latent_of"]


class LatentPrior(UNetPrior):
    """A U-Net on latents, and the autoencoder that the latents belong to.

    Sizes, including `native_size`, count positions of the latents; a picture has `factor` times as many pixels a side.

    Args:
        network: The U-Net. Channels that it takes beyond those of the latents are a condition (`condition_channels`).
        spec: The checkpoint's configuration. `network.in_channels` counts the latents alone, and `clip` is False.
        autoencoder: The autoencoder, which is moved to `device` and runs in float32: some overflow in half precision.
        device: Device to run on.
        dtype: Precision of the U-Net.

    Raises:
        ValueError: The latents are clipped, or the autoencoder decodes latents of another number of channels.
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
            raise ValueError("latents do not lie in [-1, 1], so their prior cannot clip")
        if self.channels != autoencoder.latent_channels:
            raise ValueError(
                f"the network makes latents of {self.channels} channels, "
                f"but the autoencoder decodes {autoencoder.latent_channels}"
            )
        if not can_prepack(self.device, torch.float32):
            decelerate(autoencoder)
        self.autoencoder = autoencoder.eval().requires_grad_(False).to(self.device, torch.float32)
        if can_prepack(self.device, torch.float32):
            accelerate(to_channels_last(self.autoencoder))
        self.factor = autoencoder.stride
        self.condition_channels = network.config.in_channels // spec.patch_size**2 - self.channels

    @property
    def serves(self) -> str:
        """The one verb that this prior serves: "upscale" or "generate"."""
        return "upscale" if self.condition_channels else "generate"

    @property
    def most_steps(self) -> int:
        """Largest number of steps that `ddim_plan` accepts."""
        return self.spec.schedule.steps // 2

    @property
    def resources(self) -> Resources:
        """Memory, precisions and the beginning of runs, with the autoencoder."""
        return _LatentResources(self)

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Evaluate the network once; see `Prior.predict`.

        Raises:
            ValueError: The condition is missing, superfluous, or of another shape than the network takes.
        """
        given = 0 if condition is None else condition.shape[1]
        if given != self.condition_channels:
            raise ValueError(f"the network takes a condition of {self.condition_channels} channels, not {given}")
        if condition is not None and (condition.shape[0], *condition.shape[2:]) != (x.shape[0], *x.shape[2:]):
            raise ValueError("the condition must have the batch, height and width of the latents")
        return super().predict(x, sigma, condition)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, tile: int | None = None) -> Tensor:
        """Return the picture of latents, after a look-up in the codebook if there is one.

        Args:
            latents: Clean latents, float (B, channels, h, w).
            tile: Side of overlapping tiles that are decoded one by one and blended; None to decode all at once.

        Returns:
            Picture, (B, 3, factor * h, factor * w), about [-1, 1], not clamped.
        """
        config = self.autoencoder.config
        # The published super-resolution was trained on unscaled latents, whatever its configuration says, and the
        # pipeline of diffusers does not scale them either.
        scale = 1.0 if self.condition_channels else config.scaling_factor
        z = latents.to(self.device, torch.float32) / scale + (getattr(config, "shift_factor", None) or 0.0)
        if isinstance(self.autoencoder, VQModel):
            z = self.autoencoder.quantize(z)
        if tile is None or max(z.shape[-2:]) <= tile:
            return self._decode(z)
        return self._decode_tiles(z, tile)

    def _decode(self, z: Tensor) -> Tensor:
        """Return the picture of the autoencoder's latents z, which are codes already if it has a codebook."""
        network = self.autoencoder
        if can_prepack(self.device, torch.float32):
            z = z.contiguous(memory_format=torch.channels_last)
        return network.decode(z, quantize=False) if isinstance(network, VQModel) else network.decode(z)

    def _decode_tiles(self, z: Tensor, tile: int) -> Tensor:
        """Decode tiles that share a quarter, and blend them as `Tiled` does."""
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
    """Return the latent prior behind a prior, tiled or not; None if it is a prior of pictures."""
    inner = prior.prior if isinstance(prior, Tiled) else prior
    return inner if isinstance(inner, LatentPrior) else None


class Conditioned(PriorWrapper):
    """A conditional prior with its condition given, which makes it an ordinary prior of what fits that condition.

    Args:
        prior: The conditional prior, tiled or not.
        condition: The condition, float (B, K, H, W), of the height and width of the states that will be asked about.
    """

    def __init__(self, prior: Prior, condition: Tensor) -> None:
        super().__init__(prior)
        self.condition = condition.to(prior.device)

    @property
    def resources(self) -> Resources:
        """Resources of the conditional prior."""
        return WrapperResources(self.prior, lambda prior: Conditioned(prior, self.condition))

    def mirrored(self, dims: tuple[int, ...]) -> Conditioned:
        """Return the prior for mirrored pictures; the condition is mirrored with them."""
        return Conditioned(self.prior.mirrored(dims), self.condition)

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Evaluate the conditional prior with its condition; the argument `condition` is ignored."""
        return self.prior.predict(x, sigma, self.condition)

    def asking(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Asking[Prediction]:
        """Ask the conditional prior with its condition; see `Prior.asking`."""
        return self.prior.asking(x, sigma, self.condition)


class _LatentResources(UNetResources):
    """Resources of a `LatentPrior`. All its precisions share one autoencoder, which stays in float32."""

    _prior: LatentPrior

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """Return what an evaluation takes, or the decoding of as many positions if that takes more."""
        prior = self._prior
        decoding = PEAK_MAPS * prior.autoencoder.config.block_out_channels[0] * 4 * pixels * prior.factor**2
        return max(super().evaluation_bytes(pixels, low=low), decoding)

    def kept_bytes(self, *, low: bool = False) -> int:
        """Return the bytes of packed weights that do not exist yet, with those of the decoder."""
        return super().kept_bytes(low=low) + 4 * count_unpacked(self._prior.autoencoder.decoder, torch.float32)

    def _copy(self, dtype: torch.dtype) -> LatentPrior:
        prior = self._prior
        network = self._copy_of_network()
        return LatentPrior(network, prior.spec, prior.autoencoder, device=prior.device, dtype=dtype)


def ddim_plan(schedule: Schedule, steps: int, *, eta: float = 0.0, offset: int = 1, seed: int = 0) -> Plan:
    """Return the plan of DDIM as latent diffusion uses it.

    See Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12 and 16.

    The timesteps are offset + k * (T // steps), with k from steps - 1 down to 0; the clean latents follow.

    Args:
        schedule: The network's own schedule.
        steps: Number of network evaluations.
        eta: 0 for the deterministic process, 1 for the ancestral process of a DDPM.
        offset: `steps_offset` of the published scheduler.
        seed: Seed of the noise field.

    Raises:
        ValueError: eta lies outside 0..1, the offset is negative, or the schedule has too few timesteps.
    """
    most = schedule.steps // (offset + 1) if offset >= 0 else 0
    if not 0 <= eta <= 1 or not 1 <= steps <= most:
        raise ValueError(f"eta must lie between 0 and 1, and steps between 1 and {most}")
    stride = schedule.steps // steps
    levels = [float(schedule.sigmas[offset + k * stride]) for k in reversed(range(steps))]
    sigmas = (*levels, 0.0)
    zeta = tuple(eta**2 * (1 - (after / before) ** 2) for before, after in pairwise(sigmas))
    return Plan(sigmas=sigmas, zeta=zeta, seed=seed)


def first_mean(plan: Plan, shape: tuple[int, ...]) -> Tensor:
    """Return the start that makes `reverse` begin as published, with x_T ~ N(0, I).

    For latents of unit variance at the level sigma, x_T is sqrt(1 + sigma^2) times a white field in the units of
    `reverse`. That function draws the same field first and adds sigma times it, so the rest is returned here.

    Args:
        plan: Plan that starts from fresh noise.
        shape: Shape of the latents, (B, channels, h, w).
    """
    highest = plan.sigmas[0]
    return (math.sqrt(1 + highest**2) - highest) * NoiseField(plan.seed).like(torch.zeros(shape))
