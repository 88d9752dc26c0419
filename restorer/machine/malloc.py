"""Memory that is freed, and needed again a moment later: it stays with the process.

By itself glibc often gives large blocks back to the system once they are free, and a network's feature maps are freed
and needed again many times a second. What comes anew must be cleared by the system, page by page: of an evaluation of
512x768 pixels 3 % (bf16) to 5 % (fp32).

And glibc leaves small blocks apart that are free, until a large one is asked for: then it joins them all, at every
feature map. Joined as they are freed they cost half a percent less of a small network.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

__all__ = ["keep_pages"]

BLOCK = 32 << 20  # bytes of the largest block that stays: the most that glibc allows
KEPT = 128 << 20  # bytes that may lie free at the top of the heap; what lies free below something else stays anyway
M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = 1, -1, -3  # malloc.h
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_pages() -> bool:
    """Tell glibc. Returns whether it was: not where the user has settings of their own, nor with another C library."""
    if sys.platform == "linux" and not any(name in os.environ for name in SETTINGS):
        with suppress(OSError, AttributeError):  # no C library to be found, or another one
            library = ctypes.CDLL(None)
            if hasattr(library, "gnu_get_libc_version"):
                library.mallopt(M_MXFAST, 0)  # none are left apart
                return bool(library.mallopt(M_MMAP_THRESHOLD, BLOCK) and library.mallopt(M_TRIM_THRESHOLD, KEPT))
    return False
