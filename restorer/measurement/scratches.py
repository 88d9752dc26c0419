"""Scratches, dust, hairs and creases: which pixels of a picture are damaged.

A small network (`networks/scratch_finder.py`) gives the log odds that a pixel is damaged, in tiles whose borders are
discarded. It sees each tile in four orientations, and the mean of what it says counts. A second, tiny network
(`networks/stroke_judge.py`) corrects the log odds of each pixel by those along lines and in squares around it
(`strokes.py`). Then a place is damaged where the odds are fair and where they are high somewhere in the same connected
place (hysteresis; Canny 1986, "A
Computational Approach to Edge Detection"), so that a scratch is followed to its faint ends, and a doubtful twig is left
alone. How high they must be depends on how much of what resembles damage is certain.
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
from restorer.measurement.strokes import context_of
from restorer.networks.scratch_finder import MULTIPLE, ScratchFinder
from restorer.networks.stroke_judge import StrokeJudge

__all__ = ["LEVEL", "RULE", "RULE_UNDER_NOISE", "Features", "Rule", "Scratches", "find_scratches", "judged", "log_odds"]

TILE = 512  # side in pixels of what a tile contributes
CONTEXT = 128  # pixels around it that the network sees, too

JUDGED_AT_ONCE = 1 << 18  # pixels

LEVEL = 8.0
"""The noise level that the encoder of the prior is told, on the 0..255 scale."""

Features = Callable[[Tensor], Sequence[Tensor]]
"""A function of pictures, float (B, 3, H, W) in [0, 1], that returns what the encoder of the prior makes of them."""


@dataclass(frozen=True)
class Rule:
    """Which places count as damaged.

    Args:
        fair: Log odds from which a pixel may belong to a place.
        certain: Log odds that at least one pixel of a place reaches if no other place of the picture does.
        among: The same in a picture all of whose places reach `certain`. Damage seldom comes alone, so that a place
            beside certain damage is believed sooner. In between, the least log odds fall with the square root of the
            share of the area of all places that lies in certain ones: a picture full of what resembles scratches, such
            as hair or facets, is judged more carefully than one that is full of scratches.
        evidence: What the log odds above `fair` of all pixels of a place must add up to.
    """

    fair: float
    certain: float
    among: float
    evidence: float


RULE = Rule(fair=-1.0, certain=7.0, among=0.0, evidence=10.0)
"""The rule that `tests/bench/scratches.py rules` selected on training photographs that were held out."""

RULE_UNDER_NOISE = Rule(fair=-0.75, certain=6.5, among=-1.0, evidence=20.0)
"""The rule for pictures in which half of strong noise is left. Noise lowers the log odds of scratches, and still more
those of what resembles them. It was chosen for a former finder, by which 60 photographs without damage reached
5.1; by the present one, `tests/bench/scratches.py clean CBSD68 --every 3 --noise 25` marks nothing."""


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
            found = torch.stack([_seen(tile, turns, network, features_of) for turns in range(4)]).mean(0).cpu()
            inner = found[top - rows.start :, left - columns.start :][:TILE, :TILE]
            odds[top : top + TILE, left : left + TILE] = inner
    return odds[:height, :width]


def _seen(tile: Tensor, turns: int, network: ScratchFinder, features_of: Features) -> Tensor:
    """Return what the network says about a tile that is turned by quarters, and mirrored if their number is odd."""
    turned = torch.rot90(tile, turns, (-2, -1))
    if turns % 2:
        turned = turned.flip(-1)
    odds = network(turned, features_of(turned))[0]
    return torch.rot90(odds.flip(-1) if turns % 2 else odds, -turns, (-2, -1))


def judged(odds: Tensor, judge: StrokeJudge) -> Tensor:
    """Return log odds (H, W) after a judge on the CPU has corrected those that are not too low for it."""
    chosen, contexts = context_of(odds)
    corrected = odds.clone()
    if len(contexts):
        corrected[chosen] = torch.cat([judge(part) for part in contexts.split(JUDGED_AT_ONCE)])
    return corrected


def find_scratches(
    image: Tensor,
    network: ScratchFinder,
    features_of: Features,
    evidence: Tensor | None = None,
    judge: StrokeJudge | None = None,
    rule: Rule = RULE,
) -> Scratches:
    """Find the damage of a picture. The result is deterministic.

    Args:
        image: float (C, H, W) in [0, 1] with C = 1 or 3.
        network: The network that was trained for it.
        features_of: The encoder of the embedded prior, on the same device, at LEVEL.
        evidence: bool (H, W), the pixels that count; None for all of them. No other is marked.
        judge: The network that judges what the first one says, on the CPU; None to take that as it is.
        rule: Which places count as damaged.
    """
    with torch.inference_mode():
        odds = log_odds(image, network, features_of)
        if evidence is not None:
            odds = torch.where(evidence.cpu(), odds, -torch.inf)
        if judge is not None:
            odds = judged(odds, judge)
    return followed(odds.numpy(), rule)


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
    areas = np.bincount(numbers, minlength=count)
    share = areas[highest >= rule.certain].sum() / max(1, areas.sum())
    least = rule.certain + (rule.among - rule.certain) * math.sqrt(share)
    kept = (highest >= least) & (sums > rule.evidence)
    fill = np.zeros_like(fair)
    fill[fair] = kept[numbers]
    marked = values[kept[numbers]]
    sure = float((1 / (1 + np.exp(-marked))).mean()) if len(marked) else 0.0
    return Scratches(fill, int(kept.sum()), sure, float(marked.max(initial=-np.inf)))
