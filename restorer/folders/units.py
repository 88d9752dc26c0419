"""What a worker is given at a time: the pictures that a run on one machine would put into a batch."""

from __future__ import annotations

from dataclasses import dataclass

from restorer.errors import RestorerError
from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.folders.picture import Verb

__all__ = ["MOST_ITEMS", "Unit", "share_of"]

HEADER_BYTES = 1 << 16
"""The beginning of a file in which the driver looks for the size of the picture."""

MOST_ITEMS = 64
"""Largest number of files that a worker is given at a time, many of which may be no pictures."""

MOST_AHEAD = 1 << 24
"""Pixels of the largest picture that a worker with a GPU reads while it is at work on another one."""


@dataclass(frozen=True)
class Unit:
    """Pictures that a worker is given together, because they share evaluations of the network.

    Args:
        items: The pictures.
        is_alone: Whether the worker holds nothing else meanwhile.
        deaths: The machines whose workers have died during its restoration.
    """

    items: tuple[Item, ...]
    is_alone: bool
    deaths: tuple[str, ...] = ()


def share_of(item: Item, options: Options, verb: Verb, kind: str) -> tuple[float, bool]:
    """Return the share of a batch that a picture takes, and whether it is too large to wait beside another one.

    The beginning of its file tells that. A file that is short and no picture takes no share: a run on one machine
    leaves it out of the batch, too.

    Args:
        item: The picture.
        options: The options of the run.
        verb: The verb.
        kind: The kind of the device of the workers.
    """
    from restorer.images.reading import read_size
    from restorer.tasks.batching import MAX_BATCH, MAX_PIXELS

    try:
        with item.source.open("rb") as file:
            beginning = file.read(HEADER_BYTES)
        width, height = verb.geometry.computed(*read_size(item.source, options.max_pixels, beginning))
    except OSError:
        return 0.0, False
    except RestorerError:
        return (1.0, True) if len(beginning) == HEADER_BYTES else (0.0, False)
    pixels, together = width * height, MAX_PIXELS.get(kind, 1)
    is_single = options.tile != "auto" or options.samples > 1 or options.uncertainty or options.start
    share = 1.0 if is_single else max(1 / MAX_BATCH, min(1.0, pixels / together))
    return share, pixels > (MOST_AHEAD if kind == "cuda" else together)
