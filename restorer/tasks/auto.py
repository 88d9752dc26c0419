"""Several repairs in one pass: what is sure of a picture is repaired in the right order, and the rest is left.

The steps of STEPS look at the picture as it is. Each says what it has found and how sure that is. What is sure becomes
a pass (`restorer.tasks.passes`); what is not is left alone, and a note says so. If nothing is found, the picture is
copied.

The order is that of the camera and of the file, backwards: the file was compressed last and the sensor made the noise,
so both are removed first, and are looked for together, because they hide each other. Then scratches are filled, which
were in the scene or on the print, and a blur, which the lens has made, is undone; a small picture is enlarged at the
end, when nothing is left in it that would be enlarged with it. Scratches are looked for before all else, because they
say nothing about the noise and the blur, and once more where strong noise may hide them. They are filled before a
deblurring that allows for white noise itself.

Only the last repair draws texture. Those before it return their most faithful picture, because texture that one of them
has drawn would be data to the next. There are two exceptions. The filling of scratches continues the texture around
them. Noise before a deblurring is removed at the default detail, as `deblur` does it, because what is lost of a blurred
picture together with its noise is amplified.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.errors import UsageError
from restorer.images.sizes import Enlargement, Region
from restorer.limits import STEPS_OF_AUTO, check
from restorer.measurement.jpeg import Jpeg
from restorer.tasks.alpha import prepare_alpha
from restorer.tasks.common import as_colour, check_picture, select_prior
from restorer.tasks.finding import Finding, Left, Seen, Step
from restorer.tasks.finding_blur import find_blur_step
from restorer.tasks.finding_noise import find_noise
from restorer.tasks.finding_scratches import find_scratches_step, find_scratches_under_noise
from restorer.tasks.finding_size import enlarge_options, enlarged_size, find_size_step
from restorer.tasks.job import Job
from restorer.tasks.passes import Pass, chained
from restorer.tasks.region import Place
from restorer.tasks.repair import Repair
from restorer.tasks.tiles import with_default_tiles
from restorer.tasks.upscale import ALPHA_NOTE

__all__ = ["NOTHING_FOUND", "STEPS", "prepare_auto"]

NOTHING_FOUND = "nothing was found that can be told from the picture itself: the picture is copied"


def prepare_auto(
    image: Tensor,
    *,
    scale: Enlargement | float | None = None,
    without: Collection[str] = (),
    evidence: Tensor | None = None,
    jpeg: Jpeg | None = None,
    alpha: Tensor | None = None,
    detail: float | None = None,
    seed: int = 0,
    region: Region | None = None,
    prior: Prior | None = None,
) -> Job:
    """Prepare a job that does all repairs of which the measurement of the picture is sure.

    Args:
        image: The picture, float (C, H, W) in [0, 1] with C = 1 or 3.
        scale: The factor by which it is enlarged, above 1 and at most 8, or the size of the result; None for no
            enlargement.
        without: What is not repaired even if it is found, of STEPS_OF_AUTO.
        evidence: As in `prepare_denoise`.
        jpeg: What is known of the file of the picture if it is a JPEG or was one; None if it is not.
        alpha: As in `prepare_upscale`. It is enlarged with the picture.
        detail: The detail of the last repair, 0..1; None for its default. The repairs before it have detail 0, apart
            from those that the module docstring names.
        seed: Seed of the noise field.
        region: The part of the picture that is restored and returned; None for all of it. All of it is measured.
        prior: As in `restorer.denoise`.

    Returns:
        A job that is measured when `Job.measured` is called. `Job.repairs` then says what was found.

    Raises:
        UsageError: A value is out of range, the tensor is not a picture, or the region lies outside of it.
        ModelError: The prior works on latents, or the installation lacks the weights of a network that measures.
    """
    check_picture(image)
    check(detail=detail, seed=seed)
    if unknown := sorted({*without} - {*STEPS_OF_AUTO}):
        raise UsageError(f"there is no step {unknown[0]!r}", f"the steps are {', '.join(STEPS_OF_AUTO)}")
    model, place = select_prior("auto", prior), Place.of(image, region)
    size = scale if scale is None or isinstance(scale, Enlargement) else Enlargement(scale)
    seen = Seen(image, model, size, frozenset(without), evidence, jpeg, detail, seed)
    part, start = place.exact(image), as_colour(place.seen(image))
    large = enlarged_size(seen, place)
    tiles = with_default_tiles(model, *start.shape[-2:])
    copy = Job(
        tiles,
        None,
        part,
        0.0,
        True,
        0.0,
        start,
        lambda x, first: part,
        second_pass_size=large,  # so that it does not share evaluations
        repairs=(),
    )
    return replace(copy, measure=lambda: _measured(seen, copy, region, alpha))


def _measured(seen: Seen, copy: Job, region: Region | None, alpha: Tensor | None) -> Job:
    """Measure the picture, and return the job that follows from what is found."""
    repairs, told = list[tuple[Repair, Finding]](), dict[str, Finding]()
    for step in STEPS:
        finding = step.find(replace(seen, found=tuple(sure for _, sure in repairs)))
        if finding is None:
            continue
        told[step.name] = finding  # what a second look is sure of replaces the doubt of the first
        seen = replace(seen, noise=finding.noise or seen.noise)
        if finding.prepare is None:
            continue
        if finding.takes_noise and repairs and repairs[-1][1].white:
            noise = repairs[-1]
            repairs[-1] = replace(noise[0], action=finding.action), noise[1]
        repairs.insert(_place_of(finding, repairs), (Repair(step.name, finding.found, finding.action), finding))
        if finding.hides is not None:
            seen = replace(seen, evidence=~finding.hides if seen.evidence is None else seen.evidence & ~finding.hides)
    notes = [finding.note for finding in told.values() if finding.note]
    repairs = _in_order(repairs)
    if repairs:
        job = chained(_passes([sure for _, sure in repairs], seen.detail), seen.image, seen.prior, region)
    else:
        job = replace(copy, second_pass_size=None)
        notes.append(NOTHING_FOUND)
    job = replace(
        job,
        measure=None,
        estimated=True,
        doubt=None,
        noise=next((finding.noise for finding in told.values() if finding.noise is not None), None),
        jpeg=next((finding.jpeg for finding in told.values() if finding.jpeg is not None), None),
        outliers=next((finding.outliers for finding in told.values() if finding.outliers is not None), None),
        blur=next((finding.blur for finding in told.values() if finding.blur is not None), None),
        repairs=tuple(repair for repair, _ in repairs),
        notes=(*job.notes, *notes),
    )
    return job if alpha is None or seen.scale is None else _with_alpha(job, alpha, seen, region)


def _place_of(finding: Finding, repairs: list[tuple[Repair, Finding]]) -> int:
    """Return where a repair belongs among those found before: one that waits stands before that of the noise."""
    with_noise = (place for place, (_, other) in enumerate(repairs) if finding.waits and other.noise is not None)
    return next(with_noise, len(repairs))


def _in_order(repairs: list[tuple[Repair, Finding]]) -> list[tuple[Repair, Finding]]:
    """Return the repairs in the order in which they are done: one that waits follows the next, unless that is taken."""
    ordered = list(repairs)
    for place, (_, finding) in enumerate(repairs[:-1]):
        following = repairs[place + 1][1]
        if finding.waits and following.noise is not None and not _is_taken(following, repairs[place + 2 :]):
            ordered[place : place + 2] = repairs[place + 1], repairs[place]
    return ordered


def _is_taken(finding: Finding, rest: list[tuple[Repair, Finding]]) -> bool:
    """Return whether the noise of a finding is left to the repair after it."""
    return bool(rest) and rest[0][1].takes_noise and finding.white > 0


def _passes(findings: list[Finding], detail: float | None) -> list[Pass]:
    """Return the passes that follow from what is sure."""
    passes, left = list[Pass](), Left()
    for place, finding in enumerate(findings):
        assert finding.prepare is not None
        rest = findings[place + 1 :]
        if rest and rest[0].takes_noise and finding.white:
            left = Left(finding.white)
            continue
        passes.append(finding.prepare(_detail_before(rest, finding, detail), left))
        left = left if finding.waits else finding.left
    return passes


def _detail_before(rest: list[Finding], finding: Finding, detail: float | None) -> float | None:
    """Return the detail of a repair, None for its default.

    Args:
        rest: The repairs after it.
        finding: What it repairs.
        detail: The detail that is asked for.
    """
    following = next((each for each in rest if not each.waits), None)
    if following is None:
        return detail
    if finding.noise is None:
        return 0.0
    return following.jpeg_detail if finding.noise.kind == "none" else following.noise_detail


def _with_alpha(job: Job, alpha: Tensor, seen: Seen, region: Region | None) -> Job:
    """Return the job that enlarges the transparency, too, if it varies."""
    options = enlarge_options(seen, seen.detail, seen.prior)
    return replace(job, alpha=prepare_alpha(alpha, options, region)).with_note(ALPHA_NOTE)


STEPS = (
    Step("scratches", find_scratches_step),
    Step("noise", find_noise),
    Step("scratches", find_scratches_under_noise),
    Step("blur", find_blur_step),
    Step("enlarging", find_size_step),
)
"""What is looked for, in this order."""
