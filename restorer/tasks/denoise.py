"""Denoising: what the noise is decides how the reverse process begins, and whether it is corrected.

White noise. A picture y with white noise of standard deviation s_y is x_t at the t where sigma_t = s_y. The reverse
process starts there, and the data need no correction. It yields two estimates of the clean picture x:

    first    the prediction of its first evaluation, the posterior mean E[x | y], which has the best PSNR
    last     its last state, a picture with natural texture

The result is (1 - detail) first + detail last. Along a straight line, this blend is the optimal trade-off of distortion
against perception (Freirich et al. 2021, https://arxiv.org/abs/2107.02555).

Camera noise. Its energy lies in the low half of the spectrum, where it is several times as dense as white noise of the
same standard deviation. The reverse process starts at y itself, at a level above that density (`camera_plan.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
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
from restorer.measurement.clipping import undo_clipping
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.jpeg_noise import NoiseBefore, find_noise_before, white_noise_before
from restorer.measurement.noise import Noise
from restorer.measurement.outliers import find_outliers
from restorer.measurement.white_noise import constant_areas, estimate_sigma, is_white
from restorer.models.feed_forward import FeedForward
from restorer.models.load import load_noise_estimator, measuring_prior
from restorer.priors.tiled import Tiled
from restorer.tasks.believed_noise import SURE, is_before, is_believed, is_explained, least_white_sigma, looks_white
from restorer.tasks.camera_plan import camera_plan, probed_at
from restorer.tasks.common import LOWEST_LEVEL, as_colour, check_picture, select_prior, to_unit, without_equal_channels
from restorer.tasks.defaults import CAMERA, DENOISE
from restorer.tasks.dejpeg import can_be_restored, prepare_dejpeg
from restorer.tasks.job import Job
from restorer.tasks.noisy_jpeg import noise_of, with_noise_removed
from restorer.tasks.outliers import without_outliers
from restorer.tasks.region import Place
from restorer.tasks.started import alone, check_start, repaired_from
from restorer.tasks.tiles import with_default_tiles
from restorer.tasks.uncertain import Doubt

__all__ = ["prepare_denoise"]

NOTHING_FOUND = (
    "no noise that can be told from texture was found: the picture is copied (--noise camera removes what looks like "
    "noise all the same, and --sigma N removes white noise)"
)


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
        return task.remove_told(sigma)
    if noise == "off":
        return task.or_compression(task.copy(Noise("none", 0.0, estimated=False)))
    level = estimate_sigma(image, evidence)
    # What passed a compression may look white, and is less than all.
    is_seen = noise == "camera" or task.before is not None
    if not is_seen and (noise == "white" or is_white(image, level, evidence)):
        return task.remove_measured_white(level)
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
        return None if self.undone is None else find_noise_before(self.undone)

    @property
    def undone(self) -> Jpeg | None:
        """What is known of the file, without colour if the picture has none; None if no compression is undone."""
        if self.jpeg is None or not can_be_restored(self.jpeg):
            return None
        return self.jpeg.luminance() if len(self.reduced) == 1 else self.jpeg

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
        if not can_be_restored(self.jpeg) or not is_explained(job.noise, self.jpeg, self.before):
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
        is_camera = found is not None and (self.kind == "camera" or is_believed(found, white_sigma))
        if found is not None and self.kind != "camera":
            if self.before is not None and is_before(found, self.before, is_coarse=is_camera or self.kind == "white"):
                return self.remove_before(self.before, found)
            is_camera &= not looks_white(found, white_sigma, is_gray=len(self.reduced) == 1)
        if self.kind == "white":
            return self.remove_measured_white(white_sigma)
        if found is not None and is_camera:
            return self.or_compression(self.remove_camera(found))
        probability = None if found is None else found.probability
        if self.kind == "auto" and white_sigma >= least_white_sigma(probability):
            return self.remove_measured_white(white_sigma, probability)
        nothing = Noise("none", 0.0, True, probability=probability)
        return self.or_compression(self.copy(nothing, NOTHING_FOUND))

    def remove_told(self, sigma: float) -> Job:
        """Return the job that removes white noise of a given standard deviation, with the compression if it is known.

        Args:
            sigma: The standard deviation, on the 0..255 scale.
        """
        before = white_noise_before(self.undone, sigma) if sigma > 0 and self.undone is not None else None
        if before is not None:
            return self.remove_before(before)
        return self.remove_white(Noise("white", sigma, estimated=False))

    def remove_measured_white(self, sigma: float, probability: float | None = None) -> Job:
        """Return the job that removes white noise by its estimate, or undoes the compression that explains it.

        Args:
            sigma: The estimate, on the 0..255 scale.
            probability: Probability of noise; None if it was not computed.
        """
        noise = Noise("white", self.strength * sigma, True, self.strength, probability)
        return self.or_compression(self.remove_white(noise))

    def remove_before(self, found: NoiseBefore, measured: CameraNoise | None = None) -> Job:
        """Return the job that removes the noise that was there before the compression, and undoes that too.

        Args:
            found: The noise.
            measured: What was measured in the pixels; None if the user gave the noise.
        """
        assert self.jpeg is not None and self.undone is not None
        before = found.scaled(self.strength, self.undone)
        options: dict[str, Any] = {"steps": self.steps, "detail": self.detail, "method": self.method, "seed": self.seed}
        copied = self.copy(noise_of(before, self.strength, measured))
        finish = partial(self.finish, keep_constant=measured is not None)
        job = with_noise_removed(copied, self.image, self.place, self.jpeg, before, finish, **options)
        return replace(job, redo=lambda *state: self.of(*state).remove_before(found, measured))

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

        doubt = Doubt("denoise", level, at=0.0, has_mean=True, detail=weight, **self.doubted)
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
        if self.before is not None and found.probability >= SURE:  # the file tells it as well, and neither is exact
            measured = math.sqrt(measured * self.before.error)
        sigma = self.strength * measured
        plan, detail = camera_plan(
            sigma, self.steps, self.detail, self.method, self.seed, is_mirrored=self.model.mirrors
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
            detail=detail,
            plan=plan,
            start=picture,
            degradation=ColouredNoise(found.autocovariance / mean_variance(found.autocovariance)),
            y=picture,
            noise_variance=(2 * sigma / 255) ** 2 / CAMERA.trust,
            doubt=Doubt("camera", sigma, at=probed_at(plan), **self.doubted),
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
