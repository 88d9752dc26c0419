"""The options of the restoring tasks that concern a picture: a dataclass for each verb.

To add an option, declare a field here and use it where the job is prepared. The command, `restore_folder`, the record
and the fingerprint have it then; the function in `restorer.api` names it in its signature, which a test compares with
the dataclass. This module does not import PyTorch.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from restorer.errors import UsageError
from restorer.images.sizes import Enlargement
from restorer.limits import (
    CANDIDATES,
    JPEGS,
    METHODS,
    NOISES,
    OUTLIERS,
    SCALES,
    STEPS_OF_AUTO,
    check,
    check_denoising,
)
from restorer.tasks.option import BLUR, REPAIRS, SAMPLING, Option, option, withheld

__all__ = [
    "AutoOptions",
    "DeblurOptions",
    "DejpegOptions",
    "DenoiseOptions",
    "InpaintOptions",
    "SamplingOptions",
    "UpscaleOptions",
]


def _read_sigma(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"sigma must be auto or a number from 0 to 255, not {text!r}") from None


# What several verbs declare alike.
SIGMA = Option(
    "Standard deviation of the noise in the input (0 to 255), or auto to estimate it",
    "S",
    SAMPLING,
    unset="auto",
    read=_read_sigma,
)
NOISE = Option(f"Noise to look for: {', '.join(NOISES)}", "KIND", SAMPLING)
STRENGTH = Option("Factor on the measured noise: 1.3 removes more, 0.7 less", "F", SAMPLING)
JPEG_FIRST = Option(f"Whether to undo JPEG compression first: {', '.join(JPEGS)}", "KIND", SAMPLING)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The options that the restoring tasks share.

    `sigma` is the noise of the input on the scale of 0..255; None to measure it. None for `steps` and `detail` stands
    for the default of the task.
    """

    sigma: float | None = withheld(None)
    steps: int | None = option(
        None,
        "Number of network evaluations: more are slower and, up to a point, better",
        "N",
        SAMPLING,
        short="-s",
        shown_default="depends on the task",
    )
    detail: float | None = option(
        None,
        "From 0 (most faithful, smooth) to 1 (natural texture, partly invented)",
        "A",
        SAMPLING,
        shown_default="depends on the task",
    )
    method: str = option("auto", f"Sampling method: {', '.join(METHODS)}", "NAME", SAMPLING)
    seed: int = option(0, "Seed of the random noise: the same seed gives the same noise", "N", SAMPLING)

    def check(self, *, started: bool = False) -> None:
        """Check the values.

        Args:
            started: Whether the reverse process starts from the result of another network.

        Raises:
            UsageError: A value is out of range, or two options cannot be combined.
        """
        check(
            sigma=self.sigma,
            steps=self.steps,
            detail=self.detail,
            method=self.method,
            seed=self.seed,
            started=started,
        )

    @property
    def sampling(self) -> dict[str, Any]:
        """The keyword arguments that the `prepare_...` functions of the tasks share, by name."""
        return {name: getattr(self, name) for name in ("sigma", "steps", "detail", "method", "seed")}


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions(SamplingOptions):
    """The options of `denoise`."""

    sigma: float | None = SIGMA.field(None)
    noise: str = NOISE.field("auto")
    strength: float = STRENGTH.field(1.0)
    outliers: str = option(
        "auto", f"Whether to fill hot pixels, dead pixels, and salt and pepper: {', '.join(OUTLIERS)}", "KIND", SAMPLING
    )
    jpeg: str = option(
        "auto",
        f"Whether to undo JPEG compression where there is no noise beyond it: {', '.join(JPEGS)}",
        "KIND",
        SAMPLING,
    )

    def check(self, *, started: bool = False) -> None:
        """Check the values; see `SamplingOptions.check`."""
        super().check(started=started)
        check_denoising(
            sigma=self.sigma,
            noise=self.noise,
            strength=self.strength,
            outliers=self.outliers,
            jpeg=self.jpeg,
            steps=None if started else self.steps,  # a start has detail in a single step too
            detail=self.detail,
        )


@dataclass(frozen=True, kw_only=True)
class DejpegOptions(SamplingOptions):
    """The options of `dejpeg`."""

    sigma: float | None = withheld(0.0)


@dataclass(frozen=True, kw_only=True)
class DeblurOptions(SamplingOptions):
    """The options of `deblur`. At most one of those that describe the blur is given."""

    gaussian: float | str | None = option(
        None,
        "Gaussian blur of this standard deviation in pixels, or SxT@A: S along the angle A, T across it",
        "S",
        BLUR,
        shown_default=False,
    )
    defocus: float | None = option(
        None, "Lens out of focus: a disk of this radius in pixels", "R", BLUR, shown_default=False
    )
    motion: str | None = option(
        None,
        "Camera that moved: a line of L pixels at A degrees, anticlockwise from the horizontal",
        "L@A",
        BLUR,
        shown_default=False,
    )
    kernel: Path | None = option(
        None,
        "Kernel of the blur: a small picture, bright where light went, or a .npy file",
        "FILE",
        BLUR,
        shown_default=False,
    )
    sigma: float | None = SIGMA.field(None)
    noise: str = NOISE.field("auto")
    strength: float = STRENGTH.field(1.0)
    jpeg: str = JPEG_FIRST.field("auto")

    def check(self, *, started: bool = False) -> None:
        """Check the values; see `SamplingOptions.check`."""
        super().check(started=started)
        check_denoising(sigma=self.sigma, noise=self.noise, strength=self.strength, jpeg=self.jpeg)


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(SamplingOptions):
    """The options of `inpaint`. None for `grow` leaves the margin to the kind of the mask."""

    mask: Path = option(
        MISSING,
        "Mask of the holes: white on black, strokes on transparency, or a copy of the picture with its holes "
        "erased; a folder of masks named like the pictures; alpha, the picture's own transparency; or scratches, "
        "the scratches, dust and hairs that are found in it",
        "FILE|FOLDER",
        shown_default=False,
    )
    invert_mask: bool = option(False, "Fill the other part of the mask")
    grow: int | None = option(
        None,
        "Pixels by which the holes are grown (default 1 for scratches and for soft edges in a JPEG, 0 otherwise)",
        "PX",
        shown_default=False,
    )
    candidates: int = option(
        CANDIDATES, "Number of fillings of wide holes, of which the one that fits best is kept", "N", SAMPLING
    )
    sigma: float | None = SIGMA.field(0.0)

    def check(self, *, started: bool = False) -> None:
        """Check the values; see `SamplingOptions.check`."""
        super().check(started=started)
        check(grow=self.grow, candidates=self.candidates)


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions(SamplingOptions):
    """The options of `upscale`. Without `scale`, `width` and `height`, the scale is 4 or that of the start."""

    scale: float | None = option(
        None,
        f"Factor to enlarge by, above 1 and at most {max(SCALES)}: {', '.join(map(str, SCALES))} are exact",
        "F",
        shown_default="4, or that of --start",
    )
    width: int | None = option(None, "Width of the results, instead of a factor", "PX", shown_default="by the scale")
    height: int | None = option(
        None, "Height of the results; with --width, both fit", "PX", shown_default="by the scale"
    )
    sigma: float | None = SIGMA.field(None)
    jpeg: str = JPEG_FIRST.field("auto")

    def check(self, *, started: bool = False) -> None:
        """Check the values; see `SamplingOptions.check`."""
        super().check(started=started)
        check_denoising(jpeg=self.jpeg)
        Enlargement.of(self.scale, self.width, self.height)

    @property
    def has_size(self) -> bool:
        """Whether the size is given, so that it does not follow from a start."""
        return (self.scale, self.width, self.height) != (None, None, None)

    @property
    def size(self) -> Enlargement:
        """The size of the result; a UsageError if a value is out of range."""
        return Enlargement.of(self.scale, self.width, self.height)


@dataclass(frozen=True, kw_only=True)
class AutoOptions(SamplingOptions):
    """The options of `auto`. None for `scale` keeps the size."""

    steps: int | None = withheld(None)
    method: str = withheld("auto")
    scale: float | None = option(
        None, f"Enlarge by this factor, too, above 1 and at most {max(SCALES)}", "F", REPAIRS, shown_default=False
    )
    no_scratches: bool = option(False, "Leave scratches, dust, hairs and creases", panel=REPAIRS)
    no_outliers: bool = option(False, "Leave hot pixels, and salt and pepper", panel=REPAIRS)
    no_noise: bool = option(False, "Leave noise", panel=REPAIRS)
    no_jpeg: bool = option(False, "Leave what JPEG compression did", panel=REPAIRS)
    no_blur: bool = option(False, "Leave blur, also while enlarging", panel=REPAIRS)

    def check(self, *, started: bool = False) -> None:
        """Check the values; see `SamplingOptions.check`."""
        super().check(started=started)
        if self.scale is not None:
            Enlargement.of(self.scale)

    @property
    def size(self) -> Enlargement | None:
        """The size of the result, None if it is that of the picture; a UsageError if the scale is out of range."""
        return None if self.scale is None else Enlargement.of(self.scale)

    @property
    def without(self) -> list[str]:
        """What is not repaired even if it is found, of STEPS_OF_AUTO."""
        return [step for step in STEPS_OF_AUTO if getattr(self, f"no_{step}")]
