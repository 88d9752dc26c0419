"""One picture of a run: reading it, preparing its job, and the provenance record of its result."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.folders.starting import start_record
from restorer.images.find import STDIO
from restorer.images.sizes import UNCHANGED, Geometry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from restorer.folders.provenance import Record
    from restorer.images.attributes import Times
    from restorer.images.files import Picture
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks.job import Job

    JobAndKept = tuple[Job, "Kept | None"]


__all__ = [
    "DECOMPRESSES",
    "ENLARGES",
    "JobAndKept",
    "Kept",
    "PreparedPicture",
    "Verb",
    "build_record",
    "can_read_ahead",
    "can_write_behind",
    "check_picture_memory",
    "effective_settings",
    "measure_picture",
    "prepare_picture",
    "shared_batch_size",
]

FILE_BYTES_PER_PIXEL = 16
"""The largest file that is read ahead, in bytes per pixel of a batch: four floats and no other large content."""

ENLARGES, DECOMPRESSES = ("auto", "upscale"), ("auto", "dejpeg", "denoise", "upscale")
"""The commands in which a second network of the embedded model may enlarge, and in which one may undo a compression."""


@dataclass(frozen=True)
class Kept:
    """The pixels of a picture that its result takes over.

    Args:
        pixels: bool (H, W), True where the numbers of the input are copied; None to copy none.
        reveals: Whether all other pixels become opaque, because it was their transparency that marked them.
    """

    pixels: np.ndarray | None
    reveals: bool = False


@dataclass(frozen=True)
class Verb:
    """The properties that distinguish the restoring verbs.

    Args:
        tag: The last part of a result's name, for instance "denoised".
        prepare: Returns the job of a picture, and the pixels that are copied from the input, or None. Its arguments are
            the picture as a tensor (C, H, W) in [0, 1], the item, the picture and the prior.
        check_prior: Raises an error if the options do not suit the model.
        extra_options: The options of this verb alone that its results depend on.
        find_mask: Returns the mask of a picture; None for a verb without masks.
        geometry: How the size of a result follows from that of its picture.
        is_planned: Whether what is done to a picture follows from what is found in it, so that a dry run looks at it.
    """

    tag: str
    prepare: Callable[[Tensor, Item, Picture, UNetPrior | Tiled], JobAndKept]
    check_prior: Callable[[UNetPrior | Tiled], None] | None = None
    extra_options: Mapping[str, Any] = field(default_factory=dict)
    find_mask: Callable[[Item], Path] | None = None
    geometry: Geometry = UNCHANGED
    is_planned: bool = False


@dataclass(frozen=True)
class PreparedPicture:
    """A picture that has been read, and its job, which has not begun.

    Args:
        item: The files of the picture and its result.
        picture: The content of the file.
        job: The prepared restoration.
        kept: The pixels that are copied from the input; None if there are none.
        target: The file or stream to write the result to.
        format: Pillow's name of the format to write.
        extra_options: The options of the verb alone.
        fingerprint: The fingerprint of the result; '' if no log is kept.
        seconds: Seconds that reading and preparing took.
        batch_share: The share of a batch that the picture takes, at most 1.
        may_replace: Whether an existing file at the target may be replaced because an earlier run began to write it.
        times: The access and modification times of the picture, which its result is to have; None to leave them.
        in_place: The fingerprints of the commands that were and are applied to the picture in place.
        map_target: The file for the map of the uncertainty; None if none is wanted.
    """

    item: Item
    picture: Picture
    job: Job
    kept: Kept | None
    target: Path | BinaryIO
    format: str
    extra_options: Mapping[str, Any]
    fingerprint: str
    seconds: float
    batch_share: float
    may_replace: bool = False
    times: Times | None = None
    in_place: tuple[str, ...] = ()
    map_target: Path | None = None


def check_picture_memory(source: Path, options: Options, geometry: Geometry, data: bytes | None = None) -> None:
    """Check that there is enough memory for a picture, using its header alone.

    Args:
        source: The file of the picture.
        options: The options of the run.
        geometry: How the size of the result follows from that of the picture.
        data: The content of the file; None to read it.

    Raises:
        DeviceError: There is not enough memory.
        UsageError: The picture has no such region, or is not enlarged.
        PictureError: The file cannot be read, is not a picture, or is too large.
    """
    from restorer.images.reading import read_size
    from restorer.machine.memory import FIXED_BYTES, LOADED_BYTES, check_memory, estimate_memory

    original = read_size(source, options.max_pixels, data)
    width, height = original if geometry.enlargement is None else geometry.computed(*original)
    is_enlarged = geometry.enlargement is not None
    geometry.result(*original)
    # Without an enlargement, only the picture itself is counted: holes are filled within their surroundings, and a
    # picture without noise is not sampled. The job checks the rest.
    pixels = width * height
    subject = f"{'a result' if is_enlarged else 'the picture'} of {width}x{height} pixels"
    check_memory(estimate_memory(pixels) if is_enlarged else FIXED_BYTES + LOADED_BYTES * pixels, subject)


def can_read_ahead(
    item: Item, options: Options, verb: Verb, prior: UNetPrior | Tiled, contents: dict[Path, bytes]
) -> bool:
    """Return whether a picture can be read while others are processed, using the headers alone.

    What has been read of the picture is kept in `contents`, so that it is read only once.

    The picture must fit into one batch of the device (`restorer.tasks.batching.MAX_PIXELS`). A larger picture takes
    memory, and keeps all cores of a CPU busy by itself. On a CPU, pictures of 640x480 took 4 % longer when their
    neighbours were read and written in parallel than when all were handled one after the other, and pictures of 160x120
    took equally long. If the CPU is idle while the network computes, both take less time, 640x480 by a third.

    A TIFF file cannot be read ahead, because libtiff writes to the standard error of the whole process, which is
    redirected while a TIFF file is read.

    Raises:
        PictureError: There is no mask, or a file is not a picture.
    """
    from restorer.images.high_depth import TIFF_MAGIC
    from restorer.images.reading import read_file, read_size
    from restorer.machine.memory import available, estimate_memory

    max_pixels = _pixels_per_batch(prior)
    for path in (item.source,) if verb.find_mask is None else (item.source, verb.find_mask(item)):
        if path == STDIO or not path.is_file() or path.stat().st_size > FILE_BYTES_PER_PIXEL * max_pixels:
            return False
        data = read_file(path)
        if path == item.source:
            contents[path] = data
        if data.startswith(TIFF_MAGIC):
            return False
        pixels, free = math.prod(verb.geometry.computed(*read_size(path, options.max_pixels, data))), available()
        if pixels > max_pixels or (free is not None and estimate_memory(pixels) > free):
            return False
    return True


def can_write_behind(batch: list[PreparedPicture], verb: Verb) -> bool:
    """Return whether the results of a batch are small enough to be written while the next batch is sampled."""
    sizes = (verb.geometry.computed(prepared.picture.width, prepared.picture.height) for prepared in batch)
    pixels = sum(math.prod(size) for size in sizes)
    return pixels <= _pixels_per_batch(batch[0].job.prior)


def _pixels_per_batch(prior: UNetPrior | Tiled) -> int:
    """Return the number of result pixels that fit into one batch on the device of the prior."""
    from restorer.tasks.batching import MAX_PIXELS

    return MAX_PIXELS.get(prior.device.type, 1)


def prepare_picture(
    item: Item, options: Options, verb: Verb, prior: UNetPrior | Tiled, fingerprint: str, data: bytes | None = None
) -> PreparedPicture:
    """Read a picture and prepare its job, without printing or sampling anything.

    Args:
        item: The files of the picture and its result.
        options: The options of the run.
        verb: The verb.
        prior: The model.
        fingerprint: The fingerprint of the result; '' if no log is kept.
        data: The content of the file; None to read it.

    Raises:
        PictureError: The picture or its mask cannot be read.
        UsageError: The result cannot be written in the format of the target, or the mask has another aspect ratio.
    """
    from restorer.images import files, writing
    from restorer.priors.tiled import Tiled
    from restorer.tasks.batching import batch_share
    from restorer.tasks.uncertain import Asked

    start = time.monotonic()
    picture = files.load(sys.stdin.buffer if item.source == STDIO else item.source, options.max_pixels, data)
    target: Path | BinaryIO = sys.stdout.buffer if item.target == STDIO else item.target
    format = writing.target_format(picture, target, picture.format if options.in_place else options.format)
    writing.check_size(format, *verb.geometry.result(picture.width, picture.height))
    job, kept = verb.prepare(files.to_tensor(picture), item, picture, prior)
    job = replace(job, asked=Asked(spread=options.uncertainty is not None, samples=options.samples))
    is_alone = options.show or isinstance(prior, Tiled)  # a batch would ignore the requested tiles
    share = 1.0 if is_alone else batch_share(job)
    seconds = time.monotonic() - start
    return PreparedPicture(item, picture, job, kept, target, format, verb.extra_options, fingerprint, seconds, share)


def measure_picture(prepared: PreparedPicture) -> PreparedPicture:
    """Return the picture with the job that follows from what its measurement finds; unchanged if nothing is measured.

    The prior measures the picture, so this is called in the thread that samples.
    """
    start = time.monotonic()
    job = prepared.job.measured()
    return replace(prepared, job=job, seconds=prepared.seconds + time.monotonic() - start)


def shared_batch_size(prepared: PreparedPicture, batch: list[PreparedPicture]) -> int:
    """Return the number of pictures in a batch that share the network's evaluations with one of them.

    Pictures share evaluations if their states have the same shape.
    """
    return sum(other.job.start.shape == prepared.job.start.shape for other in batch)


def effective_settings(job: Job, prior: Tiled, options: Options) -> dict[str, Any]:
    """Return the settings that a result was computed with, as the JSON output reports them.

    Args:
        job: The restoration.
        prior: The prior as it was used in the end, which may have smaller tiles or another precision than the job's.
        options: The options of the run.
    """
    from restorer.models.load import DECOMPRESSING, ENLARGING, first_expert_identity, precision_name

    start = start_record(job.starter)
    is_alone = start is not None and job.plan is None
    enlarger, decompressor = (
        None if is_alone else first_expert_identity(prior, name) for name in (ENLARGING, DECOMPRESSING)
    )
    return {
        "device": str(prior.device),
        "precision": precision_name(prior) if start is None or job.plan is not None else start["precision"],
        "steps": job.evaluations,
        "method": options.method,
        # Narrow and wide holes differ.
        "detail": options.detail if job.second_pass is not None and options.command == "inpaint" else job.detail,
        "seed": options.seed,
        **({"candidates": job.candidates} if options.command == "inpaint" else {}),
        "sigma": round(job.sigma, 2),
        **({} if job.noise is None else {"noise": job.noise.to_dict()}),
        **({"outliers": job.outliers and job.outliers.to_dict()} if options.command in ("denoise", "auto") else {}),
        **({"jpeg": job.jpeg and job.jpeg.to_dict()} if options.command != "inpaint" else {}),
        **({} if job.repairs is None else {"repairs": [repair.to_dict() for repair in job.repairs]}),
        **({"blur": job.blur and job.blur.to_dict()} if options.command in ("deblur", "auto") else {}),
        **({} if options.start is None else {"start": start}),
        **({"enlarger": enlarger} if options.command in ENLARGES else {}),
        **({"decompressor": decompressor} if options.command in DECOMPRESSES else {}),
        "region": None if options.region is None else list(options.region),
        "tile": job.factor * min(prior.tile, max(job.largest)),
        "overlap": job.factor * prior.overlap,
    }


def build_record(
    prepared: PreparedPicture, options: Options, prior: Tiled, batch: int, model: Mapping[str, Any] | None = None
) -> Record:
    """Return the provenance record of a result.

    Args:
        prepared: The picture and its job.
        options: The options of the run.
        prior: The prior as it was used in the end.
        batch: Number of pictures that shared the network's evaluations, as `shared_batch_size` returns it.
        model: The identity of the model, as `restorer.models.load.identity` returns it; None to look the model up.
    """
    import hashlib

    import torch

    from restorer import __version__
    from restorer.folders.provenance import Record
    from restorer.models.load import identity, precision_name

    job, original = prepared.job, prepared.picture.original
    settings = effective_settings(job, prior, options)
    used = {"method": options.method, "seed": options.seed, **prepared.extra_options, "tile": options.tile}
    if job.latent is None:
        used |= {"sigma": job.sigma, "detail": settings["detail"]}
    if job.noise is not None:  # what was measured is measured again, and a given sigma leaves nothing to measure
        for name in ("noise", "strength") if job.noise.kind == "white" and not job.noise.estimated else ("sigma",):
            used.pop(name, None)
    elif options.command == "dejpeg":  # it has no such option
        del used["sigma"]
    if job.repairs is not None:  # it has no option about a single repair, and what was found is found again
        for name in ("method", "sigma", "noise", "strength"):
            used.pop(name, None)
        used["detail"] = options.detail
    if "jpeg" in used and job.jpeg is None:  # nothing was undone, whether it was looked for or not
        used["jpeg"] = "off"
    if job.starter is not None and job.plan is None:  # a network by itself, for which nothing is measured
        for name in ("sigma", "detail", "noise", "strength", "outliers", "jpeg", "method", "seed"):
            used.pop(name, None)
    if options.command == "deblur" and job.blur is not None and (found := job.blur.option) is not None:
        # The command repeats what was found.
        used[found[0]] = found[1]
    if options.start is not None:
        used["start"] = options.start
    if job.repairs is None:
        used["steps"] = settings["steps"] if job.second_pass is None and job.alpha is None else options.steps
    used |= options.encoding
    if options.region is not None:
        used["region"] = options.region.option
    return Record(
        __version__,
        options.command,
        prepared.item.source.name,
        hashlib.sha256(original).hexdigest() if original else "",
        options.model,
        (model or identity(options.model))["sha256"],
        used,
        settings["device"],
        precision_name(prior),  # from which that of a start follows
        torch.get_num_threads(),
        batch,
        "; ".join(found.describe() for found in (job.blur, job.noise, job.outliers, job.jpeg) if found is not None),
        prepared.in_place,
        "" if job.starter is None else job.starter.sha256,
        enlarger_sha256=(settings.get("enlarger") or {"sha256": ""})["sha256"],
        decompressor_sha256=(settings.get("decompressor") or {"sha256": ""})["sha256"],
        repairs=tuple(repair.describe() for repair in job.repairs or ()),
    )
