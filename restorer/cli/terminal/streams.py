"""The three standard streams, whatever state they are handed over in."""

from __future__ import annotations

import errno
import io
import os
import sys

from restorer.errors import OutputError

__all__ = ["NO_ROOM", "flush_streams", "open_streams", "tell"]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_streams() -> None:
    """Have all three: one that is closed leads nowhere, or the next file to be opened would take its place.

    File names may be no text; they are printed as the bytes they are.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")


def flush_streams(code: int) -> int:
    """Write what is left, before Python tries to and ends with a code of its own; gives the exit code."""
    try:
        sys.stdout.flush()
        return code
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError) or code:  # who reads has enough; or it has been said
            return code
        print(f"error: the standard output cannot be written: {error.strerror}", file=sys.stderr)
        return 7


def tell(line: str) -> None:
    """One line on standard output, at once.

    Raises:
        OutputError: there is no room. BrokenPipeError: who reads has enough, which is no error.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "free some space, or send it elsewhere"
        raise OutputError(f"the standard output cannot be written: {error.strerror}", hint) from error
