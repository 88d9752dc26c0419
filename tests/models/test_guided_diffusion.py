"""Files of guided-diffusion, made from diffusers' networks by the reverse conversion, give the same output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from shapes import GUIDED, SIX, blocks, theirs_of
from torch import Tensor, nn

from restorer.diffusion.schedule import Schedule
from restorer.errors import ModelError
from restorer.models.checkpoints import load_model, save_model
from restorer.models.guided_diffusion import PUBLISHED, convert, split_qkv, unet_config
from restorer.networks.unet import UNet, UNetConfig
from restorer.priors.unet_prior import UNetPrior

ADM: dict[str, Any] = {**blocks(32, (1, 2, 2), (1, 2), resnets=True), **GUIDED, "attention_head_dim": 16}
CONV: dict[str, Any] = {**ADM, **blocks(32, (1, 2, 2), (1, 2)), "downsample_type": "conv", "upsample_type": "conv"}
# ffhq_10m has one resnet per level, and attention at one level before the last.
FFHQ: dict[str, Any] = {**ADM, **blocks(32, (1, 1, 2, 3), (2,), resnets=True), "layers_per_block": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "adm": ADM,
    "ffhq_10m": FFHQ,
    "convolutions change the size": CONV,
    "no scale and shift": {**CONV, "resnet_time_scale_shift": "default", "out_channels": 3},
    "resnets, no scale and shift": {**ADM, "resnet_time_scale_shift": "default"},
    "only the middle attends": {**FFHQ, **blocks(32, (1, 1, 2, 3), (), resnets=True)},
    # With a single level no size changes, so the weights do not show whether resnets or convolutions would change it.
    "one level": {**CONV, **blocks(32, (1,), ())},
    "gray": {**CONV, "in_channels": 1, "out_channels": 2},
}


def joint_qkv(parts: list[Tensor], heads: int, new_order: bool) -> Tensor:
    """Join the weights of queries, keys and values, one kind after another or by head (the older order)."""
    if new_order:
        return torch.cat(parts)
    rows = [part.chunk(heads) for part in parts]
    return torch.cat([rows[kind][head] for head in range(heads) for kind in range(3)])


def raw_file(network: nn.Module, *, new_order: bool = False) -> dict[str, Tensor]:
    """Return the weights of a network under guided-diffusion's names, in the order of its constructor."""
    state: dict[str, Tensor] = {}
    source = network.state_dict()

    def copy(old: str, new: str, shape: tuple[int, ...] = ()) -> None:
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in source:
                value = source[f"{old}.{kind}"]
                state[f"{new}.{kind}"] = value[..., None] if shape and kind == "weight" else value

    def resnet(old: str, new: str) -> None:
        for a, b in (
            ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
            ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
        ):  # fmt: skip
            copy(f"{old}.{a}", f"{new}.{b}")

    def attention(module: Any, old: str, new: str) -> None:
        copy(f"{old}.group_norm", f"{new}.norm")
        copy(f"{old}.to_out.0", f"{new}.proj_out", (1,))
        count = module.heads if hasattr(module, "heads") else module.to_q.in_features // module.head_dim
        for kind in ("weight", "bias"):
            parts = [source[f"{old}.to_{letter}.{kind}"] for letter in "qkv"]
            value = joint_qkv(parts, count, new_order)
            state[f"{new}.qkv.{kind}"] = value[..., None] if kind == "weight" else value

    def sampler(old: str, new: str, name: str) -> None:
        if f"{old}.conv.weight" in source:
            copy(f"{old}.conv", f"{new}.{name}")
        else:
            resnet(old, new)

    copy("time_embedding.linear_1", "time_embed.0")
    copy("time_embedding.linear_2", "time_embed.2")
    copy("conv_in", "input_blocks.0.0")
    k = 1
    for i, block in enumerate(network.down_blocks):  # type: ignore[arg-type, union-attr]
        for j in range(len(block.resnets)):
            resnet(f"down_blocks.{i}.resnets.{j}", f"input_blocks.{k}.0")
            if getattr(block, "attentions", None):
                attention(block.attentions[j], f"down_blocks.{i}.attentions.{j}", f"input_blocks.{k}.1")
            k += 1
        if block.downsamplers:
            sampler(f"down_blocks.{i}.downsamplers.0", f"input_blocks.{k}.0", "op")
            k += 1
    resnet("mid_block.resnets.0", "middle_block.0")
    attention(network.mid_block.attentions[0], "mid_block.attentions.0", "middle_block.1")  # type: ignore[union-attr, index]
    resnet("mid_block.resnets.1", "middle_block.2")
    k = 0
    for i, block in enumerate(network.up_blocks):  # type: ignore[arg-type, union-attr]
        for j in range(len(block.resnets)):
            resnet(f"up_blocks.{i}.resnets.{j}", f"output_blocks.{k}.0")
            place = 1
            if getattr(block, "attentions", None):
                attention(block.attentions[j], f"up_blocks.{i}.attentions.{j}", f"output_blocks.{k}.1")
                place = 2
            if j == len(block.resnets) - 1 and block.upsamplers:
                sampler(f"up_blocks.{i}.upsamplers.0", f"output_blocks.{k}.{place}", "conv")
            k += 1
    copy("conv_norm_out", "out.0")
    copy("conv_out", "out.2")
    assert sum(v.numel() for v in state.values()) == sum(v.numel() for v in source.values())
    return state


def write_file(folder: Path, state: Mapping[str, Any], **options: Any) -> Path:
    path = folder / "model.pt"
    torch.save(dict(state), path)
    if options:
        (folder / "model.pt.json").write_text(json.dumps(options))
    return path


def inputs(channels: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, channels, 16, 24, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([10.0, 731.0])


@torch.no_grad()
def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    x, t = inputs(theirs.config.in_channels)
    expected = theirs(x, t).sample
    assert float(expected.std()) > 1e-2
    assert torch.equal(ours.eval()(x, t), expected)


@pytest.mark.parametrize("new_order", [False, True], ids=["by head", "new order"])
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_a_raw_file_is_the_network_it_was_made_from(
    diffusers: ModuleType, tmp_path: Path, fields: dict[str, Any], new_order: bool
) -> None:
    theirs = theirs_of(diffusers, fields)
    options = {"num_head_channels": 16, "use_new_attention_order": new_order, "num_heads": 4}  # the last is ignored
    network, spec = load_model(write_file(tmp_path, raw_file(theirs, new_order=new_order), **options))
    assert_same(network, theirs)
    for name, value in fields.items():
        assert getattr(spec.network, name) == value, name
    assert (spec.schedule, spec.prediction_type, spec.clip) == (Schedule("linear"), "epsilon", True)
    assert spec.native_size == 8 * 2 ** (len(fields["block_out_channels"]) - 1)


@torch.no_grad()
def test_what_is_not_in_the_weights_changes_the_picture(diffusers: ModuleType, tmp_path: Path) -> None:
    """A wrong order or number of heads loads without complaint, but changes the output."""
    state, (x, t) = raw_file(theirs_of(diffusers, ADM)), inputs()
    right = load_model(write_file(tmp_path, state, num_head_channels=16))[0](x, t)
    for wrong in ({"num_head_channels": 32}, {"num_head_channels": 16, "use_new_attention_order": True}):
        found = load_model(write_file(tmp_path, state, **wrong))[0](x, t)
        assert float((found - right).abs().max()) > 1e-3


@pytest.mark.parametrize("fields", [ADM, FFHQ], ids=["two widths", "the last width too"])
def test_as_many_heads_at_every_width(diffusers: ModuleType, tmp_path: Path, fields: dict[str, Any]) -> None:
    """By default, guided-diffusion uses num_heads, with num_head_channels -1."""
    theirs = theirs_of(
        diffusers, {**fields, "block_out_channels": (32, 32, 64, 96)[: len(fields["block_out_channels"])]}
    )
    for module in theirs.modules():
        if hasattr(module, "to_q"):
            module.heads = 4
    path = write_file(tmp_path, raw_file(theirs), num_heads=4, num_head_channels=-1)
    network, spec = load_model(path)
    assert_same(network, theirs)
    assert spec.network.attention_heads == 4  # type: ignore[union-attr]
    save_model(tmp_path / "folder", network, spec, torch.float32)
    again, same = load_model(tmp_path / "folder")
    assert_same(again, theirs)
    assert same == spec


def test_one_width_with_heads_is_said_as_diffusers_does(diffusers: ModuleType, tmp_path: Path) -> None:
    theirs = theirs_of(diffusers, ADM)
    network, spec = load_model(write_file(tmp_path, raw_file(theirs), num_heads=4))
    assert spec.network.attention_head_dim == 16 and spec.network.attention_heads is None  # type: ignore[union-attr]
    assert_same(network, theirs)


def test_a_first_level_of_half_the_channels(diffusers: ModuleType, tmp_path: Path) -> None:
    """With channel_mult 0.5, 1, ... (512 pixels), the timestep has as many features as a level with multiple 1."""
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps

    theirs = theirs_of(diffusers, {**FFHQ, "time_embedding_dim": 256})
    theirs.time_proj, theirs.time_embedding = Timesteps(64, True, 0), TimestepEmbedding(64, 256)
    network, spec = load_model(write_file(tmp_path, raw_file(theirs), num_head_channels=16, num_channels=64))
    assert (spec.network.time_features, spec.network.time_embedding_dim) == (64, 256)  # type: ignore[union-attr]
    assert_same(network, theirs)


def test_the_order_of_joint_weights() -> None:
    """Two heads have two features each; the rows are numbered 10 h + 100 kind + feature."""
    row = {(h, kind, f): 10 * h + 100 * kind + f for h in range(2) for kind in range(3) for f in range(2)}
    by_head = [row[h, kind, f] for h in range(2) for kind in range(3) for f in range(2)]
    new = [row[h, kind, f] for kind in range(3) for h in range(2) for f in range(2)]
    expected = [[100 * kind + v for v in (0, 1, 10, 11)] for kind in range(3)]
    for order, flag in ((by_head, True), (new, False)):
        for shape in ((12,), (12, 1)):
            parts = split_qkv(torch.tensor(order).view(shape), 2, by_head=flag)
            assert [part.flatten().tolist() for part in parts] == expected
    with pytest.raises(ValueError):
        split_qkv(torch.zeros(12), 5, by_head=True)


# -- published networks ------------------------------------------------------------------------------------------------


def on_meta(mult: tuple[float, ...], channels: int, layers: int, attends: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the weights file of a published network without its numbers; `attends` lists the levels with attention."""
    time = {"time_embedding_dim": 4 * channels, "time_features": channels, "layers_per_block": layers}
    with torch.device("meta"):
        return raw_file(UNet(UNetConfig(**{**blocks(channels, mult, attends, resnets=True), **GUIDED, **time})))


@pytest.mark.parametrize(
    ("shape", "parameters", "size"),
    [
        ((SIX, 256, 2, (3, 4, 5)), 552_814_086, 256),
        ((SIX, 128, 1, (4,)), 93_563_910, 256),
        (((0.5, 1, 1, 2, 2, 4, 4), 256, 2, (4, 5, 6)), 557_973_638, 512),
    ],
    ids=["ADM-256", "ffhq_10m", "ADM-512"],
)
def test_published_networks_need_no_options(
    caplog: pytest.LogCaptureFixture, shape: tuple[Any, ...], parameters: int, size: int
) -> None:
    state = on_meta(*shape)
    assert sum(v.numel() for v in state.values()) == parameters and PUBLISHED[parameters]["image_size"] == size
    spec, renamed = convert(Path("x.pt"), state, None)
    with torch.device("meta"):
        expected = {k: v.shape for k, v in spec.network.build().state_dict().items()}
    assert {k: v.shape for k, v in renamed.items()} == expected
    assert spec.native_size == size and spec.network.attention_head_dim == 64  # type: ignore[union-attr]
    assert not caplog.records


def test_of_an_unknown_network_it_says_what_it_takes_for_granted(
    diffusers: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {**FFHQ, "block_out_channels": (32, 32, 64, 64), "attention_head_dim": 64}
    theirs = theirs_of(diffusers, fields)
    network, spec = load_model(write_file(tmp_path, raw_file(theirs)))
    assert_same(network, theirs)
    (record,) = caplog.records
    message = record.getMessage()
    assert "num_head_channels" in message and "use_new_attention_order" in message and "\n" not in message
    assert spec.native_size == 64


# -- the JSON file beside the weights ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(diffusers: ModuleType) -> dict[str, Tensor]:
    return raw_file(theirs_of(diffusers, ADM))


@pytest.mark.parametrize("name", ["model.pt.json", "model.json"])
def test_options_beside_the_file(tmp_path: Path, small: dict[str, Tensor], name: str) -> None:
    path = write_file(tmp_path, small)
    content = {
        "num_head_channels": 16, "image_size": 96, "noise_schedule": "cosine", "diffusion_steps": 500,
        "predict_xstart": True, "num_channels": 32, "num_res_blocks": 2, "learn_sigma": True, "class_cond": False,
        "use_scale_shift_norm": True, "resblock_updown": True, "channel_mult": "1,2,2", "use_fp16": False,
    }  # fmt: skip
    (tmp_path / name).write_text(json.dumps(content))
    spec = load_model(path)[1]
    assert spec.schedule == Schedule("squaredcos_cap_v2", 500)
    assert (spec.prediction_type, spec.native_size) == ("sample", 96)


def test_the_linear_schedule_keeps_its_noise_at_any_number_of_steps(tmp_path: Path, small: dict[str, Tensor]) -> None:
    """guided-diffusion divides both betas by T / 1000; otherwise 4000 steps would end in far more noise."""
    spec = load_model(write_file(tmp_path, small, num_head_channels=16, diffusion_steps=4000))[1]
    assert spec.schedule == Schedule("linear", 4000, 2.5e-5, 5e-3)
    assert spec.schedule.sigma_max == pytest.approx(Schedule("linear").sigma_max, rel=0.05)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_head_channels": 24}, "24"),
        ({"num_head_channels": "16"}, "num_head_channels"),
        ({"num_head_channels": -1, "num_heads": 7}, "7"),
        ({"num_head_channels": -1, "num_heads": 0}, "num_heads"),
        ({"num_heads": 4, "num_heads_upsample": 8}, "num_heads_upsample"),
        ({"use_new_attention_order": "yes"}, "use_new_attention_order"),
        ({"predict_xstart": 1}, "predict_xstart"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": 10**9}, "image_size"),
        ({"noise_schedule": "sqrt"}, "sqrt"),
        ({"diffusion_steps": 10**9}, "diffusion_steps"),
        ({"diffusion_steps": 10}, "beta"),
        ({"diffusion_steps": 500, "rescale_timesteps": True}, "rescale_timesteps"),
        ({"num_head_chanels": 16}, "num_head_chanels"),
        ({"num_channels": 64}, "num_channels"),
        ({"num_res_blocks": 1}, "num_res_blocks"),
        ({"learn_sigma": False}, "learn_sigma"),
        ({"class_cond": True}, "class_cond"),
        ({"use_scale_shift_norm": False}, "use_scale_shift_norm"),
        ({"resblock_updown": False}, "resblock_updown"),
    ],
    ids=str,
)
def test_impossible_options(tmp_path: Path, small: dict[str, Tensor], options: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word) as caught:
        load_model(write_file(tmp_path, small, **{"num_head_channels": 16, **options}))
    assert "\n" not in str(caught.value) and "model.pt" in str(caught.value) and "model.pt.json" in caught.value.hint


def test_heads_that_cannot_be_guessed_are_asked_for(diffusers: ModuleType, tmp_path: Path) -> None:
    """Heads of 64 channels do not fit a middle block of 96 channels."""
    with pytest.raises(ModelError, match="does not divide") as caught:
        load_model(write_file(tmp_path, raw_file(theirs_of(diffusers, FFHQ))))
    assert "num_heads" in caught.value.hint


@pytest.mark.parametrize("wrapper", ["", "ema", "state_dict", "module"])
def test_wrapped_files(diffusers: ModuleType, tmp_path: Path, small: dict[str, Tensor], wrapper: str) -> None:
    content: Any = {f"module.{k}": v for k, v in small.items()} if wrapper == "module" else small
    if wrapper in ("ema", "state_dict"):
        content = {"step": 3, wrapper: small, "optimizer": {"lr": 0.1}}
    network, _ = load_model(write_file(tmp_path, content, num_head_channels=16))
    assert_same(network, theirs_of(diffusers, ADM))


@torch.no_grad()
def test_the_first_three_of_six_channels_are_the_noise(
    diffusers: ModuleType, tmp_path: Path, small: dict[str, Tensor]
) -> None:
    """The last three channels are the learned variance, as in diffusers' scheduler."""
    network, spec = load_model(write_file(tmp_path, small, num_head_channels=16))
    scheduler, x, t = diffusers.DDPMScheduler(variance_type="learned_range"), inputs()[0], 100
    x_t = x * scheduler.alphas_cumprod[t].sqrt()
    expected = scheduler.step(theirs_of(diffusers, ADM)(x_t, t).sample, t, x_t).pred_original_sample
    found = UNetPrior(network, spec).predict(x, float(spec.schedule.sigmas[t])).x0
    assert float((expected.abs() < 1).float().mean()) > 0.3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_sixteen_bits(tmp_path: Path, small: dict[str, Tensor]) -> None:
    network, spec = load_model(write_file(tmp_path, {k: v.half() for k, v in small.items()}, num_head_channels=16))
    assert {p.dtype for p in network.parameters()} == {torch.float16}
    prediction = UNetPrior(network, spec).predict(inputs()[0], 0.5)
    assert bool(prediction.x0.isfinite().all()) and prediction.log_variance is not None


# -- networks of another kind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"label_emb.weight": torch.zeros(1000, 128)}, "class-conditional"),
        ({"transformer.resblocks.0.attn.c_qkv.weight": torch.zeros(2, 2)}, "text-conditional"),
        ({"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}, "6 channels"),
        ({"extra.weight": torch.zeros(2)}, "extra"),
        ({"output_blocks.99.0.in_layers.2.weight": torch.zeros(2)}, "numbered"),
        ({"out.2.weight": None}, "out.2.weight"),
        ({"middle_block.1.norm.weight": None}, "mid_block.attentions.0.group_norm"),
        ({"middle_block.1.qkv.weight": torch.zeros(191, 64, 1)}, "191"),
        ({"input_blocks.1.0.in_layers.2.weight": torch.zeros(32, 31, 3, 3)}, "down_blocks.0.resnets.0.conv1"),
        ({"time_embed.0.weight": torch.zeros(4)}, "time_embed"),
        ({"input_blocks.1.0.out_layers.3.weight": torch.zeros(33, 33, 3, 3)}, "33|norm_num_groups"),
        ({"conv_in.weight": torch.full((2,), torch.nan)}, "conv_in"),
        ({"out.2.bias": torch.full((6,), torch.nan)}, "finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_networks_are_refused(
    tmp_path: Path, small: dict[str, Tensor], change: dict[str, Any], word: str
) -> None:
    state = {k: v for k, v in {**small, **change}.items() if v is not None}
    with pytest.raises(ModelError, match=word) as caught:
        load_model(write_file(tmp_path, state, num_head_channels=16))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_shape_of_no_network() -> None:
    with pytest.raises(ValueError):
        unet_config({"time_embed.0.weight": torch.zeros(8, 2), "input_blocks.0.0.weight": torch.zeros(2, 3, 3, 3)})
