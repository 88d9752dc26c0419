"""The end of runs over folders: whatever happens to the disk, the folders, the inputs or the terminal, nothing is lost.

Nothing is lost if the inputs are unchanged, every result is complete or absent, no incomplete file remains, the log
reports no result that does not exist, and `--resume` restores the other pictures.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.cli.restoring.run import GOING_ON
from restorer.folders import manifest
from restorer.folders.manifest import MANIFEST
from restorer.folders.provenance import parse_record
from restorer.images import writing
from restorer.images.files import load
from restorer.images.picture import RECORD
from restorer.models import load as models_load

TESTS = Path(__file__).resolve().parents[1]
POSIX = pytest.mark.skipif(os.name != "posix", reason="limits, rights and pipes of POSIX")
RUN = ["denoise", "in", "-r", "-o", "out", "--sigma", "10", "--steps", "2"]
COUNT = 5


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create pictures of different sizes in a folder and its subfolder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    for i in range(COUNT):
        draw(i, 20 + i)
    return tmp_path


def draw(number: int, side: int, seed: int = 0) -> Path:
    """Write a square picture of noise under a number."""
    path = Path("in", "deep" if number % 2 else ".", f"{number}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([number, seed]).integers(60, 196, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


Restore = Callable[..., tuple[int, str, str]]


@pytest.fixture
def restore(capsys: pytest.CaptureFixture[str]) -> Restore:
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return run(list(arguments)), *capsys.readouterr()

    return call


def inputs() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path("in").rglob("*.png"))}


def results() -> dict[str, bytes]:
    """Return the files of the output folder by relative path, without the log and its lock."""
    files = (path for path in Path("out").rglob("*") if path.is_file() and not path.name.startswith(MANIFEST))
    return {path.relative_to("out").as_posix(): path.read_bytes() for path in files}


def logged() -> list[dict[str, Any]]:
    """Return the lines of the log, of which one may be incomplete and is left out."""
    lines = [line for line in Path("out", MANIFEST).read_bytes().split(b"\n") if line]
    whole = [line for line in lines if line.endswith(b"}")]
    assert len(whole) >= len(lines) - 1
    return [json.loads(line) for line in whole]


def last_statuses() -> dict[str, str]:
    """Return the last status in the log for each output."""
    return {line["output"]: line.get("status", "begun") for line in logged()}


def source_of(name: str) -> str:
    """Return the hash of the input picture in the record of a result."""
    record = parse_record(load(Path("out", name)).text[RECORD])
    assert record is not None
    return record.source_sha256


def input_of(name: str) -> Path:
    return Path("in", name.replace("_denoised", ""))


def sha256_of_input(name: str) -> str:
    return hashlib.sha256(input_of(name).read_bytes()).hexdigest()


def assert_whole(name: str) -> None:
    """Assert that a result is complete, and was made from the present input."""
    result = load(Path("out", name))
    with Image.open(input_of(name)) as source:
        assert (result.width, result.height) == source.size
    assert source_of(name) == sha256_of_input(name)


def assert_nothing_is_lost(before: dict[str, bytes], restore: Restore) -> None:
    """Assert that the inputs, results and log are consistent, and that a resumed run restores the rest."""
    assert inputs() == before
    if Path("out", MANIFEST).exists():
        statuses = last_statuses()
        assert {name for name, status in statuses.items() if status == "ok"} <= set(results()) <= set(statuses)
    for name in results():
        assert name.endswith("_denoised.png")
        assert_whole(name)
    assert_resume_finishes(restore)


def assert_resume_finishes(restore: Restore) -> None:
    """Assert that a resumed run completes all results, and leaves those that are done untouched."""
    statuses = last_statuses() if Path("out", MANIFEST).exists() else {}
    kept = [name for name, status in statuses.items() if status == "ok" and source_of(name) == sha256_of_input(name)]
    times = {name: Path("out", name).stat().st_mtime_ns for name in kept}
    code, _, err = restore(*RUN, "--resume")
    assert code == 0, err
    wanted = {name.removeprefix("in/").replace(".png", "_denoised.png") for name in inputs()}
    assert set(results()) == {name for name, status in last_statuses().items() if status == "ok"} == wanted
    for name in wanted:
        assert_whole(name)
    assert times == {name: Path("out", name).stat().st_mtime_ns for name in times}


def at_result(
    monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Path], None], *, always: bool = False
) -> None:
    """Call `act` when result `number`, counted from 1, is about to be written, and from then on if `always`."""
    original, count = writing._write_synced, 0

    def disturbed(data: bytes, path: Path) -> None:
        nonlocal count
        count += 1
        if count == number or (always and count > number):
            path.write_bytes(data[: len(data) // 2])
            act(path)
        path.unlink(missing_ok=True)
        original(data, path)

    monkeypatch.setattr(writing, "_write_synced", disturbed)


def fails(number: int) -> Callable[[Path], None]:
    """Return a function that raises the system error of a number."""

    def act(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    return act


# ------------------------------------------------------------------------------------------------------ a full disk

MESSAGES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "cannot be written: File too large",
    errno.EIO: "cannot be written: Input/output error",
    errno.EROFS: "the folder out is not writable",
    errno.EACCES: "the folder out is not writable",
}


@pytest.mark.parametrize("number", MESSAGES, ids=errno.errorcode.get)
@pytest.mark.parametrize(("at", "always", "code"), [(1, True, 7), (3, True, 3), (3, False, 3)])
def test_a_disk_that_takes_no_more(
    number: int, at: int, always: bool, code: int, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run tries every picture, reports each failure, and ends with 7 if nothing was restored, else with 3."""
    before = inputs()
    with monkeypatch.context() as patch:
        at_result(patch, at, fails(number), always=always)
        ended, _, err = restore(*RUN)
    failed = COUNT - at + 1 if always else 1
    assert ended == code and f"{COUNT - failed} done, {failed} failed" in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == failed and all(
        MESSAGES[number].removesuffix(" out is not writable") in line for line in errors
    )
    assert len(results()) == COUNT - failed
    assert_nothing_is_lost(before, restore)


@pytest.mark.parametrize("after", range(12))
def test_a_disk_that_is_full_when_the_log_is_written(
    after: int, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run cannot continue without its log: it ends with an error at whichever line fails, half of which remains."""
    before = inputs()
    original, count = manifest.Manifest._append, 0

    def torn(self: manifest.Manifest, target: Path, content: Any) -> None:
        nonlocal count
        count += 1
        if count <= after:
            return original(self, target, content)
        with monkeypatch.context() as patch:
            patch.setattr(manifest.os, "fsync", lambda _: fails(errno.ENOSPC)(Path()))
            original(self, target, content)
        raise AssertionError("an error of the disk is ignored")

    with monkeypatch.context() as patch:
        patch.setattr(manifest.Manifest, "_append", torn)
        ended, _, err = restore(*RUN)
    if after < 2 * COUNT:
        assert ended == 7 and f"{MANIFEST} cannot be written: No space left" in err and "--resume" in err
        line = Path("out", MANIFEST).read_bytes()
        Path("out", MANIFEST).write_bytes(line[: -len(line.splitlines()[-1]) // 2])  # the half that still fitted
    else:
        assert ended == 0, err
    assert_nothing_is_lost(before, restore)


CHILD = f"""
import sys, time
sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]
from stubs import Smooth
from restorer.models import load as models_load
pause = float(sys.argv.pop(1))
class Slow(Smooth):
    def predict(self, *arguments):
        time.sleep(pause)
        return super().predict(*arguments)
models_load.load_prior = lambda *arguments: Slow()
from restorer.cli.app import main
main()
"""


def child(*arguments: str, pause: float = 0, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", CHILD, str(pause), *arguments], env=environment, **pipes)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return the exit code and the messages of a process, which must not contain a traceback; kill a hanging one."""
    try:
        err = (process.communicate(timeout=300)[1] or b"").decode()
    finally:
        process.kill()
    assert "Traceback" not in err and "Exception ignored" not in err and "a bug" not in err, err
    return process.returncode, err


@POSIX
@pytest.mark.parametrize(("limit", "code", "message"), [(2000, 7, MANIFEST), (60_000, 3, "9_denoised.png")])
def test_a_limit_of_the_system(limit: int, code: int, message: str, restore: Restore) -> None:
    """With a limit on the size of files, the log or a result reaches it; a log line is then cut in the middle."""
    import resource

    draw(9, 300)
    before = inputs()
    process = child(*RUN, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    got, err = ended(process)
    assert got == code and "File too large" in err and message in err, err
    if code == 7:
        assert Path("out", MANIFEST).stat().st_size == limit  # the last line is incomplete
    assert_nothing_is_lost(before, restore)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("options", "message"), [(["-o", "-"], "the disk is full"), (["--json"], "No space left")])
def test_a_standard_output_that_is_full(options: list[str], message: str) -> None:
    with Path("/dev/full").open("wb") as full:
        code, err = ended(child("denoise", "in/0.png", "--sigma", "10", *options, stdout=full))
    assert code == 7 and message in err, err


# ------------------------------------------------------------------------------------- folders and inputs that change


def test_the_output_folder_is_removed(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log disappears with the folder, so the run ends."""
    before = inputs()
    with monkeypatch.context() as patch:
        at_result(patch, 3, lambda path: shutil.rmtree("out"))
        code, _, err = restore(*RUN)
    assert code == 7 and "out" in err and not Path("out").exists()
    assert_nothing_is_lost(before, restore)


def test_the_output_folder_becomes_a_file(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    def replaced(path: Path) -> None:
        shutil.rmtree("out")
        Path("out").write_text("mine")

    before = inputs()
    with monkeypatch.context() as patch:
        at_result(patch, 3, replaced)
        assert restore(*RUN)[0] == 7
    assert restore(*RUN, "--resume")[0] == 7 and Path("out").read_text() == "mine"
    Path("out").unlink()
    assert_nothing_is_lost(before, restore)


def test_a_folder_of_the_tree_is_removed(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of the other folders are restored, and the next run creates the folder again."""
    before = inputs()
    with monkeypatch.context() as patch:
        at_result(patch, 2, lambda path: shutil.rmtree("out/deep"))
        code, _, err = restore(*RUN)
    assert code == 3 and "the folder out/deep does not exist" in err
    assert {"0_denoised.png", "2_denoised.png", "4_denoised.png"} == set(results())
    for name in results():
        assert_whole(name)
    assert inputs() == before
    assert restore(*RUN, "--resume")[0] == 0 and len(results()) == COUNT


@contextmanager
def unprivileged(*folders: str) -> Iterator[None]:
    """Run as a user who must not write into these folders.

    The folders are made read-only, and root gives up its privileges, because root may write into read-only folders.
    `os.access` uses the real user, so it still answers for root.
    """
    modes = {folder: Path(folder).stat().st_mode for folder in folders}
    Path().chmod(0o755)
    for folder in folders:
        Path(folder).chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield
    for folder, mode in modes.items():
        Path(folder).chmod(mode)


@POSIX
def test_an_output_folder_that_is_read_only(restore: Restore) -> None:
    before = inputs()
    restore("denoise", "in/0.png", "-o", "warm.png")  # imports all modules while they are readable
    Path("out").mkdir()
    with unprivileged("out"):
        code, _, err = restore(*RUN)
    assert code == 7 and "out" in err and not results()
    assert_nothing_is_lost(before, restore)


@POSIX
def test_an_output_folder_that_becomes_read_only(restore: Restore) -> None:
    """The results that are done remain, and the run ends before it restores anything."""
    assert restore(*RUN, "--limit", "2")[0] == 0
    before, done, log = inputs(), results(), logged()
    with unprivileged("out", "out/deep"):
        code, _, err = restore(*RUN, "--resume")
    assert code == 7 and "error: " in err and "out" in err
    assert results() == done and logged() == log
    assert_nothing_is_lost(before, restore)


@pytest.mark.parametrize("when", ["before it is read", "after it was read"])
@pytest.mark.parametrize("what", ["removed", "cut short", "another"])
def test_an_input_changes(what: str, when: str, restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is that of the bytes that were read, and the log does not attribute it to the changed input."""
    path = Path("in/4.png")
    whole = path.read_bytes()

    def change(*_: object) -> Smooth:
        if what == "removed":
            path.unlink(missing_ok=True)
        elif what == "cut short":
            path.write_bytes(whole[:100])
        else:
            draw(4, 31, seed=1)
        return Smooth()

    with monkeypatch.context() as patch:
        if when == "before it is read":
            patch.setattr(models_load, "load_prior", change)
        else:
            at_result(patch, 1, change)  # the other pictures are in memory by now, or are read later
        code, _, err = restore(*RUN)
    others = {name: data for name, data in inputs().items() if name != str(path)}
    if what == "another":
        assert code == 0
    elif when == "before it is read":
        assert code == 3 and "in/4.png" in err and len(results()) == COUNT - 1
    assert set(results()) >= {Path(name).relative_to("in").as_posix()[:-4] + "_denoised.png" for name in others}
    if what != "another":
        path.write_bytes(whole)
    assert_resume_finishes(restore)


# ---------------------------------------------------------------------------------------------------- two runs at once


@POSIX
def test_a_second_run_into_a_folder(restore: Restore) -> None:
    """The second run ends at once with the reason, and the first one is not affected."""
    before = inputs()
    first = child(*RUN, pause=0.2)
    wait_until_begun(first)
    code, out, err = restore(*RUN)
    assert code == 7 and out == "" and "another run is writing to out" in err and len(err.splitlines()) == 2
    assert restore(*RUN, "--dry-run")[0] == 0  # a dry run needs no lock
    assert ended(first)[0] == 0
    assert_nothing_is_lost(before, restore)


@pytest.mark.parametrize("options", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_two_runs_write_one_file(options: list[str], restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run starts and ends while the first one is writing: one of the two results remains, complete."""
    lines = [["denoise", "in/0.png", "-o", "a.png", "--sigma", sigma, *options] for sigma in ("10", "20")]
    codes = []
    with monkeypatch.context() as patch:
        at_result(patch, 1, lambda path: codes.append(run(lines[1])))
        codes.append(run(lines[0]))
    assert codes == ([0, 0] if options else [0, 7])
    record = parse_record(load(Path("a.png")).text[RECORD])
    assert record is not None and record.options["sigma"] == (10 if options else 20)
    assert not list(Path().glob(".*"))


def test_a_run_that_sweeps_does_not_cost_another_its_result(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over a folder removes the temporary file of a run without a log, which must still write its result."""
    Image.open("in/0.png").save("single.png")
    Path("out").mkdir()
    original, codes = writing._move, list[int]()

    def interrupted(temporary: Path, target: Path, overwrite: bool) -> None:
        if target.name.startswith("single") and not codes:
            codes.append(run(RUN))
            assert not temporary.exists()
        original(temporary, target, overwrite)

    monkeypatch.setattr(writing, "_move", interrupted)
    codes.append(run(["denoise", "single.png", "-o", "out/", "--sigma", "10"]))
    assert codes == [0, 0] and len(results()) == COUNT + 1


# ------------------------------------------------------------------------------------------------- signals and pipes


def wait_until_begun(process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has begun its first result."""
    while process.poll() is None and not (Path("out", MANIFEST).exists() and logged()):
        time.sleep(0.01)
    assert process.poll() is None, ended(process)


@POSIX
@pytest.mark.parametrize(
    ("number", "times", "code", "messages"),
    [(signal.SIGINT, 1, 130, 1), (signal.SIGINT, 2, 130, 1), (signal.SIGTERM, 1, 143, 0)],
)
def test_a_run_that_is_stopped(number: signal.Signals, times: int, code: int, messages: int, restore: Restore) -> None:
    before = inputs()
    # If a shell runs the tests in the background, they ignore Ctrl-C, and the process would inherit that.
    process = child(*RUN, pause=0.5, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_until_begun(process)
    for _ in range(times):
        process.send_signal(number)
    got, err = ended(process)
    assert got == code and err.splitlines().count("interrupted") == messages
    if times == 1:  # a second Ctrl-C may come before the line is printed
        assert err.splitlines().count(GOING_ON) == messages
    assert "error" not in err
    assert_nothing_is_lost(before, restore)


@POSIX
@pytest.mark.parametrize("option", ["--json", "-q"])
def test_who_reads_has_enough(option: str, restore: Restore) -> None:
    """If the reader closes the pipe after the first line, the run ends without an error, and the log is correct."""
    before = inputs()
    process = child(*RUN, option, pause=0.05)
    assert process.stdout is not None and process.stdout.readline()
    process.stdout.close()
    code, err = ended(process)
    assert code == 0 and "error" not in err, err
    assert_nothing_is_lost(before, restore)


@POSIX
@pytest.mark.parametrize(
    "line", [["denoise", "in/8.png", "--sigma", "10", "-o", "-"], ["models", "list"]], ids="-".join
)
def test_who_reads_has_enough_of_one_thing(line: list[str]) -> None:
    draw(8, 300)  # more than a pipe holds
    process = child(*line)
    assert process.stdout is not None and len(process.stdout.read(10)) == 10
    process.stdout.close()
    assert ended(process)[0] == 0


@POSIX
def test_nobody_reads_the_messages(restore: Restore) -> None:
    before = inputs()
    process = child(*RUN, pause=0.05)
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None
    assert ended(process)[0] == 0
    assert_nothing_is_lost(before, restore)


@POSIX
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)], ids=str)
def test_streams_that_are_closed(closed: tuple[int, ...], restore: Restore) -> None:
    """Services may start with closed streams: no file takes the place of a stream, and the exit code is correct."""
    before = inputs()
    Path("in/bad.tif").write_bytes(b"II*\0" + bytes(40))

    def close() -> None:
        for number in closed:
            os.close(number)

    code, err = ended(child(*RUN, preexec_fn=close))
    assert code == 3, err
    Path("in/bad.tif").unlink()
    for name in results():
        assert_whole(name)
    assert {name for name, status in last_statuses().items() if status == "ok"} == set(results()) and len(
        results()
    ) == COUNT
    assert inputs() == before
