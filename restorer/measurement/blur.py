"""Whether a picture is blurred, and by what: a Gaussian, a lens out of focus, a camera that moved, or something else.

The evidence is the spectrum. A small network (`restorer.networks.blur_estimator`) decides whether there is a blur
and of what kinds it may be, and the kernel of each of these families that explains the spectrum best is fitted to it
(`restorer.measurement.blur_fit`). With a prior, the kernels are tried as well (`restorer.measurement.blur_trial`). The
energy of a restored picture is no evidence for a blur: it is least without any (Levin et al. 2009), because a prior
likes smooth pictures. But a wrong kernel makes edges ring, and the trial refutes it. A kernel that rings nowhere is
confirmed, and a likely blur is sure then. A disk or a line that is not refuted may explain the spectrum badly, as it
does where a compression has filled its zeros.

The probability of a blur is that of the network, raised by what the fit adds: the zeros of a disk or a line, which no
soft subject has, and a Gaussian that is wider than soft subjects are. A blur that the network takes for another one is
said to be one, and nothing more is claimed of it. The same is said where all kernels of a clear blur are refuted.

In doubt the picture is not blurred. A blur that is missed leaves the picture as it is, while a kernel that is too wide
makes every edge ring.

Sources:
    Levin, Weiss, Durand and Freeman 2009, "Understanding and evaluating blind deconvolution algorithms", CVPR.
    Delbracio, Garcia-Dorado, Choi, Talebi and Milanfar 2021, "Polyblur: Removing mild blur by polynomial reblurring",
        https://arxiv.org/abs/2012.09322: a Gaussian of two widths and an angle as the model of a mild blur.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.diffusion.prior import Prior
from restorer.measurement.blur_fit import SpectrumFit
from restorer.measurement.blur_spectrum import describe_spectrum, luminance
from restorer.measurement.blur_trial import trial_of
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.white_noise import estimate_sigma
from restorer.networks.blur_estimator import ANGLES, KINDS, BlurEstimate, BlurEstimator

__all__ = ["Blur", "estimate_blur"]

LEAST_PROBABILITY, SURE = 0.8, 0.95
"""Probability of a blur from which one is claimed, and from which it is called sure."""

LEAST_OTHER = 0.85
"""Probability of any blur from which another one is told. Nothing is undone then, so that little is lost by silence."""

LEAST_SHARE = 0.02
"""Share of a kind in the probability of the three from which its kernels are fitted."""

EVIDENCE, EVIDENCE_OF_KIND = 150.0, 600.0
"""Factors on a difference of losses of the fit that make it a log likelihood ratio: for whether there is a blur, and
between two kinds of blur, for which the model of the sharp spectrum errs alike. Both are far less than the number of
frequencies."""

POSSIBLE, MOST_EVIDENCE = 0.3, 3.0
"""Probability by the network from which kernels are fitted, and the most that their fit adds to its log odds."""

SOFT_SUBJECT = 0.01
"""By how much a Gaussian improves the fit of a picture whose subject is soft."""

LEAST_GAIN = 0.003
"""By how much the loss of the fit with the blur must be below that without."""

NARROWER = 0.97
"""Factor on the width of a Gaussian, whose fit has no zeros to go by."""

REFUTED = 1.7
"""Misfit of a trial from which a kernel is refuted. The kernels of held-out photographs that were worth undoing have up
to 1.7, most of them less than 1; those that made the photographs worse have 1.3 to 7."""

CONFIRMED = 0.9
"""Misfit of a trial up to which a kernel that explains the spectrum is confirmed, so that a likely blur is sure. On
held-out photographs, all likely ones below it were worth undoing, and none of them was sharp."""

COMPRESSION = 0.5
"""Share of the error of a compression that a trial allows for. It is allowed for only if the kernel explains the
spectrum, because the error of a compression hides the ringing of a wrong kernel, too."""

UNEXPLAINED = 0.8
"""Probability of a blur by the network from which a disk or a line is claimed that explains the spectrum badly."""

CLEAR, RUNNER_UP = 0.9, 0.25
"""Least share of a kind in the probability of the three for this, and for a trial after a likelier kind was refuted."""

LEAST_SIZE = {"gaussian": 1.1, "defocus": 1.2, "motion": 3.0}
"""Width in pixels, as `Blur.width` states it, from which a blur is worth undoing. A narrower Gaussian may be the
softness that pictures have at the full size of a camera, whose edges would ring."""

THINNEST = 0.3
"""Least standard deviation of a Gaussian across its angle, which a grid of pixels does not tell from 0."""

MOST_GAUSSIAN, MOST_DEFOCUS, MOST_MOTION = 4.5, 9.0, 36.0
"""Standard deviation, radius and length in pixels up to which the network has learned."""

ROUND = 1.15
"""Ratio of the widths of a Gaussian below which it is taken to be round."""

NEIGHBOURS = 1  # angles on either side of the likeliest one whose mean is the direction of a motion


@dataclass(frozen=True)
class Blur:
    """The blur that was found in a picture.

    Args:
        kind: "gaussian", "defocus", "motion", or "other" for a blur of another kind, which has no kernel here.
        size: Standard deviation along the angle, radius, or length, in pixels; 0 for "other".
        across: Standard deviation of a Gaussian across the angle, which is at most `size`; equal to it if the Gaussian
            is round; 0 for other kinds.
        angle: Angle in degrees, 0..180, anticlockwise from the horizontal; 0 where there is none.
        probability: Probability that the picture is blurred by a blur of these kinds, 0..1; for "other" by any blur.
    """

    kind: str
    size: float
    across: float = 0.0
    angle: float = 0.0
    probability: float = 1.0

    @property
    def width(self) -> float:
        """Radius, length, or standard deviation in pixels, of a Gaussian the geometric mean of its two."""
        return math.sqrt(self.size * self.across) if self.kind == "gaussian" else self.size

    @property
    def is_sure(self) -> bool:
        """Whether the probability is at least SURE."""
        return self.probability >= SURE

    @property
    def option(self) -> tuple[str, str] | None:
        """The option of the command that names this blur, without hyphens, and its value; None for "other"."""
        if self.kind == "other":
            return None
        if self.kind == "motion":
            return "motion", f"{self.size:g}@{self.angle:g}"
        is_round = self.kind == "defocus" or self.across == self.size
        return self.kind, f"{self.size:g}" if is_round else f"{self.size:g}x{self.across:g}@{self.angle:g}"

    def kernel(self) -> Tensor:
        """Return the kernel, (2 a + 1, 2 b + 1).

        Raises:
            ValueError: The kind is "other".
        """
        if self.kind == "gaussian":
            is_round = self.across == self.size
            return gaussian_kernel(self.size) if is_round else gaussian_kernel(self.size, self.across, self.angle)
        if self.kind == "defocus":
            return defocus_kernel(self.size)
        if self.kind == "motion":
            return motion_kernel(self.size, self.angle)
        raise ValueError("a blur of another kind has no kernel")

    def describe(self) -> str:
        """Return the blur in a few words, such as "blur: defocus of radius 3.1 pixels, sure"."""
        if self.kind == "other":
            words = "of a kind that cannot be undone"
        elif self.kind == "defocus":
            words = f"defocus of radius {self.size:g} pixels"
        elif self.kind == "motion":
            words = f"motion of {self.size:g} pixels at {self.angle:g} degrees"
        elif self.across == self.size:
            words = f"Gaussian of {self.size:g} pixels"
        else:
            words = f"Gaussian of {self.size:g} by {self.across:g} pixels at {self.angle:g} degrees"
        return f"blur: {words}, {'sure' if self.is_sure else 'likely'}"

    def __str__(self) -> str:
        return self.describe()

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON output holds."""
        option = self.option
        return {
            "kind": self.kind,
            "value": None if option is None else option[1],
            "probability": round(self.probability, 2),
            "sure": self.is_sure,
        }


@dataclass(frozen=True)
class _Candidate:
    """A blur of one kind that explains the spectrum best among those of its kind.

    Args:
        blur: The blur.
        share: The share of its kind in the probability of the three, by the network.
        gain: By how much it lowers the loss of the fit beyond what a picture without it can have.
        is_explained: Whether it lowers the loss of the fit at all.
    """

    blur: Blur
    share: float
    gain: float
    is_explained: bool


def estimate_blur(
    image: Tensor, estimator: BlurEstimator, evidence: Tensor | None = None, prior: Prior | None = None
) -> Blur | None:
    """Estimate the blur of a picture, of any noise and compression.

    The sizes are rounded to hundredths of a pixel and the angle to whole degrees, so that the option that names the
    blur gives the same kernel.

    Args:
        image: float (C, H, W) in [0, 1], with C = 1 or 3.
        estimator: The network, which `restorer.models.load.load_blur_estimator` returns.
        evidence: bool (H, W), the pixels that count; None for all of them.
        prior: The embedded prior, with which kernels are tried if a blur is possible; None to go by the spectrum alone.

    Returns:
        The blur; None if the picture is sharp, if there is too little evidence that it is not, or if it is too small or
        too plain to judge.
    """
    described = describe_spectrum(image, evidence)
    if described is None:
        return None
    with torch.inference_mode():
        found = estimator(described.maps[None], described.profiles[None])
    kinds = dict(zip(KINDS, found.kinds[0].tolist(), strict=True))
    none, other = kinds.pop("none"), kinds.pop("other")
    known = 1 - none - other
    another = Blur("other", 0.0, probability=1 - none) if 1 - none >= LEAST_OTHER else None
    if other >= known:  # another blur has zeros, too, so that the fit says nothing against it
        return another
    if known < POSSIBLE:
        return None
    candidates = _candidates(described.energy, found, kinds)
    if prior is None:
        return _claim(candidates[0], known, is_tried=False)
    noise, is_refuted = _noise(image, evidence), False
    attempt = trial_of(prior, described.window, noise)
    for candidate in candidates:
        least_share = RUNNER_UP if is_refuted and candidate.is_explained else CLEAR
        blur = _claim(candidate, known, is_tried=True)
        if blur is not None and (candidate is candidates[0] or candidate.share >= least_share):
            misfit = attempt(blur.kernel()).misfit
            if misfit >= REFUTED and candidate.is_explained and (compression := _compression(image)) > 0:
                misfit = trial_of(prior, described.window, math.hypot(noise, compression))(blur.kernel()).misfit
            if misfit < CONFIRMED and candidate.is_explained:
                return replace(blur, probability=max(blur.probability, SURE))
            if misfit < REFUTED:
                return blur
            is_refuted = True
    return another if is_refuted else None


def _claim(candidate: _Candidate, known: float, *, is_tried: bool) -> Blur | None:
    """Return a blur with its probability; None if it is too unlikely or too small to be claimed.

    Args:
        candidate: The blur.
        known: The probability of a blur of the three kinds, by the network.
        is_tried: Whether a trial can still refute it.
    """
    kind = candidate.blur.kind
    if candidate.blur.width < LEAST_SIZE[kind]:
        return None
    if not candidate.is_explained:
        is_likely = known >= UNEXPLAINED and candidate.share >= CLEAR
        return replace(candidate.blur, probability=known) if is_tried and is_likely and kind != "gaussian" else None
    odds = known / max(1 - known, 1e-6) * math.exp(min(max(EVIDENCE * candidate.gain, 0.0), MOST_EVIDENCE))
    return replace(candidate.blur, probability=odds / (1 + odds)) if odds / (1 + odds) >= LEAST_PROBABILITY else None


def _compression(image: Tensor) -> float:
    """Return the error of an earlier JPEG compression that is allowed for, in levels; 0 if none is found."""
    jpeg = find_jpeg(image, None)
    return 0.0 if jpeg is None else COMPRESSION * jpeg.sigma


def _noise(image: Tensor, evidence: Tensor | None) -> float:
    """Return the standard deviation of white noise in the luminance of a picture (C, H, W), in levels."""
    return estimate_sigma(luminance(image)[None] / 255, evidence)


def _candidates(energy: Tensor, found: BlurEstimate, kinds: dict[str, float]) -> list[_Candidate]:
    """Return the blur of each of the three kinds that explains a spectrum best, the best of them first.

    Args:
        energy: As in `Described`.
        found: What the network says.
        kinds: Its probabilities of the three kinds.
    """
    fit = SpectrumFit(energy)
    sharp, total = fit.fit(torch.ones(1, 1)).loss, sum(kinds.values())
    losses: dict[str, float] = {}
    blurs: dict[str, Blur] = {}
    for kind in kinds:
        if kind == "gaussian" or kinds[kind] >= LEAST_SHARE * total:
            blurs[kind], losses[kind] = REFINE[kind](fit, found)

    def candidate(kind: str) -> _Candidate:
        # A disk and a line have zeros, which a Gaussian lacks. A Gaussian makes a picture softer than subjects are.
        gain = losses["gaussian"] - losses[kind] if kind != "gaussian" else sharp - losses[kind] - SOFT_SUBJECT
        return _Candidate(blurs[kind], kinds[kind] / total, gain, sharp - losses[kind] >= LEAST_GAIN)

    order = sorted(losses, key=lambda one: EVIDENCE_OF_KIND * losses[one] - math.log(kinds[one] + 1e-6))
    return [candidate(kind) for kind in order]


def _gaussian(fit: SpectrumFit, found: BlurEstimate) -> tuple[Blur, float]:
    """Return the Gaussian that explains the spectrum best, near that of the network, and its loss."""
    variance = (2 * found.widths[0]).double().exp()
    twice = 2 * math.pi / ANGLES * torch.arange(ANGLES, dtype=torch.float64)
    mean, cosine, sine = (float((variance * basis).mean()) for basis in (twice * 0 + 1, twice.cos(), twice.sin()))
    swing = min(2 * math.hypot(cosine, sine), 0.9 * mean)  # variance(angle) = mean + swing cos(2 (angle - axis))
    size, ratio = (mean**2 - swing**2) ** 0.25, ((mean + swing) / (mean - swing)) ** 0.25
    angle = math.degrees(math.atan2(sine, cosine)) / 2

    def make(size: float, ratio: float, angle: float) -> Tensor:
        return gaussian_kernel(size * ratio, size / ratio, angle)

    size, best = fit.best(lambda value: make(value, ratio, angle), _around(size, 0.08, 6))
    if ratio > 1.05:
        angle, best = fit.best(lambda value: make(size, ratio, value), [angle + 10 * i for i in range(-4, 5)])
    ratio, best = fit.best(lambda value: make(size, value, angle), [math.exp(0.05 * i) for i in range(10)])
    size, best = fit.best(lambda value: make(value, ratio, angle), _around(size, 0.025, 3))
    size *= NARROWER
    along, across = (round(min(value, MOST_GAUSSIAN), 2) for value in (size * ratio, size / ratio))
    if ratio**2 < ROUND:
        return Blur("gaussian", round(size, 2), round(size, 2), 0.0), best.loss
    return Blur("gaussian", along, max(across, THINNEST), round(angle) % 180), best.loss


def _defocus(fit: SpectrumFit, found: BlurEstimate) -> tuple[Blur, float]:
    """Return the disk that explains the spectrum best; see `_gaussian`."""
    radius, _ = fit.best(defocus_kernel, _around(math.exp(float(found.radius[0])), 0.05, 7))
    radius, best = fit.best(defocus_kernel, _around(radius, 0.0125, 3))
    return Blur("defocus", round(min(radius, MOST_DEFOCUS), 2)), best.loss


def _motion(fit: SpectrumFit, found: BlurEstimate) -> tuple[Blur, float]:
    """Return the line that explains the spectrum best; see `_gaussian`."""
    length, best = math.exp(float(found.length[0])), int(found.directions[0].argmax())
    offsets = torch.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    weights = found.directions[0][(best + offsets) % ANGLES]
    angle = 180 / ANGLES * (best + float((weights * offsets).sum() / weights.sum()))
    # The angle comes first: a line of the right length at a wrong angle is explained worse than one that is too short.
    for stretch, turn, count in ((0.08, 3.0, 6), (0.025, 1.0, 3)):
        angle, _ = fit.best(
            lambda value: motion_kernel(length, value),  # noqa: B023
            [angle + turn * i for i in range(-count, count + 1)],
        )
        length, line = fit.best(lambda value: motion_kernel(value, angle), _around(length, stretch, count))  # noqa: B023
    return Blur("motion", round(min(length, MOST_MOTION), 2), 0.0, round(angle) % 180), line.loss


def _around(value: float, step: float, count: int) -> list[float]:
    """Return values around one, a number of them on either side, each larger than the one before by a share."""
    return [value * math.exp(step * i) for i in range(-count, count + 1)]


REFINE: dict[str, Callable[[SpectrumFit, BlurEstimate], tuple[Blur, float]]] = {
    "gaussian": _gaussian,
    "defocus": _defocus,
    "motion": _motion,
}
