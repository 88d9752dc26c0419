"""The values that options may take, and functions that check them.

This module does not import PyTorch, so that a command line is checked before anything heavy is loaded.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from restorer.errors import ModelError, UsageError

__all__ = [
    "FORMATS",
    "FORMAT_OF_SUFFIX",
    "JPEGS",
    "MAX_PIXELS",
    "METHODS",
    "NOISES",
    "OUTLIERS",
    "OWN_SCRATCHES",
    "OWN_TRANSPARENCY",
    "SAMPLERS",
    "SAMPLING_STEPS",
    "SCALES",
    "STEPS_OF_AUTO",
    "VARIANCES",
    "check",
    "check_denoising",
    "check_generation",
    "check_task",
    "real_number",
    "whole_number",
]

METHODS = ("auto", "ddpm", "ddim", "repaint", "ddnm", "diffpir", "langevin")
SAMPLERS = ("ddpm", "ddim", "langevin")  # the methods that can generate images without any data
NOISES = ("auto", "white", "camera", "off")  # which noise may be found in a picture
JPEGS = ("auto", "off")  # whether JPEG compression may be found in a picture
OWN_TRANSPARENCY, OWN_SCRATCHES = "alpha", "scratches"  # masks that stand for something in the picture itself
OUTLIERS = ("auto", "off")  # whether outliers may be found in a picture
STEPS_OF_AUTO = ("scratches", "outliers", "noise", "jpeg", "blur")  # what `auto` may be told to leave
VARIANCES = ("small", "large", "learned")
SCALES = (2, 3, 4, 8)
MAX_PIXELS = 178_956_970  # default limit of an input image; Pillow refuses larger images by default
SAMPLING_STEPS = 100  # default of `generate`; ddpm then has more contrast and less grain than ddim with any number
MAX_STEPS = 10_000
MAX_IMAGES = 10_000
MAX_STRENGTH = 10.0  # largest factor on measured noise
FORMATS = {  # of results, by the names of the option --format, and their suffixes
    "png": ".png",
    "jpeg": ".jpg",
    "jpg": ".jpg",
    "webp": ".webp",
    "tiff": ".tif",
    "tif": ".tif",
    "avif": ".avif",
    "heic": ".heic",
    "heif": ".heic",
    "jxl": ".jxl",
    "bmp": ".bmp",
}
FORMAT_OF_SUFFIX = {
    **{suffix: suffix for suffix in FORMATS.values()},
    **dict.fromkeys((".jpeg", ".jpe", ".jfif"), ".jpg"),
    ".tiff": ".tif",
    **dict.fromkeys((".heif", ".hif"), ".heic"),
}
CANDIDATES = 4  # fillings of wide holes, of which the one that fits best is kept
MAX_CANDIDATES = 64  # largest number of fillings of a hole
MAX_GROWTH = 1000  # largest number of pixels by which a mask is grown
MAX_SIDE = 8192  # in pixels, of a generated image


def check(
    *,
    sigma: float | None = None,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    scale: int = 4,
    grow: int | None = None,
    candidates: int | None = None,
    started: bool = False,
) -> None:
    """Check that the options of a restoration are in range.

    Args:
        sigma: Standard deviation of the noise on the 0..255 scale; None stands for the default.
        steps: Number of network evaluations, 1 .. MAX_STEPS; None stands for the default.
        detail: 0 (faithful and smooth) .. 1 (natural); None stands for the default.
        method: One of METHODS.
        seed: Seed of the noise field, 0 .. 2^63 - 1.
        scale: One of SCALES.
        grow: Pixels by which a mask is grown, 0 .. MAX_GROWTH; None stands for the default.
        candidates: Number of fillings of a wide hole, 1 .. MAX_CANDIDATES; None stands for the default.
        started: Whether there is another network to start from, which may do without any steps.

    Raises:
        UsageError: A value is out of range. The message names the option and its range.
    """
    if sigma is not None and not 0 <= sigma <= 255:
        raise UsageError(
            f"sigma must lie between 0 and 255, not {sigma:g}", "sigma is the standard deviation of the noise"
        )
    least = 0 if started else 1
    if steps is not None and not least <= steps <= MAX_STEPS:
        hint = "0 steps need a network that does the work: --start" if steps == 0 else ""
        raise UsageError(f"steps must lie between {least} and {MAX_STEPS}, not {steps}", hint)
    if detail is not None and not 0 <= detail <= 1:
        raise UsageError(
            f"detail must lie between 0 and 1, not {detail:g}", "0 is faithful and smooth, 1 is natural texture"
        )
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", f"use one of {', '.join(METHODS)}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"the seed must be a whole number between 0 and 2^63 - 1, not {seed}")
    if scale not in SCALES:
        raise UsageError(f"the scale must be one of {', '.join(map(str, SCALES))}, not {scale}")
    if grow is not None and not 0 <= grow <= MAX_GROWTH:
        raise UsageError(f"grow must lie between 0 and {MAX_GROWTH} pixels, not {grow}")
    if candidates is not None and not 1 <= candidates <= MAX_CANDIDATES:
        raise UsageError(f"candidates must lie between 1 and {MAX_CANDIDATES}, not {candidates}")


def check_denoising(
    *,
    sigma: float | None = None,
    noise: str = "auto",
    strength: float = 1.0,
    jpeg: str = "auto",
    outliers: str = "auto",
    steps: int | None = None,
    detail: float | None = None,
) -> None:
    """Check the options that only denoising has, and those that it does not combine.

    Args:
        sigma: As in `check`; None if the noise is measured.
        noise: One of NOISES.
        strength: Factor on the measured noise, above 0 and at most MAX_STRENGTH.
        jpeg: One of JPEGS.
        outliers: One of OUTLIERS.
        steps: As in `check`.
        detail: As in `check`.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    if not isinstance(noise, str) or noise not in NOISES:
        raise UsageError(f"unknown noise {noise!r}", f"use one of {', '.join(NOISES)}")
    if not isinstance(jpeg, str) or jpeg not in JPEGS:
        raise UsageError(f"jpeg must be {' or '.join(JPEGS)}, not {jpeg!r}")
    if not isinstance(outliers, str) or outliers not in OUTLIERS:
        raise UsageError(f"outliers must be {' or '.join(OUTLIERS)}, not {outliers!r}")
    if not 0 < strength <= MAX_STRENGTH:
        raise UsageError(
            f"strength must be above 0 and at most {MAX_STRENGTH:g}, not {strength:g}",
            "1.3 removes more noise than was measured, 0.7 less; --noise off removes none",
        )
    if sigma is not None and (noise != "auto" or strength != 1):
        raise UsageError("a given sigma leaves nothing to measure", "leave out --sigma, or --noise and --strength")
    if steps == 1 and detail:
        raise UsageError(
            "one step returns the posterior mean, which has no detail", "use --steps 2 or more, or --detail 0"
        )


def check_generation(
    *,
    count: int = 1,
    width: int = 1,
    height: int = 1,
    steps: int = SAMPLING_STEPS,
    method: str = "ddpm",
    variance: str | None = None,
    seed: int = 0,
    batch: int | None = None,
) -> None:
    """Check that the options of `generate` are in range.

    Args:
        count: Number of images, 1 .. MAX_IMAGES.
        width: Width of an image in pixels, 1 .. MAX_SIDE.
        height: Height of an image in pixels, 1 .. MAX_SIDE.
        steps: Number of network evaluations, 1 .. MAX_STEPS.
        method: One of SAMPLERS.
        variance: One of VARIANCES, for the method "ddpm" only; None stands for the default.
        seed: Seed of the noise field, 0 .. 2^63 - 1.
        batch: Number of images in a batch, at least 1; None stands for the default.

    Raises:
        UsageError: A value is out of range. The message names the option and its range.
    """
    if not 1 <= count <= MAX_IMAGES:
        raise UsageError(f"the number of images must lie between 1 and {MAX_IMAGES}, not {count}")
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise UsageError(f"width and height must lie between 1 and {MAX_SIDE} pixels, not {width}x{height}")
    if method not in SAMPLERS:
        raise UsageError(f"unknown method {method!r}", f"use one of {', '.join(SAMPLERS)}")
    if variance is not None and variance not in VARIANCES:
        raise UsageError(f"unknown variance {variance!r}", f"use one of {', '.join(VARIANCES)}")
    if variance is not None and method != "ddpm":
        raise UsageError(f"the method {method} has no variance option", "use --variance with --method ddpm only")
    if batch is not None and batch < 1:
        raise UsageError(f"a batch must hold at least one image, not {batch}")
    check(steps=steps, seed=seed)


def check_task(task: str, serves: str | None, model: str = "the model") -> None:
    """Check that a model can serve a task.

    A model of pixels serves every task. A model that works on latents serves only the task that it was made for.

    Args:
        task: The task, named by its command.
        serves: The only command that the model serves; None for a model of pixels.
        model: The name of the model.

    Raises:
        ModelError: The model cannot serve the task. The message says why, and the hint names the task that it serves.
    """
    if serves is None or serves == task:
        return
    reason = "works on latents, where white noise on pixels is not white"
    if task == "generate":
        reason = "enlarges images and generates none from noise alone"
    raise ModelError(f"{model} {reason}: {task} cannot use it", f"use it with restore {serves}")


def whole_number(name: str, value: Any) -> int:
    """Return a value that a Python program passed for a whole number, such as 3, 3.0 or a scalar of NumPy.

    Args:
        name: The name of the parameter.
        value: The value.

    Raises:
        UsageError: The value is not a whole number.
    """
    number = real_number(name, value)
    if not number.is_integer():
        raise UsageError(f"{name} must be a whole number, not {value!r}")
    try:
        return operator.index(value)  # a float does not hold every integer
    except TypeError:
        return int(number)


def real_number(name: str, value: Any) -> float:
    """Return a value that a Python program passed for a number.

    Args:
        name: The name of the parameter.
        value: The value: a Python number, or a scalar of NumPy or PyTorch, but no truth value and no text.

    Raises:
        UsageError: The value is not a number, or it is nan or infinite.
    """
    kind = type(value)
    is_truth = kind is bool or "bool" in str(getattr(value, "dtype", ""))
    try:
        is_scalar = not is_truth and not isinstance(value, (str, bytes, bytearray)) and getattr(value, "ndim", 0) == 0
        number = float(value) if is_scalar else math.nan
    except (TypeError, ValueError, OverflowError, RuntimeError):
        is_scalar, number = False, math.nan
    if not is_scalar:
        raise UsageError(f"{name} must be a number, not {_shown(value)}")
    if not math.isfinite(number):
        raise UsageError(f"{name} must be a finite number, not {number:g}")
    return number


def _shown(value: Any) -> str:
    """Return a value for a message: itself if it is short, else its type."""
    text = repr(value)
    return text if len(text) <= 40 and text.isprintable() else f"a value of the type {type(value).__name__}"
