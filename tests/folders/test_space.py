"""The disk space of results: what is estimated from headers, and which runs are refused before the work."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.folders.paths import Item
from restorer.folders.space import BYTES_PER_PIXEL, check_space, estimate_bytes, estimate_needs
from restorer.images.headers import Header, read_header
from restorer.images.sizes import Enlargement, Geometry
from restorer.models import load as models_load

Restore = Callable[..., tuple[int, str, str]]
NOT_PHOTOGRAPHS = ("enlarging", "mask-page")
PHOTOGRAPHS = sorted(
    path for path in (Path(__file__).parents[1] / "images").glob("*.jpg") if path.stem not in NOT_PHOTOGRAPHS
)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def restore(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Restore:
    """Return a function that runs a command line in this process with a cheap prior."""
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def pictures(count: int, side: int = 64) -> None:
    Path("in").mkdir()
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"in/{i}.png")


def leave_free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - count, count))


# ------------------------------------------------------------------------------------------------------------ estimates


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".jpg", {"quality": 95, "subsampling": 0})])
def test_photographs_take_about_what_is_estimated(suffix: str, options: dict[str, int]) -> None:
    expected = written = 0
    for path in PHOTOGRAPHS:
        header = read_header(path)
        assert header is not None
        expected += estimate_bytes(header, suffix)
        with Image.open(path) as image:
            image.convert("RGB").save(f"x{suffix}", **options)
        written += Path(f"x{suffix}").stat().st_size
    assert 0.5 < written / expected < 2


def test_the_estimate_grows_with_the_result() -> None:
    header = Header("PNG", 100, 50, 3, 8)
    assert estimate_bytes(header, ".BMP") == 100 * 50 * 3
    assert estimate_bytes(header, ".png", 4) == 16 * estimate_bytes(header, ".png")
    assert estimate_bytes(Header("PNG", 100, 50, 1, 8), ".png") == round(estimate_bytes(header, ".png") / 3)
    assert estimate_bytes(Header("TIFF", 100, 50, 3, 16), ".tiff") == 2 * estimate_bytes(header, ".tif")
    assert estimate_bytes(Header("JPEG", 100, 50, 3, 8), ".webp") < estimate_bytes(header, ".webp")
    assert set(BYTES_PER_PIXEL) <= {".png", ".jpg", ".webp", ".tif", ".bmp", ".avif", ".heic", ".jxl"}


def test_the_needs_are_those_of_files_with_headers() -> None:
    pictures(2)
    Path("in/broken.png").write_bytes(b"no picture")
    items = [Item(Path(f"in/{name}.png"), Path(f"out/{name}.png")) for name in (0, 1, "broken")]
    needs = estimate_needs([*items, Item(Path("-"), Path("-"))], Geometry(Enlargement(2)))
    assert [need.item for need in needs] == items[:2]
    assert needs[0].expected == round(128 * 128 * BYTES_PER_PIXEL[".png"])
    assert needs[0].least == round(needs[0].expected / 4)


def test_the_least_depends_on_what_the_input_tells() -> None:
    Path("in").mkdir()
    flat, noise = Image.new("RGB", (64, 64)), np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    flat.save("in/flat.png")
    flat.save("in/flat.tga")
    Image.fromarray(noise).save("in/noise.png")

    def least(source: str, target: str) -> int:
        (need,) = estimate_needs([Item(Path("in", source), Path(target))])
        return need.least

    assert least("flat.png", "a.png") <= Path("in/flat.png").stat().st_size / 4 + 1  # a drawing stays small
    assert least("flat.tga", "a.png") < 0.05 * least("noise.png", "a.bmp")  # nothing is known of it
    assert least("noise.png", "a.bmp") == 64 * 64 * 3  # without compression, the size is known


def test_what_is_replaced_becomes_free() -> None:
    pictures(1)
    Path("out.png").write_bytes(bytes(10**6))
    (need,) = estimate_needs([Item(Path("in/0.png"), Path("out.png"))])
    assert need.least == 0
    source = Path("in/0.png")
    (kept,), (replaced,) = (estimate_needs([Item(source, source)], keeps_input=keeps) for keeps in (True, False))
    assert kept.least > replaced.least == 0


# --------------------------------------------------------------------------------------------------------- the decision


def test_results_that_cannot_fit_are_refused_before_the_work(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(3)
    leave_free(monkeypatch, 1000)

    def load_nothing(*arguments: object) -> Smooth:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(models_load, "load_prior", load_nothing)
    code, _, err = restore("denoise", "in", "-r", "-o", "out", "--sigma", "9")
    assert code == 7 and "the 3 results take about 19.7 kB, but only 1.0 kB are free in out" in err
    assert not list(Path("out").glob("*.png"))


def test_results_that_may_not_fit_are_made_with_a_note(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(3)
    leave_free(monkeypatch, 12_000)
    code, _, err = restore("denoise", "in", "-r", "-o", "out", "--sigma", "9")
    assert code == 0 and "note: the 3 results take about 19.7 kB, and only 12.0 kB are free in out" in err
    assert len(list(Path("out").glob("*.png"))) == 3


def test_a_dry_run_shows_the_space_and_the_refusal(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(3)
    leave_free(monkeypatch, 10**9)
    common = ("denoise", "in", "-r", "-o", "out", "--sigma", "9", "--dry-run")
    code, out, err = restore(*common, "--json")
    plans = [json.loads(line) for line in out.splitlines()][:3]
    assert code == 0 and [plan["bytes"] for plan in plans] == [round(64 * 64 * BYTES_PER_PIXEL[".png"])] * 3
    assert "the results take about 19.7 kB, and 1.0 GB are free" in err
    leave_free(monkeypatch, 1000)
    code, _, err = restore(*common)
    assert code == 7 and "in/0.png -> out/0_denoised.png" in err and "only 1.0 kB are free" in err


def test_each_disk_is_counted_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(2)
    Path("small").mkdir()
    items = [Item(Path("in/0.png"), Path("small/0.png")), Item(Path("in/1.png"), Path("large/1.png"))]
    needs = estimate_needs(items)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 5000 if Path(path).name == "small" else 10**9))
    status = Path.stat

    def on_two_disks(path: Path, **options: bool) -> object:
        found = status(path, **options)
        return namedtuple("Status", "st_dev st_mode")(1 if path.name == "small" else 2, found.st_mode)

    monkeypatch.setattr(Path, "stat", on_two_disks)
    assert check_space(needs) == ["the result takes about 6.6 kB, and only 5.0 kB are free in small"]


def test_a_system_that_does_not_tell_the_space_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(1)

    def fail(path: Path) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(shutil, "disk_usage", fail)
    assert check_space(estimate_needs([Item(Path("in/0.png"), Path("out/0.png"))])) == []


# -------------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "bmp", "ppm", "tga", "jp2", "qoi", "pcx"])
def test_a_header_tells_the_size_without_the_pixels(suffix: str) -> None:
    Image.new("RGB", (40, 30), (90, 80, 70)).save(f"a.{suffix}")
    header = read_header(Path(f"a.{suffix}"))
    assert header is not None and (header.width, header.height, header.frames) == (40, 30, 1)
    assert header.bits == 8 and not header.record


def test_a_header_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 30)).save("a.jpg", exif=exif)
    header = read_header(Path("a.jpg"))
    assert header is not None and (header.width, header.height) == (30, 40)


def test_deep_and_damaged_files() -> None:
    Image.fromarray(np.zeros((5, 6), np.uint16)).save("deep.png")
    header = read_header(Path("deep.png"))
    assert header is not None and (header.bits, header.channels) == (16, 1)
    Path("bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9))
    assert read_header(Path("bad.png")) is None
    assert read_header(Path("absent.png")) is None
