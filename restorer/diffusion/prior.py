"""The contract between a diffusion model and whoever asks it: a noisy picture in, the clean one out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Around", "Mirrored", "Prediction", "Prior", "pad_to_multiple", "per_item"]


def per_item(sigma: float | Tensor, like: Tensor) -> Tensor:
    """A noise level, a float or (B,), as float64 (B,) on the CPU, one per picture of `like` (B, C, H, W)."""
    values = torch.as_tensor(sigma, dtype=torch.float64).detach().cpu()
    return values.expand(like.shape[0]) if values.ndim == 0 else values


def pad_to_multiple(x: Tensor, multiple: int, dims: tuple[int, ...] = ()) -> Tensor:
    """Reflect (B, C, H, W) at the bottom and right up to a multiple; again and again where the picture is tiny.

    Args:
        dims: of these axes at the beginning, not at the end: as if the picture were mirrored along them, padded, and
            mirrored back.
    """
    height, width = x.shape[-2:]
    down, right = -height % multiple, -width % multiple
    while down or right:
        # One reflection reaches at most size - 1 further; a single row or column can only be repeated.
        step_down, step_right = min(down, x.shape[-2] - 1), min(right, x.shape[-1] - 1)
        if step_down == 0 and step_right == 0:
            return F.pad(x, _sides(right, down, dims), mode="replicate")
        x = F.pad(x, _sides(step_right, step_down, dims), mode="reflect")
        down, right = down - step_down, right - step_right
    return x


def _sides(across: int, down: int, dims: tuple[int, ...]) -> tuple[int, int, int, int]:
    """What `F.pad` takes."""
    columns = (across, 0) if -1 in dims else (0, across)
    return (*columns, down, 0) if -2 in dims else (*columns, 0, down)


@dataclass(frozen=True)
class Prediction:
    """What a prior says of a noisy picture.

    Args:
        x0: the posterior mean E[clean | noisy], shaped like the input, on [-1, 1].
        log_variance: for networks that learned it, the log variance of the reverse step p(x_{t-1} | x_t) of their own
            schedule (Nichol & Dhariwal 2021, eq. 15), shaped like the input; else None.
    """

    x0: Tensor
    log_variance: Tensor | None = None


class Prior(ABC):
    """An unconditional diffusion model behind one question: what is the clean picture?

    Attributes:
        channels: channels of the pictures it knows (3 for colour).
        native_size: side in pixels of the pictures it was trained on, where it is tied to it; None where any size does.
        clip: whether its pictures lie in [-1, 1] (latents do not).
        mirrors: whether pictures are as likely to it mirrored, left to right and upside down.
        multiple: it pads pictures at the bottom and right up to a multiple of this; tiles begin at multiples of it.
        sigma_min, sigma_max: the noise levels it has learned, as standard deviations on the [-1, 1] scale.
        device: where its tensors live.
    """

    channels: int
    native_size: int | None
    multiple: int = 1
    clip: bool
    mirrors: bool = False
    sigma_min: float
    sigma_max: float
    device: torch.device

    @abstractmethod
    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """One network evaluation.

        Args:
            x: float (B, C, H, W), a clean picture in [-1, 1] plus white noise of standard deviation sigma.
            sigma: the noise level, a float or (B,). At 0 the prior is the identity.
            condition: float (B, K, H, W), what a conditional network sees beside x.
        """

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The posterior mean alone, shaped like x."""
        return self.predict(x, sigma).x0

    def expecting(self, sigmas: Sequence[float]) -> AbstractContextManager[None]:
        """A run, in which the prior stays what it is and these noise levels are to be asked for, in this order: what
        depends on a level alone can be computed for several of them together. Others may be asked for all the same,
        and some of these not.
        """
        return nullcontext()

    def mirrored(self, dims: tuple[int, ...]) -> Prior:
        """The same prior shown pictures that are mirrored along these axes (-1, -2), its answers turned back."""
        return Mirrored(self, dims) if dims else self

    def full_precision(self) -> Prior | None:
        """The same prior in float32; None where it is in float32 already."""
        return None

    def low_precision(self) -> Prior | None:
        """The same prior in half the memory; None where there is no such thing."""
        return None

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """About what one evaluation takes in memory at its highest, beside the weights, for that many positions.

        Args:
            low: as `low_precision` would.
        """
        return 0

    def kept_bytes(self, *, low: bool = False) -> int:
        """What the next evaluation takes and keeps, beside `evaluation_bytes`; nothing once it is there.

        Args:
            low: as `low_precision` would.
        """
        return 0


class Around(Prior):
    """A prior that asks another one, and states what that one states; it has no other precision."""

    def __init__(self, prior: Prior) -> None:
        self.prior, self.channels, self.native_size = prior, prior.channels, prior.native_size
        self.clip, self.mirrors, self.multiple, self.device = prior.clip, prior.mirrors, prior.multiple, prior.device
        self.sigma_min, self.sigma_max = prior.sigma_min, prior.sigma_max

    def expecting(self, sigmas: Sequence[float]) -> AbstractContextManager[None]:
        """See `Prior.expecting`."""
        return self.prior.expecting(sigmas)

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """See `Prior.evaluation_bytes`."""
        return self.prior.evaluation_bytes(pixels, low=low)

    def kept_bytes(self, *, low: bool = False) -> int:
        """See `Prior.kept_bytes`."""
        return self.prior.kept_bytes(low=low)


class Mirrored(Around):
    """See `Prior.mirrored`."""

    def __init__(self, prior: Prior, dims: tuple[int, ...]) -> None:
        super().__init__(prior)
        self.dims = dims

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """See `Prior.predict`."""
        seen = None if condition is None else condition.flip(self.dims)
        answer = self.prior.predict(x.flip(self.dims), sigma, seen)
        x0, log_variance = answer.x0.flip(self.dims), answer.log_variance
        return Prediction(x0, None if log_variance is None else log_variance.flip(self.dims))
