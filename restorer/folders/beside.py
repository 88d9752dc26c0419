"""What is told of a result, and what is written beside it: its uncertainty, its consistency, and further samples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from restorer.folders.extras import sample_paths
from restorer.folders.options import Options
from restorer.folders.picture import Kept, PreparedPicture

if TYPE_CHECKING:
    from restorer.folders.provenance import Record
    from restorer.images.files import Picture
    from restorer.tasks.certainty import Certainty
    from restorer.tasks.consistency import Consistency
    from restorer.tasks.job import Restored

__all__ = ["Extras", "Messages", "prepare_extras", "write_extras"]


@dataclass(frozen=True)
class Messages:
    """What is told of what has been written beside a result.

    Args:
        lines: Pairs of "say", "note" or "detail" and a text, in the order of time.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add a message."""
        self.lines.append(("say", text))

    def warn(self, text: str) -> None:
        """Add a note about something that the user may not expect."""
        self.lines.append(("note", text))

    def detail(self, text: str) -> None:
        """Add a message that is shown if more is wanted."""
        self.lines.append(("detail", text))


@dataclass(frozen=True)
class Extras:
    """What is told of a result.

    Args:
        record: The record of the result, with what is told in it.
        certainty: How certain the result is; None if that was not asked for.
        consistency: How far the result, degraded again, is from the input.
    """

    record: Record
    certainty: Certainty | None
    consistency: Consistency


def prepare_extras(prepared: PreparedPicture, restored: Restored, options: Options, record: Record) -> Extras:
    """Return what is told of a result, in its record too.

    Args:
        prepared: The picture and its job.
        restored: The result.
        options: The options of the run.
        record: The record without it.
    """
    from restorer.tasks.certainty import certainty_of
    from restorer.tasks.consistency import consistency_of

    consistency = consistency_of(prepared.job, restored.image)
    record = replace(record, consistency=consistency.describe())
    if options.samples > 1:
        with_others = {**record.options, "samples": options.samples}
        record = replace(record, options=with_others, sample=f"1 of {options.samples}")
    if prepared.map_target is None:
        return Extras(record, None, consistency)
    certainty = certainty_of(prepared.job, restored)
    with_map = {**record.options, "uncertainty": prepared.map_target.name}
    return Extras(replace(record, options=with_map, uncertainty=certainty.describe()), certainty, consistency)


def write_extras(
    prepared: PreparedPicture,
    restored: Restored | None,
    extras: Extras | None,
    result: Picture,
    options: Options,
    messages: Messages,
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Write the map and the samples of a picture, and report them.

    Args:
        prepared: The picture and its job.
        restored: The result; None if the picture is copied.
        extras: What is told of the result; None if the picture is copied.
        result: The result as it is written.
        options: The options of the run.
        messages: Receives what is told.
        overwrite: Whether existing files are replaced.

    Returns:
        The fields that the log and `--json` report.

    Raises:
        OutputError: A file cannot be written.
    """
    fields: dict[str, Any] = {"consistency": None if extras is None else extras.consistency.to_dict()}
    if extras is not None and (words := extras.consistency.describe()):
        messages.detail(words)
    if prepared.map_target is not None:
        fields["uncertainty"] = _write_map(prepared, extras, result, messages, overwrite=overwrite)
    if options.samples > 1:
        fields["samples"] = _write_samples(prepared, restored, extras, options, messages, overwrite=overwrite)
    return fields


def _write_map(
    prepared: PreparedPicture, extras: Extras | None, result: Picture, messages: Messages, *, overwrite: bool
) -> dict[str, Any]:
    """Write the map of the uncertainty, and return what is reported of it."""
    import torch

    from restorer.diffusion.calibration import LEVEL
    from restorer.images.uncertainty_map import encode_map, write_map
    from restorer.tasks.certainty import COPIED, Certainty

    assert prepared.map_target is not None
    found = extras.certainty if extras is not None else None
    if found is None:
        found = Certainty(torch.zeros(result.height, result.width), False, note=COPIED)
    record = "" if extras is None else extras.record.to_json()
    half, words = found.half.numpy(), found.describe()
    data = encode_map(half, LEVEL, calibrated=found.calibrated, kind=found.kind, words=words, record=record)
    write_map(prepared.map_target, data, overwrite=overwrite)
    if found.note:
        messages.warn(found.note)
    messages.say(f"wrote {prepared.map_target} · {words}")
    return {"path": str(prepared.map_target), **found.to_dict(), "note": found.note or None}


def _write_samples(
    prepared: PreparedPicture,
    restored: Restored | None,
    extras: Extras | None,
    options: Options,
    messages: Messages,
    *,
    overwrite: bool,
) -> list[str]:
    """Write the samples after the first and the mean of all, and return their paths; none for a copied picture."""
    import torch

    from restorer.images import files, writing

    if restored is None or extras is None or not restored.samples:
        return []
    images = (restored.image, *restored.samples)
    if all(torch.equal(restored.image, other) for other in restored.samples):
        messages.warn(
            "the samples are equal, because these settings draw no noise: use --method ddpm, or more --detail"
        )
    paths, kept = sample_paths(prepared.item, options), prepared.kept or Kept(None)
    mean = torch.stack(images).mean(0)
    plain = {name: value for name, value in extras.record.options.items() if name not in ("uncertainty", "samples")}
    for number, (path, image) in enumerate(zip(paths, (*restored.samples, mean), strict=True), 2):
        is_mean = number > options.samples
        seed = options.seed + number - 1
        other = prepared.job if is_mean else prepared.job.with_seed(seed)
        used = {**plain, **({"samples": options.samples} if is_mean else {"seed": seed})}
        if "detail" in used and other.detail != prepared.job.detail:  # results without noise have samples with it
            used |= {"detail": other.detail, "steps": other.evaluations if other.second_pass is None else None}
        which = f"mean of {options.samples}" if is_mean else f"{number} of {options.samples}"
        record = replace(extras.record, options=used, sample=which, uncertainty="", consistency="")
        result = files.with_result(
            prepared_part(prepared, options), image, kept.pixels, reveal=kept.reveals, alpha=restored.alpha
        )
        result = files.with_record(result, record.to_json())
        writing.save(result, path, prepared.format, overwrite, options.quality)
    messages.say(f"wrote {len(paths) - 1} more sample{'' if len(paths) == 2 else 's'} and their mean, {paths[-1]}")
    return [str(path) for path in paths]


def prepared_part(prepared: PreparedPicture, options: Options) -> Picture:
    """Return the picture, or the part of it that is restored."""
    from restorer.images import files

    return prepared.picture if options.region is None else files.cut(prepared.picture, options.region)
