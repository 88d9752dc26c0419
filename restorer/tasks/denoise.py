"""Denoising: what the noise is decides how the reverse process begins, and whether it is corrected.

White noise. A picture y with white noise of standard deviation s_y is x_t at the t where sigma_t = s_y. The reverse
process starts there, and the data need no correction. It yields two estimates of the clean picture x:

    first    the prediction of its first evaluation, the posterior mean E[x | y], which has the best PSNR
    last     its last state, a picture with natural texture

The result is (1 - detail) first + detail last. Along a straight line, this blend is the optimal trade-off of distortion
against perception (Freirich et al. 2021, https://arxiv.org/abs/2107.02555).

Camera noise. Its energy lies in the low half of the spectrum, where it is several times as dense as white noise of the
same standard deviation. The reverse process starts at y itself, at a level above that density, and each prediction is
corrected towards y, frequency by frequency (`restorer.diffusion.degradations.coloured_noise`). The last prediction is
the result. The detail decides at which level it is made: at a low one, the prior takes less of the texture for noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from restorer.diffusion.degradations.coloured_noise import ColouredNoise
from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Canvas, NoiseField
from restorer.images.sizes import Region
from restorer.limits import check, check_denoising
from restorer.measurement.camera_noise import CameraNoise, mean_variance, measure_camera_noise
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.jpeg_noise import NoiseBefore, find_noise_before
from restorer.measurement.noise import Noise
from restorer.measurement.outliers import find_outliers
from restorer.measurement.white_noise import constant_areas, estimate_sigma, is_white, undo_clipping
from restorer.models.feed_forward import FeedForward
from restorer.models.load import load_noise_estimator, measuring_prior
from restorer.priors.tiled import Tiled
from restorer.tasks.common import LOWEST_LEVEL, as_colour, check_picture, select_prior, to_unit, without_equal_channels
from restorer.tasks.defaults import CAMERA, DENOISE
from restorer.tasks.dejpeg import can_be_restored, prepare_dejpeg
from restorer.tasks.job import Job
from restorer.tasks.noisy_jpeg import least_probability, noise_of, with_noise_removed
from restorer.tasks.outliers import without_outliers
from restorer.tasks.region import Place
from restorer.tasks.started import alone, check_start, repaired_from
from restorer.tasks.tiles import with_default_tiles
from restorer.tasks.uncertain import Doubt

__all__ = ["prepare_denoise"]

LEAST_PROBABILITY, LEAST_PROBABILITY_OF_GRAY, GRAY = 0.9, 0.98, 0.1
"""Probability from which camera noise is removed. A missed one costs little; a texture taken for noise is destroyed.
Noise with less colour than a share of GRAY is more like the texture of gray things, such as stone and wood."""

LIKELY = 0.5
"""Probability below which weak white noise is not believed either."""

POSSIBLE = 0.2
"""Probability from which camera noise is removed where the estimate of white noise says that there is noise."""

SURE = 0.97
"""Probability from which the median estimate of the strength is used, and not the cautious one."""

LEAST_CAMERA_SIGMA, LEAST_WHITE_SIGMA = 1.3, 1.0
"""Standard deviations in levels from which noise is removed. Weaker noise is hardly seen, and is mostly texture."""

SURE_WHITE_SIGMA = 5.0
"""Standard deviation of white noise that is not an estimate from texture: photographs without noise reach 3.9."""

MAX_WHITE_CORRELATION, LEAST_WHITE_CHROMA, WHITE_SHARE = 0.25, 0.2, 0.75
"""Noise is taken for white, although it was measured, up to this correlation of neighbours, from this share of colour,
and if the estimate of white noise is at least this share of it. In coarse noise that estimate finds at most half."""

MOST_EXPLAINED = 1.3
"""Standard deviation of noise up to which compression explains it, as a multiple of the error that it expects."""

KNOWN_QUALITY = 50
"""JPEG quality from which the noise estimator tells noise from compression by itself, because it was trained on it."""

COARSE, COLOURED = 0.75, 0.75
"""Correlation of neighbours and share of colour from which the luminance of a JPEG file need not show camera noise."""

NOTHING_FOUND = "no noise that can be told from texture was found: the picture is copied; --sigma N removes white noise"


def prepare_denoise(
    image: Tensor,
    sigma: float | None = None,
    *,
    noise: str = "auto",
    strength: float = 1.0,
    outliers: str = "auto",
    evidence: Tensor | None = None,
    jpeg: Jpeg | None = None,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    region: Region | None = None,
    start: FeedForward | None = None,
    prior: Prior | None = None,
) -> Job:
    """Prepare a job that removes noise, or what compression did where there is no noise beyond it.

    Args:
        image: The picture, float (C, H, W) in [0, 1] with C = 1 or 3. Values outside this range are not clamped.
        sigma: As in `restorer.denoise`.
        noise: As in `restorer.denoise`.
        strength: As in `restorer.denoise`.
        outliers: As in `restorer.denoise`.
        evidence: bool (H, W), the pixels that the noise is estimated from; None for all of them.
        jpeg: What is known of the file if it is a JPEG; None if it is not, or if its compression is to stay.
        steps: As in `restorer.denoise`.
        detail: As in `restorer.denoise`.
        method: As in `restorer.denoise`.
        seed: As in `restorer.denoise`.
        region: The part of the picture that is restored and returned; None for all of it. The noise is measured on the
            whole picture.
        start: The network from whose result the reverse process starts; None if it starts from the picture.
        prior: As in `restorer.denoise`.

    Raises:
        UsageError: A value is out of range, the tensor is not a picture, or the region lies outside of it.
        ModelError: The prior or the network of the start cannot denoise.
    """
    check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, started=start is not None)
    place = Place.of(image, region)
    model = with_default_tiles(select_prior("denoise", prior), place.window.height, place.window.width)
    if start is not None:
        check_start(start, "denoise", model)
        if steps == 0:
            return alone(start, image, place, model)
        measured: dict[str, Any] = {"noise": noise, "strength": strength, "evidence": evidence, "jpeg": jpeg}
        measured["outliers"] = "off"
        job = prepare_denoise(image, sigma, **measured, method=method, seed=seed, region=region, prior=model)
        return repaired_from(job, start, image, place, steps=steps, detail=detail, method=method)
    check_denoising(sigma=sigma, noise=noise, strength=strength, outliers=outliers, steps=steps, detail=detail)
    if outliers == "auto" and sigma != 0 and (outlying := find_outliers(image, evidence)).kind != "none":
        options: dict[str, Any] = {"steps": steps, "detail": detail, "method": method, "seed": seed}

        def rest(picture: Tensor, tiles: Tiled, known: Noise | None) -> Job:
            """Prepare the removal of the noise that is left once the outliers are filled."""
            others: dict[str, Any] = {"outliers": "off", "evidence": evidence, "region": region, "prior": tiles}
            if known is not None and known.kind == "white":
                return prepare_denoise(picture, known.sigma, **others, **options)
            return prepare_denoise(picture, sigma, noise=noise, strength=strength, **others, **options)

        return without_outliers(image, outlying, place, model, rest, **options)
    task = _Denoising(image, place, evidence, model, noise, strength, jpeg, steps, detail, method, seed)
    if sigma is not None:
        return task.remove_white(Noise("white", sigma, estimated=False))
    if noise == "off":
        return task.or_compression(task.copy(Noise("none", 0.0, estimated=False)))
    level = estimate_sigma(image, evidence)
    if noise == "auto" and task.before is not None:  # what passed the compression may look white, and is less than all
        return replace(task.unmeasured(), measure=lambda: task.measure(level))
    if noise == "white" or (noise == "auto" and is_white(image, level, evidence)):
        found = Noise("white", strength * level, estimated=True, strength=strength)
        return task.or_compression(task.remove_white(found))
    return replace(task.unmeasured(), measure=lambda: task.measure(level))


@dataclass(frozen=True)
class _Denoising:
    """A picture and the options of its restoration. The fields are the arguments of `prepare_denoise`."""

    image: Tensor
    place: Place
    evidence: Tensor | None
    model: Tiled
    kind: str
    strength: float
    jpeg: Jpeg | None
    steps: int | None
    detail: float | None
    method: str
    seed: int

    @property
    def weight(self) -> float:
        """The detail that is used for white noise."""
        return self.detail if self.detail is not None else 0.0 if self.steps == 1 else DENOISE.detail

    @cached_property
    def reduced(self) -> Tensor:
        """The picture, or its only channel if its channels are equal."""
        return without_equal_channels(self.image)

    @cached_property
    def constant(self) -> Tensor:
        """The pixels of areas that never vary, bool (H, W). They hold no noise, and keep their colour exactly."""
        return constant_areas(self.image)

    @cached_property
    def before(self) -> NoiseBefore | None:
        """The noise before the compression, by the coefficients of the file; None if they show none."""
        return find_noise_before(self.jpeg) if self.jpeg is not None and can_be_restored(self.jpeg) else None

    @property
    def doubted(self) -> dict[str, Any]:
        """What a `Doubt` says about the picture itself."""
        return {"cut": self.place.inner, "is_gray": len(self.reduced) == 1, "canvas": self.place.canvas}

    def of(self, image: Tensor, region: Region | None, prior: Prior, detail: float | None) -> _Denoising:
        """Return the same restoration of another state of the picture, of another part of it, or in another detail."""
        place = Place.of(image, region)
        model = with_default_tiles(prior, place.window.height, place.window.width)
        return replace(self, image=image, place=place, model=model, detail=detail)

    def unmeasured(self) -> Job:
        """Return a job without a plan."""
        start, part = as_colour(self.place.seen(self.image)), self.place.exact(self.image)
        canvas, weight = self.place.canvas, self.weight
        return Job(self.model, None, part, 0.0, True, weight, start, lambda x, _: self.finish(x), canvas=canvas)

    def copy(self, noise: Noise, note: str = "") -> Job:
        """Return a job that copies the picture."""
        job = replace(self.unmeasured(), sigma=noise.sigma, estimated=noise.estimated, noise=noise)
        return job.with_note(note)

    def or_compression(self, job: Job) -> Job:
        """Return the job that removes noise, or one that undoes the compression if that explains what was found.

        Noise that was there before the compression and is stronger is removed as it was found.
        """
        if self.jpeg is None or job.noise is None:
            return job
        is_camera = job.noise.kind == "camera" and not self._is_contradicted(job.noise)
        is_told_apart = is_camera and self.jpeg.quality >= KNOWN_QUALITY
        is_explained = not is_told_apart and job.noise.sigma <= MOST_EXPLAINED * self.jpeg.sigma * self.strength
        if not can_be_restored(self.jpeg) or not is_explained:
            return replace(job, jpeg=self.jpeg)
        restored = prepare_dejpeg(
            self.image,
            self.jpeg,
            steps=self.steps,
            detail=self.detail,
            method=self.method,
            seed=self.seed,
            region=None if self.place.canvas is None else self.place.region,
            prior=self.model,
        )
        nothing = Noise("none", 0.0, job.noise.estimated, probability=job.noise.probability)
        return replace(restored, noise=nothing, redo=lambda *state: self.of(*state).or_compression(job))

    def measure(self, white_sigma: float) -> Job:
        """Measure camera noise, and return the job that removes what was found.

        Args:
            white_sigma: The estimate of white noise, on the 0..255 scale.
        """
        evidence = ~self.constant if self.evidence is None else self.evidence & ~self.constant
        found = measure_camera_noise(self.image, measuring_prior(self.model), load_noise_estimator(), evidence)
        is_believed = found is not None and (self.kind == "camera" or _is_believed(found, white_sigma))
        if found is not None and self.kind == "auto" and self._is_noise_before(found, is_believed):
            return self.remove_before(found.probability)
        is_white = found is not None and self.kind == "auto" and self._looks_white(found, white_sigma)
        if found is not None and not is_white and is_believed:
            return self.or_compression(self.remove_camera(found))
        probability = None if found is None else found.probability
        least = SURE_WHITE_SIGMA if probability is not None and probability < LIKELY else LEAST_WHITE_SIGMA
        if self.kind == "auto" and white_sigma >= least:
            sigma = self.strength * white_sigma
            return self.or_compression(self.remove_white(Noise("white", sigma, True, self.strength, probability)))
        nothing = Noise("none", 0.0, True, probability=probability)
        return self.or_compression(self.copy(nothing, NOTHING_FOUND))

    def _is_noise_before(self, found: CameraNoise, is_believed: bool) -> bool:
        """Return whether noise is removed together with the compression, by what the coefficients of the file show.

        Coarse noise that is believed by the pixels alone is removed from them.
        """
        is_white = self.before is not None and self.before.is_white
        return found.probability >= least_probability(self.before) and (is_white or not is_believed)

    def _is_contradicted(self, noise: Noise) -> bool:
        """Return whether the coefficients of the file speak against camera noise that was found in the pixels.

        Very coarse noise is in no coefficient that is looked at, and colour is not looked at.
        """
        is_looked_at = noise.correlation < COARSE and noise.chroma < COLOURED
        return is_looked_at and (noise.probability or 0.0) < least_probability(self.before)

    def remove_before(self, probability: float | None) -> Job:
        """Return the job that removes the noise that was there before the compression, and undoes that too."""
        assert self.jpeg is not None and self.before is not None
        before = self.before.scaled(self.strength, self.jpeg)
        options: dict[str, Any] = {"steps": self.steps, "detail": self.detail, "method": self.method, "seed": self.seed}
        copied = self.copy(noise_of(before, self.strength, probability))
        job = with_noise_removed(copied, self.image, self.place, self.jpeg, before, self.finish, **options)
        return replace(job, redo=lambda *state: self.of(*state).remove_before(probability))

    def _looks_white(self, found: CameraNoise, white_sigma: float) -> bool:
        """Return whether what was measured is white noise, of which texture has misled the quicker test."""
        has_colour = len(self.reduced) == 1 or found.chroma >= LEAST_WHITE_CHROMA
        return has_colour and found.correlation <= MAX_WHITE_CORRELATION and white_sigma >= WHITE_SHARE * found.sigma

    def remove_white(self, noise: Noise) -> Job:
        """Return the job that removes white noise."""
        level, weight, seed = noise.sigma, self.weight, self.seed
        count = 1 if weight == 0 else self.steps or DENOISE.steps
        start, s_y = as_colour(self.place.seen(self.reduced)), 2 * level / 255
        if level == 0:
            return self.copy(noise, "no noise was found: the picture is copied" if noise.estimated else "")
        if len(self.reduced) == 1:
            start, s_y = _add_chroma_noise(start, s_y, seed, self.place.canvas), math.sqrt(3) * s_y
        end = min(LOWEST_LEVEL, s_y / 4)
        # Every step has a level of its own below the first. The last evaluation is at `end`, and 0 follows it.
        sigmas = (*log_levels(s_y, end, count), 0.0)
        auto = Plan(
            sigmas,
            zeta=(DENOISE.zeta,) * count,
            extrapolation=DENOISE.extrapolation,
            fresh_start=False,
            mirrored=self.model.mirrors,
            seed=seed,
        )
        plan = make_plan(self.method, auto, start=s_y, end=end, steps=count)

        # A file cannot hold values beyond black and white, so its noise is clipped. A tensor that holds such values has
        # not been clipped.
        is_clipped = 0 <= float(self.image.min()) and float(self.image.max()) <= 1

        def finish(x: Tensor, first: Tensor) -> Tensor:
            unclip = (lambda mean: undo_clipping(mean, level / 255)) if is_clipped else None
            return self.finish(torch.lerp(first, x, weight), unclip, keep_constant=noise.estimated)

        doubt = Doubt("denoise", level, at=0.0, has_mean=True, **self.doubted)
        return replace(
            self.copy(noise),
            plan=plan,
            start=start,
            finish=finish,
            doubt=doubt,
            reseed=lambda other: replace(self, seed=other).remove_white(noise),
            redo=lambda *state: self.of(*state).remove_white(noise),
        )

    def remove_camera(self, found: CameraNoise) -> Job:
        """Return the job that removes camera noise."""
        measured = found.sigma if found.probability >= SURE else found.cautious
        if self.before is not None and found.probability >= SURE:
            measured = math.sqrt(
                measured * self.before.error
            )  # the file tells it as well, and neither knows it exactly
        sigma = self.strength * measured
        usual = CAMERA.detail_at(sigma) if self.method == "auto" else CAMERA.detail
        detail = usual if self.detail is None else self.detail
        count, s_y = self.steps or CAMERA.steps, 2 * sigma / 255
        start, end = (CAMERA.single, CAMERA.single) if count == 1 else (CAMERA.first, CAMERA.last(detail))
        sigmas = (*log_levels(start * s_y, end * s_y, count), 0.0)
        auto = Plan(
            sigmas,
            zeta=(0.0,) * count,
            kappa=0.0 if self.method == "auto" else 1.0,  # the published methods carry all noise
            correct_last=False,
            fresh_start=False,
            mirrored=self.model.mirrors,
            seed=self.seed,
        )
        noise = Noise(
            "camera",
            sigma,
            estimated=True,
            strength=self.strength,
            probability=found.probability,
            correlation=found.correlation,
            chroma=found.chroma,
            shadows=found.shadows,
        )
        picture = as_colour(self.place.seen(self.image))
        return replace(
            self.copy(noise),
            detail=0.0 if count == 1 else detail,
            plan=make_plan(self.method, auto, start=start * s_y, end=end * s_y, steps=count),
            start=picture,
            degradation=ColouredNoise(found.autocovariance / mean_variance(found.autocovariance)),
            y=picture,
            noise_variance=s_y**2 / CAMERA.trust,
            doubt=Doubt("camera", sigma, at=1.0, **self.doubted),
            redo=lambda *state: self.of(*state).remove_camera(found),
        )

    def finish(
        self, x: Tensor, unclip: Callable[[Tensor], Tensor] | None = None, *, keep_constant: bool = True
    ) -> Tensor:
        """Return the result, (C, H, W) in [0, 1], of the last state of the reverse process.

        Args:
            x: The last state, (1, 3, H, W) on [-1, 1].
            unclip: Corrects for noise that was clipped; None for no correction.
            keep_constant: Whether areas that never vary keep their colour. Noise that was measured was found elsewhere.
        """
        restored, part = self.place.inner(to_unit(x, len(self.reduced))), self.place.exact(self.image)
        restored = (restored if unclip is None else unclip(restored)).expand(part.shape)
        return torch.where(self.place.exact(self.constant), part, restored) if keep_constant else restored


def _is_believed(found: CameraNoise, white_sigma: float) -> bool:
    """Return whether camera noise is sure and strong enough to be removed unasked.

    Noise whose white part alone is strong needs less of a probability.
    """
    usual = LEAST_PROBABILITY_OF_GRAY if found.chroma < GRAY else LEAST_PROBABILITY
    least = POSSIBLE if white_sigma >= SURE_WHITE_SIGMA else usual
    return found.probability >= least and found.cautious >= LEAST_CAMERA_SIGMA


def _add_chroma_noise(start: Tensor, s_y: float, seed: int, canvas: Canvas | None) -> Tensor:
    """Return a gray picture as a colour picture with white noise of standard deviation sqrt(3) s_y.

    Noise that is copied to three channels has the covariance s_y^2 11^T = 3 s_y^2 P, where P is the projection onto
    gray. The difference from 3 s_y^2 I is noise of the same variance on the chroma, 3 s_y^2 (I - P), which is drawn
    here.

    Args:
        start: The gray picture, (1, 3, H, W) on [-1, 1], with three equal channels.
        s_y: Standard deviation of its noise, on the [-1, 1] scale.
        seed: Seed of the reverse process, from which that of the chroma noise is derived.
        canvas: The larger picture of whose noise a part is taken; None if there is none.
    """
    drawn = NoiseField(seed ^ 0x5EED, canvas).like(start) * math.sqrt(3) * s_y
    return start + drawn - drawn.mean(1, keepdim=True)
