"""Whether weights are still those that something was computed from: packed, remembered, or written down."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

__all__ = ["Weights", "parameter_state"]

_VERSION = operator.attrgetter("_version")


def parameter_state(parameter: Tensor) -> tuple[int, int]:
    """Another one once it has been loaded or cast."""
    return parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version


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

    def changed(self) -> bool:
        """Whether any has been replaced, loaded, written to or cast since."""
        now, before = self._owned_now(), self._owned
        return len(now) != len(before) or not all(map(operator.is_, now, before)) or self._state_now() != self._state

    def _owned_now(self) -> list[Any]:
        return [part for owner in self._owners for part in owner.values()]

    def _state_now(self) -> tuple[list[int], list[int]]:
        return list(map(Tensor.data_ptr, self._parameters)), list(map(_VERSION, self._counting))
