"""Comparison of pictures: figures of their differences, and an image that shows them.

side     all pictures in a row, with names and figures above
split    the left half of one picture beside the right half of the other
diff     the absolute differences, amplified five times
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from restorer.errors import PictureError, UsageError
from restorer.evaluation.contact_sheet import contact_sheet, to_image
from restorer.evaluation.metrics import SSIM_WINDOW, psnr, ssim
from restorer.evaluation.perception import Perception, perceive
from restorer.images.files import Picture, load, to_tensor
from restorer.images.find import collect

__all__ = [
    "AMPLIFICATION",
    "CELL",
    "Difference",
    "colour_of",
    "comparison_image",
    "comparison_sheet",
    "difference",
    "differences",
    "figure_lines",
    "match_sizes",
    "pair_files",
    "read_colour",
    "sheet_row",
]

AMPLIFICATION = 5  # factor by which `diff` multiplies the differences
CELL = 240  # largest side of a picture on a contact sheet, in pixels
LINE = 2  # width of the line between the two halves of `split`, in pixels
BESIDE = re.compile(r"(.+)_(?:uncertainty|mean|sample\d+)")  # the names of what lies beside a result


@dataclass(frozen=True)
class Difference:
    """The difference between two pictures.

    Args:
        psnr: Peak signal-to-noise ratio in dB, inf if the pictures are equal.
        ssim: Structural similarity, at most 1; None for pictures smaller than its window.
        mean: Mean of the absolute differences, on the 0..255 scale.
        largest: Largest absolute difference, on the 0..255 scale.
        perception: What people see of the difference; None if it was not measured.
    """

    psnr: float
    ssim: float | None
    mean: float
    largest: float
    perception: Perception | None = None

    def __str__(self) -> str:
        ssim_text = "" if self.ssim is None else f", SSIM {self.ssim:.4f}"
        return "equal" if self.largest == 0 else f"{self.psnr:.2f} dB{ssim_text}"

    def describe(self) -> str:
        """Return all figures in words."""
        if not self.largest:
            return str(self)
        text = f"{self}, off by {self.mean:.2f} on average, {self.largest:.0f} at most (of 255)"
        return f"{text}; {self.perception}" if self.perception else text

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values, with None for an infinite PSNR because JSON has no infinity."""
        return {
            "psnr": round(self.psnr, 4) if math.isfinite(self.psnr) else None,
            "ssim": self.ssim and round(self.ssim, 5),
            "mean": round(self.mean, 4),
            "largest": round(self.largest, 2),
            **(self.perception.to_dict() if self.perception else {}),
        }


def colour_of(picture: Picture) -> Tensor:
    """Return a picture without its transparency, float (3, H, W) in [0, 1]."""
    return to_tensor(picture).expand(3, -1, -1)


def read_colour(path: Path) -> Tensor:
    """Read a picture file without its transparency.

    Returns:
        float (3, H, W) in [0, 1].

    Raises:
        PictureError: The file cannot be read.
    """
    return colour_of(load(path))


def difference(picture: Tensor, other: Tensor, *, perception: bool = False) -> Difference:
    """Measure the difference between two pictures of the same size, (C, H, W) in [0, 1].

    Args:
        picture: A picture.
        other: The picture that it should equal.
        perception: Whether what people see is measured too, see `restorer.evaluation.perception`.

    Raises:
        UsageError: The extra `measure` is needed and not installed.
    """
    error = 255 * (picture - other).abs()
    similarity = ssim(picture, other) if min(picture.shape[-2:]) >= SSIM_WINDOW else None
    seen = perceive(picture, other) if perception else None
    return Difference(psnr(picture, other), similarity, float(error.mean()), float(error.max()), seen)


def differences(
    a: Tensor, b: Tensor, reference: Tensor | None = None, *, perception: bool = False
) -> tuple[Difference | None, Difference | None]:
    """Measure the differences of A and B from the reference, or of B from A.

    Args:
        a: A picture (C, H, W) in [0, 1].
        b: Another picture.
        reference: The picture that both should equal.
        perception: Whether what people see is measured too, as in `difference`.

    Returns:
        One entry for A and one for B. Without a reference, the entry for A is None. An entry is also None if the two
        pictures that it compares have different sizes.
    """

    def measure(picture: Tensor, other: Tensor) -> Difference | None:
        return difference(picture, other, perception=perception) if picture.shape == other.shape else None

    return (None, measure(b, a)) if reference is None else (measure(a, reference), measure(b, reference))


def figure_lines(
    paths: Sequence[Path], measured: tuple[Difference | None, Difference | None], *, brief: bool = False
) -> list[str]:
    """Describe the figures of a pair of pictures in words, one line for each picture that is compared.

    Args:
        paths: Pictures A and B, and the reference if there is one.
        measured: The result of `differences`.
        brief: Leave out the mean and the largest difference.
    """
    has_reference = len(paths) > 2
    against = paths[2].name if has_reference else "A"
    lines = []
    for name, path, difference in zip("AB", paths, measured, strict=False):
        if difference is not None:
            figures = str(difference) if brief else difference.describe()
            lines.append(f"{name} {path.name} to {against}: {figures}")
        elif has_reference or name == "B":
            lines.append(f"{name} {path.name} to {against}: no figures, because the sizes differ")
    return lines


def match_sizes(pictures: Sequence[Tensor]) -> list[Tensor]:
    """Enlarge pictures (C, h, w) to the size of the largest by repeating their pixels.

    Raises:
        UsageError: The largest picture is not a whole multiple of another in size.
    """
    height, width = (max(x.shape[axis] for x in pictures) for axis in (-2, -1))
    result = []
    for x in pictures:
        factor = height // x.shape[-2]
        if (factor * x.shape[-2], factor * x.shape[-1]) != (height, width):
            raise UsageError(
                f"pictures of {x.shape[-1]}x{x.shape[-2]} and {width}x{height} pixels cannot be shown together",
                "the sizes must be equal, or one size a whole multiple of the other",
            )
        result.append(x.repeat_interleave(factor, -2).repeat_interleave(factor, -1) if factor > 1 else x)
    return result


def comparison_image(mode: str, pictures: Mapping[str, Tensor], figures: Sequence[Difference | None]) -> Image.Image:
    """Draw an image that shows how pictures differ.

    Args:
        mode: "side", "split" or "diff"; the latter two show the first two pictures.
        pictures: Two or three pictures (3, h, w) in [0, 1] by their captions; the third is the reference.
        figures: The result of `differences`, which is added to the captions.

    Raises:
        UsageError: The sizes do not fit each other.
    """
    matched = match_sizes(list(pictures.values()))
    if mode == "side":
        padded_figures = [*figures, None][: len(pictures)]
        captions = [f"{name}   {d}" if d else name for name, d in zip(pictures, padded_figures, strict=True)]
        return contact_sheet(captions, [("", matched)])
    a, b = matched[:2]
    if mode == "diff":
        return to_image(AMPLIFICATION * (a - b).abs())
    result, middle = b.clone(), b.shape[-1] // 2
    result[..., :middle] = a[..., :middle]
    result[..., max(middle - LINE // 2, 0) : middle + LINE // 2] = 1.0
    return to_image(result)


def pair_files(a: Path, b: Path, reference: Path | None = None) -> list[tuple[Path, ...]]:
    """Pair the pictures of two or three folders by their relative folder and their stem.

    `photo.jpg` is paired with `photo.png`, or with `photo_denoised.jpg` if no other stem starts with `photo_`. What
    `--uncertainty` and `--samples` have written beside a result does not count.

    Args:
        a: A folder of pictures, which is searched at all depths.
        b: A second folder.
        reference: A third folder.

    Returns:
        One tuple for each picture of `a` that has a counterpart in each other folder: the files in the order of the
        arguments.

    Raises:
        PictureError: A folder contains no pictures, or no pictures can be paired.
    """
    first, *others = ([path for path, _ in collect([str(f)], recursive=True)] for f in (a, b, reference) if f)
    folders = [f for f in (b, reference) if f]
    result = []
    for path in first:
        place = path.relative_to(a).with_suffix("")
        counterparts = [_find_counterpart(place, folder, files) for folder, files in zip(folders, others, strict=True)]
        if all(counterparts):
            result.append((path, *(counterpart for counterpart in counterparts if counterpart)))
    if not result:
        raise PictureError(
            f"no picture in {a} has a counterpart in {b}", "files are paired by name, as a.png with a.png or a_x4.png"
        )
    return result


def _find_counterpart(place: Path, folder: Path, files: Sequence[Path]) -> Path | None:
    """Return the file of a folder that belongs to a relative path without suffix, or None."""
    siblings = [f for f in files if f.relative_to(folder).parent == place.parent]
    same_stem = [f for f in siblings if f.stem == place.name]
    tagged = [f for f in siblings if f.stem.startswith(f"{place.name}_")]
    stems = {f.stem for f in tagged}
    tagged = [f for f in tagged if not ((beside := BESIDE.fullmatch(f.stem)) and beside[1] in stems)]
    return same_stem[0] if same_stem else tagged[0] if len(tagged) == 1 else None


def sheet_row(pictures: Sequence[Tensor]) -> list[Tensor]:
    """Return what a contact sheet shows of pictures: their middle, at most CELL pixels per side.

    Raises:
        UsageError: The sizes do not fit each other.
    """
    return [_middle(x).clone() for x in match_sizes(pictures)]


def comparison_sheet(headings: Sequence[str], rows: Sequence[tuple[str, Sequence[Tensor]]]) -> Image.Image:
    """Draw a contact sheet of the middle of each picture, at most CELL pixels per side.

    Args:
        headings: The text above each column.
        rows: For each row, the text above it and its pictures, float (3, h, w) in [0, 1], one for each heading.

    Raises:
        UsageError: The sizes within a row do not fit each other.
    """
    return contact_sheet(headings, [(text, sheet_row(pictures)) for text, pictures in rows])


def _middle(x: Tensor) -> Tensor:
    """Cut the middle out of a picture, at most CELL pixels per side."""
    height, width = (min(CELL, extent) for extent in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
