"""A run of a restoring verb in the terminal: the model is loaded visibly, and the events are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import typer

from restorer.cli.restoring.listener import Listener
from restorer.cli.terminal.downloads import ensure_downloaded, ensure_start_downloaded
from restorer.cli.terminal.reporter import Reporter
from restorer.cli.terminal.streams import print_over_mark
from restorer.folders.cluster import make_run
from restorer.folders.events import Finished
from restorer.folders.opening import open_log, open_model
from restorer.folders.options import Options
from restorer.folders.picture import Verb
from restorer.images.find import search_all

if TYPE_CHECKING:
    from restorer.models.load import Model

__all__ = ["restore_all"]

GOING_ON = "the same command with --resume restores the rest"


def restore_all(options: Options, verb: Verb) -> None:
    """Restore all pictures that the options name, and show what happens.

    Raises:
        RestorerError: The run cannot begin, or cannot go on.
        typer.Exit: At least one picture failed. The exception holds the exit code.
    """
    reporter = Reporter(quiet=options.quiet, verbose=options.verbose, as_json=options.json)

    def look_up_visibly(options: Options) -> Model:
        from restorer.models.load import look_up

        ensure_downloaded(options.model, reporter, options.command)
        ensure_start_downloaded(options.start, reporter)
        return look_up(options.model)

    def open_visibly(options: Options) -> Model:
        ensure_downloaded(options.model, reporter, options.command)
        ensure_start_downloaded(options.start, reporter)
        with reporter.working("loading PyTorch and the model"):
            return open_model(options)

    found = search_all(options.inputs, recursive=options.recursive, include=options.include, exclude=options.exclude)
    code, log = 0, None
    is_quiet = options.quiet or options.dry_run
    with _telling_how_to_go_on(lambda: log is not None and not is_quiet), ExitStack() as stack:
        log = stack.enter_context(open_log(options, found.pictures))
        listener = stack.enter_context(Listener(options, reporter))
        run = make_run(options, verb, log, open_visibly, look_up_visibly)
        for event in stack.enter_context(closing(run.events(found))):
            listener.show(event)
            code = event.exit_code if isinstance(event, Finished) else code
    if code:
        raise typer.Exit(code)


@contextmanager
def _telling_how_to_go_on(is_logged: Callable[[], bool]) -> Iterator[None]:
    """Say how an interrupted run is continued, if it is logged."""
    try:
        yield
    except KeyboardInterrupt:
        if is_logged():
            print_over_mark(GOING_ON)
        raise
