"""Networks of other programs: read from untrusted files, compared with spandrel's own reading, whole and in tiles."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_broken import system_call
from hub_fixtures import hub, model_files  # noqa: F401
from hub_server import COMMIT, Hub
from single_pass import NETWORKS, State, compact, described, dncnn, nafnet, photograph, rrdb, save, spandrel
from torch import Tensor, nn

from restorer.errors import DeviceError, ModelError, UsageError
from restorer.models import feed_forward, spandrel_networks
from restorer.models.feed_forward import FeedForward
from restorer.models.starts import as_start, find_start, load_start, start_sha256


def reference(path: Path, picture: Tensor) -> Tensor:
    """Return what spandrel makes of a picture with a network that it reads itself."""
    network = spandrel.ModelLoader().load_from_file(path).eval()
    with torch.no_grad():
        return network(picture[None])[0]


def on_cpu(path: Path | str, precision: str = "fp32", tile: int | None = None) -> FeedForward:
    return load_start(path, "cpu", precision, tile)


# ----------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_network_gives_what_spandrel_gives(name: str, suffix: str, tmp_path: Path) -> None:
    make, architecture, scale = NETWORKS[name]
    path = save(tmp_path / f"{name}{suffix}", make(), "params_ema" if suffix == ".pth" and scale == 4 else None)
    start, picture = on_cpu(path), photograph(37, 45)
    assert (start.architecture, start.scale, start.channels) == (architecture, scale, 3)
    assert start.identity["sha256"] == start_sha256(path) and start.identity["revision"] is None
    answer = start(picture)
    expected = reference(path, picture)
    assert answer.picture.shape == (3, 37 * scale, 45 * scale) and answer.notes == ()
    assert float((answer.picture - expected).abs().max()) <= 1e-5
    assert float(expected.std()) > 0.01  # the networks do something


def test_of_several_tables_the_averaged_one_counts(tmp_path: Path) -> None:
    torch.save({"params": rrdb(seed=1), "params_ema": rrdb(seed=2)}, tmp_path / "both.pth")
    picture = photograph(20, 20)
    found = on_cpu(tmp_path / "both.pth")(picture).picture
    assert torch.equal(found, on_cpu(save(tmp_path / "ema.pth", rrdb(seed=2)))(picture).picture)
    assert float((found - reference(tmp_path / "both.pth", picture)).abs().max()) <= 1e-5


def test_the_same_arguments_give_the_same_object(tmp_path: Path) -> None:
    path = save(tmp_path / "n.pth", compact())
    start = on_cpu(path)
    assert on_cpu(path) is start and on_cpu(path, tile=256) is not start
    assert as_start(start) is start and as_start(None) is None
    found = as_start(path)
    assert found is not None and found.name == str(path)
    with pytest.raises(UsageError, match="not int"):
        as_start(3)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize(
    ("make", "units", "size"),
    [
        (compact, 4, (150, 131)),
        (compact, 4, (40, 190)),
        (lambda: compact(scale=2), 2, (150, 131)),
        (lambda: dncnn(3), 2, (260, 141)),
    ],
    ids=["x4", "x4, wide", "x2", "x1"],
)
def test_tiles_give_what_the_whole_gives(
    make: Callable[[], State], units: int, size: tuple[int, int], tmp_path: Path
) -> None:
    """These networks see fewer pixels around than a tile has beyond those that count."""
    path, picture = save(tmp_path / "n.pth", make()), photograph(*size)
    start, seen = on_cpu(path, tile=64 * units), []
    answer = start(picture, on_tile=lambda done, total: seen.append((done, total)))
    assert start.tiles(*size) > 1 and seen[-1] == (start.tiles(*size),) * 2
    assert float((answer.picture - reference(path, picture)).abs().max()) <= 1e-5


def test_tiles_lie_on_the_grid_of_the_network(tmp_path: Path) -> None:
    """RealESRGAN_x2plus sees blocks of 2x2 pixels, for which spandrel pads to multiples of 4."""
    path, picture = save(tmp_path / "n.pth", rrdb(inputs=12)), photograph(127, 118)
    difference = (on_cpu(path, tile=192)(picture).picture - reference(path, picture)).abs()
    assert float(difference.max()) <= 2e-3  # it sees farther than the margin of a tile


def test_large_pictures_are_tiled_by_default(tmp_path: Path) -> None:
    start = on_cpu(save(tmp_path / "n.pth", compact()))
    assert start.tiles(280, 280) == 1 and start.tiles(300, 300) == 4
    assert replace(start, tile=0).tiles(3000, 3000) == 1


# ---------------------------------------------------------------------------------------------------------- channels


def test_gray_pictures_go_through_networks_for_colour(tmp_path: Path) -> None:
    path, gray = save(tmp_path / "n.pth", compact()), photograph(20, 24, channels=1)
    expected = reference(path, gray.expand(3, -1, -1)).mean(0, keepdim=True)
    assert torch.allclose(on_cpu(path)(gray).picture, expected, atol=1e-6)


def test_colour_pictures_go_through_networks_for_gray(tmp_path: Path) -> None:
    path, picture = save(tmp_path / "n.pth", dncnn(1)), photograph(20, 24)
    expected = torch.cat([reference(path, channel) for channel in picture.split(1)])
    start = on_cpu(path)
    assert start.channels == 1 and torch.allclose(start(picture).picture, expected, atol=1e-6)


def test_networks_for_other_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="4 channels"):
        on_cpu(save(tmp_path / "n.pth", compact(channels=4)))


# --------------------------------------------------------------------------------------------- precision and memory


def test_low_precision_is_repeated_if_it_is_not_finite(tmp_path: Path) -> None:
    state = compact()
    for name in ("body.0.weight", "body.2.weight"):
        state[name] *= 3000
    state["body.4.weight"] *= 1e-8
    path, picture = save(tmp_path / "n.pth", state), photograph(16, 16)
    start = on_cpu(path, "fp16")
    assert start.dtype == torch.float16
    answer = start(picture)
    assert any("repeated in fp32" in note for note in answer.notes)
    assert float((answer.picture - reference(path, picture)).abs().max()) < 0.01  # the weights stay rounded


def test_a_precision_that_the_network_lacks(tmp_path: Path) -> None:
    start = on_cpu(save(tmp_path / "n.pth", nafnet()), "fp16")
    assert start.dtype == torch.float32 and "does not compute in fp16" in start.notes[0]
    assert start(photograph(16, 16)).notes == start.notes
    with pytest.raises(UsageError, match="fp8"):
        on_cpu(tmp_path / "n.pth", "fp8")


class Layer(nn.Module):
    """A network of one layer that repeats pixels, and fails on request."""

    def __init__(self, scale: int = 2, limit: int = 10_000, value: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.scale, self.limit, self.sides = scale, limit, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.sides.append(max(x.shape[-2:]))
        if max(x.shape[-2:]) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return self.weight * x.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


def test_tiles_are_halved_when_memory_runs_out() -> None:
    layer, picture = Layer(limit=100), photograph(300, 260)
    answer = described(layer)(picture)
    assert torch.allclose(answer.picture, picture.repeat_interleave(2, -1).repeat_interleave(2, -2), atol=1e-6)
    assert [note.partition(":")[0] for note in answer.notes] == ["out of memory"] * 2
    assert max(layer.sides[-3:]) <= 100
    with pytest.raises(DeviceError, match=r"network\.pth"):
        described(Layer(limit=10))(picture)


def test_memory_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, picture = Layer(), photograph(300, 300)
    needed = described(layer)._bytes_per_pixel
    # The result of a pixel of three floats has twelve, and the network makes three copies of them.
    assert 3 * 4 * 4 <= needed / feed_forward.SAFETY <= 3 * 4 * 4 * 4
    canvas = 4 * 3 * 5 * 300 * 300
    monkeypatch.setattr(feed_forward, "available", lambda device: canvas + int(needed * 160**2))
    answer = described(layer)(picture)
    assert max(layer.sides[-1:]) <= 150 and "of memory are free" in answer.notes[0]
    monkeypatch.setattr(feed_forward, "available", lambda device: canvas)
    with pytest.raises(DeviceError, match="small tile"):
        described(layer)(picture)


def test_values_that_are_not_finite_in_float32_are_an_error() -> None:
    with pytest.raises(ModelError, match="not finite"):
        described(Layer(value=float("inf")))(photograph(16, 16))


def test_results_of_another_size_are_an_error() -> None:
    with pytest.raises(ModelError, match="another size"):
        described(Layer(scale=3), scale=2)(photograph(16, 16))


# --------------------------------------------------------------------------------------------------------- what fits


def test_which_commands_a_network_serves(tmp_path: Path) -> None:
    enlarging, repairing = on_cpu(save(tmp_path / "a.pth", compact())), on_cpu(save(tmp_path / "b.pth", nafnet()))
    assert enlarging.commands == ("upscale",) and repairing.commands == ("denoise", "dejpeg", "deblur")
    enlarging.check("upscale")
    enlarging.check("upscale", 4)
    repairing.check("dejpeg")
    with pytest.raises(UsageError, match="enlarges by 4, not by 2") as caught:
        enlarging.check("upscale", 2)
    assert "--scale 4" in caught.value.hint
    with pytest.raises(ModelError, match="enlarges by 4: denoise cannot"):
        enlarging.check("denoise")
    with pytest.raises(ModelError, match="does not enlarge: upscale cannot"):
        repairing.check("upscale")
    with pytest.raises(ModelError, match="faces"):
        described(Layer(scale=1), scale=1, purpose="FaceSR").check("denoise")
    filling = described(Layer(scale=1), purpose="Inpainting", masked=True)
    assert filling.commands == ("inpaint",) and filling.fills


# ----------------------------------------------------------------------------------------------------- hostile files


def refusal(path: Path) -> str:
    """Return the message and the hint of a refusal, which are single printable lines."""
    with pytest.raises(ModelError) as caught:
        on_cpu(path)
    for line in (str(caught.value), caught.value.hint):
        assert line.isprintable() and len(line) < 500
    return f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["whole", "under a key"])
def test_pickles_that_run_code_are_refused(zipped: bool, place: str, tmp_path: Path) -> None:
    call = system_call(tmp_path / "trap")
    content = call if place == "whole" else {"params_ema": {**rrdb(), "conv_first.weight": call}}
    torch.save(content, tmp_path / "n.pth", _use_new_zipfile_serialization=zipped)
    assert "is refused" in refusal(tmp_path / "n.pth") and not (tmp_path / "trap").exists()


def test_programs_are_refused(tmp_path: Path) -> None:
    """Spandrel would run a TorchScript program to read its weights."""
    traced = torch.jit.trace(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4))
    traced.save(str(tmp_path / "n.pt"))
    assert "TorchScript" in refusal(tmp_path / "n.pt")


def larger_than_its_file() -> State:
    """Return weights of a few kilobytes whose names claim ten thousand blocks."""
    return {**rrdb(), "body.9998.rdb1.conv1.weight": torch.zeros(1), "body.9998.rdb1.conv1.bias": torch.zeros(1)}


def with_a_nan() -> State:
    state = rrdb()
    state["conv_hr.bias"][3] = torch.nan
    return state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (larger_than_its_file, "much larger than"),
        (lambda: {**rrdb(), "body.999999999.rdb1.conv1.weight": torch.zeros(1)}, "a layer that no network has"),
        (lambda: {**rrdb(), "conv_first.weight": torch.zeros(1).expand(1 << 20, 3, 3, 3)}, "claims"),
        (lambda: {n: w for n, w in rrdb().items() if not n.startswith("conv_hr")}, "cannot be built"),
        (lambda: {**rrdb(), "conv_hr.weight": torch.zeros(2, 2)}, "cannot be built"),
        (with_a_nan, "not finite"),
        (lambda: {"a": torch.zeros(3)}, "not a network that spandrel knows"),
        (lambda: {**rrdb(), "conv_hr.bias": torch.zeros(8, dtype=torch.complex64)}, "not floating-point|conv_hr"),
    ],
)
def test_weights_that_are_no_network(make: Callable[[], State], message: str, tmp_path: Path) -> None:
    assert re.search(message, refusal(save(tmp_path / "n.pth", make())))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"7767517\n999 1782\n", "ncnn"),
        (b"<!doctype html><html>", "web page"),
        (b"\xff" * 8 + b"{" + b" " * 100, "header"),
        (b"PK\x03\x04" + b"\0" * 100, "cannot be read"),
    ],
)
def test_files_that_hold_no_weights(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "n.pth").write_bytes(content)
    assert message in refusal(tmp_path / "n.pth")


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        load_start(tmp_path)
    with pytest.raises(ModelError, match="there is no network"):
        load_start(tmp_path / "none.pth")


def test_building_is_bounded_for_every_way_to_make_a_tensor() -> None:
    with pytest.raises(spandrel_networks._TooLargeError), spandrel_networks._Bounded(1000):
        nn.Linear(100, 100)
    for make in (torch.arange, torch.empty, torch.zeros, torch.randperm):
        with pytest.raises(spandrel_networks._TooLargeError), spandrel_networks._Bounded(1000):
            make(1 << 40)
    with spandrel_networks._Bounded(1000):
        nn.Linear(10, 10)


def test_spandrel_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ModelError, match="package spandrel, which is missing") as caught:
        on_cpu(save(tmp_path / "n.pth", rrdb(seed=9)))
    assert "restorer[spandrel]" in caught.value.hint


def test_nothing_is_imported_before_a_network_is_read() -> None:
    code = "import sys, restorer.api, restorer.models.starts\nprint({'spandrel', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --------------------------------------------------------------------------------------------------------------- Hub


def test_a_network_from_the_hub(hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    path = save(tmp_path / "x4.pth", rrdb(), "params_ema")
    hub.files["weights/x4.pth"] = path.read_bytes()
    start, picture = on_cpu("org/model:weights/x4.pth"), photograph(20, 20)
    assert start.identity["id"] == "org/model:weights/x4.pth" and start.identity["revision"] == COMMIT
    assert start.identity["sha256"] == start_sha256(path)
    assert float((start(picture).picture - reference(path, picture)).abs().max()) <= 1e-5
    hub.forget()
    assert find_start(f"org/model@{COMMIT}:weights/x4.pth").read_bytes() == path.read_bytes()
    assert hub.log == []


def test_hostile_files_of_the_hub_are_refused(hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    torch.save(system_call(tmp_path / "trap"), tmp_path / "evil.pth")
    hub.files["evil.pth"] = (tmp_path / "evil.pth").read_bytes()
    with pytest.raises(ModelError, match="is refused"):
        on_cpu("org/model:evil.pth")
    assert not (tmp_path / "trap").exists()


def test_files_that_the_hub_lacks(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    with pytest.raises(ModelError, match="names a repository") as caught:
        find_start("org/model")
    assert "org/model:FILE" in caught.value.hint
    with pytest.raises(ModelError, match="no such file"):
        find_start("org/model:none.pth")
    with pytest.raises(ModelError, match="diffusion model"):
        find_start("ldm-sr")
    hub.fault(".", status=503)
    with pytest.raises(ModelError) as caught:
        find_start("org/model:x4.pth")
    assert "--model" not in caught.value.hint
