"""Pictures beside each other: how far they are apart, and one picture that shows it.

side     all of them in a row, with names and figures above
split    the left half of one, the right half of the other, the same place under both
diff     what is different, five times as strong as it is
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from restorer.errors import PictureError, UsageError
from restorer.evaluation.contact_sheet import contact_sheet, to_image
from restorer.evaluation.metrics import SSIM_WINDOW, psnr, ssim
from restorer.images.files import load, to_tensor
from restorer.images.find import collect

__all__ = ["AMPLIFIED", "CELL", "Difference", "differences", "matched", "pairs", "picture_of", "read", "sheet_of"]

AMPLIFIED = 5  # what `diff` multiplies differences by
CELL = 240  # pixels: largest side of a picture on a contact sheet
LINE = 2  # pixels between the two halves of `split`


@dataclass(frozen=True)
class Difference:
    """How far a picture is from another.

    Args:
        psnr: in dB, inf where they are equal.
        ssim: at most 1; None for pictures smaller than its window.
        mean, largest: of the absolute differences, on the 0..255 scale.
    """

    psnr: float
    ssim: float | None
    mean: float
    largest: float

    def __str__(self) -> str:
        similar = "" if self.ssim is None else f", SSIM {self.ssim:.4f}"
        return "equal" if self.largest == 0 else f"{self.psnr:.2f} dB{similar}"


def read(path: Path) -> Tensor:
    """The colour of a picture file, without its transparency: float (3, H, W) in [0, 1].

    Raises:
        PictureError: it cannot be read.
    """
    return to_tensor(load(path)).expand(3, -1, -1)


def difference(picture: Tensor, other: Tensor) -> Difference:
    """Of two pictures (C, H, W) in [0, 1] of one size."""
    error = 255 * (picture - other).abs()
    similar = ssim(picture, other) if min(picture.shape[-2:]) >= SSIM_WINDOW else None
    return Difference(psnr(picture, other), similar, float(error.mean()), float(error.max()))


def differences(a: Tensor, b: Tensor, reference: Tensor | None = None) -> tuple[Difference | None, Difference | None]:
    """How far A and B are from the reference; with none, None and how far B is from A. None where sizes differ."""
    if reference is None:
        return None, difference(b, a) if a.shape == b.shape else None
    first, second = (difference(x, reference) if x.shape == reference.shape else None for x in (a, b))
    return first, second


def matched(pictures: Sequence[Tensor]) -> list[Tensor]:
    """All as large as the largest: one that is smaller by a whole factor is enlarged pixel by pixel.

    Raises:
        UsageError: the sizes do not fit each other.
    """
    height, width = (max(x.shape[axis] for x in pictures) for axis in (-2, -1))
    result = []
    for x in pictures:
        factor = height // x.shape[-2]
        if (factor * x.shape[-2], factor * x.shape[-1]) != (height, width):
            raise UsageError(
                f"{x.shape[-1]}x{x.shape[-2]} and {width}x{height} pixels cannot be laid on each other",
                "the sizes must be equal, or one a whole multiple of the other",
            )
        result.append(x.repeat_interleave(factor, -2).repeat_interleave(factor, -1) if factor > 1 else x)
    return result


def picture_of(mode: str, named: Mapping[str, Tensor], found: Sequence[Difference | None]) -> Image.Image:
    """One picture that shows how they differ.

    Args:
        mode: "side", "split" or "diff"; the latter two show the first two pictures.
        named: two or three pictures (3, h, w) by the words above them; a third is the reference.
        found: what `differences` gave, for the words.

    Raises:
        UsageError: the sizes do not fit each other.
    """
    pictures = matched(list(named.values()))
    if mode == "side":
        said = [*found, None][: len(named)]
        words = [f"{name}   {d}" if d else name for name, d in zip(named, said, strict=True)]
        return contact_sheet(words, [("", pictures)])
    a, b = pictures[:2]
    if mode == "diff":
        return to_image(AMPLIFIED * (a - b).abs())
    result, middle = b.clone(), b.shape[-1] // 2
    result[..., :middle] = a[..., :middle]
    result[..., max(middle - LINE // 2, 0) : middle + LINE // 2] = 1.0
    return to_image(result)


def pairs(a: Path, b: Path, reference: Path | None = None) -> list[tuple[Path, ...]]:
    """Which picture of one folder goes with which of another: by their places and stems.

    `photo.jpg` goes with `photo.png`, and with `photo_denoised.jpg` where there is no other that begins like it.

    Raises:
        PictureError: a folder holds no pictures, or no two go together.
    """
    first, *others = ([path for path, _ in collect([str(f)], recursive=True)] for f in (a, b, reference) if f)
    folders = [f for f in (b, reference) if f]
    result = []
    for path in first:
        place = path.relative_to(a).with_suffix("")
        mates = [_mate(place, folder, files) for folder, files in zip(folders, others, strict=True)]
        if all(mates):
            result.append((path, *(mate for mate in mates if mate)))
    if not result:
        raise PictureError(f"no picture of {a} goes with one of {b}", "they are paired by their names")
    return result


def _mate(place: Path, folder: Path, files: Sequence[Path]) -> Path | None:
    near = [f for f in files if f.relative_to(folder).parent == place.parent]
    same = [f for f in near if f.stem == place.name]
    tagged = [f for f in near if f.stem.startswith(f"{place.name}_")]
    return same[0] if same else tagged[0] if len(tagged) == 1 else None


def sheet_of(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Tensor]]]) -> Image.Image:
    """A contact sheet: of every picture the middle, at most CELL pixels a side. Rows as `contact_sheet` takes them.

    Raises:
        UsageError: the sizes within a row do not fit each other.
    """
    return contact_sheet(heads, [(words, [_middle(x) for x in matched(pictures)]) for words, pictures in rows])


def _middle(x: Tensor) -> Tensor:
    height, width = (min(CELL, extent) for extent in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
