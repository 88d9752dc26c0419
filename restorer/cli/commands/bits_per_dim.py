"""`restore evaluate --bits-per-dim`: the variational bound of a prior, term by term."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from restorer.cli.commands.measuring import Tally, describe, load, progress, show
from restorer.cli.terminal.reporter import Reporter
from restorer.errors import ModelError, PictureError, UsageError
from restorer.folders.options import Options
from restorer.images.find import collect

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.diffusion.objective import Bound

__all__ = ["bits_per_dim"]


def bits_per_dim(options: Options, folder: str, limit: int | None, timesteps: int, reporter: Reporter) -> int:
    """Measure the bound on the middles of the pictures; the exit code.

    Raises:
        PictureError: there are no pictures. UsageError: so many timesteps the schedule does not have.
        ModelError: the model is not one of colour pictures.
    """
    pictures = collect([folder], recursive=True)[:limit]
    import torch

    from restorer.evaluation.evaluate import CROP, bits_per_dimension, centre_crop
    from restorer.images.files import load as read
    from restorer.images.files import to_tensor
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior

    tally = Tally(reporter)
    loaded = load(options, reporter)
    prior = loaded.prior if isinstance(loaded, Tiled) else loaded
    if not isinstance(prior, UNetPrior) or prior.channels != 3:
        raise ModelError(f"{options.model} is no model of colour pictures: it has no bound on them")
    steps = prior.spec.schedule.steps
    if not 2 <= timesteps <= steps:
        raise UsageError(f"--timesteps must lie between 2 and {steps}, not {timesteps}")
    side = prior.native_size or CROP
    variance = "small" if prior.spec.network.out_channels == prior.spec.network.in_channels else "learned"
    crops: list[Tensor] = []
    for path, _ in pictures:
        try:
            crops.append(centre_crop(to_tensor(read(path)), side))
        except PictureError as error:
            tally.failed(path, error)
    tally.ok = len(crops)
    bits: dict[str, float] = {}
    if crops:
        with progress(reporter, "bits per dimension", len(crops)) as advance:
            bound = bits_per_dimension(
                prior,
                torch.stack(crops),
                timesteps=timesteps,
                seed=options.seed,
                on_progress=lambda done, all: advance(len(crops) * done / all, f"evaluation {done:.0f}/{all}"),
            )
        bits = {"prior": bound.prior, "kl": bound.kl, "decoder": bound.decoder, "total": bound.total}
        title = f"variational bound · {Path(folder).resolve().name} · {options.model} · seed {options.seed}"
        measured = f"the middle {side}x{side} of {len(crops)} pictures, {timesteps} of {steps} timesteps"
        show(title, _table(bound), f"Bits per dimension: {measured}, variance {variance}.", reporter)
    rounded = {name: round(value, 6) for name, value in bits.items()}
    return tally.finish(
        bits_per_dim=rounded, crop=side, timesteps=timesteps, variance=variance, **describe(options, loaded)
    )


def _table(bound: Bound) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in ("prior L_T", "sum of KLs", "decoder L_0", "total"):
        table.add_column(heading, justify="right")
    table.add_row(*(f"{value:.4f}" for value in (bound.prior, bound.kl, bound.decoder, bound.total)))
    return table
