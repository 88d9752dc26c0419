"""The user's folder, which a system may not tell.

In a container, a process may run under a number that no user has, without the variable HOME. A path such as
~/.cache/huggingface would then be a folder called "~" in the current folder, or an error inside a library.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["NO_HOME", "ensure_home"]

NO_HOME = "/nonexistent"
"""The folder of users that have none, which does not exist (Filesystem Hierarchy Standard, as Debian applies it)."""


def ensure_home() -> None:
    """Set HOME to a folder that does not exist if the system does not tell the user's folder.

    Caches then cannot be written, which every library expects. A model of the Hub needs HF_HOME.
    """
    try:
        Path.home()
    except (RuntimeError, KeyError):
        os.environ["HOME"] = NO_HOME
