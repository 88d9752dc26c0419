"""Runs over folders from Python: the command's own engine, options and log, with a callback and an iterator of results.

Example:
    from restorer import restore_folder

    for result in restore_folder("scans", "denoise", output="clean", resume=True):
        print(result.item.source, result.status)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import MISSING
from typing import Any

from restorer.errors import UsageError
from restorer.folders.cluster import make_run
from restorer.folders.events import Event, Outcome
from restorer.folders.extras import check_extras
from restorer.folders.opening import open_log
from restorer.folders.options import Options, check_options
from restorer.folders.picture import Verb
from restorer.folders.verb_options import OPTIONS
from restorer.folders.verbs import VERBS
from restorer.images.find import search_all
from restorer.tasks.option import declared

__all__ = ["restore_folder"]

AnyPath = str | os.PathLike[str]

NOT_OPTIONS = frozenset(["output", "recursive", "resume", "dry_run", "show", "json", "quiet", "verbose"])
"""The options of the command that are parameters of their own here, or about a terminal."""


def restore_folder(
    paths: AnyPath | Iterable[AnyPath],
    task: str,
    *,
    output: AnyPath | None = None,
    recursive: bool = True,
    resume: bool = False,
    on_event: Callable[[Event], None] | None = None,
    **options: Any,
) -> Generator[Outcome]:
    """Restore files and folders as the command does, and yield what becomes of each picture.

    The pictures are restored while the results are asked for. Closing the iterator ends the run: what is being written
    is completed, and the log says what is done.

    Args:
        paths: Files, folders and glob patterns.
        task: "auto", "denoise", "dejpeg", "deblur", "inpaint" or "upscale".
        output: A file, or a folder for the results; None to write each beside its picture.
        recursive: Whether folders are allowed among the paths.
        resume: Whether an earlier run is continued, by this function or by the command.
        on_event: Function called with each event (`restorer.folders.events`), in the thread that asks for the results.
        options: The options of the command by their names, with `_` for `-`: `sigma=25`, `include=["*.tif"]`,
            `mask="masks"` and so on. The defaults are those of the command.

    Yields:
        `Done`, `Skipped` or `Failed` for each picture. A picture that fails does not end the run.

    Raises:
        UsageError: The task or an option is unknown, or a value is out of range or of the wrong type.
        RestorerError: The run cannot begin, or cannot go on.
    """
    if task not in VERBS:
        raise UsageError(f"unknown task {task!r}", f"choose one of {', '.join(VERBS)}")
    if on_event is not None and not callable(on_event):
        raise UsageError(f"on_event must be a function, not {type(on_event).__name__}")
    inputs = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    shared = {
        "inputs": [os.fspath(path) for path in inputs],
        "output": None if output is None else os.fspath(output),
        "recursive": recursive,
        "resume": resume,
    }
    chosen, verb = _parse(task, shared, options)
    return _outcomes(chosen, verb, on_event)


def _outcomes(options: Options, verb: Verb, on_event: Callable[[Event], None] | None) -> Generator[Outcome]:
    """Yield what becomes of each picture; see `restore_folder`."""
    found = search_all(options.inputs, recursive=options.recursive, include=options.include, exclude=options.exclude)
    with open_log(options, found.pictures) as log, closing(make_run(options, verb, log).events(found)) as events:
        for event in events:
            if on_event is not None:
                on_event(event)
            if isinstance(event, Outcome):
                yield event


def _parse(task: str, shared: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Options, Verb]:
    """Return the options and the verb that the arguments of `restore_folder` stand for.

    Raises:
        UsageError: As in `restore_folder`.
    """
    kind = OPTIONS[task]
    known = {name: each for name, each in declared(kind).items() if name not in NOT_OPTIONS}
    if unknown := sorted(given.keys() - known):
        raise UsageError(f"{task} has no option {unknown[0]!r}", f"it has {', '.join(sorted(known))}")
    if missing := [name for name, each in known.items() if each.default is MISSING and name not in given]:
        raise UsageError(f"{task} needs the option {missing[0]!r}")
    options = kind(**shared, quiet=True, **{name: known[name].take(value) for name, value in given.items()})
    check_options(options)
    check_extras(options)
    return options, VERBS[task](options)
