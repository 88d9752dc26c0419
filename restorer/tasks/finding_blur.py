"""The step of `auto` that looks for a blur wide enough that it is damage, and not the softness that photographs have.

A photograph at full size is soft: the lens, the filter before the sensor and the interpolation of its colours blur it
by a Gaussian of up to a pixel. Sharpening every photograph is not what `auto` is asked for, so it acts only on blurs
that are wider, and sure.
"""

from __future__ import annotations

import math

from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.sizes import Region
from restorer.measurement.blur import Blur
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.noise_under_blur import noise_under_blur
from restorer.measurement.white_noise import estimate_sigma
from restorer.tasks.blind_deblur import find_blur
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.defaults import DEBLUR
from restorer.tasks.dejpeg import can_be_restored, prepare_dejpeg
from restorer.tasks.finding import Finding, Left, Seen
from restorer.tasks.job import Job
from restorer.tasks.left_over import left_for_deblurring
from restorer.tasks.outliers import SPARSE, filled_smoothly
from restorer.tasks.passes import Pass, everything

__all__ = ["OTHER_BLUR", "POSSIBLE_BLUR", "find_blur_step", "is_wide"]

WIDE = {"gaussian": 1.3, "defocus": 1.5, "motion": 4.0}
"""Standard deviation, radius and length in pixels from which a blur is damage.

Photographs at full size were found to have a Gaussian of 0.6 to 1.0 pixels (the camera pictures of CC15), which is
their natural softness. 1.3 leaves a margin above that. A disk of radius 2.6 has the variance of such a Gaussian, and a
line of 4.5 pixels has it along its direction; but the zeros of their spectra tell them from softness, so that they are
undone from about where they are visible."""

COARSE = 1.3
"""Noise at the frequencies that a blur takes away, as a multiple of that of the finest detail, above which it is not
white."""

ALLOWED = 2.0
"""The white noise for which a deblurring allows in place of such noise, as a multiple: below these frequencies there is
more of it, which is amplified if too little is allowed for."""

UNLIKELY = 0.3
"""Probability of noise below which a picture has none. Where its kernel is wide, what is left of a picture beneath it
looks like coarse noise, which costs up to 4 dB if it is allowed for."""

ALIKE = 1.2
"""Ratio of two widths below which a blur that is found twice is the same one."""

POSSIBLE_BLUR = "a blur is likely, but not sure, and is left; restore deblur undoes it"
OTHER_BLUR = "the picture is blurred, but in no way that can be undone, and is left so"


def find_blur_step(seen: Seen) -> Finding | None:
    """Look for a blur that is wide and sure. White noise is left to the deblurring, which allows for it.

    A picture that is to be enlarged, and is blurred by a Gaussian, is left to the network that enlarges soft pictures.
    """
    if "blur" in seen.without or (picture := _without_outliers(seen)) is None:
        return None
    blur = find_blur(picture, seen.evidence, seen.prior)
    if blur is None:
        return None
    if blur.kind == "other":
        return Finding(blur=blur, note=OTHER_BLUR)
    if not is_wide(blur) or (blur.kind == "gaussian" and seen.scale is not None):
        return None
    sure = blur if blur.is_sure else _without_compression(seen, blur)
    kernel = (sure or blur).kernel()
    if kernel.shape[0] > seen.image.shape[-2] or kernel.shape[1] > seen.image.shape[-1]:
        return None
    if sure is None:
        return Finding(blur=blur, note=POSSIBLE_BLUR)
    blur = sure
    removed, compression = max((_left_by(finding) for finding in seen.found), default=0.0), _compression_left(seen)
    is_clean = _is_clean(seen)

    def prepare(detail: float | None, left: Left) -> Pass:
        def begin(image: Tensor, prior: Prior, region: Region | None) -> Job:
            coarse = 0.0 if is_clean else _coarse_noise(image, kernel, seen.evidence)
            noise = max(left.sigma, removed, coarse)
            sigma = math.hypot(noise or estimate_sigma(image, seen.evidence), compression)
            return prepare_deblur(image, kernel, sigma=sigma, detail=detail, seed=seen.seed, region=region, prior=prior)

        planned = begin(seen.image, seen.prior, None)
        return Pass(begin, planned.evaluations, planned.detail, everything, again=planned.again)

    return Finding(blur.describe(), "deblur", prepare, blur=blur, takes_noise=True, noise_detail=None)


def is_wide(blur: Blur) -> bool:
    """Return whether a blur is wide enough to be damage; one of another kind is not."""
    return blur.kind in WIDE and blur.width >= WIDE[blur.kind]


def _without_outliers(seen: Seen) -> Tensor | None:
    """Return the picture in which a blur is looked for; None if so much of it is lost that the filling would be one."""
    outliers = next((finding.outliers for finding in seen.found if finding.outliers is not None), None)
    if outliers is None:
        return seen.image
    return filled_smoothly(seen.image, outliers.values) if outliers.share <= SPARSE else None


def _without_compression(seen: Seen, likely: Blur) -> Blur | None:
    """Return a likely blur as it is found where the compression of the picture is undone; None if it is not sure there.

    A compression fills the zeros of a kernel, by which a disk and a line are known.
    """
    jpeg = next((finding.jpeg for finding in seen.found if finding.jpeg is not None), None)
    if jpeg is None or not can_be_restored(jpeg):
        return None
    undone = prepare_dejpeg(seen.image, jpeg, detail=0.0, seed=seen.seed, prior=seen.prior).run().image
    found = find_blur(undone, seen.evidence, seen.prior)
    if found is None or found.kind != likely.kind or not (found.is_sure and is_wide(found)):
        return None
    return found if abs(math.log(found.width / likely.width)) < math.log(ALIKE) else None


def _is_clean(seen: Seen) -> bool:
    """Return whether the picture has no noise and no compression, as far as the steps before can tell."""
    noise = seen.noise
    if noise is None or not noise.estimated or seen.jpeg is not None:
        return False
    return noise.kind == "none" and (noise.probability or 0.0) < UNLIKELY


def _coarse_noise(image: Tensor, kernel: Tensor, evidence: Tensor | None) -> float:
    """Return the white noise for which a deblurring must allow if the noise is coarse, in levels; 0 if it is white.

    What the steps before have not found, are not sure of, or leave because the user says so would be amplified. What is
    weaker than the noise that a deblurring assumes in any case is not told from what the kernel has left of the
    picture.
    """
    beside = noise_under_blur(image, kernel, evidence)
    is_coarse = beside > max(COARSE * estimate_sigma(image, evidence), DEBLUR.least)
    return ALLOWED * beside if is_coarse else 0.0


def _left_by(finding: Finding) -> float:
    """Return the error for which a deblurring allows after the repair of a finding, in levels.

    White noise is none, because it is left to the deblurring.
    """
    return left_for_deblurring(None if finding.white else finding.noise, finding.jpeg)


def _compression_left(seen: Seen) -> float:
    """Return the error of a compression that no step undoes, in levels; it may not be known from the file."""
    if any(finding.jpeg is not None for finding in seen.found):
        return 0.0
    is_left = "jpeg" in seen.without
    jpeg = find_jpeg(seen.image, None) if is_left and seen.jpeg is None else seen.jpeg
    return 0.0 if jpeg is None else jpeg.sigma
