"""Results in place, the backups, and what the file system knows of a file: mode, owner, attributes, times."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.folders import in_place
from restorer.folders.in_place import applied_recipes
from restorer.folders.provenance import parse_record
from restorer.images import writing
from restorer.images.attributes import copy_attributes
from restorer.images.files import load
from restorer.images.picture import RECORD
from restorer.models import load as models_load

Restore = Callable[..., tuple[int, str, str]]
COMMAND = ("denoise", "--sigma", "9", "--in-place")
IN_PLACE = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "avif": "AVIF"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    return tmp_path


@pytest.fixture
def restore(capsys: pytest.CaptureFixture[str]) -> Restore:
    """Return a function that runs a command line in this process."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def draw(name: str, format: str | None = None, seed: int = 0, **options: Any) -> bytes:
    """Draw a noisy picture and return the bytes of its file."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(60, 196, (12, 14, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format, **options)
    return path.read_bytes()


def tree() -> dict[str, bytes]:
    return {p.as_posix(): p.read_bytes() for p in sorted(Path().rglob("*")) if p.is_file()}


# ----------------------------------------------------------------------------------------------------- the replacement


@pytest.mark.parametrize(("suffix", "format"), IN_PLACE.items())
def test_a_picture_is_replaced_by_its_result(suffix: str, format: str, restore: Restore) -> None:
    before = draw(f"a.{suffix}")
    code, out, err = restore(*COMMAND, f"a.{suffix}")
    assert code == 0 and out == f"a.{suffix}\n" and f"replaced a.{suffix}" in err
    assert set(tree()) == {f"a.{suffix}"}
    after = load(Path(f"a.{suffix}"))
    assert (after.format, after.width, after.height) == (format, 14, 12) and after.original != before
    record = parse_record(after.text[RECORD])
    assert record is not None and len(record.in_place) == 1 and record.command == "denoise"


@pytest.mark.parametrize("suffix", IN_PLACE)
def test_the_same_command_again_changes_nothing(suffix: str, restore: Restore) -> None:
    draw(f"a.{suffix}")
    assert restore(*COMMAND, f"a.{suffix}")[0] == 0
    once = tree()
    code, _, err = restore(*COMMAND, f"a.{suffix}")
    assert code == 0 and "restored in place by this command before: skipped" in err
    assert tree() == once


def test_another_command_is_applied_and_both_are_remembered(restore: Restore) -> None:
    draw("a.png")
    assert restore(*COMMAND, "a.png")[0] == 0
    once = tree()
    other = ("denoise", "--sigma", "12", "--in-place", "a.png")
    assert restore(*other)[0] == 0
    twice = tree()
    assert twice != once and len(applied_recipes(Path("a.png"))) == 2
    for command in ((*COMMAND, "a.png"), other):
        assert "skipped" in restore(*command)[2]
    assert tree() == twice


def test_the_mask_is_part_of_the_command(restore: Restore) -> None:
    draw("a.png")
    for number, corner in enumerate([(2, 3), (6, 8)]):
        mask = np.zeros((12, 14), np.uint8)
        mask[corner[0] : corner[0] + 3, corner[1] : corner[1] + 3] = 255
        Image.fromarray(mask).save(f"m{number}.png")
    command = ("inpaint", "a.png", "--in-place", "--mask")
    assert restore(*command, "m0.png")[0] == 0
    assert "skipped" in restore(*command, "m0.png")[2]
    code, _, err = restore(*command, "m1.png")
    assert code == 0 and "skipped" not in err and len(applied_recipes(Path("a.png"))) == 2


def test_an_interrupted_run_is_continued_by_the_same_command(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    originals = {f"in/{i}.png": draw(f"in/{i}.png", seed=i) for i in range(6)}
    save, count = writing.save, 0

    def interrupted(*arguments: Any, **options: Any) -> tuple[str, ...]:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return save(*arguments, **options)

    monkeypatch.setattr(writing, "save", interrupted)
    assert restore(*COMMAND, "in", "-r")[0] == 130
    monkeypatch.setattr(writing, "save", save)
    half = tree()
    assert set(half) == set(originals)
    replaced = [name for name in originals if half[name] != originals[name]]
    assert len(replaced) == 3
    code, _, err = restore(*COMMAND, "in", "-r")
    assert code == 0 and "3 done, 0 failed, 3 skipped" in err
    assert all(tree()[name] == half[name] for name in replaced)
    assert all(tree()[name] != originals[name] for name in originals)


def test_an_unchanged_picture_is_left_alone(restore: Restore) -> None:
    before = draw("a.png")
    times = (1_600_000_000_123_456_789, 1_500_000_000_987_654_321)
    os.utime("a.png", ns=times)
    inode = Path("a.png").stat().st_ino
    code, _, err = restore("denoise", "--sigma", "0", "--in-place", "--backup", ".orig", "a.png")
    assert code == 0 and "nothing has changed" in err and tree() == {"a.png": before}
    assert Path("a.png").stat().st_ino == inode and Path("a.png").stat().st_mtime_ns == times[1]


def test_the_content_decides_on_the_format(restore: Restore) -> None:
    draw("sticker.jpg", "PNG")
    assert restore(*COMMAND, "sticker.jpg")[0] == 0
    assert load(Path("sticker.jpg")).format == "PNG"


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("a.gif", {}, "its format is GIF"),
        ("a.bmp", {}, "its format is BMP"),
        ("a.ppm", {}, "its format is PPM"),
        ("a.tga", {}, "its format is TGA"),
        ("a.jp2", {}, "its format is JPEG2000"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    name: str, options: dict[str, Any], reason: str, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = draw(name, **options)

    def load_nothing(*arguments: object) -> Smooth:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(models_load, "load_prior", load_nothing)
    code, _, err = restore(*COMMAND, name)
    assert code == 7 and reason in err and tree() == {name: before}


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_a_file_of_several_pictures_is_replaced_only_with_a_backup(name: str, restore: Restore) -> None:
    pages = [Image.fromarray(np.full((12, 14, 3), 40 * i, np.uint8)) for i in range(1, 4)]
    before = draw(name, save_all=True, append_images=pages)
    code, _, err = restore(*COMMAND, name)
    assert code == 7 and "holds 4 pictures" in err and "--backup" in err and tree() == {name: before}
    assert restore(*COMMAND, name, "--backup", ".orig")[0] == 0
    assert tree()[f"{name}.orig"] == before


def test_a_video_in_a_jpeg_is_replaced_only_with_a_backup(restore: Restore) -> None:
    before = draw("a.jpg") + b"\0\0\0\x18ftypmp42" + bytes(500)
    Path("a.jpg").write_bytes(before)
    code, _, err = restore(*COMMAND, "a.jpg")
    assert code == 7 and "a video" in err and tree() == {"a.jpg": before}
    assert restore(*COMMAND, "a.jpg", "--backup", ".orig")[0] == 0
    assert tree()["a.jpg.orig"] == before


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["-o", "out/"], "--in-place and --output"),
        (["--overwrite"], "--in-place and --overwrite"),
        (["--skip-existing"], "--in-place and --skip-existing"),
        (["--resume"], "--in-place and --resume"),
        (["--backup", ""], "a backup cannot be called"),
        (["--backup", "/x"], "a backup cannot be called"),
        (["--backup", ".png"], "would be taken for pictures"),
        (["--backup", "_old.jpeg"], "would be taken for pictures"),
    ],
)
def test_usage(more: list[str], reason: str, restore: Restore) -> None:
    before = draw("a.png")
    code, _, err = restore(*COMMAND, "a.png", *more)
    assert code == 2 and reason in err and tree() == {"a.png": before}


def test_a_backup_needs_in_place(restore: Restore) -> None:
    draw("a.png")
    code, _, err = restore("denoise", "a.png", "--backup", ".orig")
    assert code == 2 and "--backup needs --in-place" in err


def test_standard_input_cannot_be_replaced(restore: Restore) -> None:
    code, _, err = restore(*COMMAND, "-")
    assert code == 2 and "cannot be replaced" in err


def test_upscale_has_no_such_option(restore: Restore) -> None:
    draw("a.png")
    assert restore("upscale", "a.png", "--in-place")[0] == 2


def test_a_picture_that_another_program_changes_meanwhile_is_kept(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw("a.png")
    theirs = draw("theirs.png", seed=7)

    class Slow(Smooth):
        def predict(self, *arguments: Any) -> Any:
            Path("a.png").write_bytes(theirs)
            return super().predict(*arguments)

    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Slow())
    code, _, err = restore(*COMMAND, "a.png", "--backup", ".orig")
    assert code == 7 and "has changed while it was being restored" in err
    assert tree() == {"a.png": theirs, "theirs.png": theirs}


# -------------------------------------------------------------------------------------------------------------- backups


def test_the_backup_is_the_picture_as_it_was(restore: Restore) -> None:
    before = draw("in/a.jpg")
    os.utime("in/a.jpg", ns=(1_600_000_000_000_000_000, 1_500_000_000_000_000_000))
    code, out, _ = restore(*COMMAND, "in", "-r", "--backup", ".orig", "--json")
    assert code == 0 and json.loads(out.splitlines()[0])["backup"].endswith("in/a.jpg.orig")
    assert tree()["in/a.jpg.orig"] == before
    assert Path("in/a.jpg.orig").stat().st_mtime_ns == 1_500_000_000_000_000_000
    code, _, err = restore(*COMMAND, "in", "-r", "--backup", ".orig")
    assert code == 0 and "1 skipped" in err and "1 backup copy" in err


def test_a_backup_without_hard_links_is_a_copy(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw("a.png")

    def refuse(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(in_place.os, "link", refuse)
    assert restore(*COMMAND, "a.png", "--backup", "~")[0] == 0
    assert tree()["a.png~"] == before and set(tree()) == {"a.png", "a.png~"}


def test_an_existing_backup_is_never_replaced(restore: Restore) -> None:
    before = draw("a.png")
    Path("a.png.orig").write_bytes(b"mine")
    code, _, err = restore(*COMMAND, "a.png", "--backup", ".orig")
    assert code == 7 and "a.png.orig exists" in err
    assert tree() == {"a.png": before, "a.png.orig": b"mine"}


def test_a_backup_whose_name_would_be_too_long_is_refused(restore: Restore) -> None:
    name = "x" * 251 + ".png"
    before = draw(name)
    code, _, err = restore(*COMMAND, name, "--backup", ".orig")
    assert code == 7 and "cannot be written: File name too long" in err and tree() == {name: before}


def test_a_backup_that_an_interrupted_run_has_made_is_used(restore: Restore) -> None:
    before = draw("a.png")
    os.link("a.png", "a.png.orig")
    assert restore(*COMMAND, "a.png", "--backup", ".orig")[0] == 0
    assert tree()["a.png.orig"] == before and tree()["a.png"] != before


# -------------------------------------------------------------------------------------------------- links and the rest


def test_links_in_folders_are_not_followed_and_named_ones_are(restore: Restore) -> None:
    away = draw("elsewhere/b.png")
    draw("in/a.png")
    Path("in/b.png").symlink_to(Path("elsewhere/b.png").absolute())
    code, _, err = restore(*COMMAND, "in", "-r")
    assert code == 0 and "1 done" in err and "1 link that is not followed" in err
    assert tree()["elsewhere/b.png"] == away
    assert restore(*COMMAND, "in/b.png", "--backup", ".orig")[0] == 0
    assert Path("in/b.png").is_symlink() and tree()["elsewhere/b.png"] != away
    assert tree()["elsewhere/b.png.orig"] == away


def test_a_dry_run_names_what_it_would_replace(restore: Restore) -> None:
    before = draw("a.png")
    code, _, err = restore(*COMMAND, "a.png", "--dry-run", "--backup", ".orig")
    assert code == 0 and "a.png -> a.png" in err and tree() == {"a.png": before}


def test_mode_and_attributes_are_kept(restore: Restore) -> None:
    draw("a.png")
    Path("a.png").chmod(0o640)
    has_attributes = False
    with suppress(OSError, AttributeError):  # not every file system and system has them
        os.setxattr("a.png", "user.rating", b"5")
        has_attributes = True
    assert restore(*COMMAND, "a.png")[0] == 0
    assert stat.S_IMODE(Path("a.png").stat().st_mode) == 0o640
    if has_attributes:
        assert os.getxattr("a.png", "user.rating") == b"5"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_is_kept(restore: Restore) -> None:
    draw("a.png")
    os.chown("a.png", 12345, 23456)
    assert restore(*COMMAND, "a.png")[0] == 0
    status = Path("a.png").stat()
    assert (status.st_uid, status.st_gid) == (12345, 23456)


def test_an_owner_that_cannot_be_kept_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a").touch()
    Path("b").touch()
    Path("a").chmod(0o4755)

    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    copy_attributes(Path("a"), Path("b"))
    assert stat.S_IMODE(Path("b").stat().st_mode) == 0o755  # without the rights of an owner it does not have


# ---------------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize("verb", ["denoise", "upscale"])
def test_times_are_kept_on_request(verb: str, restore: Restore) -> None:
    draw("a.png")
    times = (1_600_000_000_123_456_700, 1_500_000_000_987_654_300)
    os.utime("a.png", ns=times)
    options = ("--scale", "2") if verb == "upscale" else ("--sigma", "9")
    assert restore(verb, "a.png", *options, "-o", "kept.png", "--keep-times")[0] == 0
    status = Path("kept.png").stat()
    assert status.st_mtime_ns == times[1]
    assert restore(verb, "a.png", *options, "-o", "new.png")[0] == 0
    assert Path("new.png").stat().st_mtime_ns > times[1]


def test_times_are_kept_in_place(restore: Restore) -> None:
    draw("a.png")
    os.utime("a.png", ns=(1_600_000_000_000_000_000, 1_500_000_000_000_000_000))
    assert restore(*COMMAND, "a.png", "--keep-times")[0] == 0
    assert Path("a.png").stat().st_mtime_ns == 1_500_000_000_000_000_000


def test_standard_input_has_no_times(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw("a.png")

    class Stdin:
        buffer = io.BytesIO(data)

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr("sys.stdin", Stdin())
    assert restore("denoise", "-", "--sigma", "9", "-o", "b.png", "--keep-times")[0] == 0
    assert Path("b.png").is_file()
