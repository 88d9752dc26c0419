"""The options of each restoring verb in a run over files: those of its task and those of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from restorer.folders.options import Options
from restorer.tasks.option import option, withheld
from restorer.tasks.options import (
    AutoOptions,
    DeblurOptions,
    DejpegOptions,
    DenoiseOptions,
    InpaintOptions,
    UpscaleOptions,
)

__all__ = ["OPTIONS", "Auto", "Deblur", "Dejpeg", "Denoise", "Inpaint", "Upscale"]


@dataclass(frozen=True, kw_only=True)
class Denoise(DenoiseOptions, Options):
    """The options of the verb `denoise`."""

    command: str = withheld("denoise")


@dataclass(frozen=True, kw_only=True)
class Dejpeg(DejpegOptions, Options):
    """The options of the verb `dejpeg`."""

    command: str = withheld("dejpeg")


@dataclass(frozen=True, kw_only=True)
class Deblur(DeblurOptions, Options):
    """The options of the verb `deblur`."""

    command: str = withheld("deblur")


@dataclass(frozen=True, kw_only=True)
class Inpaint(InpaintOptions, Options):
    """The options of the verb `inpaint`."""

    command: str = withheld("inpaint")


@dataclass(frozen=True, kw_only=True)
class Upscale(UpscaleOptions, Options):
    """The options of the verb `upscale`, whose results have another size than the pictures that they might replace."""

    command: str = withheld("upscale")
    in_place: bool = withheld(False)
    backup: str | None = withheld(None)


@dataclass(frozen=True, kw_only=True)
class Auto(AutoOptions, Options):
    """The options of the verb `auto`, which makes neither samples nor maps of the uncertainty."""

    command: str = withheld("auto")
    start: str | None = withheld(None)
    samples: int = withheld(1)
    uncertainty: str | None = option(None, "", "PATH", is_hidden=True)  # it is refused in plain words


OPTIONS: Mapping[str, type[Options]] = {
    "denoise": Denoise,
    "dejpeg": Dejpeg,
    "deblur": Deblur,
    "inpaint": Inpaint,
    "upscale": Upscale,
    "auto": Auto,
}
"""The options of the verbs, by the names of the verbs."""
