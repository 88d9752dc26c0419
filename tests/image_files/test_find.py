"""The search for pictures: what is found, what is passed over and as what, and in which order."""

from __future__ import annotations

import os
import random
import socket
import threading
from pathlib import Path

import pytest
from PIL import Image

from restorer.errors import PictureError
from restorer.images import find, reading
from restorer.images.find import FORMAT_SUFFIXES, STDIO, SUFFIXES, collect, is_stream, natural_key, search, search_all
from restorer.images.kinds import KINDS, describe_counts, kind_of

PICTURES = [f"all/p{suffix}" for suffix in sorted(SUFFIXES)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*inputs: str) -> list[str]:
    return [path.as_posix() for path, _ in collect(inputs, recursive=True)]


def passed_over(*inputs: str) -> dict[str, str]:
    return {path.as_posix(): kind for path, kind in search_all(inputs, recursive=True).passed_over}


# -------------------------------------------------------------------------------------------------------- what is found


def test_every_format_that_is_read_has_its_suffixes() -> None:
    always = {"PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "PPM", "TGA", "QOI", "PSD", "DDS"}
    assert always <= set(reading._FORMATS) & set(FORMAT_SUFFIXES)
    Image.init()
    for suffix, name in Image.registered_extensions().items():
        if name in FORMAT_SUFFIXES and suffix != ".ps":
            assert suffix in SUFFIXES, f"Pillow reads {suffix} as {name}"


def test_every_suffix_is_found_in_any_case() -> None:
    make(*PICTURES, *(name.upper().replace("ALL/", "all/upper/") for name in PICTURES))
    assert len(found("all")) == 2 * len(SUFFIXES)


def test_what_belongs_to_systems_is_passed_over() -> None:
    make("in/a.jpg", "in/._a.jpg", "in/.DS_Store", "in/.thumbnails/a.jpg", "in/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg")
    make("in/#recycle/old.jpg", "in/$RECYCLE.BIN/x.jpg", "in/System Volume Information/y.png", "in/Thumbs.db")
    make("in/__MACOSX/a.jpg", "in/.Trash-1000/files/z.jpg", "in/lost+found/n.png", "in/desktop.ini", "in/b/.hidden.png")
    assert found("in") == ["in/a.jpg"]
    kinds = passed_over("in")
    assert {path for path, kind in kinds.items() if kind == "hidden"} == {
        "in/._a.jpg",
        "in/.DS_Store",
        "in/.thumbnails",
        "in/b/.hidden.png",
    }
    assert {path for path, kind in kinds.items() if kind == "system"} == {
        *("in/@eaDir", "in/#recycle", "in/$RECYCLE.BIN", "in/System Volume Information", "in/Thumbs.db"),
        *("in/__MACOSX", "in/.Trash-1000", "in/lost+found", "in/desktop.ini"),
    }


def test_a_hidden_folder_that_is_named_is_searched() -> None:
    make(".photos/a.png", ".photos/2024/b.png", ".photos/.thumbnails/a.png", "@eaDir/c.png")
    assert found(".photos") == [".photos/2024/b.png", ".photos/a.png"]
    assert found("@eaDir") == ["@eaDir/c.png"]
    os.chdir(".photos")
    assert found(".") == ["2024/b.png", "a.png"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("IMG_1.CR2", "raw"), ("x.dng", "raw"), ("x.NEF", "raw"), ("x.RAF", "raw"), ("x.cr3", "raw")),
        *(("IMG_2.HEIC", "heic"), ("x.heif", "heic")),
        *(("IMG_3.MOV", "video"), ("x.mp4", "video"), ("x.MTS", "video"), ("x.3gp", "video")),
        *(("IMG_4.AAE", "sidecar"), ("x.xmp", "sidecar"), ("MVI_1.THM", "sidecar"), ("IMG_1.jpg.json", "sidecar")),
        *(("IMG_1.jpg.supplemental-metadata.json", "sidecar"), ("album.json", "document")),
        *(("notes.txt", "document"), ("x.pdf", "document"), ("a.zip", "archive"), ("rec.m4a", "audio")),
        *(("x.svg", "picture"), ("x.xcf", "picture"), ("x.png~", "backup"), ("x.jpg.orig", "backup")),
        *(("README", "other"), (".hidden", "hidden"), ("Thumbs.db", "system"), ("x.qqq", "other")),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_no_suffix_has_two_kinds() -> None:
    suffixes = [suffix for kind in KINDS.values() for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert not SUFFIXES & set(suffixes)


def test_counts_in_words() -> None:
    assert describe_counts({"video": 1, "raw": 2}) == "2 raw photographs, 1 video"
    assert describe_counts({}) == ""


def test_links_and_pipes_in_folders_are_not_opened() -> None:
    make("in/a.png", "elsewhere/b.png")
    Path("in/loop").symlink_to(Path("in").absolute())
    Path("in/away").symlink_to(Path("elsewhere").absolute())
    Path("in/gone.png").symlink_to("nowhere.png")
    Path("in/good.png").symlink_to(Path("elsewhere/b.png").absolute())
    os.mkfifo("in/pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("in/socket.png")
        assert found("in") == ["in/a.png", "in/good.png"]
        assert passed_over("in") == {
            "in/loop": "link",
            "in/away": "link",
            "in/gone.png": "link",
            "in/pipe.png": "special",
            "in/socket.png": "special",
        }


def test_a_link_to_a_picture_that_is_found_is_not_restored_again() -> None:
    make("in/a.png", "in/sub/b.png", "elsewhere/c.png")
    Path("in/alias.png").symlink_to("a.png")
    Path("in/sub/up.png").symlink_to("../a.png")
    Path("in/c.png").symlink_to(Path("elsewhere/c.png").absolute())
    assert found("in") == ["in/a.png", "in/c.png", "in/sub/b.png"]
    assert passed_over("in") == {"in/alias.png": "link", "in/sub/up.png": "link"}
    assert found("in/alias.png") == ["in/alias.png"]  # the user named it


def test_a_folder_that_cannot_be_read_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    make("in/a.png", "in/locked/b.png")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = search_all(["in"], recursive=True)
    assert [path.as_posix() for path, _ in result.pictures] == ["in/a.png"]
    [(path, error)] = result.failed
    assert path == Path("in/locked") and str(error) == "the folder in/locked cannot be searched: Permission denied"


def test_a_folder_without_pictures_says_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "picture_suffixes", lambda: SUFFIXES)  # as if nothing read raw files
    make("card/IMG_1.CR2", "card/IMG_2.CR2", "card/MVI_3.MOV")
    with pytest.raises(PictureError, match="no pictures in card") as caught:
        collect(["card"], recursive=True)
    assert caught.value.hint == "it holds 2 raw photographs, 1 video"
    assert len(search_all(["card"], recursive=True).passed_over) == 3


def test_patterns_leave_out_other_files_too() -> None:
    make("in/a.png", "in/b.png", "in/a.txt", "in/b.txt")
    result = search_all(["in"], recursive=True, include=["a.*"])
    assert [path.as_posix() for path, _ in result.passed_over] == ["in/a.txt"]
    assert [path.as_posix() for path, _ in result.unwanted] == ["in/b.png"]


def test_logs_and_unfinished_results_are_not_counted() -> None:
    make("in/a.png", "in/.restorer.jsonl", "in/.restorer.jsonl.lock", "in/.0123456789abcdef.partial")
    assert not passed_over("in")


# ------------------------------------------------------------------------------------------------------------ the order


def test_the_order_is_natural() -> None:
    expected = ["IMG1.png", "img2.png", "IMG2-1.png", "img10.png", "img10a.png", "img010b.png", "z.png"]
    names = [f"in/{name}" for name in expected]
    make(*random.Random(0).sample(names, len(names)))
    assert found("in") == names


def test_folders_are_in_natural_order_as_well() -> None:
    names = ["in/day 2/a.png", "in/day 10/a.png", "in/day 10/b.png", "in/x.png"]
    make(*reversed(names))
    assert found("in") == names
    assert found("in/*/*.png") == names[:3]


def test_the_order_depends_on_names_alone() -> None:
    names = ["a.png", "A.png", "\u00e9.png", "e\u0301.png", "\u0661.png", "1.png", "01.png", os.fsdecode(b"\xe9.png")]
    expected = sorted(map(Path, names), key=natural_key)
    for seed in range(20):
        assert sorted(map(Path, random.Random(seed).sample(names, len(names))), key=natural_key) == expected


def test_a_folder_and_a_file_can_be_compared() -> None:
    make("in/a/B/c.png", "in/A/b.png", "in/a/b.png")
    assert len(found("in")) == 3


def test_one_picture_named_in_several_ways_is_found_once() -> None:
    make("in/a.png", "in/sub/b.png")
    assert found("in", "in/sub", str(Path("in").absolute()), "in/sub/../a.png", "./in/a.png") == [
        "in/a.png",
        "in/sub/b.png",
    ]


# -------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_the_names_of_standard_input(name: str) -> None:
    assert collect([name], recursive=False) == [(STDIO, None)]


def test_a_pipe_is_an_input() -> None:
    os.mkfifo("pipe.png")
    assert collect(["pipe.png"], recursive=False) == [(Path("pipe.png"), None)]
    assert is_stream(Path("pipe.png")) and is_stream(STDIO)
    make("a.png")
    assert not is_stream(Path("a.png"))


def test_a_pattern_that_matches_nothing_is_called_one() -> None:
    with pytest.raises(PictureError, match=r"no file matches \*\.tif"):
        collect(["*.tif"], recursive=False)


def test_an_open_descriptor_is_an_input() -> None:
    reader, writer = os.pipe()
    try:
        assert found(f"/dev/fd/{reader}") == [f"/dev/fd/{reader}"]
        assert is_stream(Path(f"/dev/fd/{reader}"))
    finally:
        os.close(reader)
        os.close(writer)
    with pytest.raises(PictureError, match="does not exist"):
        collect(["/dev/fd/987"], recursive=False)


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero"])
def test_a_device_is_no_picture(name: str) -> None:
    with pytest.raises(PictureError, match=f"{name} is a device or a socket"):
        collect([name], recursive=False)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000])
def test_what_can_be_no_name_is_an_error(name: str) -> None:
    with pytest.raises(PictureError):
        collect([name], recursive=False)


def test_optional_formats_are_found_where_they_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    make("in/a.heic", "in/b.jxl", "in/c.cr2", "in/d.png", "in/e.heif")
    Path("in/a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(12))
    Path("in/e.heif").write_bytes(b"no picture, whatever its name says")
    monkeypatch.setattr(find.importlib.util, "find_spec", lambda name: name == "pillow_heif" or None)
    find.picture_suffixes.cache_clear()
    try:
        assert found("in") == ["in/a.heic", "in/d.png"]
        assert passed_over("in") == {"in/b.jxl": "picture", "in/c.cr2": "raw", "in/e.heif": "heic"}
    finally:
        find.picture_suffixes.cache_clear()


def test_searching_does_not_wait_for_a_pipe() -> None:
    make("in/a.png")
    os.mkfifo("in/pipe.png")
    thread = threading.Thread(target=lambda: found("in"), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_links_that_lead_nowhere_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "c.png").symlink_to("gone.png")
    told = {
        name: str(search(str(tmp_path / name), recursive=False).failed[0][1]) for name in ("a.png", "c.png", "d.png")
    }
    assert told["a.png"].endswith("a.png is a link that leads back to itself")
    assert told["c.png"].endswith("c.png is a link to gone.png, which does not exist")
    assert told["d.png"].endswith("d.png does not exist")
    inside = search(str(tmp_path / "a.png" / "x.png"), recursive=False).failed[0][1]
    assert str(inside).endswith("x.png is a link that leads back to itself")


@pytest.mark.parametrize("heif", [True, False])
def test_a_jpeg_under_the_name_of_a_heic_is_found(heif: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suffixes = SUFFIXES | ({".heic"} if heif else set())
    monkeypatch.setattr(find, "picture_suffixes", lambda: suffixes)
    Image.new("RGB", (8, 8)).save(tmp_path / "sent.HEIC", "JPEG")
    (tmp_path / "other.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    found = search(str(tmp_path), recursive=True)
    assert [path.name for path, _ in found.pictures] == (["other.heic", "sent.HEIC"] if heif else ["sent.HEIC"])
