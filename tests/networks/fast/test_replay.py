"""A network's operations written down: the same numbers without the Python, and only where they are the same."""

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


def built(config: NetworkConfig, dtype: torch.dtype = torch.float32, *, packed: bool = True) -> Network:
    """With weights that are nowhere zero, as fresh ones may be."""
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
    """Noise, (batch, channels, side, side)."""
    x = torch.randn(batch, config.in_channels, side, side, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


class Asked:
    """How often the network's Python was run."""

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
    network = built(config, dtype, packed=packed)
    answers, asked = Replayed(network, record_after=2), Asked(network)
    with torch.inference_mode(inference), torch.no_grad():
        for i in range(6):
            x, t = picture(config, i, dtype=dtype), torch.tensor([100.0 * i + 0.5])
            before = x.clone()
            answer, count = answers(x, t), asked.count
            assert count == min(i + 1, 3)
            assert torch.equal(x, before)
            assert torch.equal(answer, network(x, t)) and answer.stride() == network(x, t).stride()
            asked.count = count
    assert answers.works


@torch.no_grad()
def test_wide_convolutions_by_fewer_products_are_written_down_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restorer.networks.fast.prepacked.MIN_MULTIPLICATIONS", 0)
    network = built(PLAIN)
    answers = Replayed(network, record_after=1)
    for i in range(4):
        x, t = picture(PLAIN, i, 32), torch.tensor([10.0 * i])
        assert torch.equal(answers(x, t), network(x, t))


@torch.no_grad()
def test_pictures_with_timesteps_of_their_own() -> None:
    network = built(ONE_HEAD)
    answers, asked = Replayed(network, record_after=1), Asked(network)
    x, counts = picture(ONE_HEAD, 0, batch=2), []
    for times in ([3.0, 500.0], [800.0, 20.0], [1.0, 2.0], [3.0], [4.0], [5.0], [6.0]):
        t = torch.tensor(times)
        answer = answers(x, t)
        counts.append(asked.count)
        assert torch.equal(answer, network(x, t))
        asked.count = counts[-1]
    assert counts == [1, 2, 2, 3, 4, 5, 5]  # one for all is another shape than one for each


@torch.no_grad()
def test_where_shapes_take_turns_it_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(RESIDUAL)
    answers, asked, t = Replayed(network, record_after=1), Asked(network), torch.tensor([30.0])

    def run(side: int, count: int) -> int:
        """How many of so many evaluations ran the Python."""
        before, x = asked.count, picture(RESIDUAL, 0, side)
        given = [answers(x, t) for _ in range(count)]
        ran = asked.count - before
        assert all(torch.equal(answer, network(x, t)) for answer in given)
        return ran

    assert [run(8 * side, 10) for side in (1, 2, 1, 2, 1, 2)] == [2, 3, 5, 9, 10, 10]
    monkeypatch.setattr(replay, "WORTHWHILE", 20)
    answers = Replayed(network, record_after=1)
    assert [run(8 * side, 30) for side in (1, 2)] == [2, replay.RECORD_AFTER + 1]  # it was worth it: as at first


@torch.no_grad()
def test_maps_in_which_it_would_be_lost_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(RESIDUAL)
    monkeypatch.setattr(replay, "MAX_POSITIONS", 2 * 16 * 16)
    t = torch.tensor([30.0])
    for batch, expected in ((2, 2), (3, 5)):
        answers, asked = Replayed(network, record_after=1), Asked(network)
        for _ in range(5):
            answers(picture(RESIDUAL, 0, batch=batch), t)
        assert asked.count == expected


class Seen(TorchDispatchMode):
    """The names of operations, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing goes but what nobody refers to."""
    gc.disable()
    yield
    gc.enable()


@torch.no_grad()
@pytest.mark.parametrize("batch", [2, 40])
def test_weights_packed_for_a_shape_are_not_held_for_another(uncollected: None, batch: int) -> None:
    """Neither for one that will be written down itself nor for a large one."""
    network, t = built(RESIDUAL), torch.tensor([30.0])
    answers = Replayed(network, record_after=1)
    for _ in range(3):
        answers(picture(RESIDUAL, 0, 32), t)
    assert answers._recording is not None
    operations = weakref.ref(answers._recording[-1])
    assert operations() is not None
    answers(picture(RESIDUAL, 0, 32, batch), t)
    assert operations() is None


@torch.no_grad()
@pytest.mark.parametrize("many", [0, 1 << 60])
def test_what_is_packed_meanwhile_is_not_packed_again(monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    """Versions are written to just before; their sums and transforms are no operations of the network's."""
    monkeypatch.setattr("restorer.networks.fast.prepacked.MIN_MULTIPLICATIONS", many)
    network, t = built(ONE_HEAD), torch.tensor([30.0])
    answers, x = Replayed(network, record_after=1), picture(ONE_HEAD, 0, 32)
    answers(x, t)
    for parameter in network.parameters():
        parameter.add_(0.01)
    answers(x, t)
    assert answers.works and answers._recording is not None
    network(x, t)
    for ask in (answers, network):
        with Seen() as seen:
            assert torch.equal(ask(x, t), network(x, t))
        assert not [name for name in seen.names if "reorder" in name or name in ("mm", "bmm", "flip")]


@torch.no_grad()
def test_what_another_thread_has_written_down_is_for_its_shape_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile this one has asked for another."""
    network = built(ONE_HEAD)
    answers, t, both = Replayed(network, record_after=1), torch.tensor([30.0]), torch.tensor([30.0, 700.0])
    x = picture(ONE_HEAD, 0, batch=2)
    write_down = replay.record

    def interrupted(function: Any, inputs: Any) -> Any:
        monkeypatch.setattr(replay, "record", write_down)
        written = write_down(function, inputs)
        answers(x, both)
        return written

    answers(x, t)
    monkeypatch.setattr(replay, "record", interrupted)
    answers(x, t)
    for _ in range(4):
        assert torch.equal(answers(x, both), network(x, both))


@torch.no_grad()
@pytest.mark.parametrize("how", ["loaded", "assigned", "written", "cast", "repacked", "replaced", "removed"])
def test_other_weights_are_other_answers(how: str) -> None:
    network = built(ONE_HEAD)
    answers = Replayed(network, record_after=1)
    x, t = picture(ONE_HEAD, 0), torch.tensor([30.0])
    before = [answers(x, t) for _ in range(3)][-1]
    more = {name: weight + 0.1 for name, weight in network.state_dict().items()}
    match how:
        case "loaded":
            network.load_state_dict(more)
        case "assigned":
            network.load_state_dict(more, assign=True)
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
            network.load_state_dict(more, assign=True)
            accelerate(network)
    for _ in range(4):
        assert torch.equal(answers(x, t), network(x, t)) and not torch.equal(network(x, t), before)


@torch.no_grad()
def test_in_a_run_weights_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(ONE_HEAD)
    answers, x, t = Replayed(network, record_after=1), picture(ONE_HEAD, 0), torch.tensor([30.0])
    [answers(x, t) for _ in range(3)]
    looks, look = [], Versions._owned_now
    monkeypatch.setattr(Versions, "_owned_now", lambda weights: looks.append(weights) or look(weights))

    @torch.no_grad()
    def asked(times: int) -> int:
        """How often the weights of the operations were looked at."""
        looks.clear()
        given = [answers(x, t) for _ in range(times)]
        assert answers._recording is not None and all(torch.equal(answer, given[0]) for answer in given)
        return looks.count(answers._recording[1])

    assert asked(3) == 3
    for _ in range(2):
        with constant_weights():
            assert asked(3) == 1
            with ThreadPoolExecutor(1) as thread:  # in no run
                assert thread.submit(asked, 3).result() == 3
            assert asked(3) == 0
            with constant_weights():
                assert asked(3) == 1
            assert asked(3) == 1
    assert asked(3) == 3
    with pytest.raises(KeyError), constant_weights():
        raise KeyError
    first, second = constant_weights(), constant_weights()
    first.__enter__()
    assert asked(3) == 1
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert asked(3) == 3
    for _ in range(2):
        with constant_weights():
            network.conv_out.weight.add_(1)
            assert torch.equal(answers(x, t), network(x, t)) and answers._recording is None
            for _ in range(3):
                answers(x, t)


def test_where_it_is_not_for_evaluation_the_network_itself_answers() -> None:
    """With gradients, under autocast, `unaccelerated`."""
    network = built(RESIDUAL, packed=False)
    answers, asked = Replayed(network, record_after=1), Asked(network)
    x, t = picture(RESIDUAL, 0), torch.tensor([30.0])
    with torch.no_grad():
        known = [answers(x, t) for _ in range(3)][-1]
        assert asked.count == 2
        with torch.autocast("cpu", torch.bfloat16):
            assert answers(x, t).dtype == torch.bfloat16
        with unaccelerated():
            assert torch.equal(answers(x, t), known)
        assert asked.count == 4
    network.requires_grad_(True)
    assert answers(x, t).requires_grad
    assert asked.count == 5


@torch.inference_mode()
def test_weights_made_in_inference_mode_serve_too() -> None:
    network = built(ONE_HEAD)
    answers, asked, t = Replayed(network, record_after=1), Asked(network), torch.tensor([30.0])
    given = [answers(picture(ONE_HEAD, i), t) for i in range(4)]
    assert asked.count == 2
    assert all(torch.equal(answer, network(picture(ONE_HEAD, i), t)) for i, answer in enumerate(given))


@torch.no_grad()
def test_what_it_cannot_do_again_is_not_written_down() -> None:
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

    for unknown in (lambda x: x * True, lambda x: x.view(torch.int32)):  # to PyTorch's interpreter
        with pytest.raises(UnrecordableError):
            record(unknown, [torch.ones(3)])

    network = built(RESIDUAL)
    plain = network.evaluate
    network.evaluate = lambda x, times: plain(x, times) * float(x.sum())  # type: ignore[method-assign]
    answers, t = Replayed(network, record_after=1), torch.tensor([30.0])
    for i in range(4):
        x = picture(RESIDUAL, i)
        assert torch.equal(answers(x, t), network(x, t))
    assert not answers.works


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
    with Seen() as seen:
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
    with Seen() as seen:
        again = operations(x, y)
    assert seen.names == ["neg", "exp", "relu", "mul_", "sub"]
    assert torch.equal(again, answer) and torch.equal(operations(y, x), function(y, x))


class Living(TorchDispatchMode):
    """How many results of operations are there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most, self._there = 0, WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else [out]:
            self._there[part] = None
        self.most = max(self.most, len(self._there))
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
    kept = []
    for function in (chain, operations):
        with Living() as living:
            function(x, y)
        kept.append(living.most)
    assert 2 <= kept[1] < kept[0]


@torch.no_grad()
def test_what_the_interpreter_does_not_take_the_network_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(ONE_HEAD)
    answers, asked, t = Replayed(network, record_after=1), Asked(network), torch.tensor([30.0])
    monkeypatch.delattr(torch._C, "_create_function_from_graph")
    given = [answers(picture(ONE_HEAD, 0), t) for _ in range(4)]
    assert all(torch.equal(answer, network(picture(ONE_HEAD, 0), t)) for answer in given)
    assert asked.count == 4 + 1 + 4 and not answers.works


def test_recorded_in_one_mode_and_replayed_in_another() -> None:
    network, t = built(ONE_HEAD), torch.tensor([30.0])
    x = picture(ONE_HEAD, 0)
    for first, then in ((torch.no_grad, torch.inference_mode), (torch.inference_mode, torch.no_grad)):
        answers, asked = Replayed(network, record_after=1), Asked(network)
        with first():
            given = [answers(x, t) for _ in range(2)]
        for mode in (then, first, then):
            with mode():
                given += [answers(x, t), answers(x.clone(memory_format=torch.preserve_format), t)]
        assert asked.count == 2 and all(torch.equal(answer, given[0]) for answer in given)


@torch.no_grad()
def test_what_the_interpreter_cannot_do_the_network_does() -> None:
    network = built(ONE_HEAD)
    answers, asked, t = Replayed(network, record_after=1), Asked(network), torch.tensor([30.0])
    x = picture(ONE_HEAD, 0)
    expected = [answers(x, t) for _ in range(3)][-1]
    assert answers._recording is not None and asked.count == 2

    def failing(*inputs: Tensor) -> Tensor:
        raise RuntimeError("another interpreter")

    answers._recording = (*answers._recording[:2], failing)
    assert all(torch.equal(answers(x, t), expected) for _ in range(4))
    assert asked.count == 6 and not answers.works


@torch.no_grad()
def test_threads_do_not_disturb_each_other() -> None:
    network = built(ONE_HEAD)
    answers, t = Replayed(network, record_after=1), torch.tensor([30.0])
    pictures = [picture(ONE_HEAD, i) for i in range(40)]
    expected = [network(x, t) for x in pictures]

    @torch.no_grad()
    def ask(x: Tensor) -> Tensor:
        return answers(x, t)

    with ThreadPoolExecutor(4) as threads:
        given = list(threads.map(ask, pictures))
    assert all(map(torch.equal, given, expected))
    answers = Replayed(network, record_after=1)
    [ask(pictures[0]) for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:  # each replays for the first time
        given = list(threads.map(ask, pictures))
    assert all(map(torch.equal, given, expected))


def test_a_prior_answers_by_it() -> None:
    spec = ModelSpec(RESIDUAL, Schedule(), "v_prediction", patch_size=2)
    prior = UNetPrior(RESIDUAL.build(), spec)
    asked, x = Asked(prior.network), torch.rand(1, 3, 20, 28)
    answers = [prior.denoise(x, 0.5) for _ in range(replay.RECORD_AFTER + 5)]
    assert asked.count == replay.RECORD_AFTER + 1
    assert all(torch.equal(answer, answers[0]) for answer in answers)


SCRIPT = """
import sys, torch
from restorer.networks.fast.replay import record
with torch.inference_mode():
    answer, operations = record(lambda x: x.relu() + 1, [torch.ones(3)])
    assert torch.equal(operations(-torch.ones(3)), torch.ones(3))
loaded = {"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)
assert not loaded, loaded
"""


def test_pytorchs_compiler_is_not_loaded_for_it() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
