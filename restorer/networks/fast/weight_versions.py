"""Whether weights are still those that something was computed from: packed, remembered, or written down."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["Weights", "parameter_state", "unchanging"]

_VERSION = operator.attrgetter("_version")


def parameter_state(parameter: Tensor) -> tuple[int, int]:
    """Another one once it has been loaded or cast."""
    return parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version


class _Run:
    """A time in which weights stay as they are."""

    over = False


class _Thread(threading.local):
    """The run that this thread is in the midst of, the innermost one."""

    run: _Run | None = None


_THREAD = _Thread()


@contextmanager
def unchanging() -> Iterator[None]:
    """Within, in this thread, weights are looked at once: nobody is to write to them. A run within a run looks anew.

    To look at all of them takes a hundredth of an evaluation of a small network, whose convolutions leave nothing of
    it in the caches.
    """
    before, run = _THREAD.run, _Run()
    _THREAD.run = run
    try:
        yield
    finally:
        run.over = True
        _THREAD.run = before


class Weights:
    """Modules' parameters, and the modules in them, as they are now.

    Args:
        modules: parameters are looked for in these alone, not in modules in them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._owners: list[dict[str, Any]] = [module._parameters for module in modules if module._parameters]
        self._owners += [module._modules for module in modules if module._modules]
        self._owned = self._owned_now()
        self._parameters = [part for part in self._owned if isinstance(part, Tensor)]
        self._counting = [p for p in self._parameters if not p.is_inference()]  # others do not count changes
        self._state = self._state_now()
        self._seen_in: _Run | None = None  # which has found them as they were

    def changed(self) -> bool:
        """Whether any has been replaced, loaded, written to or cast since. See `unchanging`."""
        run = _THREAD.run
        if run is not None and self._seen_in is run and not run.over:
            return False
        now, before = self._owned_now(), self._owned
        same = len(now) == len(before) and all(map(operator.is_, now, before)) and self._state_now() == self._state
        self._seen_in = (run or self._seen_in) if same else None
        return not same

    def _owned_now(self) -> list[Any]:
        return [part for owner in self._owners for part in owner.values()]

    def _state_now(self) -> tuple[list[int], list[int]]:
        return list(map(Tensor.data_ptr, self._parameters)), list(map(_VERSION, self._counting))
