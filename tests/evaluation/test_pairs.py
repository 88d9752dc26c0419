"""Degraded pictures beside their truths: how they are paired, and that the figures are those of the commands."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.errors import PictureError
from restorer.evaluation.pairs import find_truth, split_by_suffix
from restorer.models import load as models_load


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Return a smooth picture, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width] / 40
    bands = [120 + 60 * np.sin(x + seed) + 40 * np.cos((1 + 0.3 * c) * y) for c in range(3)]
    return np.rint(np.stack(bands, -1)).clip(0, 255).astype(np.uint8)


def add_noise(pixels: np.ndarray, seed: int, sigma: float = 20) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return np.rint(pixels + noise).clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def psnr(a: Path, b: Path) -> float:
    """Return the PSNR of two files over RGB by its definition."""
    x, y = (np.asarray(Image.open(path).convert("RGB"), float) for path in (a, b))
    return 10 * math.log10(255**2 / ((x - y) ** 2).mean())


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create noisy/ and clean/ with two pictures, one of them in a folder below; the prior is a cheap one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    for i, name in enumerate(("a.png", "deep/b.png")):
        clean = photograph(48, 64 + i, i)
        save(Path("clean", name), clean)
        save(Path("noisy", name), add_noise(clean, i))
    return tmp_path


def parse_lines(out: str) -> list[dict[str, Any]]:
    """Parse the JSON lines of standard output."""
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("suffixes", [False, True])
def test_the_figures_are_those_of_the_written_files(
    suffixes: bool, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`evaluate` restores as `denoise` does by default, and compares what `denoise` would write."""
    if suffixes:
        for kind in ("noisy", "clean"):
            for path in sorted(Path(kind).rglob("*.png")):
                target = Path("both", path.relative_to(kind).parent, f"{path.stem}_{kind}.png")
                save(target, np.asarray(Image.open(path)))
    arguments = ["both", "--pair", "_noisy", "_clean"] if suffixes else ["noisy", "--truth", "clean"]
    assert run(["evaluate", *arguments, "--json"]) == 0
    *results, summary = parse_lines(capsys.readouterr().out)
    assert [Path(r["input"]).name for r in results] == (
        ["a_noisy.png", "b_noisy.png"] if suffixes else ["a.png", "b.png"]
    )
    for result, name in zip(results, ("a.png", "deep/b.png"), strict=True):
        noisy, clean, written = Path("noisy", name), Path("clean", name), Path(f"{Path(name).stem}.png")
        assert run(["denoise", str(noisy), "-o", str(written), "-q"]) == 0
        assert result["psnr"] == pytest.approx(psnr(written, clean), abs=1e-4)
        assert result["baselines"]["noisy"]["psnr"] == pytest.approx(psnr(noisy, clean), abs=1e-4)
        assert result["condition"] == "as it is" and result["sigma"] == pytest.approx(20, rel=0.2)
        assert result["psnr"] > result["baselines"]["noisy"]["psnr"]
    means = {m["by"]: m for m in summary["means"]}
    assert means["restore"]["psnr"] == pytest.approx(np.mean([r["psnr"] for r in results]), abs=1e-4)
    assert summary["ok"] == 2 and means["noisy"]["pictures"] == 2


def test_a_noise_level_that_is_given_is_used(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "noisy", "--truth", "clean", "--sigma", "0", "--json"]) == 0
    result = parse_lines(capsys.readouterr().out)[0]
    assert result["psnr"] == result["baselines"]["noisy"]["psnr"] and "sigma" not in result


def test_the_factor_of_upscale_follows_from_the_sizes(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path("clean").rglob("*.png"):
        image = Image.open(path).crop((0, 0, 60, 48))
        save(Path("large", path.relative_to("clean")), np.asarray(image))
        save(Path("small", path.relative_to("clean")), np.asarray(image.resize((20, 16), Image.Resampling.BICUBIC)))
    assert run(["evaluate", "small", "--truth", "large", "--task", "upscale", "--json"]) == 0
    results = parse_lines(capsys.readouterr().out)[:-1]
    for result, name in zip(results, ("a.png", "deep/b.png"), strict=True):
        assert result["condition"] == "x3" and result["psnr_y"] > 20
        bicubic = Image.open(Path("small", name)).resize((60, 48), Image.Resampling.BICUBIC)
        save(Path("bicubic.png"), np.asarray(bicubic))
        expected = psnr(Path("bicubic.png"), Path("large", name))
        assert result["baselines"]["bicubic"]["psnr"] == pytest.approx(expected, abs=1e-4)


def test_inpaint_takes_masks_by_name(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path("clean").rglob("*.png"):
        pixels = np.array(Image.open(path))
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[10:14, 5:40] = 255
        save(Path("masks", path.relative_to("clean")), mask)
        pixels[mask > 0] = (255, 0, 0)
        save(Path("torn", path.relative_to("clean")), pixels)
    arguments = ["evaluate", "torn", "--truth", "clean", "--task", "inpaint", "--steps", "2", "--json"]
    assert run([*arguments, "--mask", "masks"]) == 0
    *results, _ = parse_lines(capsys.readouterr().out)
    assert all(r["psnr_holes"] > r["baselines"]["damaged"]["psnr_holes"] + 5 for r in results)
    assert run(arguments) == 2 and "inpaint needs masks" in capsys.readouterr().err


def test_a_picture_without_truth_is_left_out(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("clean/a.png").rename("clean/other.png")
    assert run(["evaluate", "noisy", "--truth", "clean", "--json"]) == 3
    failed, ok, summary = parse_lines(capsys.readouterr().out)
    assert failed["status"] == "failed" and "there is no truth for" in failed["error"] and ok["status"] == "ok"
    assert (summary["ok"], summary["failed"]) == (1, 1)
    assert run(["evaluate", "noisy/deep", "--truth", "noisy"]) == 4  # where b.png lies deeper
    assert run(["evaluate", "noisy", "--pair", "_x", "_y"]) == 4
    assert run(["evaluate", "noisy", "--truth", "nowhere"]) == 4


def test_another_size_is_a_failure(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("clean/a.png"), photograph(30, 40, 0))
    assert run(["evaluate", "noisy", "--truth", "clean"]) == 3
    assert "has 64x48 pixels, but its truth 40x30" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    "options",
    [
        ["--truth", "clean", "--pair", "_noisy", "_clean"],
        ["--truth", "clean", "--scale", "2", "--task", "upscale"],
        ["--truth", "clean", "--sigma", "5", "10"],
        ["--truth", "clean", "--mask", "clean"],
        ["--truth", "clean", "--bits-per-dim"],
        ["--pair", "_a", "_a"],
        ["--pair", "", "_a"],
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], folders: Path) -> None:
    assert run(["evaluate", "noisy", *options]) == 2


def test_the_csv_file_and_the_sheet(folders: Path) -> None:
    assert run(["evaluate", "noisy", "--truth", "clean", "--csv", "f.csv", "--sheet", "s.png", "-q"]) == 0
    rows = list(csv.DictReader(Path("f.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["picture"], row["by"]) for row in rows] == [
        (name, by) for name in ("a.png", "deep/b.png") for by in ("restore", "noisy")
    ]
    assert 15 < float(rows[0]["sigma"]) < 25 and rows[1]["sigma"] == ""
    assert Image.open("s.png").width > 200


def test_truths_are_found_by_name_or_by_stem(tmp_path: Path) -> None:
    for name in ("t/x.jpg", "t/x.png", "t/sub/y.webp", "t/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root, truths = tmp_path / "n", tmp_path / "t"
    assert find_truth(root / "x.png", root, truths) == truths / "x.png"
    assert find_truth(root / "x.tif", root, truths) == truths / "x.jpg"
    assert find_truth(root / "sub" / "y.png", root, truths) == truths / "sub" / "y.webp"
    assert find_truth(root / "x.png", None, truths) == truths / "x.png"
    for missing in ("z.png", "y.png"):
        with pytest.raises(PictureError, match="no truth"):
            find_truth(root / missing, root, truths)


def test_names_of_pairs_may_end_in_nothing() -> None:
    paths = [Path(name) for name in ("d/a.png", "d/a_noisy.jpg", "d/b_noisy.png", "d/c.png")]
    assert split_by_suffix(paths, "_noisy", "") == [
        (Path("d/a_noisy.jpg"), Path("d/a.png")),
        (Path("d/b_noisy.png"), None),
    ]
