"""Fill holes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.degradations import Mask
from restorer.diffusion.prior import Prior
from restorer.errors import UsageError
from restorer.images.files import push_pull
from restorer.limits import check
from restorer.measurement.white_noise import estimate_sigma
from restorer.priors.tiled import Tiled
from restorer.tasks.common import as_colour, check_picture, conditioned_plan, prior_for, to_unit
from restorer.tasks.defaults import INPAINT, INPAINT_WIDE, WIDE
from restorer.tasks.job import Job, tiled

__all__ = ["prepare_inpaint", "wide_part"]

LEAST_THIN = 0.01  # narrow holes count beside wide ones from this share on: a rough rim makes none
CONTEXT = 96  # pixels around the holes that a network sees when the rest of the picture is left out


def prepare_inpaint(
    image: Tensor,
    fill: Tensor,
    *,
    sigma: float | None = 0.0,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
) -> Job:
    """Decide how to fill holes. Arguments as `restorer.inpaint`; `fill` is bool (H, W), True where to fill."""
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed)
    if fill.shape != image.shape[-2:]:
        raise UsageError(f"the mask is {tuple(fill.shape)}, the picture {tuple(image.shape[-2:])}")
    check_picture(torch.where(fill, 0.5, image))  # under the mask it may hold anything
    channels, share = image.shape[0], float(fill.double().mean())
    estimated, sigma = sigma is None, estimate_sigma(image) if sigma is None else sigma
    # Known pixels that are noisy are restored too, and they are everywhere.
    rows, columns = _window(fill) if sigma == 0 else (slice(None), slice(None))
    part, hole = image[:, rows, columns], fill[rows, columns]
    model = tiled(prior_for("inpaint", prior), *hole.shape)
    known = ~hole
    colour = torch.where(known, part, 0.5)
    mean = push_pull(colour * known, known.float()[None]).clamp(0, 1) if known.any() else colour
    notes = [f"the mask covers {100 * share:.1f} % of the picture"]
    if share > 0.6:
        notes.append("more than 60 % is to be filled: white means fill; --invert-mask turns that round")
    wide = wide_part(hole)
    thin = int(hole.sum() - wide.sum())
    in_turn = method == "auto" and sigma == 0 and bool(wide.any()) and thin > LEAST_THIN * int(wide.sum())
    defaults = INPAINT_WIDE if wide.any() and not in_turn else INPAINT
    plan, used = conditioned_plan(model, defaults, steps, detail, method, seed, holes=True) if share else (None, 0.0)
    if plan is None:
        notes = ["the mask is empty: the picture is copied"]

    def finish(x: Tensor, first: Tensor) -> Tensor:
        result = image.clone()
        restored = to_unit(x, channels)
        result[:, rows, columns] = torch.where(hole, restored, part) if sigma == 0 else restored
        return result

    def fill_wide(filled: Tensor, tiles: Tiled) -> Job:
        """The wide holes again, with the narrow ones filled, which their own settings do far better."""
        left = torch.zeros_like(fill)
        left[rows, columns] = wide
        return prepare_inpaint(filled, left, steps=steps, detail=detail, seed=seed, prior=tiles)

    return Job(
        model,
        plan,
        image,
        sigma,
        estimated,
        used,
        as_colour(mean),
        finish,
        degradation=Mask(known[None, None]),
        y=as_colour(colour),
        noise_variance=(2 * sigma / 255) ** 2,
        notes=tuple(notes),
        then=fill_wide if in_turn else None,
        more=(steps or INPAINT_WIDE.steps) if in_turn else 0,
    )


def wide_part(hole: Tensor) -> Tensor:
    """Of a hole, bool (H, W), what lies in a square of WIDE pixels that fits into it, or within half of that beyond.

    The squares are the morphological opening; what is added makes up for their corners, so that a round hole is whole.
    """

    def spread(x: Tensor, pad: float) -> Tensor:
        """The largest value within WIDE / 2 pixels, first down, then across."""
        for reach, size in (((0, 0, WIDE // 2, WIDE // 2), (WIDE, 1)), ((WIDE // 2, WIDE // 2, 0, 0), (1, WIDE))):
            x = F.max_pool2d(F.pad(x, reach, value=pad), size, stride=1)
        return x

    centres = 1 - spread((~hole).float()[None, None], 1.0)
    return (spread(spread(centres, 0.0), 0.0)[0, 0] > 0) & hole


def _window(fill: Tensor) -> tuple[slice, slice]:
    """Rows and columns that hold all holes and CONTEXT pixels around them; everything else cannot change."""
    places = []
    for axis in (1, 0):
        hit = torch.nonzero(fill.any(axis)).flatten()
        low, high = (int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, 1)
        places.append(slice(max(0, low - CONTEXT), min(fill.shape[1 - axis], high + CONTEXT)))
    return places[0], places[1]
