"""What the tests of the networks for first answers share: a small prior, and photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.diffusion.schedule import Schedule
from restorer.machine.torchvision import import_torchvision
from restorer.models.checkpoints import save_model
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.priors.unet_prior import ModelSpec
from restorer.training.classifier import Classifier

SPEC = ModelSpec(
    ResidualUNetConfig(12, 12, (8, 16), 1), Schedule("squaredcos_cap_v2"), "v_prediction", patch_size=2, mirrors=True
)
PHOTOGRAPHS = Path(__file__).parents[1] / "images"


@pytest.fixture(scope="module")
def prior_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("prior")
    save_model(folder, SPEC.network.build(), SPEC)
    return folder


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [np.asarray(Image.open(PHOTOGRAPHS / f"{name}.jpg").convert("RGB")) for name in ("gates", "grapes")]


@pytest.fixture(scope="module")
def mobilenet():
    """MobileNetV2 of torchvision with random weights and normalizations."""
    import_torchvision()
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    network = mobilenet_v2(weights=None).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return network


def _published_names(mobilenet) -> dict[str, torch.Tensor]:
    """Return its weights by the names of the published file, whose blocks are lists without inner groups."""
    weights = {}
    for i, block in enumerate(mobilenet.features):
        layers = [m for m in block.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
        for j, layer in enumerate(layers):
            place = 3 * (j // 2) + j % 2  # convolution, normalization, ReLU6
            prefix = f"features.{i}.{place}" if i in (0, 18) else f"features.{i}.conv.{place}"
            weights.update({f"{prefix}.{name}": value for name, value in layer.state_dict().items()})
    return weights


@pytest.fixture
def classifier(mobilenet) -> Classifier:
    """The classifier of trainings with the same weights."""
    return Classifier(_published_names(mobilenet))
