"""Replaying a network's operations without the Python code that chose them.

The operations of a network on small maps take microseconds each, and so does the Python between two of them. For inputs
of one shape the operations are always the same. So they are recorded once, while they run, as a graph that PyTorch's
interpreter runs as it stands: one operation after the other, freeing every tensor after its last use. This saves a
tenth to a fifth of an evaluation.
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

from restorer.networks.fast.prepacked import Prepacked
from restorer.networks.fast.weight_versions import Versions
from restorer.networks.time_embedding import TimedNetwork

__all__ = ["MAX_POSITIONS", "RECORD_AFTER", "Replayed", "UnrecordableError", "record"]

RECORD_AFTER = 8  # evaluations of one shape in a row: recording costs about what so many replays save
WORTHWHILE = 2 * RECORD_AFTER  # replays after which a recording was clearly worth its cost
MAX_POSITIONS = 1 << 14  # in the maps of a batch; on larger maps only the time of the arithmetic counts
HAS_INTERPRETER = hasattr(torch._C, "Graph") and hasattr(torch._C, "_create_function_from_graph")

Operations = Callable[..., Tensor]


class UnrecordableError(Exception):
    """A function cannot be recorded.

    What it does depends on the numbers in a tensor, it writes to a tensor that the first input does not determine, or
    PyTorch's interpreter does not know one of its operations.
    """


class Replayed:
    """A network for evaluation alone, on a processor, that is recorded and replayed.

    Only the operations for the latest shape are kept, since they hold weights that are packed for it. They are recorded
    after some evaluations of that shape in a row. Where shapes alternate, recording is tried less and less often. The
    network's hooks are not called during a replay.

    Args:
        network: The network.
        record_after: Evaluations of one shape in a row before it is recorded.

    Attributes:
        works: Whether recording and replaying have worked so far. Once either has failed, the network is called as it
            is.
    """

    def __init__(self, network: TimedNetwork, record_after: int = RECORD_AFTER) -> None:
        self._network, self._record_after = network, record_after
        self._shape: tuple[Any, ...] = ()
        self._alike = 0  # evaluations of this shape in a row
        self._recording: tuple[tuple[Any, ...], Versions, Operations] | None = None
        self.works = HAS_INTERPRETER

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the network's output for x (B, C, H, W) at timesteps t (B,), or (1,) for the whole batch."""
        network = self._network
        recording_elsewhere = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.jit.is_tracing()
        if Prepacked.disabled or recording_elsewhere or not self.works:
            return network(x, t)  # type: ignore[no-any-return]
        shape = x.shape, x.stride(), x.dtype, t.shape
        if shape != self._shape:
            self._forget()
            self._shape, self._alike = shape, 0
        if len(x) * x.shape[-2:].numel() > MAX_POSITIONS:
            return network(x, t)  # type: ignore[no-any-return]
        self._alike += 1
        times, recording = network.embed_time(t, x.dtype), self._recording
        if recording is None:
            due = self._alike > self._record_after
            return self._record(shape, x, times) if due else network.evaluate(x, times)
        recorded_shape, versions, operations = recording
        if recorded_shape != shape or versions.changed():  # another thread's recording, or other weights
            self._forget()
            return network.evaluate(x, times)
        try:
            return operations(x, *times)
        except RuntimeError:  # the interpreter differs, or memory has run out, which the network will report
            self._forget()
            self.works = False
        del recording, versions, operations  # they hold memory
        return network.evaluate(x, times)

    def _record(self, shape: tuple[Any, ...], x: Tensor, times: Sequence[Tensor]) -> Tensor:
        """Return the network's output, and keep a recording of how it was computed."""
        try:
            versions = Versions(self._network.modules())
            answer, operations = record(lambda x, *times: self._network.evaluate(x, times), (x, *times))
        except UnrecordableError:
            self.works = False
            return self._network.evaluate(x, times)
        self._recording = shape, versions, operations
        return answer

    def _forget(self) -> None:
        """Drop the recording, and record later next time unless this one was worth its cost."""
        if self._recording is not None:
            worthwhile = self._alike > self._record_after + WORTHWHILE
            self._record_after = RECORD_AFTER if worthwhile else 2 * self._record_after
            self._recording = None


def record(function: Operations, inputs: Sequence[Tensor]) -> tuple[Tensor, Operations]:
    """Return a function's output, and a function that computes the output for inputs of the same shapes.

    The operations that do not depend on the first input come first: small operations in a row take a microsecond each,
    but ten microseconds between two large ones, which leave nothing in the caches. The operations that depend on no
    input are computed once, here.

    Args:
        function: Function of tensors. Whatever else it computes with is held as it is now, but not copied. It writes
            only to tensors that it has made itself, and to views of them.
        inputs: Its inputs, at least one.

    Raises:
        UnrecordableError: The function cannot be recorded.
    """
    recorder = _Recorder(inputs)
    with recorder:
        answer = function(*inputs)
    try:
        return answer, recorder.finish(answer)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:  # PyTorch promises none of this interface
        raise UnrecordableError("PyTorch's interpreter does not accept the operations") from error


@dataclass(frozen=True)
class _Number:
    """Identity of a tensor that depends on an input, or of an input, in the order in which they appeared."""

    value: int


@dataclass(frozen=True)
class _Line:
    """One recorded operation.

    Args:
        operation: The operation.
        arguments: Its arguments by name, with a number in place of every tensor that depends on an input.
        results: Numbers of its results.
        listed: Whether it returns its results in a list.
    """

    operation: Any
    arguments: dict[str, Any]
    results: list[_Number]
    listed: bool


def _written_to(func: Any, values: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation writes to."""
    written: list[Tensor] = []
    for argument in func._schema.arguments:
        value = values.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write and value is not None:
            written += value if isinstance(value, (tuple, list)) else [value]
    return written


class _Recorder(TorchDispatchMode):
    """A mode that records each operation below PyTorch's own Python."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._count = count()
        self._numbers = WeakTensorKeyDictionary()  # of living tensors that depend on an input
        self._constants = WeakTensorKeyDictionary()  # tensors made here that depend on none
        self._inputs = [self._number(x) for x in inputs]
        self._early: list[_Line] = []  # operations that do not depend on the first input
        self._lines: list[_Line] = []
        self._late = set(self._inputs[:1])  # tensors that depend on the first input

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: otherwise PyTorch would load its compiler, which takes a second or two, only to skip it."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run and record one operation."""
        kwargs = kwargs or {}
        values = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        read: set[_Number] = set()
        arguments = {name: self._numbered(value, read) for name, value in values.items()}
        if not read:
            return self._run_once(func, args, kwargs, _written_to(func, values))
        late = not self._late.isdisjoint(read)
        if any(self._numbers.get(x) not in self._late for x in _written_to(func, values)):
            raise UnrecordableError(f"{func} writes to a tensor that an earlier operation may read")
        out = func(*args, **kwargs)
        if any(out is value for value in args) and not func._schema.is_mutable:
            return out  # for example a cast to the type that the tensor already has
        listed = isinstance(out, list)
        parts = out if isinstance(out, (tuple, list)) else [] if out is None else [out]
        if not all(isinstance(part, Tensor) for part in parts):
            raise UnrecordableError(f"{func} returns a number to Python")
        line = _Line(func, arguments, [self._number(part) for part in parts], listed)
        (self._lines if late else self._early).append(line)
        if late:
            self._late.update(line.results)
        return out

    def _run_once(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[Tensor]) -> Any:
        """Run an operation that depends on no input, such as the packing of weights: its result is a constant."""
        if any(x not in self._constants for x in written):
            raise UnrecordableError(f"{func} writes to a tensor that existed before")
        out = func(*args, **kwargs)
        for part in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(part, Tensor) and not any(part is value for value in args):
                self._constants[part] = None
        return out

    def _numbered(self, value: Any, read: set[_Number]) -> Any:
        """Return an argument as it is recorded, and add the numbers of the tensors in it to `read`."""
        if isinstance(value, Tensor):
            number: _Number | None = self._numbers.get(value)
            if number is None:
                return value
            read.add(number)
            return number
        return [self._numbered(part, read) for part in value] if isinstance(value, (tuple, list)) else value

    def _number(self, x: Tensor) -> _Number:
        """Return the number of a tensor: a new one, unless the tensor was written to and therefore has one already."""
        if x not in self._numbers:
            self._numbers[x] = _Number(next(self._count))
        number: _Number = self._numbers[x]
        return number

    def finish(self, answer: Tensor) -> Operations:
        """Return all recorded operations as one function."""
        graph = _Graph(self._inputs)
        for line in self._early + self._lines:
            graph.append(line)
        return graph.finish(self._numbered(answer, set()))


_FORMATS = {  # c10/core/MemoryFormat.h
    torch.contiguous_format: 0,
    torch.preserve_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
}


class _Graph:
    """Operations in the form that PyTorch's interpreter takes.

    Args:
        inputs: Numbers of the inputs.
    """

    def __init__(self, inputs: Sequence[_Number]) -> None:
        self._graph: Any = torch._C.Graph()
        self._values: dict[Any, Any] = {number: self._graph.addInput() for number in inputs}  # and constants, by key

    def append(self, line: _Line) -> None:
        """Append an operation."""
        func, schema = line.operation, line.operation._schema
        arguments = [
            self._value(line.arguments.get(argument.name, argument.default_value), argument.type)
            for argument in schema.arguments
        ]
        node = self._node(schema.name, arguments, len(schema.returns))
        found = node.schema().partition("(")[0]  # chosen by the types of the arguments; empty if there is none
        if found not in (func.name(), f"{schema.name}.Scalar"):  # the latter where a number stands for a tensor
            raise UnrecordableError(f"the interpreter finds {found or 'nothing'} in place of {func}")
        if line.listed:
            node.output().setType(torch._C.ListType(torch._C.TensorType.get()))
            node = self._node("prim::ListUnpack", [node.output()], len(line.results))
        self._values.update(zip(line.results, node.outputs(), strict=True))

    def finish(self, answer: Any) -> Operations:
        """Return the graph as a function of the inputs."""
        self._graph.registerOutput(self._value(answer, None))
        run = torch._C._create_function_from_graph("operations", self._graph)

        def operations(*inputs: Tensor) -> Tensor:
            with torch.jit.optimized_execution(False):  # optimizing the graph takes as long as two evaluations
                return run(*inputs)  # type: ignore[no-any-return]

        return operations

    def _node(self, kind: str, arguments: list[Any], results: int) -> Any:
        return self._graph.insertNode(self._graph.create(kind, arguments, results))

    def _value(self, value: Any, kind: Any) -> Any:
        """Return the graph's value for an argument of a type."""
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
