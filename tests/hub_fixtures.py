"""Fixtures for the tests of models: a tiny model, a loopback Hub that serves it to the client, and the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import pytest
import torch
from hub_server import Hub, loopback_only, serving
from huggingface_hub import constants
from safetensors.torch import load_file

from restorer.cli.app import run
from restorer.diffusion.schedule import Schedule
from restorer.models.checkpoints import save_model
from restorer.models.hub import download
from restorer.networks.unet import UNetConfig
from restorer.priors.unet_prior import ModelSpec

TINY = ModelSpec(
    UNetConfig(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    ),
    Schedule("linear"),
)
PICKLED = "diffusion_pytorch_model.bin"


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a tiny model in diffusers' layout, with its weights in both formats."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    save_model(folder, TINY.network.build(), TINY, torch.float32)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    pickled = io.BytesIO()
    torch.save(load_file(folder / "diffusion_pytorch_model.safetensors"), pickled)
    return {**files, PICKLED: pickled.getvalue(), "README.md": b"# tiny", "run.py": b"raise SystemExit"}


def client_constants(hub: Hub, folder: Path) -> dict[str, Any]:
    """Return the constants of the client with which it asks a Hub, and keeps everything in a folder."""
    return {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_STORED_TOKENS_PATH": str(folder / "tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DOWNLOAD_TIMEOUT": 0.5,
        "HF_HUB_ETAG_TIMEOUT": 0.5,
    }


@pytest.fixture
def hub(model_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve the tiny model as org/model to the client, with an empty cache and without any other network."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    loopback_only(monkeypatch.setattr)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits up to 23 s between attempts
    with serving(Hub(dict(model_files))) as hub:
        for name, value in client_constants(hub, tmp_path).items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(download, "_fetched", {})
        huggingface_hub.close_session()
        yield hub
        huggingface_hub.close_session()


class Outcome(NamedTuple):
    """The exit code and the output of one command."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


Restore = Callable[..., Outcome]


@pytest.fixture
def restore(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restore:
    """Return a function that runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("RESTORER_DEBUG", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        return Outcome(code, *capsys.readouterr())

    return call
