"""The step of `auto` that looks for outliers, noise and compression, which hide each other.

The picture is measured once, as `denoise` measures it, and by the same rule (`restorer.tasks.believed_noise`): the
compression explains what was found, or the coefficients of the file show noise that is removed in one run with it, or
noise is removed from the picture as it is. Where compression has changed the noise, several repairs can do more than
one: the compression is undone first, within what the file says, and noise is looked for again in the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.sizes import Region
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.noise import Noise
from restorer.tasks.believed_noise import is_changed, may_be_texture
from restorer.tasks.common import without_equal_channels
from restorer.tasks.dejpeg import can_be_restored, prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.finding import Finding, Left, Seen
from restorer.tasks.job import Job
from restorer.tasks.left_over import left_of_compression, left_of_noise
from restorer.tasks.noisy_jpeg import removes_both
from restorer.tasks.passes import Pass, chained, everything

__all__ = ["NOTHING_LEFT", "POSSIBLE_NOISE", "find_noise"]

POSSIBLE_NOISE = (
    "what may be noise may be texture as well, and is left; restore denoise --noise camera takes it for noise"
)

POSSIBLE = 0.5
"""Probability from which noise that is not sure is told of."""

NOTHING_LEFT = "once the compression is undone, no noise is left that can be told from texture"


def find_noise(seen: Seen) -> Finding | None:
    """Look for outliers, noise and compression, which hide each other."""
    jpeg = None if "jpeg" in seen.without else seen.jpeg
    options: dict[str, Any] = {
        "noise": "off" if "noise" in seen.without else "auto",
        "outliers": "off" if "outliers" in seen.without else "auto",
        "evidence": seen.evidence,
        "seed": seen.seed,
    }
    if options["noise"] == options["outliers"] == "off":
        return None if jpeg is None else _compression(seen, jpeg, Noise("none", 0.0, False))
    job = prepare_denoise(seen.image, jpeg=jpeg, detail=seen.detail, prior=seen.prior, **options).measured()
    noise, is_colour = job.noise or Noise("none", 0.0, True), len(without_equal_channels(seen.image)) == 3
    is_texture = may_be_texture(noise, is_colour=is_colour)
    if job.outliers is not None:
        return _outliers(seen, {**options, "noise": "off" if is_texture else options["noise"]})
    if job.redo is None or noise.kind == "none" or is_texture:
        nothing = Noise("none", 0.0, noise.estimated, probability=noise.probability)
        if can_be_restored(jpeg):
            return _compression(seen, jpeg, nothing)
        is_possible = (noise.probability or 0.0) >= POSSIBLE
        return Finding(noise=nothing, jpeg=jpeg, note=POSSIBLE_NOISE if is_possible else "")

    prepare, left = partial(_planned, seen, job), Left(left_of_noise(noise.sigma), was_noisy=True)
    if jpeg is None or not can_be_restored(jpeg):
        white = noise.sigma if noise.kind == "white" else 0.0
        return Finding(noise.describe(), "denoise", prepare, left, noise, jpeg, white=white)
    if removes_both(job):
        words = f"{noise.describe()}, compressed as {jpeg.describe()}"
        return Finding(words, "denoise", prepare, left, noise, jpeg)
    if not is_changed(noise, jpeg):
        return Finding(f"{noise.describe()}; {jpeg.describe()}", "denoise", prepare, left, noise, jpeg)
    words = f"{jpeg.describe()}; {noise.describe()}, part or all of it from the compression"
    both = partial(_undone_first, seen, jpeg, prepare)
    return Finding(words, "dejpeg, then denoise", both, _left_by(jpeg), noise, jpeg)


def _planned(seen: Seen, job: Job, detail: float | None, left: Left) -> Pass:
    """Return the pass that does what a measured job of `denoise` does.

    Args:
        seen: The picture.
        job: The job for the whole picture, in the detail that was asked for.
        detail: The detail of the pass.
        left: What the passes before have left.
    """
    redo = job.redo
    assert redo is not None
    planned = job if detail == seen.detail else redo(seen.image, None, seen.prior, detail)

    def begin(image: Tensor, prior: Prior, region: Region | None) -> Job:
        return planned if image is seen.image and region is None else redo(image, region, prior, detail)

    return Pass(begin, planned.evaluations, planned.detail, everything)


def _outliers(seen: Seen, options: dict[str, Any]) -> Finding:
    """Return what is found if there are outliers: they are filled, and the noise beside them is removed.

    Args:
        seen: The picture.
        options: The options of `prepare_denoise`.
    """

    def begin(detail: float | None, image: Tensor, prior: Prior, region: Region | None) -> Job:
        return prepare_denoise(image, detail=detail, region=region, prior=prior, **options).measured()

    def prepare(detail: float | None, left: Left) -> Pass:
        planned = begin(detail, seen.image, seen.prior, None)
        return Pass(partial(begin, detail), planned.evaluations, planned.detail, everything)

    job = begin(seen.detail, seen.image, seen.prior, None)
    noise, outliers = job.noise or Noise("none", 0.0, True), job.outliers
    assert outliers is not None
    words = f"{outliers.describe()}; {noise.describe()}" if noise.kind != "none" else outliers.describe()
    return Finding(words, "denoise", prepare, noise=noise, jpeg=None, outliers=outliers)


def _compression(seen: Seen, jpeg: Jpeg | None, noise: Noise) -> Finding:
    """Return what is found if there is no noise, or none that is looked for."""
    if jpeg is None or not can_be_restored(jpeg):
        return Finding(noise=noise, jpeg=jpeg)

    def prepare(detail: float | None, left: Left) -> Pass:
        begin = partial(_undo, seen, jpeg, detail)
        planned = begin(seen.image, seen.prior, None)
        return Pass(begin, planned.evaluations, planned.detail, everything)

    return Finding(jpeg.describe(), "dejpeg", prepare, _left_by(jpeg), noise, jpeg)


def _left_by(jpeg: Jpeg) -> Left:
    """Return what is left when a compression has been undone."""
    return Left(left_of_compression(jpeg), was_compressed=True)


def _undo(seen: Seen, jpeg: Jpeg, detail: float | None, image: Tensor, prior: Prior, region: Region | None) -> Job:
    """Return the job that undoes the compression of a picture."""
    return prepare_dejpeg(image, jpeg, detail=detail, seed=seen.seed, region=region, prior=prior)


def _undone_first(
    seen: Seen, jpeg: Jpeg, removing: Callable[[float | None, Left], Pass], detail: float | None, left: Left
) -> Pass:
    """Return the pass that undoes compression, and then removes what noise is left.

    Args:
        seen: The picture.
        jpeg: Its compression.
        removing: Returns the pass that removes noise from the picture as it is.
        detail: The detail of the second one.
        left: What the passes before have left.
    """

    def denoise(image: Tensor, prior: Prior, region: Region | None) -> Job:
        # Without the compression, the noise is another: it is measured again, and on the whole picture.
        options: dict[str, Any] = {"evidence": seen.evidence, "seed": seen.seed, "detail": detail}
        job = prepare_denoise(image, outliers="off", region=region, prior=prior, **options).measured()
        is_colour = len(without_equal_channels(image)) == 3
        is_sure = job.noise is not None and not may_be_texture(job.noise, is_colour=is_colour)
        job = job if is_sure else prepare_denoise(image, 0.0, region=region, prior=prior)
        return replace(job, notes=(NOTHING_LEFT,)) if job.is_copy else job

    undo, second = partial(_undo, seen, jpeg, 0.0), removing(detail, left)
    count = undo(seen.image, seen.prior, None).evaluations
    passes = (Pass(undo, count, 0.0), replace(second, begin=denoise))
    return Pass(partial(chained, passes), count + second.evaluations, second.detail, everything)
