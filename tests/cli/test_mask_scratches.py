"""`restore mask --scratches`, `restore inpaint --mask scratches` and `inpaint(picture, "scratches")`.

A stub stands for the network: it takes everything that is nearly white for damage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stubs import Smooth
from torch import Tensor, nn

import restorer
from restorer.cli.app import run
from restorer.images.masks import grow
from restorer.models import load as models_load
from restorer.networks.stroke_judge import StrokeJudge
from restorer.tasks import scratches

HEIGHT, WIDTH = 24, 30


class White(nn.Module):
    """A finder that is sure of white, and of nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        return torch.where(x.amin(1) > 0.95, 9.0, -9.0)


def damaged() -> tuple[np.ndarray, np.ndarray]:
    """Return a picture of noise with two white strokes, and where they are."""
    pixels = np.random.default_rng(0).integers(60, 150, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    fill = np.zeros((HEIGHT, WIDTH), dtype=bool)
    fill[4, 3:25] = fill[10:20, 7:9] = True
    pixels[fill] = 255
    return pixels, fill


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with the picture, cheap priors and the stub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scratches, "load_scratch_finder", lambda device: White())
    monkeypatch.setattr(scratches, "load_stroke_judge", StrokeJudge)  # a fresh one changes nothing
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    Image.fromarray(damaged()[0]).save("img.png")


def restore(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command line in this process, and return its exit code and its output."""
    capsys.readouterr()
    code = run(list(arguments))
    return (code, *capsys.readouterr())


def read(name: str) -> np.ndarray:
    with Image.open(name) as image:
        return np.asarray(image)


def changed(name: str) -> np.ndarray:
    """Return which pixels of a result differ from the picture, bool (H, W)."""
    return (read(name) != damaged()[0]).any(-1)


def test_a_mask_of_scratches(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = restore(capsys, "mask", "img.png", "--scratches")
    assert code == 0 and out == "img_mask.png\n"
    assert ((read("img_mask.png") == 255) == damaged()[1]).all()
    share = 100 * damaged()[1].mean()
    assert f"found 2 scratches or specks, {share:.1f} % of the picture" in err


def test_scratches_join_boxes_and_grow(capsys: pytest.CaptureFixture[str]) -> None:
    restore(capsys, "mask", "img.png", "--scratches", "--box", "20,15,3,3", "--grow", "1")
    expected = damaged()[1].copy()
    expected[15:18, 20:23] = True
    assert ((read("img_mask.png") == 255) == grow(expected, 1)).all()
    restore(capsys, "mask", "img.png", "--scratches", "--invert-mask", "--overwrite")
    assert ((read("img_mask.png") == 255) == ~damaged()[1]).all()


def test_json_counts_the_places(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = restore(capsys, "mask", "img.png", "--scratches", "--json")
    assert json.loads(out.splitlines()[0])["places"] == 2
    _, out, _ = restore(capsys, "mask", "img.png", "--box", "1,1,2,2", "--json", "--overwrite")
    assert json.loads(out.splitlines()[0])["places"] is None


def test_no_scratches(capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(damaged()[0] // 2).save("img.png")
    code, _, err = restore(capsys, "mask", "img.png", "--scratches")
    assert code == 0 and not read("img_mask.png").any()
    assert "no scratches or dust that can be told from the scene" in err and "the mask is empty" in err
    code, _, err = restore(capsys, "inpaint", "img.png", "--mask", "scratches")
    assert code == 0 and "the mask is empty: the picture is copied" in " ".join(err.split())
    assert (read("img_inpainted.png") == damaged()[0] // 2).all()


@pytest.mark.parametrize(("options", "radius"), [((), 1), (("--grow", "0"), 0), (("--grow", "3"), 3)])
def test_scratches_are_found_and_filled(
    options: tuple[str, ...], radius: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = restore(capsys, "inpaint", "img.png", "--mask", "scratches", "--steps", "2", *options)
    assert code == 0 and out == "img_inpainted.png\n" and "found 2 scratches or specks" in err
    hole = grow(damaged()[1], radius)
    assert not changed("img_inpainted.png")[~hole].any() and changed("img_inpainted.png")[damaged()[1]].all()
    assert changed("img_inpainted.png")[hole].mean() > 0.9


def test_the_record_says_what_was_filled(capsys: pytest.CaptureFixture[str]) -> None:
    restore(capsys, "inpaint", "img.png", "--mask", "scratches", "--steps", "2")
    _, out, _ = restore(capsys, "doctor", "img_inpainted.png", "--json")
    assert "--mask scratches" in json.dumps(json.loads(out)) or '"mask": "scratches"' in out


def test_a_file_named_scratches_is_the_mask(capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[20:23, 20:26] = 255
    Image.fromarray(mask).save("scratches", format="PNG")
    assert restore(capsys, "inpaint", "img.png", "--mask", "scratches", "--steps", "2")[0] == 0
    assert not changed("img_inpainted.png")[mask == 0].any() and changed("img_inpainted.png")[mask > 0].any()


def test_hidden_pixels_are_not_searched(capsys: pytest.CaptureFixture[str]) -> None:
    pixels, fill = damaged()
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:8] = 0
    Image.fromarray(np.dstack([pixels, alpha])).save("clear.png")
    restore(capsys, "mask", "clear.png", "--scratches")
    assert ((read("clear_mask.png") == 255) == (fill & (alpha > 0))).all()


def test_python_finds_and_fills() -> None:
    pixels, fill = damaged()
    image = Image.fromarray(pixels)
    result = np.asarray(restorer.inpaint(image, "scratches", steps=2, prior=Smooth()))
    expected = np.asarray(restorer.inpaint(image, grow(fill, 1), steps=2, prior=Smooth()))
    assert (result == expected).all() and (result != pixels).any()
    bare = np.asarray(restorer.inpaint(image, "scratches", grow=0, steps=2, prior=Smooth()))
    assert (bare == np.asarray(restorer.inpaint(image, fill, steps=2, prior=Smooth()))).all()


def test_python_finds_the_scratches_of_each_picture_of_a_batch() -> None:
    pixels, _ = damaged()
    one = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    batch = torch.stack([one, one.flip(-1), one / 2])
    results = restorer.inpaint(batch, "scratches", steps=2, prior=Smooth())
    for result, picture in zip(results, batch, strict=True):
        torch.testing.assert_close(result, restorer.inpaint(picture, "scratches", steps=2, prior=Smooth()))
    assert torch.equal(results[2], batch[2])


def test_python_takes_a_file_of_that_name_for_the_mask() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[20:23, 20:26] = 255
    Image.fromarray(mask).save("scratches", format="PNG")
    pixels = damaged()[0]
    result = np.asarray(restorer.inpaint(Image.fromarray(pixels), "scratches", steps=2, prior=Smooth()))
    assert (result == pixels)[mask == 0].all() and (result != pixels)[mask > 0].any()
