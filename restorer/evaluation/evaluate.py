"""Evaluation of a prior: clean pictures are degraded in a known way, restored, and compared with the truth.

The figures are PSNR and SSIM over all channels; for `upscale` also on the BT.601 luma without a border of `scale`
pixels, as is usual for super-resolution; for `inpaint` also the PSNR inside the holes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step
from restorer.evaluation.baselines import baseline_methods, unrestored
from restorer.evaluation.degraded import Sample, round_to_8_bits
from restorer.evaluation.metrics import psnr, ssim, to_y
from restorer.evaluation.perception import consistency, perceive
from restorer.tasks.blind_deblur import prepare_blind_deblur
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.upscale import prepare_upscale

__all__ = [
    "AMPLIFICATION",
    "CELL",
    "OURS",
    "Outcome",
    "Scores",
    "evaluate",
    "mean_scores",
    "measure",
    "prepare",
    "side_by_side",
]

OURS = "restore"  # name of this project's result among those of the baselines
CELL, AMPLIFICATION = 240, 5  # contact sheet: largest side of a picture in pixels, and factor of the difference

OnProgress = Callable[[float, int], None]  # (evaluations done, evaluations in all)


@dataclass(frozen=True)
class Scores:
    """Figures of one picture, or means over several. A figure that does not apply is None.

    Args:
        psnr: PSNR in dB over all channels, inf if the pictures are equal.
        ssim: SSIM over all channels.
        psnr_y: PSNR in dB on the luma without the border; upscale only.
        ssim_y: SSIM on the luma without the border; upscale only.
        psnr_holes: PSNR in dB over the missing pixels; inpaint only.
        seconds: Time of the restoration.
        evaluations: Number of network evaluations of the whole picture.
        sigma: Standard deviation of the noise that was estimated, on the 0..255 scale.
        lpips: Distance of the features of the shift-tolerant LPIPS; this and what follows on request only.
        efficientnet: Distance of the features of EfficientNet-Lite0.
        gmsd: Gradient magnitude similarity deviation.
        mdsi: Mean deviation similarity index.
        texture_coarse: Energy of the luma in the coarsest of `metrics.BANDS` over that of the truth.
        texture_medium: The same in the next octave.
        texture_fine: The same above it.
        consistency: Root mean square difference on the 0..255 scale from the small picture after shrinking; upscale
            only.
    """

    psnr: float
    ssim: float
    psnr_y: float | None = None
    ssim_y: float | None = None
    psnr_holes: float | None = None
    seconds: float | None = None
    evaluations: float | None = None
    sigma: float | None = None
    lpips: float | None = None
    efficientnet: float | None = None
    gmsd: float | None = None
    mdsi: float | None = None
    texture_coarse: float | None = None
    texture_medium: float | None = None
    texture_fine: float | None = None
    consistency: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The restoration of a sample and its scores.

    Args:
        sample: The clean and the degraded picture.
        restored: float32 (C, H, W) in [0, 1].
        detail: The value of `--detail` that was used.
        scores: Scores by name, OURS first, then the baselines.
        notes: One line for each deviation from the plan.
    """

    sample: Sample
    restored: Tensor
    detail: float
    scores: dict[str, Scores]
    notes: tuple[str, ...] = ()


def prepare(sample: Sample, prior: Prior, **sampling: Any) -> Job:
    """Prepare the restoration of a sample.

    Args:
        sample: The picture to restore.
        prior: The diffusion model.
        sampling: Steps, detail, method and seed, as in `restorer.tasks`.
    """
    condition = sample.condition
    if condition.task == "denoise":
        return prepare_denoise(
            sample.degraded,
            condition.sigma,
            evidence=sample.visible,
            jpeg=sample.jpeg,
            prior=prior,
            **sampling,
        )
    if condition.task == "deblur":
        measuring: dict[str, Any] = {
            "sigma": condition.sigma,
            "evidence": sample.visible,
            "jpeg": sample.jpeg,
            "prior": prior,
        }
        if condition.is_blind or condition.kernel is None:
            return prepare_blind_deblur(sample.degraded, **measuring, **sampling)
        return prepare_deblur(sample.degraded, condition.kernel, **measuring, **sampling)
    # These two assume a picture without noise unless they are told otherwise.
    sigma = condition.sigma or 0.0
    if condition.task == "upscale":
        return prepare_upscale(sample.degraded, condition.scale, sigma=sigma, jpeg=sample.jpeg, prior=prior, **sampling)
    assert sample.fill is not None
    return prepare_inpaint(sample.degraded, sample.fill, sigma=sigma, prior=prior, **sampling)


def measure(
    picture: Tensor,
    sample: Sample,
    seconds: float | None = None,
    evaluations: int | None = None,
    *,
    perception: bool = False,
) -> Scores:
    """Compare a picture with the truth of a sample.

    Args:
        picture: float (C, H, W) in [0, 1].
        sample: The sample that the picture restores.
        seconds: Time of the restoration, for the scores.
        evaluations: Number of network evaluations, for the scores.
        perception: Whether what people see is measured too, see `restorer.evaluation.perception`.

    Raises:
        UsageError: The extra `measure` is needed and not installed.
    """
    truth, fill = sample.truth, sample.fill
    psnr_y = ssim_y = None
    if sample.condition.task == "upscale":
        border = sample.condition.scale
        y, true_y = (to_y(x.double().expand(3, -1, -1))[:, border:-border, border:-border] for x in (picture, truth))
        psnr_y, ssim_y = psnr(y, true_y), ssim(y, true_y)
    psnr_holes = psnr(picture[:, fill], truth[:, fill]) if fill is not None and bool(fill.any()) else None
    seen = asdict(perceive(picture, truth)) if perception else {}
    if perception and sample.condition.task == "upscale":
        seen["consistency"] = consistency(picture, sample.degraded)
    return Scores(psnr(picture, truth), ssim(picture, truth), psnr_y, ssim_y, psnr_holes, seconds, evaluations, **seen)


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Return the mean of each figure over the pictures that have it."""
    means: dict[str, Any] = {}
    for figure in fields(Scores):
        values = [value for s in scores if (value := asdict(s)[figure.name]) is not None]
        means[figure.name] = sum(values) / len(values) if values else None
    return Scores(**means)


def evaluate(
    sample: Sample,
    prior: Prior,
    *,
    baselines: bool = False,
    before: bool = False,
    eight_bit: bool = False,
    perception: bool = False,
    on_progress: OnProgress | None = None,
    **sampling: Any,
) -> Outcome:
    """Restore a sample and measure the result.

    Args:
        sample: The picture to restore.
        prior: The diffusion model.
        baselines: Whether the baselines are measured too, see `baseline_methods`.
        before: Whether the degraded picture itself is measured too; for upscale its bicubic enlargement.
        eight_bit: Whether the restored picture is rounded to 8 bits, as in a file.
        perception: Whether what people see is measured too; needs the extra `measure`.
        on_progress: Called with (evaluations done, evaluations in all); between tiles the former is a fraction.
        sampling: Steps, detail, method and seed, as in `restorer.tasks`.

    Raises:
        UsageError: The extra `measure` is needed and not installed.
        ModelError: The output of the network is not finite, see `Job.run`.
        DeviceError: There is not enough memory, see `Job.run`.
    """
    start = time.perf_counter()
    job = prepare(sample, prior, **sampling).measured()
    total, done = job.evaluations, 0

    def on_step(step: Step) -> None:
        nonlocal done
        done = step.index
        if on_progress is not None:
            on_progress(done, total)

    def on_tile(tile: int, tiles: int) -> None:
        if on_progress is not None:
            on_progress(done + tile / tiles, total)

    result = job.run(on_step, on_tile)
    seconds = time.perf_counter() - start
    restored = round_to_8_bits(result.image) if eight_bit else result.image
    ours = measure(restored, sample, seconds, total, perception=perception)
    scores = {OURS: replace(ours, sigma=job.sigma if job.estimated else None)}
    methods = baseline_methods(sample) if baselines else unrestored(sample) if before else {}
    for name, restore in methods.items():
        start = time.perf_counter()
        picture = restore()
        scores[name] = measure(picture, sample, time.perf_counter() - start, perception=perception)
    return Outcome(sample, restored, job.detail, scores, result.notes)


def side_by_side(outcome: Outcome) -> list[Tensor]:
    """Return the four pictures of an outcome for a contact sheet: input, restored, truth and amplified difference.

    Each picture is a section from the middle or, for inpaint, from where most of the holes are. A small input is
    enlarged by repeating its pixels.

    Returns:
        (C, h, w) in [0, 1] each, h and w at most CELL.
    """
    sample, truth = outcome.sample, outcome.sample.truth
    scale = sample.condition.scale
    enlarged = sample.degraded.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    height, width = (min(CELL, extent) for extent in truth.shape[-2:])
    top, left = (truth.shape[-2] - height) // 2, (truth.shape[-1] - width) // 2
    if sample.fill is not None:
        share = F.avg_pool2d(sample.fill.float()[None, None], (height, width), stride=1)[0, 0]
        top, left = divmod(int(share.argmax()), share.shape[1])
    difference = AMPLIFICATION * (outcome.restored - truth).abs()
    pictures = (enlarged, outcome.restored, truth, difference)
    return [x[:, top : top + height, left : left + width].clamp(0, 1) for x in pictures]
