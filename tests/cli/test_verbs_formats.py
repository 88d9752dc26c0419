"""Every mode and format in each verb: size, depth, alpha, colour profile, resolution and EXIF of the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from picture_files import CASES, Case
from PIL import ExifTags, Image, features
from stubs import Smooth

from restorer.cli.app import run
from restorer.images.files import load
from restorer.images.picture import Picture
from restorer.models import load as models_load

SUFFIXES = {"JPEG": "jpg", "TIFF": "tif", "MPO": "jpg", "DIB": "bmp", "JPEG2000": "jp2"}
NAMES = [name for name in CASES if features.check("avif") or not name.startswith("avif")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())


def write_case(name: str) -> tuple[Case, Path, Picture]:
    """Write the file of a case; return the case, the path and the picture."""
    case = CASES[name]()
    path = Path("in." + SUFFIXES.get(case.format, case.format.lower()))
    path.write_bytes(case.data)
    return case, path, load(path)


def assert_kept(case: Case, before: Picture, path: Path, messages: str, scale: int = 1) -> Picture:
    """Assert that everything except the colour is kept.

    The depth may be lower if the format cannot hold it, but only with a message.
    """
    after = load(path)
    assert (after.width, after.height) == (scale * before.width, scale * before.height)
    assert after.channels == before.channels
    assert after.bits == before.bits or "rounded to" in messages
    assert after.icc == before.icc == case.icc
    assert after.dpi == (None if before.dpi is None else pytest.approx(before.dpi, abs=0.02))
    assert (after.alpha is None) == (before.alpha is None)
    if case.has_exif:
        exif = Image.Exif()
        exif.load(after.exif or b"")
        assert exif[ExifTags.Base.Make] == "Maker" and exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
    return after


@pytest.mark.parametrize("name", NAMES)
def test_denoise(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    case, path, before = write_case(name)
    same = path if path.suffix != ".gif" else Path("in.png")
    assert run(["denoise", str(path), "--sigma", "0", "-o", f"same{same.suffix}"]) == 0
    if same == path:
        assert Path(f"same{path.suffix}").read_bytes() == case.data  # without noise the file is copied
    else:
        np.testing.assert_array_equal(load(Path("same.png")).pixels, before.pixels)
    capsys.readouterr()
    assert run(["denoise", str(path), "--sigma", "20", "-o", f"out{same.suffix}"]) == 0
    after = assert_kept(case, before, Path(f"out{same.suffix}"), capsys.readouterr().err)
    if before.alpha is not None and not case.lossy:
        np.testing.assert_array_equal(after.alpha, before.alpha)
        np.testing.assert_array_equal(after.pixels[before.alpha == 0], before.pixels[before.alpha == 0])


@pytest.mark.parametrize("name", NAMES)
def test_inpaint(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    case, path, before = write_case(name)
    fill = np.zeros((before.height, before.width), dtype=bool)
    fill[2:5, 1:4] = True
    Image.fromarray(fill).save("mask.png")
    suffix = path.suffix if path.suffix != ".gif" else ".png"
    assert run(["inpaint", str(path), "--mask", "mask.png", "-o", f"out{suffix}", "--steps", "2"]) == 0
    after = assert_kept(case, before, Path(f"out{suffix}"), capsys.readouterr().err)
    if case.format not in ("JPEG", "MPO", "AVIF") and not before.lossy:
        np.testing.assert_array_equal(after.pixels[~fill], before.pixels[~fill])


@pytest.mark.parametrize("name", NAMES)
def test_upscale(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    case, path, before = write_case(name)
    suffix = path.suffix if path.suffix != ".gif" else ".png"
    assert run(["upscale", str(path), "--scale", "2", "-o", f"out{suffix}", "--steps", "2"]) == 0
    assert_kept(case, before, Path(f"out{suffix}"), capsys.readouterr().err, scale=2)
