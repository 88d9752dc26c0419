"""Folders in every layout of the Hub, written by diffusers, with old names and fields with a silent effect."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from shapes import theirs_of
from torch import Tensor, nn

from restorer.errors import ModelError
from restorer.models.checkpoints import load_model, load_unet, save_model
from restorer.models.hub.references import choose_files
from restorer.models.layout import CONFIG, INDEX, PICKLED, SAFETENSORS, SCHEDULER
from restorer.priors.unet_prior import UNetPrior

GOOGLE: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
COMMUNITY: dict[str, Any] = {
    **{k: v for k, v in GOOGLE.items() if k not in ("flip_sin_to_cos", "freq_shift", "norm_eps", "downsample_padding")},
    "attention_head_dim": 8,
}
ADM: dict[str, Any] = {  # as in openai/diffusers-cd_*, and in xutongda/adm_*
    "sample_size": 16,
    "out_channels": 6,
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attn_norm_num_groups": 8,
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "scale_shift",
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
FAMILIES = {"google": GOOGLE, "community": COMMUNITY, "adm": ADM}


@torch.no_grad()
def output(network: nn.Module) -> Tensor:
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    found = network.eval()(x, torch.tensor([10.0, 731.0]))
    return found if isinstance(found, Tensor) else found.sample


def edit(path: Path, **fields: Any) -> None:
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


@pytest.fixture(scope="module")
def networks(diffusers: ModuleType) -> dict[str, nn.Module]:
    return {name: theirs_of(diffusers, fields) for name, fields in FAMILIES.items()}


@pytest.fixture
def google(networks: dict[str, nn.Module], diffusers: ModuleType, tmp_path: Path) -> Path:
    """Write a model folder with all files at its root."""
    networks["google"].save_pretrained(tmp_path / "model")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# -- layouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_of_diffusers(
    diffusers: ModuleType, networks: dict[str, nn.Module], tmp_path: Path, family: str, safe: bool
) -> None:
    """The layout that DDPMPipeline writes is read, by the path of the pipeline, of unet/ or of the weights."""
    diffusers.DDPMPipeline(networks[family], diffusers.DDPMScheduler()).save_pretrained(
        tmp_path, safe_serialization=safe
    )
    assert (tmp_path / "unet" / (SAFETENSORS if safe else PICKLED)).is_file() and (tmp_path / INDEX).is_file()
    for place in (tmp_path, tmp_path / "unet", tmp_path / "unet" / (SAFETENSORS if safe else PICKLED)):
        network, spec = load_model(place)
        assert torch.equal(output(network), output(networks[family]))
        assert spec.native_size == 16 and spec.schedule.steps == 1000


@pytest.mark.parametrize("place", ["", "scheduler", "unet"])
@pytest.mark.parametrize("layout", ["", "unet"])
def test_where_the_scheduler_may_stand(google: Path, layout: str, place: str) -> None:
    edit(google / SCHEDULER, beta_end=0.03)
    if layout:
        (google / layout).mkdir()
        for name in (CONFIG, SAFETENSORS):
            (google / name).rename(google / layout / name)
    if place and (layout or place == "scheduler"):
        (google / place).mkdir(exist_ok=True)
        (google / SCHEDULER).rename(google / place / SCHEDULER)
    assert load_model(google)[1].schedule.beta_end == 0.03


@pytest.mark.parametrize("layout", ["", "unet"])
def test_of_several_schedulers_the_one_that_would_be_fetched(google: Path, layout: str) -> None:
    """A model is the same whether it comes from a repository or from a complete copy of that repository."""
    content = (google / SCHEDULER).read_bytes()
    if layout:
        (google / layout).mkdir()
        for name in (CONFIG, SAFETENSORS):
            (google / name).rename(google / layout / name)
    places = {"": google, "scheduler": google / "scheduler", "unet": google / "unet"}
    for i, folder in enumerate(places.values() if layout else (google, google / "scheduler")):
        folder.mkdir(exist_ok=True)
        (folder / SCHEDULER).write_bytes(content)
        edit(folder / SCHEDULER, beta_end=0.03 + 0.01 * i)
    while schedulers := list(google.rglob(SCHEDULER)):
        fetched = choose_files(lambda name: (google / name).is_file())
        assert fetched is not None
        (chosen,) = (google / name for name in fetched if name.endswith(SCHEDULER))
        assert load_model(google)[1].schedule.beta_end == json.loads(chosen.read_bytes())["beta_end"]
        chosen.unlink()
        assert chosen in schedulers


def test_safetensors_are_preferred(google: Path) -> None:
    (google / PICKLED).write_bytes(b"never read")
    load_model(google)


def test_a_file_of_weights_in_a_folder(google: Path, networks: dict[str, nn.Module]) -> None:
    """A path can name a weights file beside the usual one, such as an average of the weights."""
    state = {k: 2 * v for k, v in load_file(google / SAFETENSORS).items()}
    save_file(state, google / "ema.safetensors")
    assert torch.equal(load_model(google / "ema.safetensors")[0].state_dict()["conv_in.bias"], state["conv_in.bias"])
    (google / CONFIG).unlink()
    with pytest.raises(ModelError, match=CONFIG):
        load_model(google / "ema.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "model.", "unet.", "module.model."])
@pytest.mark.parametrize("table", ["", "ema", "state_dict"])
def test_wrapped_weights(google: Path, networks: dict[str, nn.Module], prefix: str, table: str) -> None:
    state: Any = {prefix + k: v for k, v in load_file(google / SAFETENSORS).items()}
    torch.save({table: state, "epoch": 3} if table else state, google / PICKLED)
    (google / SAFETENSORS).unlink()
    assert torch.equal(output(load_model(google)[0]), output(networks["google"]))


@pytest.mark.parametrize("legacy_format", [False, True])
def test_pickles_of_every_age(google: Path, networks: dict[str, nn.Module], legacy_format: bool) -> None:
    """Files of torch.save today and before 1.6 are read, whether they hold tensors, parameters or views."""
    state = load_file(google / SAFETENSORS)
    qkv = torch.cat([state[f"mid_block.attentions.0.to_{letter}.weight"] for letter in "qkv"])
    for letter, part in zip("qkv", qkv.chunk(3), strict=True):
        state[f"mid_block.attentions.0.to_{letter}.weight"] = part
    state["conv_in.weight"] = nn.Parameter(state["conv_in.weight"])
    state["conv_out.weight"] = state["conv_out.weight"].to(memory_format=torch.channels_last)
    (google / SAFETENSORS).unlink()
    torch.save(state, google / PICKLED, _use_new_zipfile_serialization=not legacy_format)
    loaded = load_model(google)[0]
    expected = networks["google"].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    # Another memory layout of the weights may change the order of summation, so the outputs agree only up to rounding.
    torch.testing.assert_close(output(loaded), output(networks["google"]), rtol=0, atol=1e-5)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_convolutions", [False, True])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_names_of_before_diffusers_0_15(
    diffusers: ModuleType, google: Path, networks: dict[str, nn.Module], safe: bool, as_convolutions: bool
) -> None:
    """All google/* files of 2022 have the old names. Diffusers reads the same folder, which confirms these names."""
    old = {}
    for name, value in load_file(google / SAFETENSORS).items():
        for new, legacy in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f".{new}." in name:
                name = name.replace(f".{new}.", f".{legacy}.")
                value = value[..., None, None] if as_convolutions and value.ndim == 2 else value
        old[name] = value
    # There are three attentions in the levels and one in the middle, each with a weight and a bias.
    assert sum("query" in name for name in old) == 8
    (google / SAFETENSORS).unlink()
    save_file(old, google / SAFETENSORS) if safe else torch.save(old, google / PICKLED)
    assert torch.equal(output(load_model(google)[0]), output(networks["google"]))
    if not as_convolutions:
        _, report = diffusers.UNet2DModel.from_pretrained(google, use_safetensors=safe, output_loading_info=True)
        assert not report["missing_keys"]


def cut_without_sorting(state: dict[str, Tensor], head_dim: int) -> dict[str, Tensor]:
    """Cut joint weights, in which the heads follow one another, into thirds without sorting, as some forks do."""
    cut = dict(state)
    for name in state:
        if ".to_q." not in name:
            continue
        names = [name.replace(".to_q.", f".to_{letter}.") for letter in "qkv"]
        heads = [state[n].split(head_dim) for n in names]
        joint = torch.cat([heads[kind][h] for h in range(len(heads[0])) for kind in range(3)])
        cut.update(zip(names, (part.clone() for part in joint.chunk(3)), strict=True))
    return cut


def test_forks_of_guided_diffusion(diffusers: ModuleType, networks: dict[str, nn.Module], tmp_path: Path) -> None:
    """The files xutongda/adm_* give the right output in spite of their peculiarities.

    Their time embedding has another name, their attention weights are thirds of joint weights, their eps is wrong, and
    they lack attn_norm_num_groups.
    """
    networks["adm"].save_pretrained(tmp_path)
    diffusers.DDPMScheduler(variance_type="learned_range").save_pretrained(tmp_path)
    save_file(cut_without_sorting(load_file(tmp_path / SAFETENSORS), 8), tmp_path / SAFETENSORS)
    fork = {"time_embedding_type": "adm", "attention_legacy_order": True, "norm_eps": 1e-6}
    # `adm` means cosines first and no shift, whatever the other fields state.
    edit(tmp_path / CONFIG, **fork, attn_norm_num_groups=..., freq_shift=1, flip_sin_to_cos=False)
    network, spec = load_model(tmp_path)
    assert torch.equal(output(network), output(networks["adm"]))
    save_model(tmp_path / "again", network, spec, torch.float32)
    assert torch.equal(output(load_model(tmp_path / "again")[0]), output(networks["adm"]))
    edit(tmp_path / CONFIG, attention_legacy_order=False)
    assert float((output(load_model(tmp_path)[0]) - output(networks["adm"])).abs().max()) > 1e-3


# -- fields with a silent effect ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"downsample_padding": 1},
        {"freq_shift": 0},
        {"flip_sin_to_cos": True},
        {"attention_head_dim": 8},
        {"attention_head_dim": ...},  # the default is 8, not null
        {"norm_eps": 1e-2},
        {"norm_num_groups": 4},
        {"attn_norm_num_groups": 4},
        {"mid_block_scale_factor": 1.5},
        {"center_input_sample": True},
        {"downsample_padding": ..., "freq_shift": ..., "flip_sin_to_cos": ..., "norm_eps": ...},
    ],
    ids=lambda fields: ", ".join(f"{k} {'left out' if v is ... else v}" for k, v in fields.items()),
)
def test_the_same_weights_another_picture(diffusers: ModuleType, google: Path, fields: dict[str, Any]) -> None:
    """None of these fields shows in a name or a shape; each must change the output, as it does in diffusers."""
    before = output(load_model(google)[0])
    edit(google / CONFIG, **fields)
    found, theirs = output(load_model(google)[0]), diffusers.UNet2DModel.from_pretrained(google)
    assert float((found - before).abs().max()) > 1e-3
    assert torch.equal(found, output(theirs))


@pytest.mark.parametrize(("size", "side"), [(64, 64), ([64, 64], 64), ([64, 96], 64), (None, None)])
def test_the_native_size(google: Path, size: Any, side: int | None) -> None:
    edit(google / CONFIG, sample_size=size)
    assert load_model(google)[1].native_size == side


# -- the scheduler -----------------------------------------------------------------------------------------------------

BETAS = [1e-3 * (k + 1) for k in range(20)]


@pytest.mark.parametrize(
    "fields",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 500},
        {"trained_betas": BETAS, "num_train_timesteps": 20},
        {"prediction_type": "sample"},
        {"prediction_type": "v_prediction"},
        {"clip_sample": False},
        {"clip_sample": False, "thresholding": True},  # with a sample_max_value of 1, thresholding is clipping
        {"clip_sample": False, "clip_sample_range": 3.0},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"prediction_type": "sample", "rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"},
    ],
    ids=lambda fields: ", ".join(fields),
)
@torch.no_grad()
def test_predictions_are_those_of_the_scheduler(
    diffusers: ModuleType, google: Path, networks: dict[str, nn.Module], fields: dict[str, Any]
) -> None:
    scheduler = diffusers.DDPMScheduler(**fields)
    scheduler.save_pretrained(google)
    network, spec = load_model(google)
    prior, noise = UNetPrior(network, spec), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for t in (0, 15, spec.schedule.steps - 1):
        sigma = float(spec.schedule.sigmas[t])
        x = 0.5 + sigma * noise
        x_t = x * scheduler.alphas_cumprod[t].sqrt()
        expected = scheduler.step(networks["google"](x_t, t).sample, t, x_t).pred_original_sample
        assert float(scheduler.alphas_cumprod[t]) == pytest.approx(1 / (1 + sigma**2), rel=1e-3)
        torch.testing.assert_close(prior.predict(x, sigma).x0, expected, rtol=1e-3, atol=1e-4 * (1 + sigma))


def test_a_chain_that_ends_in_noise_alone_has_no_last_level(diffusers: ModuleType, google: Path) -> None:
    fields = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler = diffusers.DDPMScheduler(**fields)
    scheduler.save_pretrained(google)
    schedule = load_model(google)[1].schedule
    assert float(scheduler.alphas_cumprod[-1]) == 0 and schedule.steps == 999
    assert bool(schedule.sigmas.isfinite().all())
    torch.testing.assert_close(schedule.alpha_bars, scheduler.alphas_cumprod[:-1].double(), rtol=1e-3, atol=1e-7)


def test_given_betas_are_written_and_read_back(diffusers: ModuleType, google: Path, tmp_path: Path) -> None:
    diffusers.DDPMScheduler(trained_betas=BETAS, num_train_timesteps=20).save_pretrained(google)
    network, spec = load_model(google)
    assert spec.schedule.betas.tolist() == BETAS
    save_model(tmp_path / "again", network, spec)
    assert load_model(tmp_path / "again")[1] == spec


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_the_sampler_of_a_model_is_not_its_process(diffusers: ModuleType, google: Path, name: str) -> None:
    expected = load_model(google)[1]
    getattr(diffusers, name)(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02).save_pretrained(google)
    assert load_model(google)[1] == expected


# -- models of another kind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "word"),
    [
        ({"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}, "latents"),
        ({"_class_name": "LDMSuperResolutionPipeline"}, "latents"),
        ({"_class_name": "MyPipeline", "vae": ["diffusers", "AutoencoderKL"]}, "latents"),
    ],
    ids=str,
)
def test_pipelines_that_are_no_prior(google: Path, index: dict[str, Any], word: str) -> None:
    (google / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=word) as caught:
        load_model(google)
    assert INDEX in str(caught.value)
    load_unet(google)  # the network can still be read by itself
