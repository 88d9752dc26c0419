"""Several threads that use one accelerated network at once, with inputs of several sizes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from restorer.networks.attention import Attention
from restorer.networks.fast import prepacked
from restorer.networks.fast.attention import SingleHeadAttention
from restorer.networks.fast.prepacked import JointLinear, PackedConv2d, PackedUpsampleConv2d, Prepacked, can_prepack
from restorer.networks.layers import UpsampleConv2d

pytestmark = pytest.mark.skipif(
    not can_prepack(torch.device("cpu"), torch.float32), reason="this processor does not prepack"
)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return |a - b| / |b|."""
    return float((a.double() - b.double()).norm() / b.double().norm())


class Meeting:
    """Two threads that take turns: the first one stops where it has just stored its packed weights in the layer.

    The second one then packs for its own input and stores that, before the first one computes.
    """

    def __init__(self) -> None:
        self.first_has_stored, self.second_is_done = threading.Event(), threading.Event()

    def set_attribute(self, layer: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of a layer as usual, and stop the first thread after the cache has been set."""
        nn.Module.__setattr__(layer, name, value)
        if name == "_cache" and threading.current_thread().name.startswith("first"):
            self.first_has_stored.set()
            assert self.second_is_done.wait(30)


@pytest.mark.parametrize(
    "kind",
    ["convolution", "transposed convolution", "Winograd, then direct", "direct, then Winograd", "linear", "one head"],
)
@torch.no_grad()
def test_two_threads_with_inputs_of_two_sizes_do_not_meet(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread computes with the weights that it packed itself, although the other one replaces them meanwhile.

    Linear weights do not depend on the size, so there the second thread only reads what the first one stored.
    """
    torch.manual_seed(0)
    monkeypatch.setattr(prepacked, "MIN_MULTIPLICATIONS", 5_000_000 if "Winograd" in kind else 1 << 40)
    layer, plain = {
        "convolution": lambda conv: (PackedConv2d(conv), conv),
        "Winograd, then direct": lambda conv: (PackedConv2d(conv), conv),
        "direct, then Winograd": lambda conv: (PackedConv2d(conv), conv),
        "transposed convolution": lambda conv: (PackedUpsampleConv2d(UpsampleConv2d(48)), None),
        "linear": lambda conv: (JointLinear(nn.Linear(48, 40)), None),
        "one head": lambda conv: (SingleHeadAttention(Attention(48, 48, 0, 1e-5)), None),
    }[kind](nn.Conv2d(48, 48, 3, padding=1).to(memory_format=torch.channels_last))
    plain = plain or (lambda x: layer.layers[0](x) if kind == "linear" else layer.plain()(x))
    sizes = [(2, 5, 48)] * 2 if kind == "linear" else [(1, 48, 64, 64), (2, 48, 4, 8)]
    sizes = sizes[::-1] if kind == "direct, then Winograd" else sizes
    inputs = [torch.randn(size) for size in sizes]
    inputs = [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
    expected = [plain(x) for x in inputs]
    meeting = Meeting()
    monkeypatch.setattr(Prepacked, "__setattr__", lambda *arguments: meeting.set_attribute(*arguments), raising=False)

    def evaluate(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            out = layer(x)
        return out[0] if isinstance(out, list) else out

    with ThreadPoolExecutor(1, "first") as first, ThreadPoolExecutor(1, "second") as second:
        answer = first.submit(evaluate, inputs[0])
        assert meeting.first_has_stored.wait(30)
        try:
            other = second.submit(evaluate, inputs[1]).result(30)
        finally:
            meeting.second_is_done.set()
        found = [answer.result(30), other]
    assert all(relative(out, exact) < 2e-6 for out, exact in zip(found, expected, strict=True))
