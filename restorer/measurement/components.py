"""The connected components of a mask.

Every row is a list of runs. Runs of neighbouring rows that touch, by a side or by a corner, are joined: each run takes
the smallest number among those that it touches, and then the number of the run that it was numbered after, until
nothing changes (pointer jumping; Shiloach and Vishkin 1982, "An O(log n) Parallel Connectivity Algorithm").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Components", "components_of"]


@dataclass(frozen=True)
class Components:
    """The components of a mask.

    Args:
        count: Their number.
        numbers: The number of the component of each marked pixel, int64 (N,), from 0, in the order of `mask.nonzero()`.
    """

    count: int
    numbers: np.ndarray


def components_of(mask: np.ndarray) -> Components:
    """Return the components of a mask, bool (H, W), whose pixels touch by a side or by a corner."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    change = np.diff(padded, axis=1)
    stride = mask.shape[1] + 2
    rows, columns = np.nonzero(change == 1)
    starts = rows * stride + columns
    rows, columns = np.nonzero(change == -1)
    ends = rows * stride + columns  # one behind the last pixel
    first = np.searchsorted(ends, starts + stride, "left")
    last = np.searchsorted(starts, ends + stride, "right")
    touched = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(starts)), touched)
    below = np.arange(len(above)) - np.repeat(np.cumsum(touched) - touched, touched) + np.repeat(first, touched)
    roots = _joined(len(starts), above, below)
    names, numbers = np.unique(roots, return_inverse=True)
    return Components(len(names), np.repeat(numbers, ends - starts))


def _joined(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the smallest node that each of `count` nodes is connected with, given the edges from `a` to `b`."""
    roots = np.arange(count)
    while True:
        low = np.minimum(roots[a], roots[b])
        new = roots.copy()
        for nodes in (a, b, roots[a], roots[b]):
            np.minimum.at(new, nodes, low)
        new = new[new]
        if (new == roots).all():
            return roots
        roots = new
