"""The three standard streams, in whatever state the process receives them."""

from __future__ import annotations

import errno
import io
import os
import sys

from restorer.cli.terminal.printable import NAMES_AS_BYTES, for_encoding, printable, register_error_handler
from restorer.errors import OutputError
from restorer.images.streams import ClosedStream

__all__ = ["DISK_FULL_ERRORS", "flush_streams", "open_streams", "print_line", "print_over_mark"]

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system errors of a full disk, a used-up quota and a file that would be too large."""


def open_streams() -> None:
    """Open the standard streams that are closed, and let them print any file name in any encoding.

    A closed stream is replaced by the null device; otherwise the next file to be opened would take its place. A
    character that the encoding of a stream lacks is printed as an escape. On standard output, the bytes of a file name
    that are not valid text are printed as they are, for scripts.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is that of the stream
            binary = open(number, "wb" if number else "rb", closefd=False)  # noqa: SIM115
            setattr(sys, name, ClosedStream(binary))
    register_error_handler()
    for stream, errors in ((sys.stdout, NAMES_AS_BYTES), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def print_over_mark(text: str) -> None:
    """Print a line to standard error; on a terminal, print it over the ^C that the terminal shows."""
    print(("\r" if sys.stderr.isatty() else "") + text, file=sys.stderr)


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

    A terminal receives no control characters, and everything else the line as it is.

    Raises:
        OutputError: The line cannot be written, for instance because the disk is full.
        BrokenPipeError: The reader has closed the pipe, which is not a failure.
    """
    try:
        print(for_encoding(printable(line), sys.stdout.encoding) if sys.stdout.isatty() else line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "free some space, or redirect the output elsewhere"
        raise OutputError(f"standard output cannot be written: {error.strerror}", hint) from error
