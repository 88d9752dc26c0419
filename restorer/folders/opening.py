"""What a run opens before its first picture: the log and the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from restorer.errors import UsageError
from restorer.folders.manifest import MANIFEST, Manifest, open_manifest
from restorer.folders.options import Options
from restorer.folders.paths import Found, find_log_folder
from restorer.folders.shard import SHARD_LOGS
from restorer.folders.starting import load_requested_start
from restorer.limits import check_task

if TYPE_CHECKING:
    from restorer.models.load import Model
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior

__all__ = ["load_requested_prior", "open_log", "open_model"]


@contextmanager
def open_log(options: Options, pictures: list[Found]) -> Iterator[Manifest | None]:
    """Open the log of the run: the file that the options name, or the default file in the folder of the run.

    Without `--resume` and `--manifest`, a run keeps a log only if it restores folders into another place. A dry run
    writes no log; with `--resume` it reads an existing one. A shard has a log of its own, and knows what the logs of
    other shards in the folder say, so that a run can be divided otherwise when it is continued.
    """
    folder = find_log_folder(pictures, options.output)
    name = MANIFEST if options.shard is None else options.shard.log_name
    path = options.manifest or (folder / name if folder is not None else None)
    earlier = [] if options.shard is None or folder is None else [folder / MANIFEST, *sorted(folder.glob(SHARD_LOGS))]
    if path is None and options.resume:
        raise UsageError(
            "--resume needs the folder or the log of an earlier run",
            "name the folder with -o, or the log with --manifest",
        )
    has_folders = options.output is not None and any(root is not None for _, root in pictures)
    if path is None or options.dry_run or not (options.resume or options.manifest or has_folders):
        yield Manifest(path, earlier) if path is not None and options.dry_run and options.resume else None
        return
    if folder is not None and options.output is not None:
        with suppress(OSError):  # `resolve_targets` and the log report the error
            folder.mkdir(parents=True, exist_ok=True)
    with open_manifest(path, earlier) as log:
        yield log


def load_requested_prior(options: Options) -> UNetPrior | Tiled:
    """Return the prior that the options name, with the tiles that they request; see `open_model`."""
    prior = open_model(options).prior
    assert prior is not None
    return prior


def open_model(options: Options) -> Model:
    """Look up the model that the options name, once, and load its prior with the tiles that they request.

    The network of the start is loaded and checked, too, if the options name one.

    Raises:
        ModelError: The model or the start cannot be loaded, or does not serve the command.
        DeviceError: The machine does not have the device.
        UsageError: The device or the precision is unknown, or the model takes no start.
    """
    from restorer.models.load import look_up
    from restorer.priors.latent import latent_of
    from restorer.priors.tiled import Tiled
    from restorer.tasks.started import check_start

    model = look_up(options.model).loaded(options.device, options.precision)
    prior = model.prior
    assert prior is not None
    if (latent := latent_of(prior)) is not None:
        check_task(options.command, latent.serves, options.model)
    if (start := load_requested_start(options)) is not None:
        check_start(start, options.command, prior)
    if options.tile == "auto":
        return model
    side = 1 << 30 if options.tile == "off" else int(options.tile)
    if latent is not None:  # the option counts pixels of the result, the prior counts latents
        side //= latent.factor
    return replace(model, prior=Tiled(prior, side, overlap=0 if options.tile == "off" else min(64, side // 4)))
