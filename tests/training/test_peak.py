"""The share of a GPU's peak: the operations of a network, the peaks of GPUs, and the share that is reported."""

from __future__ import annotations

import pytest
import torch

from restorer.diffusion.schedule import Schedule
from restorer.models.checkpoints import load_model
from restorer.models.load import weights_folder
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.priors.unet_prior import ModelSpec
from restorer.training.meter import Meter
from restorer.training.peak import count_forward, peak_of, peak_rate
from restorer.training.recipe import Recipe


def test_operations_of_a_small_network() -> None:
    """Products of all convolutions and linear layers, written down by hand; a product and its addition are two."""
    spec = ModelSpec(ResidualUNetConfig(12, 12, (8,)), Schedule(), "epsilon", patch_size=2)
    pixels = 16 * 16
    convolutions = 9 * pixels * (12 * 8 + 3 * 2 * 8 * 8 + 8 * 12)  # of the ends, and two of each of three blocks
    time = 8 * 32 + 32 * 32 + 3 * 32 * 16
    assert count_forward(spec, 32) == 2 * (convolutions + time)


def test_operations_of_the_embedded_network() -> None:
    """The figure of the model card, for an evaluation of 256x256."""
    spec = load_model(weights_folder())[1]
    assert count_forward(spec, 256) == pytest.approx(22e9, rel=0.03)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 2080 Ti", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_the_peak_of_known_gpus(name: str, peak: float | None) -> None:
    assert peak_of(name, torch.bfloat16) == peak
    assert peak_of(name, torch.float32) is None


def test_the_share_is_one_at_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(ResidualUNetConfig(12, 12, (8,)), Schedule(), "epsilon", patch_size=2)
    assert peak_rate(spec, 32, torch.device("cpu"), torch.bfloat16, 1) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    rate = peak_rate(spec, 32, torch.device("cuda"), torch.bfloat16, 2)
    assert rate is not None and rate * 3 * count_forward(spec, 32) == pytest.approx(2 * 312e12)
    meter = Meter(torch.device("cpu"), 0, peak=50.0)
    monkeypatch.setattr("time.monotonic", lambda: meter._start + 4.0)
    progress = meter.report(10, Recipe(batch=8, accumulate=2))  # 160 crops in 4 seconds
    assert progress.rate == pytest.approx(40) and progress.peak_share == pytest.approx(0.8)
    assert Meter(torch.device("cpu"), 0).report(1, Recipe()).peak_share is None
