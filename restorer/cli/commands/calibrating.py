"""`restore evaluate --calibrate`: the constants that calibrate the uncertainty of a model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from restorer.cli.commands.measuring import Tally, describe_run, obtain_prior, print_table, progress
from restorer.cli.terminal.reporter import Reporter
from restorer.errors import OutputError, PictureError
from restorer.folders.options import Options
from restorer.images.find import collect

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.evaluation.calibration import Coverage, Measured
    from restorer.training.simulated_noise import Kind

__all__ = ["calibrate"]

CAMERAS = ("camera", "phone")
"""The simulated noise that stands for the noise of cameras, kinds of `restorer.training.simulated_noise`."""

LEAST_PICTURES = 12
"""Least number of pictures. Half of them calibrate, and from fewer than six no interval follows."""


def calibrate(options: Options, folder: str, limit: int | None, target: Path, reporter: Reporter) -> int:
    """Find the constants of a model on every other picture of a folder, test them on the others, and write them.

    Args:
        options: The options that say how the prior is loaded.
        folder: Folder of clean pictures; its subfolders are searched too.
        limit: Use only the first pictures, at most this many; None for all.
        target: The file to write.
        reporter: Receives the table and the JSON record.

    Returns:
        The exit code.

    Raises:
        PictureError: There are too few pictures.
        ModelError: The prior cannot be obtained.
        OutputError: The file cannot be written.
    """
    paths = [path for path, _ in collect([folder], recursive=True)[:limit]]
    if len(paths) < LEAST_PICTURES:
        hint = f"name a folder of {LEAST_PICTURES} pictures or more"
        raise PictureError(f"{len(paths)} pictures are too few to calibrate with", hint)
    from restorer.diffusion.calibration import Calibration
    from restorer.evaluation.calibration import coverage, find_constants
    from restorer.models.calibration import to_json

    tally, prior = Tally(reporter), obtain_prior(options, reporter)
    halves: tuple[list[Measured], list[Measured]] = ([], [])
    for number, measured in _measured(paths, prior, tally, reporter):
        halves[number % 2].append(measured)
    name = Path(folder).resolve().name
    data = f"every other one of {len(paths)} pictures of {name}"
    found = Calibration(find_constants(halves[0]), data, datetime.now(UTC).date().isoformat())
    rows = coverage(halves[1], found.at)
    title = f"uncertainty · {name} · {options.model}"
    print_table(title, _table(rows), "On the pictures that did not calibrate.", reporter)
    try:
        target.write_text(to_json(found), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}", "name another file") from error
    reporter.say(f"wrote {target}", style="green")
    told = [
        {"condition": r.name, "pictures": r.pictures, "within": round(r.whole, 4), "width": round(r.width, 3)}
        for r in rows
    ]
    return tally.finish(calibration=str(target), coverage=told, **describe_run(options, prior))


def _measured(paths: list[Path], prior: object, tally: Tally, reporter: Reporter) -> Iterator[tuple[int, Measured]]:
    """Yield the number of a picture and what was measured on it, for all pictures and ways to degrade them."""
    from restorer.diffusion.prior import Prior
    from restorer.evaluation.bound import centre_crop
    from restorer.evaluation.calibration import measure, trials
    from restorer.images.files import load, to_tensor
    from restorer.training.simulated_noise import KINDS

    assert isinstance(prior, Prior)
    cameras = {str(kind): partial(_simulate, kind=kind) for kind in KINDS if kind in CAMERAS}
    found = trials(prior, cameras)
    with progress(reporter, "calibrate", len(paths)) as advance:
        for number, path in enumerate(paths):
            try:
                picture = to_tensor(load(path))
                for done, trial in enumerate(found):
                    advance(number + done / len(found), f"{number + 1}/{len(paths)}, {trial.name}")
                    measured = measure(trial, centre_crop(picture, trial.side), number)
                    if measured is not None:
                        yield number, measured
                tally.ok += 1
            except PictureError as error:
                tally.add_failure(path, error)


def _simulate(x: Tensor, seed: int, kind: Kind) -> tuple[Tensor, Tensor]:
    """Return a picture in [0, 1] with simulated noise, and without."""
    from restorer.training.simulated_noise import simulate

    pair = simulate(x * 255, kind, random.Random(f"{kind} {seed}"))
    return pair.noisy / 255, pair.clean / 255


def _table(rows: list[Coverage]) -> Table:
    """Return the coverage as a table."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("degradation")
    for heading in ("pictures", "within", "by quarter of local variance", "half width"):
        table.add_column(heading, justify="right")
    for r in rows:
        quarters = " ".join(f"{100 * q:.1f}" for q in r.quarters)
        table.add_row(r.name, str(r.pictures), f"{100 * r.whole:.1f} %", quarters, f"{r.width:.1f}")
    return table
