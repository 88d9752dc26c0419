"""The network from whose result an enlargement starts: its scale is needed before the results have their names."""

from __future__ import annotations

from restorer.cli.terminal.downloads import ensure_start_downloaded
from restorer.cli.terminal.reporter import Reporter
from restorer.folders.options import Options
from restorer.folders.starting import is_start_here, load_requested_start

__all__ = ["prepare_start"]


def prepare_start(options: Options) -> None:
    """Download and load the network that the options name, visibly, unless a dry run would have to download it.

    Raises:
        ModelError: The network cannot be loaded.
        DeviceError: The machine does not have the device.
        UsageError: The device or the precision is unknown.
    """
    if options.start is None or (options.dry_run and not is_start_here(options)):
        return
    reporter = Reporter(quiet=options.quiet, verbose=options.verbose, as_json=options.json)
    ensure_start_downloaded(options.start, reporter)
    with reporter.working("loading PyTorch and the network"):
        load_requested_start(options)
