"""A network as a prior, tested with stub networks of known output and with diffusers' scheduler as the reference."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from restorer.diffusion.objective import target
from restorer.diffusion.prior import per_item
from restorer.diffusion.schedule import Schedule
from restorer.networks.fast.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from restorer.networks.unet import UNet, UNetConfig
from restorer.priors.unet_prior import PREDICTION_TYPES, ModelSpec, UNetPrior, pad_to_multiple

LINEAR = Schedule("linear")
SHAPE: dict[str, Any] = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}


def make_spec(kind: str = "sample", *, patch: int = 1, out: int = 1, clip: bool = False, **fields: Any) -> ModelSpec:
    """Return the configuration of a small network, with `out` times as many output as input channels."""
    channels = 3 * patch**2
    network = UNetConfig(in_channels=channels, out_channels=out * channels, **SHAPE)
    return ModelSpec(network, prediction_type=kind, patch_size=patch, clip=clip, **{"schedule": LINEAR, **fields})


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return uniform random numbers in [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def add_noise(clean: Tensor, sigma: float, seed: int = 5) -> Tensor:
    """Return a picture with white noise added."""
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


def reflect(x: Tensor, multiple: int) -> Tensor:
    """Pad with NumPy's reflection at the bottom and right, which is repeated as often as necessary."""
    height, width = x.shape[-2:]
    widths = ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple))
    return torch.from_numpy(np.pad(x.numpy(), widths, mode="reflect"))


def unshuffle(x: Tensor, patch: int) -> Tensor:
    """Return blocks of p x p pixels as channels.

    Channel c p^2 + i p + j of the result holds pixel (i, j) of every block of channel c.
    """
    _, channels, height, width = x.shape
    parts = [x[:, c, i::patch, j::patch] for c in range(channels) for i in range(patch) for j in range(patch)]
    assert height % patch == width % patch == 0 and len(parts) == channels * patch**2
    return torch.stack(parts, dim=1)


class Stub(nn.Module):
    """A network that lists its inputs.

    Args:
        answer: Output of the network; None to return the input.
        clean: Clean picture, for which the network returns the exact output; None if it knows none.
        kind: Parametrization of the exact output.
    """

    stride = 4

    def __init__(self, answer: Tensor | None = None, *, clean: Tensor | None = None, kind: str = "sample") -> None:
        super().__init__()
        self.answer, self.clean, self.kind = answer, clean, kind
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x, t))
        if self.clean is None:
            return x if self.answer is None else self.answer
        alpha_bar = (1 / (1 + LINEAR.sigma_at(t) ** 2)).view(-1, 1, 1, 1)
        clean, x = self.clean.double(), x.double()
        eps = (x - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
        v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * clean
        return {"sample": clean, "epsilon": eps, "v_prediction": v}[self.kind].float()


def make_prior(network: nn.Module, spec: ModelSpec, **fields: Any) -> UNetPrior:
    """Return the prior of a network."""
    return UNetPrior(network, spec, **fields)  # type: ignore[arg-type]


# -- parametrizations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("sigma", [0.0123, 0.196, 1.0, 7.0])
def test_a_network_that_knows_the_picture_gives_it_back(kind: str, sigma: float, patch: int) -> None:
    clean = random(2, 3, 13, 9)
    stub = Stub(clean=unshuffle(reflect(clean, 4 * patch), patch), kind=kind)
    x0 = make_prior(stub, make_spec(kind, patch=patch)).predict(add_noise(clean, sigma), sigma).x0
    torch.testing.assert_close(x0, clean, rtol=0, atol=3e-6 * (1 + sigma) ** 2)


def test_v_is_that_of_diffusers(diffusers: ModuleType) -> None:
    t = torch.tensor([0, 300, 999])
    reference = diffusers.DDPMScheduler()
    clean, eps = random(3, 3, 4, 4), random(3, 3, 4, 4, seed=1)
    alpha_bar = LINEAR.alpha_bars[t].view(-1, 1, 1, 1).float()
    torch.testing.assert_close(
        target("v_prediction", clean, eps, alpha_bar), reference.get_velocity(clean, eps, t), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("t", [0, 25, 500, 999])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_prediction_is_that_of_diffusers(diffusers: ModuleType, kind: str, clip: bool, t: int) -> None:
    """A random network gives `pred_original_sample` of DDPMScheduler at the nodes of the schedule, clipped or not."""
    torch.manual_seed(0)
    network = UNet(make_spec(kind).network).eval()
    sigma = float(LINEAR.sigmas[t])
    x = add_noise(random(2, 3, 8, 12), sigma)
    with torch.no_grad():
        x_t = x * float(LINEAR.alpha_bars[t].sqrt())
        raw = network(x_t, torch.full((2,), float(t)))
    reference = diffusers.DDPMScheduler(prediction_type=kind, clip_sample=clip)
    expected = reference.step(raw, t, x_t).pred_original_sample
    found = make_prior(network, make_spec(kind, clip=clip)).predict(x, sigma).x0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * (1 + sigma))
    assert not clip or float(found.abs().max()) <= 1


def test_the_network_sees_the_scaled_picture_and_its_timestep() -> None:
    stub = Stub()
    x = random(3, 3, 8, 8)
    sigma = torch.tensor([float(LINEAR.sigmas[10]), 1.0, float(LINEAR.sigmas[700])], dtype=torch.float64)
    make_prior(stub, make_spec()).predict(x, sigma)
    (seen, t), = stub.seen  # fmt: skip
    assert t.dtype == torch.float32 and t[0] == 10 and t[2] == 700
    assert float(t[1]) == pytest.approx(258, abs=0.5)  # sigma 1 on the linear schedule
    torch.testing.assert_close(seen, x / (1 + sigma**2).sqrt().view(-1, 1, 1, 1).float())


# -- noise levels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_without_noise_a_prior_is_the_identity(kind: str) -> None:
    torch.manual_seed(0)
    prior = make_prior(UNet(make_spec(kind).network), make_spec(kind, clip=True))
    x = 1.5 * random(2, 3, 7, 5)
    assert torch.equal(prior.predict(x, 0.0).x0, x)
    mixed = prior.predict(x, torch.tensor([0.0, 0.5])).x0
    assert torch.equal(mixed[0], x[0]) and not torch.equal(mixed[1], x[1])


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_below_the_lowest_level_it_fades_linearly(share: float) -> None:
    answer, x = random(1, 3, 8, 8, seed=1), random(1, 3, 8, 8, seed=2)
    stub = Stub(answer)
    prior = make_prior(stub, make_spec("sample"))
    x0 = prior.predict(x, share * prior.sigma_min).x0
    torch.testing.assert_close(x0, (1 - share) * x + share * answer, rtol=0, atol=1e-6)
    assert stub.seen[0][1].tolist() == [0]  # the network is evaluated at its lowest level
    torch.testing.assert_close(prior.predict(x, prior.sigma_min).x0, answer)


def test_above_the_highest_level_it_is_asked_at_the_highest() -> None:
    stub = Stub(random(1, 3, 8, 8))
    prior = make_prior(stub, make_spec("sample"))
    torch.testing.assert_close(prior.predict(random(1, 3, 8, 8), 10 * prior.sigma_max).x0, stub.answer)
    assert stub.seen[0][1].tolist() == [999]
    assert (prior.sigma_min, prior.sigma_max) == (LINEAR.sigma_min, LINEAR.sigma_max)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_each_picture_of_a_batch_has_its_own_level(kind: str) -> None:
    torch.manual_seed(1)
    prior = make_prior(UNet(make_spec(kind, patch=2).network), make_spec(kind, patch=2))
    x, sigmas = random(4, 3, 9, 6), [0.004, 0.05, 0.8, 40.0]
    together = prior.predict(x, torch.tensor(sigmas)).x0
    for k, sigma in enumerate(sigmas):
        alone = prior.predict(x[k : k + 1], sigma).x0[0]
        # x0 = x - sigma eps carries the rounding of eps times sigma.
        torch.testing.assert_close(together[k], alone, rtol=1e-4, atol=1e-5 * max(1, sigma))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 12, 24), (1, 12, 12), (4, 36, 12)])
@pytest.mark.parametrize("patch", [1, 2, 3, 4])
def test_blocks_of_pixels_as_channels(patch: int, channels: int, height: int, width: int, dtype: torch.dtype) -> None:
    """The reordering is exact with and without gradients, at any address in memory and in any layout."""
    x = torch.randn(2, channels, height, width)
    unaligned = torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape)
    expected = F.pixel_unshuffle(x, patch).to(dtype)
    for one in (x, unaligned, x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                blocks = pixel_unshuffle(one, patch, dtype)
                assert torch.equal(blocks, expected)
                assert blocks.is_contiguous(memory_format=torch.channels_last)
                part = torch.cat([blocks, blocks], dim=1)[:, blocks.shape[1] :]
                for like in (blocks, blocks.contiguous(), part):
                    back = pixel_shuffle(like, patch)
                    assert torch.equal(back, x.to(dtype)) and back.is_contiguous()
    for small in (x[:1, :, :patch, :patch], x[:1, :1, :patch], x[:1, :1, ..., :patch], x[:1, :1]):
        for one in (small, small.contiguous(), small.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)):
            with torch.no_grad():  # axes of a single position may have any stride
                blocks = pixel_unshuffle(one, patch, dtype)
                assert torch.equal(blocks, F.pixel_unshuffle(small, patch).to(dtype))
                for like in (blocks, blocks.contiguous(), blocks.clone(memory_format=torch.channels_last)):
                    assert torch.equal(pixel_shuffle(like, patch), small.to(dtype))
    with torch.enable_grad():
        x.requires_grad_(True)
        (pixel_shuffle(pixel_unshuffle(x, patch, dtype), patch).float() ** 2).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, 2 * x, atol=0.05)


def test_per_item() -> None:
    x = torch.zeros(3, 1, 2, 2)
    for sigma in (0.5, torch.tensor(0.5), torch.full((3,), 0.5)):
        level = per_item(sigma, x)
        assert level.dtype == torch.float64 and level.tolist() == [0.5] * 3


# -- sizes and blocks of pixels ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 20), width=st.integers(1, 20), multiple=st.sampled_from([1, 2, 8, 16, 32]))
def test_padding_is_numpys_reflection(height: int, width: int, multiple: int) -> None:
    x = torch.arange(2.0 * height * width).view(1, 2, height, width)
    assert torch.equal(pad_to_multiple(x, multiple), reflect(x, multiple))


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 1), (3, 17), (8, 8), (16, 9)])
def test_any_size(height: int, width: int, patch: int) -> None:
    """The stub returns its input, the scaled picture, which is reflected and whose blocks of pixels are channels."""
    x, stub = random(2, 3, height, width), Stub()
    prior = make_prior(stub, make_spec(patch=patch))
    x0 = prior.predict(x, 1.0).x0
    torch.testing.assert_close(x0, x * math.sqrt(0.5))
    torch.testing.assert_close(stub.seen[0][0], unshuffle(reflect(x * math.sqrt(0.5), 4 * patch), patch))
    assert prior.multiple == 4 * patch and prior.channels == 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (11, 6)])
def test_any_size_with_a_real_network(height: int, width: int) -> None:
    prior = make_prior(UNet(make_spec(patch=2).network), make_spec("v_prediction", patch=2))
    x = random(1, 3, height, width)
    x0 = prior.predict(x, 0.3).x0
    assert x0.shape == x.shape and bool(x0.isfinite().all())


def test_a_condition_goes_beside_the_picture_unscaled() -> None:
    stub = Stub(random(1, 3, 8, 8))
    x, condition = random(1, 3, 5, 7, seed=1), random(1, 2, 5, 7, seed=2)
    make_prior(stub, make_spec()).predict(x, 1.0, condition)
    expected = reflect(torch.cat([x * math.sqrt(0.5), condition], dim=1), 4)
    torch.testing.assert_close(stub.seen[0][0], expected)


def test_clipping() -> None:
    answer = 3 * random(1, 3, 8, 8)
    x = random(1, 3, 8, 8, seed=1)
    assert torch.equal(make_prior(Stub(answer), make_spec(clip=True)).predict(x, 1.0).x0, answer.clamp(-1, 1))
    assert torch.equal(make_prior(Stub(answer), make_spec(clip=False)).predict(x, 1.0).x0, answer)


# -- learned variance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("t", [1, 2, 100, 999])
def test_learned_variance_is_that_of_diffusers(diffusers: ModuleType, t: int, patch: int) -> None:
    answer = random(1, 6 * patch**2, 8, 8)
    prior = make_prior(Stub(answer), make_spec("epsilon", out=2, patch=patch))
    prediction = prior.predict(random(1, 3, 8 * patch, 8 * patch, seed=1), float(LINEAR.sigmas[t]))
    second = answer[:, 3 * patch**2 :]
    raw = torch.empty(1, 3, 8 * patch, 8 * patch)
    for k in range(second.shape[1]):
        c, i, j = k // patch**2, k // patch % patch, k % patch
        raw[:, c, i::patch, j::patch] = second[:, k]
    reference = diffusers.DDPMScheduler(variance_type="learned_range")
    expected = reference._get_variance(t, predicted_variance=raw)
    torch.testing.assert_close(prediction.log_variance, expected, rtol=1e-3, atol=1e-3)


def test_learned_variance_of_the_first_step() -> None:
    """Since beta~_0 is 0, guided-diffusion takes the logarithm of beta~_1 in its place."""
    fractions = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    prior = make_prior(Stub(torch.cat([torch.zeros(1, 3, 8, 8), fractions], 1)), make_spec("epsilon", out=2))
    found = prior.predict(random(1, 3, 8, 8), LINEAR.sigma_min).log_variance[0, :, 0, 0]
    beta = [1e-4, 1e-4 + (0.02 - 1e-4) / 999]
    low = math.log(beta[0] / (1 - (1 - beta[0]) * (1 - beta[1])) * beta[1])
    assert found.tolist() == pytest.approx([low, (low + math.log(beta[0])) / 2, math.log(beta[0])], abs=1e-4)


def test_a_fixed_variance_is_none() -> None:
    assert make_prior(Stub(random(1, 3, 8, 8)), make_spec()).predict(random(1, 3, 8, 8), 1.0).log_variance is None


# -- precision and specs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_comes_back_as_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    spec = make_spec("v_prediction", patch=2)
    network = UNet(spec.network)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    x = add_noise(random(1, 3, 24, 17), 0.3)
    full = make_prior(network, spec)
    exact = full.predict(x, 0.3).x0
    assert full.resources.full_precision() is None
    low = make_prior(network, spec, dtype=dtype)

    def precisions() -> set[torch.dtype]:
        """Return the precisions of all layers but the normalizations, which some kernels take in float32."""
        return {p.dtype for name, p in network.named_parameters() if "norm" not in name}

    assert precisions() == {dtype}
    x0 = low.predict(x, 0.3).x0
    assert x0.dtype == torch.float32
    # The mantissa of eight bits passes through some twenty layers, and the output is of order 1.
    difference = float((x0 - exact).abs().max())
    assert 0 < difference < 0.05

    again = low.resources.full_precision()
    assert again is not None and again.dtype == torch.float32
    assert precisions() == {dtype}  # the copy has weights of its own
    for key, value in again.network.state_dict().items():
        torch.testing.assert_close(value, weights[key].to(dtype).float(), rtol=0, atol=0)


def test_a_prior_does_not_record_gradients() -> None:
    prior = make_prior(UNet(make_spec().network), make_spec())
    x = random(1, 3, 8, 8).requires_grad_()
    assert not prior.predict(x, 0.5).x0.requires_grad
    assert not any(p.requires_grad for p in prior.network.parameters()) and not prior.network.training


@pytest.mark.parametrize(
    ("network", "fields"),
    [
        ({}, {"prediction_type": "score"}),
        ({}, {"patch_size": 2}),  # 3 channels do not form blocks of 2x2 pixels
        ({"out_channels": 4}, {}),
        ({"in_channels": 12, "out_channels": 6}, {"patch_size": 2}),
    ],
    ids=str,
)
def test_impossible_specs_are_refused(network: dict[str, Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ModelSpec(UNetConfig(**{**SHAPE, **network}), LINEAR, **fields)
