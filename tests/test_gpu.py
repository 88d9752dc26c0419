"""The CPU and the GPU agree on the network, the prior, the operators, whole runs and training.

The comparisons are in float32 unless a test states another precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian import GaussianPrior
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.diffusion.degradations.degradation import Degradation
from restorer.diffusion.degradations.pointwise import Identity, Mask
from restorer.diffusion.plan import Plan, make_plan
from restorer.diffusion.reverse import reverse
from restorer.diffusion.schedule import Schedule
from restorer.networks import Network, NetworkConfig
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.networks.unet import UNetConfig
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import ModelSpec, UNetPrior
from restorer.training.crops import Augmentation, Window
from restorer.training.device_crops import DeviceCutter
from restorer.training.loop import Machine, train
from restorer.training.meter import Meter
from restorer.training.recipe import Recipe
from restorer.training.step import Stepper

pytestmark = pytest.mark.gpu

CONFIG = UNetConfig(
    in_channels=12,
    out_channels=12,
    block_out_channels=(32, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    norm_num_groups=8,
)
SPEC = ModelSpec(CONFIG, Schedule("squaredcos_cap_v2"), "v_prediction", patch_size=2)


@pytest.fixture(autouse=True)
def full_float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Switch off TF32, whose ten bits of mantissa are too few for these comparisons."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    yield


def random(*shape: int, seed: int = 0) -> Tensor:
    """Draw random values in [-1, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def build_network(config: NetworkConfig = CONFIG) -> Network:
    """Build a network with random weights, always the same ones."""
    torch.manual_seed(0)
    return config.build().eval()


def make_priors(dtype: torch.dtype = torch.float32) -> tuple[UNetPrior, UNetPrior]:
    """Return the same prior on the CPU in float32, and on the GPU in the given precision."""
    return UNetPrior(build_network(), SPEC), UNetPrior(build_network(), SPEC, device="cuda", dtype=dtype)


def assert_agree(gpu: Tensor, cpu: Tensor, within: float = 1e-3) -> None:
    """Check that a result of the GPU is close to that of the CPU, relatively or absolutely."""
    assert gpu.device.type == "cuda" and gpu.dtype == cpu.dtype
    torch.testing.assert_close(gpu.cpu(), cpu, rtol=within, atol=within)


@pytest.mark.parametrize("config", [CONFIG, ResidualUNetConfig(12, 12, (32, 64, 96), 2)], ids=["plain", "residual"])
@torch.no_grad()
def test_the_network(config: NetworkConfig) -> None:
    """Both kinds of network give the same output on both devices."""
    x, t = random(2, 12, 16, 24), torch.tensor([3.5, 700.0])
    assert_agree(build_network(config).cuda()(x.cuda(), t.cuda()), build_network(config)(x, t))


@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (1, 3, 37, 5), (1, 3, 1, 1)])
def test_the_prior(shape: tuple[int, ...]) -> None:
    """The prior predicts the same picture on both devices, for one noise level and for one level per picture."""
    cpu, gpu = make_priors()
    x, sigma = random(*shape), torch.tensor([0.3, 2.0])[: shape[0]]
    assert_agree(gpu.predict(x.cuda(), sigma.cuda()).x0, cpu.predict(x, sigma).x0)
    assert_agree(gpu.predict(x.cuda(), 0.05).x0, cpu.predict(x, 0.05).x0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_prior_in_low_precision(dtype: torch.dtype) -> None:
    """In low precision the prior still returns float32, close to the prediction of the CPU."""
    cpu, gpu = make_priors(dtype)
    x = random(1, 3, 32, 48)
    found = gpu.predict(x.cuda(), 0.3).x0
    assert found.dtype == torch.float32
    assert_agree(found, cpu.predict(x, 0.3).x0, within=0.05)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic(scale: int) -> None:
    """The bicubic operator measures and corrects alike on both devices, and a correction agrees with the data."""
    operator = Bicubic(scale)
    x0, y = random(2, 3, 24, 36), random(2, 3, 24 // scale, 36 // scale, seed=1)
    assert_agree(operator.measure(x0.cuda()), operator.measure(x0), 1e-5)
    for noise in (0.0, 0.1):
        found = operator.correct(x0.cuda(), y.cuda(), noise, 0.2)
        assert_agree(found, operator.correct(x0, y, noise, 0.2))
    assert_agree(operator.measure(operator.correct(x0.cuda(), y.cuda(), 0.0, 1.0)), y)


def make_operators() -> dict[str, tuple[Degradation, Degradation, Tensor]]:
    """Return each operator for the CPU and for the GPU, and a measurement, by kind."""
    known, picture = random(1, 1, 24, 40, seed=2) > 0, random(1, 3, 24, 40, seed=3)
    return {
        "identity": (Identity(), Identity(), picture),
        "mask": (Mask(known), Mask(known.cuda()), picture),
        "bicubic": (Bicubic(4), Bicubic(4), Bicubic(4).measure(picture)),
    }


@pytest.mark.parametrize("method", ["ddpm", "ddim", "repaint", "ddnm", "langevin"])
@pytest.mark.parametrize("kind", ["identity", "mask", "bicubic"])
def test_a_whole_run(kind: str, method: str) -> None:
    """The same seed gives the same noise on both devices, and therefore the same picture."""
    on_cpu, on_gpu, y = make_operators()[kind]
    auto = Plan(sigmas=(1.0, 0.0), zeta=(1.0,), seed=9)
    plan, start = make_plan(method, auto, start=3.0, end=0.02, steps=20), torch.zeros(1, 3, 24, 40)
    noise = 0.01 if kind == "identity" else 0.0
    cpu, gpu = make_priors()
    expected = reverse(cpu, on_cpu, y, plan, start, noise_variance=noise)
    found = reverse(gpu, on_gpu, y.cuda(), plan, start.cuda(), noise_variance=noise)
    assert_agree(found, expected)


def test_tiles() -> None:
    """Tiles evaluated one by one on the CPU and in batches on the GPU give the same picture."""
    cpu, gpu = make_priors()
    x = random(1, 3, 50, 70)
    expected = Tiled(cpu, 32, overlap=8, batch=1).predict(x, 0.4).x0
    assert_agree(Tiled(gpu, 32, overlap=8, batch=3).predict(x.cuda(), 0.4).x0, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training(tmp_path: Path, precision: str) -> None:
    """A few steps give about the same loss on both devices.

    The crops and the timesteps are the same; the noise differs.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    recipe, losses = Recipe(steps=10, batch=16, crop=16, warmup=2), list[float]()
    spec = ModelSpec(ResidualUNetConfig(12, 12, (16, 32)), SPEC.schedule, "v_prediction", patch_size=2)
    for device in ("cpu", "cuda"):
        machine = Machine(device=device, precision=precision, log_every=10)
        train(
            spec, recipe, [tmp_path / "a.png"], tmp_path / device, machine, on_progress=lambda p: losses.append(p.loss)
        )
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_step_does_not_wait_for_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step on, PyTorch raises an error if anything in a step waits for the GPU."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    take, steps = Stepper.__call__, list[int]()

    def watched(self: Stepper, batches: Iterator[Tensor], meter: Meter) -> None:
        torch.cuda.set_sync_debug_mode("error" if steps else "default")
        try:
            take(self, batches, meter)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        steps.append(1)

    monkeypatch.setattr(Stepper, "__call__", watched)
    optimizers = ["adamw", *(["muon"] if hasattr(torch.optim, "Muon") else [])]
    for name in optimizers:
        steps.clear()
        recipe = Recipe(steps=6, batch=8, crop=16, warmup=2, balance=True, accumulate=2, optimizer=name)
        spec = ModelSpec(ResidualUNetConfig(12, 12, (16, 32)), SPEC.schedule, "v_prediction", patch_size=2)
        train(spec, recipe, [tmp_path / "a.png"], tmp_path / name, Machine(device="cuda", precision="bf16"))
        assert len(steps) == 6


def test_crops_that_the_gpu_cuts() -> None:
    """The bytes are those that the host cuts, turned, mirrored, shrunk and gray."""
    pictures = [np.random.default_rng(k).integers(0, 256, (70, 80 + k, 3), dtype=np.uint8) for k in range(2)]
    windows = [
        Window(k % 2, k % 5, k % 7, side, k % 4, k % 3 == 0, k % 5 == 0) for k, side in enumerate([*range(32, 65)] * 3)
    ]
    found = DeviceCutter(pictures, 32, torch.device("cuda")).cut(windows).cpu().numpy()
    expected = np.stack([Augmentation(32).cut(pictures[window.picture], window) for window in windows])
    np.testing.assert_array_equal(found, expected)


def test_a_gaussian_run() -> None:
    """Without a network, the loop and its noise alone give the same result on both devices."""
    plan = make_plan("ddpm", Plan(sigmas=(1.0, 0.0), zeta=(1.0,), seed=4), start=80.0, end=0.02, steps=30)
    start = torch.zeros(1, 3, 16, 16)
    expected = reverse(GaussianPrior(), None, None, plan, start)
    assert_agree(reverse(GaussianPrior(), None, None, plan, start.cuda()), expected, 1e-4)
