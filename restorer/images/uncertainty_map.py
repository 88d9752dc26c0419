"""Maps of the uncertainty of a result: 16-bit gray PNG files.

A value is 256 times the half width, in levels of 0..255, of the interval that holds 90 % of the values of a pixel. The
text chunks say so too, so that the file explains itself.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from restorer.errors import OutputError
from restorer.images.encoders import encode_png
from restorer.images.metadata import RECORD
from restorer.images.partials import partial_name

__all__ = ["SCALE", "UncertaintyMap", "encode_map", "read_map", "write_map"]

SCALE = 256
"""Value of the file that stands for one level."""

KEY = "restorer:uncertainty"
MEANING = (
    "Each value is {scale} times the half width, in levels of 0..255, of the interval around the value of the result "
    "in which {level:.0f} % of the channel values of that pixel are expected to lie. Pixels of the value 0 are those "
    "of the input."
)
CALIBRATED, PLAIN = "calibrated", "not calibrated"


@dataclass(frozen=True)
class UncertaintyMap:
    """A map that was read.

    Args:
        half: Half widths in levels of 0..255, float32 (H, W).
        level: Share of the values within the intervals.
        calibrated: Whether the intervals were calibrated.
        kind: The constants that calibrated them, such as "wide holes"; empty where the file does not say.
        scale: Value of the file that stands for one level.
        text: All texts of the file by their keys; the record of the result is under RECORD.
    """

    half: np.ndarray
    level: float
    calibrated: bool
    kind: str = ""
    scale: float = SCALE
    text: Mapping[str, str] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What a value of the file means."""
        return f"a value of {self.scale:g} is a half width of one level of 0..255"


def encode_map(
    half: np.ndarray, level: float, *, calibrated: bool, kind: str = "", words: str = "", record: str = ""
) -> bytes:
    """Return a map as a PNG file.

    Args:
        half: Half widths in levels of 0..255, (H, W). Those of more than 255.996 levels are stored as that.
        level: Share of the values within the intervals.
        calibrated: Whether the intervals are calibrated.
        kind: The constants of the calibration; empty if the picture was copied.
        words: The map in a line of words.
        record: The provenance record of the result.
    """
    values = np.clip(np.rint(half.astype(np.float64) * SCALE), 0, 65535).astype(np.uint16)
    # What is uncertain at all is not 0, which stands for the pixels of the input.
    values = np.maximum(values, (half > 0).astype(np.uint16))
    info = PngInfo()
    of_kind = f" kind={kind.replace(' ', '-')}" if kind else ""
    state = CALIBRATED if calibrated else PLAIN
    info.add_text(KEY, f"1 level={level:g} scale={SCALE} unit=levels/255{of_kind} {state}")
    info.add_text("Description", MEANING.format(scale=SCALE, level=100 * level))
    if words:
        info.add_text("Comment", words)
    if record:
        info.add_text(RECORD, record)
    return encode_png(values[..., None], pnginfo=info)


def write_map(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a map under its name, complete or not at all.

    Args:
        path: The file.
        data: What `encode_map` returned.
        overwrite: Whether an existing file is replaced.

    Raises:
        OutputError: The file exists, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists", "add --overwrite, or name another file")
    partial = path.with_name(partial_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        hint = "free some space" if error.errno == errno.ENOSPC else "name another file"
        raise OutputError(f"{path} cannot be written: {error.strerror}", hint) from error


def read_map(path: Path) -> UncertaintyMap | None:
    """Read a map; return None for any other file, however damaged."""
    try:
        with Image.open(path) as image:
            if not isinstance(image, PngImageFile) or KEY not in image.text or not image.mode.startswith("I"):
                return None
            words = str(image.text[KEY]).split()
            values = dict(word.split("=") for word in words if word.count("=") == 1)
            level, scale = float(values["level"]), float(values["scale"])
            if words[0] != "1" or not (0 < level < 1 and scale > 0):
                return None
            half = np.asarray(image).astype(np.float32) / scale
            text = {str(key): str(value) for key, value in image.text.items()}
            kind = values.get("kind", "").replace("-", " ")
            return UncertaintyMap(half, level, PLAIN not in str(image.text[KEY]), kind, scale, text)
    except (OSError, UnidentifiedImageError, ValueError, KeyError, IndexError, Image.DecompressionBombError):
        return None
