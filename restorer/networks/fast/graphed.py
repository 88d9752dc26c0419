"""A network's kernels, recorded once and then launched together: CUDA graphs.

A GPU may be done with a small map sooner than Python has launched the next kernel, and a U-Net has hundreds. What was
recorded for one shape is launched by a single call (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
Its first answer is compared with that of the network itself; where they differ, or where nothing can be recorded, the
network goes on launching one kernel after the other.

A recording costs three evaluations, and holds the memory of all that happens in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch import Tensor

from restorer.networks.fast.prepacked import Packed

__all__ = ["Graphed", "can_record", "record"]

KEPT = 2  # shapes that are kept recorded: that of a full batch of tiles, and that of what is left
APART = 0.01  # of the answer's norm: the same kernels differ by less, even in half precision
OLDEST = (2, 13)  # PyTorch; before it, a recording that failed left the allocator unable to give memory back

Network = Callable[..., Tensor]
Recorder = Callable[[Network, Sequence[Tensor]], Network]
_recording = Lock()  # whatever waits for the whole GPU ends every recording in the process


class Graphed:
    """A network for evaluation alone, whose answers are recorded from the second of a shape on.

    Args:
        network: a function of tensors on a GPU, without anything that waits for their values.
        recorder: what records it; see `record`.
    """

    def __init__(self, network: Network, recorder: Recorder | None = None) -> None:
        self._network, self._recorder, self._lock = network, recorder or record, Lock()
        self._known: dict[tuple[object, ...], Network | None] = {}  # by shape, the latest last; None was seen once
        self.works = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's answer."""
        plain = Packed.plain or torch.is_grad_enabled() or torch.is_autocast_enabled(inputs[0].device.type)
        if plain or not self.works:
            return self._network(*inputs)
        with self._lock:  # a recording has one place for its inputs
            shape = tuple((x.shape, x.stride(), x.dtype) for x in inputs)
            seen, replay = shape in self._known, self._known.pop(shape, None)
            answer = self._attempt(self._network if replay is None else replay, inputs)
            if answer is None:  # out of the handler's reach, or what failed would still be held
                del replay
                self._known.clear()
                return self._network(*inputs)
            if seen and replay is None:
                replay = self._recorded(inputs, answer)
            while len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            self._known[shape] = replay
            return answer

    def _attempt(self, function: Network, inputs: Sequence[Tensor]) -> Tensor | None:
        """The answer; None where it can be tried once more: without recordings, which hold memory."""
        try:
            return function(*inputs)
        except torch.OutOfMemoryError:
            if function is self._network and not any(self._known.values()):
                raise
        except RuntimeError:  # a replay may fail in its own words
            if function is self._network:
                raise
            self.works = False
        return None

    def _recorded(self, inputs: Sequence[Tensor], answer: Tensor) -> Network | None:
        """A recording that gives this answer to these inputs; None where there is none, and there will be no other."""
        try:
            with _recording:
                replay = self._recorder(self._network, inputs)
                apart = (replay(*inputs).float() - answer.float()).norm()
            self.works = bool(apart <= APART * answer.float().norm())
        except RuntimeError:  # of CUDA, or for want of memory
            self.works = False
        if not self.works:
            self._known.clear()
            return None
        return replay


def can_record() -> bool:
    """Whether this PyTorch recovers from a recording that fails."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) >= OLDEST and torch.version.hip is None


def record(network: Network, inputs: Sequence[Tensor]) -> Network:
    """A function that gives the network's answers to inputs like these.

    Args:
        network: see `Graphed`.
        inputs: on one GPU; their values do not matter.

    Raises:
        RuntimeError: the network does what cannot be recorded, there is no memory for it, or PyTorch is too old.
    """
    if not can_record():
        raise RuntimeError(f"PyTorch {torch.__version__} does not recover from a recording that fails")
    with torch.cuda.device(inputs[0].device), torch.inference_mode(False), torch.no_grad():
        held = [torch.empty_like(x).copy_(x) for x in inputs]
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # and back again, also where the recording fails
            network(*held)  # libraries set up what they need on a stream with the first kernel they launch there
            _let_go_of_workspaces()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                answer = network(*held)
            _let_go_of_workspaces()
        current.wait_stream(stream)

    def replay(*values: Tensor) -> Tensor:
        for place, value in zip(held, values, strict=True):
            place.copy_(value)
        graph.replay()
        return answer.clone()

    return replay


def _let_go_of_workspaces() -> None:
    """So that a recording has a workspace of its own: streams are few, and another recording's may be on this one."""
    torch._C._cuda_clearCublasWorkspaces()
