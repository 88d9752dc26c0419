"""When a network is recorded and when it is not. What a recording is on a GPU is in test_gpu.py."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from restorer.networks.fast.graphed import KEPT, Graphed
from restorer.networks.fast.prepacked import plainly


class Counting:
    """Doubles its first input and adds the second; counts how often, and runs out of memory when told to."""

    def __init__(self) -> None:
        self.calls, self.failing = 0, 0
        self.on_retry: Callable[[], None] = lambda: None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if self.failing:
            self.failing -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.on_retry()
        return 2 * x + t


class Recorder:
    """Records as a GPU does: inputs and answer have one place in memory."""

    def __init__(self, change: float = 0.0, error: Exception | None = None) -> None:
        self.recorded, self.replayed, self.change, self.error = 0, 0, change, error
        self.last: Callable[..., Tensor] | None = None
        self.broken: Exception | None = None  # what replays raise

    def __call__(self, network: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Callable[..., Tensor]:
        self.recorded += 1
        if self.error is not None:
            raise self.error
        held = [x.clone() for x in inputs]

        def replay(*values: Tensor) -> Tensor:
            self.replayed += 1
            if self.broken is not None:
                raise self.broken
            for place, value in zip(held, values, strict=True):
                assert place.shape == value.shape
                place.copy_(value)
            return 2 * held[0] + held[1] + self.change

        self.last = replay
        return replay


@pytest.fixture(autouse=True)
def without_gradients() -> Callable[[], None]:  # type: ignore[misc]
    with torch.no_grad():
        yield  # type: ignore[misc]


def ask(graphed: Graphed, size: int, value: float = 1.0) -> None:
    """One evaluation, and whether it is right."""
    x, t = torch.full((1, 3, size, size), value), torch.tensor([value])
    assert torch.equal(graphed(x, t), 2 * x + t)


def test_the_second_of_a_shape_is_recorded_and_the_third_replayed() -> None:
    network, recorder = Counting(), Recorder()
    graphed = Graphed(network, recorder)
    for k in range(5):
        ask(graphed, 8, k)
    assert (network.calls, recorder.recorded, recorder.replayed) == (2, 1, 1 + 3)  # the first replay is a comparison


def test_another_shape_or_precision_has_a_recording_of_its_own() -> None:
    network, recorder = Counting(), Recorder()
    graphed = Graphed(network, recorder)
    for _ in range(3):
        for size in range(8, 8 + KEPT):
            ask(graphed, size)
    assert (network.calls, recorder.recorded, recorder.replayed) == (2 * KEPT, KEPT, 2 * KEPT)
    half = torch.ones(1, 3, 8, 8, dtype=torch.bfloat16)
    assert torch.equal(graphed(half, torch.tensor([1.0])), 2 * half + 1) and network.calls == 2 * KEPT + 1


def test_the_shape_that_was_asked_for_longest_ago_is_forgotten() -> None:
    network, recorder = Counting(), Recorder()
    graphed = Graphed(network, recorder)
    for size in (8, 8, 9, 9, 8, 10):  # the last takes the place of 9
        ask(graphed, size)
    calls = network.calls
    ask(graphed, 8)
    assert network.calls == calls
    ask(graphed, 9)
    assert network.calls == calls + 1


@pytest.mark.parametrize("error", [RuntimeError("not permitted when a stream is capturing"), torch.OutOfMemoryError()])
def test_what_cannot_be_recorded_goes_on_as_it_is(error: Exception) -> None:
    network, recorder = Counting(), Recorder(error=error)
    graphed = Graphed(network, recorder)
    for k in range(4):
        ask(graphed, 8, k)
    assert not graphed.works and (network.calls, recorder.recorded) == (4, 1)


@pytest.mark.parametrize("change", [0.5, float("nan")])
def test_a_recording_that_answers_otherwise_is_not_used(change: float) -> None:
    network, recorder = Counting(), Recorder(change)
    graphed = Graphed(network, recorder)
    for k in range(4):
        ask(graphed, 8, k)
    assert not graphed.works and (network.calls, recorder.replayed) == (4, 1)


def test_recordings_make_room_where_memory_runs_out() -> None:
    network, recorder = Counting(), Recorder()
    graphed = Graphed(network, recorder)
    for _ in range(3):
        ask(graphed, 8)
    recording = weakref.ref(recorder.last)
    network.on_retry = lambda: freed.append(recording() is None)
    freed: list[bool] = []
    recorder.last = None
    network.failing = 1
    ask(graphed, 9)  # the second attempt, without the recording
    assert graphed.works and network.calls == 2 + 2 and freed == [True]
    ask(graphed, 8)
    assert network.calls == 5
    network.failing = 2
    with pytest.raises(torch.OutOfMemoryError):
        ask(graphed, 10)


@pytest.mark.parametrize(("error", "works"), [(torch.OutOfMemoryError(), True), (RuntimeError("CUDA error"), False)])
def test_where_a_replay_fails_the_network_is_asked(error: Exception, works: bool) -> None:
    network, recorder = Counting(), Recorder()
    graphed = Graphed(network, recorder)
    for _ in range(3):
        ask(graphed, 8)
    recorder.broken = error
    ask(graphed, 8)
    assert network.calls == 3 and graphed.works is works


def test_an_error_of_the_network_itself_is_its_own() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("sizes do not match")

    with pytest.raises(RuntimeError, match="sizes"):
        Graphed(broken, Recorder())(torch.ones(3))


def test_gradients_autocast_and_what_counts_operations_are_not_recorded() -> None:
    network, recorder = Counting(), Recorder()
    graphed = Graphed(network, recorder)
    for _ in range(4):
        with plainly():
            ask(graphed, 8)
        with torch.enable_grad():
            ask(graphed, 8)
        with torch.autocast("cpu", torch.bfloat16):
            ask(graphed, 8)
    assert recorder.recorded == 0 and network.calls == 12
