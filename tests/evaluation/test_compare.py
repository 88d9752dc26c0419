"""`compare` and `doctor`: figures agree with their definitions, and images are right pixel by pixel."""

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
from restorer.evaluation.compare import (
    AMPLIFICATION,
    comparison_image,
    comparison_sheet,
    difference,
    differences,
    match_sizes,
    pair_files,
)
from restorer.models.load import weights_folder, weights_sha256


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Draw random 8-bit values in [0, 1]."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255


def write_picture(path: str | Path, height: int = 20, width: int = 16, seed: int = 0) -> Path:
    """Write a file of random pixels, and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a temporary folder the current one, so that files have short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_figures_of_a_known_error() -> None:
    """An error of 10 levels in all pixels is 20 log10(255 / 10) dB."""
    x = torch.full((3, 16, 16), 100 / 255)
    d = difference(x + 10 / 255, x)
    assert d.psnr == pytest.approx(20 * math.log10(25.5), abs=1e-4)
    assert d.mean == pytest.approx(10, abs=1e-4) and d.largest == pytest.approx(10, abs=1e-4)
    assert str(d).startswith("28.13 dB, SSIM 0.9")
    assert str(difference(x, x)) == "equal" and math.isinf(difference(x, x).psnr)
    assert difference(x[..., :5, :5], x[..., :5, :5] + 0.1).ssim is None


def test_who_is_compared_with_whom() -> None:
    """Both pictures are compared with the reference, or else B with A; different sizes give no figures."""
    a, b, truth = (random(3, 12, 12, seed=k) for k in range(3))
    assert differences(a, b) == (None, difference(b, a))
    assert differences(a, b, truth) == (difference(a, truth), difference(b, truth))
    assert differences(a[..., :6, :6], b, truth) == (None, difference(b, truth))
    assert differences(a[..., :6, :6], b) == (None, None)


def test_a_smaller_picture_is_enlarged_by_whole_pixels() -> None:
    """A picture is enlarged by repeating its pixels, and a factor that is not whole is refused."""
    small, large = random(3, 3, 4), random(3, 6, 8)
    first, second = match_sizes([small, large])
    assert torch.equal(first[:, ::2, ::2], small) and torch.equal(first[:, 1::2, 1::2], small)
    assert second is large
    for misfit in (random(3, 4, 4), random(3, 6, 7), random(3, 3, 8)):
        with pytest.raises(UsageError, match="6"):
            match_sizes([misfit, large])


def test_split_and_difference() -> None:
    """`split` shows half of each picture and a white line between them, and `diff` the amplified difference."""
    a, b = torch.full((3, 10, 20), 50 / 255), torch.full((3, 10, 20), 60 / 255)
    split = np.asarray(comparison_image("split", {"a": a, "b": b}, (None, None)))
    assert split.shape == (10, 20, 3)
    assert (split[:, :9] == 50).all() and (split[:, 9:11] == 255).all() and (split[:, 11:] == 60).all()
    assert (np.asarray(comparison_image("diff", {"a": a, "b": b}, (None, None))) == 10 * AMPLIFICATION).all()


def test_side_by_side_shows_all_pixels() -> None:
    """Each picture occurs once in the image, unchanged."""
    pictures = {name: random(3, 30, 40, seed=k) for k, name in enumerate("abr")}
    image = np.asarray(comparison_image("side", pictures, differences(*pictures.values()))).astype(int)
    for x in pictures.values():
        expected = (x * 255).round().permute(1, 2, 0).numpy().astype(int)
        places = [
            (top, left)
            for top in range(image.shape[0] - 29)
            for left in range(image.shape[1] - 39)
            if (image[top, left] == expected[0, 0]).all()
            and (image[top : top + 30, left : left + 40] == expected).all()
        ]
        assert len(places) == 1


def test_a_sheet_cuts_the_middle_out() -> None:
    """A contact sheet shows the middle 240 pixels of a large picture."""
    x = torch.zeros(3, 400, 400)
    x[:, 199:201, 199:201] = 1.0
    sheet = np.asarray(comparison_sheet(["a"], [("name", [x])]))
    assert sheet.shape[1] == 240 + 16
    inside = sheet[-8 - 240 : -8, 8 : 8 + 240]
    assert (inside[119:121, 119:121] == 255).all() and inside.astype(int).sum() == 4 * 3 * 255


def test_folders_are_paired_by_name() -> None:
    """Files are paired by their folder and stem, or by a stem with a tag if only one such file exists."""
    for name in ("a/x.jpg", "a/deep/y.png", "a/z.png", "a/w.png", "b/x_denoised.png", "b/deep/y.png", "b/z_x4.png"):
        write_picture(name)
    write_picture("b/z_denoised.png")  # two files fit z, so that neither is used
    assert pair_files(Path("a"), Path("b")) == [
        (Path("a/deep/y.png"), Path("b/deep/y.png")),
        (Path("a/x.jpg"), Path("b/x_denoised.png")),
    ]
    write_picture("truth/x.png")
    assert pair_files(Path("a"), Path("b"), Path("truth")) == [
        (Path("a/x.jpg"), Path("b/x_denoised.png"), Path("truth/x.png"))
    ]
    write_picture("c/other.png")
    with pytest.raises(PictureError, match="no picture in a has a counterpart in c"):
        pair_files(Path("a"), Path("c"))


def test_the_verb_on_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    """`compare` reports the PSNR of both pictures and writes an image, but never over one of its inputs."""
    for k, name in enumerate(("a.png", "b.png", "r.png")):
        write_picture(name, seed=k)
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
    assert run(["compare", "a.png", "b.png", "-o", "./b.png", "--overwrite"]) == 7  # an input is never overwritten
    assert run(["compare", "a.png", "a.png"]) == 0
    assert "B a.png to A: equal" in capsys.readouterr().err


def test_the_verb_on_folders(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with one unreadable picture gives the results of the others, an error, a sheet, and exit code 3."""
    write_picture("a/x.png")
    write_picture("b/x.png", seed=1)
    write_picture("a/y.png")
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
    """Missing files, mixed inputs, unknown modes and sizes that do not fit give one error and write no image."""
    for name in ("a.png", "b.png", "folder/a.png"):
        write_picture(name)
    write_picture("odd.png", 13, 16)
    Path("text.png").write_text("text")
    assert run(["compare", *arguments]) == code
    assert capsys.readouterr().err.count("error: ") == 1 and not Path("x.png").exists()


def show_in_terminal(pictures: list[Image.Image], width: int, **options: object) -> tuple[bool, str]:
    """Show pictures in a terminal of this width; return whether that is possible, and the text printed."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=50, force_terminal=True, color_system="truecolor", **options)  # type: ignore[arg-type]
    return show(console, pictures), stream.getvalue()


def test_half_blocks_have_the_pictures_colours() -> None:
    """For red pixels above blue ones, the half block is red and its background blue."""
    pixels = np.zeros((2, 40, 3), np.uint8)
    pixels[0, :, 0], pixels[1, :, 2] = 255, 255
    is_shown, text = show_in_terminal([Image.fromarray(pixels)], 40)
    assert is_shown and text.count("▀") == 40 and text.count("\n") == 1
    assert "\x1b[38;2;255;0;0;48;2;0;0;255m▀" in text


@pytest.mark.parametrize("width", [20, 80, 200])
def test_half_blocks_fit_the_terminal(width: int) -> None:
    """Two pictures of different sizes are shown side by side, with the same width and the right proportions."""
    pictures = [Image.new("RGB", (60, 40)), Image.new("RGB", (240, 160))]
    is_shown, text = show_in_terminal(pictures, width)
    rows = text.splitlines()
    assert is_shown and {row.count("▀") for row in rows} == {2 * ((width - 2) // 2)}
    assert len(rows) == min(48, round((width - 2) // 2 / 1.5 / 2))


def test_half_blocks_need_colours() -> None:
    """Nothing is shown without colours, without a terminal, or if there are too many pictures for its width."""
    assert show_in_terminal([Image.new("RGB", (9, 9))], 80, no_color=True) == (False, "")
    stream = io.StringIO()
    assert not show(Console(file=stream, width=80), [Image.new("RGB", (9, 9))]) and not stream.getvalue()
    assert not show_in_terminal([Image.new("RGB", (9, 9))] * 9, 40)[0]


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    """`doctor` reports versions, threads, disk space and the embedded model, as JSON and as text."""
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["restorer"] == __version__ and found["packages"]["torch"] == torch.__version__
    assert found["embedded_model"]["sha256"] == weights_sha256(weights_folder())
    assert set(found["embedded_networks"].values()) == {"ok"}
    assert found["processor"]["threads"] == torch.get_num_threads() and found["cache"]["free"] > 0
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert __version__ in text and found["embedded_model"]["sha256"][:20] in text.replace("\n", "")


def test_doctor_without_weights(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` reports that the embedded model is missing, where other verbs stop with an error."""
    from restorer import doctor
    from restorer.errors import ModelError

    def fail() -> Path:
        raise ModelError("the embedded prior is missing")

    monkeypatch.setattr(doctor, "weights_folder", fail)
    monkeypatch.setitem(doctor.NETWORKS, "jpeg", fail)
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["embedded_model"] == found["embedded_networks"]["jpeg"] == "the embedded prior is missing"
    assert found["embedded_networks"]["noise"] == "ok"


def test_doctor_knows_every_network() -> None:
    """Every folder of weights is looked at."""
    from restorer import doctor

    folders = {path.name for path in weights_folder().parent.iterdir() if path.is_dir()}
    assert folders - {"photo"} <= doctor.NETWORKS.keys()


def test_doctor_tells_of_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from restorer import doctor
    from restorer.models import load

    content = (weights_folder("noise") / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(load, "weights_folder", lambda name: tmp_path)
    load.load_noise_estimator.cache_clear()
    assert doctor.examine()["embedded_networks"]["noise"] != "ok"
    monkeypatch.undo()
    assert doctor.examine()["embedded_networks"]["noise"] == "ok"
