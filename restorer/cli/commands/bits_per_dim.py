"""The option `evaluate --bits-per-dim`: the variational bound of a prior, term by term."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from restorer.cli.commands.measuring import Tally, describe_run, obtain_prior, print_table, progress
from restorer.cli.terminal.reporter import Reporter
from restorer.errors import ModelError, PictureError, UsageError
from restorer.folders.options import Options
from restorer.images.find import collect

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.diffusion.variational_bound import Bound

__all__ = ["bits_per_dim"]


def bits_per_dim(options: Options, folder: str, limit: int | None, timesteps: int, reporter: Reporter) -> int:
    """Measure the variational bound of a prior on the centres of pictures, and report it.

    Args:
        options: Options of the command line.
        folder: Folder of clean pictures; its subfolders are searched too.
        limit: Measure only the first pictures, at most this many; None for all.
        timesteps: Number of timesteps of the schedule at which the bound is evaluated, at least 2.
        reporter: Receives the table and the JSON record.

    Returns:
        The exit code.

    Raises:
        PictureError: There are no pictures.
        UsageError: `timesteps` is below 2 or above the number of timesteps of the schedule.
        ModelError: The prior cannot be obtained, or is not a model of colour pictures.
    """
    pictures = collect([folder], recursive=True)[:limit]
    import torch

    from restorer.evaluation.bound import CROP, bits_per_dimension, centre_crop
    from restorer.images.files import load, to_tensor
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior

    tally = Tally(reporter)
    obtained = obtain_prior(options, reporter)
    prior = obtained.prior if isinstance(obtained, Tiled) else obtained
    if not isinstance(prior, UNetPrior) or prior.channels != 3:
        raise ModelError(f"{options.model} is not a model of colour pictures, so --bits-per-dim cannot measure it")
    steps = prior.spec.schedule.steps
    if not 2 <= timesteps <= steps:
        raise UsageError(f"--timesteps must lie between 2 and {steps}, not {timesteps}")
    side = prior.native_size or CROP
    variance = "small" if prior.spec.network.out_channels == prior.spec.network.in_channels else "learned"
    crops: list[Tensor] = []
    for path, _ in pictures:
        try:
            crops.append(centre_crop(to_tensor(load(path)), side))
        except PictureError as error:
            tally.add_failure(path, error)
    tally.ok = len(crops)
    bits: dict[str, float] = {}
    if crops:
        with progress(reporter, "bits per dimension", len(crops)) as advance:
            bound = bits_per_dimension(
                prior,
                torch.stack(crops),
                timesteps=timesteps,
                seed=options.seed,
                on_progress=lambda done, total: advance(len(crops) * done / total, f"evaluation {done:.0f}/{total}"),
            )
        bits = {"prior": bound.prior, "kl": bound.kl, "decoder": bound.decoder, "total": bound.total}
        title = f"variational bound · {Path(folder).resolve().name} · {options.model} · seed {options.seed}"
        measured = f"the central {side}x{side} pixels of {len(crops)} pictures, {timesteps} of {steps} timesteps"
        print_table(title, _table(bound), f"Bits per dimension: {measured}, {variance} variance.", reporter)
    rounded = {name: round(value, 6) for name, value in bits.items()}
    return tally.finish(
        bits_per_dim=rounded, crop=side, timesteps=timesteps, variance=variance, **describe_run(options, obtained)
    )


def _table(bound: Bound) -> Table:
    """Return the terms of the bound and their sum as a table of one row."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in ("prior L_T", "sum of KLs", "decoder L_0", "total"):
        table.add_column(heading, justify="right")
    table.add_row(*(f"{value:.4f}" for value in (bound.prior, bound.kl, bound.decoder, bound.total)))
    return table
