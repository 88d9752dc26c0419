"""Runs over folders from Python: the command's own engine, options and log, with a callback and an iterator of results.

Example:
    from restorer import restore_folder

    for result in restore_folder("scans", "denoise", output="clean", resume=True):
        print(result.item.source, result.status)
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from restorer.errors import UsageError
from restorer.folders.cluster import make_run
from restorer.folders.events import Event, Outcome
from restorer.folders.extras import check_extras
from restorer.folders.opening import open_log
from restorer.folders.options import Options, check_options
from restorer.folders.picture import Verb
from restorer.folders.shard import Shard
from restorer.folders.verbs import VERBS
from restorer.images.find import search_all
from restorer.images.sizes import parse_region
from restorer.limits import MAX_PIXELS, real_number, whole_number

__all__ = ["restore_folder"]

AnyPath = str | os.PathLike[str]

DEFAULTS: dict[str, Any] = {
    "overwrite": False,
    "skip_existing": False,
    "include": (),
    "exclude": (),
    "limit": None,
    "fail_fast": False,
    "max_pixels": MAX_PIXELS,
    "manifest": None,
    "in_place": False,
    "backup": None,
    "keep_times": False,
    "format": None,
    "quality": None,
    "region": None,
    "uncertainty": None,
    "samples": 1,
    "shard": None,
    "cluster": None,
    "workers": None,
    "steps": None,
    "detail": None,
    "method": "auto",
    "seed": 0,
    "model": "photo",
    "start": None,
    "device": "auto",
    "precision": "auto",
    "tile": "auto",
}
"""The options that all tasks share, with the defaults of the command."""

OWN_NAMES = {"grow": "grow_by"}
"""The options of a task that have another name in its function."""

NO_SUCH_OPTION = {
    "auto": ("sigma", "steps", "method", "start", "samples"),
    "dejpeg": ("sigma",),
    "upscale": ("in_place", "backup"),
}
"""The shared options that a task does not have."""

WHOLE = frozenset(["limit", "workers", "samples", "max_pixels", "quality", "steps", "seed", "width", "height", "grow"])
WHOLE |= {"candidates"}
REAL = frozenset(["detail", "strength", "defocus", "scale"])
FLAGS = frozenset(["overwrite", "skip_existing", "fail_fast", "in_place", "keep_times", "invert_mask"])
FLAGS |= {"no_scratches", "no_outliers", "no_noise", "no_jpeg", "no_blur"}
PATHS = frozenset(["manifest", "mask", "kernel"])


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
    names = [name for name in inspect.signature(VERBS[task]).parameters if name != "options"]
    own = {name: next((o for o, n in OWN_NAMES.items() if n == name), name) for name in names}
    known = {*DEFAULTS, "sigma", *own.values()} - {*NO_SUCH_OPTION.get(task, ())}
    if unknown := sorted(given.keys() - known):
        raise UsageError(f"{task} has no option {unknown[0]!r}", f"it has {', '.join(sorted(known))}")
    values = {name: _value(name, value) for name, value in given.items()}
    sigma = {"sigma": 0.0 if task in ("dejpeg", "inpaint") else None}
    common = {name: value for name, value in values.items() if name in DEFAULTS or name == "sigma"}
    fixed = {"json": False, "quiet": True, "verbose": False}
    options = Options(task, **{**DEFAULTS, **sigma, **shared, **fixed, **common})
    check_options(options)
    check_extras(options)
    return options, VERBS[task](options, **{name: values[o] for name, o in own.items() if o in values})


def _value(name: str, value: Any) -> Any:
    """Return the value of an option as the command line would give it.

    Raises:
        UsageError: It is of the wrong type.
    """
    if name in ("include", "exclude"):
        return (value,) if isinstance(value, str) else tuple(value)
    if name in FLAGS:
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be True or False, not {value!r}")
        return value
    if value is None or (name == "sigma" and value == "auto"):
        return None
    if name == "tile":
        return value if value in ("auto", "off") else _tile(value)
    if name == "region":
        return parse_region(value)
    if name == "shard":
        return value if isinstance(value, Shard) else Shard.parse(value)
    if name in PATHS:
        return Path(os.fspath(value))
    if name in WHOLE:
        return whole_number(name, value)
    if name in REAL or name == "sigma" or (name == "gaussian" and not isinstance(value, str)):
        return real_number(name, value)
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{name} must be a text, not {type(value).__name__}")
    return os.fspath(value)


def _tile(value: Any) -> int:
    side = whole_number("the tile", value)
    if side < 64:
        raise UsageError(f"the tile must be auto, off, or a side of at least 64 pixels, not {side}")
    return side
