"""`--format` and `--quality` choose how results are written, and a result's name goes by the content of its picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.images.files import load
from restorer.images.foreign import PLUGINS, load_plugins
from restorer.models import load as models_load

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs a command in an empty folder, with a stub as the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())

    def restore(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return run([str(a) for a in arguments]), *capsys.readouterr()

    return restore


def picture(path: str, mode: str = "RGB", format: str | None = None) -> None:
    values = np.random.default_rng(0).integers(60, 200, (24, 30, len(mode)), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, format)


def format_of(path: str) -> str | None:
    with Image.open(path) as image:
        return image.format


@pytest.mark.parametrize(
    ("name", "suffix", "format"),
    [
        *(("png", ".png", "PNG"), ("jpeg", ".jpg", "JPEG"), ("JPG", ".jpg", "JPEG"), ("webp", ".webp", "WEBP")),
        *(("tiff", ".tif", "TIFF"), ("avif", ".avif", "AVIF"), ("bmp", ".bmp", "BMP")),
        *(("heic", ".heic", "HEIF"), ("jxl", ".jxl", "JXL")),
    ],
)
def test_a_folder_in_one_format(name: str, suffix: str, format: str, call: Call) -> None:
    if format in PLUGINS and format not in load_plugins():
        pytest.skip(f"{PLUGINS[format].package} is not installed")
    picture("in/a.png"), picture("in/b.jpg"), picture("in/deep/c.gif")
    code, out, err = call("denoise", "in", "-r", "-o", "out", "--format", name, "--sigma", 9, "--steps", 1)
    assert code == 0, err
    written = [f"out/a_denoised{suffix}", f"out/b_denoised{suffix}", f"out/deep/c_denoised{suffix}"]
    assert sorted(out.split()) == written
    assert {format_of(path) for path in written} == {format}


def test_a_lower_quality_is_a_smaller_file_and_lossy_webp(call: Call) -> None:
    picture("a.png")
    sizes = {}
    for format in ("jpeg", "webp", "avif"):
        for quality in (30, 95):
            target = f"{format}{quality}"
            options = ("--sigma", 9, "--steps", 1, "--format", format, "--quality", quality, "-o", f"{target}/")
            assert call("denoise", "a.png", *options)[0] == 0
            (path,) = Path(target).glob("a_denoised.*")
            sizes[format, quality] = path.stat().st_size
            assert load(path).lossy
    assert all(sizes[format, 30] < 0.8 * sizes[format, 95] for format in ("jpeg", "webp", "avif"))


def test_the_record_holds_both_and_resume_notices_them(call: Call) -> None:
    picture("in/a.png")
    base = ("denoise", "in", "-r", "-o", "out", "--sigma", 9, "--steps", 1, "--format", "jpeg")
    assert call(*base, "--quality", 40)[0] == 0
    options = json.loads(load(Path("out/a_denoised.jpg")).text["restorer"])["options"]
    assert options["format"] == "jpeg" and options["quality"] == 40
    before = Path("out/a_denoised.jpg").read_bytes()
    assert call(*base, "--quality", 40, "--resume")[0] == 0
    assert Path("out/a_denoised.jpg").read_bytes() == before
    assert call(*base, "--quality", 90, "--resume")[0] == 0
    assert len(Path("out/a_denoised.jpg").read_bytes()) > len(before)


@pytest.mark.parametrize("arguments", [("--format", "heic"), ("-o", "x.HEIF"), ("-o", "x.jxl"), ("--format", "jxl")])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_format_whose_plug_in_is_missing(
    arguments: tuple[str, str], more: tuple[str, ...], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    picture("a.png")
    code, _, err = call("denoise", "a.png", "--sigma", 9, "--steps", 1, *arguments, *more)
    extra = "jxl" if "jxl" in arguments[1] else "heif"
    assert code == 2 and f"pip install 'restorer[{extra}]'" in err
    assert [path.name for path in Path().iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "gif"), "unknown format 'gif'"),
        (("--format", "png", "-o", "x.jpg"), "contradict each other"),
        (("--format", "png", "--in-place"), "--in-place and --format cannot be combined"),
        (("--quality", 0), "quality must lie between 1 and 100"),
        (("--quality", 101), "quality must lie between 1 and 100"),
    ],
)
def test_what_is_refused(arguments: tuple[object, ...], message: str, call: Call) -> None:
    picture("a.png")
    code, out, err = call("denoise", "a.png", *arguments)
    assert (code, out) == (2, "") and message in err
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_a_format_and_a_name_of_the_same_format_agree(call: Call) -> None:
    picture("a.png")
    assert call("denoise", "a.png", "--sigma", 9, "--steps", 1, "--format", "jpeg", "-o", "x.jpeg")[0] == 0
    assert format_of("x.jpeg") == "JPEG"


@pytest.mark.parametrize(
    ("name", "format", "mode", "result"),
    [
        ("sticker.jpg", "PNG", "RGBA", "sticker_denoised.png"),
        ("photo.png", "JPEG", "RGB", "photo_denoised.jpg"),
        ("photo.webp", "TIFF", "RGB", "photo_denoised.tif"),
        ("photo.jpeg", "WEBP", "RGB", "photo_denoised.webp"),
        ("film.png", "GIF", "RGB", "film_denoised.png"),
        ("right.jpeg", "JPEG", "RGB", "right_denoised.jpeg"),
        ("RIGHT.JPG", "JPEG", "RGB", "RIGHT_denoised.JPG"),
    ],
)
def test_a_result_goes_by_the_content(name: str, format: str, mode: str, result: str, call: Call) -> None:
    picture(name, mode, format)
    code, out, err = call("denoise", name, "--sigma", 9, "--steps", 1)
    assert (code, out) == (0, f"{result}\n"), err
    assert format_of(result) == (format if format != "GIF" else "PNG")


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
@pytest.mark.parametrize("target", [("-o", "big.webp"), ("--format", "webp")])
def test_a_side_that_the_format_cannot_hold_is_refused_before_the_work(
    target: tuple[str, str], options: tuple[str, ...], call: Call
) -> None:
    Image.new("RGB", (2100, 4)).save("strip.png")
    code, _, err = call("upscale", "strip.png", "--scale", 8, *target, *options)
    assert code == 2 and "WEBP cannot hold 16800x32 pixels: a side has at most 16,383" in err
    assert [path.name for path in Path().iterdir()] == ["strip.png"]
