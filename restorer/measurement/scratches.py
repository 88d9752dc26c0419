"""Scratches, dust, hairs and creases: which pixels of a picture are damaged.

A small network (`networks/scratch_finder.py`) gives the log odds that a pixel is damaged, in tiles whose borders are
discarded. It sees each tile as it is and mirrored, and the mean of what it says counts. Then a place is damaged where
the odds are fair and where they are high somewhere in the same connected place (hysteresis; Canny 1986, "A
Computational Approach to Edge Detection"), so that a scratch is followed to its faint ends, and a doubtful twig is left
alone. How high they must be depends on how much of the picture is doubtful.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from restorer.diffusion.prior import pad_to_multiple
from restorer.measurement.components import components_of
from restorer.networks.scratch_finder import MULTIPLE, ScratchFinder

__all__ = ["LEVEL", "RULE", "Features", "Rule", "Scratches", "find_scratches", "log_odds"]

TILE = 512  # side in pixels of what a tile contributes
CONTEXT = 128  # pixels around it that the network sees, too

SURE_WEIGHT = 0.5  # how much the area of sure places counts against that of doubtful ones

LEVEL = 8.0
"""The noise level that the encoder of the prior is told, on the 0..255 scale."""

Features = Callable[[Tensor], Sequence[Tensor]]
"""A function of pictures, float (B, 3, H, W) in [0, 1], that returns what the encoder of the prior makes of them."""


@dataclass(frozen=True)
class Rule:
    """Which places count as damaged.

    Args:
        fair: Log odds from which a pixel may belong to a place.
        high: Log odds that at least one pixel of a place exceeds.
        doubt: By how much `high` is raised for each percent of the picture that lies in places that do not reach it,
            less half of what lies in places that do: a picture full of what resembles scratches, such as hair or
            facets, is judged more carefully, and one that is full of scratches is not.
        evidence: What the log odds above `fair` of all its pixels must add up to.
    """

    fair: float
    high: float
    doubt: float
    evidence: float


RULE = Rule(fair=-1.5, high=5.0, doubt=1.0, evidence=20.0)
"""The rule that `tests/bench/scratches.py rules` selected on training photographs that were held out."""


@dataclass(frozen=True)
class Scratches:
    """The damage that was found in a picture.

    Args:
        fill: The damaged pixels, bool (H, W).
        places: Number of connected places.
        sure: The mean probability that the marked pixels are damaged, as the network judges each of them alone, 0..1;
            0 if there are none.
        highest: The largest log odds of a marked pixel; -inf if there are none.
    """

    fill: np.ndarray
    places: int
    sure: float = 0.0
    highest: float = -math.inf

    @property
    def share(self) -> float:
        """The share of the picture that is damaged, 0..1."""
        return float(self.fill.mean())

    def describe(self) -> str:
        """Return what was found in one line, such as "found 41 scratches or specks, 1.3 % of the picture"."""
        if not self.places:
            return "no scratches or dust that can be told from the scene"
        what = "1 scratch or speck" if self.places == 1 else f"{self.places} scratches or specks"
        percent = 100 * self.share
        digits = ".1f" if percent >= 0.1 else ".2g"
        return f"found {what}, {percent:{digits}} % of the picture"


def log_odds(image: Tensor, network: ScratchFinder, features_of: Features) -> Tensor:
    """Return the log odds that each pixel is damaged, float32 (H, W).

    Args:
        image: float (C, H, W) in [0, 1] with C = 1 or 3.
        network: The network, on any device.
        features_of: The encoder of the embedded prior, on the same device, at LEVEL.
    """
    device, (height, width) = next(network.parameters()).device, image.shape[-2:]
    padded = pad_to_multiple(image[None], MULTIPLE)
    odds = torch.empty(padded.shape[-2:])
    for top in range(0, padded.shape[-2], TILE):
        for left in range(0, padded.shape[-1], TILE):
            rows = slice(max(0, top - CONTEXT), top + TILE + CONTEXT)
            columns = slice(max(0, left - CONTEXT), left + TILE + CONTEXT)
            tile = padded[:, :, rows, columns].expand(-1, 3, -1, -1).float().clamp(0, 1).to(device)
            mirrored = tile.flip(-1)
            both = network(tile, features_of(tile))[0], network(mirrored, features_of(mirrored))[0].flip(-1)
            found = ((both[0] + both[1]) / 2).cpu()
            inner = found[top - rows.start :, left - columns.start :][:TILE, :TILE]
            odds[top : top + TILE, left : left + TILE] = inner
    return odds[:height, :width]


def find_scratches(
    image: Tensor, network: ScratchFinder, features_of: Features, evidence: Tensor | None = None
) -> Scratches:
    """Find the damage of a picture. The result is deterministic.

    Args:
        image: float (C, H, W) in [0, 1] with C = 1 or 3.
        network: The network that was trained for it.
        features_of: The encoder of the embedded prior, on the same device, at LEVEL.
        evidence: bool (H, W), the pixels that count; None for all of them. No other is marked.
    """
    with torch.inference_mode():
        odds = log_odds(image, network, features_of)
    if evidence is not None:
        odds = torch.where(evidence.cpu(), odds, -torch.inf)
    return followed(odds.numpy())


def followed(odds: np.ndarray, rule: Rule = RULE) -> Scratches:
    """Return the places of fair odds that are likely as a whole.

    Args:
        odds: Log odds of damage, float (H, W).
        rule: Which places are.
    """
    fair = odds > rule.fair
    components = components_of(fair)
    count, numbers = components.count, components.numbers
    values = odds[fair].astype(np.float64)
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, numbers, values)
    sums = np.bincount(numbers, values - rule.fair, count)
    areas, is_high = np.bincount(numbers, minlength=count), highest > rule.high
    doubtful = max(0.0, areas[~is_high].sum() - SURE_WEIGHT * areas[is_high].sum()) / max(1, np.isfinite(odds).sum())
    kept = (highest > rule.high + 100 * rule.doubt * doubtful) & (sums > rule.evidence)
    fill = np.zeros_like(fair)
    fill[fair] = kept[numbers]
    marked = values[kept[numbers]]
    sure = float((1 / (1 + np.exp(-marked))).mean()) if len(marked) else 0.0
    return Scratches(fill, int(kept.sum()), sure, float(marked.max(initial=-np.inf)))
