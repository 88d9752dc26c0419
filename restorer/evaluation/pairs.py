"""Pairs of a degraded picture and its truth, as they were photographed: found by their names, and read.

The pairs lie in two folders, in which a picture and its truth have the same name (`find_truth`), or in one folder, in
which their names end differently (`split_by_suffix`).
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from restorer.errors import PictureError
from restorer.evaluation.degraded import Condition, Sample, check_size
from restorer.images.files import load, load_mask, to_tensor, visible_pixels
from restorer.images.find import SUFFIXES
from restorer.limits import SCALES
from restorer.measurement.earlier_jpeg import find_jpeg

__all__ = ["find_truth", "load_pair", "split_by_suffix"]


def find_truth(path: Path, folder: Path | None, truths: Path) -> Path:
    """Return the truth of a degraded picture: the file of the same name, or else of the same stem.

    Args:
        path: The degraded picture.
        folder: The folder that was searched for it; None if it was named itself.
        truths: The folder of the truths, which has the same subfolders.

    Raises:
        PictureError: There is no such file.
    """
    place = truths / (path.relative_to(folder).parent if folder is not None else Path())
    same_stem = sorted(place.glob(f"{glob.escape(path.stem)}.*"))
    candidates = [place / path.name, *(other for other in same_stem if other.stem == path.stem)]
    for candidate in candidates:
        if candidate.suffix.lower() in SUFFIXES and candidate.is_file():
            return candidate
    raise PictureError(f"there is no truth for {path} in {truths}", f"name the truth {path.name}")


def split_by_suffix(paths: Sequence[Path], degraded: str, truth: str) -> list[tuple[Path, Path | None]]:
    """Return each degraded picture of one folder with its truth, or with None if that is missing.

    Args:
        paths: The pictures of the folder.
        degraded: End of the stems of degraded pictures, for instance "_noisy".
        truth: End of the stems of their truths, for instance "_clean". It may be empty.
    """
    by_stem = {path.with_suffix(""): path for path in paths}
    pairs: list[tuple[Path, Path | None]] = []
    for place, path in by_stem.items():
        if place.name.endswith(degraded) and degraded:
            pairs.append((path, by_stem.get(place.with_name(place.name.removesuffix(degraded) + truth))))
    return pairs


def load_pair(degraded: Path, truth: Path, condition: Condition, mask: Path | None = None) -> Sample:
    """Read a degraded picture and its truth.

    Args:
        degraded: The file of the degraded picture.
        truth: The file of its truth. For upscale it is larger by a factor that the task has, and the factor is read
            off the two sizes.
        condition: The task, and the noise level if it is not to be estimated.
        mask: The file of the mask; for inpaint only.

    Raises:
        PictureError: A file cannot be read, the sizes do not fit each other, or the pictures are too small for SSIM.
        UsageError: The mask has another size than the picture.
    """
    picture = load(degraded)
    image, clean = to_tensor(picture), to_tensor(load(truth))
    if condition.task == "upscale":
        condition = replace(condition, scale=_scale(image, clean, degraded))
    elif image.shape[1:] != clean.shape[1:]:
        raise PictureError(
            f"{degraded} has {image.shape[2]}x{image.shape[1]} pixels, but its truth {clean.shape[2]}x{clean.shape[1]}",
            "pair pictures of equal size, or add --task upscale",
        )
    check_size(clean, condition)
    channels = max(len(image), len(clean))
    fill = None
    if mask is not None:
        fill = torch.from_numpy(load_mask(mask, (image.shape[1], image.shape[2])).fill)
    truths, images = (x.expand(channels, -1, -1) for x in (clean, image))
    jpeg = None if condition.sigma else find_jpeg(image, picture.original)  # as the verbs look for it
    return Sample(condition, truths, images, fill, visible_pixels(picture), jpeg)


def _scale(image: Tensor, clean: Tensor, path: Path) -> int:
    """Return how many times as large the truth is, one of SCALES.

    Raises:
        PictureError: The truth is not larger by such a factor.
    """
    for scale in SCALES:
        if clean.shape[1:] == (scale * image.shape[1], scale * image.shape[2]):
            return scale
    raise PictureError(
        f"the truth of {path} is not larger by one of the factors {', '.join(map(str, SCALES))}",
        "pair each picture with one whose sides are exact multiples",
    )
