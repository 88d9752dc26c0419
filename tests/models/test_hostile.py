"""Broken and hostile models end with one clear message, exit code 5 and no leftover files.

`make test-hub-min` runs this file with the oldest client that is allowed.
"""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_answers import SERVER, Setup
from hub_broken import (
    CONFIG,
    INDEX,
    SCHEDULER,
    WEIGHT_FILES,
    WEIGHTS,
    Break,
    fields,
    guided,
    rename_file,
    replace_by_folder,
    shards,
    write_file,
)
from hub_fixtures import Outcome, Restore, hub, model_files, restore  # noqa: F401
from hub_server import COMMIT, Hub
from huggingface_hub import constants
from PIL import Image

from restorer.models.load import find_model, weights_sha256

PINNED = f"org/model@{COMMIT}"


def assert_refused(done: Outcome, pattern: str) -> None:
    """Check for exit code 5, one line with the reason and at most one hint, all without control characters."""
    lines = [line for line in done.err.splitlines() if not line.startswith("download org/")]
    assert done.code == 5 and done.out == "", done
    assert [line.partition(": ")[0] for line in lines] in (["error"], ["error", "hint"]), done.err
    assert all(line.isprintable() and len(line) < 700 for line in lines) and "Traceback" not in done.err
    assert re.search(pattern, lines[0]), lines[0]


# -- files -------------------------------------------------------------------------------------------------------------

GARBAGE = {
    "empty": b"",
    "cut": b"{",
    "text": b"not json",
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"3",
    "no utf-8": b"\xff\xfe\x00",
    "huge": b" " * 70_000 + b"{}",
    "deep": b"[" * 60_000,
    "100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of 60,000 digits": b'{"in_channels": ' + b"9" * 60_000 + b"}",
}
# Fields of config.json with values that no network has, and a part of the expected message.
NETWORKS: list[tuple[dict[str, Any], str]] = [
    *(({"_class_name": name}, pattern) for name, pattern in (
        ("UNet2DConditionModel", "text-conditional"), ("UNetUnconditionalModel", "newer revision"),
        ("DiTTransformer2DModel", "'DiTTransformer2DModel' is not one of"), (["UNet2DModel"], "is not one of"),
        ({"a": 1}, "is not one of"), ("\x1b[31mred\nline\u202e[bold]", r"x1b\[31mred\\nline"),
    )),
    ({"num_class_embeds": 1000}, "class-conditional"),
    ({"class_embed_type": "timestep"}, "class-conditional"),
    *(({name: value}, rf"{name} {value} is not supported") for name, value in (
        ("time_embedding_type", "learned"), ("act_fn", "mish"), ("mid_block_type", None),
    )),
    ({"time_embedding_type": "fourier"}, r"VE\), not a DDPM"),
    ({"down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"]}, r"VE\), not a DDPM"),
    ({"down_block_types": ["CrossAttnDownBlock2D"] * 2}, "text-conditional"),
    ({"cross_attention_dim": 768}, "text-conditional"),
    ({"act_fn": ["silu"]}, "act_fn"),
    ({"down_block_types": ["ResnetDownsampleBlock2D"] * 2}, f"{WEIGHTS} does not fit"),
    *(({"down_block_types": kinds}, "must be a list of names") for kinds in ("DownBlock2D", [["DownBlock2D"]] * 2, 3)),
    *(({"block_out_channels": widths}, "must be a list of whole numbers") for widths in (
        8, None, ["8", "16"], [8.5, 16], [True, 16], {"a": 1}, [[8], [16]],
    )),
    *(({"block_out_channels": widths}, "larger than any") for widths in ([-8, -16], [8, 4096], [8, 2**60])),
    *(({"block_out_channels": widths}, "differ in length") for widths in ([], [8, 16, 32], [8] * 20_000)),
    ({"block_out_channels": [9, 16]}, "multiple of norm_num_groups"),
    ({
        "block_out_channels": [2048] * 8, "layers_per_block": 6,
        "down_block_types": ["AttnDownBlock2D"] * 8, "up_block_types": ["AttnUpBlock2D"] * 8,
    }, "more than 1,500,000,000 parameters"),
    *(({name: value}, f"{name} must lie between .*, not") for name, values in {
        "norm_num_groups": (None, 0, -4), "attn_norm_num_groups": (0,), "layers_per_block": (10**6, "1", [1]),
        "in_channels": ("3", 3 * 4**15, -3, 10**4000), "out_channels": (0,), "patch_size": ("2", None, 0, -2, 1.0),
        "norm_eps": ("x", math.nan, -1e-5, math.inf), "mid_block_scale_factor": (0, "2"), "downsample_padding": (7,),
        "freq_shift": ("a", 4),  # half of the width, which divides by zero and makes every feature nan
        "attention_head_dim": (True,),
    }.items() for value in values),
    ({"flip_sin_to_cos": "false"}, "flip_sin_to_cos must be true or false, not 'false'"),
    ({"add_attention": 0}, "add_attention must be true or false, not 0"),
    ({"resnet_time_scale_shift": "ada_group"}, "unknown resnet_time_scale_shift 'ada_group'"),
    ({"downsample_type": "fir"}, "unknown downsample_type 'fir'"),
    ({"in_channels": 7}, "out_channels must be in_channels"),
    ({"out_channels": 13}, "out_channels must be in_channels"),
    ({"patch_size": 5}, "patch_size"),
    ({"attention_head_dim": 3, "add_attention": True}, "attention_head_dim 3 does not divide"),
    *(({"sample_size": side, "add_attention": True}, "sample_size must lie between 1 and 8192, not")
      for side in ("64", -64, [[64]], 10**9)),
    *((other, f"{WEIGHTS} does not fit") for other in (
        {"block_out_channels": [16, 16]}, {"block_out_channels": [8, 2048]}, {"layers_per_block": 2},
        {"add_attention": True},
    )),
    *(({"mirrors": value}, "mirrors") for value in ("yes", 1, None)),
]  # fmt: skip
SCHEDULES: list[tuple[dict[str, Any], str]] = [
    *(({"_class_name": name}, pattern) for name, pattern in (
        ("ScoreSdeVeScheduler", r"VE\), not a DDPM"), ("KarrasVeScheduler", r"VE\), not a DDPM"),
        ("CMStochasticIterativeScheduler", "consistency"), ("EDMEulerScheduler", "EDM"),
        ("FlowMatchEulerDiscreteScheduler", "flow-matching"), ("GaussianDDPMScheduler", "newer revision"),
        (["DDPMScheduler"], "is not known"), ("SomethingElse", "'SomethingElse' is not known"),
    )),
    ({"use_flow_sigmas": True}, "flow-matching"),
    ({"timestep_type": "continuous"}, "EDM"),
    *(({"beta_schedule": name}, "unknown beta schedule") for name in ("sigmoid", "laplace", "exp", None, ["linear"])),
    *(({name: value, "beta_schedule": "linear"}, f"{name} must lie between .*, not") for name, values in {
        "num_train_timesteps": (0, "1000", 1000.0, 10**13), "beta_start": (-1.0,), "beta_end": (1.5, math.nan, None),
    }.items() for value in values),
    *(({"prediction_type": name}, "unknown prediction_type") for name in ("flow", None, ["epsilon"])),
    *(({"trained_betas": betas, "num_train_timesteps": 2}, "bet") for betas in (
        [0.1] * 3, "linear", [0.1, 1.5], [0.1, math.nan], [0.1, "0.2"], [[0.1], [0.2]],
    )),
    ({"rescale_betas_zero_snr": True}, "noise alone"),
    *(({name: value}, name) for name, value in (
        ("rescale_betas_zero_snr", "no"), ("clip_sample", "false"), ("clip_sample_range", 2.0),
    )),
    ({"thresholding": True, "sample_max_value": 1.5}, "sample_max_value"),
]  # fmt: skip
PIPELINES: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "ScoreSdeVePipeline"}, r"VE\), not a DDPM"),
    ({"_class_name": "KarrasVePipeline"}, r"VE\), not a DDPM"),
    ({"_class_name": "ConsistencyModelPipeline"}, "consistency"),
    ({"_class_name": "StableDiffusionPipeline"}, "text-conditional"),
    ({"_class_name": "MyPipeline", "text_encoder": ["transformers", "CLIPTextModel"]}, "text-conditional"),
]
FILES: dict[str, tuple[Break, str]] = {
    **{
        f"{name}: {kind}": (write_file(name, content), name)
        for name in (CONFIG, SCHEDULER, INDEX)
        for kind, content in GARBAGE.items()
    },
    **{
        f"{name}: {new}"[:90]: (fields(name, **new), pattern)
        for name, table in ((CONFIG, NETWORKS), (SCHEDULER, SCHEDULES), (INDEX, PIPELINES))
        for new, pattern in table
    },
    **{f"no {name}": (rename_file(name, "elsewhere"), f"{name} is missing") for name in (CONFIG, SCHEDULER, WEIGHTS)},
    **{f"a folder for {name}": (replace_by_folder(name), name) for name in (CONFIG, SCHEDULER, WEIGHTS)},
    "shards that lead out": (shards, f"{WEIGHTS} is missing"),
    "no model at all": (lambda folder: folder / "nowhere", "there is no model"),
    "options 100,000 deep": (guided({}, GARBAGE["100,000 deep"]), "model.pt.json is larger"),
    "options that are a list": (guided({}, b"[]"), "model.pt.json is not a JSON object"),
    **WEIGHT_FILES,
}


def broken(folder: Path, good: dict[str, bytes], change: Break) -> Path:
    """Write a good model folder, break it, and return the path of the model to load."""
    folder.mkdir()
    for name in (CONFIG, SCHEDULER, WEIGHTS):
        (folder / name).write_bytes(good[name])
    found = change(folder)
    return found if isinstance(found, Path) else folder


@pytest.mark.parametrize(("change", "pattern"), FILES.values(), ids=FILES)
@pytest.mark.filterwarnings("ignore")
def test_files(restore: Restore, model_files: dict[str, bytes], tmp_path: Path, change: Break, pattern: str) -> None:  # noqa: F811
    Image.new("RGB", (16, 16)).save("small.png")
    model = broken(tmp_path / "model", model_files, change)
    assert_refused(restore("denoise", "small.png", "--model", model), pattern)
    assert not (tmp_path / "model" / "trap").exists() and not list(tmp_path.glob("small_*"))


PROGRAM = """
import pathlib, resource, sys
import torch
from restorer.cli.app import run

def peak_memory():
    # On Linux, ru_maxrss includes the memory of the parent before exec; VmHWM counts only this program.
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak_memory()
codes = [run(["denoise", "small.png", "--model", model]) for model in sys.stdin.read().split("\\0")]
print(codes.count(5), len(codes), peak_memory() - before)
"""


@pytest.mark.filterwarnings("ignore")
def test_refusing_takes_little_memory(model_files: dict[str, bytes], tmp_path: Path) -> None:  # noqa: F811
    """Refusing all models in one process never takes more than 1 GB above the memory of PyTorch itself."""
    Image.new("RGB", (16, 16)).save(tmp_path / "small.png")
    models = [broken(tmp_path / str(k), model_files, change) for k, (change, _) in enumerate(FILES.values())]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="\0".join(map(str, models)), cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    refused, total, growth = map(int, run.stdout.split())
    assert refused == total == len(FILES) and growth < 1e9
    assert run.stderr.count("error: ") == total and "Traceback" not in run.stderr


# -- answers of a server -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setup", "pattern"), SERVER.values(), ids=SERVER)
def test_answers(hub: Hub, restore: Restore, tmp_path: Path, setup: Setup, pattern: str) -> None:  # noqa: F811
    Image.new("RGB", (16, 16)).save("small.png")
    good = dict(hub.files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
        setup(hub, patch)
        assert_refused(restore("denoise", "small.png", "--model", PINNED), pattern)
    hub.forget()
    hub.faults.clear()
    with pytest.MonkeyPatch.context() as patch:  # no leftover file in the cache may serve as a model
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        for name in (PINNED, "org/model"):
            assert_refused(restore("denoise", "small.png", "--model", name), "")
    assert hub.log == [] and not (tmp_path / "trap").exists()
    kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert not [name for name in kept if "incomplete" in name or "evil" in name or name.startswith("small_")]
    if hub.files == good:
        assert weights_sha256(find_model(PINNED)) == hashlib.sha256(good[WEIGHTS]).hexdigest()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("org/other", "no such repository"),
        ("org/model@v7", "no such revision"),
        (f"{PINNED}:nothing.pt", "no such file"),
        (f"{PINNED}:../x.pt", "does not name a file of a repository"),
        (f"{PINNED}:x\x1b[2J.pt", "does not name a file of a repository"),
        ("org/mo--del", "not a repository"),
        ("\x1b[2Jmodel", "there is no model"),
    ],
)
def test_names(hub: Hub, restore: Restore, name: str, pattern: str) -> None:  # noqa: F811
    Image.new("RGB", (16, 16)).save("small.png")
    assert_refused(restore("denoise", "small.png", "--model", name), pattern)
