"""Maps of the uncertainty, samples and consistency on the command line, in files and in Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import restorer
from restorer.cli.app import run
from restorer.folders.provenance import parse_record
from restorer.images.metadata import RECORD
from restorer.images.uncertainty_map import SCALE, encode_map, read_map

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command in an empty folder with JSON, and returns its events."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
        assert run([*arguments, "--json"]) == code, capsys.readouterr().err
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def photograph(path: Path, side: int = 48, noise: float = 0.0) -> None:
    """Write a picture with edges and texture."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:side, :side]
    plane = 120 + 60 * np.sin(x / 5) * (y > side / 2) + 30 * (x > y)
    picture = np.stack([plane, plane * 0.8, plane * 0.6], -1) + noise * rng.normal(size=(side, side, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.clip(0, 255).round().astype(np.uint8)).save(path)


VERBS: dict[str, list[str]] = {
    "denoise": ["a.png", "--sigma", "20"],
    "dejpeg": ["a.jpg", "--steps", "2"],
    "deblur": ["a.png", "--gaussian", "1", "--sigma", "2", "--steps", "3"],
    "inpaint": ["a.png", "--mask", "m.png", "--steps", "2"],
    "upscale": ["a.png", "--scale", "2", "--steps", "2"],
}


def prepare() -> None:
    """Write the inputs of VERBS."""
    photograph(Path("a.png"), noise=20)
    with Image.open("a.png") as image:
        image.save("a.jpg", quality=30)
    mask = np.zeros((48, 48), np.uint8)
    mask[10:40, 20:23] = 255
    Image.fromarray(mask).save("m.png")


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_of_the_record_makes_the_same_result_and_map(verb: str, restore: Run) -> None:
    """The map is beside the result, has its size and unit, and both are made again byte for byte."""
    prepare()
    (done, _) = restore(verb, *VERBS[verb], "-o", "r.png", "--uncertainty", "u.png")
    found = read_map(Path("u.png"))
    assert found is not None
    assert found.half.shape == (done["height"], done["width"])
    assert found.level == 0.9
    assert found.half.max() > 0
    assert done["uncertainty"]["path"] == "u.png"
    assert "u.png" not in json.dumps(done["warnings"])
    with Image.open("r.png") as image:
        record = parse_record(image.info[RECORD])
    assert record is not None
    assert record == parse_record(found.text[RECORD])
    assert record.uncertainty == done["uncertainty"]["words"] == found.text["Comment"]
    assert record.consistency
    result, made = Path("r.png").read_bytes(), Path("u.png").read_bytes()
    command = shlex.split(record.command_line().partition("restore ")[2])
    restore(*command, "-o", "r.png", "--overwrite")
    assert Path("r.png").read_bytes() == result
    assert Path("u.png").read_bytes() == made


def test_a_sample_and_the_mean_are_made_again_from_their_records(restore: Run) -> None:
    prepare()
    (done, _) = restore("inpaint", *VERBS["inpaint"], "-o", "r.png", "--samples", "3")
    assert done["samples"] == ["r_sample2.png", "r_sample3.png", "r_mean.png"]
    pixels = [np.asarray(Image.open(p)).astype(int) for p in ("r.png", "r_sample2.png", "r_sample3.png")]
    assert any((pixels[0] != other).any() for other in pixels[1:])
    mean = np.asarray(Image.open("r_mean.png")).astype(int)
    assert np.abs(mean - np.mean(pixels, 0)).max() <= 1
    texts = [parse_record(Image.open(p).info[RECORD]) for p in ("r.png", *done["samples"])]
    assert [t.sample for t in texts if t is not None] == ["1 of 3", "2 of 3", "3 of 3", "mean of 3"]
    second = texts[1]
    assert second is not None
    command = shlex.split(second.command_line().partition("restore ")[2])
    restore(*command, "-o", "again.png")
    assert (np.asarray(Image.open("again.png")) == pixels[1]).all()
    before = Path("r_mean.png").read_bytes()
    assert texts[3] is not None
    restore(*shlex.split(texts[3].command_line().partition("restore ")[2]), "-o", "r.png", "--overwrite")
    assert Path("r_mean.png").read_bytes() == before


def test_the_maps_of_a_folder_go_into_a_folder(restore: Run) -> None:
    photograph(Path("in/a.png"), 24, noise=20)
    photograph(Path("in/sub/b.png"), 24, noise=20)
    restore("denoise", "in", "-r", "-o", "out", "--sigma", "20", "--uncertainty", "maps")
    found = sorted(p.as_posix() for p in Path("maps").rglob("*.png"))
    assert found == ["maps/a_denoised_uncertainty.png", "maps/sub/b_denoised_uncertainty.png"]


def test_a_map_is_part_of_what_resume_goes_by(restore: Run) -> None:
    photograph(Path("in/a.png"), 24, noise=20)
    command = ("denoise", "in", "-r", "-o", "out", "--sigma", "20")
    restore(*command)
    (skipped, _) = restore(*command, "--resume")
    assert skipped["status"] == "skipped"
    (done, _) = restore(*command, "--resume", "--uncertainty", "maps/")
    assert done["status"] == "ok"
    (skipped, _) = restore(*command, "--resume", "--uncertainty", "maps/")
    assert skipped["status"] == "skipped"


def test_known_pixels_are_certain(restore: Run) -> None:
    prepare()
    (done, _) = restore("inpaint", *VERBS["inpaint"], "-o", "r.png", "--uncertainty", "u.png")
    hole = np.asarray(Image.open("m.png")) > 0
    found = read_map(Path("u.png"))
    assert found is not None
    assert (found.half[~hole] == 0).all()
    assert (found.half[hole] > 0).all()
    assert done["consistency"]["known_equal"] is True
    assert done["uncertainty"]["words"].startswith("90 % of the filled pixels are within")


def test_consistency_is_told(restore: Run) -> None:
    """The coefficients of a file lie in their cells, and a blurred result is the picture."""
    prepare()
    photograph(Path("clean.png"))
    (dejpegged, _) = restore("dejpeg", "a.jpg", "--steps", "2", "-o", "d.png")
    assert dejpegged["consistency"]["cells"] > 0.99
    (denoised, _) = restore("denoise", "a.png", "--sigma", "20", "-o", "n.png")
    difference = np.asarray(Image.open("n.png")).astype(float) - np.asarray(Image.open("a.png"))
    assert denoised["consistency"]["rms"] == pytest.approx(np.sqrt(np.mean(difference**2)), abs=0.01)
    (sharp, _) = restore("deblur", "clean.png", "--gaussian", "1", "--sigma", "1", "--steps", "3", "-o", "s.png")
    assert sharp["consistency"]["rms"] < 4


@pytest.mark.parametrize("scale", ["2", "1.5", "2.5"])
def test_an_enlargement_is_shrunk_to_the_size_of_its_input(scale: str, restore: Run) -> None:
    """What Pillow shrinks to the input is told to be near it; the rounding to 8 bits alone has an RMS of .29 levels."""
    photograph(Path("large.png"), 96)
    Image.open("large.png").resize((48, 48), Image.Resampling.BICUBIC).save("small.png")
    (done, _) = restore("upscale", "small.png", "--scale", scale, "--steps", "2", "-o", "x.png")
    told, made = done["consistency"]["rms"], shrinking_error("x.png", "small.png")
    assert told == pytest.approx(made, abs=0.15)
    assert told < 12**-0.5
    assert done["warnings"] == []


def test_what_no_shrinking_can_have_made_is_not_given_back(restore: Run) -> None:
    """The edges of a drawing are sharper than shrinking makes them, and the program says so."""
    photograph(Path("drawn.png"))
    (done, _) = restore("upscale", "drawn.png", "--scale", "2", "--steps", "2", "-o", "x.png")
    assert done["consistency"]["rms"] == pytest.approx(shrinking_error("x.png", "drawn.png"), abs=0.05)
    assert done["consistency"]["rms"] > 12**-0.5
    assert any("shrinking the result does not give them back" in note for note in done["warnings"])


def shrinking_error(large: str, small: str) -> float:
    """Return by how much an enlargement, shrunk by Pillow, differs from its input: the RMS in levels."""
    with Image.open(large) as image, Image.open(small) as given:
        shrunk = np.asarray(image.resize(given.size, Image.Resampling.BICUBIC)).astype(float)
        return float(np.sqrt(np.mean((shrunk - np.asarray(given)) ** 2)))


def test_a_region_of_an_enlargement_has_no_figure(restore: Run) -> None:
    photograph(Path("a.png"))
    (done, _) = restore("upscale", "a.png", "--scale", "2", "--steps", "2", "--region", "8,8,24,16", "-o", "x.png")
    assert done["consistency"]["rms"] is None


def test_an_enlargement_is_calibrated(restore: Run) -> None:
    """The constants are those of the embedded model, whichever network answers first."""
    photograph(Path("a.png"), 24)
    (done, _) = restore("upscale", "a.png", "--scale", "2", "--uncertainty", "u.png", "-o", "x.png")
    assert done["uncertainty"]["calibrated"] is True and done["uncertainty"]["note"] is None
    assert done["uncertainty"]["kind"] == "upscale"


def test_samples_share_the_transparency_of_the_result(restore: Run) -> None:
    photograph(Path("a.png"), 24)
    alpha = Image.fromarray((np.hypot(*np.mgrid[-12:12, -12:12]) < 9).astype(np.uint8) * 255)
    with Image.open("a.png") as image:
        image.putalpha(alpha)
        image.save("a.png")
    (done, _) = restore("upscale", "a.png", "--scale", "2", "--samples", "2", "-o", "x.png")
    first, *others = (np.asarray(Image.open(path))[..., 3] for path in ("x.png", *done["samples"]))
    assert len(others) == 2 and all((first == other).all() for other in others)


def test_what_was_written_beside_a_result_is_not_restored_again(restore: Run) -> None:
    """Samples, means and maps that lie in the folder of the pictures are results of an earlier run."""
    photograph(Path("in/a.png"), 24, noise=20)
    photograph(Path("in/b.png"), 24, noise=20)
    command = ("denoise", "in", "-r", "--sigma", "20", "--method", "ddpm", "--steps", "2", "--samples", "3")
    first = restore(*command, "--uncertainty", "in/maps/")
    written = sorted(path.as_posix() for path in Path("in").rglob("*.png"))
    assert len(written) == 2 + 2 * 5
    again = restore(*command, "--uncertainty", "in/maps/", "--overwrite")
    assert sorted(path.as_posix() for path in Path("in").rglob("*.png")) == written
    assert [line["input"] for line in again if line["event"] == "result"] == [
        line["input"] for line in first if line["event"] == "result"
    ]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--uncertainty", "-"], 2),
        (["--uncertainty", "map.jpg"], 2),
        (["--samples", "0"], 2),
        (["--samples", "65"], 2),
        (["--samples", "2", "--in-place"], 2),
        (["--uncertainty", "a.png"], 7),
        (["--uncertainty", "old.png"], 7),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(options: list[str], code: int, restore: Run) -> None:
    photograph(Path("a.png"), 16)
    photograph(Path("old.png"), 16)
    restore("denoise", "a.png", "--sigma", "20", *options, code=code)
    assert not Path("a_denoised.png").exists()


def test_a_copied_picture_has_a_map_of_zeros(restore: Run) -> None:
    photograph(Path("a.png"), 16)
    (done, _) = restore("denoise", "a.png", "--sigma", "0", "--uncertainty", "u.png")
    found = read_map(Path("u.png"))
    assert found is not None
    assert found.half.shape == (16, 16)
    assert not found.half.any()
    assert done["uncertainty"]["note"]
    assert done["consistency"] is None


def test_a_map_survives_its_file(tmp_path: Path) -> None:
    half = np.array([[0.0, 0.001, 1.5, 300.0]], np.float32)
    path = tmp_path / "u.png"
    path.write_bytes(encode_map(half, 0.9, calibrated=False, words="in words", record="{}"))
    found = read_map(path)
    assert found is not None
    assert found.half.tolist() == [[0.0, 1 / SCALE, 1.5, pytest.approx(65535 / SCALE)]]
    assert not found.calibrated
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
        assert "half width" in image.info["Description"]
    other = tmp_path / "other.png"
    Image.new("L", (2, 2)).save(other)
    assert read_map(other) is None
    other.write_bytes(path.read_bytes()[:60])
    assert read_map(other) is None


@pytest.mark.parametrize("kind", ["tensor", "array", "image"])
def test_python_returns_the_result_and_its_map(kind: str) -> None:
    tensor = torch.rand(3, 20, 28, generator=torch.Generator().manual_seed(0))
    pixels = (tensor.permute(1, 2, 0) * 255).byte().numpy()
    picture = {"tensor": tensor, "array": pixels, "image": Image.fromarray(pixels)}[kind]
    result, found = restorer.denoise(picture, sigma=20.0, steps=1, uncertainty=True)
    plain = restorer.denoise(picture, sigma=20.0, steps=1)
    assert np.array_equal(np.asarray(result), np.asarray(plain))
    assert isinstance(found, torch.Tensor if kind == "tensor" else np.ndarray)
    assert tuple(found.shape) == (20, 28)
    assert float(found.min()) > 0


def test_python_returns_a_list_of_maps_for_a_batch() -> None:
    batch = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    results, maps = restorer.denoise(batch, sigma=20.0, steps=1, uncertainty=True)
    assert results.shape == batch.shape
    assert [tuple(m.shape) for m in maps] == [(16, 16)] * 2
