"""Several repairs of one picture: each continues in memory from the result of the one before, without any rounding.

A job may have a second pass, which may have one itself. So a chain of repairs is one job, with one progress, one
picture to read and one result to write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.sizes import Region
from restorer.priors.tiled import Tiled
from restorer.tasks.job import Job

__all__ = ["Pass", "chained", "everything", "nothing_around"]


def nothing_around(region: Region | None) -> Region | None:
    """Return what a pass needs of the picture that looks no further than the pass before it: the region itself."""
    return region


def everything(region: Region | None) -> None:
    """Return what a pass needs of the picture that measures it, or takes it whole for another reason: None, for all."""
    return None


@dataclass(frozen=True)
class Pass:
    """One repair among several.

    Args:
        begin: Returns the job. Its arguments are the picture as the pass before has left it, the prior, and the region
            of the picture that its result shows, or None for all of it. The picture, (C, H, W), is the whole one for
            the first pass, and for the others what `needs` names.
        evaluations: Number of network evaluations.
        detail: The detail that is used, 0..1.
        needs: Returns the region that the pass needs of the picture, for the region that its result shows; None is all.
        size: Height and width of what is computed, if that is larger than the picture.
        again: Degrades a result, (C, H, W), as the picture was; None if the repair does not change how it is seen.
    """

    begin: Callable[[Tensor, Prior, Region | None], Job]
    evaluations: int
    detail: float
    needs: Callable[[Region | None], Region | None] = nothing_around
    size: tuple[int, int] | None = None
    again: Callable[[Tensor], Tensor] | None = None


def chained(passes: Sequence[Pass], image: Tensor, prior: Prior, region: Region | None) -> Job:
    """Return the job that does all passes in their order.

    Args:
        passes: At least one pass.
        image: The picture, float (C, H, W) in [0, 1].
        prior: The prior, tiled or not. If it is tiled, every pass has its tiles.
        region: The part of the picture that the result shows; None for all of it.
    """
    first, *rest = passes
    if not rest:
        return first.begin(image, prior, region)
    job = first.begin(image, prior, _needed(rest, region)).measured()
    part = image if region is None else image[..., region.rows, region.columns]
    if job.is_copy and job.second_pass is None:  # a part of the picture may need no repair that another part needs
        following = chained(rest, job.image, prior, region).measured()
        return replace(following, image=part, notes=(*job.notes, *following.notes))

    def go_on(restored: Tensor, used: Tiled) -> Job:
        # Tiles that were chosen for this pass may not suit the next one.
        return chained(rest, restored, used if isinstance(prior, Tiled) else used.prior, region)

    sizes = [each.size for each in rest if each.size is not None]
    return replace(
        _followed(job, go_on, sum(each.evaluations for each in rest)),
        image=part,
        detail=rest[-1].detail,
        second_pass_size=max(sizes) if sizes else job.second_pass_size,
        again=_degrader(passes) if region is None else _unknown,
        doubt=None,
        reseed=None,
        redo=None,
    )


def _followed(job: Job, go_on: Callable[[Tensor, Tiled], Job], evaluations: int) -> Job:
    """Return a job after whose last pass there is another one.

    Args:
        job: The job, which may have a second pass of its own.
        go_on: Returns the job that continues from the result.
        evaluations: Number of evaluations that it takes.
    """
    own = job.second_pass
    second = go_on if own is None else lambda image, used: _followed(own(image, used).measured(), go_on, evaluations)
    count = job.second_pass_evaluations + evaluations
    return replace(job, second_pass=second, second_pass_evaluations=count)


def _needed(passes: Sequence[Pass], region: Region | None) -> Region | None:
    """Return the region of the picture that the passes need, so that the result shows a region."""
    return reduce(lambda shown, each: each.needs(shown), reversed(passes), region)


def _unknown(image: Tensor) -> Tensor:
    """Return no pixels: what a part of a picture was depends on what lies around it."""
    return image[..., :0, :0]


def _degrader(passes: Sequence[Pass]) -> Callable[[Tensor], Tensor] | None:
    """Return the function that degrades a result again, the last repair first; None if none changes how it is seen."""
    found = [each.again for each in reversed(passes) if each.again is not None]
    return (lambda image: reduce(lambda x, again: again(x), found, image)) if found else None
