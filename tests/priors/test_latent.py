"""Latent diffusion compared with diffusers' pipelines, with the same random weights and the same noise."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from autoencoders import TINY, VQ, normal, pair, random_weights
from stubs import Wrapper
from torch import Tensor

from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import NoiseField, reverse
from restorer.diffusion.schedule import Schedule
from restorer.networks.fast.prepacked import Prepacked, can_prepack, unaccelerated
from restorer.networks.unet import UNet, UNetConfig
from restorer.priors.latent import Conditioned, LatentPrior, ddim_plan, first_mean, latent_of
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import ModelSpec

# Narrow and shallow versions of CompVis/ldm-super-resolution-4x-openimages and CompVis/ldm-celebahq-256
# (notes/hub.md 1.1).
UNET: dict[str, Any] = {
    "in_channels": 6,
    "out_channels": 3,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 16,
}
SUPER = Schedule("scaled_linear", 1000, 0.0015, 0.0155)
CELEBA = Schedule("scaled_linear", 1000, 0.0015, 0.0195)


def make_scheduler(diffusers: ModuleType, schedule: Schedule) -> Any:
    """Return the DDIM scheduler of diffusers as the published pipelines configure it."""
    return diffusers.DDIMScheduler(
        beta_schedule=schedule.name,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        clip_sample=False,
        steps_offset=1,
    )


def make_spec(shape: UNetConfig, schedule: Schedule) -> ModelSpec:
    """Return the configuration of a latent prior, whose input channels are those of the latents alone."""
    return ModelSpec(replace(shape, in_channels=shape.out_channels), schedule, clip=False)


def make_pair(
    diffusers: ModuleType,
    schedule: Schedule,
    unet: dict[str, Any] | None = None,
    kind: str = "VQModel",
    shape: dict[str, Any] | None = None,
) -> tuple[LatentPrior, Any, Any]:
    """Return our prior, and the U-Net and the autoencoder of diffusers with the same weights."""
    fields = {**UNET, **(unet or {})}
    with torch.device("meta"):
        network, theirs = UNet(UNetConfig(**fields)), diffusers.UNet2DModel(**fields).eval()
    state = random_weights(theirs)
    network.load_state_dict(state, assign=True)
    theirs.load_state_dict(state, assign=True)
    ours, autoencoder = pair(diffusers, kind, {**VQ, "scaling_factor": 0.4} if shape is None else shape)
    return LatentPrior(network, make_spec(network.config, schedule), ours), theirs, autoencoder


def list_decoded(autoencoder: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list that collects the latents that the autoencoder decodes from now on."""
    decoded: list[Tensor] = []
    decode = autoencoder.decode

    def decode_and_list(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(latents.clone())
        return decode(latents, *args, **kwargs)

    monkeypatch.setattr(autoencoder, "decode", decode_and_list)
    return decoded


def sample(
    prior: Prior, plan: Plan, size: tuple[int, int], *, batch: int = 1, condition: Tensor | None = None
) -> Tensor:
    """Sample latents, without a look-up in a codebook."""
    shape = (batch if condition is None else len(condition), prior.channels, *size)
    sampled = prior if condition is None else Conditioned(prior, condition)
    return reverse(sampled, None, None, plan, first_mean(plan, shape))


def enlarge(prior: LatentPrior, small: Tensor, plan: Plan, tile: int | None = None) -> Tensor:
    """Enlarge a small picture; both pictures are on [-1, 1]."""
    tiled = prior if tile is None else Tiled(prior, tile, overlap=tile // 4)
    latents = sample(tiled, plan, (small.shape[-2], small.shape[-1]), condition=small)
    return prior.decode(latents, tile=tile).clamp(-1, 1)


def max_abs(difference: Tensor) -> float:
    """Return the largest absolute value."""
    return float(difference.abs().max())


@pytest.mark.parametrize("steps", [4, 7])
@torch.no_grad()
def test_super_resolution(diffusers: ModuleType, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Latents agree to 1e-4 and pictures of the same latents to 1e-5; the scaling factor has no effect here."""
    prior, unet, vqvae = make_pair(diffusers, SUPER)
    decoded = list_decoded(vqvae, monkeypatch)
    # Without transformers, which the pipeline does not use, diffusers does not export it by name.
    module = import_module("diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution")
    pipeline = module.LDMSuperResolutionPipeline(vqvae, unet, make_scheduler(diffusers, SUPER))
    pipeline.set_progress_bar_config(disable=True)
    small = normal(2, 3, 8, 12, seed=3).clamp(-1, 1)
    generator = torch.Generator().manual_seed(11)
    picture = pipeline(small, num_inference_steps=steps, generator=generator, output_type="pt").images

    plan = ddim_plan(SUPER, steps, seed=11)
    latents = sample(prior, plan, (8, 12), condition=small)
    assert latents.shape == decoded[0].shape and float(latents.std()) > 0.1
    assert max_abs(latents - decoded[0]) <= 1e-4
    ours = prior.decode(decoded[0])
    assert max_abs((ours.clamp(-1, 1) + 1) / 2 - picture) <= 1e-5
    result = enlarge(prior, small, plan)
    assert result.shape == (2, 3, 32, 48)
    assert torch.equal(result, prior.decode(latents).clamp(-1, 1))


@pytest.mark.parametrize("eta", [0.5, 1.0])
@torch.no_grad()
def test_super_resolution_with_fresh_noise(diffusers: ModuleType, eta: float) -> None:
    """The samples are those of the published loop, which is repeated here because it draws noise without a seed."""
    prior, unet, _ = make_pair(diffusers, SUPER)
    small, field, ddim = normal(1, 3, 8, 8, seed=3), NoiseField(11), make_scheduler(diffusers, SUPER)
    ddim.set_timesteps(4)
    latents = field.like(torch.zeros(1, 3, 8, 8))
    for k, t in enumerate(ddim.timesteps):
        eps = unet(torch.cat([latents, small], 1), t).sample
        fresh = field.like(latents) if k < 3 else torch.zeros_like(latents)  # the last step has variance 0
        latents = ddim.step(eps, t, latents, eta=eta, variance_noise=fresh).prev_sample
    ours = sample(prior, ddim_plan(SUPER, 4, eta=eta, seed=11), (8, 8), condition=small)
    assert max_abs(ours - latents) <= 1e-4
    assert max_abs(ours - sample(prior, ddim_plan(SUPER, 4, seed=11), (8, 8), condition=small)) > 0.1


@torch.no_grad()
def test_unconditional_latents(diffusers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples are those of the pipeline of ldm-celebahq-256, which divides by the scaling factor."""
    prior, unet, vqvae = make_pair(diffusers, CELEBA, {"in_channels": 3})
    unet.register_to_config(sample_size=8)
    decoded = list_decoded(vqvae, monkeypatch)
    pipeline = diffusers.LDMPipeline(vqvae, unet, make_scheduler(diffusers, CELEBA))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    images = pipeline(2, num_inference_steps=4, generator=generator, output_type="np").images

    latents = sample(prior, ddim_plan(CELEBA, 4, seed=5), (8, 8), batch=2)
    assert max_abs(latents / 0.4 - decoded[0]) <= 1e-4 / 0.4
    picture = (prior.decode(decoded[0] * 0.4) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert max_abs(picture - torch.from_numpy(images)) <= 1e-5
    assert prior.factor == 4 and prior.condition_channels == 0 and prior.serves == "generate"
    assert latent_of(prior) is prior and latent_of(Tiled(prior, 8, overlap=2)) is prior and latent_of(Wrapper()) is None


@pytest.mark.parametrize("shift", [None, 0.1159])
@torch.no_grad()
def test_decoding_with_a_variational_autoencoder(diffusers: ModuleType, shift: float | None) -> None:
    """z is latents / scaling_factor + shift_factor, as in every pipeline of diffusers."""
    shape = {**TINY, "latent_channels": 3, "scaling_factor": 0.18215, "shift_factor": shift}
    prior, _, theirs = make_pair(diffusers, CELEBA, {"in_channels": 3}, "AutoencoderKL", shape)
    latents = normal(1, 3, 5, 7)
    reference = theirs.decode(latents / 0.18215 + (shift or 0.0)).sample
    assert max_abs(prior.decode(latents) - reference) <= 1e-5


def test_levels_are_those_of_the_published_scheduler(diffusers: ModuleType) -> None:
    for steps, offset in ((1, 1), (4, 1), (30, 1), (100, 1), (500, 1), (50, 0), (1000, 0)):
        ddim = make_scheduler(diffusers, SUPER)
        ddim.register_to_config(steps_offset=offset)
        ddim.set_timesteps(steps)
        alpha_bar = ddim.alphas_cumprod[ddim.timesteps].double()
        plan = ddim_plan(SUPER, steps, offset=offset)
        levels = torch.tensor(plan.sigmas, dtype=torch.float64)
        torch.testing.assert_close(levels[:-1], ((1 - alpha_bar) / alpha_bar).sqrt(), rtol=1e-5, atol=0)
        assert plan.sigmas[-1] == 0 and plan.evaluations == steps and set(plan.zeta) == {0.0}


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": 501}, {"steps": 1001, "offset": 0}, {"eta": -0.1}, {"eta": 1.1}, {"offset": -1}]
)
def test_plans_that_do_not_fit_the_schedule(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ddim_plan(SUPER, **{"steps": 10, **wrong})


@torch.no_grad()
def test_tiles_see_their_part_of_the_condition(diffusers: ModuleType) -> None:
    """A tile as large as the picture changes nothing, and smaller tiles give a finite picture of the same size."""
    prior, _, _ = make_pair(diffusers, SUPER)
    small, plan = normal(1, 3, 16, 24, seed=3).clamp(-1, 1), ddim_plan(SUPER, 2, seed=1)
    whole = enlarge(prior, small, plan)
    assert torch.equal(enlarge(prior, small, plan, tile=24), whole)
    tiled = enlarge(prior, small, plan, tile=12)
    assert tiled.shape == whole.shape == (1, 3, 64, 96) and bool(tiled.isfinite().all())
    tile = prior.predict(small[..., :12, :12], 2.0, small[..., :12, :12]).x0
    whole_canvas = Conditioned(Tiled(prior, 12, overlap=0), small).predict(small, 2.0).x0
    assert max_abs(whole_canvas[..., :4, :12] - tile[..., :4, :12]) <= 1e-5  # pixels that no other tile covers


@torch.no_grad()
def test_tiles_are_blended_without_a_seam(diffusers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that only repeats pixels gives the same picture tile by tile as all at once."""
    prior, _, _ = make_pair(diffusers, SUPER)
    calls: list[torch.Size] = []

    def repeat(z: Tensor) -> Tensor:
        calls.append(z.shape)
        return z.repeat_interleave(4, -1).repeat_interleave(4, -2)

    monkeypatch.setattr(prior, "_decode", repeat)
    latents = normal(2, 3, 19, 30)
    whole = prior.decode(latents)
    for tile in (1, 3, 8, 20):
        calls.clear()
        torch.testing.assert_close(prior.decode(latents, tile=tile), whole, rtol=1e-5, atol=1e-6)
        assert len(calls) > 1 and max(max(shape[-2:]) for shape in calls) == tile


@torch.no_grad()
def test_any_size(diffusers: ModuleType) -> None:
    prior, _, _ = make_pair(diffusers, SUPER)
    small = normal(1, 3, 5, 7).clamp(-1, 1)
    assert enlarge(prior, small, ddim_plan(SUPER, 2)).shape == (1, 3, 20, 28)


def test_what_does_not_belong_together_is_refused(diffusers: ModuleType) -> None:
    prior, _, _ = make_pair(diffusers, SUPER)
    x = normal(1, 3, 8, 8)
    for condition in (None, normal(1, 4, 8, 8), normal(1, 3, 8, 4), normal(2, 3, 8, 8)):
        with pytest.raises(ValueError, match="condition"):
            prior.predict(x, 1.0, condition)
    network, autoencoder = prior.network, prior.autoencoder
    with pytest.raises(ValueError, match="clip"):
        LatentPrior(network, replace(prior.spec, clip=True), autoencoder)
    other, _ = pair(diffusers, "AutoencoderKL", TINY)
    with pytest.raises(ValueError, match="4"):
        LatentPrior(network, prior.spec, other)
    plain, _, _ = make_pair(diffusers, CELEBA, {"in_channels": 3})
    with pytest.raises(ValueError, match="condition"):
        plain.predict(x, 1.0, x)


@torch.no_grad()
def test_half_precision_leaves_the_autoencoder_alone(diffusers: ModuleType) -> None:
    prior, _, _ = make_pair(diffusers, SUPER)
    latents = normal(1, 3, 8, 8)
    expected = prior.decode(latents)
    low = LatentPrior(prior.network, prior.spec, prior.autoencoder, dtype=torch.bfloat16)
    assert torch.equal(low.decode(latents), expected)
    assert prior.resources.full_precision() is None
    high = Conditioned(Tiled(low, 8, overlap=2), latents).resources.full_precision()
    assert high is not None and high.predict(latents, 1.0).x0.dtype == torch.float32
    inner = low.resources.full_precision()
    assert isinstance(inner, LatentPrior) and inner.autoencoder is low.autoencoder and inner.dtype == torch.float32
    assert Conditioned(inner, latents).resources.full_precision() is None


@pytest.mark.skipif(not can_prepack(torch.device("cpu"), torch.float32), reason="this processor does not prepack")
@torch.no_grad()
def test_a_decoder_is_packed_and_foreseen(diffusers: ModuleType) -> None:
    prior, _, _ = make_pair(diffusers, SUPER)
    latents = normal(2, 3, 8, 8)
    with unaccelerated():
        plain = prior.decode(latents)
    expected = prior.resources.kept_bytes()
    layers = [layer for layer in prior.autoencoder.decoder.modules() if isinstance(layer, Prepacked)]
    count = sum(layer.count_packed(torch.float32) for layer in layers)
    direct_count = sum(layer.count_packed(torch.bfloat16) for layer in layers)  # without Winograd's algorithm
    assert float((prior.decode(latents) - plain).norm()) < 1e-5 * float(plain.norm())
    remaining = prior.resources.kept_bytes()
    assert expected - remaining == 4 * count
    # The sizes of oneDNN's weights leave out biases and pad layers of so few channels.
    caches = [layer._cache for layer in layers if layer.count_packed(torch.float32)]
    held = sum(torch.ops.mkldnn._nbytes(cache.weight) for cache in caches)
    assert 0.95 * 4 * direct_count <= held <= 1.5 * 4 * direct_count
    # The prior in low precision shares the decoder, which stays packed.
    low = prior.resources.low_precision()
    assert low is not None and low.autoencoder is prior.autoencoder and prior.resources.kept_bytes() == remaining
