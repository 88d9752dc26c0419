"""A network's operations one after the other, without the Python that chose them.

Of small maps a network's operations take microseconds each, and so does what Python does between two of them. For
inputs of one shape they are always the same ones. So they are written down once, while they happen, as a graph that
PyTorch's interpreter runs as it stands: one after the other, letting go of what no later one needs. A tenth to a fifth
of an evaluation is won.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from restorer.networks.fast.prepacked import Packed
from restorer.networks.fast.weight_versions import Weights
from restorer.networks.time_embedding import TimedNetwork

__all__ = ["AFTER", "POSITIONS", "Traced", "UntraceableError", "trace"]

AFTER = 8  # evaluations of one shape in a row: writing down takes about what as many win by it
WORTH = 2 * AFTER  # more, and it was well worth it
POSITIONS = 1 << 14  # of a batch's maps: in larger ones arithmetic takes so long that nothing else counts
INTERPRETED = hasattr(torch._C, "Graph") and hasattr(torch._C, "_create_function_from_graph")

Operations = Callable[..., Tensor]


class UntraceableError(Exception):
    """What happens depends on the numbers in a tensor, what the first input has no part in is written to, or PyTorch's
    interpreter does not know an operation.
    """


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
        self.works = INTERPRETED

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
        try:
            return operations(x, *times)
        except RuntimeError:  # another PyTorch's interpreter, or too little memory, of which the network will tell
            self._forget()
            self.works = False
        del known, weights, operations  # they hold memory
        return network.at(x, times)

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
    try:
        return answer, recorder.finished(answer)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:  # none of it is promised by PyTorch
        raise UntraceableError("PyTorch's interpreter does not take it") from error


@dataclass(frozen=True)
class _Number:
    """Of a tensor that inputs have a part in, or of an input, by the order in which they came."""

    value: int


@dataclass(frozen=True)
class _Line:
    """An operation.

    Args:
        given: what it is given, by the names of its arguments; numbers for tensors that inputs have a part in.
        results: what it gives.
        listed: whether it gives them in a list.
    """

    operation: Any
    given: dict[str, Any]
    results: list[_Number]
    listed: bool


def _written(func: Any, values: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes to."""
    written: list[Tensor] = []
    for argument in func._schema.arguments:
        value = values.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write and value is not None:
            written += value if isinstance(value, (tuple, list)) else [value]
    return written


class _Recorder(TorchDispatchMode):
    """Writes down each operation below PyTorch's own Python."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._count = count()
        self._numbers = WeakTensorKeyDictionary()  # of what inputs have a part in, while it is there
        self._made = WeakTensorKeyDictionary()  # what they have none in, and was not there before
        self._inputs = [self._numbered(x) for x in inputs]
        self._early: list[_Line] = []  # what the first input has no part in
        self._lines: list[_Line] = []
        self._late = set(self._inputs[:1])

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would load its compiler to tell it that there is nothing to compile, which takes a second or two."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operation."""
        kwargs = kwargs or {}
        values = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        read: set[_Number] = set()
        told = {name: self._told(value, read) for name, value in values.items()}
        if not read:
            return self._once(func, args, kwargs, _written(func, values))
        late = not self._late.isdisjoint(read)
        if any(self._numbers.get(x) not in self._late for x in _written(func, values)):
            raise UntraceableError(f"{func} writes to what may be read before")
        out = func(*args, **kwargs)
        if any(out is value for value in args) and not func._schema.is_mutable:
            return out  # a cast to what it was
        listed = isinstance(out, list)
        parts = out if isinstance(out, (tuple, list)) else [] if out is None else [out]
        if not all(isinstance(part, Tensor) for part in parts):
            raise UntraceableError(f"{func} gives a number to Python")
        line = _Line(func, told, [self._numbered(part) for part in parts], listed)
        (self._lines if late else self._early).append(line)
        if late:
            self._late.update(line.results)
        return out

    def _once(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[Tensor]) -> Any:
        """An operation without any of the inputs, as when weights are packed: its result is a constant."""
        if any(x not in self._made for x in written):
            raise UntraceableError(f"{func} writes to what was there before")
        out = func(*args, **kwargs)
        for part in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(part, Tensor) and not any(part is value for value in args):
                self._made[part] = None
        return out

    def _told(self, value: Any, read: set[_Number]) -> Any:
        """What an operation is given, as it is written down; what of it inputs have a part in is `read`."""
        if isinstance(value, Tensor):
            number: _Number | None = self._numbers.get(value)
            if number is None:
                return value
            read.add(number)
            return number
        return [self._told(part, read) for part in value] if isinstance(value, (tuple, list)) else value

    def _numbered(self, x: Tensor) -> _Number:
        """A new one unless it was there before, and has been written to."""
        if x not in self._numbers:
            self._numbers[x] = _Number(next(self._count))
        number: _Number = self._numbers[x]
        return number

    def finished(self, answer: Tensor) -> Operations:
        """All that was written down, as a function."""
        graph = _Graph(self._inputs)
        for line in self._early + self._lines:
            graph.append(line)
        return graph.finished(self._told(answer, set()))


_FORMATS = {  # c10/core/MemoryFormat.h
    torch.contiguous_format: 0,
    torch.preserve_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
}


class _Graph:
    """Operations, as PyTorch's interpreter takes them.

    Args:
        inputs: their numbers.
    """

    def __init__(self, inputs: Sequence[_Number]) -> None:
        self._graph: Any = torch._C.Graph()
        self._values: dict[Any, Any] = {number: self._graph.addInput() for number in inputs}  # and constants, by a key

    def append(self, line: _Line) -> None:
        """One more operation."""
        func, schema = line.operation, line.operation._schema
        given = [
            self._value(line.given.get(argument.name, argument.default_value), argument.type)
            for argument in schema.arguments
        ]
        node = self._node(schema.name, given, len(schema.returns))
        found = node.schema().partition("(")[0]  # by the kinds of what it is given; empty where there is none
        if found not in (func.name(), f"{schema.name}.Scalar"):  # where a number takes a tensor's place
            raise UntraceableError(f"{func} is not found by what it is given, but {found or 'nothing'}")
        if line.listed:
            node.output().setType(torch._C.ListType(torch._C.TensorType.get()))
            node = self._node("prim::ListUnpack", [node.output()], len(line.results))
        self._values.update(zip(line.results, node.outputs(), strict=True))

    def finished(self, answer: Any) -> Operations:
        """A function of the inputs."""
        self._graph.registerOutput(self._value(answer, None))
        run = torch._C._create_function_from_graph("operations", self._graph)

        def operations(*inputs: Tensor) -> Tensor:
            with torch.jit.optimized_execution(False):  # as it stands: looking for more takes two evaluations' time
                return run(*inputs)  # type: ignore[no-any-return]

        return operations

    def _node(self, kind: str, given: list[Any], results: int) -> Any:
        return self._graph.insertNode(self._graph.create(kind, given, results))

    def _value(self, value: Any, kind: Any) -> Any:
        """What an operation is given, as an argument of a kind."""
        if isinstance(value, _Number):
            return self._values[value]
        if isinstance(value, Tensor):
            return self._constant(id(value), value)
        if isinstance(value, list) and (not value or any(isinstance(part, (Tensor, _Number)) for part in value)):
            while isinstance(kind, torch._C.OptionalType):
                kind = kind.getElementType()
            parts = [self._value(part, kind.getElementType()) for part in value]
            made = self._node("prim::ListConstruct", parts, 1).output()
            made.setType(kind)
            return made
        return self._constant(repr(value), _FORMATS[value] if isinstance(value, torch.memory_format) else value)

    def _constant(self, key: Any, value: Any) -> Any:
        if key not in self._values:
            if isinstance(value, Tensor) and value.is_mkldnn:
                node = self._node("prim::ConstantMKLDNNTensor", [], 1)
                self._values[key] = node.t_("value", value).output()
            else:
                held = value.detach() if isinstance(value, Tensor) else value
                self._values[key] = self._graph.insertConstant(held)
        return self._values[key]
