"""The contract between a diffusion model and its callers: a noisy picture goes in, the clean one comes out.

Whoever computes with a prior is a generator of questions (`Asking`). It yields each evaluation of a network that it
needs, and takes the answer from it when it is resumed. So one caller may answer each question by itself (`answered`),
and another may answer the questions of several computations by one evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Asking",
    "Mirrored",
    "Prediction",
    "Prior",
    "PriorWrapper",
    "Question",
    "Resources",
    "WrapperResources",
    "answered",
    "pad_to_multiple",
    "per_item",
]

T = TypeVar("T")


def per_item(sigma: float | Tensor, like: Tensor) -> Tensor:
    """Return a noise level, a float or (B,), for each picture of `like` (B, C, H, W): float64 (B,) on the CPU."""
    values = torch.as_tensor(sigma, dtype=torch.float64).detach().cpu()
    return values.expand(like.shape[0]) if values.ndim == 0 else values


def pad_to_multiple(x: Tensor, multiple: int, dims: tuple[int, ...] = ()) -> Tensor:
    """Reflect a picture at the bottom and right until its sides are multiples of a number.

    A tiny picture is reflected several times.

    Args:
        x: Picture, (B, C, H, W).
        multiple: The number.
        dims: Axes (-1, -2) that are padded at the beginning and not at the end, as if the picture were mirrored along
            them, padded, and mirrored back.
    """
    height, width = x.shape[-2:]
    down, right = -height % multiple, -width % multiple
    while down or right:
        # One reflection reaches at most size - 1 pixels; a single row or column can only be repeated.
        step_down, step_right = min(down, x.shape[-2] - 1), min(right, x.shape[-1] - 1)
        if step_down == 0 and step_right == 0:
            return F.pad(x, _pad_argument(right, down, dims), mode="replicate")
        x = F.pad(x, _pad_argument(step_right, step_down, dims), mode="reflect")
        down, right = down - step_down, right - step_right
    return x


def _pad_argument(across: int, down: int, dims: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the padding in the form that `F.pad` takes."""
    columns = (across, 0) if -1 in dims else (0, across)
    return (*columns, down, 0) if -2 in dims else (*columns, 0, down)


@dataclass(frozen=True)
class Prediction:
    """A prior's answer to a noisy picture.

    Args:
        x0: The posterior mean E[clean | noisy], shaped like the input, on [-1, 1].
        log_variance: For networks that learned it, the log variance of the reverse step p(x_{t-1} | x_t) of their own
            schedule (Nichol & Dhariwal 2021, eq. 15), shaped like the input; otherwise None.
    """

    x0: Tensor
    log_variance: Tensor | None = None

    def part(self, items: slice) -> Prediction:
        """Return the answer to some of the pictures of a batch."""
        return Prediction(self.x0[items], None if self.log_variance is None else self.log_variance[items])


class Question:
    """One evaluation that is asked of a prior, with the arguments of `Prior.predict`.

    The question lets go of its tensors when the answer is taken: there may be no room for a large picture twice.
    """

    def __init__(self, prior: Prior, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> None:
        self.prior, self.sigma = prior, sigma
        self._given: tuple[Tensor, Tensor | None] | None = (x, condition)
        self._answer: Prediction | Exception | None = None

    @property
    def x(self) -> Tensor:
        """The noisy picture, (B, C, H, W), until the answer is taken."""
        assert self._given is not None
        return self._given[0]

    def evaluate(self) -> None:
        """Answer by an evaluation of the prior."""
        assert self._given is not None
        try:
            self._answer = self.prior.predict(self._given[0], self.sigma, self._given[1])
        except Exception as error:
            self._answer = error

    def settle(self, answer: Prediction | Exception) -> None:
        """Answer by a prediction that was made otherwise, or by the error that prevented it."""
        self._answer = answer

    def take(self) -> Prediction:
        """Return the answer, once.

        Raises:
            Exception: The evaluation has failed.
        """
        answer, self._answer, self._given = self._answer, None, None
        if isinstance(answer, Exception):
            try:
                raise answer
            finally:  # or else the error would hold this frame, and this frame the error with all of its tensors
                del answer
        assert answer is not None
        return answer


Asking: TypeAlias = Generator[Question, None, T]
"""A computation that yields every question to a network, and goes on when it has been answered."""


def answered(asking: Asking[T]) -> T:
    """Return the outcome of a computation, answering each of its questions by itself."""
    while True:
        try:
            question = next(asking)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        question.evaluate()
        del question  # which holds the answer until it is taken


class Resources:
    """What a prior needs of the machine, and the precisions that it has.

    This base class describes a prior that has one precision and takes no memory worth counting.
    """

    def run(self, sigmas: Sequence[float]) -> AbstractContextManager[None]:
        """Return a context in which the prior stays as it is and is asked about these noise levels, in this order.

        The prior may then compute whatever depends on a level alone for several levels at once. Callers may ask about
        other levels too, and need not ask about all of these.
        """
        return nullcontext()

    def full_precision(self) -> Prior | None:
        """Return the same prior in float32; None if it is in float32 already."""
        return None

    def low_precision(self) -> Prior | None:
        """Return the same prior in half the memory; None if there is no such form."""
        return None

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """Return about how many bytes one evaluation takes at its peak, beside the weights.

        Args:
            pixels: Positions that the evaluation covers.
            low: Whether to count for `low_precision`.
        """
        return 0

    def kept_bytes(self, *, low: bool = False) -> int:
        """Return how many bytes the next evaluation allocates and keeps, beside `evaluation_bytes`.

        The number is 0 once they are allocated.

        Args:
            low: Whether to count for `low_precision`.
        """
        return 0


class Prior(ABC):
    """A diffusion model behind one question: which clean picture a noisy one shows.

    Attributes:
        channels: Channels of the pictures that it knows (3 for colour).
        native_size: Side in pixels of the pictures that it was trained on, if it is tied to that size; otherwise None.
        clip: Whether its pictures lie in [-1, 1]; latents do not.
        mirrors: Whether pictures are as likely to it when they are mirrored, left to right and upside down.
        multiple: Number to whose multiples it pads pictures at the bottom and right; tiles begin at its multiples.
        sigma_min: Lowest noise level that it has learned, a standard deviation on the [-1, 1] scale.
        sigma_max: Highest noise level that it has learned.
        device: Device of its tensors.
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
        """Evaluate the network once.

        Args:
            x: A clean picture on [-1, 1] plus white noise of standard deviation sigma, float (B, C, H, W).
            sigma: Noise level, a float or (B,). At 0 the prior is the identity.
            condition: What a conditional network sees beside x, float (B, K, H, W).
        """

    def asking(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Asking[Prediction]:
        """Return the computation of `predict`, whose questions are the evaluations of networks that it takes."""
        question = Question(self, x, sigma, condition)
        del x, condition
        yield question
        return question.take()

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the posterior mean alone, shaped like x."""
        return self.predict(x, sigma).x0

    def mirrored(self, dims: tuple[int, ...]) -> Prior:
        """Return the same prior for pictures mirrored along axes (-1, -2): it mirrors its input and its answer."""
        return Mirrored(self, dims) if dims else self

    @property
    def resources(self) -> Resources:
        """Memory, precisions and the beginning of runs: everything about the prior that the mathematics ignores."""
        return Resources()


class PriorWrapper(Prior):
    """A prior that asks another prior and has the same attributes.

    Args:
        prior: The other prior.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior, self.channels, self.native_size = prior, prior.channels, prior.native_size
        self.clip, self.mirrors, self.multiple, self.device = prior.clip, prior.mirrors, prior.multiple, prior.device
        self.sigma_min, self.sigma_max = prior.sigma_min, prior.sigma_max

    @property
    def resources(self) -> Resources:
        """Resources of the wrapped prior, without its other precisions."""
        return WrapperResources(self.prior)


class WrapperResources(Resources):
    """Resources of a prior that wraps another one.

    Args:
        prior: The wrapped prior.
        rewrap: Function that wraps the other prior's `full_precision` or `low_precision` in the same way; None if the
            wrapper has no other precision.
    """

    def __init__(self, prior: Prior, rewrap: Callable[[Prior], Prior] | None = None) -> None:
        self._inner, self._rewrap = prior.resources, rewrap

    def run(self, sigmas: Sequence[float]) -> AbstractContextManager[None]:
        """Begin a run of the wrapped prior."""
        return self._inner.run(sigmas)

    def full_precision(self) -> Prior | None:
        """Return the wrapped prior in float32, wrapped again; None if there is no such form."""
        return self._wrapped(self._inner.full_precision) if self._rewrap else None

    def low_precision(self) -> Prior | None:
        """Return the wrapped prior in half the memory, wrapped again; None if there is no such form."""
        return self._wrapped(self._inner.low_precision) if self._rewrap else None

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        """Return what an evaluation of the wrapped prior takes."""
        return self._inner.evaluation_bytes(pixels, low=low)

    def kept_bytes(self, *, low: bool = False) -> int:
        """Return what the wrapped prior's next evaluation keeps."""
        return self._inner.kept_bytes(low=low)

    def _wrapped(self, other: Callable[[], Prior | None]) -> Prior | None:
        prior = other()
        return None if prior is None or self._rewrap is None else self._rewrap(prior)


class Mirrored(PriorWrapper):
    """A prior whose input and answer are mirrored; see `Prior.mirrored`.

    Args:
        prior: The other prior.
        dims: Axes to mirror, from (-1, -2).
    """

    def __init__(self, prior: Prior, dims: tuple[int, ...]) -> None:
        super().__init__(prior)
        self.dims = dims

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Evaluate the other prior on the mirrored picture, and mirror its answer; see `Prior.predict`."""
        return answered(self.asking(x, sigma, condition))

    def asking(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Asking[Prediction]:
        """Ask the other prior; see `Prior.asking`."""
        mirrored_condition = None if condition is None else condition.flip(self.dims)
        answer = yield from self.prior.asking(x.flip(self.dims), sigma, mirrored_condition)
        x0, log_variance = answer.x0.flip(self.dims), answer.log_variance
        return Prediction(x0, None if log_variance is None else log_variance.flip(self.dims))
