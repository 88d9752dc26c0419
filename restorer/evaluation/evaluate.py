"""How well a prior restores: clean pictures are degraded in a known way, restored, and compared with the truth.

    denoise    Gaussian noise of a stated standard deviation, which the restorer is told; not clipped and not rounded,
               as in the literature, unless 8 bits are asked for
    upscale    shrunk by Pillow's bicubic filter (which antialiases, as MATLAB's does), in 8 bits; sides are cut to
               a multiple of the scale first
    inpaint    holes of a stated kind, drawn or given

Figures are PSNR and SSIM over all channels; for `upscale` also on the BT.601 luma without a border of `scale` pixels,
as super-resolution is compared; for `inpaint` also the PSNR inside the holes. What is random depends on the seed and
the picture's name, not on the order of pictures.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from restorer.diffusion.objective import Bound, fixed_log_variance, variational_bound
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step
from restorer.errors import PictureError
from restorer.evaluation.contact_sheet import to_image
from restorer.evaluation.metrics import SSIM_WINDOW, psnr, ssim, to_y
from restorer.images.files import from_pil, to_tensor
from restorer.images.masks import draw_mask
from restorer.priors.unet_prior import UNetPrior
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.upscale import prepare_upscale

__all__ = [
    "AMPLIFIED",
    "CELL",
    "CROP",
    "OURS",
    "Condition",
    "Outcome",
    "Sample",
    "Scores",
    "bits_per_dimension",
    "centre_crop",
    "degrade",
    "evaluate",
    "has_opencv",
    "mean_scores",
    "measure",
    "prepare",
    "rivals",
    "seed_of",
    "side_by_side",
]

OURS = "restore"
NLM_STRENGTH = 0.6  # of OpenCV non-local means, times sigma: the best of five (.4 to 1.2) on six pictures of CBSD68
RADIUS = 3  # pixels around a hole that OpenCV's inpainting looks at
CELL, AMPLIFIED = 240, 5  # contact sheet: largest side of a picture, factor of the difference
CROP, BATCH = 64, 16  # of the variational bound: side of the crops, and how many are evaluated together

Progress = Callable[[float, int], None]


@dataclass(frozen=True)
class Condition:
    """One way to degrade.

    Args:
        task: "denoise", "upscale" or "inpaint", and for each its own number or word:
        sigma: standard deviation of the noise, 0..255 scale; scale: whole number; kind: of the mask.
    """

    task: str
    sigma: float = 0.0
    scale: int = 1
    kind: str = ""

    def __str__(self) -> str:
        return {"denoise": f"sigma {self.sigma:g}", "upscale": f"x{self.scale}"}.get(self.task, self.kind)


@dataclass(frozen=True)
class Sample:
    """A clean picture and what is left of it.

    Args:
        condition: how it was degraded.
        truth: float32 (C, H, W) in [0, 1].
        seen: what the restorer gets, float32 (C, h, w); noise may reach beyond [0, 1].
        fill: bool (H, W), True in the holes; inpainting only.
    """

    condition: Condition
    truth: Tensor
    seen: Tensor
    fill: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """Figures of one picture, or means of several. PSNR in dB, inf where nothing differs; None where it says nothing.

    Args:
        psnr, ssim: over all channels.
        psnr_y, ssim_y: on luma without the border; upscaling only.
        psnr_holes: over the pixels that were missing; inpainting only.
        seconds: that restoring took. evaluations: of the network, of the whole picture.
    """

    psnr: float
    ssim: float
    psnr_y: float | None = None
    ssim_y: float | None = None
    psnr_holes: float | None = None
    seconds: float | None = None
    evaluations: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A sample, what was made of it, and how good that is.

    Args:
        restored: float32 (C, H, W) in [0, 1].
        detail: as it was used.
        scores: by name: OURS first, then the rivals.
        notes: one line for each thing that did not go as planned.
    """

    sample: Sample
    restored: Tensor
    detail: float
    scores: dict[str, Scores]
    notes: tuple[str, ...] = ()


def seed_of(seed: int, name: str) -> int:
    """A seed from 0 to 2^63 - 1 for one picture, from the seed of all and the picture's name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _eight_bit(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def _resized(x: Tensor, width: int, height: int) -> Tensor:
    """By Pillow's bicubic filter, in 8 bits."""
    return to_tensor(from_pil(to_image(x).resize((width, height), Image.Resampling.BICUBIC)))


def degrade(
    truth: Tensor, condition: Condition, seed: int, *, fill: Tensor | None = None, eight_bit: bool = False
) -> Sample:
    """Degrade a clean picture, float (C, H, W) in [0, 1].

    Args:
        seed: of the noise or the holes.
        fill: holes given, bool (H, W); None draws them.
        eight_bit: clip and round a noisy picture as a file would.

    Raises:
        PictureError: the picture is too small to be compared.
    """
    border = condition.scale if condition.task == "upscale" else 0
    height, width = truth.shape[-2:]
    if min(height, width) // condition.scale * condition.scale - 2 * border < SSIM_WINDOW:
        raise PictureError(
            f"{width}x{height} pixels are too few to be compared", f"SSIM takes a window of {SSIM_WINDOW}"
        )
    if condition.task == "denoise":
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed))
        noisy = truth + condition.sigma / 255 * noise
        return Sample(condition, truth, _eight_bit(noisy) if eight_bit else noisy)
    if condition.task == "upscale":
        height, width = height // condition.scale, width // condition.scale
        truth = truth[:, : height * condition.scale, : width * condition.scale]
        return Sample(condition, truth, _resized(truth, width, height))
    holes = torch.from_numpy(draw_mask(condition.kind, height, width, seed)) if fill is None else fill
    return Sample(condition, truth, torch.where(holes, 1.0, truth), holes)


def prepare(sample: Sample, prior: Prior, **sampling: Any) -> Job:
    """The restoration of a sample; `sampling` are steps, detail, method and seed as `restorer.tasks` takes them."""
    condition = sample.condition
    if condition.task == "denoise":
        return prepare_denoise(sample.seen, condition.sigma, prior=prior, **sampling)
    if condition.task == "upscale":
        return prepare_upscale(sample.seen, condition.scale, prior=prior, **sampling)
    assert sample.fill is not None
    return prepare_inpaint(sample.seen, sample.fill, prior=prior, **sampling)


def measure(picture: Tensor, sample: Sample, seconds: float | None = None, evaluations: int | None = None) -> Scores:
    """Compare a picture (C, H, W) with the truth of a sample."""
    truth, fill = sample.truth, sample.fill
    psnr_y = ssim_y = None
    if sample.condition.task == "upscale":
        border = sample.condition.scale
        ours, true = (to_y(x.double().expand(3, -1, -1))[:, border:-border, border:-border] for x in (picture, truth))
        psnr_y, ssim_y = psnr(ours, true), ssim(ours, true)
    holes = psnr(picture[:, fill], truth[:, fill]) if fill is not None and bool(fill.any()) else None
    return Scores(psnr(picture, truth), ssim(picture, truth), psnr_y, ssim_y, holes, seconds, evaluations)


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of every figure over the pictures that have it."""
    means: dict[str, Any] = {}
    for field in fields(Scores):
        values = [value for s in scores if (value := asdict(s)[field.name]) is not None]
        means[field.name] = sum(values) / len(values) if values else None
    return Scores(**means)


def evaluate(
    sample: Sample,
    prior: Prior,
    *,
    baselines: bool = False,
    eight_bit: bool = False,
    on_progress: Progress | None = None,
    **sampling: Any,
) -> Outcome:
    """Restore a sample and measure.

    Args:
        baselines: also what needs no network, see `rivals`.
        eight_bit: round what was restored as a file would.
        on_progress: called with (evaluations done, evaluations in all), the former a fraction between tiles.
        sampling: as `prepare` takes it.

    Raises:
        ModelError, DeviceError: as `Job.run`.
    """
    job = prepare(sample, prior, **sampling)
    total, done = job.evaluations, 0

    def on_step(step: Step) -> None:
        nonlocal done
        done = step.index
        if on_progress is not None:
            on_progress(done, total)

    def on_tile(tile: int, tiles: int) -> None:
        if on_progress is not None:
            on_progress(done + tile / tiles, total)

    began = time.perf_counter()
    result = job.run(on_step, on_tile)
    seconds = time.perf_counter() - began
    restored = _eight_bit(result.image) if eight_bit else result.image
    scores = {OURS: measure(restored, sample, seconds, total)}
    for name, rival in rivals(sample).items() if baselines else ():
        began = time.perf_counter()
        picture = rival()
        scores[name] = measure(picture, sample, time.perf_counter() - began)
    return Outcome(sample, restored, job.detail, scores, result.notes)


def has_opencv() -> bool:
    """Whether OpenCV is installed; three of the rivals are its."""
    return importlib.util.find_spec("cv2") is not None


def rivals(sample: Sample) -> dict[str, Callable[[], Tensor]]:
    """What restores without a network, by name; OpenCV's, which take 8 bits, only where it is installed."""
    seen, condition = sample.seen, sample.condition
    if condition.task == "upscale":
        height, width = sample.truth.shape[-2:]
        return {"bicubic": lambda: _resized(seen, width, height)}
    found: dict[str, Callable[[], Tensor]] = {"noisy": lambda: seen} if condition.task == "denoise" else {}
    if not has_opencv():
        return found
    import cv2

    pixels = np.ascontiguousarray(np.asarray(to_image(seen.expand(3, -1, -1)))[..., ::-1])  # OpenCV's order is BGR

    def back(result: np.ndarray) -> Tensor:
        colour = torch.from_numpy(result[..., ::-1].transpose(2, 0, 1).copy()).float() / 255
        return colour if len(seen) == 3 else colour.mean(0, keepdim=True)

    if condition.task == "denoise":
        strength = NLM_STRENGTH * condition.sigma
        found["NLM"] = lambda: back(cv2.fastNlMeansDenoisingColored(pixels, None, strength, strength, 7, 21))
        return found
    assert sample.fill is not None
    holes = sample.fill.numpy().astype(np.uint8) * 255
    found["Telea"] = lambda: back(cv2.inpaint(pixels, holes, RADIUS, cv2.INPAINT_TELEA))
    found["Navier-Stokes"] = lambda: back(cv2.inpaint(pixels, holes, RADIUS, cv2.INPAINT_NS))
    return found


def side_by_side(outcome: Outcome) -> list[Tensor]:
    """Input, restored, truth and amplified difference for a contact sheet: (C, h, w), h and w at most CELL.

    What is shown is cut from the middle, or from where there are the most holes; a small input is enlarged pixel by
    pixel.
    """
    sample, truth = outcome.sample, outcome.sample.truth
    scale = sample.condition.scale
    seen = sample.seen.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    height, width = (min(CELL, extent) for extent in truth.shape[-2:])
    top, left = (truth.shape[-2] - height) // 2, (truth.shape[-1] - width) // 2
    if sample.fill is not None:
        share = F.avg_pool2d(sample.fill.float()[None, None], (height, width), stride=1)[0, 0]
        top, left = divmod(int(share.argmax()), share.shape[1])
    difference = AMPLIFIED * (outcome.restored - truth).abs()
    pictures = (seen, outcome.restored, truth, difference)
    return [x[:, top : top + height, left : left + width].clamp(0, 1) for x in pictures]


def centre_crop(picture: Tensor, side: int) -> Tensor:
    """The square in the middle of (C, H, W), always in colour: (3, side, side).

    Raises:
        PictureError: the picture is smaller.
    """
    height, width = picture.shape[-2:]
    if min(height, width) < side:
        raise PictureError(f"{width}x{height} pixels are fewer than a crop of {side}x{side}", "take larger pictures")
    top, left = (height - side) // 2, (width - side) // 2
    return picture[:, top : top + side, left : left + side].expand(3, -1, -1)


def bits_per_dimension(
    prior: UNetPrior, crops: Tensor, *, timesteps: int | None = None, seed: int = 0, on_progress: Progress | None = None
) -> Bound:
    """The variational bound of a prior on pictures, in bits per dimension, see `restorer.diffusion.objective`.

    A network that has not learned the variance of the reverse step is given the fixed one that its scheduler names in
    this program, "small" (beta~).

    Args:
        crops: float (B, C, H, W) in [0, 1], values of 8 bits.
        timesteps: how many of the schedule's T are evaluated; None for all.
        on_progress: called with (evaluations done, evaluations in all) of batches of at most BATCH crops.

    Raises:
        ValueError: `timesteps` lies outside 2 .. T.
    """
    schedule, device = prior.spec.schedule, prior.device
    batches, generator = (2 * crops.double() - 1).split(BATCH), torch.Generator().manual_seed(seed)

    def predict(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        scale = schedule.alpha_bars[t.cpu()].sqrt().view(-1, 1, 1, 1).to(x_t)
        prediction = prior.predict(x_t / scale, schedule.sigmas[t.cpu()])
        if prediction.log_variance is not None:
            return prediction.x0, prediction.log_variance
        return prediction.x0, fixed_log_variance(schedule, t, "small")

    prior_term, steps, done = 0.0, torch.zeros(schedule.steps, dtype=torch.float64), 0

    def on_term(term: int, terms: int) -> None:
        if on_progress is not None:
            on_progress(done * terms + term, len(batches) * terms)

    for batch in batches:
        bound = variational_bound(
            predict, schedule, batch.to(device), generator=generator, timesteps=timesteps, on_term=on_term
        )
        share = len(batch) / len(crops)
        prior_term, steps, done = prior_term + share * bound.prior, steps + share * bound.steps, done + 1
    return Bound(prior_term, steps)
