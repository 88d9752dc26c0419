"""A U-Net and its schedule as a prior.

The network was trained on x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps. Its parametrization says what it predicts
(Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D):

    epsilon        eps                                           x_0 = x - sigma eps
    v_prediction   v = sqrt(abar) eps - sqrt(1 - abar) x_0       x_0 = abar x - sqrt(1 - abar) v
    sample         x_0

where x = x_t / sqrt(abar) is the state that callers hold: a clean picture plus noise of standard deviation sigma.
Whatever depends on the timestep stays inside this class. With `patch_size` p the network sees each p x p block of
pixels as p * p * C channels (pixel-unshuffle).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from restorer.diffusion.calibration import Calibration
from restorer.diffusion.objective import PREDICTION_TYPES, range_log_variance
from restorer.diffusion.prior import Prediction, Prior, Resources, pad_to_multiple, per_item
from restorer.diffusion.schedule import Schedule, alpha_bar_of
from restorer.networks import Network, NetworkConfig
from restorer.networks.fast.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from restorer.networks.fast.prepacked import can_prepack
from restorer.networks.fast.replacement import accelerate, count_unpacked, decelerate, to_channels_last
from restorer.networks.fast.replay import Replayed
from restorer.networks.fast.time_cache import TimeCache
from restorer.networks.fast.weight_versions import constant_weights
from restorer.networks.time_embedding import TimedNetwork

__all__ = ["PEAK_MAPS", "PREDICTION_TYPES", "ModelSpec", "UNetPrior", "UNetResources", "pad_to_multiple"]

PEAK_MAPS = 10  # memory of an evaluation at its peak, in feature maps as wide as the finest level


@dataclass(frozen=True)
class ModelSpec:
    """Everything that a checkpoint's configuration says. Together with the weights it makes a prior.

    Args:
        network: Shape of the U-Net.
        schedule: Noise schedule that the network was trained on.
        prediction_type: "epsilon", "v_prediction" or "sample".
        clip: Whether predicted pictures are clamped to [-1, 1].
        patch_size: Side of the blocks that pixel-unshuffle folds into channels.
        native_size: Side of the pictures that the network was trained on, if it is tied to that size.
        mirrors: Whether the network was trained on pictures mirrored left to right and upside down.

    Raises:
        ValueError: The prediction type is unknown, or the channels do not match.
    """

    network: NetworkConfig
    schedule: Schedule
    prediction_type: str = "epsilon"
    clip: bool = True
    patch_size: int = 1
    native_size: int | None = None
    mirrors: bool = False

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            known = ", ".join(PREDICTION_TYPES)
            raise ValueError(f"unknown prediction_type {self.prediction_type!r}: it must be one of {known}")
        if self.network.in_channels % self.patch_size**2:
            raise ValueError(f"in_channels {self.network.in_channels} is not a multiple of patch_size ** 2")
        if self.network.out_channels not in (self.network.in_channels, 2 * self.network.in_channels):
            raise ValueError("out_channels must be in_channels, or twice that for a learned variance")

    def evaluation_bytes(self, pixels: int, itemsize: int) -> int:
        """Return the memory of an evaluation at its peak, beside the weights.

        Args:
            pixels: Pixels of the picture.
            itemsize: Bytes of a number in the network's precision.
        """
        return PEAK_MAPS * self.network.block_out_channels[0] * itemsize * pixels // self.patch_size**2


class UNetPrior(Prior):
    """A U-Net as a prior.

    Args:
        network: The U-Net, its parameters in any floating type; it is moved to `device`, cast and accelerated.
        spec: The checkpoint's configuration.
        device: Device to run on.
        dtype: Precision of the network: float32, bfloat16 or float16. Inputs and answers are float32.

    Attributes:
        calibration: The constants that calibrate its uncertainty; None if there are none. `load_prior` sets them.
    """

    def __init__(
        self,
        network: Network,
        spec: ModelSpec,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec = spec
        self.calibration: Calibration | None = None
        self.device = torch.device(device)
        self.dtype = dtype
        self.channels = spec.network.in_channels // spec.patch_size**2
        self.native_size = spec.native_size
        self.clip, self.mirrors = spec.clip, spec.mirrors
        self.sigma_min, self.sigma_max = spec.schedule.sigma_min, spec.schedule.sigma_max
        self.multiple = spec.patch_size * network.stride
        decelerate(network)
        self.network = to_channels_last(network.eval().requires_grad_(False).to(self.device, dtype))
        if can_prepack(self.device, dtype):
            accelerate(self.network)
        self._answer: Callable[[Tensor, Tensor], Tensor] = self.network
        if self.device.type == "cpu" and isinstance(self.network, TimedNetwork):
            self._answer = Replayed(self.network)

    @property
    def resources(self) -> Resources:
        """Memory, precisions and the beginning of runs."""
        return UNetResources(self)

    @torch.no_grad()
    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Evaluate the network once; see `Prior.predict`.

        Any height and width from 1 up will do: the network sees the picture reflected up to the next multiple.
        """
        level = _level(self.spec.schedule, sigma, x)
        output = self._evaluate(x, level, condition)
        answer = output[:, : self.channels]
        match self.spec.prediction_type:
            case "epsilon":
                x0 = x - level.sigma * answer
            case "v_prediction":
                x0 = level.scale**2 * x - level.noise_scale * answer
            case _:
                x0 = answer.contiguous()
        if self.clip:
            x0 = x0.clamp(-1, 1)
        if not isinstance(level.fade, float) or level.fade < 1:
            x0 = torch.lerp(x, x0, level.fade)
        learned = output.shape[1] > self.channels
        return Prediction(x0, self._log_variance(output, level.t) if learned else None)

    def _evaluate(self, x: Tensor, level: _Level, condition: Tensor | None) -> Tensor:
        """Return the raw output of the network for x, (B, C or 2 C, H, W) float32."""
        height, width = x.shape[-2:]
        inputs = level.scale * x
        if condition is not None:
            inputs = torch.cat([inputs, condition], dim=1)
        patch = self.spec.patch_size
        inputs = pixel_unshuffle(pad_to_multiple(inputs, self.multiple), patch, self.dtype)
        output = self._answer(inputs, level.t.to(x.device, torch.float32))
        output = pixel_shuffle(output, patch).to(x.dtype)
        return output if output.shape[-2:] == (height, width) else output[..., :height, :width]

    def _log_variance(self, output: Tensor, t: Tensor) -> Tensor:
        """Return the learned variance at the integer timestep nearest to t, because the chain has no others."""
        return range_log_variance(self.spec.schedule, t.round().long(), (output[:, self.channels :] + 1) / 2)


class UNetResources(Resources):
    """Resources of a `UNetPrior`.

    Args:
        prior: The prior.
    """

    def __init__(self, prior: UNetPrior) -> None:
        self._prior = prior

    @contextmanager
    def run(self, sigmas: Sequence[float]) -> Iterator[None]:
        """Announce the timesteps of a run and check the weights once; see `Resources.run`."""
        network = self._prior.network
        if isinstance(network, TimedNetwork) and isinstance(network.embed_time, TimeCache):
            levels = (_common_level(self._prior.spec.schedule, float(sigma)) for sigma in sigmas)
            network.embed_time.announce([float(level.t.to(torch.float32)) for level in levels])
        with constant_weights():
            yield

    def full_precision(self) -> UNetPrior | None:
        """Return a copy in float32, whose weights stay rounded as they are; None if the prior is in float32."""
        prior = self._prior
        return None if prior.dtype == torch.float32 else self._copy(torch.float32)

    def low_precision(self) -> UNetPrior | None:
        """Return a copy in bfloat16; None unless the prior is in float32."""
        prior = self._prior
        return self._copy(torch.bfloat16) if prior.dtype == torch.float32 else None

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """Return what one evaluation takes at its peak; see `Resources.evaluation_bytes`."""
        return self._prior.spec.evaluation_bytes(pixels, 2 if low else self._prior.dtype.itemsize)

    def kept_bytes(self, *, low: bool = False) -> int:
        """Return the bytes of the weights, packed or copied, that do not exist yet; see `Resources.kept_bytes`."""
        prior = self._prior
        if not low or prior.dtype != torch.float32:
            return count_unpacked(prior.network, prior.dtype) * prior.dtype.itemsize
        half = torch.bfloat16  # a copy, all of whose weights are new
        packed = count_unpacked(prior.network, half, fresh=True) if can_prepack(prior.device, half) else 0
        return half.itemsize * (packed + sum(weight.numel() for weight in prior.network.parameters()))

    def _copy(self, dtype: torch.dtype) -> UNetPrior:
        """Return the prior in another precision."""
        return UNetPrior(self._copy_of_network(), self._prior.spec, device=self._prior.device, dtype=dtype)

    def _copy_of_network(self) -> Network:
        """Return the network with weights of its own."""
        source = self._prior.network
        with torch.device("meta"):  # so that no weights are drawn
            network = source.config.build()
        network.load_state_dict({name: w.clone() for name, w in source.state_dict().items()}, assign=True)
        return network


@dataclass(frozen=True)
class _Level:
    """A noise level as a network sees it: floats if all pictures share it, else float32 (B, 1, 1, 1).

    Args:
        sigma: The level, or the nearest one that the network has learned.
        scale: sqrt(abar), by which the picture is multiplied.
        noise_scale: sqrt(1 - abar).
        fade: Weight of the answer. Below the lowest level that it has learned, a network knows less than the picture
            does, so the answer fades to the identity.
        t: The timestep, (1,) or (B,) float64 on the CPU.
    """

    sigma: float | Tensor
    scale: float | Tensor
    noise_scale: float | Tensor
    fade: float | Tensor
    t: Tensor


def _level(schedule: Schedule, sigma: float | Tensor, x: Tensor) -> _Level:
    """Return the level of x (B, C, H, W) for a sigma that is a float or (B,)."""
    if not isinstance(sigma, Tensor):
        return _common_level(schedule, float(sigma))
    wanted = per_item(sigma, x)
    if bool((wanted == wanted[0]).all()):
        return _common_level(schedule, float(wanted[0]))
    used = wanted.clamp(schedule.sigma_min, schedule.sigma_max)
    alpha_bar, fade = alpha_bar_of(used), (wanted / schedule.sigma_min).clamp(max=1)
    columns = torch.stack([used, alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), fade])[..., None, None, None]
    level, scale, noise_scale, fade = columns.to(x.device, x.dtype).unbind()
    return _Level(level, scale, noise_scale, fade, schedule.t_at(used))


@lru_cache(maxsize=1024)
def _common_level(schedule: Schedule, sigma: float) -> _Level:
    """Return the level that all pictures share. It is cached, since every picture repeats the levels of a plan."""
    used = torch.tensor([sigma], dtype=torch.float64).clamp(schedule.sigma_min, schedule.sigma_max)
    alpha_bar, fade = alpha_bar_of(used), min(sigma / schedule.sigma_min, 1.0)
    scales = float(alpha_bar.sqrt()), float((1 - alpha_bar).sqrt())
    return _Level(float(used), *scales, fade, schedule.t_at(used))
