"""The log of a folder: its memory, incomplete lines, and the lock that keeps a second run out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from restorer.errors import OutputError
from restorer.folders.manifest import MANIFEST, Manifest, compute_fingerprint, open_manifest, remove_partial_files
from restorer.images import writing
from restorer.images.files import from_pil

KEY = compute_fingerprint("denoise", {"steps": None}, "a" * 64, "b" * 64)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "sub" / "a_denoised.png"
    path.parent.mkdir()
    path.write_bytes(b"whole")
    return path


def reopened(folder: Path) -> Manifest:
    """Return the log as a new process would read it."""
    return Manifest(folder / MANIFEST)


def test_a_fingerprint_is_of_everything_the_result_depends_on() -> None:
    same = compute_fingerprint("denoise", {"steps": None}, "a" * 64, "b" * 64)
    others = {
        compute_fingerprint("upscale", {"steps": None}, "a" * 64, "b" * 64),
        compute_fingerprint("denoise", {"steps": 6}, "a" * 64, "b" * 64),
        compute_fingerprint("denoise", {"steps": None, "seed": 1}, "a" * 64, "b" * 64),
        compute_fingerprint("denoise", {"steps": None}, "c" * 64, "b" * 64),
        compute_fingerprint("denoise", {"steps": None}, "a" * 64, "c" * 64),
        compute_fingerprint("denoise", {"steps": None}, "a" * 64, "b" * 64, "b" * 64),
    }
    assert same == KEY and KEY.startswith("sha256:") and len(others) == 6 and KEY not in others
    assert compute_fingerprint("x", {"a": 1, "b": 2}, "m") == compute_fingerprint("x", {"b": 2, "a": 1}, "m")


def test_done_is_what_was_written_by_the_same_recipe_and_is_still_there(tmp_path: Path, result: Path) -> None:
    assert not reopened(tmp_path).has_begun(result) and not reopened(tmp_path).is_done(result, KEY)
    log = reopened(tmp_path)
    log.log_begin(result)
    for known in (log, reopened(tmp_path)):
        assert known.has_begun(result) and not known.is_done(result, KEY)
    log.log_result(result, {"event": "result", "status": "ok", "recipe": KEY})
    for known in (log, reopened(tmp_path)):
        assert known.is_done(result, KEY) and not known.is_done(result, "sha256:other")
    result.unlink()
    assert reopened(tmp_path).has_begun(result) and not reopened(tmp_path).is_done(result, KEY)


def test_a_failure_is_tried_again(tmp_path: Path, result: Path) -> None:
    log = reopened(tmp_path)
    log.log_result(result, {"event": "result", "status": "ok", "recipe": KEY})
    log.log_begin(result)
    log.log_result(result, {"event": "result", "status": "failed", "recipe": KEY, "code": 6})
    assert not log.is_done(result, KEY) and not reopened(tmp_path).is_done(result, KEY)


def test_a_refusal_leaves_what_was_done_before(tmp_path: Path, result: Path) -> None:
    """A run without --resume and --overwrite that finds the result does not change what is known of it."""
    log = reopened(tmp_path)
    log.log_begin(result)
    log.log_result(result, {"event": "result", "status": "ok", "recipe": KEY})
    log.log_result(result, {"event": "result", "status": "failed", "code": 7})
    assert log.is_done(result, KEY) and reopened(tmp_path).is_done(result, KEY)
    log.log_begin(result)
    assert not log.is_done(result, KEY) and not reopened(tmp_path).is_done(result, KEY)


def test_a_result_that_was_refused_is_not_ours(tmp_path: Path, result: Path) -> None:
    log = reopened(tmp_path)
    log.log_result(result, {"event": "result", "status": "failed", "code": 7})
    assert not log.has_begun(result) and not reopened(tmp_path).has_begun(result)
    log.log_begin(result)
    log.log_result(result, {"event": "result", "status": "failed", "code": 6})
    assert log.has_begun(result) and reopened(tmp_path).has_begun(result)


@pytest.mark.parametrize(
    "torn", ["", "{", '{"event": "result", "output": "sub/a_denoi', "[1]\n", "\xff\x00", "[" * 5000]
)
def test_a_torn_line_counts_as_never_written(tmp_path: Path, result: Path, torn: str) -> None:
    """An incomplete line is ignored, and the next entry begins on a new line."""
    log = reopened(tmp_path)
    log.log_begin(result)
    with (tmp_path / MANIFEST).open("ab") as file:
        file.write(torn.encode("latin-1"))
    again = reopened(tmp_path)
    assert again.has_begun(result) and not again.is_done(result, KEY)
    again.log_result(result, {"event": "result", "status": "ok", "recipe": KEY})
    assert reopened(tmp_path).is_done(result, KEY)
    lines = (tmp_path / MANIFEST).read_bytes().splitlines()
    assert json.loads(lines[-1]) == {
        "schema": 1, "event": "result", "status": "ok", "recipe": KEY, "output": "sub/a_denoised.png"
    }  # fmt: skip


def test_every_way_to_cut_a_log_short(tmp_path: Path, result: Path) -> None:
    """Wherever a crash cuts the log, a result is done only if its line is complete."""
    log = reopened(tmp_path)
    log.log_begin(result)
    log.log_result(result, {"event": "result", "status": "ok", "recipe": KEY})
    whole = (tmp_path / MANIFEST).read_bytes()
    for length in range(len(whole)):
        (tmp_path / MANIFEST).write_bytes(whole[:length])
        # Only the line break may be missing, because the object is complete without it.
        assert reopened(tmp_path).is_done(result, KEY) is (length == len(whole) - 1)


def test_a_folder_may_be_moved_and_named_from_anywhere(
    tmp_path: Path, result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = Manifest(Path(MANIFEST))
    log.log_result(Path("sub/a_denoised.png"), {"status": "ok", "recipe": KEY})
    log.log_begin(Path("../elsewhere.png"))
    assert reopened(tmp_path).is_done(result, KEY) and reopened(tmp_path).has_begun(tmp_path.parent / "elsewhere.png")
    monkeypatch.chdir("/")
    moved = tmp_path / "moved"
    moved.mkdir()
    result.parent.rename(moved / "sub")
    (tmp_path / MANIFEST).rename(moved / MANIFEST)
    assert reopened(moved).is_done(moved / "sub" / "a_denoised.png", KEY)
    assert reopened(moved).has_begun(tmp_path.parent / "elsewhere.png")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A file name that is not valid UTF-8 is logged and found again."""
    odd = tmp_path / b"caf\xe9 \xf0\x9f\x96\xbc.png".decode("utf-8", "surrogateescape")
    log = reopened(tmp_path)
    log.log_begin(odd)
    assert reopened(tmp_path).has_begun(odd)


def test_one_writer(tmp_path: Path) -> None:
    """A second run is refused while the first one lives, but not after the first one was killed."""
    path = tmp_path / MANIFEST
    code = (
        "import sys, time; from pathlib import Path; from restorer.folders.manifest import open_manifest\n"
        "with open_manifest(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="another run"), open_manifest(path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with open_manifest(path) as log:
        log.log_begin(tmp_path / "a.png")
    assert reopened(tmp_path).has_begun(tmp_path / "a.png")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError), open_manifest(tmp_path / "none" / MANIFEST):
        pass
    log = Manifest(tmp_path / "none" / MANIFEST)
    with pytest.raises(OutputError, match="cannot be written"):
        log.log_begin(tmp_path / "a.png")
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(OutputError, match="cannot be read"):
        reopened(tmp_path)


def test_leftovers_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file of a killed run is removed, and no other file is."""
    others = [".hidden", "a.partial", ".0123456789abcdef.partial.png", ".0123456789ABCDEF.partial", "a.png"]
    for name in others:
        (tmp_path / name).touch()
    partial: list[Path] = []

    def killed(temporary: Path, target: Path, overwrite: bool) -> None:
        partial.append(temporary)
        temporary.rename(temporary.with_name("kept"))
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_move", killed)
    with pytest.raises(KeyboardInterrupt):
        writing.save(from_pil(Image.new("RGB", (4, 4))), tmp_path / "b.png")
    (tmp_path / "kept").rename(partial[0])
    remove_partial_files([tmp_path, tmp_path / "none"])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)
