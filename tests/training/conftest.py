"""What the tests of the networks for first answers share: a small prior, and photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.diffusion.schedule import Schedule
from restorer.models.checkpoints import save_model
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.priors.unet_prior import ModelSpec

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
