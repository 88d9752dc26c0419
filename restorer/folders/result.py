"""The result of one picture: how it is written, and what is said about it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restorer.folders.beside import Messages, prepare_extras, write_extras
from restorer.folders.events import Done
from restorer.folders.options import Options
from restorer.folders.picture import Kept, PreparedPicture, build_record, effective_settings
from restorer.images.attributes import set_times
from restorer.images.find import STDIO

if TYPE_CHECKING:
    from restorer.images.files import Picture
    from restorer.models.load import Model
    from restorer.tasks.job import Restored

__all__ = ["write_result"]


def write_result(
    prepared: PreparedPicture,
    restored: Restored | None,
    options: Options,
    model: Model,
    *,
    seconds: float,
    batch: int,
) -> Done:
    """Write a result, and return what is reported about it.

    Args:
        prepared: The picture and its job.
        restored: The restored picture; None if the picture is copied as it is.
        options: The options of the run.
        model: The model.
        seconds: Seconds that the picture has taken so far.
        batch: Number of pictures that shared the network's evaluations.

    Raises:
        OutputError: The result cannot be written.
    """
    from restorer.images import files, writing

    start, item, picture, job = time.monotonic(), prepared.item, prepared.picture, prepared.job
    result, notes, prior = picture, tuple[str, ...](), job.prior
    if options.region is not None:
        result = files.cut(picture, options.region)
    before, extras, messages = result, None, Messages()
    if restored is not None:
        notes, prior = restored.notes, restored.prior
        kept = Kept(None) if prepared.kept is None else prepared.kept
        result = files.with_result(result, restored.image, kept.pixels, reveal=kept.reveals, alpha=restored.alpha)
        record = build_record(prepared, options, prior, batch, model.identity)
        extras = prepare_extras(prepared, restored, options, record)
        result = files.with_record(result, extras.record.to_json())
    overwrite = options.overwrite or prepared.may_replace
    is_left, backup, told = options.in_place and result.original is not None, {}, dict[str, Any]()
    if is_left:
        notes = (*notes, "nothing has changed: the file is left as it is")
    else:
        if options.in_place:
            backup = _keep_original(item.target, picture, options.backup)
            overwrite = True
        notes = (*notes, *writing.save(result, prepared.target, prepared.format, overwrite, options.quality))
        notes = (*notes, *_keep_times(prepared))
        told = write_extras(prepared, restored, extras, result, options, messages, overwrite=overwrite)
    seconds += time.monotonic() - start
    facts = {
        "width": result.width,
        "height": result.height,
        "mode": result.mode,
        "depth_in": picture.depth,
        "depth_out": writing.written_depth(result, prepared.format),
        "model": model.identity,
        **effective_settings(job, prior, options),
        "batch": batch,
        "seconds": round(seconds, 2),
        "peak_mem_mb": _peak_memory_mb(),
        "warnings": [*picture.notes, *job.notes, *notes],
        **told,
        **({"recipe": prepared.fingerprint} if prepared.fingerprint else {}),
        **backup,
    }
    return Done(
        options.command,
        item,
        facts,
        notes,
        (result.width, result.height),
        item.target.stat().st_size if item.target != STDIO and item.target.is_file() else None,
        seconds,
        "left" if is_left else "replaced" if options.in_place else "wrote",
        (before, result) if options.show else None,
        tuple(messages.lines),
    )


def _keep_times(prepared: PreparedPicture) -> list[str]:
    """Give a result the times of its picture if that is wanted, and return a note if the system refuses."""
    target = prepared.item.target
    if prepared.times is None or target == STDIO or not target.is_file():
        return []
    try:
        set_times(target, prepared.times)
    except OSError as error:
        return [f"the times of the file cannot be set: {error.strerror}"]
    return []


def _keep_original(path: Path, picture: Picture, suffix: str | None) -> dict[str, str]:
    """Check that a picture can be replaced now, and keep a backup of it if that is wanted.

    Returns:
        The path of the backup as a field of the event; empty if there is none.

    Raises:
        OutputError: The file has changed since it was read, or the backup cannot be written.
    """
    from restorer.folders.in_place import check_unchanged, keep_backup

    check_unchanged(path, picture)
    return {} if suffix is None else {"backup": str(keep_backup(path, suffix))}


def _peak_memory_mb() -> int | None:
    """Return the peak memory of this process in MB; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, other systems kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
