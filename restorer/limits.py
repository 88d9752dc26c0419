"""What the options may be. Free of PyTorch, so that a command line is checked before anything heavy is loaded."""

from __future__ import annotations

from restorer.errors import UsageError

__all__ = ["METHODS", "SCALES", "check"]

METHODS = ("auto", "ddpm", "ddim", "repaint", "ddnm", "diffpir")
SCALES = (2, 3, 4, 8)
MOST_STEPS = 10_000


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
