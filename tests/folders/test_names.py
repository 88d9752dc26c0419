"""The names of results: no two alike, and the same whatever is done already."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import pytest

from restorer.folders.names import reserved_reason
from restorer.folders.paths import resolve_targets
from restorer.images.find import search_all


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def targets(
    *inputs: str, output: str | None = None, include: list[str] | None = None, **policy: bool
) -> dict[str, str]:
    """Return the result of each picture, whether it is to be made or exists."""
    found = search_all(inputs, recursive=True, include=include or [])
    settings = {"overwrite": False, "skip_existing": False, **policy}
    to_do, skipped, failed = resolve_targets(
        found.pictures, output, "denoised", siblings=found.unwanted, suffix="", **settings
    )
    assert not failed
    return {item.source.as_posix(): item.target.as_posix() for item in (*to_do, *skipped)}


def test_pictures_that_differ_in_their_endings_keep_them() -> None:
    make("in/a.gif", "in/a.png", "in/a.jpg", "in/b.gif")
    assert targets("in", output="out") == {
        "in/a.gif": "out/a_gif_denoised.png",
        "in/a.png": "out/a_png_denoised.png",
        "in/a.jpg": "out/a_denoised.jpg",  # no other result has this name
        "in/b.gif": "out/b_denoised.png",
    }


def test_several_jpegs_in_one_file_give_a_jpeg() -> None:
    make("in/a.MPO", "in/b.jif", "in/c.avifs", "in/d.apng", "in/e.dib")
    found = targets("in", output="out").values()
    assert [Path(path).suffix for path in found] == [".jpg", ".jpg", ".avif", ".png", ".png"]


def test_the_names_do_not_depend_on_what_is_done_or_wanted() -> None:
    make("in/a.gif", "in/a.png", "in/b.ppm")
    names = targets("in", output="out")
    make("out/a_gif_denoised.png")
    assert targets("in", output="out", skip_existing=True) == names
    make("out/a_png_denoised.png", "out/b_denoised.png")
    assert targets("in", output="out", skip_existing=True) == names
    assert targets("in", output="out", include=["*.gif"], overwrite=True) == {"in/a.gif": "out/a_gif_denoised.png"}


def test_results_beside_their_pictures_are_recognized() -> None:
    make("in/a.gif", "in/a.png", "in/c.tif")
    names = targets("in")
    assert names["in/a.gif"] == "in/a_gif_denoised.png"
    make(*names.values())
    assert targets("in", skip_existing=True) == names
    assert targets("in", output="in", skip_existing=True) == names  # the same place, named


def test_pictures_of_two_folders_keep_the_names_of_their_folders() -> None:
    make("100CANON/IMG_1.JPG", "101CANON/IMG_1.JPG", "101CANON/IMG_2.JPG")
    assert targets("100CANON", "101CANON", output="out") == {
        "100CANON/IMG_1.JPG": "out/100CANON_IMG_1_denoised.JPG",
        "101CANON/IMG_1.JPG": "out/101CANON_IMG_1_denoised.JPG",
        "101CANON/IMG_2.JPG": "out/IMG_2_denoised.JPG",
    }


def test_folders_of_one_name_are_numbered_in_natural_order() -> None:
    make("x10/in/a.png", "x9/in/a.png")
    expected = {"x9/in/a.png": "out/a_denoised.png", "x10/in/a.png": "out/a-2_denoised.png"}
    assert targets("x10/in", "x9/in", output="out") == expected
    assert targets("x9/in", "x10/in", output="out") == expected


def test_names_that_differ_in_case_alone_are_kept_apart() -> None:
    make("in/a.JPG", "in/a.jpg", "in/B.png", "in/b.png")
    found = targets("in", output="out")
    assert len({path.casefold() for path in found.values()}) == 4
    composed, decomposed = "\u00e9.png", "e\u0301.png"
    make(f"accents/{composed}", f"accents/{decomposed}")
    assert len(set(targets("accents", output="out").values())) == 2


def test_a_longer_name_that_a_picture_has_already_is_numbered() -> None:
    make("in/a.gif", "in/a.png", "in/a_gif.png")
    assert sorted(targets("in", output="out").values()) == [
        "out/a_gif-2_denoised.png",
        "out/a_gif_denoised.png",
        "out/a_png_denoised.png",
    ]


def test_hundred_pictures_of_one_name() -> None:
    make(*(f"d{i}/in/a.png" for i in range(100)))
    found = targets(*(f"d{i}/in" for i in range(100)), output="out")
    assert len(set(found.values())) == 100 and found["d99/in/a.png"] == "out/a-100_denoised.png"


@pytest.mark.parametrize("stem", ["x" * 251, "\u7167" * 83, "\U0001f389" * 62, os.fsdecode(b"\xe9" * 251)])
def test_a_name_that_becomes_too_long_is_cut(stem: str) -> None:
    make(f"in/{stem}.png", f"in/{stem[:-1]}!.png")
    names = [Path(target).name for target in targets("in", output="out").values()]
    assert len(set(names)) == 2
    assert all(len(os.fsencode(name)) <= 255 and name.endswith("_denoised.png") for name in names)
    make(*(f"out/{name}" for name in names))  # the file system takes them
    again = targets("in", output="out", skip_existing=True)
    assert [Path(target).name for target in again.values()] == names


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CON.png", "device"),
        ("com3.tar.png", "device"),
        ("nul", "device"),
        ("a.png.", "dot"),
        ("a ", "space"),
        ("a:b.png", "characters"),
        ("console.png", ""),
        ("a.png", ""),
    ],
)
def test_names_that_windows_does_not_have(name: str, reason: str) -> None:
    found = reserved_reason(PurePath("out", name), windows=True)
    assert reason in found and bool(found) == bool(reason)
    assert not reserved_reason(PurePath("out", name), windows=False)
