"""The options that describe a blur: a Gaussian, a defocus, a motion, or a kernel of one's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.errors import PictureError, UsageError
from restorer.limits import real_number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BlurOptions"]

MAX_GAUSSIAN, MAX_DEFOCUS, MAX_MOTION = 20.0, 60.0, 200.0  # pixels

GAUSSIAN_HINT = "1.6 is a standard deviation, and 2.5x1.2@30 one along and one across an angle in degrees"
MOTION_HINT = "13@30 is a line of 13 pixels at 30 degrees"


@dataclass(frozen=True)
class BlurOptions:
    """A blur as the command line describes it, checked. At most one field is set.

    Args:
        gaussian: The standard deviations along and across an angle in degrees; the second is None for a round one.
        defocus: The radius.
        motion: The length and the angle in degrees, with the text that gave them.
        kernel: The file of the kernel.
    """

    gaussian: tuple[float, float | None, float] | None = None
    defocus: float | None = None
    motion: tuple[float, float, str] | None = None
    kernel: Path | None = None

    @classmethod
    def of(
        cls, gaussian: float | str | None, defocus: float | None, motion: str | None, kernel: Path | None
    ) -> BlurOptions | None:
        """Return what the options describe; None if none of them is given.

        Raises:
            UsageError: Several are given, or a value is out of range.
            PictureError: The file of the kernel does not exist.
        """
        given = [value for value in (gaussian, defocus, motion, kernel) if value is not None]
        if not given:
            return None
        if len(given) > 1:
            message = "only one blur can be undone at a time"
            raise UsageError(message, "use one of --gaussian, --defocus, --motion and --kernel")
        if gaussian is not None:
            return cls(gaussian=_parse_gaussian(gaussian))
        if defocus is not None:
            _check("defocus", defocus, MAX_DEFOCUS)
            return cls(defocus=defocus)
        if motion is not None:
            return cls(motion=(*_parse_motion(motion), motion))
        if kernel is not None and not kernel.is_file():
            raise PictureError(f"the kernel {kernel} does not exist", "check the path")
        return cls(kernel=kernel)

    def recorded(self) -> dict[str, float | str | None]:
        """Return the options as a record holds them; those that are not used are None."""
        gaussian: float | str | None = None
        if self.gaussian is not None:
            along, across, angle = self.gaussian
            gaussian = along if across is None else f"{along:g}x{across:g}@{angle:g}"
        return {
            "gaussian": gaussian,
            "defocus": self.defocus,
            "motion": None if self.motion is None else self.motion[2],
            "kernel": None if self.kernel is None else str(self.kernel),
        }

    def make(self) -> Tensor:
        """Return the kernel.

        Raises:
            PictureError: The file of the kernel cannot be read.
            UsageError: It holds no kernel.
        """
        from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
        from restorer.images.kernel_files import load_kernel

        if self.kernel is not None:
            return load_kernel(self.kernel)
        if self.gaussian is not None:
            return gaussian_kernel(*self.gaussian)
        if self.motion is not None:
            return motion_kernel(*self.motion[:2])
        return defocus_kernel(self.defocus or 0.0)

    def __str__(self) -> str:
        """Return the blur in a few words, such as "defocus 3"."""
        name, value = next((name, value) for name, value in self.recorded().items() if value is not None)
        return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _check(name: str, value: float, most: float) -> None:
    """Raise a UsageError if a size in pixels is out of range."""
    if not 0 < value <= most:
        raise UsageError(f"{name} must be above 0 and at most {most:g} pixels, not {value:g}")


def _parse_gaussian(given: float | str) -> tuple[float, float | None, float]:
    """Return the two standard deviations and the angle that a number, or a text such as "2.5x1.2@30", gives."""
    if not isinstance(given, str):
        sizes, angle = [real_number("gaussian", given)], 0.0
    else:
        size, _, at = given.partition("@")
        try:
            sizes, angle = [float(part) for part in size.split("x")], float(at) if at else 0.0
        except ValueError as error:
            raise UsageError(f"gaussian must be a number, or two and an angle, not {given!r}", GAUSSIAN_HINT) from error
        if len(sizes) > 2 or (len(sizes) == 2) != bool(at) or not math.isfinite(angle):
            raise UsageError(f"gaussian must be a number, or two and an angle, not {given!r}", GAUSSIAN_HINT)
    for one in sizes:
        _check("gaussian", one, MAX_GAUSSIAN)
    return sizes[0], sizes[1] if len(sizes) == 2 else None, angle


def _parse_motion(text: str) -> tuple[float, float]:
    """Return the length and the angle that a text such as "13@30" gives."""
    try:
        length, angle = (float(part) for part in text.split("@"))
    except ValueError as error:
        raise UsageError(f"a motion is a length and an angle with @ between them, not {text!r}", MOTION_HINT) from error
    if not (0 < length <= MAX_MOTION and math.isfinite(angle)):
        raise UsageError(f"the length of a motion must be above 0 and at most {MAX_MOTION:g} pixels, not {length:g}")
    return length, angle
