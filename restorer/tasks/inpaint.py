"""Inpainting: at every step the known pixels are put back, and noised again together with all others.

The measurement of a picture x is

    y = m x + n,    m = 1 at the known pixels and 0 in the holes

with noise n, if any. The correction of each step replaces the known pixels by y, or draws them towards y if y is noisy.
The next noise is then added to the whole picture (RePaint, Lugmayr et al. 2022, https://arxiv.org/abs/2201.09865).
`detail` is the factor on the noise that is carried from step to step.

Narrow holes are almost determined by their rims. Wide holes are filled with patches of the picture itself, from which
the reverse process starts (`tasks/patched.py`); without patches, it starts from a smooth filling at a high level. If a
picture has both kinds of holes, a first pass fills all holes with the settings for narrow ones (`tasks/defaults.py`),
and a second pass fills the wide holes again. The second pass then knows the pixels of the narrow holes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.degradations.pointwise import Mask
from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Prior
from restorer.errors import UsageError
from restorer.images.files import push_pull
from restorer.images.sizes import Region
from restorer.limits import CANDIDATES, check
from restorer.measurement.white_noise import estimate_sigma
from restorer.models.feed_forward import FeedForward
from restorer.priors.tiled import Tiled
from restorer.tasks.common import (
    as_colour,
    check_picture,
    conditioned_plan,
    select_prior,
    to_unit,
    without_equal_channels,
)
from restorer.tasks.defaults import (
    INPAINT,
    INPAINT_PATCHED,
    INPAINT_WIDE,
    PATCHED_SIDE,
    WIDE_SIDE,
    Defaults,
)
from restorer.tasks.job import Job
from restorer.tasks.patched import begun_from_patches, without_small
from restorer.tasks.region import ALIGNMENT, Place
from restorer.tasks.started import INPAINT_STARTED, begun_from, check_start
from restorer.tasks.tiles import MAX_UNTILED_PIXELS, with_default_tiles
from restorer.tasks.uncertain import Doubt

__all__ = ["CONTEXT", "mean_depth", "prepare_inpaint", "wide_part"]

MIN_THIN_SHARE = 0.01
"""Pixels of narrow holes over those of wide holes above which narrow holes have a pass of their own.

Below this share, the narrow parts are only the rough rim of a wide hole.
"""

CONTEXT = 96
"""Pixels around the holes that the network sees; the rest of the picture is left out."""

MAX_DEPTH = 64
"""Distance in pixels from the rim of a hole up to which the uncertainty tells distances apart."""

MAX_USUAL_SHARE = 0.6
"""Share of the picture above which a mask may be inverted by mistake."""


def prepare_inpaint(
    image: Tensor,
    fill: Tensor,
    *,
    sigma: float | None = 0.0,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    candidates: int | None = None,
    region: Region | None = None,
    start: FeedForward | None = None,
    prior: Prior | None = None,
) -> Job:
    """Prepare a job that fills holes.

    Args:
        image: The picture, float (C, H, W) in [0, 1] with C = 1 or 3. The values under the mask are ignored.
        fill: The mask, bool (H, W), True at the pixels to fill.
        sigma: As in `restorer.inpaint`; None estimates it.
        steps: As in `restorer.inpaint`.
        detail: As in `restorer.inpaint`.
        method: As in `restorer.inpaint`.
        seed: As in `restorer.inpaint`.
        candidates: As in `restorer.inpaint`.
        region: The part of the picture that is filled and returned; None for all of it.
        start: The network that fills the holes, and from whose result the reverse process starts; None for none.
        prior: As in `restorer.inpaint`.

    Raises:
        UsageError: A value is out of range, the tensor is not a picture, the mask has another size, or the region lies
            outside the picture.
        ModelError: The prior or the network of the start cannot inpaint.
    """
    check(
        sigma=sigma,
        steps=steps,
        detail=detail,
        method=method,
        seed=seed,
        candidates=candidates,
        started=start is not None,
    )
    if fill.shape != image.shape[-2:]:
        raise UsageError(f"the mask is {tuple(fill.shape)}, but the picture is {tuple(image.shape[-2:])}")
    check_picture(torch.where(fill, 0.5, image))  # under the mask the picture may hold anything
    channels = len(without_equal_channels(torch.where(fill, 0.5, image)))
    share = float(fill.double().mean())
    estimated, sigma = sigma is None, estimate_sigma(image) if sigma is None else sigma
    whole = Place.of(image, region)
    # Noisy known pixels are restored as well, and they are everywhere.
    base = _window(fill) if sigma == 0 else Region(0, 0, fill.shape[1], fill.shape[0])
    is_plain = method == "auto" and sigma == 0 and start is None
    wide = _wide_holes(fill[base.rows, base.columns], is_plain)
    has_both = is_plain and _has_narrow_part(fill[base.rows, base.columns], wide)
    wide_fill = torch.zeros_like(fill)
    wide_fill[base.rows, base.columns] = wide
    needs_wide_pass = has_both and bool(whole.exact(wide_fill).any())
    place = _place_in(base, whole, CONTEXT + ALIGNMENT if needs_wide_pass else CONTEXT)
    window = place.window.moved(base.left, base.top)
    part, hole = image[:, window.rows, window.columns], fill[window.rows, window.columns]
    model = with_default_tiles(select_prior("inpaint", prior), *hole.shape)
    known = ~hole
    colour = torch.where(known, part, 0.5)
    is_patched = is_plain and bool(wide.any()) and not has_both
    is_wide = bool(wide.any()) and not has_both and (not is_plain or bool(wide_part(hole).any()))
    plan, used_detail = None, 0.0
    count = CANDIDATES if candidates is None else candidates

    def planned(defaults: Defaults) -> tuple[Plan, float]:
        return conditioned_plan(model, defaults, steps or None, detail, method, seed, holes=True)

    if share and (sigma > 0 or bool(whole.exact(fill).any())):
        plan, used_detail = planned(INPAINT_WIDE if is_wide else INPAINT)

    def finish(x: Tensor, first: Tensor) -> Tensor:
        result = image.clone()
        restored = to_unit(x, channels).expand(len(image), -1, -1)
        result[:, window.rows, window.columns] = torch.where(hole, restored, part) if sigma == 0 else restored
        return result if needs_wide_pass else whole.exact(result)

    def fill_wide(filled: Tensor, tiles: Tiled) -> Job:
        """Return the job that fills the wide holes again, with the narrow ones known, without notes on its mask."""
        again = prepare_inpaint(
            filled,
            wide_fill,
            steps=steps,
            detail=detail,
            seed=seed,
            candidates=candidates,
            region=region,
            prior=tiles,
        )
        return replace(again, notes=())

    job = Job(
        model,
        plan,
        whole.exact(image),
        sigma,
        estimated,
        used_detail,
        as_colour(_interpolate(colour, known)),
        finish,
        degradation=Mask(known[None, None]),
        y=as_colour(colour),
        noise_variance=(2 * sigma / 255) ** 2,
        notes=_coverage_notes(share),
        second_pass=fill_wide if needs_wide_pass else None,
        second_pass_evaluations=(steps or INPAINT_PATCHED.steps) if needs_wide_pass else 0,
        candidates=count if needs_wide_pass else 1,
        canvas=place.canvas,
        doubt=_doubt(whole.exact(fill), wide=bool(wide.any()), known=sigma == 0),
    )
    if is_patched and plan is not None:
        patched_plan, used_detail = planned(INPAINT_PATCHED)

        def reseeded(other: int) -> Job:
            """Return the job of another seed, which draws one filling instead of choosing one."""
            options: dict[str, Any] = {"steps": steps, "detail": detail, "candidates": 1, "region": region}
            return prepare_inpaint(image, fill, seed=other, prior=model, **options)

        begun = replace(job, plan=patched_plan, detail=used_detail, reseed=reseeded)
        return begun_from_patches(begun, image, fill, window, candidates=count, instead=job)
    if start is None:
        return job
    check_start(start, "inpaint", model)
    return _filled_by(start, job, image, fill, window, steps=steps, detail=detail, method=method)


def _filled_by(
    start: FeedForward,
    job: Job,
    image: Tensor,
    fill: Tensor,
    window: Region,
    *,
    steps: int | None,
    detail: float | None,
    method: str,
) -> Job:
    """Return the job that starts from what a network fills into the holes.

    Args:
        start: The network.
        job: The job without a start.
        image: The picture, float (C, H, W) in [0, 1].
        fill: The mask, bool (H, W).
        window: The part of the picture that the job computes. The network sees the whole picture unless it is large.
        steps: Number of evaluations of the prior; None for the default.
        detail: The detail, 0..1; None for the default.
        method: One of METHODS.
    """
    if job.plan is None:
        return job

    def measure() -> Job:
        is_small = fill.numel() <= MAX_UNTILED_PIXELS
        seen = Region(0, 0, fill.shape[1], fill.shape[0]) if is_small else window
        hole, inside = fill[seen.rows, seen.columns], window.within(seen)
        part = without_equal_channels(torch.where(hole, 0.5, image[:, seen.rows, seen.columns]))
        answer = start(part, hole)
        made = as_colour(answer.picture[:, inside.rows, inside.columns])
        mean = made if job.y is None else torch.where(fill[window.rows, window.columns], made, job.y)
        notes = (*job.notes, *answer.notes)
        if steps == 0:
            return replace(job, plan=None, image=job.finish(mean, mean), starter=start, notes=notes)
        begun = begun_from(job, mean, INPAINT_STARTED, unit=1.0, steps=steps, detail=detail, method=method)
        return replace(begun, starter=start, notes=notes)

    return replace(job, measure=measure, starter=start)


def _doubt(hole: Tensor, *, wide: bool, known: bool) -> Doubt:
    """Return how the uncertainty of a filled picture is estimated.

    Args:
        hole: The pixels that are filled, bool (H, W).
        wide: Whether there are wide holes.
        known: Whether the other pixels stay as they are.
    """
    unchanged = ~hole if known else None
    return (
        Doubt("wide holes", mean_depth(hole), samples=8, known=unchanged, depth=depths(hole))
        if wide
        else Doubt("narrow holes", 1.0, samples=4, known=unchanged)
    )


def mean_depth(hole: Tensor) -> float:
    """Return the mean distance of the pixels of a hole from the known ones, in pixels; 1 if there are none.

    The distances are those of `depths`.
    """
    return max(float(depths(hole).sum()) / max(int(hole.sum()), 1), 1.0)


def depths(hole: Tensor) -> Tensor:
    """Return the distance of the pixels of a hole from the known ones in pixels, at most MAX_DEPTH, float32 (H, W).

    It is the number of times that the hole must shrink by a pixel on all sides for the pixel to be known, and 0 where
    it is known.
    """
    left, found = hole, torch.zeros(hole.shape)
    for _ in range(MAX_DEPTH):
        if not bool(left.any()):
            break
        found += left
        left = F.max_pool2d((~left).float()[None, None], 3, 1, 1)[0, 0] == 0
    return found


def _place_in(base: Region, whole: Place, margin: int) -> Place:
    """Return the place of a region within the window around all holes.

    Args:
        base: The window around all holes.
        whole: The place of the region within the whole picture.
        margin: As in `Place.of`.
    """
    if whole.canvas is None and whole.region == whole.window:
        return Place(base.height, base.width, base.within(base), base.within(base))
    part = whole.region.common(base)
    # A region without holes is not computed, so any part of the window stands for it.
    inside = Region(0, 0, 1, 1) if part is None else part.within(base)
    return Place.of(torch.empty(0, base.height, base.width), inside, margin)


def wide_part(hole: Tensor, side: int = WIDE_SIDE) -> Tensor:
    """Return the wide part of a hole.

    The wide part is the morphological opening of the hole by squares, extended by half their width within the hole. The
    extension compensates for the corners of the squares, so that a round hole is wide as a whole.

    Args:
        hole: bool (H, W).
        side: Side of the squares in pixels.

    Returns:
        bool (H, W), True only where `hole` is.
    """
    before, after = (side - 1) // 2, side // 2

    def spread(x: Tensor, pad: float, low: int, high: int) -> Tensor:
        """Return the largest value from `low` pixels before to `high` pixels after, first down, then across."""
        for padding, size in (((0, 0, low, high), (side, 1)), ((low, high, 0, 0), (1, side))):
            x = F.max_pool2d(F.pad(x, padding, value=pad), size, stride=1)
        return x

    fits = 1 - spread((~hole).float()[None, None], 1.0, before, after)
    opened = spread(fits, 0.0, after, before)
    return (spread(opened, 0.0, before, after)[0, 0] > 0) & hole


def _wide_holes(hole: Tensor, is_plain: bool) -> Tensor:
    """Return the holes that are filled as wide ones, bool (H, W).

    Args:
        hole: All holes, bool (H, W).
        is_plain: Whether wide holes may be filled with patches, which are good for less wide ones too.
    """
    return without_small(wide_part(hole, PATCHED_SIDE)) if is_plain else wide_part(hole)


def _has_narrow_part(hole: Tensor, wide: Tensor) -> bool:
    """Return whether a hole has a wide part and beside it enough narrow pixels for a pass of their own."""
    wide_pixels = int(wide.sum())
    return wide_pixels > 0 and int(hole.sum()) - wide_pixels > MIN_THIN_SHARE * wide_pixels


def _interpolate(colour: Tensor, known: Tensor) -> Tensor:
    """Return the picture with its holes filled smoothly, (C, H, W) in [0, 1]; unchanged if no pixel is known."""
    return push_pull(colour * known, known.float()[None]).clamp(0, 1) if known.any() else colour


def _coverage_notes(share: float) -> tuple[str, ...]:
    """Return the notes on a mask that covers a share of the picture, 0..1."""
    if not share:
        return ("the mask is empty: the picture is copied",)
    notes = [f"the mask covers {100 * share:.1f} % of the picture"]
    if share > MAX_USUAL_SHARE:
        notes.append(
            f"more than {100 * MAX_USUAL_SHARE:.0f} % will be filled: white marks the pixels to fill; "
            "use --invert-mask if black marks them"
        )
    return tuple(notes)


def _window(fill: Tensor) -> Region:
    """Return the window that holds all holes and CONTEXT pixels around them.

    Everything outside this window stays as it is.
    """
    slices = []
    for axis in (1, 0):
        hit = torch.nonzero(fill.any(axis)).flatten()
        low, high = (int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, 1)
        slices.append((max(0, low - CONTEXT), min(fill.shape[1 - axis], high + CONTEXT)))
    (top, bottom), (left, right) = slices
    return Region(left, top, right - left, bottom - top)
