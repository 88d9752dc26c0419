"""One picture at work: read and decided on, and the record that its result carries."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.images.find import STDIO

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from restorer.folders.provenance import Record
    from restorer.images.files import Picture
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks.job import Job

    Prepared = tuple[Job, np.ndarray | None]


__all__ = [
    "Prepared",
    "Verb",
    "Work",
    "are_light",
    "batch_of",
    "check_memory",
    "facts_of",
    "is_light",
    "read",
    "record_of",
]

PIXEL_BYTES = 16  # of the files that pictures are read from ahead: four floats, and nothing else that is large


@dataclass(frozen=True)
class Verb:
    """What tells the verbs apart.

    Args:
        tag: what a result's name ends in.
        prepare: the job of a picture, and which of its pixels are to be copied.
        suits: raises where the options do not suit the model.
        own: the verb's own options, as a result depends on them.
        mask: the mask of a picture, if it has one.
        scale: how much larger a result is.
    """

    tag: str
    prepare: Callable[[Tensor, Item, Picture, UNetPrior | Tiled], Prepared]
    suits: Callable[[UNetPrior | Tiled], None] | None = None
    own: tuple[tuple[str, Any], ...] = ()
    mask: Callable[[Item], Path] | None = None
    scale: int = 1


@dataclass(frozen=True)
class Work:
    """One picture.

    Args:
        item: where it is read, and where its result goes.
        picture, job: what was read, and what was decided.
        keep: pixels that are to be copied.
        target, form: where and in which format the result is written.
        own: the verb's own options.
        recipe: what the result depends on, as a fingerprint; '' where no log is kept.
        seconds: that reading and deciding took.
        share: of a batch.
        ours: whether a file that stands at the target may be replaced because an earlier run made it.
    """

    item: Item
    picture: Picture
    job: Job
    keep: np.ndarray | None
    target: Path | BinaryIO
    form: str
    own: tuple[tuple[str, Any], ...]
    recipe: str
    seconds: float
    share: float
    ours: bool = False


def check_memory(source: Path, options: Options, scale: int) -> None:
    """See by a file's header that there is memory for the picture, before it is decoded.

    Raises:
        DeviceError: there is not. PictureError: the header is none.
    """
    from restorer.images.reading import size_of
    from restorer.machine.memory import FIXED, HELD, check_room, foreseen

    width, height = (scale * side for side in size_of(source, options.max_pixels))
    # Holes are filled in their surroundings alone, and where there is no noise nothing is sampled: the job knows.
    pixels = width * height
    what = f"the picture of {width}x{height} pixels" if scale == 1 else f"a result of {width}x{height} pixels"
    check_room(FIXED + HELD * pixels if scale == 1 else foreseen(pixels), what)


def is_light(item: Item, options: Options, verb: Verb, prior: UNetPrior | Tiled) -> bool:
    """See by the headers whether a picture can be read beside others that are at work.

    It must fit into a batch of the device (`together.SMALL`): a larger one takes memory, and keeps all cores of a CPU
    busy by itself. There 640x480 took 4 % longer with its neighbours read and written beside it than one after the
    other, and 160x120 as long; beside a network that only waits both take less, 640x480 by a third.

    A TIFF cannot: libtiff talks to the standard error of the whole process, which is turned away while it works.

    Raises:
        PictureError: there is no mask, or a header is none. OSError: a file cannot be read.
    """
    from restorer.images.high_depth import TIFF_MAGIC
    from restorer.images.reading import size_of
    from restorer.machine.memory import available, foreseen

    most = _most_light(prior)
    for path in (item.source,) if verb.mask is None else (item.source, verb.mask(item)):
        if path == STDIO or not path.is_file() or path.stat().st_size > PIXEL_BYTES * most:
            return False
        with path.open("rb") as file:
            if file.read(4).startswith(TIFF_MAGIC):
                return False
        width, height = size_of(path, options.max_pixels)
        pixels, room = verb.scale**2 * width * height, available()
        if pixels > most or (room is not None and foreseen(pixels) > room):
            return False
    return True


def are_light(works: list[Work], verb: Verb) -> bool:
    """Whether results can wait, to be written while others are sampled."""
    pixels = verb.scale**2 * sum(work.picture.width * work.picture.height for work in works)
    return pixels <= _most_light(works[0].job.prior)


def _most_light(prior: UNetPrior | Tiled) -> int:
    """Pixels of results."""
    from restorer.tasks.batching import SMALL

    return SMALL.get(prior.device.type, 1)


def read(item: Item, options: Options, verb: Verb, prior: UNetPrior | Tiled, recipe: str) -> Work:
    """Read a picture and decide on it; nothing is said and nothing is computed yet.

    Raises:
        PictureError: it or its mask cannot be read. OutputError: its result cannot be written in that format.
    """
    from restorer.images import files, writing
    from restorer.priors.tiled import Tiled
    from restorer.tasks.batching import share

    began = time.monotonic()
    picture = files.load(sys.stdin.buffer if item.source == STDIO else item.source, options.max_pixels)
    target: Path | BinaryIO = sys.stdout.buffer if item.target == STDIO else item.target
    form = writing.target_format(picture, target)
    job, keep = verb.prepare(files.to_tensor(picture), item, picture, prior)
    alone = options.show or isinstance(prior, Tiled)  # tiles that were asked for are kept to
    used = 1.0 if alone else share(job)
    return Work(item, picture, job, keep, target, form, verb.own, recipe, time.monotonic() - began, used)


def batch_of(work: Work, works: list[Work]) -> int:
    """How many of them shared the network's evaluations with a picture: those whose states have its shape."""
    return sum(other.job.start.shape == work.job.start.shape for other in works)


def facts_of(job: Job, prior: Tiled, options: Options) -> dict[str, Any]:
    from restorer.models.load import precision_name

    return {
        "device": str(prior.device),
        "precision": precision_name(prior),
        "steps": job.evaluations,
        "method": options.method,
        "detail": job.detail if job.then is None else options.detail,  # of several, each has its own
        "seed": options.seed,
        "sigma": round(job.sigma, 2),
        "tile": job.factor * min(prior.tile, max(job.start.shape[-2:])),
        "overlap": job.factor * prior.overlap,
    }


def record_of(work: Work, options: Options, used: Tiled, batch: int) -> Record:
    """What the result carries with it."""
    import hashlib

    import torch

    from restorer import __version__
    from restorer.folders.provenance import Record
    from restorer.models.load import identity

    job, original = work.job, work.picture.original
    parts = facts_of(job, used, options)
    given = {"method": options.method, "seed": options.seed, **dict(work.own), "tile": options.tile}
    if job.latent is None:
        given |= {"sigma": job.sigma, "detail": parts["detail"]}
    given["steps"] = parts["steps"] if job.then is None else options.steps
    return Record(
        __version__,
        options.command,
        work.item.source.name,
        hashlib.sha256(original).hexdigest() if original else "",
        options.model,
        identity(options.model)["sha256"],
        given,
        parts["device"],
        parts["precision"],
        torch.get_num_threads(),
        batch,
    )
