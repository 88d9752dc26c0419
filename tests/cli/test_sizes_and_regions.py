"""`--region` of every restoring verb, and the sizes of `restore upscale`, on the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import ExifTags, Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.folders.provenance import parse_record
from restorer.images.files import load
from restorer.images.picture import RECORD
from restorer.models import load as models_load


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Restore = Callable[..., Outcome]


@pytest.fixture
def restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Restore:
    """Return a function that runs a command line with a cheap prior in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


def picture(name: str = "img.png", width: int = 40, height: int = 30, mode: str = "RGB") -> np.ndarray:
    """Write a picture of uniform noise, and return its pixels."""
    values = np.random.default_rng(0).integers(60, 196, (height, width, len(mode)), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = width
    Image.fromarray(values).save(name, exif=exif.tobytes())
    return values


def mask(width: int = 40, height: int = 30) -> str:
    fill = np.zeros((height, width), np.uint8)
    fill[8:14, 8:20] = 255
    Image.fromarray(fill).save("m.png")
    return "m.png"


RESULT_TAGS = {
    "denoise": "denoised",
    "dejpeg": "dejpegged",
    "deblur": "deblurred",
    "inpaint": "inpainted",
    "upscale": "x2",
    "auto": "restored",
}
"""The restoring verbs, and what they add to the names of results."""


def options_of(verb: str) -> list[str]:
    return {
        "inpaint": ["--mask", mask()],
        "denoise": ["--sigma", "20"],
        "deblur": ["--gaussian", "1", "--sigma", "5", "--steps", "2"],
        "upscale": ["--scale", "2", "--steps", "2"],
    }.get(verb, [])


@pytest.mark.parametrize("verb", RESULT_TAGS)
def test_a_region_is_written_alone(verb: str, restore: Restore) -> None:
    picture()
    options, tag = options_of(verb), RESULT_TAGS[verb]
    assert restore(verb, "img.png", *options, "--region", "6,5,20,10").code == 0
    factor = 2 if verb == "upscale" else 1
    name = f"img_{tag}_20x10+6+5.png"
    with Image.open(name) as image:
        assert image.size == (20 * factor, 10 * factor)
        width = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ExifImageWidth)
        assert width == 20 * factor
    restore(verb, "img.png", *options, "-o", "whole.png")
    part = load(Path("whole.png")).pixels[5 * factor : 15 * factor, 6 * factor : 26 * factor]
    assert np.abs(load(Path(name)).pixels.astype(int) - part).max() <= 1


def test_the_record_makes_the_region_again(restore: Restore) -> None:
    picture()
    assert restore("denoise", "img.png", "--sigma", "20", "--region", "6,5,20,10").code == 0
    first = Path("img_denoised_20x10+6+5.png").read_bytes()
    record = parse_record(load(Path("img_denoised_20x10+6+5.png")).text[RECORD])
    assert record is not None and record.options["region"] == "6,5,20,10" and len(record.source_sha256) == 64
    assert restore(*record.arguments(), "--overwrite").code == 0
    assert Path("img_denoised_20x10+6+5.png").read_bytes() == first
    assert "--region 6,5,20,10" in shlex.join(record.arguments())


def test_known_pixels_of_a_region_stay(restore: Restore) -> None:
    pixels = picture()
    assert restore("inpaint", "img.png", "--mask", mask(), "--region", "6,5,20,10").code == 0
    result = load(Path("img_inpainted_20x10+6+5.png")).pixels
    known = np.asarray(Image.open("m.png"))[5:15, 6:26] == 0
    assert np.array_equal(result[known], pixels[5:15, 6:26][known]) and not known.all()


def test_an_unchanged_region_is_cut_out(restore: Restore) -> None:
    pixels = picture(mode="RGBA")
    assert restore("denoise", "img.png", "--sigma", "0", "--region", "6,5,20,10", "-o", "part.png").code == 0
    part = load(Path("part.png"))
    assert np.array_equal(part.pixels, pixels[5:15, 6:26, :3]) and part.alpha is not None
    assert np.array_equal(part.alpha, pixels[5:15, 6:26, 3])


@pytest.mark.parametrize("region", ["30,5,20,10", "6,25,20,10", "0,0,41,1"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_region_outside_is_refused_with_the_size_of_the_picture(
    region: str, dry: list[str], restore: Restore
) -> None:
    picture()
    for verb in ("denoise", "upscale"):
        outcome = restore(verb, "img.png", "--region", region, *dry)
        assert outcome.code == 2 and len(outcome.errors) == 1 and "40x30 pixels" in outcome.errors[0]
    assert sorted(p.name for p in Path().iterdir()) == ["img.png"]


@pytest.mark.parametrize("region", ["1,2,3", "1,2,0,4", "-1,2,3,4", "a,b,c,d", "1.5,2,3,4", ""])
def test_what_is_no_region_is_refused(region: str, restore: Restore) -> None:
    picture()
    outcome = restore("denoise", "img.png", f"--region={region}")
    assert outcome.code == 2 and len(outcome.errors) == 1 and "region" in outcome.errors[0]


@pytest.mark.parametrize(
    ("options", "size", "tag"),
    [
        (["--scale", "1.5"], (60, 45), "x1.5"), (["--scale", "2.0"], (80, 60), "x2"),
        (["--width", "100"], (100, 75), "w100"),
        (["--height", "45"], (60, 45), "h45"), (["--width", "200", "--height", "60"], (80, 60), "200x60"),
    ],
    ids=str,
)  # fmt: skip
def test_any_size(options: list[str], size: tuple[int, int], tag: str, restore: Restore) -> None:
    picture()
    plan, _ = restore("upscale", "img.png", *options, "--dry-run", "--json").events
    assert (plan["width"], plan["height"]) == size and plan["output"] == f"img_{tag}.png"
    done, _ = restore("upscale", "img.png", *options, "--steps", "2", "--json").events
    assert (done["width"], done["height"]) == size
    with Image.open(f"img_{tag}.png") as image:
        assert image.size == size
    record = parse_record(load(Path(f"img_{tag}.png")).text[RECORD])
    assert record is not None
    first = Path(f"img_{tag}.png").read_bytes()
    assert restore(*record.arguments(), "--overwrite").code == 0
    assert Path(f"img_{tag}.png").read_bytes() == first


@pytest.mark.parametrize(
    "options",
    [["--scale", "1"], ["--scale", "8.5"], ["--scale", "nan"], ["--scale", "2", "--width", "80"], ["--width", "40"],
     ["--width", "400"], ["--height", "0"], ["--width", "1000", "--height", "30"]],
    ids=str,
)  # fmt: skip
def test_what_is_no_enlargement_is_refused(options: list[str], restore: Restore) -> None:
    picture()
    outcome = restore("upscale", "img.png", *options)
    assert outcome.code == 2 and len(outcome.errors) == 1
    assert sorted(p.name for p in Path().iterdir()) == ["img.png"]


def test_memory_is_that_of_the_larger_factor(restore: Restore) -> None:
    """A factor of 1.5 takes what 2 takes, and 2.5 what 3 takes."""
    picture()

    def memory(*options: object) -> int:
        return int(restore("upscale", "img.png", *options, "--dry-run", "--json").events[0]["peak_mem_mb"])

    picture(width=2000, height=1500)
    assert memory("--scale", 1.5) == memory("--scale", 2) < memory("--scale", 2.5) == memory("--scale", 3)
    assert memory("--scale", 2, "--region", "0,0,100,100") < memory("--scale", 2)


def test_transparency_is_reproduced_with_the_steps_that_were_asked_for(restore: Restore) -> None:
    """The evaluations that the transparency takes beside them are not part of the option."""
    picture(mode="RGBA")
    done, _ = restore("upscale", "img.png", "--scale", 2, "--steps", 2, "--json").events
    assert done["steps"] == 4 and "transparency" in " ".join(done["warnings"])
    record = parse_record(load(Path("img_x2.png")).text[RECORD])
    assert record is not None and record.options["steps"] == 2


def test_the_tile_of_an_enlarged_jpeg_is_that_of_the_large_picture(restore: Restore) -> None:
    values = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(values).save("img.jpg", quality=20)
    done, _ = restore("upscale", "img.jpg", "--scale", 2, "--steps", 2, "--json").events
    assert done["jpeg"] is not None and done["tile"] == 80
