"""`compare` and `doctor`: figures against their definitions, pictures pixel by pixel."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from restorer import __version__
from restorer.cli.app import run
from restorer.cli.terminal.half_blocks import show
from restorer.errors import PictureError, UsageError
from restorer.evaluation.compare import AMPLIFIED, difference, differences, matched, pairs, picture_of, sheet_of
from restorer.models.load import weights_folder, weights_sha256


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255


def written(path: str | Path, height: int = 20, width: int = 16, seed: int = 0) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_figures_of_a_known_error() -> None:
    """An error of 10 levels everywhere: 20 log10(255 / 10) dB."""
    x = torch.full((3, 16, 16), 100 / 255)
    d = difference(x + 10 / 255, x)
    assert d.psnr == pytest.approx(20 * math.log10(25.5), abs=1e-4)
    assert d.mean == pytest.approx(10, abs=1e-4) and d.largest == pytest.approx(10, abs=1e-4)
    assert str(d).startswith("28.13 dB, SSIM 0.9")
    assert str(difference(x, x)) == "equal" and math.isinf(difference(x, x).psnr)
    assert difference(x[..., :5, :5], x[..., :5, :5] + 0.1).ssim is None


def test_who_is_compared_with_whom() -> None:
    a, b, truth = (random(3, 12, 12, seed=k) for k in range(3))
    assert differences(a, b) == (None, difference(b, a))
    assert differences(a, b, truth) == (difference(a, truth), difference(b, truth))
    assert differences(a[..., :6, :6], b, truth) == (None, difference(b, truth))
    assert differences(a[..., :6, :6], b) == (None, None)


def test_a_smaller_picture_is_enlarged_by_whole_pixels() -> None:
    small, large = random(3, 3, 4), random(3, 6, 8)
    first, second = matched([small, large])
    assert torch.equal(first[:, ::2, ::2], small) and torch.equal(first[:, 1::2, 1::2], small)
    assert second is large
    for wrong in (random(3, 4, 4), random(3, 6, 7), random(3, 3, 8)):
        with pytest.raises(UsageError, match="6"):
            matched([wrong, large])


def test_split_and_difference() -> None:
    a, b = torch.full((3, 10, 20), 50 / 255), torch.full((3, 10, 20), 60 / 255)
    split = np.asarray(picture_of("split", {"a": a, "b": b}, (None, None)))
    assert split.shape == (10, 20, 3)
    assert (split[:, :9] == 50).all() and (split[:, 9:11] == 255).all() and (split[:, 11:] == 60).all()
    assert (np.asarray(picture_of("diff", {"a": a, "b": b}, (None, None))) == 10 * AMPLIFIED).all()


def test_side_by_side_shows_all_pixels() -> None:
    pictures = {name: random(3, 30, 40, seed=k) for k, name in enumerate("abr")}
    image = np.asarray(picture_of("side", pictures, differences(*pictures.values()))).astype(int)
    for x in pictures.values():
        wanted = (x * 255).round().permute(1, 2, 0).numpy().astype(int)
        places = [
            (top, left)
            for top in range(image.shape[0] - 29)
            for left in range(image.shape[1] - 39)
            if (image[top, left] == wanted[0, 0]).all() and (image[top : top + 30, left : left + 40] == wanted).all()
        ]
        assert len(places) == 1


def test_a_sheet_cuts_the_middle_out() -> None:
    x = torch.zeros(3, 400, 400)
    x[:, 199:201, 199:201] = 1.0
    sheet = np.asarray(sheet_of(["a"], [("name", [x])]))
    assert sheet.shape[1] == 240 + 16
    inside = sheet[-8 - 240 : -8, 8 : 8 + 240]
    assert (inside[119:121, 119:121] == 255).all() and inside.astype(int).sum() == 4 * 3 * 255


def test_folders_are_paired_by_name() -> None:
    for name in ("a/x.jpg", "a/deep/y.png", "a/z.png", "a/w.png", "b/x_denoised.png", "b/deep/y.png", "b/z_x4.png"):
        written(name)
    written("b/z_denoised.png")  # two would do for z: neither is taken
    assert pairs(Path("a"), Path("b")) == [
        (Path("a/deep/y.png"), Path("b/deep/y.png")),
        (Path("a/x.jpg"), Path("b/x_denoised.png")),
    ]
    written("truth/x.png")
    assert pairs(Path("a"), Path("b"), Path("truth")) == [
        (Path("a/x.jpg"), Path("b/x_denoised.png"), Path("truth/x.png"))
    ]
    written("c/other.png")
    with pytest.raises(PictureError, match="no picture of"):
        pairs(Path("a"), Path("c"))


def test_the_verb_on_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    for k, name in enumerate(("a.png", "b.png", "r.png")):
        written(name, seed=k)
    assert run(["compare", "a.png", "b.png", "r.png", "-o", "out.png", "--json"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    a, b, r = (np.asarray(Image.open(name)).astype(float) for name in ("a.png", "b.png", "r.png"))
    for name, x in (("a", a), ("b", b)):
        psnr = 10 * math.log10(255**2 / ((x - r) ** 2).mean())
        assert record["figures"][name]["psnr"] == pytest.approx(psnr, abs=1e-3)
    assert "A a.png to r.png: " in err and "wrote out.png" in err
    assert Image.open("out.png").size[0] > 48
    assert run(["compare", "a.png", "b.png", "-o", "out.png"]) == 7
    assert run(["compare", "a.png", "b.png", "-o", "./b.png", "--overwrite"]) == 7  # what is compared stays
    assert run(["compare", "a.png", "a.png"]) == 0
    assert "B a.png to A: equal" in capsys.readouterr().err


def test_the_verb_on_folders(capsys: pytest.CaptureFixture[str]) -> None:
    written("a/x.png"), written("b/x.png", seed=1), written("a/y.png"), written("b/y.png", seed=2)
    Path("b/y.png").write_bytes(b"no picture")
    assert run(["compare", "a", "b", "-o", "sheet.png", "--json"]) == 3
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [r["event"] for r in records] == ["result", "summary"] and records[1]["means"]["b"]["pictures"] == 1
    assert "error: " in err and Path("sheet.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["a.png", "none.png"], 4),
        (["a.png", "folder"], 2),
        (["a.png", "b.png", "--mode", "blink"], 2),
        (["folder", "folder", "--mode", "diff"], 2),
        (["a.png", "odd.png", "-o", "x.png"], 2),
        (["a.png", "text.png"], 4),
    ],
)
def test_what_cannot_be_compared(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    written("a.png"), written("b.png"), written("folder/a.png"), written("odd.png", 13, 16)
    Path("text.png").write_text("text")
    assert run(["compare", *arguments]) == code
    assert capsys.readouterr().err.count("error: ") == 1 and not Path("x.png").exists()


def shown(pictures: list[Image.Image], width: int, **options: object) -> tuple[bool, str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=50, force_terminal=True, color_system="truecolor", **options)  # type: ignore[arg-type]
    return show(console, pictures), stream.getvalue()


def test_half_blocks_have_the_pictures_colours() -> None:
    """A red picture above blue: the upper half of the block is red, what is behind it blue."""
    pixels = np.zeros((2, 40, 3), np.uint8)
    pixels[0, :, 0], pixels[1, :, 2] = 255, 255
    done, text = shown([Image.fromarray(pixels)], 40)
    assert done and text.count("▀") == 40 and text.count("\n") == 1
    assert "\x1b[38;2;255;0;0;48;2;0;0;255m▀" in text


@pytest.mark.parametrize("width", [20, 80, 200])
def test_half_blocks_fit_the_terminal(width: int) -> None:
    pictures = [Image.new("RGB", (60, 40)), Image.new("RGB", (240, 160))]
    done, text = shown(pictures, width)
    rows = text.splitlines()
    assert done and {row.count("▀") for row in rows} == {2 * ((width - 2) // 2)}
    assert len(rows) == min(48, round((width - 2) // 2 / 1.5 / 2))


def test_half_blocks_need_colours() -> None:
    assert shown([Image.new("RGB", (9, 9))], 80, no_color=True) == (False, "")
    stream = io.StringIO()
    assert not show(Console(file=stream, width=80), [Image.new("RGB", (9, 9))]) and not stream.getvalue()
    assert not shown([Image.new("RGB", (9, 9))] * 9, 40)[0]


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["restorer"] == __version__ and found["packages"]["torch"] == torch.__version__
    assert found["embedded_model"]["sha256"] == weights_sha256(weights_folder())
    assert found["processor"]["threads"] == torch.get_num_threads() and found["cache"]["free"] > 0
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert __version__ in text and found["embedded_model"]["sha256"][:20] in text.replace("\n", "")


def test_doctor_without_weights(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells what is wrong where other verbs would stop."""
    from restorer import doctor
    from restorer.errors import ModelError

    def missing() -> Path:
        raise ModelError("the embedded prior is missing")

    monkeypatch.setattr(doctor, "weights_folder", missing)
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["embedded_model"] == "the embedded prior is missing"
