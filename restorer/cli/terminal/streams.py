"""The three standard streams, in whatever state the process receives them."""

from __future__ import annotations

import errno
import io
import os
import sys

from restorer.errors import OutputError

__all__ = ["DISK_FULL_ERRORS", "flush_streams", "open_streams", "print_line"]

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system errors of a full disk, a used-up quota and a file that would be too large."""


def open_streams() -> None:
    """Open the standard streams that are closed, and let them print any file name.

    A closed stream is replaced by the null device; otherwise the next file to be opened would take its place. File
    names that are not valid text are printed as the bytes that they consist of.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is that of the stream
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")


def flush_streams(code: int) -> int:
    """Flush standard output before Python does so, which would exit with a code of its own.

    Args:
        code: The exit code so far.

    Returns:
        The exit code; 7 if the output cannot be written and `code` is 0.
    """
    try:
        sys.stdout.flush()
        return code
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError) or code:  # the reader has closed the pipe, or an error is already printed
            return code
        print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        return 7


def print_line(line: str) -> None:
    """Print one line to standard output and flush it.

    Raises:
        OutputError: The line cannot be written, for instance because the disk is full.
        BrokenPipeError: The reader has closed the pipe, which is not a failure.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "free some space, or redirect the output elsewhere"
        raise OutputError(f"standard output cannot be written: {error.strerror}", hint) from error
