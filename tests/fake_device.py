"""A stand-in for a device that this machine does not have.

Its tensors lie on the CPU and report the other device. They obey its rules: they have no float64 numbers where the
device has none, and they cannot be combined with tensors of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["FakeDevice"]

_MARK = "_fake_device"
# Functions that take tensors of two devices: copies, and indices.
_MIXES = ("to", "copy_", "__getitem__", "__setitem__", "_has_compatible_shallow_copy_type")


class FakeDevice(TorchFunctionMode):
    """A context in which the tensors of one device are those of the CPU, under its rules.

    Args:
        device: The device.
        has_float64: Whether the device computes in float64.

    Attributes:
        calls: The number of operations on tensors of the device.
    """

    def __init__(self, device: str, *, has_float64: bool = False) -> None:
        super().__init__()
        self.device, self.has_float64, self.calls = torch.device(device), has_float64, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device or getattr(func, "__name__", "") == "_parse_to":  # which only read the name
            return func(*args, **kwargs)
        inputs = [x for x in _tensors((args, kwargs)) if x is not None]
        marked = [x for x in inputs if getattr(x, _MARK, False)]
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return self.device if marked else func(*args, **kwargs)
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            func(*args, **kwargs)
            setattr(args[0], _MARK, bool(getattr(args[1], _MARK, False)))
            return None
        if name == "__get__" and not isinstance(func(*args, **kwargs), Tensor):
            return func(*args, **kwargs)  # a shape, a dtype, ...
        asked, args, kwargs = self._on_the_cpu(args, kwargs)
        others = [x for x in inputs if not getattr(x, _MARK, False) and x.ndim > 0]
        if marked and others and name not in _MIXES:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        result = func(*args, **kwargs)
        if name in ("to", "cpu"):  # which return the tensor itself if nothing changes
            goes_away = name == "cpu" or asked == torch.device("cpu")
            goes_here = asked == self.device or (bool(marked) and not goes_away)
            if goes_here == bool(getattr(args[0], _MARK, False)):
                return self._mark(result) if goes_here else result
            return self._mark(result.clone()) if goes_here else result.clone()
        if asked == self.device or marked:
            self.calls += 1
            return self._mark(result)
        return result

    def _on_the_cpu(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[torch.device | None, tuple[Any, ...], dict[str, Any]]:
        """Return the device that a call names, and its arguments with the CPU in its place."""
        asked: torch.device | None = None
        cpu = torch.device("cpu")

        def replaced(value: Any) -> Any:
            nonlocal asked
            is_name = isinstance(value, torch.device) or value in ("cpu", str(self.device))
            if is_name:
                asked = torch.device(value)
                return cpu
            return value

        new_args = tuple(replaced(value) if isinstance(value, str | torch.device) else value for value in args)
        new_kwargs = {key: replaced(v) if isinstance(v, str | torch.device) else v for key, v in kwargs.items()}
        if len(args) > 1 and isinstance(args[1], Tensor) and getattr(args[1], _MARK, False):
            asked = self.device  # x.to(y)
        return asked, new_args, new_kwargs

    def _mark(self, result: Any) -> Any:
        for tensor in _tensors(result):
            if tensor.dtype == torch.float64 and not self.has_float64:
                raise TypeError(f"{self.device} has no float64")
            setattr(tensor, _MARK, True)
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
