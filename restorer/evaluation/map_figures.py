"""What a map of the uncertainty says of a result, and how right it is where the truth is known.

The rank correlation is that of Spearman: the correlation of the ranks, with equal values sharing their mean rank,

    rho = cov(rank a, rank b) / sqrt(var(rank a) var(rank b))

of the map with the squared error, both as means over 9x9 pixels, because the error of a single pixel is a draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restorer.diffusion.calibration import group_edges, inside
from restorer.diffusion.uncertainty import local_mean, local_variance
from restorer.errors import PictureError, UsageError
from restorer.images.metadata import RECORD
from restorer.images.picture import Picture
from restorer.images.uncertainty_map import UncertaintyMap, read_map
from restorer.tasks.certainty import Certainty

__all__ = [
    "BANDS",
    "AgainstTruth",
    "Band",
    "MapFigures",
    "band_shares",
    "certainty_in",
    "find_map",
    "judge_map",
    "load_map",
    "map_figures",
    "owner_of",
    "rank_correlation",
]

BANDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""Half widths in levels between the bands in which maps are shown and counted."""


@dataclass(frozen=True)
class Band:
    """The pixels whose half width lies between two numbers of levels.

    Args:
        label: The band in words.
        share: Share of the restored pixels that lie in it, 0..1.
    """

    label: str
    share: float


@dataclass(frozen=True)
class AgainstTruth:
    """How right a map is.

    Args:
        coverage: Share of the restored values whose error lies within the interval of their pixel.
        quarters: The same in each quarter of the local variance of the result, from flat to textured.
        rank: Spearman's correlation of the map with the squared error, as means over 9x9 pixels; nan if one of them is
            the same everywhere.
        over_constant: Mean half width over that of a constant map of the same coverage; nan if that has the width 0.
    """

    coverage: float
    quarters: tuple[float, ...]
    rank: float
    over_constant: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values, with None for nan."""
        return {
            "coverage": round(self.coverage, 4),
            "quarters": [round(share, 4) for share in self.quarters],
            "rank_correlation": None if math.isnan(self.rank) else round(self.rank, 4),
            "over_constant": None if math.isnan(self.over_constant) else round(self.over_constant, 4),
        }


@dataclass(frozen=True)
class MapFigures:
    """What a map says of a result.

    Args:
        certainty: The map.
        bands: The shares of its bands.
        judged: How right it is; None if the truth is not known or no pixel was restored.
    """

    certainty: Certainty
    bands: tuple[Band, ...]
    judged: AgainstTruth | None = None

    def lines(self, name: str, truth: str = "") -> list[str]:
        """Return the figures in words.

        Args:
            name: The name of the map.
            truth: The name of the truth.
        """
        found, judged = [f"uncertainty {name}: {self.certainty.describe()}"], self.judged
        if judged is None:
            return found
        quarters = " ".join(f"{100 * share:.0f}" for share in judged.quarters)
        text = (
            f"uncertainty {name} to {truth}: {100 * judged.coverage:.1f} % of the values lie within their intervals, "
            f"where {100 * self.certainty.level:g} % are expected ({quarters} % from flat to textured)"
        )
        if not math.isnan(judged.rank):
            text += f"; rank correlation {judged.rank:.2f}"
        width = f"± {self.certainty.to_dict()['mean']:.1f} levels on average"
        if not math.isnan(judged.over_constant):
            width += f", {judged.over_constant:.2f} times as wide as a constant map of the same coverage"
        return [*found, f"{text}; {width}"]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        bands = {band.label: round(band.share, 4) for band in self.bands}
        judged = dict.fromkeys(("coverage", "quarters", "rank_correlation", "over_constant"))
        return {**self.certainty.to_dict(), "bands": bands, **(self.judged.to_dict() if self.judged else judged)}


def load_map(path: Path) -> UncertaintyMap:
    """Read a map.

    Raises:
        PictureError: The file is not one that `--uncertainty` has written.
    """
    if not path.exists():
        raise PictureError(f"{path} does not exist", "check the path")
    found = read_map(path)
    if found is None:
        raise PictureError(f"{path} is not a map of the uncertainty", "name a file that --uncertainty has written")
    return found


def certainty_in(found: UncertaintyMap) -> Certainty:
    """Return what a map says as the run that made it told it."""
    return Certainty(torch.from_numpy(found.half), found.calibrated, found.kind, level=found.level)


def band_shares(half: Tensor) -> tuple[Band, ...]:
    """Return the shares of the bands, from the smallest half widths to the largest.

    Args:
        half: Half widths in levels (H, W). Those of 0 are of pixels that were not restored, and do not count.
    """
    restored = half[half > 0]
    counts = torch.bincount(torch.bucketize(restored, torch.tensor(BANDS)), minlength=len(BANDS) + 1)
    labels = [f"up to {BANDS[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(BANDS)), f"over {BANDS[-1]:g}"]
    return tuple(
        Band(label, int(count) / max(len(restored), 1)) for label, count in zip(labels, counts.tolist(), strict=True)
    )


def map_figures(found: UncertaintyMap, result: Tensor | None = None, truth: Tensor | None = None) -> MapFigures:
    """Return what a map says, and how right it is if the truth is known.

    Args:
        found: The map.
        result: The result of which it speaks, (C, H, W) in [0, 1].
        truth: The truth, in the same shape; None if it is not known, or if it has another shape.
    """
    certainty = certainty_in(found)
    is_known = result is not None and truth is not None and result.shape == truth.shape
    judged = judge_map(certainty.half, result, truth) if is_known else None  # type: ignore[arg-type]
    return MapFigures(certainty, band_shares(certainty.half), judged)


def judge_map(half: Tensor, result: Tensor, truth: Tensor) -> AgainstTruth | None:
    """Return how right a map is; None if no pixel was restored.

    Args:
        half: Half widths in levels (H, W), 0 where the pixels were not restored.
        result: The result, (C, H, W) in [0, 1].
        truth: The truth, (C, H, W) in [0, 1].
    """
    restored = half > 0
    if not restored.any():
        return None
    error = 255 * (result - truth)
    missed, widths = error[:, restored], half[restored]
    coverage = inside(missed, widths)
    variance = local_variance(result)[restored]
    group = torch.bucketize(variance, torch.tensor(group_edges(variance)))
    is_in = (missed.abs() <= widths).double().mean(0)
    quarters = tuple(
        float(is_in[group == number].mean()) if (group == number).any() else coverage for number in range(4)
    )
    # Sums of a sliding window leave a trace of what has left it, which must not rank equal values.
    weight = restored.double()
    maps = (half.double(), error.double().square().mean(0))
    smooth = [local_mean(x, weight)[restored].numpy().round(6) for x in maps]
    constant = float(np.quantile(missed.abs().numpy(), coverage))
    over = float(widths.mean()) / constant if constant > 0 else math.nan
    return AgainstTruth(coverage, quarters, rank_correlation(smooth[0], smooth[1]), over)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of two arrays (N,); nan if one of them is constant."""
    x, y = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value from 1 on; equal values have the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]


def owner_of(found: UncertaintyMap, pictures: Sequence[Picture], names: Sequence[str]) -> tuple[int, str]:
    """Return the number of the picture of which a map speaks, and a note; the note is empty if nothing is to be said.

    It is the picture with the record that the map has, or else the last one of its size.

    Args:
        found: The map.
        pictures: The pictures, in the order of the command.
        names: Their names.

    Raises:
        UsageError: No picture has the size of the map.
    """
    height, width = found.half.shape
    fitting = [i for i, picture in enumerate(pictures) if (picture.height, picture.width) == (height, width)]
    if not fitting:
        raise UsageError(f"the map has {width}x{height} pixels, and no picture has", "name the map of one of them")
    record = found.text.get(RECORD, "")
    for number in reversed(fitting):
        if record and pictures[number].text.get(RECORD, "") == record:
            return number, ""
    number = fitting[-1]
    is_other = bool(record and pictures[number].text.get(RECORD, ""))
    return number, f"the map was made with another result than {names[number]}" if is_other else ""


def find_map(folder: Path, place: Path, stems: Sequence[str]) -> Path | None:
    """Return the map of a result in a folder of maps; None if there is none.

    Args:
        folder: The folder of maps, as `--uncertainty` fills it.
        place: The folder of the result within the folder of all results.
        stems: The names without suffix that the result and its input have.
    """
    for ending in ("_uncertainty", ""):
        for stem in stems:
            path = folder / place / f"{stem}{ending}.png"
            if path.is_file():
                return path
    return None
