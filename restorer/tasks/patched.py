"""Wide holes: filled with patches of the picture, which the reverse process then merges with their surroundings.

The fillings of several seeds (`images/patch_fill.py`) are the starts of one batch. The reverse process begins at a
level that hides the seams between patches and keeps what they show. At the end, every hole takes the candidate that
fits best: the one whose patches, those across the rim included, differ least from known patches of the picture. An edge
that breaks off, a texture that the picture has nowhere, and whatever the prior finds unlikely and has changed, add to
that difference.

The prior would take the grain of a noisy picture for texture, and continue it only roughly. So where the known pixels
have noise, the process runs on the picture without it, and every unknown pixel gets the noise of the pixel that it was
copied from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.images.connected import connected
from restorer.images.patch_fill import Patched, patch_fill
from restorer.images.patch_match import RADIUS, SIDE
from restorer.images.sizes import Region
from restorer.measurement.white_noise import estimate_sigma
from restorer.priors.tiled import Tiled
from restorer.tasks.common import as_colour, to_unit, without_equal_channels
from restorer.tasks.job import Job

__all__ = ["begun_from_patches", "without_small"]

SEARCH = 128
"""Pixels around a hole in which patches are looked for."""

LEAST_PIXELS = 256
"""Number of pixels below which a hole does not count as wide."""

MOST_PIXELS = 300_000
"""Number of pixels of a hole above which it is not filled with patches."""

LEAST_GRAIN = 1.5
"""Standard deviation, in levels, of the noise that is continued by itself. The prior treats less as texture."""

VARIETY = 1.0
"""The variety of all candidates but the first, which starts from the smooth filling itself; see `patch_fill`."""


def without_small(hole: Tensor) -> Tensor:
    """Return a mask, bool (H, W), without its connected parts of fewer than LEAST_PIXELS pixels."""
    if not bool(hole.any()):
        return hole
    numbers = connected(hole)
    counts = torch.bincount(numbers.flatten())
    return hole & (counts >= LEAST_PIXELS)[numbers]


@dataclass(frozen=True)
class _Candidate:
    """One way to fill all holes.

    Args:
        parts: The places that were filled together, and their patches.
        image: The filled picture, float (C, H, W).
    """

    parts: tuple[tuple[Region, Patched], ...]
    image: Tensor

    def grain(self, residual: Tensor) -> Tensor:
        """Return the noise of every pixel from that of the known ones, (C, H, W)."""
        result = residual.clone()
        for at, patched in self.parts:
            result[:, at.rows, at.columns] = patched.copied(residual[:, at.rows, at.columns])
        return result

    def misfits(self, image: Tensor) -> Tensor:
        """Return the misfits of the patches of a filled picture, float (H, W); see `Patched.misfits`."""
        result = torch.zeros(image.shape[-2:])
        for at, patched in self.parts:
            result[at.rows, at.columns] = patched.misfits(image[:, at.rows, at.columns])
        return result


def begun_from_patches(job: Job, image: Tensor, fill: Tensor, window: Region, *, candidates: int, instead: Job) -> Job:
    """Return the job that starts from patches of the picture.

    Args:
        job: The job with its plan, which starts from a smooth filling.
        image: The picture, float (C, H, W) in [0, 1].
        fill: The mask, bool (H, W).
        window: The part of the picture that the job computes.
        candidates: Number of fillings that are computed.
        instead: The job that takes its place if too little of the picture is known for patches.
    """
    assert job.plan is not None
    seed = job.plan.seed
    assert isinstance(seed, int)

    def measure() -> Job:
        groups = _groups(fill, window)
        seen = _around([window, *groups])
        holes = fill[seen.rows, seen.columns]
        part = without_equal_channels(torch.where(holes, 0.5, image[:, seen.rows, seen.columns]))
        places = [group.within(seen) for group in groups]
        made: list[_Candidate] = []
        for number in range(candidates):
            variety = 0.0 if number == 0 else VARIETY
            candidate = _filled(part, holes, places, (seed * 1_000_003 + number) % 2**63, variety)
            if candidate is None:
                return instead
            made.append(candidate)
        return _merging(job, part, holes, window.within(seen), made)

    return replace(job, measure=measure, candidates=candidates)


def _filled(image: Tensor, fill: Tensor, places: Sequence[Region], seed: int, variety: float) -> _Candidate | None:
    """Return a candidate; None if a hole cannot be filled with patches."""
    result, parts = image.clone(), []
    for at in places:
        hole = fill[at.rows, at.columns]
        if int(hole.sum()) > MOST_PIXELS:
            return None
        patched = patch_fill(image[:, at.rows, at.columns], hole, seed=seed, variety=variety)
        if patched is None:
            return None
        result[:, at.rows, at.columns] = patched.image.clamp(0, 1)
        parts.append((at, patched))
    return _Candidate(tuple(parts), result)


def _merging(job: Job, image: Tensor, fill: Tensor, window: Region, candidates: Sequence[_Candidate]) -> Job:
    """Return the job that merges the candidates with their surroundings, and keeps the best of them.

    Args:
        job: The job that starts from a smooth filling.
        image: The part of the picture in which patches were found, float (C, H, W).
        fill: Its mask, bool (H, W).
        window: The part of it that the job computes.
        candidates: The candidates.
    """
    residual = _noise(job.prior, candidates[0].image, fill)
    grains = [None if residual is None else candidate.grain(residual) for candidate in candidates]
    starts = [c.image if grain is None else c.image - grain for c, grain in zip(candidates, grains, strict=True)]
    inside = (slice(None), window.rows, window.columns)
    clean = image if residual is None else image - residual
    finish, channels = job.finish, len(image)

    def finish_best(x: Tensor, first: Tensor) -> Tensor:
        results = []
        for k in range(len(x)):
            merged, grain = to_unit(x[k : k + 1], channels), grains[k]
            whole = candidates[k].image.clone()
            whole[inside] = merged if grain is None else merged + grain[inside]
            results.append(torch.where(fill, whole.clamp_(0, 1), image))
        return finish(as_colour(_best(results, candidates, fill)[inside]), first)

    return replace(
        job,
        measure=None,
        start=torch.cat([as_colour(start[inside]) for start in starts]),
        y=as_colour(clean[inside]),
        finish=finish_best,
        candidates=len(candidates),
    )


def _best(results: Sequence[Tensor], candidates: Sequence[_Candidate], fill: Tensor) -> Tensor:
    """Return the picture in which every hole is filled by the result that fits best.

    Args:
        results: The results of the candidates, or of the first of them, float (C, H, W).
        candidates: The candidates.
        fill: The mask, bool (H, W).
    """
    if len(results) == 1:
        return results[0]
    numbers = connected(fill)
    count = int(numbers.max()) + 1
    around = F.max_pool2d(numbers[None, None].double(), SIDE, 1, RADIUS)[0, 0].long().flatten()
    misfits = [
        torch.zeros(count).index_add_(0, around, candidate.misfits(result).flatten())
        for candidate, result in zip(candidates, results, strict=True)
    ]
    choice = torch.stack(misfits).argmin(0)[numbers]
    best = results[0].clone()
    for number, result in enumerate(results[1:], 1):
        best = torch.where(choice == number, result, best)
    return best


def _noise(prior: Tiled, image: Tensor, fill: Tensor) -> Tensor | None:
    """Return the noise of the known pixels, float (C, H, W) and 0 in the holes; None if there is hardly any.

    Args:
        prior: The prior, which is evaluated once if there is noise.
        image: The filled picture, float (C, H, W) in [0, 1].
        fill: The mask, bool (H, W).
    """
    level = estimate_sigma(image, ~fill)
    if level < LEAST_GRAIN:
        return None
    sigma = 2 * level / 255
    with prior.resources.run([sigma]):
        clean = prior.denoise(as_colour(image).to(prior.device), sigma).cpu()
    return torch.where(fill, 0.0, image - to_unit(clean, len(image)))


def _groups(fill: Tensor, window: Region) -> list[Region]:
    """Return the places in which holes are filled: those around holes near each other together.

    Args:
        fill: The mask, bool (H, W).
        window: The part of the picture that is computed; other holes are left alone.
    """
    height, width = fill.shape
    boxes: list[Region] = []
    for box in _boxes(fill):
        if box.common(window) is None:
            continue
        left, top = max(0, box.left - SEARCH), max(0, box.top - SEARCH)
        right, bottom = min(width, box.right + SEARCH), min(height, box.bottom + SEARCH)
        boxes.append(Region(left, top, right - left, bottom - top))
    groups: list[Region] = []
    for box in boxes:
        while overlapping := [group for group in groups if group.common(box) is not None]:
            groups = [group for group in groups if group not in overlapping]
            box = _around([box, *overlapping])
        groups.append(box)
    return groups


def _boxes(fill: Tensor) -> list[Region]:
    """Return the rectangles around the connected parts of a mask."""
    rows, columns = torch.nonzero(fill, as_tuple=True)
    if len(rows) == 0:
        return []
    top, left = int(rows.min()), int(columns.min())
    part = fill[top : int(rows.max()) + 1, left : int(columns.max()) + 1]
    numbers = connected(part)
    rows, columns = torch.nonzero(part, as_tuple=True)
    of = numbers[rows, columns] - 1
    count = int(of.max()) + 1
    ends = [
        torch.full((count,), -1).scatter_reduce_(0, of, sign * places, "amax", include_self=False) * sign
        for places in (rows, columns)
        for sign in (-1, 1)
    ]
    return [
        Region(left + x0, top + y0, x1 - x0 + 1, y1 - y0 + 1)
        for y0, y1, x0, x1 in zip(*(end.tolist() for end in ends), strict=True)
    ]


def _around(regions: Sequence[Region]) -> Region:
    """Return the smallest region that contains all the given ones."""
    left, top = min(r.left for r in regions), min(r.top for r in regions)
    right, bottom = max(r.right for r in regions), max(r.bottom for r in regions)
    return Region(left, top, right - left, bottom - top)
