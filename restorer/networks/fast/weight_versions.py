"""Versions of weights: whether they are still those that something was computed from.

Packed weights, cached embeddings and recorded operations are all derived from parameters, and are stale once these are
loaded, cast or written to.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["Versions", "constant_weights", "parameter_version"]

_VERSION = operator.attrgetter("_version")


def parameter_version(parameter: Tensor) -> tuple[int, int]:
    """Return a value that changes whenever the parameter is loaded, cast or written to."""
    return parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version


class _Block:
    """One `constant_weights` block."""

    ended = False


class _Thread(threading.local):
    """The innermost `constant_weights` block that this thread is in."""

    block: _Block | None = None


_THREAD = _Thread()


@contextmanager
def constant_weights() -> Iterator[None]:
    """Check weights only once within the block, in this thread. The block must not write to them.

    A check of all weights takes a hundredth of an evaluation of a small network, whose convolutions leave none of them
    in the caches. A block within a block checks anew.
    """
    outer, block = _THREAD.block, _Block()
    _THREAD.block = block
    try:
        yield
    finally:
        block.ended = True
        _THREAD.block = outer


class Versions:
    """The parameters of modules, and the modules directly in them, as they are at construction.

    Args:
        modules: Modules whose own parameters and children count; those of their children do not.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._owners: list[dict[str, Any]] = [module._parameters for module in modules if module._parameters]
        self._owners += [module._modules for module in modules if module._modules]
        self._owned = self._owned_now()
        self._parameters = [part for part in self._owned if isinstance(part, Tensor)]
        # Memory that is held cannot be given to weights that are cast and cast back, which would then look unchanged.
        self._held = [p.detach() for p in self._parameters]
        self._counting = [p for p in self._parameters if not p.is_inference()]  # the others count no writes
        self._state = self._state_now()
        self._checked_in: _Block | None = None  # the block in which they were last found unchanged

    def changed(self) -> bool:
        """Return whether a parameter or module has been replaced, loaded, cast or written to since construction.

        Within `constant_weights`, a call does not check again what an earlier one has found unchanged.
        """
        block = _THREAD.block
        if block is not None and self._checked_in is block and not block.ended:
            return False
        now, before = self._owned_now(), self._owned
        same = len(now) == len(before) and all(map(operator.is_, now, before)) and self._state_now() == self._state
        self._checked_in = (block or self._checked_in) if same else None
        return not same

    def _owned_now(self) -> list[Any]:
        return [part for owner in self._owners for part in owner.values()]

    def _state_now(self) -> tuple[list[int], list[int]]:
        return list(map(Tensor.data_ptr, self._parameters)), list(map(_VERSION, self._counting))
