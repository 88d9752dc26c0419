"""The names of files that are being written: each has such a name until it is complete.

A process that writes on behalf of another one can be given an owner, with which the names of its files begin. Whoever
knows the owner can remove what the process has left behind, and nothing else.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["OWNER", "new_owner", "partial_name", "remove_partials", "set_owner"]

OWNER = re.compile(r"[0-9a-f]{8}")
"""The form of an owner."""

_owner = ""


def new_owner() -> str:
    """Return a random owner."""
    return secrets.token_hex(4)


def set_owner(owner: str) -> None:
    """Make the names of all files that this process writes from now on begin with an owner.

    Raises:
        ValueError: The owner has another form.
    """
    global _owner
    if not OWNER.fullmatch(owner):
        raise ValueError(f"an owner has eight hexadecimal digits, not {owner!r}")
    _owner = owner


def partial_name() -> str:
    """Return a random name for a file that is not complete, in the form .0123456789abcdef.partial."""
    return f".{_owner}{secrets.token_hex((16 - len(_owner)) // 2)}.partial"


def remove_partials(owner: str, folders: Iterable[Path]) -> None:
    """Remove the incomplete files of an owner from these folders, as far as the system allows it."""
    for folder in folders:
        with suppress(OSError):
            for path in [*folder.glob(f".{owner}????????.partial")]:
                path.unlink(missing_ok=True)
