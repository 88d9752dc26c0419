"""A network's operations one after the other, without the Python that chose them.

Of small maps a network's operations take microseconds each, and so does what Python does between two of them. For
inputs of one shape they are always the same ones. So they are written down once, while they happen, as a function that
calls one after the other and lets go of what no later one needs: a twentieth to a seventh of an evaluation is won.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from restorer.networks.changes import Weights
from restorer.networks.packed import Packed
from restorer.networks.times import TimedNetwork

__all__ = ["AFTER", "POSITIONS", "Traced", "UntraceableError", "trace"]

AFTER = 12  # evaluations of one shape in a row: writing down takes about what as many win by it
WORTH = 2 * AFTER  # more, and it was well worth it
POSITIONS = 1 << 14  # of a batch's maps: in larger ones arithmetic takes so long that nothing else counts

Operations = Callable[..., Tensor]


class UntraceableError(Exception):
    """What happens depends on the numbers in a tensor, or what the first input has no part in is written to."""


class Traced:
    """A network for evaluation alone, on a processor.

    Only the operations of the latest shape are known, from some evaluations of it in a row on: they hold weights that
    are packed for it. Where shapes take turns, writing down is tried less and less often. The network's hooks are not
    called.

    Args:
        network: see `TimedNetwork`.
        after: so many evaluations of a shape in a row.
    """

    def __init__(self, network: TimedNetwork, after: int = AFTER) -> None:
        self._network, self._after = network, after
        self._shape: tuple[Any, ...] = ()
        self._alike = 0  # evaluations of this shape in a row
        self._known: tuple[tuple[Any, ...], Weights, Operations] | None = None
        self.works = True

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's answer to x (B, C, H, W) at timesteps t (B,), or (1,) for all."""
        network = self._network
        changes = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.jit.is_tracing()
        if Packed.plain or changes or not self.works:
            return network(x, t)  # type: ignore[no-any-return]
        shape = x.shape, x.stride(), x.dtype, t.shape
        if shape != self._shape:
            self._forget()
            self._shape, self._alike = shape, 0
        if len(x) * x.shape[-2:].numel() > POSITIONS:
            return network(x, t)  # type: ignore[no-any-return]
        self._alike += 1
        times, known = network.times(t, x.dtype), self._known
        if known is None:
            due = self._alike > self._after
            return self._written_down(shape, x, times) if due else network.at(x, times)
        its_shape, weights, operations = known
        if its_shape != shape or weights.changed():  # that of another thread, or other weights
            self._forget()
            return network.at(x, times)
        return operations(x, *times)

    def _written_down(self, shape: tuple[Any, ...], x: Tensor, times: Sequence[Tensor]) -> Tensor:
        """The answer, and from now on its operations are known."""
        try:
            weights = Weights(self._network.modules())
            answer, operations = trace(lambda x, *times: self._network.at(x, times), (x, *times))
        except UntraceableError:
            self.works = False
            return self._network.at(x, times)
        self._known = shape, weights, operations
        return answer

    def _forget(self) -> None:
        if self._known is not None:
            self._after = AFTER if self._alike > self._after + WORTH else 2 * self._after
            self._known = None


def trace(function: Operations, inputs: Sequence[Tensor]) -> tuple[Tensor, Operations]:
    """A function's answer, and a function that answers inputs of the same shapes by the same operations.

    What the first input has no part in comes first: small operations that follow each other take a microsecond, and
    between two large ones, which leave nothing in the caches, ten. What no input has a part in is computed now.

    Args:
        function: of tensors; what else it computes with is held as it is now, but not copied. It writes to nothing but
            what it has made itself, and views of that.
        inputs: to it; at least one.

    Raises:
        UntraceableError: see there.
    """
    recorder = _Recorder(inputs)
    with recorder:
        answer = function(*inputs)
    return answer, recorder.finished(answer)


_Line = tuple[list[str], str, list[str]]  # what it gives, the source, and what it reads
_aten = torch.ops.aten
QUICK: dict[Any, Callable[..., Any]] = {  # the same operations by PyTorch's bindings, half as long on the way
    _aten.add.Tensor: torch.add,
    _aten.addcmul.out: torch.addcmul,
    _aten.cat.default: torch.cat,
    _aten.group_norm.default: torch.group_norm,
    _aten.native_group_norm.default: torch.native_group_norm,
    _aten.relu_.default: torch.relu_,
    _aten.select.int: torch.select,
    _aten.silu_.default: partial(F.silu, inplace=True),
    _aten.unsqueeze.default: torch.unsqueeze,
}
CASTS = _aten.to.dtype, _aten._to_copy.default


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes to."""
    values = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    written: list[Tensor] = []
    for argument in func._schema.arguments:
        value = values.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write and value is not None:
            written += value if isinstance(value, (tuple, list)) else [value]
    return written


class _Recorder(TorchDispatchMode):
    """Writes down each operation below PyTorch's own Python, as a line of source."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._numbers = count()
        self._names = WeakTensorKeyDictionary()  # of tensors that are still there: x1, or c1 where it is a constant
        self._made = WeakTensorKeyDictionary()  # constants that were not there before
        self._inputs = [self._named(x) for x in inputs]
        self._early: list[_Line] = []  # what the first input has no part in
        self._lines: list[_Line] = []
        self._late = set(self._inputs[:1])
        self._constants: dict[str, Any] = {}
        self._operations: dict[Any, str] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would load its compiler to tell it that there is nothing to compile, which takes a second or two."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operation."""
        kwargs = kwargs or {}
        if not self._reads_inputs((args, kwargs)):
            return self._once(func, args, kwargs)
        read: list[str] = []
        told = [self._told(value, read) for value in args]
        told += [f"{name}={self._told(value, read)}" for name, value in kwargs.items()]
        late = not self._late.isdisjoint(read)
        if any(self._names.get(x) not in self._late for x in _written(func, args, kwargs)):
            raise UntraceableError(f"{func} writes to what may be read before")
        out = func(*args, **kwargs)
        if any(out is value for value in args) and not func._schema.is_mutable:
            return out  # a cast to what it was
        parts = out if isinstance(out, (tuple, list)) else [] if out is None else [out]
        if not all(isinstance(part, Tensor) for part in parts):
            raise UntraceableError(f"{func} gives a number to Python")
        given = [self._named(part) for part in parts]
        quick = QUICK.get(func, getattr(func, "_op", func))
        if func in CASTS and len(args) <= 2 and [*kwargs] in ([], ["dtype"]) and args[0].dtype != out.dtype:
            quick = Tensor.to
        if quick not in self._operations:
            self._operations[quick] = self._constant(quick)
        target = f"[{', '.join(given)}] = " if parts is out else f"{given[0]} = " if given else ""
        line = given, f"{target}{self._operations[quick]}({', '.join(told)})", read
        (self._lines if late else self._early).append(line)
        if late:
            self._late.update(given)
        return out

    def _once(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation without any of the inputs, as when weights are packed: its result is a constant."""
        if any(x not in self._made for x in _written(func, args, kwargs)):
            raise UntraceableError(f"{func} writes to what was there before")
        out = func(*args, **kwargs)
        for part in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(part, Tensor) and not any(part is value for value in args):
                self._made[part] = None
        return out

    def _reads_inputs(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return self._names.get(value, "c").startswith("x")
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, (tuple, list)):
            return False
        return any(map(self._reads_inputs, value))

    def finished(self, answer: Tensor) -> Operations:
        """All that was written down, as a function."""
        result = self._names[answer]
        body, needed = [f"return {result}"], {result}
        for given, line, read in reversed(self._early + self._lines):
            done = (name for name in (*given, *read) if name not in needed and name not in self._constants)
            dead = dict.fromkeys(done)
            needed.update(dead)
            body += [f"del {', '.join(dead)}", line] if dead else [line]
        held = (f"{name}={name}" for name in self._constants)  # local names are the fastest
        source = "\n    ".join([f"def operations({', '.join((*self._inputs, *held))}):", *reversed(body)])
        made: dict[str, Operations] = {}  # apart from what the function sees, or it would see itself, and stay
        exec(compile(source, "<trace>", "exec"), dict(self._constants), made)
        return made["operations"]

    def _told(self, value: Any, read: list[str]) -> str:
        """How the source names what an operation is given; tensors that it has made itself are `read`."""
        if isinstance(value, Tensor):
            if value not in self._names:
                self._names[value] = self._constant(value)
            name: str = self._names[value]
            if name not in self._constants:
                read.append(name)
            return name
        if isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
            return f"[{', '.join(self._told(part, read) for part in value)}]"
        return repr(value) if value is None or isinstance(value, (bool, int, str)) else self._constant(value)

    def _constant(self, value: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = value
        return name

    def _named(self, x: Tensor) -> str:
        """Its name; a new one unless it was there before, and has been written to."""
        if x not in self._names:
            self._names[x] = f"x{next(self._numbers)}"
        name: str = self._names[x]
        return name
