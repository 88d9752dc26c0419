"""What the options may be. Free of PyTorch, so that a command line is checked before anything heavy is loaded."""

from __future__ import annotations

from restorer.errors import ModelError, UsageError

__all__ = [
    "MAX_PIXELS",
    "METHODS",
    "SAMPLERS",
    "SAMPLING_STEPS",
    "SCALES",
    "VARIANCES",
    "check",
    "check_generation",
    "check_task",
]

METHODS = ("auto", "ddpm", "ddim", "repaint", "ddnm", "diffpir", "langevin")
SAMPLERS = ("ddpm", "ddim", "langevin")  # those that need nothing measured
VARIANCES = ("small", "large", "learned")
SCALES = (2, 3, 4, 8)
MAX_PIXELS = 178_956_970  # of a picture that is read, unless told otherwise: what Pillow refuses by default
SAMPLING_STEPS = 100  # of `generate`: with ddpm, more contrast and less grain than ddim has at any number
MOST_STEPS = 10_000
MOST_PICTURES = 10_000
MOST_PIXELS = 8192  # a side of a generated picture


def check(
    *,
    sigma: float | None = None,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    scale: int = 4,
) -> None:
    """Refuse a value out of range; None stands for a default.

    Raises:
        UsageError: naming the option and its range.
    """
    if sigma is not None and not 0 <= sigma <= 255:
        raise UsageError(
            f"sigma must lie between 0 and 255, not {sigma:g}", "it is the standard deviation of the noise"
        )
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise UsageError(f"steps must lie between 1 and {MOST_STEPS}, not {steps}")
    if detail is not None and not 0 <= detail <= 1:
        raise UsageError(f"detail must lie between 0 and 1, not {detail:g}", "0 is faithful and smooth, 1 natural")
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", f"one of {', '.join(METHODS)}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"the seed must be a whole number from 0 up, not {seed}")
    if scale not in SCALES:
        raise UsageError(f"the scale must be one of {', '.join(map(str, SCALES))}, not {scale}")


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
    """Refuse a value out of range for sampling without a measurement; None stands for a default.

    Raises:
        UsageError: naming the option and its range.
    """
    if not 1 <= count <= MOST_PICTURES:
        raise UsageError(f"the number of pictures must lie between 1 and {MOST_PICTURES}, not {count}")
    if not (1 <= width <= MOST_PIXELS and 1 <= height <= MOST_PIXELS):
        raise UsageError(f"the size must lie between 1 and {MOST_PIXELS} pixels a side, not {width}x{height}")
    if method not in SAMPLERS:
        raise UsageError(f"unknown method {method!r}", f"one of {', '.join(SAMPLERS)}")
    if variance is not None and variance not in VARIANCES:
        raise UsageError(f"unknown variance {variance!r}", f"one of {', '.join(VARIANCES)}")
    if variance is not None and method != "ddpm":
        raise UsageError(f"{method} has no variance to choose", "--variance belongs to --method ddpm")
    if batch is not None and batch < 1:
        raise UsageError(f"a batch holds at least one picture, not {batch}")
    check(steps=steps, seed=seed)


def check_task(task: str, serves: str | None, model: str = "the model") -> None:
    """Refuse a model that works on latents where it cannot serve.

    Args:
        task: what is to be done with it.
        serves: the one verb that it is for; None for a model of pictures, which serves all.
        model: its name.

    Raises:
        ModelError: saying why, and what it is for.
    """
    if serves is None or serves == task:
        return
    reason = "works on latents, where white noise on pixels is not white"
    if task == "generate":
        reason = "makes a picture larger, and none from noise alone"
    raise ModelError(f"{model} {reason}: {task} cannot use it", f"it is for restore {serves}")
