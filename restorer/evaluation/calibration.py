"""Calibration of a model's uncertainty, and measurement of how well it is calibrated.

Clean pictures are degraded in known ways and restored. The errors, divided by the estimated deviations, give the
constants of `restorer.diffusion.calibration`, on half of the pictures; on the other half, the share of the values that
lie within their intervals is measured.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.calibration import (
    Constants,
    PowerLaw,
    controlled_factor,
    group_edges,
    half_width,
    inside,
)
from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.diffusion.prior import Prior
from restorer.diffusion.uncertainty import local_variance
from restorer.evaluation.contact_sheet import to_image
from restorer.evaluation.degraded import round_to_8_bits
from restorer.evaluation.power_laws import FORMS, Sample, choose_form, fit_law
from restorer.evaluation.trial_masks import draw_mask
from restorer.images.files import from_pil, to_tensor
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.jpeg import Jpeg
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.uncertain import Asked
from restorer.tasks.upscale import prepare_upscale

__all__ = ["BINS", "SIDE", "Coverage", "Measured", "Trial", "coverage", "find_constants", "measure", "trials"]

SIDE, LONG_SIDE, NARROW_SIDE, WIDE_SIDE = 160, 112, 96, 128
"""Sides in pixels of the crops that are restored: to denoise, for tasks of more evaluations, and for narrow and wide
holes, of which many samples are drawn."""

BINS = {"denoise": 5, "dejpeg": 3, "deblur": 4, "upscale": 3}
"""Largest number of strengths of each kind that have constants of their own; 1 for kinds that are not named.

The strength of camera noise is measured, and is itself wrong where the result is. The hint tells more than it does.
"""

LEAST_PER_STRENGTH = 12
"""Least number of restorations that give the constants of a strength, so that their factors are not too cautious."""

SIGMAS = (5.0, 10.0, 15.0, 25.0, 50.0)
QUALITIES = (20, 30, 40, 60, 75)
NOISY_SIGMAS = (5, 10, 15, 25)  # white noise that is compressed, and the qualities, one of which is drawn
NOISY_QUALITIES = (60, 75, 85, 92)
KERNELS = {
    "gaussian 1": gaussian_kernel(1.0),
    "gaussian 1.6": gaussian_kernel(1.6),
    "defocus 3": defocus_kernel(3),
    "motion 13": motion_kernel(13, 30),
}
BLUR_SIGMAS = (1.0, 2.55, 4.0)  # noise of blurred pictures, in turn
HOLE = 64
SCALES = (2, 3, 4)

Prepared = tuple[Job, Tensor]
Simulate = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Trial:
    """One way to degrade pictures and to prepare their restoration.

    Args:
        kind: The kind of its constants, as in `restorer.tasks.uncertain.Doubt`.
        name: What is done to a picture, in words.
        prepare: Maps a clean picture, (3, H, W) in [0, 1], and a seed to the job that restores it, and to the truth.
        side: Side in pixels of the crops that it is meant for.
    """

    kind: str
    name: str
    prepare: Callable[[Tensor, int], Prepared]
    side: int = SIDE


@dataclass(frozen=True)
class Measured:
    """A restoration whose errors are known. All maps have the size of the result.

    Args:
        kind: The kind of the constants that serve it.
        name: What was done to the picture, in words.
        strength: Strength of the degradation.
        error: Errors in levels, (C, H, W).
        deviation: Estimated standard deviations in levels, (H, W).
        variance: Local variances of the result in squared levels, (H, W).
        unknown: The pixels that are not those of the input, bool (H, W).
        residual: Mean square over the channels of the result less the input, in squared levels, (H, W); None if the
            input has another size.
        hint: The second map that tells of the errors, as in `Spread`; None if there is none.
    """

    kind: str
    name: str
    strength: float
    error: Tensor
    deviation: Tensor
    variance: Tensor
    unknown: Tensor
    residual: Tensor | None = None
    hint: Tensor | None = None


def _white_noise(x: Tensor, sigma: float, seed: int) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return round_to_8_bits(x + sigma / 255 * noise)


def trials(prior: Prior, simulate: Mapping[str, Simulate] | None = None) -> list[Trial]:
    """Return the trials of all tasks.

    Args:
        prior: The model.
        simulate: Functions that add the noise of cameras to a picture in [0, 1], by their names. They return a pair
            with noise and without.
    """

    def white(x: Tensor, seed: int, sigma: float) -> Prepared:
        return prepare_denoise(_white_noise(x, sigma, seed), sigma, prior=prior), x

    def camera(x: Tensor, seed: int, add: Simulate) -> Prepared:
        noisy, clean = add(x, seed)
        return prepare_denoise(noisy, noise="camera", prior=prior), clean

    def jpeg(x: Tensor, seed: int, quality: int) -> Prepared:
        return prepare_dejpeg(*_compressed(x, quality, seed), prior=prior), x

    def noisy_jpeg(x: Tensor, seed: int, kind: str, add: Simulate | None) -> Prepared:
        drawn = random.Random(f"{kind} jpeg {seed}")
        quality, sigma = drawn.choice(NOISY_QUALITIES), drawn.choice(NOISY_SIGMAS)
        noisy, clean = (_white_noise(x, sigma, seed), x) if add is None else add(x, seed)
        decoded, known = _compressed(noisy, quality, seed)
        return prepare_denoise(decoded, jpeg=known, prior=prior), clean

    def blur(x: Tensor, seed: int, kernel: Tensor) -> Prepared:
        operator, sigma = Blur(kernel), BLUR_SIGMAS[seed % len(BLUR_SIGMAS)]
        y = _white_noise(operator.measure(x[None].double())[0].float(), sigma, seed)
        down, across = operator.reach
        clean = x[:, down : down + y.shape[-2], across : across + y.shape[-1]]
        return prepare_deblur(y, kernel, sigma=sigma, prior=prior), clean

    def narrow(x: Tensor, seed: int) -> Prepared:
        return _fill(x, torch.from_numpy(draw_mask("scratch", x.shape[-2], x.shape[-1], seed)), prior)

    def wide(x: Tensor, seed: int) -> Prepared:
        hole = torch.zeros(x.shape[-2:], dtype=torch.bool)
        top, left = (max(extent - HOLE, 0) // 2 for extent in hole.shape)
        hole[top : top + HOLE, left : left + HOLE] = True
        return _fill(x, hole, prior)

    def enlarge(x: Tensor, seed: int, scale: int) -> Prepared:
        height, width = (extent // scale for extent in x.shape[-2:])
        clean = x[:, : scale * height, : scale * width]
        small = to_image(clean).resize((width, height), Image.Resampling.BICUBIC)
        return prepare_upscale(to_tensor(from_pil(small)), scale, prior=prior), clean

    found = [Trial("denoise", f"white noise {sigma:g}", partial(white, sigma=sigma)) for sigma in SIGMAS]
    found += [Trial("camera", f"{name} noise", partial(camera, add=add)) for name, add in (simulate or {}).items()]
    for kind, add in {"white": None, **{k: add for k, add in (simulate or {}).items() if k == "camera"}}.items():
        found += [Trial("noisy jpeg", f"{kind} noise and JPEG", partial(noisy_jpeg, kind=kind, add=add))]
    found += [Trial("dejpeg", f"JPEG {quality}", partial(jpeg, quality=quality), LONG_SIDE) for quality in QUALITIES]
    found += [
        Trial("deblur", f"blur, {name}", partial(blur, kernel=kernel), LONG_SIDE) for name, kernel in KERNELS.items()
    ]
    found += [Trial("narrow holes", "scratches", narrow, NARROW_SIDE)]
    found += [Trial("wide holes", f"hole of {HOLE} pixels", wide, WIDE_SIDE)]
    found += [Trial("upscale", f"x{scale}", partial(enlarge, scale=scale), LONG_SIDE) for scale in SCALES]
    return found


def _compressed(x: Tensor, quality: int, seed: int) -> tuple[Tensor, Jpeg | None]:
    """Return a picture as a JPEG file holds it, and what is known of the file."""
    file, sampling = io.BytesIO(), 2 if seed // 2 % 2 else 0  # every other picture of each half
    to_image(x).save(file, "JPEG", quality=quality, subsampling=sampling)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        decoded = to_tensor(from_pil(image.convert("RGB")))
    return decoded, find_jpeg(decoded, file.getvalue())


def _fill(x: Tensor, hole: Tensor, prior: Prior) -> Prepared:
    return prepare_inpaint(torch.where(hole, 0.5, x), hole, prior=prior), x


def measure(trial: Trial, picture: Tensor, seed: int) -> Measured | None:
    """Restore a picture that is degraded, and compare the result with the truth.

    Args:
        trial: How it is degraded.
        picture: The clean picture, (3, H, W) in [0, 1].
        seed: Seed of the degradation.

    Returns:
        What was measured; None if there was nothing to restore, or if another kind of noise was found.
    """
    job, truth = trial.prepare(picture, seed)
    job = replace(job.measured(), asked=Asked(spread=True))
    if job.plan is None or job.doubt is None or job.doubt.kind != trial.kind:
        return None
    restored = job.run()
    assert restored.spread is not None
    result, doubt = round_to_8_bits(restored.image), restored.spread.doubt
    known = torch.zeros(result.shape[-2:], dtype=torch.bool) if doubt.known is None else doubt.known
    same_size = job.image.shape == result.shape and doubt.known is None
    return Measured(
        trial.kind,
        trial.name,
        doubt.strength,
        255 * (result - truth),
        restored.spread.deviation,
        local_variance(result),
        ~known,
        (255 * (result - job.image)).square().mean(0) if same_size else None,
        restored.spread.hint,
    )


def find_constants(measured: Sequence[Measured], bins: Mapping[str, int] = BINS) -> dict[str, tuple[Constants, ...]]:
    """Return the constants that pictures give, by kind.

    Args:
        measured: The restorations.
        bins: Largest number of strengths of each kind.
    """
    found: dict[str, tuple[Constants, ...]] = {}
    for kind in dict.fromkeys(m.kind for m in measured):
        ordered = sorted((m for m in measured if m.kind == kind), key=lambda m: m.strength)
        count = min(bins.get(kind, 1), max(len(ordered) // LEAST_PER_STRENGTH, 1))
        parts = [[ordered[i] for i in part] for part in np.array_split(np.arange(len(ordered)), count)]
        samples = [[_sample(m) for m in part] for part in parts]
        forms = [choose_form(s, _by_groups) for s in samples]
        # Strengths can be interpolated if all of them have a law. Most of them decide.
        has_law = 2 * sum(form is not None for form in forms) > len(forms)
        rows = []
        for part, sample, form in zip(parts, samples, forms, strict=True):
            strength = float(np.exp(np.mean([np.log(m.strength) for m in part])))
            law = _controlled(fit_law(sample, form or FORMS[0]), sample) if has_law else None
            span = part[0].strength, part[-1].strength
            rows.append(replace(_groups(sample), strength=strength, law=law, span=span))
        found[kind] = tuple(rows)
    return found


def _sample(m: Measured) -> Sample:
    return Sample.of(m.error, m.deviation.clamp(min=1e-6), m.variance, m.unknown, m.hint)


def _groups(samples: Sequence[Sample]) -> Constants:
    """Return the constants of groups of about one strength, which is left to be named."""
    edges = group_edges(torch.cat([s.variance for s in samples]))
    ratios: list[list[Tensor]] = [[] for _ in range(len(edges) + 1)]
    for s in samples:
        group = torch.bucketize(s.variance, torch.tensor(edges))
        for number, collected in enumerate(ratios):
            collected.append((s.error / s.deviation)[:, group == number])
    return Constants(1.0, edges, tuple(controlled_factor(r) for r in ratios), len(samples))


def _by_groups(given: Sequence[Sample], others: Sequence[Sample]) -> list[Tensor]:
    """Return the half widths of pictures by the groups of others."""
    constants = _groups(given)
    return [half_width(constants, s.deviation, s.variance) for s in others]


def _controlled(law: PowerLaw, samples: Sequence[Sample]) -> PowerLaw:
    """Return the law with the factor that controls the risk."""
    plain = replace(law, factor=1.0)
    ratios = [s.error / plain.half(s.deviation, s.variance, s.hint) for s in samples]
    scale = law.factor  # keeps the factor within the bounds of its search
    return replace(law, factor=scale * controlled_factor([r / scale for r in ratios]))


@dataclass(frozen=True)
class Coverage:
    """How many values lie within their intervals.

    Args:
        name: What was done to the pictures.
        pictures: Number of pictures.
        whole: Share of all values.
        quarters: Share in each quarter of the local variance of the results.
        width: Mean half width in levels.
    """

    name: str
    pictures: int
    whole: float
    quarters: tuple[float, ...]
    width: float


def coverage(measured: Iterable[Measured], constants: Callable[[str, float], Constants | None]) -> list[Coverage]:
    """Return the coverage of the intervals, for each name of what was done.

    Args:
        measured: Restorations that did not give the constants.
        constants: Returns the constants of a kind at a strength.
    """
    groups: dict[str, list[Measured]] = {}
    for m in measured:
        groups.setdefault(m.name, []).append(m)
    found = []
    for name, members in groups.items():
        half = torch.cat(
            [half_width(constants(m.kind, m.strength), m.deviation, m.variance, m.hint)[m.unknown] for m in members]
        )
        error = torch.cat([m.error[:, m.unknown] for m in members], 1)
        variance = torch.cat([m.variance[m.unknown] for m in members])
        group = torch.bucketize(variance, torch.tensor(group_edges(variance)))
        quarters = tuple(inside(error[:, group == number], half[group == number]) for number in range(4))
        found.append(Coverage(name, len(members), inside(error, half), quarters, float(half.mean())))
    return found
