"""Model folders are written, read back, and read by diffusers. test_hostile.py tests broken folders."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from restorer.diffusion.schedule import Schedule
from restorer.errors import ModelError
from restorer.models.checkpoints import load_model, save_model
from restorer.models.configs import SCHEDULE_FLAGS, SCHEDULE_INTEGERS, SCHEDULE_NUMBERS
from restorer.models.layout import CONFIG, SAFETENSORS, SCHEDULER
from restorer.networks import Network
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.networks.unet import UNetConfig
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
        ResidualUNetConfig(12, 12, (8, 16), 1),
        Schedule("squaredcos_cap_v2"),
        "v_prediction",
        patch_size=2,
        mirrors=True,
    ),
    "latent": ModelSpec(ATTENTIVE, Schedule("scaled_linear", 500, 0.0015, 0.0195), "sample", clip=False),
}


def network_of(spec: ModelSpec, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return spec.network.build().eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a good model folder."""
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
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} == {CONFIG, SCHEDULER, SAFETENSORS}


def test_sixteen_bits_unless_told_otherwise(folder: Path) -> None:
    assert {value.dtype for value in load_file(folder / SAFETENSORS).values()} == {torch.float16}
    parameters = sum(p.numel() for p in network_of(SPECS["own"]).parameters())
    assert 2 * parameters < (folder / SAFETENSORS).stat().st_size < 2 * parameters + 16_384


def test_a_folder_is_written_over_and_readable(folder: Path) -> None:
    other = network_of(SPECS["own"], seed=1)
    save_model(folder, other, SPECS["own"])
    found = load_model(folder)[0].state_dict()
    assert all(torch.equal(found[key], value.half()) for key, value in other.state_dict().items())
    assert stat.S_IMODE((folder / SAFETENSORS).stat().st_mode) & 0o444 == 0o444


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
    """A folder with every field that diffusers writes gives the prediction of diffusers' scheduler."""
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
    """Old files of the Hub rely on the defaults of the class name, the prediction type and clip_sample."""
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


# Fields of diffusers that are refused if they would change the output, and fields that matter only in training, in a
# pipeline of diffusers or in a sampler of diffusers.
REFUSED = {"act_fn", "class_embed_type", "mid_block_type", "num_class_embeds", "time_embedding_type"}
WITHOUT_EFFECT = {"dropout", "num_train_timesteps"}
SAMPLER_FIELDS = {"dynamic_thresholding_ratio", "set_alpha_to_one", "steps_offset", "timestep_spacing"}


def test_every_field_of_diffusers_is_known_or_refused_or_changes_nothing(diffusers: ModuleType) -> None:
    """Every field of diffusers is handled; the test fails when a later version adds a field."""
    with torch.device("meta"):
        network = diffusers.UNet2DModel()
    named = {name for name in network.config if not name.startswith("_")}
    assert named <= {*UNetConfig.__dataclass_fields__, "sample_size", *REFUSED, *WITHOUT_EFFECT}
    known = {*SCHEDULE_INTEGERS, *SCHEDULE_NUMBERS, *SCHEDULE_FLAGS, "beta_schedule", "trained_betas"}
    for kind in (diffusers.DDPMScheduler, diffusers.DDIMScheduler):
        named = {name for name in kind().config if not name.startswith("_")}
        assert named <= {*known, "prediction_type", "variance_type", *SAMPLER_FIELDS}


@pytest.mark.parametrize(
    "fields",
    [{"act_fn": "swish"}, {"dropout": 0.5}, {"num_train_timesteps": 4000}, {"mid_block_type": "UNetMidBlock2D"}],
    ids=str,
)
@torch.no_grad()
def test_fields_that_change_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    save_model(tmp_path, network_of(SPECS["hub"]), SPECS["hub"], torch.float32)
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([3.0])
    before, spec = load_model(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({**json.loads((tmp_path / CONFIG).read_text()), **fields}))
    after, same = load_model(tmp_path)
    assert torch.equal(after.eval()(x, t), before.eval()(x, t)) and spec == same


def test_code_that_lies_beside_a_model_is_never_run(folder: Path) -> None:
    """The fields that make transformers and diffusers import code from a repository have no effect."""
    (folder / "modeling.py").write_text(f"open({str(folder / 'trap')!r}, 'w')")
    code_fields = {"auto_map": {"AutoModel": "modeling.Model"}, "_name_or_path": "../..", "custom_pipeline": "modeling"}
    (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **code_fields}))
    assert load_model(folder)[1] == SPECS["own"] and not (folder / "trap").exists()


def test_a_learned_variance_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The variance type counts only if the network has output channels for a learned variance."""
    for name, refused in (("hub", True), ("own", False)):
        folder = tmp_path / name
        save_model(folder, network_of(SPECS[name]), SPECS[name])
        content = json.loads((folder / SCHEDULER).read_text())
        (folder / SCHEDULER).write_text(json.dumps({**content, "variance_type": "learned"}))
        if refused:
            with pytest.raises(ModelError, match="variance_type learned"):
                load_model(folder)
        else:
            assert load_model(folder)[1] == SPECS[name]
