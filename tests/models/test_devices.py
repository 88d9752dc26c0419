"""The names of devices, and whole restorations on a device that this machine does not have (`fake_device.py`)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_device import FakeDevice
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations import kernels
from restorer.errors import DeviceError, UsageError
from restorer.images.files import load, to_tensor
from restorer.machine import memory
from restorer.machine.memory import is_out_of_memory
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.models import load as models_load
from restorer.models.catalogue import weights_folder
from restorer.models.checkpoints import load_model
from restorer.models.devices import count_devices, resolve_device, resolve_dtype
from restorer.models.load import DECOMPRESSING, EMBEDDED, ENLARGING, load_prior
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import UNetPrior
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.upscale import prepare_upscale

PHOTOGRAPH = Path(__file__).parents[1] / "images" / "grapes.jpg"


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes PyTorch report numbers of devices."""

    def report(cuda: int = 0, mps: int = 0, xpu: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: xpu > 0)
        monkeypatch.setattr(torch.xpu, "device_count", lambda: xpu)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps > 0)

    return report


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", "cpu"),
        ("CPU", "cpu"),
        (" Cpu ", "cpu"),
        ("cuda", "cuda"),
        ("CUDA:0", "cuda:0"),
        ("Cuda:1", "cuda:1"),
        ("mps", "mps"),
        ("MPS", "mps"),
        ("mps:0", "mps:0"),
        ("xpu", "xpu"),
        ("XPU:2", "xpu:2"),
        ("AUTO", "cuda"),
    ],
)
def test_names_in_any_case(name: str, expected: str, devices: Callable[..., None]) -> None:
    devices(cuda=2, mps=1, xpu=3)
    assert resolve_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda", "no CUDA device"),
        ("mps", "no Apple GPU"),
        ("MPS:0", "no Apple GPU"),
        ("xpu", "no Intel GPU"),
        ("xpu:1", "no Intel GPU"),
    ],
)
def test_an_absent_device_is_an_error(name: str, said: str, devices: Callable[..., None]) -> None:
    devices()
    with pytest.raises(DeviceError, match=said) as caught:
        resolve_device(name)
    assert caught.value.hint == "use --device cpu"


@pytest.mark.parametrize(("name", "said"), [("cuda:2", "cuda:2: 2 CUDA devices"), ("mps:1", "mps:1: 1 MPS device")])
def test_a_number_too_high_is_an_error(name: str, said: str, devices: Callable[..., None]) -> None:
    devices(cuda=2, mps=1)
    with pytest.raises(DeviceError, match=said):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "cpu:0", "cuda:x", "cuda:-1", "mps:0:1", "auto:1", "", "cuda:1.0", "meta"])
def test_other_names_are_unknown(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device") as caught:
        resolve_device(name)
    assert "mps" in caught.value.hint and "xpu" in caught.value.hint


def test_auto_takes_no_device_that_is_not_tested(devices: Callable[..., None]) -> None:
    devices(mps=1, xpu=1)
    assert resolve_device("auto") == torch.device("cpu")
    devices(cuda=1, mps=1, xpu=1)
    assert resolve_device("auto") == torch.device("cuda")


def test_a_pytorch_without_xpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "xpu")
    assert count_devices("xpu") == 0
    with pytest.raises(DeviceError):
        resolve_device("xpu")


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_precision_is_fp32_where_bf16_is_not_tested(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolve_dtype("auto", torch.device(kind)) == torch.float32
    assert resolve_dtype("bf16", torch.device(kind)) == torch.bfloat16
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16


def test_bf16_that_is_emulated_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_dtype("auto", torch.device("cuda")) == torch.float32


# --------------------------------------------------------------------------------------------------------------- memory


def test_memory_of_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.available("mps") == pytest.approx(memory.available("cpu"), rel=0.2)  # they share it
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda device: (5000, 9000), raising=False)
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda device: 300, raising=False)
    monkeypatch.setattr(torch.xpu, "memory_allocated", lambda device: 100, raising=False)
    assert memory.available("xpu:0") == 5200

    def unknown(device: str) -> tuple[int, int]:
        raise RuntimeError("The device does not support querying the available free memory")

    monkeypatch.setattr(torch.xpu, "mem_get_info", unknown, raising=False)
    assert memory.available("xpu") is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.99 GB, max allowed: 9.07 GB)"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (torch.OutOfMemoryError("XPU out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("expected all tensors to be on the same device"), False),
        (ValueError("out of memory of earlier versions"), False),
    ],
)
def test_errors_that_say_that_memory_has_run_out(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


# -------------------------------------------------------------------------------------------------- whole restorations


def picture() -> Tensor:
    with Image.open(PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB"))[100:132, 100:140]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


def jobs(prior: UNetPrior) -> Iterator[tuple[str, Callable[[], Job]]]:
    """Yield a job of each kind of arithmetic."""
    clean, generator = picture(), torch.Generator().manual_seed(0)
    noisy = clean + torch.randn(clean.shape, generator=generator) * 25 / 255
    mask = torch.zeros(clean.shape[-2:], dtype=torch.bool)
    mask[8:14, 10:30] = True
    yield "white noise", lambda: prepare_denoise(noisy, sigma=25.0, steps=2, prior=prior)
    yield "camera noise", lambda: prepare_denoise(noisy, noise="camera", steps=2, prior=prior)
    yield "tiles", lambda: prepare_denoise(noisy, sigma=25.0, steps=2, prior=Tiled(prior, 24, overlap=8))
    yield "holes", lambda: prepare_inpaint(clean, mask, steps=2, prior=prior)
    yield "langevin", lambda: prepare_inpaint(clean, mask, steps=3, method="langevin", prior=prior)
    yield "enlargement", lambda: prepare_upscale(clean[:, :16, :16], 2, sigma=5.0, steps=2, prior=prior)
    kernel = kernels.gaussian_kernel(1.6)
    yield "blur", lambda: prepare_deblur(clean, kernel, sigma=2.0, steps=2, prior=prior)
    data = io.BytesIO()
    Image.fromarray((clean * 255).byte().permute(1, 2, 0).numpy()).save(data, "JPEG", quality=20)
    data.seek(0)
    compressed = load(data)
    image = to_tensor(compressed)
    yield "JPEG", lambda: prepare_dejpeg(image, find_jpeg(image, compressed.original), steps=2, prior=prior)


def embedded(device: str, folder: Path) -> UNetPrior:
    return models_load._build_plain(folder, torch.device(device), torch.float32)


def test_every_task_runs_on_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are those of the CPU, but for rounding: the stand-in computes there, without its fast networks."""
    expected = {name: job().run().image for name, job in jobs(load_prior("photo", "cpu", "fp32"))}
    with FakeDevice("mps") as fake:
        # The networks for measuring and for first answers are those of the device, too.
        names = (EMBEDDED, ENLARGING, DECOMPRESSING)
        built = {weights_folder(name): embedded("mps", weights_folder(name)) for name in names}
        monkeypatch.setattr(models_load, "_load", lambda folder, *others: built[folder])
        prior = built[weights_folder()]
        for name, job in jobs(prior):
            before = fake.calls
            result = job().run().image
            assert fake.calls > before + 50, f"{name} did not use the device"
            assert result.device.type == "cpu"
            torch.testing.assert_close(result, expected[name], rtol=0, atol=1e-4, msg=name)


def test_the_stand_in_has_the_rules_of_the_device() -> None:
    with FakeDevice("mps"):
        here = torch.zeros(3).to("mps")
        assert here.device.type == "mps" and here.cpu().device.type == "cpu" and here[0].device.type == "mps"
        with pytest.raises(RuntimeError, match="same device"):
            here + torch.zeros(3)
        with pytest.raises(TypeError, match="no float64"):
            here.double()
        with pytest.raises(TypeError, match="no float64"):
            torch.zeros(2, dtype=torch.float64, device="mps")
        layer = torch.nn.Linear(3, 3).to("mps")
        assert layer(here).device.type == "mps"
        with pytest.raises(RuntimeError, match="same device"):
            layer(torch.zeros(3))


def test_training_refuses_a_device_without_float64(tmp_path: Path, devices: Callable[..., None]) -> None:
    from restorer.training.loop import Machine, train
    from restorer.training.recipe import Recipe

    devices(mps=1)
    _, spec = load_model(weights_folder())
    with pytest.raises(DeviceError, match="64 bits"):
        train(spec, Recipe(crop=64), [PHOTOGRAPH.parent], tmp_path / "out", Machine(device="mps"))
    assert not (tmp_path / "out").exists()
