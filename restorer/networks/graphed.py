"""A network's kernels, recorded once and then launched together: CUDA graphs.

A GPU may be done with a small map sooner than Python has launched the next kernel, and a U-Net has hundreds. What was
recorded for one shape is launched by a single call (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
Its first answer is compared with that of the network itself; where they differ, or where nothing can be recorded, the
network goes on launching one kernel after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch import Tensor

from restorer.networks.packed import PackedConv2d

__all__ = ["Graphed", "record"]

KEPT = 2  # shapes that are kept recorded: that of a full batch of tiles, and that of what is left
APART = 0.01  # of the answer's norm: the same kernels differ by less, even in half precision

Network = Callable[..., Tensor]
Recorder = Callable[[Network, Sequence[Tensor]], Network]


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
        plain = PackedConv2d.plain or torch.is_grad_enabled() or torch.is_autocast_enabled(inputs[0].device.type)
        if plain or not self.works:
            return self._network(*inputs)
        with self._lock:  # a recording has one place for its inputs
            return self._answer(*inputs)

    def _answer(self, *inputs: Tensor) -> Tensor:
        shape = tuple((x.shape, x.stride(), x.dtype) for x in inputs)
        seen, replay = shape in self._known, self._known.pop(shape, None)
        try:
            answer = self._network(*inputs) if replay is None else replay(*inputs)
        except torch.OutOfMemoryError:
            if not self._known and replay is None:
                raise
            del replay
            self._known.clear()  # recordings hold the memory of all that happens in them
            return self._network(*inputs)
        if seen and replay is None:
            replay = self._recorded(inputs, answer)
        while len(self._known) >= KEPT:
            del self._known[next(iter(self._known))]
        self._known[shape] = replay
        return answer

    def _recorded(self, inputs: Sequence[Tensor], answer: Tensor) -> Network | None:
        """A recording that gives this answer to these inputs; None where there is none, and there will be no other."""
        try:
            replay = self._recorder(self._network, inputs)
            apart = (replay(*inputs).float() - answer.float()).norm()
            self.works = bool(apart <= APART * answer.float().norm())
        except RuntimeError:  # of CUDA, or for want of memory
            self.works = False
        if not self.works:
            self._known.clear()
            return None
        return replay


def record(network: Network, inputs: Sequence[Tensor]) -> Network:
    """A function that gives the network's answers to inputs like these.

    Args:
        network: see `Graphed`.
        inputs: on one GPU; their values do not matter.

    Raises:
        RuntimeError: the network does what cannot be recorded, or there is no memory for it.
    """
    with torch.cuda.device(inputs[0].device), torch.inference_mode(False), torch.no_grad():
        held = [torch.empty_like(x).copy_(x) for x in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            network(*held)  # libraries set up what they need on a stream with the first kernel they launch there
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            answer = network(*held)

    def replay(*values: Tensor) -> Tensor:
        for place, value in zip(held, values, strict=True):
            place.copy_(value)
        graph.replay()
        return answer.clone()

    return replay
