"""The verb `auto` on the command line: what it says, writes and records, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from restorer.cli.app import run
from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel
from restorer.images.files import load
from restorer.tasks.auto import NOTHING_FOUND

IMAGES = Path(__file__).resolve().parents[1] / "images"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the command in a folder with a good, a noisy and a compressed picture."""
    monkeypatch.chdir(tmp_path)
    with Image.open(IMAGES / "gates.jpg") as image:
        good = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX).crop((60, 40, 156, 136))
    good.save("good.png")
    pixels = np.asarray(good) + 15 * np.random.default_rng(0).standard_normal((96, 96, 3))
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save("noisy.png")
    good.save("small.jpg", quality=30)
    with Image.open(IMAGES / "gates.jpg") as image:
        wide = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    left, top = (wide.width - 160) // 2, (wide.height - 160) // 2
    x = torch.from_numpy(np.asarray(wide).copy()).permute(2, 0, 1)[None, :, top : top + 160, left : left + 160] / 255
    soft = Blur(defocus_kernel(3.0)).measure(x)[0].permute(1, 2, 0).numpy() * 255
    pixels = soft + 2.5 * np.random.default_rng(1).standard_normal(soft.shape)
    Path("more").mkdir()
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save("more/blurred.png")
    lines = np.tile(np.linspace(60, 90, 160).astype(np.uint8)[:, None, None], (1, 160, 3))
    stroked = Image.fromarray(lines)
    for line in ((10, 20, 150, 60), (30, 150, 90, 80), (120, 90, 125, 150)):
        ImageDraw.Draw(stroked).line(line, (250, 250, 250), 3)
    stroked.save("more/scratched.png")

    def restore(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return run([str(a) for a in arguments]), *capsys.readouterr()

    return restore


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def record_of(path: str) -> dict[str, Any]:
    content = json.loads(load(Path(path)).text["restorer"])
    assert isinstance(content, dict)
    return content


def test_it_says_what_it_found_and_what_it_does(call: Call) -> None:
    code, out, err = call("auto", "small.jpg", "--scale", 2, "--json")
    assert code == 0, err
    first = err.splitlines()[0]
    assert "found JPEG of quality 30, 4:2:0" in first and "then upscale by 2 · detail 0.5 · seed 0" in first
    assert first.startswith("auto small.jpg · photo · cpu") and "will dejpeg, then " in first
    result = events(out)[0]
    assert (result["output"], result["width"], result["height"]) == ("small_restored.jpg", 192, 192)
    assert result["steps"] >= 4 and result["jpeg"]["quality"] == 30
    repairs = result["repairs"]
    assert repairs[0]["step"] == "noise" and repairs[0]["found"].startswith("JPEG of quality 30, 4:2:0")
    assert repairs[0]["action"].startswith("dejpeg")
    assert repairs[1] == {"step": "enlarging", "found": None, "action": "upscale by 2"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("noisy.png",),
        ("noisy.png", "--scale", "2", "--seed", "3", "--detail", "0.7"),
        ("small.jpg", "--no-noise"),
        ("more/blurred.png",),
        ("more/scratched.png",),
        ("noisy.png", "--scale", "1.5", "--no-noise", "--no-blur", "--region", "10,20,40,30"),
    ],
)
def test_the_record_holds_the_repairs_and_makes_the_same_bytes(arguments: tuple[str, ...], call: Call) -> None:
    picture, *options = arguments
    if picture.startswith("more/"):  # the record has no folder, and the command that it prints is run in this one
        picture = str(shutil.copy(picture, "."))
    code, out, err = call("auto", picture, *options)
    assert code == 0, err
    name = out.strip()
    record = record_of(name)
    assert record["command"] == "auto" and record["repairs"]
    assert record["repairs"][-1].startswith(
        ("denoise (white noise of", "dejpeg", "upscale by", "deblur (blur: defocus of", "inpaint (")
    )
    assert not {"sigma", "steps", "method"} & set(record["options"])
    code, out, err = call("doctor", name)
    assert code == 0 and "repairs" in err
    again = out.split()[2:]
    assert call(*again, "-o", f"again{Path(name).suffix}")[0] == 0
    assert Path(f"again{Path(name).suffix}").read_bytes() == Path(name).read_bytes()


def test_a_good_picture_is_copied(call: Call) -> None:
    code, out, err = call("auto", "good.png", "--json")
    assert code == 0 and "found nothing" in err.splitlines()[0] and NOTHING_FOUND in err
    result = events(out)[0]
    assert result["repairs"] == [] and result["steps"] == 0 and NOTHING_FOUND in result["warnings"]
    assert (load(Path("good_restored.png")).pixels == load(Path("good.png")).pixels).all()


def test_a_blur_is_told_in_words_and_in_numbers(call: Call) -> None:
    code, out, err = call("auto", "more/blurred.png", "--json")
    assert code == 0, err
    result = events(out)[0]
    assert result["blur"]["kind"] == "defocus" and result["blur"]["sure"]
    assert [repair["action"] for repair in result["repairs"]] == ["deblur", "deblur"]
    assert err.count("blur: defocus of radius") == 1
    record = record_of("more/blurred_restored.png")
    assert "blur: defocus of radius" in record["found"] and "defocus" not in record["options"]
    assert call("auto", "more/blurred.png", "--no-blur", "--json", "--overwrite")[0] == 0
    assert record_of("more/blurred_restored.png")["options"]["no_blur"]


def test_scratches_are_filled_unless_they_are_left(call: Call) -> None:
    before = load(Path("more/scratched.png")).pixels
    code, _, err = call("auto", "more/scratched.png")
    assert code == 0 and "scratches or specks" in err and "the mask" not in err
    assert load(Path("more/scratched_restored.png")).pixels.max() < 120 < before.max()
    assert call("auto", "more/scratched.png", "--no-scratches", "--overwrite")[0] == 0
    assert (load(Path("more/scratched_restored.png")).pixels == before).all()


def test_a_step_can_be_taken_out(call: Call) -> None:
    assert call("auto", "noisy.png", "--no-noise")[0] == 0
    assert (load(Path("noisy_restored.png")).pixels == load(Path("noisy.png")).pixels).all()
    code, out, _ = call("auto", "small.jpg", "--no-jpeg", "--no-noise", "--json")
    assert code == 0 and events(out)[0]["repairs"] == []


def test_a_dry_run_prints_the_plan_of_each_picture(call: Call) -> None:
    code, out, err = call("auto", ".", "-r", "--exclude", "more/*", "-o", "out", "--dry-run", "--json", "--scale", 2)
    assert code == 0, err
    assert not Path("out").exists()
    plans = {plan["input"]: plan for plan in events(out) if plan["event"] == "plan"}
    assert [repair["step"] for repair in plans["small.jpg"]["repairs"]] == ["noise", "enlarging"]
    assert [repair["action"] for repair in plans["noisy.png"]["repairs"]] == ["denoise", "upscale by 2"]
    assert plans["small.jpg"]["seconds"] > 0 and plans["small.jpg"]["width"] == 192
    code, _, err = call("auto", "good.png", "noisy.png", "--dry-run")
    assert code == 0 and "found nothing · 0 steps" in err and f"note: {NOTHING_FOUND}" in err
    assert "found white noise of" in err and "· will denoise · 4 steps · about" in err


def test_a_folder_has_a_log_and_is_continued(call: Call) -> None:
    assert call("auto", ".", "-r", "--exclude", "more/*", "-o", "out")[0] == 0
    made = {path.name for path in Path("out").iterdir() if path.suffix in (".png", ".jpg")}
    assert made == {"good_restored.png", "noisy_restored.png", "small_restored.jpg"}
    Path("out/noisy_restored.png").rename("first.png")
    code, out, _ = call(
        "auto", ".", "-r", "--exclude", "more/*", "-o", "out", "--resume", "--json", "--exclude", "first.png"
    )
    summary = events(out)[-1]
    assert code == 0 and (summary["ok"], summary["skipped"]) == (1, 2)
    a, b = (load(path).pixels.astype(int) for path in (Path("out/noisy_restored.png"), Path("first.png")))
    assert np.abs(a - b).max() <= 1, "pictures that share evaluations differ in the last digits"


def test_pictures_are_repaired_in_place(call: Call) -> None:
    before = Path("good.png").read_bytes()
    assert call("auto", "good.png", "noisy.png", "--in-place")[0] == 0
    assert Path("good.png").read_bytes() == before and record_of("noisy.png")["repairs"]
    code, _, err = call("auto", "noisy.png", "--in-place")
    assert code == 0 and "has been restored in place by this command before" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--uncertainty", "map.png"), "how far the errors of several repairs add up is not known"),
        (("--in-place", "--scale", 2), "--in-place and --scale cannot be combined"),
        (("--scale", 9), "the scale must be above 1 and at most 8, not 9"),
        (("--detail", 2), "detail must lie between 0 and 1"),
        (("--region", "90,0,20,20"), "the region 20x20+90+0 ends at column 110"),
        (("--steps", 3), "--steps"),
        (("--start", "x.pth"), "--start"),
    ],
)
def test_what_is_refused(arguments: tuple[object, ...], message: str, call: Call) -> None:
    code, out, err = call("auto", "noisy.png", *arguments)
    assert (code, out) == (2, ""), err
    assert message in err and err.startswith("error: ") and "bug" not in err
    assert not Path("noisy_restored.png").exists()
