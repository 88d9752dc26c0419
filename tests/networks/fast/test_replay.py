"""Recording and replaying the operations of a network: the same output without the Python code of the network."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from fast_networks import GUIDED, ONE_HEAD, PLAIN, RESIDUAL
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from restorer.diffusion.schedule import Schedule
from restorer.networks import Network, NetworkConfig
from restorer.networks.fast import replay
from restorer.networks.fast.prepacked import can_prepack, unaccelerated
from restorer.networks.fast.replacement import accelerate, decelerate, to_channels_last
from restorer.networks.fast.replay import Replayed, UnrecordableError, record
from restorer.networks.fast.weight_versions import Versions, constant_weights
from restorer.priors.unet_prior import ModelSpec, UNetPrior

CONFIGS = [PLAIN, ONE_HEAD, GUIDED, RESIDUAL]


def build(config: NetworkConfig, dtype: torch.dtype = torch.float32, *, packed: bool = True) -> Network:
    """Return a network none of whose weights is zero, prepacked if `packed` and if this processor prepacks."""
    torch.manual_seed(0)
    network = config.build().eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.GroupNorm)):
            nn.init.normal_(layer.weight, std=0.2)
            nn.init.normal_(layer.bias, std=0.2)
    network = to_channels_last(network.to(dtype))
    if packed and can_prepack(torch.device("cpu"), dtype):
        accelerate(network)
    return network


def picture(
    config: NetworkConfig, seed: int, side: int = 16, batch: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return noise, (batch, channels, side, side)."""
    x = torch.randn(batch, config.in_channels, side, side, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


class RunCounter:
    """A count of the runs of the network's Python code, which a replay does not run."""

    def __init__(self, network: Network) -> None:
        self.count = 0
        network.conv_in.register_forward_hook(self)

    def __call__(self, *_: object) -> None:
        self.count += 1


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_same_numbers_without_the_python(
    config: NetworkConfig, dtype: torch.dtype, packed: bool, inference: bool
) -> None:
    network = build(config, dtype, packed=packed)
    replayed, counter = Replayed(network, record_after=2), RunCounter(network)
    with torch.inference_mode(inference), torch.no_grad():
        for i in range(6):
            x, t = picture(config, i, dtype=dtype), torch.tensor([100.0 * i + 0.5])
            before = x.clone()
            answer, count = replayed(x, t), counter.count
            assert count == min(i + 1, 3)
            assert torch.equal(x, before)
            assert torch.equal(answer, network(x, t)) and answer.stride() == network(x, t).stride()
            counter.count = count
    assert replayed.works


@torch.no_grad()
def test_convolutions_by_winograds_algorithm_are_recorded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restorer.networks.fast.prepacked.MIN_MULTIPLICATIONS", 0)
    network = build(PLAIN)
    replayed = Replayed(network, record_after=1)
    for i in range(4):
        x, t = picture(PLAIN, i, 32), torch.tensor([10.0 * i])
        assert torch.equal(replayed(x, t), network(x, t))


@torch.no_grad()
def test_pictures_with_timesteps_of_their_own() -> None:
    network = build(ONE_HEAD)
    replayed, counter = Replayed(network, record_after=1), RunCounter(network)
    x, counts = picture(ONE_HEAD, 0, batch=2), []
    for times in ([3.0, 500.0], [800.0, 20.0], [1.0, 2.0], [3.0], [4.0], [5.0], [6.0]):
        t = torch.tensor(times)
        answer = replayed(x, t)
        counts.append(counter.count)
        assert torch.equal(answer, network(x, t))
        counter.count = counts[-1]
    assert counts == [1, 2, 2, 3, 4, 5, 5]  # one timestep for all pictures is another shape


@torch.no_grad()
def test_where_shapes_alternate_recording_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(RESIDUAL)
    replayed, counter, t = Replayed(network, record_after=1), RunCounter(network), torch.tensor([30.0])

    def run(side: int, count: int) -> int:
        """Return how many of `count` evaluations run the Python code."""
        before, x = counter.count, picture(RESIDUAL, 0, side)
        outputs = [replayed(x, t) for _ in range(count)]
        runs = counter.count - before
        assert all(torch.equal(output, network(x, t)) for output in outputs)
        return runs

    assert [run(8 * side, 10) for side in (1, 2, 1, 2, 1, 2)] == [2, 3, 5, 9, 10, 10]
    monkeypatch.setattr(replay, "WORTHWHILE", 20)
    replayed = Replayed(network, record_after=1)
    assert [run(8 * side, 30) for side in (1, 2)] == [2, replay.RECORD_AFTER + 1]  # the recording was worth its cost


@torch.no_grad()
def test_large_maps_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(RESIDUAL)
    monkeypatch.setattr(replay, "MAX_POSITIONS", 2 * 16 * 16)
    t = torch.tensor([30.0])
    for batch, expected in ((2, 2), (3, 5)):
        replayed, counter = Replayed(network, record_after=1), RunCounter(network)
        for _ in range(5):
            replayed(picture(RESIDUAL, 0, batch=batch), t)
        assert counter.count == expected


class OperationNames(TorchDispatchMode):
    """The names of the operations that run, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Disable the garbage collector, so that only objects without references are freed."""
    gc.disable()
    yield
    gc.enable()


@torch.no_grad()
@pytest.mark.parametrize("batch", [2, 40])
def test_weights_packed_for_a_shape_are_not_held_for_another(no_garbage_collection: None, batch: int) -> None:
    """They are freed when another shape comes, whether it is small enough to be recorded or not."""
    network, t = build(RESIDUAL), torch.tensor([30.0])
    replayed = Replayed(network, record_after=1)
    for _ in range(3):
        replayed(picture(RESIDUAL, 0, 32), t)
    assert replayed._recording is not None
    operations = weakref.ref(replayed._recording[-1])
    assert operations() is not None
    replayed(picture(RESIDUAL, 0, 32, batch), t)
    assert operations() is None


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0, 1 << 60])
def test_what_is_packed_during_recording_is_not_packed_again(monkeypatch: pytest.MonkeyPatch, threshold: int) -> None:
    """The weights change just before the recording, but a replay does not contain their packing."""
    monkeypatch.setattr("restorer.networks.fast.prepacked.MIN_MULTIPLICATIONS", threshold)
    network, t = build(ONE_HEAD), torch.tensor([30.0])
    replayed, x = Replayed(network, record_after=1), picture(ONE_HEAD, 0, 32)
    replayed(x, t)
    for parameter in network.parameters():
        parameter.add_(0.01)
    replayed(x, t)
    assert replayed.works and replayed._recording is not None
    network(x, t)
    for evaluate in (replayed, network):
        with OperationNames() as operations:
            assert torch.equal(evaluate(x, t), network(x, t))
        assert not [name for name in operations.names if "reorder" in name or name in ("mm", "bmm", "flip")]


@torch.no_grad()
def test_the_recording_of_another_thread_serves_its_shape_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording is not used for the input of another shape that is evaluated during the recording."""
    network = build(ONE_HEAD)
    replayed, t, both = Replayed(network, record_after=1), torch.tensor([30.0]), torch.tensor([30.0, 700.0])
    x = picture(ONE_HEAD, 0, batch=2)
    original = replay.record

    def record_with_interruption(function: Any, inputs: Any) -> Any:
        monkeypatch.setattr(replay, "record", original)
        recording = original(function, inputs)
        replayed(x, both)
        return recording

    replayed(x, t)
    monkeypatch.setattr(replay, "record", record_with_interruption)
    replayed(x, t)
    for _ in range(4):
        assert torch.equal(replayed(x, both), network(x, both))


@torch.no_grad()
@pytest.mark.parametrize("change", ["loaded", "assigned", "written", "cast", "repacked", "replaced", "removed"])
def test_other_weights_are_other_answers(change: str) -> None:
    network = build(ONE_HEAD)
    replayed = Replayed(network, record_after=1)
    x, t = picture(ONE_HEAD, 0), torch.tensor([30.0])
    before = [replayed(x, t) for _ in range(3)][-1]
    changed = {name: weight + 0.1 for name, weight in network.state_dict().items()}
    match change:
        case "loaded":
            network.load_state_dict(changed)
        case "assigned":
            network.load_state_dict(changed, assign=True)
        case "written":
            network.conv_in.weight.add_(0.1)
        case "cast":
            network.bfloat16().float()
        case "replaced":
            network.conv_out = nn.Conv2d(32, 3, 3, padding=1)
        case "removed":
            network.conv_out.bias = None
        case _:
            decelerate(network)
            network.load_state_dict(changed, assign=True)
            accelerate(network)
    for _ in range(4):
        assert torch.equal(replayed(x, t), network(x, t)) and not torch.equal(network(x, t), before)


@torch.no_grad()
def test_in_a_run_weights_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(ONE_HEAD)
    replayed, x, t = Replayed(network, record_after=1), picture(ONE_HEAD, 0), torch.tensor([30.0])
    [replayed(x, t) for _ in range(3)]
    checked, owned_now = [], Versions._owned_now
    monkeypatch.setattr(Versions, "_owned_now", lambda weights: checked.append(weights) or owned_now(weights))

    @torch.no_grad()
    def count_checks(evaluations: int) -> int:
        """Return how often the weights of the recording are checked."""
        checked.clear()
        outputs = [replayed(x, t) for _ in range(evaluations)]
        assert replayed._recording is not None and all(torch.equal(output, outputs[0]) for output in outputs)
        return checked.count(replayed._recording[1])

    assert count_checks(3) == 3
    for _ in range(2):
        with constant_weights():
            assert count_checks(3) == 1
            with ThreadPoolExecutor(1) as thread:  # this thread is in no run
                assert thread.submit(count_checks, 3).result() == 3
            assert count_checks(3) == 0
            with constant_weights():
                assert count_checks(3) == 1
            assert count_checks(3) == 1
    assert count_checks(3) == 3
    with pytest.raises(KeyError), constant_weights():
        raise KeyError
    first, second = constant_weights(), constant_weights()
    first.__enter__()
    assert count_checks(3) == 1
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert count_checks(3) == 3
    for _ in range(2):
        with constant_weights():
            network.conv_out.weight.add_(1)
            assert torch.equal(replayed(x, t), network(x, t)) and replayed._recording is None
            for _ in range(3):
                replayed(x, t)


def test_where_it_is_not_for_evaluation_the_network_itself_answers() -> None:
    """Nothing is replayed with gradients, under autocast or in `unaccelerated`."""
    network = build(RESIDUAL, packed=False)
    replayed, counter = Replayed(network, record_after=1), RunCounter(network)
    x, t = picture(RESIDUAL, 0), torch.tensor([30.0])
    with torch.no_grad():
        expected = [replayed(x, t) for _ in range(3)][-1]
        assert counter.count == 2
        with torch.autocast("cpu", torch.bfloat16):
            assert replayed(x, t).dtype == torch.bfloat16
        with unaccelerated():
            assert torch.equal(replayed(x, t), expected)
        assert counter.count == 4
    network.requires_grad_(True)
    assert replayed(x, t).requires_grad
    assert counter.count == 5


@torch.inference_mode()
def test_weights_made_in_inference_mode_serve_too() -> None:
    network = build(ONE_HEAD)
    replayed, counter, t = Replayed(network, record_after=1), RunCounter(network), torch.tensor([30.0])
    outputs = [replayed(picture(ONE_HEAD, i), t) for i in range(4)]
    assert counter.count == 2
    assert all(torch.equal(output, network(picture(ONE_HEAD, i), t)) for i, output in enumerate(outputs))


@torch.no_grad()
def test_what_cannot_be_replayed_is_not_recorded() -> None:
    def branching(x: Tensor) -> Tensor:
        return x + 1 if float(x.sum()) > 0 else x - 1

    with pytest.raises(UnrecordableError):
        record(branching, [torch.ones(3)])
    weight = torch.ones(3)
    for writing in (
        lambda x: x + weight.add_(1),
        lambda x: torch.add(x, 1, out=weight),
        lambda x, y: x + y.add_(1),
    ):
        with pytest.raises(UnrecordableError):
            record(writing, [torch.ones(3), weight][: writing.__code__.co_argcount])
    assert weight.tolist() == [1.0, 1.0, 1.0]

    # PyTorch's interpreter does not know these operations.
    for unknown in (lambda x: x * True, lambda x: x.view(torch.int32)):
        with pytest.raises(UnrecordableError):
            record(unknown, [torch.ones(3)])

    network = build(RESIDUAL)
    plain = network.evaluate
    network.evaluate = lambda x, times: plain(x, times) * float(x.sum())  # type: ignore[method-assign]
    replayed, t = Replayed(network, record_after=1), torch.tensor([30.0])
    for i in range(4):
        x = picture(RESIDUAL, i)
        assert torch.equal(replayed(x, t), network(x, t))
    assert not replayed.works


@torch.inference_mode()
def test_casts_are_what_they_were() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.to(torch.bfloat16, memory_format=torch.channels_last)
        return y.float().to(torch.float32) + y.to(torch.float64) + x.to(torch.bfloat16)

    x = torch.randn(1, 3, 4, 5)
    answer, operations = record(function, [x])
    assert torch.equal(operations(x), answer) and operations(x).stride() == answer.stride()


@torch.no_grad()
def test_what_no_input_has_a_part_in_is_computed_once() -> None:
    weight = torch.ones(3)

    def function(x: Tensor) -> Tensor:
        table = torch.empty(3)
        torch.mul(weight, 2, out=table)
        table += 1
        return x * table

    x = torch.tensor([1.0, 2.0, 3.0])
    answer, operations = record(function, [torch.ones(3)])
    with OperationNames() as seen:
        again = operations(x)
    assert answer.tolist() == [3.0, 3.0, 3.0] and again.tolist() == [3.0, 6.0, 9.0] and seen.names == ["mul"]


@torch.no_grad()
def test_what_the_first_input_has_no_part_in_comes_first() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        x = torch.relu(x)
        x.mul_(y.neg())
        return x - torch.exp(y)

    x, y = torch.randn(4), torch.randn(4)
    answer, operations = record(function, [x, y])
    with OperationNames() as seen:
        again = operations(x, y)
    assert seen.names == ["neg", "exp", "relu", "mul_", "sub"]
    assert torch.equal(again, answer) and torch.equal(operations(y, x), function(y, x))


class LiveCounter(TorchDispatchMode):
    """The largest number of results of operations that exist at once."""

    def __init__(self) -> None:
        super().__init__()
        self.max_live, self._live = 0, WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else [out]:
            self._live[part] = None
        self.max_live = max(self.max_live, len(self._live))
        return out


@torch.no_grad()
def test_what_is_not_needed_any_more_is_let_go() -> None:
    def chain(x: Tensor, y: Tensor) -> Tensor:
        for _ in range(20):
            x = x * 2 - y
            first, _ = x.split(2)
            x = torch.cat([first, first]).relu_()
        return x

    x, y = torch.randn(4), torch.randn(4)
    answer, operations = record(chain, [x, y])
    assert torch.equal(operations(x, y), answer) and torch.equal(operations(y, x), chain(y, x))
    max_live = []
    for function in (chain, operations):
        with LiveCounter() as counter:
            function(x, y)
        max_live.append(counter.max_live)
    assert 2 <= max_live[1] < max_live[0]


@torch.no_grad()
def test_what_the_interpreter_does_not_take_the_network_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(ONE_HEAD)
    replayed, counter, t = Replayed(network, record_after=1), RunCounter(network), torch.tensor([30.0])
    monkeypatch.delattr(torch._C, "_create_function_from_graph")
    outputs = [replayed(picture(ONE_HEAD, 0), t) for _ in range(4)]
    assert all(torch.equal(output, network(picture(ONE_HEAD, 0), t)) for output in outputs)
    assert counter.count == 4 + 1 + 4 and not replayed.works


def test_recorded_in_one_mode_and_replayed_in_another() -> None:
    network, t = build(ONE_HEAD), torch.tensor([30.0])
    x = picture(ONE_HEAD, 0)
    for recording_mode, other_mode in ((torch.no_grad, torch.inference_mode), (torch.inference_mode, torch.no_grad)):
        replayed, counter = Replayed(network, record_after=1), RunCounter(network)
        with recording_mode():
            outputs = [replayed(x, t) for _ in range(2)]
        for mode in (other_mode, recording_mode, other_mode):
            with mode():
                outputs += [replayed(x, t), replayed(x.clone(memory_format=torch.preserve_format), t)]
        assert counter.count == 2 and all(torch.equal(output, outputs[0]) for output in outputs)


@torch.no_grad()
def test_what_the_interpreter_cannot_do_the_network_does() -> None:
    network = build(ONE_HEAD)
    replayed, counter, t = Replayed(network, record_after=1), RunCounter(network), torch.tensor([30.0])
    x = picture(ONE_HEAD, 0)
    expected = [replayed(x, t) for _ in range(3)][-1]
    assert replayed._recording is not None and counter.count == 2

    def failing(*inputs: Tensor) -> Tensor:
        raise RuntimeError("another interpreter")

    replayed._recording = (*replayed._recording[:2], failing)
    assert all(torch.equal(replayed(x, t), expected) for _ in range(4))
    assert counter.count == 6 and not replayed.works


@torch.no_grad()
def test_threads_do_not_disturb_each_other() -> None:
    network = build(ONE_HEAD)
    replayed, t = Replayed(network, record_after=1), torch.tensor([30.0])
    pictures = [picture(ONE_HEAD, i) for i in range(40)]
    expected = [network(x, t) for x in pictures]

    @torch.no_grad()
    def evaluate(x: Tensor) -> Tensor:
        return replayed(x, t)

    with ThreadPoolExecutor(4) as threads:
        outputs = list(threads.map(evaluate, pictures))
    assert all(map(torch.equal, outputs, expected))
    replayed = Replayed(network, record_after=1)
    [evaluate(pictures[0]) for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:  # each thread replays for the first time
        outputs = list(threads.map(evaluate, pictures))
    assert all(map(torch.equal, outputs, expected))


def test_a_prior_replays() -> None:
    spec = ModelSpec(RESIDUAL, Schedule(), "v_prediction", patch_size=2)
    prior = UNetPrior(RESIDUAL.build(), spec)
    counter, x = RunCounter(prior.network), torch.rand(1, 3, 20, 28)
    outputs = [prior.denoise(x, 0.5) for _ in range(replay.RECORD_AFTER + 5)]
    assert counter.count == replay.RECORD_AFTER + 1
    assert all(torch.equal(output, outputs[0]) for output in outputs)


SCRIPT = """
import sys, torch
from restorer.networks.fast.replay import record
with torch.inference_mode():
    answer, operations = record(lambda x: x.relu() + 1, [torch.ones(3)])
    assert torch.equal(operations(-torch.ones(3)), torch.ones(3))
loaded = {"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)
assert not loaded, loaded
"""


def test_pytorchs_compiler_is_not_loaded() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
