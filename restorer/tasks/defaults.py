"""The constants of the restoring tasks, and why they have their values."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "CAMERA",
    "DEBLUR",
    "DECOMPRESS",
    "DEFAULT_STEPS",
    "DENOISE",
    "EXPERT",
    "INPAINT",
    "INPAINT_PATCHED",
    "INPAINT_WIDE",
    "JPEG",
    "LATENT_STEPS",
    "NOISY_JPEG",
    "OUTLIERS",
    "PATCHED_SIDE",
    "UPSCALE",
    "WIDE_SIDE",
    "Defaults",
]


@dataclass(frozen=True)
class Defaults:
    """The default settings of a task. tests/bench/figures.py measures them.

    Args:
        steps: Number of network evaluations.
        detail: Value of the option `detail`, 0 (faithful and smooth) .. 1 (natural texture).
        zeta: Share of fresh noise; see `Plan`.
        start: Highest noise level, on the [-1, 1] scale. Denoising starts at the level of the picture's noise instead.
        prior_variance: As in `Plan`.
        extrapolation: As in `Plan`.
        inflation: Relative excess of the carried noise over the level that the network is given. It compensates for a
            network that mistakes texture for noise (S_noise in Karras et al. 2022, https://arxiv.org/abs/2206.00364,
            section 4).
    """

    steps: int
    detail: float
    zeta: float
    start: float = math.nan
    prior_variance: float = 1.0
    extrapolation: float = 0.0
    inflation: float = 0.0


DENOISE = Defaults(steps=4, detail=0.8, zeta=0.0, extrapolation=1.0)


@dataclass(frozen=True)
class CameraDefaults:
    """The default settings for noise that is not white. All levels are multiples of its standard deviation.

    Args:
        steps: Number of network evaluations.
        detail: Value of the option `detail` for noise of up to `weak` levels.
        detail_of_strong: Its value for noise of `strong` levels and more, in which low last levels cost nothing.
        weak: Standard deviation in levels from which the detail rises, with the logarithm of the noise.
        strong: Standard deviation in levels up to which it rises.
        first: Level of the first evaluation.
        faithful: Level of the last one at `detail` 0.
        natural: Level of the last one at `detail` 1.
        single: Level of the only evaluation if there is one.
        trust: Ratio of r^2 to sigma^2: how far the prediction of a level is taken to be from the truth.
    """

    steps: int
    detail: float
    detail_of_strong: float
    weak: float
    strong: float
    first: float
    faithful: float
    natural: float
    single: float
    trust: float

    def detail_at(self, sigma: float) -> float:
        """Return the default of `detail` for noise of a standard deviation in levels, to two decimals."""
        share = math.log(max(sigma, self.weak) / self.weak) / math.log(self.strong / self.weak)
        return round(self.detail + min(share, 1.0) * (self.detail_of_strong - self.detail), 2)

    def last(self, detail: float) -> float:
        """Return the level of the last evaluation at a detail, 0..1."""
        return self.faithful * (self.natural / self.faithful) ** detail


@dataclass(frozen=True)
class TexturedDefaults(CameraDefaults):
    """The same for a process whose low levels have the noise of the data (`restorer.diffusion.data_noise`).

    Its last level is the same at every detail. The published methods have the levels of `CameraDefaults`.

    Args:
        lowest: Level of the last evaluation.
        below: Level up to which a state has the noise of the data; predictions before it are corrected towards them.
        carried: Share of that noise that is carried at `detail` 0.
        smooth: By how much the share rises up to `detail` 1 where the picture is smooth.
        textured: By how much it rises where the picture is full of texture.
        faithful_share: The least share where the picture is full of texture, if the noise is strong. Strong noise takes
            so much texture out of the first predictions that even the result of the best PSNR needs it back.
        rise: Standard deviations of the noise in levels, between which the least share rises from `carried`.
    """

    lowest: float = 0.5
    below: float = 1.3
    carried: float = 0.6
    smooth: float = 0.1
    textured: float = 0.85
    faithful_share: float = 1.0
    rise: tuple[float, float] = (5.0, 9.0)

    def shares(self, detail: float, sigma: float) -> tuple[float, float]:
        """Return the shares of the noise that are carried in smooth and in textured places.

        Args:
            detail: The detail, 0..1.
            sigma: Standard deviation of the noise in levels.
        """
        weak, strong = self.rise
        risen = min(math.log(max(sigma, weak) / weak) / math.log(strong / weak), 1.0)
        least = self.carried + risen * (self.faithful_share - self.carried)
        return self.carried + self.smooth * detail, max(self.carried + self.textured * detail, least)


# More noise keeps more texture, which the eye misses where there is some, and more grain, which it sees where there is
# none.
CAMERA = TexturedDefaults(
    steps=4,
    detail=0.2,
    detail_of_strong=0.7,
    weak=8.0,
    strong=12.0,
    first=4.0,
    faithful=1.3,
    natural=0.7,
    single=2.6,
    trust=1.96,
)


@dataclass(frozen=True)
class JpegDefaults:
    """The default settings for JPEG files. All levels are multiples of the expected error of the compression.

    Args:
        steps: Number of network evaluations.
        detail: Value of the option `detail`.
        first: Level of the first evaluation.
        last: Level of the last one.
        single: Level of the only evaluation if there is one.
        shares: How far the prediction of a level is taken to be from the truth in the luminance and in the chroma, as
            multiples of its variance.
        most_doubt: By how much this is raised at most where the file contradicts the prediction.
    """

    steps: int
    detail: float
    first: float
    last: float
    single: float
    shares: tuple[float, float]
    most_doubt: float


JPEG = JpegDefaults(steps=6, detail=0.0, first=3.5, last=0.6, single=1.4, shares=(0.9, 0.3), most_doubt=8.0)


@dataclass(frozen=True)
class DecompressDefaults:
    """The default settings for JPEG files whose first answer a network of its own gives.

    All levels are multiples of the expected error of the compression.

    Args:
        steps: Number of evaluations, the first of which is that of the network.
        first: Level of the first evaluation after it.
        last: Level of the last one.
        trust: Standard deviation of the error of an answer, as a share of that of the compression.
        shares: As in `JpegDefaults`.
        most_doubt: As in `JpegDefaults`.
    """

    steps: int
    first: float
    last: float
    trust: float
    shares: tuple[float, float]
    most_doubt: float


DECOMPRESS = DecompressDefaults(steps=3, first=0.8, last=0.4, trust=0.8, shares=(0.9, 0.3), most_doubt=1.0)


@dataclass(frozen=True)
class NoisyJpegDefaults(CameraDefaults):
    """The default settings for noise that was compressed. All levels are multiples of the expected error of both.

    Args:
        shares: As in `JpegDefaults`, for noise that is not white. The colour of a prediction is trusted more than that
            of a compression without noise, because the noise of cameras is strongest at the lowest frequencies of
            colour.
        most_doubt: As in `JpegDefaults`.
        plain: The `busyness` of a picture, as in `NoiseBefore`, from which the last level falls, with its cube root.
        least: The least factor on the last level, for noise that is not white and for noise that is.
        fine: Quality of a JPEG file from which it tells white noise from other noise and from texture.
    """

    shares: tuple[float, float] = (0.9, 0.2)
    most_doubt: float = 1.0
    plain: float = 2.0
    least: tuple[float, float] = (0.52, 0.9)
    fine: float = 85.0

    def texture_factor(self, busyness: float, *, is_white: bool) -> float:
        """Return the factor on the last level, which takes texture away, for the `busyness` of a picture."""
        return min(max((self.plain / max(busyness, self.plain)) ** (1 / 3), self.least[is_white]), 1.0)


# The data are trusted as the shares say, so that the trust of camera noise has no part in it.
NOISY_JPEG = NoisyJpegDefaults(
    steps=4,
    detail=0.1,
    detail_of_strong=0.3,
    weak=8.0,
    strong=16.0,
    first=3.0,
    faithful=1.2,
    natural=0.84,
    single=2.0,
    trust=1.0,
    most_doubt=2.0,
)


@dataclass(frozen=True)
class DeblurDefaults:
    """The default settings of deblurring.

    Args:
        steps: Number of network evaluations.
        detail: Value of the option `detail`.
        first: Level of the first evaluation, on the 0..255 scale. The last one is at the level of the noise.
        trusts: The least and the largest ratio of r^2 to sigma^2 at the level at which a corrected picture is denoised.
        passed: Share of the variance of a level that white noise of the data may have in a corrected picture that is
            denoised at this level, on the mean over the levels. The ratio follows from it and from the kernel.
        caution: Factor on the noise that was measured. Noise that is taken for weaker than it is is amplified.
        least: Least noise that is assumed, on the 0..255 scale, because a kernel is never quite right.
        most_carried: Share of the noise that is carried from step to step at `detail` 1. More of it costs PSNR at once.
    """

    steps: int
    detail: float
    first: float
    trusts: tuple[float, float]
    passed: float
    caution: float
    least: float
    most_carried: float


# The least trust is that of DPIR, 1 / 0.23, which suits disks and lines. A Gaussian amplifies less, and bears more.
DEBLUR = DeblurDefaults(
    steps=8, detail=0.4, first=49.0, trusts=(4.37, 8.0), passed=0.28, caution=1.05, least=0.7, most_carried=0.7
)

# Narrow holes are almost determined by their rims: a low starting level and little noise, drawn anew at every step, are
# best. The inside of a wide hole must be invented: the deterministic process from a high level keeps texture there. If
# it starts from patches of the picture, a low level merges them, and a higher one engraves lines on smooth places.
INPAINT = Defaults(steps=20, detail=0.4, zeta=1.0, start=0.4, extrapolation=0.5)
INPAINT_WIDE = Defaults(steps=20, detail=1.0, zeta=0.0, start=3.0, extrapolation=1.0, inflation=0.02)
INPAINT_PATCHED = Defaults(steps=6, detail=1.0, zeta=0.0, start=0.3, extrapolation=1.0)

# Single values that are missing are all but determined by those around them: more evaluations gain .04 dB.
OUTLIERS = Defaults(steps=2, detail=0.4, zeta=1.0, start=0.2)

WIDE_SIDE = 25
"""Side in pixels of the smallest square that makes a hole wide if it fits into the hole."""

PATCHED_SIDE = 8
"""The same for holes that are filled with patches. The strokes of text and most scratches are narrower."""

# The more is missing, the more the second order gains. At a scale of 2 it costs PSNR.
UPSCALE = {
    2: Defaults(steps=15, detail=0.5, zeta=1.0, start=0.4),
    3: Defaults(steps=10, detail=0.5, zeta=1.0, start=0.4, extrapolation=1.0),
    4: Defaults(steps=12, detail=0.5, zeta=1.0, start=0.4, extrapolation=1.0),
    8: Defaults(steps=10, detail=0.5, zeta=1.0, start=0.8, extrapolation=1.0),
}


@dataclass(frozen=True)
class ExpertDefaults:
    """The default settings of an enlargement whose first answer a network of its own gives.

    Args:
        detail: Value of the option `detail`.
        steps: Number of network evaluations for a detail above 1/2.
        calming: Level of the first evaluation after the first answer, if `steps` asks for more than one.
        largest_factor: The largest factor that the first network was trained for.
        lowest: Level of the last evaluation of the reverse process, on the [-1, 1] scale.
        highest: Level of its first evaluation at `detail` 1.
        inflation: As in `Defaults`.
        variance: Variance of the error of the first answer, shrunk, for pictures that are damaged.
    """

    detail: float
    steps: int
    calming: float
    largest_factor: int
    lowest: float
    highest: float
    inflation: float
    variance: float


# A prior that is told the level that it gets smooths the texture of the first answer. An inflation of a tenth makes it
# add texture instead, the more the higher the first level.
EXPERT = ExpertDefaults(
    detail=0.5, steps=5, calming=0.06, largest_factor=4, lowest=0.03, highest=0.3, inflation=0.09, variance=0.001
)

LATENT_STEPS = 100
"""Number of steps of latent super-resolution, as published."""

DEFAULT_STEPS = {
    "deblur": DEBLUR.steps,
    "dejpeg": DECOMPRESS.steps,
    "denoise": DENOISE.steps,
    "inpaint": INPAINT.steps,
    "upscale": UPSCALE[4].steps,
}
"""Number of network evaluations of each verb by default; `dejpeg` takes `JPEG.steps` with other models."""
