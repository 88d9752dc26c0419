"""How far a result, degraded again as it was measured, is from the input.

A restoration that contradicts its input has invented something. What is compared depends on the task:

    denoise    the result itself: the difference is the noise that was removed
    dejpeg     the coefficients of the file: the share of them that lie in their cells
    deblur     the result after the blur, where the blur reaches no border
    inpaint    the known pixels
    upscale    the result after shrinking
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from restorer.diffusion.degradations.quantization import Quantization
from restorer.tasks.job import Job

__all__ = ["Consistency", "consistency_of"]


@dataclass(frozen=True)
class Consistency:
    """How far a result, degraded again, is from the input. A figure that does not apply is None.

    Args:
        rms: Root of the mean square of the difference, in levels of 0..255.
        cells: Share of the JPEG coefficients that lie in their cells, 0..1.
        known_equal: Whether the known pixels are those of the input.
    """

    rms: float | None = None
    cells: float | None = None
    known_equal: bool | None = None

    def describe(self) -> str:
        """Return the figures in words; empty if there are none."""
        words = []
        if self.rms is not None:
            words.append(f"degraded again, the result differs from the input by {self.rms:.2f} levels (RMS)")
        if self.cells is not None:
            words.append(f"{100 * self.cells:.2f} % of the JPEG coefficients lie in their cells")
        if self.known_equal is not None:
            words.append("the known pixels are those of the input" if self.known_equal else "known pixels have changed")
        return "; ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON output holds."""
        return {
            "rms": None if self.rms is None else round(self.rms, 3),
            "cells": None if self.cells is None else round(self.cells, 5),
            "known_equal": self.known_equal,
        }


def consistency_of(job: Job, image: Tensor) -> Consistency:
    """Compare a result, degraded again, with the input.

    Args:
        job: The job.
        image: Its result, float (C, H, W) in [0, 1]. It is compared as a file of 8 bits holds it.

    Returns:
        The figures; none for what a network has made by itself.
    """
    written = (image.clamp(0, 1) * 255).round() / 255
    given = job.image
    if job.plan is None:  # a network by itself, whose job holds its result in place of the input
        return Consistency()
    if job.doubt is not None and job.doubt.known is not None:
        known = job.doubt.known
        return Consistency(known_equal=bool(torch.equal(image[:, known], given[:, known])))
    if isinstance(job.degradation, Quantization) and job.degradation.is_noisy:
        return Consistency()  # the cells are those of the picture with its noise
    if isinstance(job.degradation, Quantization) and job.second_pass is None and job.y is not None:
        operator, channels = job.degradation, job.degradation.channels
        size = operator.size[::-1] if operator.turn[0] else operator.size
        if tuple(size) == tuple(image.shape[-2:]):
            return Consistency(cells=operator.consistency(written[None, :channels] * 2 - 1, job.y))
        return Consistency()
    if job.again is None:
        return Consistency(_rms(written, given)) if written.shape == given.shape else Consistency()
    made = job.again(written)
    down, across = ((whole - part) // 2 for whole, part in zip(given.shape[-2:], made.shape[-2:], strict=True))
    if min(down, across, *made.shape[-2:]) < 0 or 0 in made.shape:
        return Consistency()
    inside = given[..., down : down + made.shape[-2], across : across + made.shape[-1]]
    return Consistency(_rms(made, inside)) if made.shape == inside.shape else Consistency()


def _rms(a: Tensor, b: Tensor) -> float:
    """Return the root of the mean square difference of two pictures in [0, 1], in levels."""
    return 255 * float((a - b).double().square().mean().sqrt())
