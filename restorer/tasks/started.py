"""Restorations that start from the result of another network, and that result by itself.

A network that restores in a single pass (`restorer.models.feed_forward`) gives a picture that is already near the
truth, or that has the look which its user wants. The reverse process then starts at a low level from it: a few
evaluations with a small carried noise keep what the network has made and the prior finds likely, and each of them is
corrected towards the data as in the task without a start. So the result of an enlargement shrinks to the input, and
that of a JPEG file stays within its intervals, whatever the network invents.

With no evaluation at all, the result is that of the network. Nothing is measured then, and nothing corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from restorer.diffusion.degradations.pointwise import Identity
from restorer.diffusion.plan import log_levels, make_plan
from restorer.diffusion.prior import Prior
from restorer.errors import UsageError
from restorer.models.feed_forward import FeedForward
from restorer.priors.latent import latent_of
from restorer.tasks.common import as_colour, to_unit, without_equal_channels
from restorer.tasks.job import Job
from restorer.tasks.region import Place
from restorer.tasks.tiles import with_default_tiles

__all__ = [
    "DEBLUR_STARTED",
    "INPAINT_STARTED",
    "REPAIR_STARTED",
    "UPSCALE_STARTED",
    "Begin",
    "Started",
    "alone",
    "begun_from",
    "check_start",
    "repaired_from",
]


@dataclass(frozen=True)
class Started:
    """The default settings of a reverse process that starts from the result of a network.

    Args:
        steps: Number of network evaluations of the prior.
        detail: Value of the option `detail`, the factor on the noise that is carried from step to step.
        first: Level of the first evaluation, on the [-1, 1] scale or as a multiple of that of the error in the input.
        last: Level of the last one, in the same unit.
        zeta: Share of fresh noise; see `Plan`.
    """

    steps: int
    detail: float
    first: float
    last: float
    zeta: float = 0.0

    def used(self, detail: float | None, method: str) -> float:
        """Return the detail that is used; the published methods carry all noise by default."""
        if detail is not None:
            return detail
        return self.detail if method == "auto" else 1.0


UPSCALE_STARTED = Started(steps=4, detail=0.5, first=0.15, last=0.02)
"""Absolute levels. Higher ones take away the texture that the network has drawn, lower ones keep the echoes that the
correction of its result leaves."""

INPAINT_STARTED = Started(steps=4, detail=0.5, first=0.1, last=0.02, zeta=1.0)
"""Absolute levels. The known pixels are noised anew at every step, as in the task without a start."""

REPAIR_STARTED = Started(steps=3, detail=0.5, first=0.35, last=0.12)
"""Multiples of the standard deviation of the noise, or of the error of the compression, that was measured."""

DEBLUR_STARTED = Started(steps=4, detail=0.4, first=3.0, last=1.0)
"""Multiples of the level of the noise in the blurred picture."""

NOTHING_TO_CORRECT = "the network is not used, because no damage was found; --steps 0 gives its own result"


@dataclass(frozen=True)
class Begin:
    """How an enlargement begins: with what a network makes of the small picture.

    Args:
        network: The network.
        picture: What it sees, float (C, h, w) in [0, 1].
        steps: Number of evaluations of the prior; None for the default.
    """

    network: FeedForward
    picture: Tensor
    steps: int | None

    @property
    def evaluations(self) -> int:
        """The number of evaluations of the prior."""
        return self.steps or UPSCALE_STARTED.steps

    def detail(self, given: float | None, method: str) -> float:
        """Return the detail that is used if this value of the option, or None, is given."""
        return UPSCALE_STARTED.used(given, method)


def check_start(start: FeedForward, command: str, prior: Prior, factor: float | None = None) -> None:
    """Check that a network can be the start of a task.

    Args:
        start: The network.
        command: The name of the command.
        prior: The prior of the reverse process.
        factor: The factor by which a picture is to be enlarged; None if it keeps its size.

    Raises:
        ModelError: The network does not serve the command.
        UsageError: The network enlarges by another factor, or the prior works on latents.
    """
    start.check(command, factor)
    if latent_of(prior) is not None:
        raise UsageError("a model that works on latents takes no start", "leave out --start or --model")


def alone(
    start: FeedForward,
    image: Tensor,
    place: Place,
    prior: Prior,
    finish: Callable[[Tensor], Tensor] | None = None,
) -> Job:
    """Return the job whose result is that of a network by itself.

    Args:
        start: The network.
        image: The whole picture, float (C, H, W) in [0, 1].
        place: The part of it that is restored.
        prior: The prior of the command, which is not asked.
        finish: Maps what the network makes of the window, (C, h, w), to the result; None takes the region out of it.
    """
    seen, part = place.seen(without_equal_channels(image)), place.exact(image)
    tiles = with_default_tiles(prior, *(start.scale * side for side in seen.shape[-2:]))
    job = Job(tiles, None, part, 0.0, False, 0.0, as_colour(seen), lambda x, first: part, starter=start)

    def measure() -> Job:
        answer = start(seen)
        made = place.inner(answer.picture) if finish is None else finish(answer.picture)
        made = made.expand(len(image), -1, -1)
        return replace(job, measure=None, image=made, start=as_colour(answer.picture), notes=answer.notes)

    return replace(job, measure=measure)


def begun_from(
    job: Job, mean: Tensor, settings: Started, *, unit: float, steps: int | None, detail: float | None, method: str
) -> Job:
    """Return a job that starts at a low level from a picture, and is otherwise the same.

    Args:
        job: The job, whose plan is known.
        mean: The picture, shaped like the start of the job.
        settings: The default settings.
        unit: What their levels are multiples of, on the [-1, 1] scale.
        steps: Number of evaluations; None for the default.
        detail: The detail, 0..1; None for the default.
        method: One of METHODS.
    """
    assert job.plan is not None
    count, carried = steps or settings.steps, settings.used(detail, method)
    first, last = settings.first * unit, settings.last * unit
    auto = replace(
        job.plan,
        sigmas=(*log_levels(first, last, count), 0.0),
        zeta=(settings.zeta,) * count,
        kappa=carried,
        data_noise=None,
        extrapolation=0.0,
        fresh_start=True,
    )
    plan = make_plan(method, auto, start=first, end=last, steps=count)
    return replace(job, plan=plan, start=mean, detail=carried, measure=None)


def repaired_from(
    job: Job,
    start: FeedForward,
    image: Tensor,
    place: Place,
    *,
    steps: int | None,
    detail: float | None,
    method: str,
) -> Job:
    """Return a job that removes noise or undoes compression, and starts from the result of a network.

    Args:
        job: The job without a start.
        start: The network.
        image: The whole picture, float (C, H, W) in [0, 1].
        place: The part of it that is restored.
        steps: Number of evaluations of the prior; None for the default.
        detail: The detail, 0..1; None for the default.
        method: One of METHODS.
    """
    reduced = without_equal_channels(image)
    channels, seen, shape = len(reduced), place.seen(reduced), place.exact(image).shape

    def measure() -> Job:
        found = job.measured()
        if found.plan is None:
            return found.with_note(NOTHING_TO_CORRECT)
        answer, error = start(seen), 2 * found.sigma / 255

        def finish(x: Tensor, first: Tensor) -> Tensor:
            if found.degradation is not None:
                return found.finish(x, x)
            return place.inner(to_unit(x, channels)).expand(shape)

        begun = found
        if found.degradation is None:  # white noise is part of the state there, and data beside it here
            plan = replace(found.plan, correct_last=False)
            begun = replace(
                found, plan=plan, degradation=Identity(), y=as_colour(seen), noise_variance=error**2, detail=0.0
            )
        begun = begun_from(
            begun, as_colour(answer.picture), REPAIR_STARTED, unit=error, steps=steps, detail=detail, method=method
        )
        return replace(begun, finish=finish, starter=start, notes=(*found.notes, *answer.notes))

    return replace(job, measure=measure, starter=start)
