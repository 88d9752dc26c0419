"""What `restore mask` marks without its page, and how it refuses."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restorer.cli.app import run
from restorer.images.files import load, load_mask

HEIGHT, WIDTH = 12, 10


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a picture of noise, which has a magenta part."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(60, 150, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[6:8, 2:5] = 255, 0, 255
    pixels[8, 2] = 243, 12, 243
    pixels[8, 3] = 255, 13, 255
    Image.fromarray(pixels).save("img.png")


def restore(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command line in this process, and return its exit code and its output."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def marked(name: str = "img_mask.png") -> np.ndarray:
    """Return what a mask marks, after a check that it is white on black."""
    with Image.open(name) as image:
        assert image.mode == "L"
        values = np.asarray(image)
    assert set(np.unique(values)) <= {0, 255}
    return values == 255


def box(x: int, y: int, width: int, height: int) -> np.ndarray:
    fill = np.zeros((HEIGHT, WIDTH), dtype=bool)
    fill[y : y + height, x : x + width] = True
    return fill


def test_boxes_are_put_together(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = restore(capsys, "mask", "img.png", "--box", "1,2,3,4", "--box", "3, 5, 100, 2")
    assert code == 0 and out == "img_mask.png\n"
    assert (marked() == (box(1, 2, 3, 4) | box(3, 5, 100, 2))).all()
    assert f"wrote img_mask.png · 10x12 · {100 * marked().mean():.1f} % marked" in err


def test_a_colour_is_found_within_its_tolerance(capsys: pytest.CaptureFixture[str]) -> None:
    exact, near = box(2, 6, 3, 2), box(2, 6, 3, 2) | box(2, 8, 1, 1)
    assert restore(capsys, "mask", "img.png", "--color", "#ff00ff")[0] == 0
    assert (marked() == near).all()  # 12 levels
    for tolerance, expected in ((0, exact), (11.9, exact), (13, near | box(3, 8, 1, 1))):
        options = ("--color", "magenta", "--tolerance", tolerance, "--overwrite")
        assert restore(capsys, "mask", "img.png", *options)[0] == 0
        assert (marked() == expected).all()


@pytest.mark.parametrize("kind", ["gray", "sixteen bits", "transparent", "turned"])
def test_every_kind_of_picture_is_searched(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    colour, expected = "#646464", box(4, 1, 2, 5)
    values = np.where(expected, 100, 180).astype(np.uint8)
    if kind == "sixteen bits":
        Image.fromarray(values.astype(np.uint16) * 257).save("p.png")
    elif kind == "transparent":  # the colour under full transparency is no colour
        expected = expected & ~box(4, 1, 1, 1)
        bands = np.dstack([values, values, values, np.where(box(4, 1, 1, 1), 0, 255).astype(np.uint8)])
        Image.fromarray(bands).save("p.png")
    elif kind == "turned":  # a camera on its side
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.rot90(values)).save("p.png", exif=exif)
    else:
        Image.fromarray(values).save("p.png")
    assert restore(capsys, "mask", "p.png", "--color", colour, "--tolerance", "0")[0] == 0
    assert (marked("p_mask.png") == expected).all()


def test_what_is_found_grows_and_is_inverted(capsys: pytest.CaptureFixture[str]) -> None:
    restore(capsys, "mask", "img.png", "--box", "4,5,1,1", "--grow", "2", "--invert-mask")
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    assert (marked() == ((rows - 5) ** 2 + (columns - 4) ** 2 > 4)).all()


def test_an_empty_result_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = restore(capsys, "mask", "img.png", "--color", "white")
    assert code == 0 and out == "img_mask.png\n" and not marked().any()
    assert "note: nothing is marked in img.png: the mask is empty" in err


def test_a_mask_is_read_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("m.png", "m.tif", "m.webp", "m.bmp", "m.gif"):
        assert restore(capsys, "mask", "img.png", "--box", "1,2,3,4", "-o", name)[0] == 0
        found = load_mask(Path(name), (HEIGHT, WIDTH), picture=load(Path("img.png")))
        assert (found.fill == box(1, 2, 3, 4)).all() and not found.note


def test_each_of_several_pictures_gets_its_mask(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/sub").mkdir(parents=True)
    for i, name in enumerate(("in/a.jpg", "in/sub/b.png")):
        Image.new("RGB", (WIDTH + i, HEIGHT), "blue").save(name)
    Path("in/c.png").write_bytes(b"no picture")
    code, out, err = restore(capsys, "mask", "in", "-r", "--box", "0,0,2,2", "-o", "out")
    assert code == 3 and "in/c.png" in err
    assert out.splitlines() == ["out/a_mask.png", "out/sub/b_mask.png"]
    assert marked("out/sub/b_mask.png").shape == (HEIGHT, WIDTH + 1)
    again = restore(capsys, "mask", "in", "-r", "--box", "0,0,2,2", "--overwrite")
    assert again[0] == 3 and again[1].splitlines() == ["in/a_mask.png", "in/sub/b_mask.png"]
    once_more = restore(capsys, "mask", "in", "-r", "--box", "0,0,2,2", "--overwrite")  # not masks of masks
    assert once_more[:2] == again[:2]
    for path in Path("in").rglob("*_mask.png"):
        path.unlink()
    assert restore(capsys, "inpaint", "in", "-r", "--mask", "out", "-o", "filled", "--steps", "2")[0] == 3
    assert sorted(path.name for path in Path("filled").rglob("*_inpainted.*")) == ["a_inpainted.jpg", "b_inpainted.png"]


def test_pictures_and_masks_go_through_pipes(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = io.TextIOWrapper(io.BytesIO(Path("img.png").read_bytes()))
    monkeypatch.setattr(sys, "stdin", data)
    assert run(["mask", "-", "--box", "1,2,3,4", "-q"]) == 0
    with Image.open(io.BytesIO(capsysbinary.readouterr().out)) as image:
        assert image.format == "PNG" and (np.asarray(image) == 255 * box(1, 2, 3, 4)).all()


def test_json_holds_the_share(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = restore(capsys, "mask", "none.png", "img.png", "--box", "0,0,5,6", "--json")
    result, failed, summary = map(json.loads, out.splitlines())
    assert code == 3 and "error: none.png does not exist" in err
    assert result == {
        **{"schema": 1, "event": "result", "command": "mask", "input": "img.png", "output": "img_mask.png"},
        **{"status": "ok", "width": WIDTH, "height": HEIGHT, "share": 0.25, "places": None},
    }
    assert failed == {
        **{"schema": 1, "event": "result", "command": "mask", "input": "none.png", "output": None},
        **{"status": "failed", "code": 4, "error": "none.png does not exist"},
    }
    assert summary == {"schema": 1, "event": "summary", "command": "mask", "ok": 1, "failed": 1, "exit_code": 3}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--box", "1,2,3"), 2, "--box X,Y,W,H"),
        (("--box", "-1,2,3,4"), 2, "whole numbers from 0"),
        (("--box", "1,2,0,4"), 2, "has no pixels"),
        (("--box", "10,0,5,5"), 2, "outside the picture of 10x12 pixels"),
        (("--color", "#ff00f"), 2, "is no colour"),
        (("--color", "red", "--tolerance", "256"), 2, "between 0 and 255"),
        (("--color", "red", "--tolerance", "nan"), 2, "between 0 and 255"),
        (("--grow", "3"), 2, "add --scratches, --box or --color"),
        (("--invert-mask",), 2, "add --scratches, --box or --color"),
        (("--box", "1,2,3,4", "--grow", "-1"), 2, "grow must lie between 0"),
        (("--box", "1,2,3,4", "-o", "m.jpg"), 2, "JPEG would blur the edges"),
        (("--box", "1,2,3,4", "-o", "m.xyz"), 2, "cannot write"),
        (("--box", "1,2,3,4", "-o", "img.png", "--overwrite"), 7, "is the input itself"),
        (("--port", "65536"), 2, "the port must lie between"),
        (("-o", "-"), 2, "writes its mask to a file"),
        (("img.png", "b.png", "--edit"), 2, "the page shows one picture, not 2"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (4, 4)).save("b.png")
    before = sorted(Path().iterdir())
    got, out, err = restore(capsys, "mask", "img.png", *options)
    assert got == code and words in err and not out and "Traceback" not in err
    assert sorted(Path().iterdir()) == before


def test_a_mask_is_never_replaced_by_accident(capsys: pytest.CaptureFixture[str]) -> None:
    Path("img_mask.png").write_bytes(b"mine")
    for options, hint in (((), "add --edit to go on with it, --overwrite to begin anew"), (("--box", "1,1,1,1"), "")):
        code, _, err = restore(capsys, "mask", "img.png", *options)
        assert code == 7 and "img_mask.png exists" in err and hint in err
        assert Path("img_mask.png").read_bytes() == b"mine"
