"""Removal of what JPEG compression did: blocks, ringing and coarse colour.

The file says in which interval each of its coefficients lies (`restorer.diffusion.degradations.quantization`). The
reverse process starts at the decoded picture y, and each prediction is drawn towards the middle of these intervals. The
last one is forced into them, so that compressing the result again gives the file back, but for roundings. `detail` is
the factor on the noise that is carried from step to step, and with it the share of texture that is sampled and not
averaged.

Beside the embedded prior there is a network that was trained for JPEG, which gives the first answer
(`restorer/priors/experts.py`). The prior alone starts at a level above the error of the compression instead.
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
from restorer.models.load import DECOMPRESSING, with_first_expert
from restorer.priors.experts import decompressing_level
from restorer.tasks.common import as_colour, check_picture, select_prior, to_unit, without_equal_channels
from restorer.tasks.defaults import DECOMPRESS, JPEG
from restorer.tasks.job import Job
from restorer.tasks.region import Place
from restorer.tasks.started import alone, check_start, repaired_from
from restorer.tasks.tiles import with_default_tiles
from restorer.tasks.uncertain import Doubt

__all__ = ["NOT_FOUND", "can_be_restored", "prepare_dejpeg"]

LEAST_SIGMA = 1.0
"""Expected error in levels from which a compression is undone. A smaller one cannot be seen."""

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
    model = select_prior("dejpeg", prior)
    if start is None:
        return _prepare(image, jpeg, place, model, steps, detail, method, seed, may_ask_expert=True)
    check_start(start, "dejpeg", model)
    if steps == 0:
        return alone(start, image, place, model)
    job = _prepare(image, jpeg, place, model, None, None, method, seed, may_ask_expert=False)
    return repaired_from(job, start, image, place, steps=steps, detail=detail, method=method)


def _prepare(
    image: Tensor,
    jpeg: Jpeg | None,
    place: Place,
    prior: Prior,
    steps: int | None,
    detail: float | None,
    method: str,
    seed: int,
    *,
    may_ask_expert: bool,
) -> Job:
    """Prepare the job of a part of a picture, which starts from the picture.

    Args:
        image: As in `prepare_dejpeg`.
        jpeg: As in `prepare_dejpeg`.
        place: The part.
        prior: The prior.
        steps: As in `prepare_dejpeg`.
        detail: As in `prepare_dejpeg`.
        method: As in `prepare_dejpeg`.
        seed: As in `prepare_dejpeg`.
        may_ask_expert: Whether the network for the first answer is asked, if the prior has one.
    """
    picture, channels = as_colour(place.seen(image)), len(without_equal_channels(image))
    model = with_default_tiles(prior, *picture.shape[-2:])
    used = JPEG.detail if detail is None else detail
    part = place.exact(image)
    unchanged = Job(model, None, part, 0.0, True, used, picture, lambda x, first: part, jpeg=jpeg, canvas=place.canvas)
    if jpeg is None or not can_be_restored(jpeg):
        return unchanged.with_note(NOT_FOUND)
    known = cut_jpeg(jpeg.luminance() if channels == 1 else jpeg, place.window)
    expert = with_first_expert(model, DECOMPRESSING, known.missing) if may_ask_expert and method == "auto" else None
    settings = JPEG if expert is None else DECOMPRESS
    degradation, data, s = known.degradation(settings.shares, settings.most_doubt), known.data(), 2 * jpeg.sigma / 255
    plan = (
        _plan(model, s, steps, used, method, seed)
        if expert is None
        else _expert_plan(model, known, s, steps, used, seed)
    )

    def finish(x: Tensor, first: Tensor) -> Tensor:
        return place.inner(to_unit(degradation.finish(x.cpu(), data), channels)).expand(part.shape)

    return replace(
        unchanged,
        prior=model if expert is None else with_default_tiles(expert, *picture.shape[-2:]),
        plan=plan,
        sigma=jpeg.sigma,
        finish=finish,
        degradation=degradation,
        y=data,
        noise_variance=1.0,
        doubt=Doubt(
            "dejpeg",
            101.0 - jpeg.quality,
            at=1.0,
            level=DECOMPRESS.last * s if expert is not None and plan.evaluations == 1 else None,
            cut=place.inner,
            is_gray=channels == 1,
            canvas=place.canvas,
        ),
    )


def _plan(prior: Prior, s: float, steps: int | None, detail: float, method: str, seed: int) -> Plan:
    """Return the plan of a run that asks the prior alone.

    Args:
        prior: The prior.
        s: Standard deviation of the error of the compression, on the [-1, 1] scale.
        steps: Number of evaluations; None for the default.
        detail: The detail, 0..1.
        method: One of METHODS.
        seed: Seed of the noise field.
    """
    count = steps or JPEG.steps
    first, last = (JPEG.single, JPEG.single) if count == 1 else (JPEG.first, JPEG.last)
    carried = detail if method == "auto" else 1.0  # the published methods carry all noise
    auto = Plan(
        (*log_levels(first * s, last * s, count), 0.0),
        zeta=(0.0,) * count,
        kappa=carried,
        fresh_start=carried > 0,
        mirrored=prior.mirrors,
        seed=seed,
    )
    return make_plan(method, auto, start=first * s, end=last * s, steps=count)


def _expert_plan(prior: Prior, jpeg: Jpeg, s: float, steps: int | None, detail: float, seed: int) -> Plan:
    """Return the plan of a run whose first answer another network gives; the arguments are those of `_plan`."""
    count = (steps or DECOMPRESS.steps) - 1
    levels = log_levels(DECOMPRESS.first * s, DECOMPRESS.last * s, count) if count else []
    return Plan(
        (decompressing_level(jpeg.components[0].steps), *levels, 0.0),
        zeta=(1.0,) + (0.0,) * count,
        kappa=detail,
        prior_variance=(DECOMPRESS.trust * s) ** 2,
        fresh_start=False,
        mirrored=prior.mirrors,
        seed=seed,
    )
