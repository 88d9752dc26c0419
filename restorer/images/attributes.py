"""What the file system knows of a file besides its content: mode, owner, extended attributes and times."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

__all__ = ["Times", "copy_attributes", "read_times", "set_times"]

Times = tuple[int, int]
"""The access time and the modification time of a file, in nanoseconds."""


def copy_attributes(source: Path, target: Path) -> None:
    """Give a file the mode, the owner and the extended attributes of another one, as far as the system permits.

    `cp -p --preserve=xattr` does the same. Only a privileged user may give a file to another user; if that is refused,
    the file keeps its owner, and its group is changed if possible. Access control lists are extended attributes.

    Args:
        source: The file to copy from.
        target: The file to change.

    Raises:
        OSError: The mode cannot be set.
    """
    status = source.stat()
    mode = stat.S_IMODE(status.st_mode)
    if hasattr(os, "chown"):
        try:
            os.chown(target, status.st_uid, status.st_gid)
        except OSError:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # which would give the rights of another owner
            with contextlib.suppress(OSError):
                os.chown(target, -1, status.st_gid)
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):  # the file system has none
            for name in os.listxattr(source):
                with contextlib.suppress(OSError):  # this one belongs to the system
                    os.setxattr(target, name, os.getxattr(source, name))
    target.chmod(mode)


def read_times(path: Path) -> Times:
    """Return the access time and the modification time of a file.

    Raises:
        OSError: The file does not exist.
    """
    status = path.stat()
    return status.st_atime_ns, status.st_mtime_ns


def set_times(path: Path, times: Times) -> None:
    """Set the access time and the modification time of a file.

    Raises:
        OSError: The times cannot be set.
    """
    os.utime(path, ns=times)
