"""What the steps of `auto` look at, and what they say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.sizes import Enlargement
from restorer.measurement.blur import Blur
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.noise import Noise
from restorer.measurement.outliers import Outliers
from restorer.tasks.passes import Pass

__all__ = ["Finding", "Left", "Seen", "Step"]


@dataclass(frozen=True)
class Seen:
    """What the steps look at. The fields are the arguments of `prepare_auto`.

    Args:
        found: What the steps before have found and are sure of.
        noise: What was found out about the noise, sure or not; None if it was not looked for, or not yet.
    """

    image: Tensor
    prior: Prior
    scale: Enlargement | None
    without: frozenset[str]
    evidence: Tensor | None
    jpeg: Jpeg | None
    detail: float | None
    seed: int
    found: tuple[Finding, ...] = ()
    noise: Noise | None = None


@dataclass(frozen=True)
class Left:
    """What is left of the damage after a repair.

    Args:
        sigma: Standard deviation of the error, in levels.
        was_compressed: Whether the error is that of a compression.
        was_noisy: Whether it is that of noise.
    """

    sigma: float = 0.0
    was_compressed: bool = False
    was_noisy: bool = False


@dataclass(frozen=True)
class Finding:
    """What a step has found in a picture.

    Args:
        found: What it is, in words; empty if it was asked for.
        action: The command that does the repair alone.
        prepare: Returns the pass that does it. Its arguments are the detail, or None for the default, and what the
            passes before have left. None if the step is not sure, so that nothing is done.
        left: What is left afterwards.
        noise: What was found out about the noise; None if the step does not look for it.
        jpeg: What is known of the compression that is undone or hidden by noise; None as above.
        outliers: The outliers that are filled; None if there are none.
        blur: The blur that is undone, or of which the note tells; None if there is none.
        hides: The pixels that say nothing about what else was done to the picture, bool (H, W), because they are
            replaced; None if there are none.
        white: Standard deviation in levels of white noise, if that is all that was found; else 0.
        takes_noise: Whether the repair is better if white noise is left to it than if it is removed before.
        noise_detail: Detail in which noise is removed before the repair; None for the default of that.
        jpeg_detail: Detail in which a compression is undone before it.
        waits: Whether the repair is done after that of the noise and the compression, although it is looked for before.
            It changes a part of the picture only, so that the repair before it may draw texture in the rest.
        note: What the user should know; empty if there is nothing to say.
    """

    found: str = ""
    action: str = ""
    prepare: Callable[[float | None, Left], Pass] | None = None
    left: Left = Left()
    noise: Noise | None = None
    jpeg: Jpeg | None = None
    outliers: Outliers | None = None
    blur: Blur | None = None
    hides: Tensor | None = None
    white: float = 0.0
    takes_noise: bool = False
    noise_detail: float | None = 0.0
    jpeg_detail: float = 0.0
    waits: bool = False
    note: str = ""


@dataclass(frozen=True)
class Step:
    """One of the things that are looked for.

    Args:
        name: Its name in the JSON output and in the record of a result.
        find: Looks for it; returns None if it has nothing to say.
    """

    name: str
    find: Callable[[Seen], Finding | None]
