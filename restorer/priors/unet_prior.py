"""A U-Net and its schedule as a prior.

The network was trained on x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps and predicts, by its parametrization (Salimans & Ho
2022, https://arxiv.org/abs/2202.00512, appendix D), one of

    epsilon        eps                                           x_0 = x - sigma eps
    v_prediction   v = sqrt(abar) eps - sqrt(1 - abar) x_0       x_0 = abar x - sqrt(1 - abar) v
    sample         x_0

where x = x_t / sqrt(abar) is what the callers hold: a clean picture plus noise of standard deviation sigma. Everything
that depends on the timestep stays inside this class. With `patch_size` p the network sees each p x p block of pixels as
p * p * C channels (pixel-unshuffle).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from restorer.diffusion.objective import PREDICTION_TYPES, range_log_variance
from restorer.diffusion.prior import Prediction, Prior, pad_to_multiple, per_item
from restorer.diffusion.schedule import Schedule, alpha_bar_of
from restorer.networks import Network, NetworkConfig
from restorer.networks.fast.graphed import Graphed
from restorer.networks.fast.prepacked import can_pack, left_to_pack, pack, unpack
from restorer.networks.fast.replay import Traced
from restorer.networks.fast.weight_versions import unchanging
from restorer.networks.layers import shuffled, unshuffled
from restorer.networks.time_embedding import TimedNetwork
from restorer.networks.unet import to_channels_last

__all__ = ["MAPS", "PREDICTION_TYPES", "ModelSpec", "UNetPrior", "pad_to_multiple"]

MAPS = 10  # feature maps as wide as the finest level that an evaluation holds at its highest, all levels taken together


@dataclass(frozen=True)
class ModelSpec:
    """Everything a checkpoint's configuration says: with the weights, it makes a prior.

    Args:
        network: the shape of the U-Net.
        schedule: the noise schedule it was trained on.
        prediction_type: "epsilon", "v_prediction" or "sample".
        clip: whether predicted pictures are clamped to [-1, 1].
        patch_size: side of the blocks that pixel-unshuffle folds into channels.
        native_size: side of the pictures it was trained on, if the network is tied to it.
        mirrors: whether it was trained on pictures mirrored left to right and upside down.
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
            raise ValueError(f"unknown prediction_type {self.prediction_type!r}: one of {', '.join(PREDICTION_TYPES)}")
        if self.network.in_channels % self.patch_size**2:
            raise ValueError(f"in_channels {self.network.in_channels} is no multiple of patch_size ** 2")
        if self.network.out_channels not in (self.network.in_channels, 2 * self.network.in_channels):
            raise ValueError("out_channels must be in_channels, or twice that for a learned variance")

    def evaluation_bytes(self, pixels: int, itemsize: int) -> int:
        """Memory of an evaluation of so many pixels, beside the weights, in a precision of so many bytes a number."""
        return MAPS * self.network.block_out_channels[0] * itemsize * pixels // self.patch_size**2


class UNetPrior(Prior):
    """A U-Net as a prior.

    Args:
        network: the U-Net, its parameters in any floating type; moved to `device` and cast.
        spec: what its configuration says.
        device: where to run.
        dtype: the precision of the network (float32, bfloat16 or float16). What goes in and comes out is float32.
        graphs: on a GPU, record its kernels for a shape and launch them together (`networks/fast/graphed.py`); not yet
            measured, so off.
    """

    def __init__(
        self,
        network: Network,
        spec: ModelSpec,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        graphs: bool = False,
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.dtype = dtype
        self.channels = spec.network.in_channels // spec.patch_size**2
        self.native_size = spec.native_size
        self.clip, self.mirrors = spec.clip, spec.mirrors
        self.sigma_min, self.sigma_max = spec.schedule.sigma_min, spec.schedule.sigma_max
        self.multiple = spec.patch_size * network.stride
        unpack(network)
        self.network = to_channels_last(network.eval().requires_grad_(False).to(self.device, dtype))
        if can_pack(self.device, dtype):
            pack(self.network)
        self._answer: Callable[[Tensor, Tensor], Tensor] = self.network
        if self.device.type == "cpu" and isinstance(self.network, TimedNetwork):
            self._answer = Traced(self.network)
        elif graphs and self.device.type == "cuda":
            self._answer = Graphed(self.network)

    def full_precision(self) -> UNetPrior | None:
        """See `Prior.full_precision`. The copy has weights of its own, as far as they have been rounded already."""
        if self.dtype == torch.float32:
            return None
        return UNetPrior(self._copy(), self.spec, device=self.device)

    def low_precision(self) -> UNetPrior | None:
        """See `Prior.low_precision`: bfloat16 for float32."""
        if self.dtype != torch.float32:
            return None
        return UNetPrior(self._copy(), self.spec, device=self.device, dtype=torch.bfloat16)

    def _copy(self) -> Network:
        """The network once more, with weights of its own."""
        with torch.device("meta"):  # nothing is drawn
            network = self.network.config.build()
        network.load_state_dict({name: w.clone() for name, w in self.network.state_dict().items()}, assign=True)
        return network

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """See `Prior.evaluation_bytes`."""
        return self.spec.evaluation_bytes(pixels, 2 if low else self.dtype.itemsize)

    def kept_bytes(self, *, low: bool = False) -> int:
        """See `Prior.kept_bytes`: weights once more, as the processor's kernels read them."""
        if not low or self.dtype != torch.float32:
            return left_to_pack(self.network, self.dtype) * self.dtype.itemsize
        half = torch.bfloat16  # of the copy, all weights are new
        packed = left_to_pack(self.network, half, afresh=True) if can_pack(self.device, half) else 0
        return half.itemsize * (packed + sum(weight.numel() for weight in self.network.parameters()))

    @contextmanager
    def expecting(self, sigmas: Sequence[float]) -> Iterator[None]:
        """See `Prior.expecting`."""
        if isinstance(self.network, TimedNetwork):
            levels = (_common_level(self.spec.schedule, float(sigma)) for sigma in sigmas)
            self.network.times.expect([float(level.t.to(torch.float32)) for level in levels])
        with unchanging():
            yield

    @torch.no_grad()
    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """See `Prior.predict`. Any height and width from 1 up; the network sees the next multiple, reflected."""
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
        """The raw network output for x: (B, C or 2 C, H, W) float32, shaped like x."""
        height, width = x.shape[-2:]
        inputs = level.scale * x
        if condition is not None:
            inputs = torch.cat([inputs, condition], dim=1)
        patch = self.spec.patch_size
        inputs = unshuffled(pad_to_multiple(inputs, self.multiple), patch, self.dtype)
        output = self._answer(inputs, level.t.to(x.device, torch.float32))
        output = shuffled(output, patch).to(x.dtype)
        return output if output.shape[-2:] == (height, width) else output[..., :height, :width]

    def _log_variance(self, output: Tensor, t: Tensor) -> Tensor:
        """The learned variance of the integer timestep nearest to t: a chain has no others."""
        return range_log_variance(self.spec.schedule, t.round().long(), (output[:, self.channels :] + 1) / 2)


@dataclass(frozen=True)
class _Level:
    """A noise level as a network sees it: floats where all pictures have the same, else float32 (B, 1, 1, 1).

    Args:
        sigma: the level, or the nearest one that the network has learned.
        scale: sqrt(abar), by which the picture is multiplied; noise_scale: sqrt(1 - abar).
        fade: how much of the answer counts. Below the lowest level it has learned a network knows less than the
            picture does: the answer fades to the identity.
        t: the timestep, (1,) or (B,) float64 on the CPU.
    """

    sigma: float | Tensor
    scale: float | Tensor
    noise_scale: float | Tensor
    fade: float | Tensor
    t: Tensor


def _level(schedule: Schedule, sigma: float | Tensor, x: Tensor) -> _Level:
    """The level of x (B, C, H, W), from a float or (B,)."""
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
    """One for all: computed once for the steps of a plan, which come again with every picture."""
    used = torch.tensor([sigma], dtype=torch.float64).clamp(schedule.sigma_min, schedule.sigma_max)
    alpha_bar, fade = alpha_bar_of(used), min(sigma / schedule.sigma_min, 1.0)
    scales = float(alpha_bar.sqrt()), float((1 - alpha_bar).sqrt())
    return _Level(float(used), *scales, fade, schedule.t_at(used))
