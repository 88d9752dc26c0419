"""The choice of the pictures of a run: which are restored, and what is said of all other files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from restorer.errors import RestorerError
from restorer.folders.in_place import resolve_in_place
from restorer.folders.options import Options
from restorer.folders.paths import Item, resolve_targets, split_results
from restorer.images.find import Search

__all__ = ["Chosen", "choose"]


@dataclass(frozen=True)
class Chosen:
    """What a run does with the files that its inputs name.

    Args:
        to_do: The pictures to restore.
        existing: The pictures to skip, because their results exist.
        failed: The pictures that cannot be restored, each with the reason.
        passed_over: All other files, each with its kind.
    """

    to_do: list[Item]
    existing: list[Item]
    failed: list[tuple[Item, RestorerError]]
    passed_over: list[tuple[Path, str]]


def choose(found: Search, options: Options, tag: str, may_replace: Callable[[Path], bool]) -> Chosen:
    """Return what a run does with the files that its inputs name. A shard does its own part of that.

    Args:
        found: The files.
        options: The options of the run.
        tag: The part of the names of results that says what was done.
        may_replace: Whether a target is the result of an earlier run that goes on here.

    Raises:
        UsageError: As in `resolve_targets`.
    """
    shard = options.shard
    if options.in_place:
        mine = [each for each in found.pictures if shard is None or shard.holds(*each)]
        to_do, links, failed = resolve_in_place(mine, options.backup)
        return Chosen(to_do, [], failed, [*found.passed_over, *links])
    pictures, results = split_results(found.pictures, options.output, tag, options.suffix)
    passed_over = [*found.passed_over, *((path, "result") for path in results)]
    # The names of the results are those of a run over all pictures.
    to_do, existing, failed = resolve_targets(
        pictures,
        options.output,
        tag,
        overwrite=options.overwrite,
        skip_existing=options.skip_existing,
        may_replace=may_replace,
        dry_run=options.dry_run,
        siblings=found.unwanted,
        suffix=options.suffix,
    )

    def is_mine(item: Item) -> bool:
        return shard is None or shard.holds(item.source, item.root)

    return Chosen(
        [item for item in to_do if is_mine(item)],
        [item for item in existing if is_mine(item)],
        [(item, error) for item, error in failed if is_mine(item)],
        passed_over,
    )
