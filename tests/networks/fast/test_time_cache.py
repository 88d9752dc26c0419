"""The projections of the timestep that blocks see, and the cache of an accelerated network for them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from restorer.diffusion.plan import Plan
from restorer.diffusion.reverse import reverse
from restorer.diffusion.schedule import Schedule
from restorer.networks import ResidualUNet, ResidualUNetConfig
from restorer.networks.fast import time_cache
from restorer.networks.fast.prepacked import can_prepack
from restorer.networks.fast.replacement import accelerate, decelerate
from restorer.networks.fast.time_cache import TimeCache
from restorer.networks.fast.weight_versions import Versions
from restorer.networks.time_embedding import TimedBlock, TimeEmbedding
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import ModelSpec, UNetPrior

SMALL = ResidualUNetConfig(block_out_channels=(8, 16))
pytestmark = pytest.mark.skipif(
    not can_prepack(torch.device("cpu"), torch.float32), reason="this processor does not prepack"
)


def build_accelerated() -> ResidualUNet:
    """Return an accelerated network with random projections; those of a new network are zero."""
    torch.manual_seed(0)
    network = SMALL.build().eval()
    for block in network.modules():
        if isinstance(block, TimedBlock):
            nn.init.normal_(block.time_emb_proj.weight)
    accelerate(network.requires_grad_(False))
    assert isinstance(network.embed_time, TimeCache)
    return network


class CallCounter:
    """A count of the calls of the time embedding, prepacked or plain."""

    def __init__(self, network: ResidualUNet) -> None:
        self.count = 0
        network.embed_time.linear_1.register_forward_hook(self)
        network.time_embedding.register_forward_hook(self)

    def __call__(self, *_: object) -> None:
        self.count += 1


def embed_plainly(network: ResidualUNet, t: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Return the projections, computed by the plain layers."""
    return list(TimeEmbedding(network, network.time_embedding, flip=True, shift=0)(t, dtype))


def is_close(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    """Return whether two lists of projections are equal up to rounding."""
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(a, b, strict=True))


@torch.no_grad()
def test_a_timestep_is_computed_once() -> None:
    network, early, late = build_accelerated(), torch.tensor([3.5]), torch.tensor([700.0])
    expected = {t: embed_plainly(network, t) for t in (early, late)}
    counter = CallCounter(network)
    for turn in range(3):
        for t in (early, late):
            assert is_close(network.embed_time(t.clone(), torch.float32), expected[t]), turn
    assert counter.count == 2
    assert not is_close(expected[early], expected[late])
    several = network.embed_time(torch.cat([early, late]), torch.float32)
    assert counter.count == 3
    for i, t in enumerate((early, late)):
        assert is_close([part[i : i + 1] for part in several], expected[t])


@torch.no_grad()
def test_other_weights_are_other_answers() -> None:
    """The cache is emptied when weights are loaded, written to or cast."""
    network, t = build_accelerated(), torch.tensor([20.0])
    before = network.embed_time(t, torch.float32)
    network.load_state_dict({name: 2 * weight for name, weight in network.state_dict().items()})
    loaded = network.embed_time(t, torch.float32)
    assert is_close(loaded, embed_plainly(network, t)) and not is_close(loaded, before)
    network.time_embedding.linear_2.bias.add_(1)
    written = network.embed_time(t, torch.float32)
    assert is_close(written, embed_plainly(network, t)) and not is_close(written, loaded)
    network.bfloat16().float()
    cast = network.embed_time(t, torch.float32)
    assert is_close(cast, embed_plainly(network, t)) and not any(map(torch.equal, cast, written))


@torch.no_grad()
def test_the_memory_of_earlier_weights_is_not_given_out_again() -> None:
    """Weights that are cast and cast back could otherwise lie at their old address and look unchanged."""
    layer = torch.nn.Linear(50, 50, bias=False)
    versions, before = Versions([layer]), layer.weight.data_ptr()
    layer.weight.data = layer.weight.data.bfloat16()
    others = [torch.empty(50, 50) for _ in range(100)]
    assert before not in [other.data_ptr() for other in others]
    assert versions.changed()


def test_where_it_is_not_for_evaluation_nothing_is_cached() -> None:
    """The cache is not used with gradients or under autocast, nor by a plain network, which may be trained."""
    network, t = build_accelerated(), torch.tensor([20.0])
    with torch.no_grad():
        cached = network.embed_time(t, torch.float32)
    counter = CallCounter(network)
    network.requires_grad_(True)
    for _ in range(2):
        computed = network.embed_time(t, torch.float32)
        assert is_close(computed, cached) and all(part.requires_grad for part in computed)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network.embed_time(t, torch.float32)[0].dtype == torch.bfloat16
    assert counter.count == 3
    with torch.no_grad():
        assert network.embed_time(t, torch.float32) is cached
        assert network.embed_time(t[:0], torch.float32)[0].shape[0] == 0
    decelerate(network)
    assert type(network.embed_time) is TimeEmbedding
    optimizer = torch.optim.AdamW(network.time_embedding.parameters(), lr=1.0, fused=True)
    sum(part.sum() for part in network.embed_time(t, torch.float32)).backward()
    with torch.no_grad():
        before = network.embed_time(t, torch.float32)
        optimizer.step()
        assert not is_close(network.embed_time(t, torch.float32), before)


@torch.no_grad()
def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_accelerated()
    size = sum(part.numel() for part in network.embed_time(torch.tensor([0.0]), torch.float32))
    monkeypatch.setattr(time_cache, "CAPACITY", 3 * size)
    expected = {i: embed_plainly(network, torch.tensor([float(i)])) for i in range(8)}
    for i in (*range(8), *range(8)):
        assert is_close(network.embed_time(torch.tensor([float(i)]), torch.float32), expected[i])
        assert len(network.embed_time._cache_of) <= 3


@torch.no_grad()
def test_what_is_expected_is_computed_several_at_a_time() -> None:
    """Announced timesteps are computed together, and the projections of each do not depend on the others."""
    network, timesteps = build_accelerated(), [float(37 * i) for i in range(time_cache.AHEAD + 4)]
    expected = {t: embed_plainly(network, torch.tensor([t])) for t in (*timesteps, 5.5)}
    counter, alone = CallCounter(network), build_accelerated()
    network.embed_time.announce([*timesteps, *timesteps[::-1]])
    counts = []
    for t in (*timesteps, *timesteps, 5.5):
        parts = network.embed_time(torch.tensor([t]), torch.float32)
        assert is_close(parts, expected[t]) and [part.shape[0] for part in parts] == [1] * len(parts)
        assert all(map(torch.equal, parts, alone.embed_time(torch.tensor([t]), torch.float32)))
        counts.append(counter.count)
    assert counts == [1] * time_cache.AHEAD + [2] * (4 + len(timesteps)) + [3]
    network.embed_time.announce(timesteps[:3])
    network.embed_time.forget()
    for t, count in ((timesteps[1], 4), (timesteps[2], 4), (timesteps[0], 5), (timesteps[3], 6)):
        assert is_close(network.embed_time(torch.tensor([t]), torch.float32), expected[t])
        assert counter.count == count


@torch.no_grad()
def test_another_thread_may_have_been_faster() -> None:
    network, t = build_accelerated(), torch.tensor([3.0])
    network.embed_time.announce([3.0, 4.0])
    cached = network.embed_time(t, torch.float32)
    again = network.embed_time._fill(3.0, torch.float32, network.embed_time._cache_of)
    assert all(map(torch.equal, cached, again))


def test_a_run_says_which_levels_it_will_ask_for() -> None:
    """The announcement reaches the network through all wrappers of the prior."""
    config = ResidualUNetConfig(3, 3, (8, 16))
    prior = UNetPrior(config.build(), ModelSpec(config, Schedule(), mirrors=True))
    counter, plan = CallCounter(prior.network), Plan((3.0, 2.0, 2.5, 1.0, 0.5, 0.1, 0.0), (0.0,) * 6, mirrored=True)
    reverse(Tiled(prior, 16, overlap=4), None, None, plan, torch.zeros(1, 3, 24, 20))
    assert counter.count == 1
    reverse(prior, None, None, plan, torch.zeros(1, 3, 24, 20))
    assert counter.count == 1
    prior.predict(torch.zeros(1, 3, 24, 20), 0.7)
    assert counter.count == 2
