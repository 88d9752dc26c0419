"""Evaluation of a prior: clean pictures are degraded in a known way, restored, and compared with the truth.

    denoise    Gaussian noise of a stated standard deviation, which is passed to the restorer; neither clipped nor
               rounded, as in the literature, unless 8 bits are requested
    upscale    shrinking by Pillow's bicubic filter (which antialiases, as MATLAB's does), in 8 bits; sides are first
               cropped to a multiple of the scale
    inpaint    holes of a stated kind, drawn at random or given
    deblur     a stated blur with noise, in 8 bits, whose kernel the restorer is told or has to find

The figures are PSNR and SSIM over all channels; for `upscale` also on the BT.601 luma without a border of `scale`
pixels, as is usual for super-resolution; for `inpaint` also the PSNR inside the holes. Random choices depend on the
seed and on the picture's name, not on the order of the pictures.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step
from restorer.errors import PictureError
from restorer.evaluation.contact_sheet import to_image
from restorer.evaluation.deblurring import blurred, filters
from restorer.evaluation.metrics import SSIM_WINDOW, psnr, ssim, to_y
from restorer.evaluation.perception import consistency, perceive
from restorer.evaluation.trial_masks import draw_mask
from restorer.images.files import from_pil, to_tensor
from restorer.measurement.jpeg import Jpeg
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
    "Condition",
    "Outcome",
    "Sample",
    "Scores",
    "baseline_methods",
    "check_size",
    "degrade",
    "derive_seed",
    "evaluate",
    "has_opencv",
    "mean_scores",
    "measure",
    "prepare",
    "side_by_side",
    "unrestored",
]

OURS = "restore"  # name of this project's result among those of the baselines
NLM_STRENGTH = 0.6  # h of OpenCV's non-local means over sigma: the best of five (.4 to 1.2) on six pictures of CBSD68
INPAINT_RADIUS = 3  # radius in pixels of the neighbourhood that OpenCV's inpainting uses
CELL, AMPLIFICATION = 240, 5  # contact sheet: largest side of a picture in pixels, and factor of the difference

OnProgress = Callable[[float, int], None]  # (evaluations done, evaluations in all)


@dataclass(frozen=True)
class Condition:
    """One way of degrading a picture.

    Args:
        task: "denoise", "upscale", "inpaint" or "deblur".
        sigma: Standard deviation of the noise on the 0..255 scale, which the restorer is told; None if the restorer
            decides as it does by default.
        scale: For upscale, the factor by which the picture is shrunk.
        kind: For inpaint, the kind of the mask; for deblur, the blur in words.
        kernel: For deblur, the kernel, (h, w); None if the pictures are blurred already.
        is_blind: For deblur, whether the restorer has to find the blur.
    """

    task: str
    sigma: float | None = 0.0
    scale: int = 1
    kind: str = ""
    kernel: Tensor | None = field(default=None, compare=False)
    is_blind: bool = False

    def __str__(self) -> str:
        if self.sigma is None:
            return {"upscale": f"x{self.scale}"}.get(self.task, "as it is")
        return {"denoise": f"sigma {self.sigma:g}", "upscale": f"x{self.scale}"}.get(self.task, self.kind)


@dataclass(frozen=True)
class Sample:
    """A clean picture and its degraded version.

    Args:
        condition: How the picture is degraded.
        truth: The clean picture, float32 (C, H, W) in [0, 1].
        degraded: The input of the restorer, float32 (C, h, w); with noise, values may lie outside [0, 1].
        fill: bool (H, W), True in the holes; None for tasks other than inpaint.
        visible: bool (h, w), the pixels of the degraded picture that are not transparent; None if all are visible.
        jpeg: What is known of the JPEG compression of the degraded picture; None if it is to be left as it is.
    """

    condition: Condition
    truth: Tensor
    degraded: Tensor
    fill: Tensor | None = None
    visible: Tensor | None = None
    jpeg: Jpeg | None = None


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


def derive_seed(seed: int, name: str) -> int:
    """Derive the seed of one picture, 0 to 2^63 - 1, from the common seed and the picture's name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _round_to_8_bits(x: Tensor) -> Tensor:
    """Clip values to [0, 1] and round them to multiples of 1/255."""
    return (x.clamp(0, 1) * 255).round() / 255


def _resize(x: Tensor, width: int, height: int) -> Tensor:
    """Resize a picture (C, H, W) with Pillow's bicubic filter, in 8 bits."""
    return to_tensor(from_pil(to_image(x).resize((width, height), Image.Resampling.BICUBIC)))


def degrade(
    truth: Tensor, condition: Condition, seed: int, *, fill: Tensor | None = None, eight_bit: bool = False
) -> Sample:
    """Degrade a clean picture.

    Args:
        truth: The clean picture, float (C, H, W) in [0, 1].
        condition: How to degrade it.
        seed: Seed of the noise or the holes.
        fill: The holes, bool (H, W), True for missing pixels; None to draw them at random.
        eight_bit: Whether a noisy picture is clipped and rounded to 8 bits, as in a file.

    Raises:
        PictureError: The picture is too small for SSIM.
    """
    check_size(truth, condition)
    height, width = truth.shape[-2:]
    if condition.task == "denoise":
        assert condition.sigma is not None
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed))
        noisy = truth + condition.sigma / 255 * noise
        return Sample(condition, truth, _round_to_8_bits(noisy) if eight_bit else noisy)
    if condition.task == "upscale":
        height, width = height // condition.scale, width // condition.scale
        truth = truth[:, : height * condition.scale, : width * condition.scale]
        return Sample(condition, truth, _resize(truth, width, height))
    if condition.task == "deblur":
        assert condition.kernel is not None
        degraded, part = blurred(truth, condition.kernel, condition.sigma or 0.0, seed)
        check_size(part, condition)
        return Sample(condition, part, degraded)
    holes = torch.from_numpy(draw_mask(condition.kind, height, width, seed)) if fill is None else fill
    return Sample(condition, truth, torch.where(holes, 1.0, truth), holes)


def check_size(truth: Tensor, condition: Condition) -> None:
    """Check that a picture is large enough to be compared with SSIM.

    Raises:
        PictureError: The picture is too small.
    """
    border = condition.scale if condition.task == "upscale" else 0
    height, width = truth.shape[-2:]
    if min(height, width) // condition.scale * condition.scale - 2 * border < SSIM_WINDOW:
        raise PictureError(
            f"a picture of {width}x{height} pixels is too small to be compared",
            f"SSIM needs at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, for upscale without the border",
        )


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
    restored = _round_to_8_bits(result.image) if eight_bit else result.image
    ours = measure(restored, sample, seconds, total, perception=perception)
    scores = {OURS: replace(ours, sigma=job.sigma if job.estimated else None)}
    methods = baseline_methods(sample) if baselines else unrestored(sample) if before else {}
    for name, restore in methods.items():
        start = time.perf_counter()
        picture = restore()
        scores[name] = measure(picture, sample, time.perf_counter() - start, perception=perception)
    return Outcome(sample, restored, job.detail, scores, result.notes)


def has_opencv() -> bool:
    """Return whether OpenCV is installed, which provides three of the baselines."""
    return importlib.util.find_spec("cv2") is not None


def unrestored(sample: Sample) -> dict[str, Callable[[], Tensor]]:
    """Return the degraded picture itself as a method, by its name; for upscale its bicubic enlargement."""
    if sample.condition.task == "upscale":
        height, width = sample.truth.shape[-2:]
        return {"bicubic": lambda: _resize(sample.degraded, width, height)}
    names = {"denoise": "noisy", "deblur": "blurred"}
    return {names.get(sample.condition.task, "damaged"): lambda: sample.degraded}


def baseline_methods(sample: Sample) -> dict[str, Callable[[], Tensor]]:
    """Return the methods that restore a sample without a network, by name.

    The baselines of OpenCV work in 8 bits and are left out if OpenCV is not installed. Those of deblur are told the
    kernel, and need scikit-image (`restorer.evaluation.deblurring.check_filters`).

    Returns:
        Functions without arguments that return a picture, float (C, H, W) in [0, 1]. The first is that of
        `unrestored`, unless the holes were drawn here: those are white, which says nothing.
    """
    degraded, condition = sample.degraded, sample.condition
    has_drawn_holes = condition.task == "inpaint" and condition.sigma is not None
    methods = {} if has_drawn_holes else unrestored(sample)
    if condition.task == "deblur":
        if condition.kernel is None:  # the filters must be told the blur
            return methods
        return methods | filters(degraded, sample.truth, condition.kernel)
    has_no_strength = condition.task == "denoise" and condition.sigma is None  # which non-local means must be told
    if condition.task == "upscale" or has_no_strength or not has_opencv():
        return methods
    import cv2

    # OpenCV orders the channels blue, green, red.
    pixels = np.ascontiguousarray(np.asarray(to_image(degraded.expand(3, -1, -1)))[..., ::-1])

    def to_tensor_again(result: np.ndarray) -> Tensor:
        colour = torch.from_numpy(result[..., ::-1].transpose(2, 0, 1).copy()).float() / 255
        return colour if len(degraded) == 3 else colour.mean(0, keepdim=True)

    if condition.task == "denoise":
        assert condition.sigma is not None
        strength = NLM_STRENGTH * condition.sigma
        methods["NLM"] = lambda: to_tensor_again(
            cv2.fastNlMeansDenoisingColored(pixels, None, strength, strength, 7, 21)
        )
        return methods
    assert sample.fill is not None
    holes = sample.fill.numpy().astype(np.uint8) * 255
    methods["Telea"] = lambda: to_tensor_again(cv2.inpaint(pixels, holes, INPAINT_RADIUS, cv2.INPAINT_TELEA))
    methods["Navier-Stokes"] = lambda: to_tensor_again(cv2.inpaint(pixels, holes, INPAINT_RADIUS, cv2.INPAINT_NS))
    return methods


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
