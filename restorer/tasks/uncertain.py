"""How uncertain the result of a task is: by the derivative of the prior, or by several samples.

    denoise     white noise: by the derivative at the picture itself, where it is exact, and by what the detail adds
                camera noise: by the derivative at the last evaluation at the level of the noise or above it
    dejpeg      by the derivative at the last evaluation
    deblur      by the derivative at the evaluation in the middle of the run
    inpaint     by several samples; known pixels are certain
    upscale     by several samples

Where the data correct the predictions, the derivative of one prediction is not the posterior covariance. It tells where
the prior is in doubt, and the calibration tells how much that is (docs/explanation/uncertainty.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import MIRRORS, Canvas, Step
from restorer.diffusion.uncertainty import LEAST_VARIANCE, local_mean, posterior_variance

__all__ = [
    "NOTHING",
    "Asked",
    "Doubt",
    "Spread",
    "draw_samples",
    "drawn_by_data",
    "is_by_samples",
    "probed_index",
    "runs",
    "spread_by_derivative",
    "spread_by_samples",
]


@dataclass(frozen=True)
class Asked:
    """What a run returns beside its result.

    Args:
        spread: Whether the uncertainty of every pixel is estimated.
        samples: Number of results that are drawn, the first one included.
    """

    spread: bool = False
    samples: int = 1


NOTHING = Asked()
"""Nothing but the result."""


@dataclass(frozen=True)
class Doubt:
    """What the uncertainty of a result is estimated from, and which constants calibrate it.

    Args:
        kind: A key of the constants, such as "deblur".
        strength: Strength of the degradation, in the unit of the kind.
        at: Place in the run of the evaluation whose derivative tells the uncertainty, from 0 (the first one) to 1 (the
            last one); None if samples tell it.
        samples: Number of samples, the result included, that tell it if the derivative does not.
        level: Noise level of the evaluation on the [-1, 1] scale if that evaluation was another network's, whose level
            is none of noise; the prior is then asked about its answer. None for the level of the evaluation.
        cut: Maps a map of the size of the state to the size of the result.
        is_gray: Whether the result is gray.
        has_mean: Whether the first prediction is the posterior mean, from which the detail leads away.
        detail: How far the detail leads away from it: the share of the way from the mean to the last state.
        depth: Distance of each pixel of a hole from its rim in pixels, (H, W); None if there is no wide hole.
        known: The pixels of the result that are those of the input, bool (H, W); None if there are none.
        canvas: The larger picture of whose random signs a part is taken; None for the whole picture.
    """

    kind: str
    strength: float
    at: float | None = None
    samples: int = 4
    level: float | None = None
    cut: Callable[[Tensor], Tensor] = lambda x: x
    is_gray: bool = False
    has_mean: bool = False
    detail: float = 0.0
    depth: Tensor | None = None
    known: Tensor | None = None
    canvas: Canvas | None = None


@dataclass(frozen=True)
class Spread:
    """The uncertainty of a result before its calibration.

    Args:
        deviation: Estimated standard deviation of every pixel, float32 (H, W) in levels, on the CPU; 0 where the pixels
            are known.
        doubt: What it was estimated from.
        hint: A second map that tells of the errors, float32 (H, W), above 0; None if there is none. It is the distance
            in levels from the posterior mean to the last state, or that by which the data draw the first prediction,
            or the depth in pixels within a hole.
    """

    deviation: Tensor
    doubt: Doubt
    hint: Tensor | None = None


def is_by_samples(asked: Asked, doubt: Doubt | None) -> bool:
    """Return whether several samples are drawn for the uncertainty."""
    return asked.spread and doubt is not None and doubt.at is None


def runs(asked: Asked, doubt: Doubt | None) -> int:
    """Return the number of times that the restoration is run, each time with another seed."""
    return max(asked.samples, doubt.samples if doubt is not None and is_by_samples(asked, doubt) else 1)


def probed_index(asked: Asked, doubt: Doubt | None, evaluations: int) -> int:
    """Return the number, from 1, of the evaluation whose derivative tells the uncertainty; 0 if none does."""
    if not asked.spread or doubt is None or doubt.at is None:
        return 0
    return 1 + int(doubt.at * (evaluations - 1) + 0.5)


def draw_samples(
    asked: Asked, doubt: Doubt | None, first: Tensor, draw: Callable[[int], Tensor]
) -> tuple[tuple[Tensor, ...], Spread | None]:
    """Draw several results.

    Args:
        asked: What is wanted.
        doubt: How the uncertainty is estimated.
        first: The result that there is, (C, H, W) in [0, 1].
        draw: Returns another result. Its argument is the number of the sample, from 1.

    Returns:
        The further results that are wanted, and the uncertainty if it is wanted and the samples tell it.
    """
    kept: list[Tensor] = []

    def drawn() -> Iterator[Tensor]:
        yield first
        for number in range(1, runs(asked, doubt)):
            image = draw(number)
            if number < asked.samples:
                kept.append(image)
            yield image

    if doubt is not None and is_by_samples(asked, doubt):
        spread = spread_by_samples(doubt, drawn())
        return tuple(kept), spread
    deque(drawn(), maxlen=0)
    return tuple(kept), None


def drawn_by_data(doubt: Doubt, step: Step) -> Tensor:
    """Return the mean square over the channels of what the data change in a prediction, in squared levels, (H, W)."""
    moved = 127.5 * (step.corrected - step.x0)[0].float()
    moved = moved.mean(0, keepdim=True) if doubt.is_gray else moved
    return moved.square().mean(0).cpu()


def spread_by_derivative(
    doubt: Doubt, prior: Prior, plan: Plan, step: Step, change: Tensor | None, drawn: Tensor
) -> Spread:
    """Estimate the uncertainty by probes of the derivative of the prior.

    Args:
        doubt: How it is estimated.
        prior: The prior.
        plan: The plan of the run.
        step: The evaluation that is probed.
        change: The difference of the result from the mean, (C, H, W) in [0, 1]; None if there is no mean.
        drawn: What the data change in the first prediction, as `drawn_by_data` returns it.

    Returns:
        The uncertainty of the result.
    """
    # The probes are oriented as the evaluation was.
    oriented = prior.mirrored(MIRRORS[(step.index - 1) % len(MIRRORS)]) if plan.mirrored else prior
    level = doubt.level or step.sigma
    with prior.resources.run([level]):
        state, x0 = step.state, step.x0
        if doubt.level is not None:
            state, x0 = x0, oriented.denoise(x0, level)
        variance = posterior_variance(
            lambda x: oriented.denoise(x, level),
            state,
            x0,
            level,
            is_gray=doubt.is_gray,
            canvas=doubt.canvas,
        )
    smooth = doubt.cut(local_mean(variance.float())).cpu().clamp(min=LEAST_VARIANCE)
    if change is None:
        has_hint, told = bool(drawn.any()), doubt.cut(local_mean(drawn))
    else:
        added = local_mean((255 * change).square().mean(0))
        smooth, has_hint = smooth + added, doubt.detail > 0
        told = added / doubt.detail**2 if has_hint else added
    return Spread(smooth.sqrt(), doubt, told.clamp(min=LEAST_VARIANCE).sqrt() if has_hint else None)


def spread_by_samples(doubt: Doubt, samples: Iterable[Tensor]) -> Spread:
    """Estimate the uncertainty by the variance of several results.

    Args:
        doubt: How it is estimated.
        samples: At least two results, (C, H, W) in [0, 1]. Only one at a time is kept.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for sample in samples:  # Welford's recurrence
        count += 1
        difference = 255 * sample - mean
        mean = mean + difference / count
        squares = squares + (difference * (255 * sample - mean)).mean(0)
    variance = squares / (count - 1)
    if doubt.known is None:
        return Spread(local_mean(variance).clamp(min=LEAST_VARIANCE).sqrt(), doubt)
    unknown = ~doubt.known
    smooth = local_mean(variance, unknown.to(variance.dtype)).clamp(min=LEAST_VARIANCE)
    return Spread(torch.where(unknown, smooth, 0.0).sqrt(), doubt, doubt.depth)
