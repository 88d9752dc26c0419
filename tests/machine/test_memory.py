"""Memory: how much is free, how much a restoration needs, and what happens if that does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gaussian import GaussianPrior
from PIL import Image
from stubs import Greedy, Wrapper
from torch import Tensor

from restorer.cli.app import run
from restorer.diffusion.prior import Prediction, Prior
from restorer.errors import DeviceError, ModelError
from restorer.images import files, reading
from restorer.machine import memory
from restorer.machine.memory import FIXED_BYTES, SAMPLING_BYTES, SECOND_PASS_BYTES, available, check_memory, human_bytes
from restorer.models.load import load_prior
from restorer.priors.tiled import Tiled
from restorer.tasks import job as job_module
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.tiles import MIN_TILE
from restorer.tasks.upscale import prepare_upscale

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Wide(Wrapper):
    """A prior that needs 1,000 bytes per pixel, and half of that in low precision."""

    def __init__(self, each: int = 1000) -> None:
        super().__init__(GaussianPrior())
        self.each = each

    def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
        return (500 if low else self.each) * pixels

    def low_precision(self) -> Prior | None:
        return Wide(500) if self.each > 500 else None


class Single(Greedy):
    """A prior that runs out of memory on everything; its version in low precision is `low`."""

    def __init__(self, low: Prior | None) -> None:
        super().__init__(0, OUT_OF_MEMORY)
        self.low = low

    def low_precision(self) -> Prior | None:
        return self.low


class NotFinite(Wrapper):
    """A prior that returns nan and has a version in full precision, which runs out of memory."""

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        return Prediction(torch.full_like(x, torch.nan))

    def full_precision(self) -> Prior | None:
        return Single(self)


def make_job(side: int, prior: Prior) -> Job:
    """Return a job that denoises a square picture."""
    return prepare_denoise(torch.rand(3, side, side), 25.0, prior=prior)


def limit_memory(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Make every device report the given number of free bytes."""
    monkeypatch.setattr(job_module, "available", lambda device: count)
    monkeypatch.setattr(memory, "available", lambda device: count)


# ---------------------------------------------------------------------------------------------------------- free memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux files")
def test_what_is_free_is_no_more_than_there_is() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    swap = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("SwapTotal"))
    free = available()
    assert free is not None and 0 < free <= 1024 * (int(total.split()[1]) + int(swap.split()[1]))


def write_group(folder: Path, limit: str, taken: int, inactive: int) -> None:
    """Write the memory files of a control group."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{taken}\n")
    lines = (f"anon {taken - inactive}", f"inactive_file {inactive - 3}", "active_file 2", "slab_reclaimable 1")
    (folder / "memory.stat").write_text("\n".join(lines) + "\n")


def test_a_control_group_limits_and_so_do_those_above_it(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("1:cpu:/old\n0::/outer/inner\n")
    root = tmp_path / "root"
    write_group(root / "outer" / "inner", "max", 100, 20)
    assert memory._control_group_memory(root, names) is None
    write_group(root / "outer", "1000", 300, 50)
    assert memory._control_group_memory(root, names) == 1000 - 300 + 50
    write_group(root / "outer" / "inner", "400", 100, 20)
    assert memory._control_group_memory(root, names) == 400 - 100 + 20
    names.write_text("1:cpu:/old\n")
    assert (
        memory._control_group_memory(root, names) is None
        and memory._control_group_memory(root, tmp_path / "absent") is None
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux files")
def test_ulimit_limits() -> None:
    """A child process that may map 1 GB more has that much memory, however much the machine has."""
    program = (
        "import resource; from pathlib import Path; from restorer.machine.memory import available;"
        "used = 4096 * int(Path('/proc/self/statm').read_text().split()[0]);"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, used + 10**9)); print(available())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert 0.9e9 < int(done.stdout) <= 1e9


@pytest.mark.parametrize(("count", "text"), [(10, "10 bytes"), (350_400_000, "350.4 MB"), (1_440_000_000, "1.4 GB")])
def test_bytes_are_said_as_people_count_them(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_what_does_not_fit_is_refused_with_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 2_000_000_000)
    check_memory(2_000_000_000, "this")
    with pytest.raises(DeviceError, match=r"this needs about 2\.1 GB of memory, but only 2\.0 GB are free on cpu"):
        check_memory(2_100_000_000, "this")
    monkeypatch.setattr(memory, "available", lambda device: None)  # the system does not report it
    check_memory(1 << 50, "this")


# ------------------------------------------------------------------------------------------------------------ estimates


def test_what_a_job_takes_grows_with_its_pixels_and_its_tile() -> None:
    assert make_job(200, Wide()).required_bytes() == FIXED_BYTES + (SAMPLING_BYTES + 1000) * 200**2
    tiled = make_job(200, Tiled(Wide(), 100, overlap=20))
    assert tiled.required_bytes() == FIXED_BYTES + SAMPLING_BYTES * 200**2 + 1000 * 100**2
    up = prepare_upscale(torch.rand(3, 50, 50), 4, prior=Wide())
    assert up.required_bytes() == FIXED_BYTES + (SAMPLING_BYTES + 1000) * 200**2


def test_a_second_pass_takes_more() -> None:
    image, fill = torch.rand(3, 120, 120), torch.zeros(120, 120, dtype=torch.bool)
    fill[0:40, 0:40] = True
    one_pass = prepare_inpaint(image, fill, prior=Wide())
    fill[100:103] = True
    two_passes = prepare_inpaint(image, fill, prior=Wide())
    positions = two_passes.start.shape[-2] * two_passes.start.shape[-1]
    assert (
        two_passes.second_pass is not None
        and two_passes.required_bytes() == FIXED_BYTES + (SAMPLING_BYTES + SECOND_PASS_BYTES + 1000) * positions
    )
    assert (
        one_pass.second_pass is None
        and two_passes.required_bytes(low=True) == FIXED_BYTES + (SAMPLING_BYTES + SECOND_PASS_BYTES + 500) * positions
    )


def test_the_embedded_network_s_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network needs 10 maps of 64 channels at half the size: 160 numbers per pixel, of 4 or 2 bytes each."""
    assert load_prior(precision="fp32").resources.evaluation_bytes(1000) == 640_000
    assert load_prior(precision="bf16").resources.evaluation_bytes(1000) == 320_000


# ---------------------------------------------------------------------------------------------------- too little memory


def test_tiles_are_chosen_for_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = FIXED_BYTES + SAMPLING_BYTES * 400**2 + 1000 * 100**2
    limit_memory(monkeypatch, fits)
    restored = make_job(400, Wide()).run()
    assert restored.prior.tile == 100
    assert restored.notes == (f"only {human_bytes(fits)} of memory are free: using 100-pixel tiles",)


def test_a_picture_without_room_is_refused_before_the_network_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(1000, Greedy(0, AssertionError("asked")))
    limit_memory(monkeypatch, 214_000_000 - 1)
    with pytest.raises(DeviceError, match=r"a result of 1000x1000 pixels needs about 214\.0 MB") as caught:
        job.run()
    assert caught.value.hint


def test_the_last_resort_is_low_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is tried if its smallest tile does not fit in float32 but would fit in bfloat16."""
    limit_memory(monkeypatch, FIXED_BYTES + SAMPLING_BYTES * 64**2 + 500 * 32**2)
    monkeypatch.setattr(job_module, "MIN_TILE", 32)
    assert make_job(64, Wide()).run().image.shape == (3, 64, 64)
    limit_memory(monkeypatch, FIXED_BYTES + SAMPLING_BYTES * 64**2 + 500 * 32**2 - 1)
    with pytest.raises(DeviceError):
        make_job(64, Wide()).run()


def test_out_of_memory_with_the_smallest_tile_lowers_the_precision() -> None:
    restored = make_job(MIN_TILE, Single(GaussianPrior())).run()
    assert restored.notes == ("out of memory: repeated in bf16",)
    assert torch.equal(restored.image.isfinite(), torch.ones(3, MIN_TILE, MIN_TILE, dtype=torch.bool))


def test_tiles_are_halved_before_the_precision_is_lowered() -> None:
    notes = make_job(4 * MIN_TILE, Single(GaussianPrior())).run().notes
    assert [note.split(": ")[1] for note in notes] == [
        f"repeated with {2 * MIN_TILE}-pixel tiles",
        f"repeated with {MIN_TILE}-pixel tiles",
        "repeated in bf16",
    ]


def test_nothing_is_left_below_low_precision() -> None:
    with pytest.raises(DeviceError, match="not enough memory"):
        make_job(MIN_TILE, Single(Single(None))).run()


def test_precision_does_not_go_up_and_down_for_ever() -> None:
    """A job that is too large in float32 and not finite in bfloat16 fails."""
    with pytest.raises(ModelError, match="not finite, even in low precision"):
        make_job(MIN_TILE, Single(NotFinite())).run()


def test_the_embedded_prior_has_a_low_precision() -> None:
    low = load_prior(precision="fp32").resources.low_precision()
    assert low is not None and low.dtype == torch.bfloat16 and low.resources.low_precision() is None  # type: ignore[attr-defined]
    tiled = Tiled(load_prior(precision="fp32"), 128).resources.low_precision()
    assert tiled is not None and tiled.tile == 128


def test_the_command_says_so_and_ends_with_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is too large is rejected by its header and not decoded."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (2000, 1000)).save("large.png")
    monkeypatch.setattr(memory, "available", lambda device="cpu": 1_000_000_000)
    monkeypatch.setattr(reading, "load", lambda *arguments: pytest.fail("the file was decoded"))
    monkeypatch.setattr(files, "load", lambda *arguments: pytest.fail("the file was decoded"))
    assert run(["upscale", "large.png", "--scale", "4"]) == 6
    out, err = capsys.readouterr()
    assert (
        not out
        and "large.png: a result of 8000x4000 pixels needs about 4.2 GB of memory, but only 1.0 GB are free on cpu"
        in err
    )
