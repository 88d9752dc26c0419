"""Model folders: written, read back, read by diffusers; and everything broken is refused in one line."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from restorer.diffusion.schedule import Schedule
from restorer.errors import ModelError
from restorer.networks import Network
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.networks.unet import UNetConfig
from restorer.priors.checkpoints import CONFIG, SCHEDULER, WEIGHTS, load_model, save_model
from restorer.priors.unet_prior import ModelSpec, UNetPrior

PLAIN = UNetConfig(
    in_channels=12,
    out_channels=12,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D",) * 2,
    up_block_types=("UpBlock2D",) * 2,
    layers_per_block=1,
    norm_num_groups=4,
    add_attention=False,
)
ATTENTIVE = UNetConfig(
    out_channels=6,
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    norm_num_groups=8,
    norm_eps=1e-6,
    attention_head_dim=None,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    center_input_sample=True,
    mid_block_scale_factor=1.25,
    resnet_time_scale_shift="scale_shift",
)
SPECS = {
    "own": ModelSpec(PLAIN, Schedule("squaredcos_cap_v2"), "v_prediction", patch_size=2),
    "hub": ModelSpec(ATTENTIVE, Schedule("linear"), "epsilon", native_size=64),
    "residual": ModelSpec(
        ResidualUNetConfig(12, 12, (8, 16), 1), Schedule("squaredcos_cap_v2"), "v_prediction", patch_size=2
    ),
    "latent": ModelSpec(ATTENTIVE, Schedule("scaled_linear", 500, 0.0015, 0.0195), "sample", clip=False),
}


def network_of(spec: ModelSpec, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return spec.network.build().eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good model folder."""
    save_model(tmp_path / "model", network_of(SPECS["own"]), SPECS["own"])
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_round_trip(tmp_path: Path, spec: ModelSpec, dtype: torch.dtype) -> None:
    network = network_of(spec)
    save_model(tmp_path / "a" / "b", network, spec, dtype)
    found, found_spec = load_model(tmp_path / "a" / "b")
    assert found_spec == spec
    state = found.state_dict()
    for key, value in network.state_dict().items():
        assert state[key].dtype == dtype and torch.equal(state[key], value.to(dtype)), key
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} == {CONFIG, SCHEDULER, WEIGHTS}


def test_sixteen_bits_unless_told_otherwise(folder: Path) -> None:
    assert {value.dtype for value in load_file(folder / WEIGHTS).values()} == {torch.float16}
    parameters = sum(p.numel() for p in network_of(SPECS["own"]).parameters())
    assert 2 * parameters < (folder / WEIGHTS).stat().st_size < 2 * parameters + 16_384


def test_a_folder_is_written_over_and_readable(folder: Path) -> None:
    other = network_of(SPECS["own"], seed=1)
    save_model(folder, other, SPECS["own"])
    found = load_model(folder)[0].state_dict()
    assert all(torch.equal(found[key], value.half()) for key, value in other.state_dict().items())
    assert stat.S_IMODE((folder / WEIGHTS).stat().st_mode) & 0o444 == 0o444


def test_the_native_size_counts_only_with_attention(tmp_path: Path) -> None:
    spec = ModelSpec(PLAIN, Schedule(), patch_size=2, native_size=64)
    save_model(tmp_path, network_of(spec), spec)
    assert load_model(tmp_path)[1].native_size is None


@pytest.mark.parametrize("spec", [SPECS["own"], SPECS["hub"], SPECS["latent"]], ids=["own", "hub", "latent"])
@torch.no_grad()
def test_diffusers_reads_the_same_folder(diffusers: ModuleType, tmp_path: Path, spec: ModelSpec) -> None:
    save_model(tmp_path, network_of(spec), spec, torch.float32)
    theirs, report = diffusers.UNet2DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    ours = load_model(tmp_path)[0].eval()
    x = torch.randn(2, spec.network.in_channels, 8, 12, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3.0, 777.0])
    assert torch.equal(ours(x, t), theirs.eval()(x, t).sample)
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path)
    torch.testing.assert_close(scheduler.betas.double(), spec.schedule.betas, rtol=1e-6, atol=1e-8)
    assert scheduler.config.prediction_type == spec.prediction_type
    assert scheduler.config.clip_sample == spec.clip


@torch.no_grad()
def test_a_folder_of_diffusers_is_read(diffusers: ModuleType, tmp_path: Path) -> None:
    """Written by diffusers, with every field that it writes; the prediction is its scheduler's."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path)
    network, spec = load_model(tmp_path)
    assert (spec.native_size, spec.patch_size, spec.clip) == (16, 1, True)
    prior = UNetPrior(network, spec)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    x_t = x * scheduler.alphas_cumprod[400].sqrt()
    expected = scheduler.step(theirs(x_t, 400).sample, 400, x_t).pred_original_sample
    found = prior.predict(x, float(spec.schedule.sigmas[400])).x0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_fields_left_out_take_the_layouts_defaults(tmp_path: Path) -> None:
    """As old files of the Hub rely on: no class name, no prediction type, no clip_sample."""
    config = {
        "block_out_channels": [8, 16], "norm_num_groups": 4, "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2, "some_field_of_tomorrow": 1,
    }  # fmt: skip
    spec = ModelSpec(
        UNetConfig(
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        ),
        Schedule(),
    )
    save_model(tmp_path, network_of(spec), spec)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    (tmp_path / SCHEDULER).write_text("{}")
    assert load_model(tmp_path)[1] == spec


# -- broken folders ----------------------------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    """What is said of a folder: one line, of readable length, naming a file."""
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert message.isprintable() and caught.value.hint.isprintable()
    assert message and "\n" not in message and "\n" not in caught.value.hint and len(message) < 1000
    return message


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("name", [CONFIG, SCHEDULER, WEIGHTS])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refused(folder)


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "nowhere" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [CONFIG, SCHEDULER])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"not json", b"[1, 2]", b"null", b"3", b"\xff\xfe\x00", b" " * 70_000 + b"{}"),
        b"[" * 60_000,
    ],
    ids=["empty", "cut", "text", "list", "null", "number", "no utf-8", "huge", "deep"],
)
def test_garbage_for_json(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in refused(folder)


@pytest.mark.parametrize("name", [CONFIG, SCHEDULER, WEIGHTS])
def test_a_folder_for_a_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refused(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"_class_name": "UNet2DConditionModel"},
        {"_class_name": ["UNet2DModel"]},
        {"act_fn": "mish"},
        {"time_embedding_type": "fourier"},
        {"down_block_types": ["ResnetDownsampleBlock2D"] * 2},
        {"down_block_types": "DownBlock2D"},
        {"block_out_channels": []},
        {"block_out_channels": 8},
        {"block_out_channels": None},
        {"block_out_channels": ["8", "16"]},
        {"block_out_channels": [8.5, 16]},
        {"block_out_channels": [8, 16, 32]},
        {"block_out_channels": [8, 4096]},
        {"block_out_channels": [9, 16]},
        {"norm_num_groups": None},
        {"layers_per_block": 1_000_000},
        {"layers_per_block": "1"},
        {"resnet_time_scale_shift": "ada_group"},
        {"in_channels": 7},
        {"in_channels": "12"},
        {"in_channels": 3 * 4**15, "out_channels": 3 * 4**15},
        {"out_channels": 13},
        {"patch_size": 5},
        {"patch_size": "2"},
        {"patch_size": None},
        *(
            fields
            for fields in (
                {"norm_num_groups": 0},
                {"norm_num_groups": -4},
                {"patch_size": 0},
                {"patch_size": -2},
                {"patch_size": 2.0},
                {"block_out_channels": [-8, -16]},
                {"in_channels": -12, "out_channels": -12},
                {"in_channels": 12 * 10**17, "out_channels": 12 * 10**17},
                {"norm_eps": "x"},
                {"freq_shift": "a"},
                {"freq_shift": 4},  # half the width: a division by zero, and every feature is nan
                {"mid_block_scale_factor": 0},
                {"mid_block_scale_factor": "2"},
                {"downsample_padding": 7},
                {"downsample_type": "fir"},
                {"flip_sin_to_cos": "false"},
                {"add_attention": 0},
                {"attention_head_dim": True},
                {"attention_head_dim": 3, "add_attention": True},
                {"attn_norm_num_groups": 0},
                {"mid_block_type": None},
                {"num_class_embeds": 1000},
                {"down_block_types": ["SkipDownBlock2D"] * 2},
                {"down_block_types": ["CrossAttnDownBlock2D"] * 2},
                {"sample_size": "64", "down_block_types": ["AttnDownBlock2D"] * 2},
                {"sample_size": -64, "down_block_types": ["AttnDownBlock2D"] * 2},
                {"_class_name": "UNetUnconditionalModel"},
                {"_class_name": "\x1b[31mred\nline"},
                {"class_embed_type": "timestep"},
            )
        ),
    ],
    ids=str,
)
def test_configurations_of_no_network(folder: Path, fields: dict[str, Any]) -> None:
    edit(folder / CONFIG, **fields)
    assert CONFIG in refused(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"beta_schedule": "sigmoid"},
        {"beta_schedule": None},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": "1000"},
        {"beta_schedule": "linear", "beta_start": -1.0},
        {"beta_schedule": "linear", "beta_end": 1.5},
        {"beta_schedule": "linear", "beta_end": float("nan")},
        {"prediction_type": "flow"},
        {"prediction_type": None},
        *(
            fields
            for fields in (
                {"beta_schedule": "linear", "beta_end": None},
                {"num_train_timesteps": 10**13},
                {"num_train_timesteps": 1000.0},
                {"trained_betas": [0.1] * 999},
                {"trained_betas": "linear"},
                {"trained_betas": [0.1, 1.5], "num_train_timesteps": 2},
                {"trained_betas": [0.1, float("nan")], "num_train_timesteps": 2},
                {"trained_betas": [0.1, "0.2"], "num_train_timesteps": 2},
                {"rescale_betas_zero_snr": True, "prediction_type": "epsilon"},
                {"rescale_betas_zero_snr": "no"},
                {"clip_sample": "false"},
                {"clip_sample_range": 2.0},
                {"thresholding": True, "sample_max_value": 1.5},
                {"use_flow_sigmas": True},
                {"_class_name": "ScoreSdeVeScheduler"},
                {"_class_name": "CMStochasticIterativeScheduler"},
                {"_class_name": "FlowMatchEulerDiscreteScheduler"},
                {"_class_name": "GaussianDDPMScheduler"},
                {"_class_name": ["DDPMScheduler"]},
                {"_class_name": "SomethingElse"},
            )
        ),
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_schedules_of_no_model(folder: Path, fields: dict[str, Any]) -> None:
    edit(folder / SCHEDULER, **fields)
    refused(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"block_out_channels": [16, 16]},
        {"layers_per_block": 2},
        {"add_attention": True},
        {"block_out_channels": [8, 2048]},
    ],
    ids=str,
)
def test_weights_of_another_network(folder: Path, fields: dict[str, Any]) -> None:
    """Shapes are compared before memory is taken: the message names the first few that differ."""
    edit(folder / CONFIG, **fields)
    message = refused(folder)
    assert WEIGHTS in message and "." in message


def damage(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        state = load_file(path)
        change(state)
        save_file(state, path)

    return apply


@pytest.mark.parametrize(
    "broken",
    [
        damage(lambda state: state["conv_in.weight"].view(-1)[3:4].fill_(torch.nan)),
        damage(lambda state: state["conv_out.bias"][0:1].fill_(torch.inf)),
        damage(lambda state: state.pop("conv_in.bias")),
        damage(lambda state: state.update(extra=torch.zeros(2))),
        damage(lambda state: state.update({"conv_in.bias": torch.zeros(9)})),
        damage(dict.clear),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04" + b"pickle" * 100),
        lambda path: path.write_bytes((2**62).to_bytes(8, "little") + b"{}"),
        *(
            damage(lambda state, to=to: state.update({k: v.to(to) for k, v in state.items()}))
            for to in (torch.int64, torch.float8_e4m3fn, torch.complex64)
        ),
    ],
    ids=[
        *("nan", "inf", "one too few", "one too many", "another shape", "none", "cut at the end", "cut in the header"),
        *("empty", "pickle", "a header of exabytes", "integers", "eight bits", "complex"),
    ],
)
def test_damaged_weights(folder: Path, broken: Callable[[Path], object]) -> None:
    broken(folder / WEIGHTS)
    assert WEIGHTS in refused(folder)
