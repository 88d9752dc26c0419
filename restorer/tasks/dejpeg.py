"""Removal of what JPEG compression did: blocks, ringing and coarse colour.

The file says in which interval each of its coefficients lies (`restorer.diffusion.degradations.quantization`). The
reverse process starts at the decoded picture y, at a level above the error of the compression, and each prediction is
drawn towards the middle of these intervals. The last one is forced into them, so that compressing the result again
gives the file back. `detail` is the factor on the noise that is carried from step to step, and with it the share of
texture that is sampled and not averaged.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.diffusion.prior import Prior
from restorer.images.sizes import Region
from restorer.limits import check
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.jpeg_window import cut_jpeg
from restorer.models.feed_forward import FeedForward
from restorer.tasks.common import as_colour, check_picture, select_prior, to_unit, without_equal_channels
from restorer.tasks.defaults import JPEG
from restorer.tasks.job import Job
from restorer.tasks.region import Place
from restorer.tasks.started import alone, check_start, repaired_from
from restorer.tasks.tiles import with_default_tiles
from restorer.tasks.uncertain import Doubt

__all__ = ["LEFT_BY_COMPRESSION", "NOT_FOUND", "can_be_restored", "prepare_dejpeg"]

LEAST_SIGMA = 1.0
"""Expected error in levels from which a compression is undone. A smaller one cannot be seen."""

LEFT_BY_COMPRESSION = 0.25
"""Standard deviation of the error that is left when compression has been undone, as a share of what it was."""

NOT_FOUND = "no visible JPEG compression was found: the picture is copied"


def can_be_restored(jpeg: Jpeg | None) -> bool:
    """Return whether a compression is known, strong enough to be seen, and of a gray or colour picture."""
    return jpeg is not None and jpeg.colour != "cmyk" and jpeg.sigma >= LEAST_SIGMA


def prepare_dejpeg(
    image: Tensor,
    jpeg: Jpeg | None,
    *,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    region: Region | None = None,
    start: FeedForward | None = None,
    prior: Prior | None = None,
) -> Job:
    """Prepare a job that removes what JPEG compression did.

    Args:
        image: The decoded picture, float (C, H, W) in [0, 1] with C = 1 or 3.
        jpeg: What is known of its file; None if it is not a JPEG.
        steps: Number of network evaluations; None for the default.
        detail: 0 (the mean of all pictures that the file may stand for) .. 1 (one of them); None for the default.
        method: As in `restorer.denoise`.
        seed: As in `restorer.denoise`.
        region: The part of the picture that is restored and returned; None for all of it.
        start: The network from whose result the reverse process starts; None if it starts from the picture.
        prior: As in `restorer.denoise`.

    Raises:
        UsageError: A value is out of range, the tensor is not a picture, or the region lies outside of it.
        ModelError: The prior or the network of the start cannot restore pictures.
    """
    check_picture(image)
    check(steps=steps, detail=detail, method=method, seed=seed, started=start is not None)
    place = Place.of(image, region)
    if start is not None:
        model = select_prior("dejpeg", prior)
        check_start(start, "dejpeg", model)
        if steps == 0:
            return alone(start, image, place, model)
        job = prepare_dejpeg(image, jpeg, method=method, seed=seed, region=region, prior=model)
        return repaired_from(job, start, image, place, steps=steps, detail=detail, method=method)
    picture, channels = as_colour(place.seen(image)), len(without_equal_channels(image))
    model = with_default_tiles(select_prior("dejpeg", prior), *picture.shape[-2:])
    used = JPEG.detail if detail is None else detail
    part = place.exact(image)
    unchanged = Job(model, None, part, 0.0, True, used, picture, lambda x, first: part, jpeg=jpeg, canvas=place.canvas)
    if jpeg is None or not can_be_restored(jpeg):
        return unchanged.with_note(NOT_FOUND)
    known = cut_jpeg(jpeg.luminance() if channels == 1 else jpeg, place.window)
    degradation, data, s = known.degradation(JPEG.shares, JPEG.most_doubt), known.data(), 2 * jpeg.sigma / 255
    count = steps or JPEG.steps
    first, last = (JPEG.single, JPEG.single) if count == 1 else (JPEG.first, JPEG.last)
    carried = used if method == "auto" else 1.0  # the published methods carry all noise
    auto = Plan(
        (*log_levels(first * s, last * s, count), 0.0),
        zeta=(0.0,) * count,
        kappa=carried,
        fresh_start=carried > 0,
        mirrored=model.mirrors,
        seed=seed,
    )

    def finish(x: Tensor, first: Tensor) -> Tensor:
        return place.inner(to_unit(degradation.finish(x.cpu(), data), channels)).expand(part.shape)

    return replace(
        unchanged,
        plan=make_plan(method, auto, start=first * s, end=last * s, steps=count),
        sigma=jpeg.sigma,
        finish=finish,
        degradation=degradation,
        y=data,
        noise_variance=1.0,
        doubt=Doubt(
            "dejpeg", 101.0 - jpeg.quality, at=1.0, cut=place.inner, is_gray=channels == 1, canvas=place.canvas
        ),
    )
