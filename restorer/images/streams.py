"""The content of pipes, which can be read only once and are wanted more often; and streams that are not there."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from restorer.errors import PictureError

__all__ = ["ClosedStream", "stream_bytes"]


class ClosedStream(io.TextIOWrapper):
    """The null device in place of a standard stream that was closed when the process started."""


@cache
def stream_bytes(path: Path) -> bytes:
    """Return everything that a pipe holds. It is read when this is called first, and kept.

    Args:
        path: A path for which `restorer.images.find.is_stream` holds.

    Raises:
        PictureError: The pipe cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error
