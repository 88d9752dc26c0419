"""Removal of noise from a picture that was compressed with it: both in one run of the reverse process.

Compression has changed the noise, and noise has filled the cells of the coefficients, so that neither can be undone
first without a loss. The reverse process starts at the decoded picture, and each prediction is drawn towards the
coefficients of the file. Each of them is as uncertain as its cell and the noise together
(`restorer.diffusion.degradations.quantization`). The last prediction is not drawn back, and `detail` decides at which
level it is made. The level is lower for a picture whose blocks hold more than noise: in a smooth one, a high level
takes away the coarse part of the noise, and in texture it takes that away. White noise has no coarse part, and its
level hardly falls, if the compression was so fine that the file can tell white noise from other noise and texture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from restorer.diffusion.degradations.quantization import Quantization
from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.measurement.camera_noise import CameraNoise
from restorer.measurement.clipping import undo_clipping
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.jpeg_noise import NoiseBefore
from restorer.measurement.jpeg_window import cut_jpeg
from restorer.measurement.noise import Noise
from restorer.tasks.common import as_colour, without_equal_channels
from restorer.tasks.defaults import JPEG, NOISY_JPEG
from restorer.tasks.job import Job
from restorer.tasks.region import Place
from restorer.tasks.uncertain import Doubt

__all__ = ["noise_of", "removes_both", "with_noise_removed"]


def noise_of(before: NoiseBefore, strength: float, measured: CameraNoise | None) -> Noise:
    """Return what is told of noise that was compressed.

    Args:
        before: The noise, to which the strength was applied.
        strength: The factor that was applied.
        measured: What was measured in the pixels, which tell how sure the noise is; None if the user gave it.
    """
    kind = "white" if before.is_white else "camera"
    if measured is None:
        return Noise(kind, before.sigma, estimated=False, strength=strength)
    chroma = math.nan if before.is_white else measured.chroma
    return Noise(kind, before.sigma, True, strength, measured.probability, chroma=chroma)


def removes_both(job: Job) -> bool:
    """Return whether a job that was measured removes noise together with the compression."""
    return isinstance(job.degradation, Quantization) and job.degradation.is_noisy


def with_noise_removed(
    copied: Job,
    image: Tensor,
    place: Place,
    jpeg: Jpeg,
    before: NoiseBefore,
    finish: Callable[[Tensor, Callable[[Tensor], Tensor] | None], Tensor],
    *,
    steps: int | None,
    detail: float | None,
    method: str,
    seed: int,
) -> Job:
    """Return the job that removes noise and undoes the compression.

    Args:
        copied: A job that copies the picture, and holds what was found out about its noise.
        image: The picture, float (C, H, W) in [0, 1].
        place: What part of it is restored.
        jpeg: What is known of its file.
        before: The noise that it had before it was compressed.
        finish: Returns the result of the last state and of a correction for noise that was clipped, or None.
        steps: Number of evaluations; None for the default.
        detail: As in `restorer.denoise`.
        method: As in `restorer.denoise`.
        seed: As in `restorer.denoise`.
    """
    is_gray = len(without_equal_channels(image)) == 1
    known = cut_jpeg(jpeg.luminance() if is_gray else jpeg, place.window)
    noise = [before.variances[0], *([torch.zeros_like(before.variances[0])] * 2 if is_gray else before.variances[1:])]
    is_white = before.is_white and jpeg.quality >= NOISY_JPEG.fine
    shares = JPEG.shares if is_white else NOISY_JPEG.shares
    degradation = known.degradation(shares, NOISY_JPEG.most_doubt, noise)
    used = NOISY_JPEG.detail_at(before.error) if detail is None else detail
    count, s = steps or NOISY_JPEG.steps, 2 * before.error / 255
    factor = NOISY_JPEG.texture_factor(before.busyness, is_white=is_white)
    first, last = NOISY_JPEG.first, factor * NOISY_JPEG.last(used)
    first, last = (NOISY_JPEG.single,) * 2 if count == 1 else (first, last)
    auto = Plan(
        (*log_levels(first * s, last * s, count), 0.0),
        zeta=(0.0,) * count,
        kappa=0.0 if method == "auto" else 1.0,  # the published methods carry all noise
        correct_last=False,
        fresh_start=False,
        mirrored=copied.prior.mirrors,
        seed=seed,
    )
    unclip = (lambda mean: undo_clipping(mean, before.sigma / 255)) if before.is_white else None
    return replace(
        copied,
        detail=0.0 if count == 1 else used,
        plan=make_plan(method, auto, start=first * s, end=last * s, steps=count),
        start=as_colour(place.seen(image)),
        finish=lambda x, _: finish(x, unclip),
        degradation=degradation,
        y=known.data(),
        noise_variance=1.0,
        jpeg=jpeg,
        doubt=Doubt("noisy jpeg", before.error, at=1.0, cut=place.inner, is_gray=is_gray, canvas=place.canvas),
    )
