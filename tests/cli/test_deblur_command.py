"""The verb `deblur` on the command line: kernels by name and by file, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel
from restorer.folders.provenance import parse_record
from restorer.images.files import load
from restorer.models import load as models_load

IMAGES = Path(__file__).resolve().parents[1] / "images"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the command in an empty folder with one picture, with a stub as the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(values).save("img.png")

    def restore(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return run([str(a) for a in arguments]), *capsys.readouterr()

    return restore


GIVEN = {
    "gaussian": ("--gaussian", "1.2"),
    "gaussian of two widths": ("--gaussian", "2x1.2@30"),
    "defocus": ("--defocus", "2.5"),
    "motion": ("--motion", "7@30"),
    "negative angle": ("--motion", "7@-45.5"),
    "picture": ("--kernel", "k.png"),
    "array": ("--kernel", "k.npy"),
}


def write_kernels() -> None:
    kernel = np.zeros((5, 6))
    kernel[2, 1:5] = [1, 2, 2, 1]
    np.save("k.npy", kernel)
    Image.fromarray((kernel * 100).astype(np.uint8)).save("k.png")


@pytest.mark.parametrize("kind", GIVEN)
def test_every_way_to_name_a_kernel(kind: str, call: Call) -> None:
    write_kernels()
    code, out, err = call("deblur", "img.png", *GIVEN[kind], "--sigma", 3)
    assert (code, out) == (0, "img_deblurred.png\n"), err
    assert load(Path("img_deblurred.png")).pixels.shape == (40, 50, 3)
    record = json.loads(load(Path("img_deblurred.png")).text["restorer"])
    option, value = GIVEN[kind]
    assert str(record["options"][option.strip("-")]) == value and record["command"] == "deblur"


def test_an_array_and_a_picture_of_it_are_the_same_kernel(call: Call) -> None:
    write_kernels()
    for name in ("k.npy", "k.png"):
        assert call("deblur", "img.png", "--kernel", name, "--sigma", 3, "-o", f"{name}.png")[0] == 0
    a, b = (load(Path(f"{name}.png")).pixels.astype(int) for name in ("k.npy", "k.png"))
    assert np.abs(a - b).max() <= 1


def test_the_noise_is_measured_and_told(call: Call) -> None:
    code, out, err = call("deblur", "img.png", "--gaussian", 1, "--json")
    assert code == 0
    record = next(json.loads(line) for line in out.splitlines() if json.loads(line)["event"] == "result")
    assert record["noise"]["kind"] in ("white", "none") and "sigma" in record
    assert "deblur img.png" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--gaussian", "2x1"), 2, "gaussian must be a number, or two and an angle"),
        (("--gaussian", "2x1x1@3"), 2, "gaussian must be a number, or two and an angle"),
        (("--gaussian", "soft"), 2, "gaussian must be a number, or two and an angle"),
        (("--gaussian", "2x0@3"), 2, "gaussian must be above 0"),
        (("--gaussian", 1, "--defocus", 2), 2, "only one blur"),
        (("--gaussian", 0), 2, "gaussian must be above 0"),
        (("--gaussian", "nan"), 2, "gaussian must be above 0"),
        (("--defocus", 61), 2, "defocus must be above 0 and at most 60"),
        (("--motion", "13"), 2, "a motion is a length and an angle"),
        (("--motion", "a@b"), 2, "a motion is a length and an angle"),
        (("--motion", "0@10"), 2, "the length of a motion"),
        (("--motion", "5@inf"), 2, "the length of a motion"),
        (("--kernel", "nowhere.png"), 4, "does not exist"),
        (("--kernel", "img.txt"), 4, "img.txt is not a picture but text"),
        (("--kernel", "cube.npy"), 2, "rows and columns"),
        (("--kernel", "words.npy"), 4, "damaged"),
        (("--kernel", "zero.npy"), 2, "at least one is above 0"),
        (("--kernel", "large.npy"), 2, "is larger than the picture"),
        (("--kernel", "huge.npy"), 2, "is larger than 511 pixels"),
        (("--gaussian", 1, "--sigma", 3, "--noise", "white"), 2, "a given sigma leaves nothing to measure"),
    ],
)
def test_what_is_refused(arguments: tuple[object, ...], code: int, message: str, call: Call) -> None:
    Path("img.txt").write_text("no kernel at all")
    np.save("cube.npy", np.ones((3, 3, 3)))
    np.save("words.npy", np.array(["a", {}], dtype=object), allow_pickle=True)
    np.save("zero.npy", np.zeros((3, 3)))
    np.save("large.npy", np.ones((45, 45)))
    np.save("huge.npy", np.ones((513, 3)))
    found, out, err = call("deblur", "img.png", *arguments)
    assert (found, out) == (code, ""), err
    assert message in err and err.startswith("error: ") and "bug" not in err
    assert not Path("img_deblurred.png").exists()


def write_blurred(name: str) -> None:
    """Write a photograph of a lens out of focus."""
    with Image.open(IMAGES / "gates.jpg") as image:
        half = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    x = torch.from_numpy(np.asarray(half).copy()).permute(2, 0, 1)[:, :200, :240] / 255
    y = Blur(defocus_kernel(3)).measure(x[None])[0]
    y = (255 * y + 2 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).round().clamp(0, 255)
    Image.fromarray(y.byte().permute(1, 2, 0).numpy()).save(name)


def test_a_blur_that_is_found_is_told_and_repeated(call: Call) -> None:
    write_blurred("soft.png")
    code, out, err = call("deblur", "soft.png", "--sigma", 2, "--json")
    assert code == 0 and "blur: defocus of radius" in next(line for line in err.splitlines() if "soft.png" in line)
    result = next(json.loads(line) for line in out.splitlines() if json.loads(line)["event"] == "result")
    assert result["blur"]["kind"] == "defocus" and float(result["blur"]["value"]) == pytest.approx(3, rel=0.05)
    record = parse_record(load(Path("soft_deblurred.png")).text["restorer"])
    assert record is not None and record.found.startswith("blur: defocus of radius")
    assert record.options["defocus"] == result["blur"]["value"] and record.options["gaussian"] is None
    Path("soft_deblurred.png").rename("first.png")
    assert call(*record.arguments())[0] == 0
    assert (load(Path("first.png")).pixels == load(Path("soft_deblurred.png")).pixels).all()


def test_a_picture_without_a_blur_is_copied(call: Call) -> None:
    code, out, err = call("deblur", "img.png", "--json")
    assert code == 0 and "the picture is copied" in err and "sigma" not in err
    result = next(json.loads(line) for line in out.splitlines() if json.loads(line)["event"] == "result")
    assert result["blur"] is None and result["steps"] == 0
    assert (load(Path("img_deblurred.png")).pixels == load(Path("img.png")).pixels).all()
