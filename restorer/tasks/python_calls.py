"""What the functions of the Python API share: the kinds of their arguments, and the run over one picture or a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step
from restorer.errors import RestorerError, UsageError
from restorer.images.conversion import Given, is_batch, join, split, take
from restorer.images.kernel_files import load_kernel
from restorer.images.sizes import Region, parse_region
from restorer.models.feed_forward import FeedForward
from restorer.models.starts import as_start
from restorer.tasks.certainty import certainty_of
from restorer.tasks.common import as_prior
from restorer.tasks.job import Job
from restorer.tasks.option import taken
from restorer.tasks.options import SamplingOptions
from restorer.tasks.uncertain import Asked

__all__ = [
    "AnyPrior",
    "AnyStart",
    "Known",
    "OnStep",
    "kernel_of",
    "options_of",
    "restore_given",
]


OnStep = Callable[[Step], None] | None
AnyPrior = Prior | str | os.PathLike[str] | None
AnyStart = FeedForward | str | os.PathLike[str] | None

OptionsT = TypeVar("OptionsT", bound=SamplingOptions)


@dataclass(frozen=True)
class Known:
    """The pixels of a picture that its result takes over.

    Args:
        pixels: bool (H, W), True where the values of the input are copied.
        reveals: Whether all other pixels become opaque, because it was their transparency that marked them.
    """

    pixels: np.ndarray
    reveals: bool = False

    def part(self, region: Region | None) -> np.ndarray:
        """Return those of a region; all of them if there is none."""
        return self.pixels if region is None else self.pixels[region.rows, region.columns]


def restore_given(
    picture: Any,
    prepare: Callable[[Given, int], tuple[Job, Known | None]],
    on_step: OnStep,
    region: Region | None,
    uncertainty: bool,
) -> Any:
    """Restore a picture, or the pictures of a batch one after the other, and return results of the same kind.

    Args:
        picture: As in `denoise`.
        prepare: Returns the job of a picture, and the pixels that are copied from the input, or None. Its
            arguments are the picture and its place in the batch.
        on_step: As in `denoise`.
        region: The part that is returned; None for all of it.
        uncertainty: As in `denoise`.

    Raises:
        UsageError: The picture is none, or `on_step` is no function.
    """
    if on_step is not None and not callable(on_step):
        raise UsageError(f"on_step must be a function, not {type(on_step).__name__}")
    if not is_batch(picture):
        return _restore_one(take(picture), 0, prepare, on_step, region, uncertainty)
    results = []
    for index, one in enumerate(split(picture)):
        try:
            results.append(_restore_one(take(one), index, prepare, on_step, region, uncertainty))
        except RestorerError as error:
            raise type(error)(f"picture {index} of the batch: {error}", error.hint) from error
    if not results and not isinstance(picture, (list, tuple)):
        raise UsageError("the batch holds no picture")
    if uncertainty:
        return join([result for result, _ in results], picture), [found for _, found in results]
    return join(results, picture)


def _restore_one(
    given: Given,
    index: int,
    prepare: Callable[[Given, int], tuple[Job, Known | None]],
    on_step: OnStep,
    region: Region | None,
    uncertainty: bool,
) -> Any:
    """Restore one picture; see `restore_given`."""
    job, keep = prepare(given, index)
    if uncertainty and job.starter is not None:
        raise UsageError(
            "how far results of other networks may be off is not known: uncertainty and start cannot be combined",
            "leave out one of them",
        )
    job, part = replace(job, asked=Asked(spread=uncertainty)).measured(), given.part(region)
    restored = None if job.is_copy else job.run(on_step)
    if restored is None:
        result = part.unchanged()
    else:
        known, reveals = (None, False) if keep is None else (keep.part(region), keep.reveals)
        result = part.result(restored.image, known, restored.alpha, reveal=reveals)
    if not uncertainty:
        return result
    half = certainty_of(job, restored).half
    return result, half.to(given.value.device) if isinstance(given.value, Tensor) else half.numpy()


def options_of(kind: type[OptionsT], arguments: Mapping[str, Any], **instead: Any) -> tuple[OptionsT, dict[str, Any]]:
    """Return the options among the arguments of a function, and the others that a job is prepared with.

    Args:
        kind: The dataclass that declares the options.
        arguments: All arguments of the function by name.
        instead: Options that the function takes in another form, with the values that stand for them.

    Returns:
        The options, checked; and the region, the start, if the function takes one, and the prior.

    Raises:
        UsageError: A value is out of range or of the wrong type.
        ModelError: The prior or the network of the start cannot be loaded.
    """
    options = taken(kind, {**arguments, **instead})
    options.check(started=arguments.get("start") is not None)
    region, prior = arguments["region"], arguments["prior"]
    others: dict[str, Any] = {"region": None if region is None else parse_region(region)}
    if "start" in arguments:
        others["start"] = as_start(arguments["start"])
    return options, {**others, "prior": as_prior(prior)}


def kernel_of(kernel: Any) -> Tensor | None:
    """Return a kernel that was passed as numbers or as the path of a file; None if none was."""
    if kernel is None:
        return None
    if isinstance(kernel, (str, os.PathLike)):
        return load_kernel(Path(kernel))
    try:
        return torch.as_tensor(kernel).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"the kernel must be numbers or a path, not {type(kernel).__name__}"
        raise UsageError(message, "pass an array (h, w)") from error
