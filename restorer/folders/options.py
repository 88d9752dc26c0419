"""The options that the three restoring verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restorer.limits import MAX_PIXELS

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """What the three verbs have in common."""

    command: str
    inputs: list[str]
    output: str | None
    overwrite: bool
    skip_existing: bool
    recursive: bool
    steps: int | None
    detail: float | None
    method: str
    seed: int
    sigma: float | None
    model: str
    device: str
    precision: str
    tile: int | str
    json: bool
    quiet: bool
    verbose: bool
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    fail_fast: bool = False
    max_pixels: int = MAX_PIXELS
    resume: bool = False
    manifest: Path | None = None
    dry_run: bool = False
    show: bool = False

    @property
    def sampling(self) -> dict[str, Any]:
        """The arguments that every `prepare_...` of `restorer.tasks.common` takes."""
        return {
            "sigma": self.sigma,
            "steps": self.steps,
            "detail": self.detail,
            "method": self.method,
            "seed": self.seed,
        }
