"""Memory that is freed, and needed again a moment later: it stays with the process.

By itself glibc gives large blocks back to the system as soon as they are free, and a network's feature maps are freed
and needed again many times a second. What comes anew must be cleared by the system, page by page.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_pages"]

BLOCK = 32 << 20  # bytes of the largest block that stays: the most that glibc allows
KEPT = 128 << 20  # bytes that may lie there free
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_pages() -> bool:
    """Say so to glibc; whether it was done. Not where the user has settings of their own, and nowhere else."""
    if sys.platform != "linux" or any(name in os.environ for name in SETTINGS):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(M_MMAP_THRESHOLD, BLOCK)) and bool(library.mallopt(M_TRIM_THRESHOLD, KEPT))
