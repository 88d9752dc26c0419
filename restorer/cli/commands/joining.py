"""The command `train` in one of several processes: which of them reports an error, and which only leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from restorer.errors import RestorerError, exit_code_for

if TYPE_CHECKING:
    import torch

    from restorer.training.ranks import Place, Ranks

__all__ = ["joined_with_one_voice", "with_one_voice"]


@contextmanager
def with_one_voice(place: Place) -> Iterator[None]:
    """Report an error that every process meets in one process of each machine only.

    The others leave with the same exit code.
    """
    try:
        yield
    except RestorerError as error:
        if place.local_rank == 0:
            raise
        raise typer.Exit(exit_code_for(error)) from error


@contextmanager
def joined_with_one_voice(place: Place, device: torch.device) -> Iterator[Ranks]:
    """Join the other processes while the context lasts; see `joined`.

    An error of this process is reported with its number. That another process has failed is reported by the first
    process only, because the other process reports why, unless it was killed.
    """
    from restorer.training.ranks import OtherProcessError, joined

    try:
        with joined(place, device) as ranks:
            yield ranks
    except OtherProcessError as error:
        if place.rank == 0:
            raise
        raise typer.Exit(error.code) from error
    except RestorerError as error:
        if place.rank == 0:
            raise
        raise type(error)(f"process {place.rank}: {error}", error.hint) from error
