"""Replay serves: a PyTorch that refuses to record, warns about it, or answers by itself again fails these tests.

Replay uses interfaces that PyTorch does not promise. Without these tests a new version could switch it off in silence,
and nothing but the time would show it.
"""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from fast_networks import GUIDED, ONE_HEAD, PLAIN, RESIDUAL

from restorer.diffusion.schedule import Schedule
from restorer.models.checkpoints import load_model
from restorer.models.load import weights_folder
from restorer.networks import NetworkConfig
from restorer.networks.fast.replay import HAS_INTERPRETER, RECORD_AFTER, Replayed
from restorer.priors.unet_prior import ModelSpec, UNetPrior


def evaluations_in_python(prior: UNetPrior, count: int) -> int:
    """Return in how many of `count` evaluations Python code of the network ran."""
    calls: list[object] = []
    prior.network.conv_in.register_forward_hook(lambda *_: calls.append(None))
    x = torch.zeros(1, prior.channels, 32, 32)
    for step in range(count):
        prior.predict(x, 0.1 + 0.01 * step)
    return len(calls)


def test_pytorch_has_the_interpreter() -> None:
    assert HAS_INTERPRETER


@pytest.mark.parametrize("config", [PLAIN, ONE_HEAD, GUIDED, RESIDUAL], ids=["UNet", "one head", "guided", "residual"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_of_network_is_replayed_without_a_warning(config: NetworkConfig, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    patch = 2 if config.in_channels == 12 else 1
    prior = UNetPrior(config.build(), ModelSpec(config, Schedule(), patch_size=patch), dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_python = evaluations_in_python(prior, RECORD_AFTER + 4)
    assert isinstance(prior._answer, Replayed) and prior._answer.works
    assert in_python == RECORD_AFTER + 1  # the last of them was recorded


def test_the_embedded_prior_is_replayed() -> None:
    """The prior is a fresh one: `load_prior` remembers priors, which other tests may have asked for other shapes."""
    prior = UNetPrior(*load_model(weights_folder()))
    assert evaluations_in_python(prior, RECORD_AFTER + 4) == RECORD_AFTER + 1


def test_a_process_that_replays_prints_nothing() -> None:
    """Warnings of PyTorch's own code go to the standard error, past Python's filters."""
    script = (
        "import torch; from restorer.models.load import load_prior; from restorer.networks.fast.replay import *\n"
        "prior, x = load_prior('photo', 'cpu', 'fp32'), torch.zeros(1, 3, 16, 16)\n"
        "for _ in range(RECORD_AFTER + 3): prior.predict(x, 0.2)\n"
        "assert prior._answer.works and prior._answer._recording is not None\n"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
