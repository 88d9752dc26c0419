"""The bytes of picture files, their names in messages, and what decoders raise on malformed bytes."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from restorer.errors import PictureError
from restorer.limits import MAX_PIXELS

__all__ = ["convert_errors", "display_name", "read_file", "silence_stderr"]

_STDERR_LOCK = threading.Lock()  # held by the thread that redirects standard error


def display_name(source: Path | BinaryIO) -> str:
    """Return the name of a source for messages, on one line and printable."""
    name = str(source) if isinstance(source, Path) else "standard input"
    return name if name.isprintable() else ascii(name)


def read_file(source: Path | BinaryIO) -> bytes:
    """Return the whole file.

    A file is small compared with the memory that its restoration needs, and a pipe cannot be rewound.

    Raises:
        PictureError: the file is absent, a folder, empty, or cannot be read.
    """
    name = display_name(source)
    try:
        data = source.read_bytes() if isinstance(source, Path) else source.read()
    except FileNotFoundError as error:
        raise PictureError(f"{name}: no such file", "check the path") from error
    except OSError as error:  # a folder, a missing permission, a broken disk: the system's own message is the best
        raise PictureError(f"{name} cannot be read: {error.strerror or error}", "choose a readable file") from error
    except ValueError as error:
        raise PictureError(f"{name} is not a valid file name", "check the path") from error
    if not data:
        raise PictureError(f"{name} is empty (0 bytes)", "copy or download the file again")
    return data


@contextlib.contextmanager
def convert_errors(name: str, max_pixels: int) -> Iterator[None]:
    """Convert whatever a decoder raises on malformed bytes to a `PictureError` of one line."""
    limit = Image.MAX_IMAGE_PIXELS
    if max_pixels > MAX_PIXELS and limit is not None:
        Image.MAX_IMAGE_PIXELS = max(limit, max_pixels // 2 + 1)  # Pillow refuses pictures above twice its limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata, and about sizes below its hard limit
            yield
    except PictureError:
        raise
    except Image.UnidentifiedImageError as error:
        hint = "use PNG, JPEG, WebP, TIFF or another supported format"
        raise PictureError(f"{name} is not a picture", hint) from error
    except Image.DecompressionBombError as error:
        what = f"is too large to be decoded safely: it has more than {max_pixels / 1e6:.0f} megapixels"
        raise PictureError(f"{name} {what}", "raise the limit with --max-pixels, or split it into parts") from error
    except MemoryError as error:
        raise PictureError(f"{name} is too large for the available memory", "split it into parts") from error
    except Exception as error:  # decoders raise nearly anything: OSError, SyntaxError, struct.error, ValueError, ...
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise PictureError(f"{name} is damaged or cut short: {reason}", "copy or download the file again") from error


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Redirect standard error to the null device while libtiff works.

    libtiff writes every error that it finds to the standard error of the process, and Pillow raises it as well.
    """
    with _STDERR_LOCK, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # the process may have no standard error
            saved = os.dup(2)
            stack.callback(os.close, saved)
            null = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, null)
            stack.callback(os.dup2, saved, 2)
            os.dup2(null, 2)
        yield
