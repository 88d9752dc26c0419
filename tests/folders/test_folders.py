"""Runs over folders: resuming after any interruption, the log, patterns, limits, dry runs, and provenance records."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.folders.manifest import MANIFEST
from restorer.folders.provenance import parse_record
from restorer.images.files import load
from restorer.images.picture import RECORD
from restorer.models import load as models_load
from restorer.tasks.defaults import DENOISE

TESTS = Path(__file__).resolve().parents[1]
Restore = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Replace the embedded prior by a cheap one; return the list of the calls that load it."""
    loaded: list[tuple[object, ...]] = []

    def load_prior(*arguments: object) -> Smooth:
        loaded.append(arguments)
        return Smooth()

    monkeypatch.setattr(models_load, "load_prior", load_prior)
    return loaded


@pytest.fixture
def restore(calls: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]) -> Restore:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


def pictures(count: int, folder: str = "in", side: int = 12, suffix: str = "png") -> list[Path]:
    """Write pictures of `side` rows and `side` + 2 columns."""
    Path(folder).mkdir(exist_ok=True)
    paths = [Path(folder) / f"{i:03}.{suffix}" for i in range(count)]
    for i, path in enumerate(paths):
        pixels = np.random.default_rng(i).integers(60, 196, (side, side + 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def log(folder: str = "out") -> list[dict[str, Any]]:
    """Return the lines of the log."""
    return [json.loads(line) for line in (Path(folder) / MANIFEST).read_text().splitlines()]


def done(folder: str = "out") -> list[str]:
    """Return the results that the log reports as done."""
    return sorted(line["output"] for line in log(folder) if line.get("status") == "ok")


def results(folder: str = "out") -> list[str]:
    """Return the names of the files in a folder, without the log and its lock."""
    return sorted(p.name for p in Path(folder).iterdir() if not p.name.startswith(".restorer"))


FOLDER = ("denoise", "in", "-r", "-o", "out", "--sigma", 10)


def test_a_run_over_a_folder_keeps_a_log(restore: Restore, calls: list[tuple[object, ...]]) -> None:
    pictures(3)
    code, out, _ = restore(*FOLDER, "--json")
    assert code == 0 and len(calls) == 1
    lines = log()
    assert sorted(line["event"] for line in lines) == ["begun"] * 3 + ["result"] * 3
    lines = [line for line in lines if line["event"] == "result"]
    printed = [json.loads(line) for line in out.splitlines()][:-1]
    assert [line["recipe"] for line in lines] == [event["recipe"] for event in printed]
    assert [line["output"] for line in lines] == results()  # relative to the folder
    assert {key: lines[0][key] for key in ("schema", "status", "steps", "sigma")} == {
        "schema": 1, "status": "ok", "steps": DENOISE.steps, "sigma": 10.0
    }  # fmt: skip


def test_no_log_where_none_is_wanted(restore: Restore) -> None:
    """A single picture and a folder restored in place leave nothing but results behind."""
    pictures(2)
    assert restore("denoise", "in/000.png", "-o", "out/", "--sigma", 9)[0] == 0
    assert restore("denoise", "in", "-r", "--sigma", 9)[0] == 0
    assert not list(Path().rglob(".restorer*"))
    assert restore("denoise", "in", "-r", "--sigma", 8, "--overwrite", "--manifest", "log.jsonl")[0] == 0
    assert len(Path("log.jsonl").read_text().splitlines()) == 4


def test_resume_does_what_is_missing(restore: Restore) -> None:
    paths = pictures(4)
    assert restore(*FOLDER)[0] == 0
    before = {name: Path("out", name).stat().st_mtime_ns for name in results()}
    Path("out/001_denoised.png").unlink()
    Image.new("RGB", (14, 12), (90, 120, 99)).save(paths[2])  # the input has changed
    code, _, err = restore(*FOLDER, "--resume")
    assert code == 0 and "2 done, 0 failed, 2 skipped" in err
    after = {name: Path("out", name).stat().st_mtime_ns for name in results()}
    assert [name[:3] for name in results() if before[name] == after[name]] == ["000", "003"]
    assert "0 done, 0 failed, 4 skipped" in restore(*FOLDER, "--resume")[2]


def test_resume_redoes_what_was_asked_for_otherwise(restore: Restore) -> None:
    """Another number of steps, model or mask gives another result; another tile, device or precision does not."""
    pictures(2)
    assert restore(*FOLDER)[0] == 0
    for same in (["--tile", 64], ["--device", "cpu"], ["--precision", "fp32"], ["--json"], ["-v"]):
        assert "2 skipped" in restore(*FOLDER, *same, "--resume")[2]
    for other in (["--steps", 3], ["--seed", 1], ["--detail", 0.2], ["--method", "ddim"]):
        assert "2 done, 0 failed, 0 skipped" in restore(*FOLDER, *other, "--resume")[2]
    assert "2 done" in restore(*FOLDER, "--resume")[2]  # the last line of the log counts


def test_resume_with_masks(restore: Restore) -> None:
    pictures(2)
    Path("masks").mkdir()
    for name in ("000", "001"):
        fill = np.zeros((12, 14), np.uint8)
        fill[3:6, 3:6] = 255
        Image.fromarray(fill).save(f"masks/{name}.png")
    line = ("inpaint", "in", "-r", "--mask", "masks", "-o", "out", "--steps", 2)
    assert restore(*line)[0] == 0 and "2 skipped" in restore(*line, "--resume")[2]
    Image.new("L", (14, 12), 255).save("masks/001.png")
    assert "1 done, 0 failed, 1 skipped" in restore(*line, "--resume")[2]


def test_resume_leaves_the_files_of_others_alone(restore: Restore) -> None:
    pictures(2)
    Path("out").mkdir()
    Path("out/001_denoised.png").write_text("mine")
    for _ in range(3):  # the log then holds the refusal, which must not allow the file to be replaced
        code, _, err = restore(*FOLDER, "--resume")
        assert code == 3 and "001_denoised.png exists" in err
        assert Path("out/001_denoised.png").read_text() == "mine" and done() == ["000_denoised.png"]


def test_resume_in_place(restore: Restore) -> None:
    pictures(2)
    assert restore("denoise", "in", "-r", "--sigma", 9, "--resume")[0] == 0
    assert Path("in", MANIFEST).exists()
    assert "0 done, 0 failed, 2 skipped" in restore("denoise", "in", "-r", "--sigma", 9, "--resume")[2]
    code, _, err = restore("denoise", "in/000.png", "--sigma", 9, "--resume")
    assert code == 2 and "--manifest" in err


def test_a_failure_is_logged_and_tried_again(restore: Restore) -> None:
    paths = pictures(3)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:60])
    assert restore(*FOLDER)[0] == 3
    assert [line["code"] for line in log() if line.get("status") == "failed"] == [4]
    paths[1].write_bytes(whole)
    assert "1 done, 0 failed, 2 skipped" in restore(*FOLDER, "--resume")[2]
    assert len(done()) == 3


def test_two_runs_at_once(restore: Restore) -> None:
    from restorer.folders.manifest import open_manifest

    pictures(2)
    Path("out").mkdir()
    with open_manifest(Path("out", MANIFEST)):
        code, _, err = restore(*FOLDER)
    assert code == 7 and "another run" in err and results() == []
    assert restore(*FOLDER)[0] == 0


def test_fail_fast_and_limit(restore: Restore) -> None:
    paths = pictures(5)
    paths[1].write_bytes(b"no picture")
    code, _, err = restore(*FOLDER, "--fail-fast")
    assert code == 3 and "1 done, 1 failed" in err and results() == ["000_denoised.png"]
    assert "2 done, 1 failed, 1 skipped" in restore(*FOLDER, "--resume", "--limit", 2)[2]
    assert results() == ["000_denoised.png", "002_denoised.png", "003_denoised.png"]
    assert restore(*FOLDER, "--limit", 0)[0] == 2


def test_patterns(restore: Restore) -> None:
    pictures(3), pictures(2, suffix="jpg")
    assert restore(*FOLDER, "--include", "*.jpg", "--include", "002.*", "--exclude", "001.*")[0] == 0
    assert results() == ["000_denoised.jpg", "002_denoised.png"]


def test_max_pixels(restore: Restore) -> None:
    pictures(1)
    code, _, err = restore(*FOLDER, "--max-pixels", 100)
    assert code == 4 and "--max-pixels" in err and not results()


def test_a_dry_run_writes_nothing(restore: Restore) -> None:
    paths = pictures(3)
    paths[2].write_bytes(b"no picture")
    code, out, err = restore(*FOLDER, "--dry-run", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 3 and [event["event"] for event in events] == ["plan", "plan", "result", "summary"]
    first = events[0]
    assert first["output"] == "out/000_denoised.png" and (first["width"], first["height"]) == (14, 12)
    assert first["seconds"] >= 0 and not Path("out").exists()
    assert "in/000.png -> out/000_denoised.png · 14x12 · 4 steps · about 0 s · 130.0 MB of memory" in err
    assert "2 would be done, 1 failed" in err
    paths[2].unlink()
    assert restore(*FOLDER)[0] == 0
    (Path("out") / "001_denoised.png").unlink()
    assert "1 would be done, 0 failed, 1 skipped" in restore(*FOLDER, "--resume", "--dry-run")[2]
    assert "14x12 -> 28x24" in restore("upscale", "in", "-r", "--scale", 2, "--dry-run")[2]


def test_a_dry_run_fetches_nothing(restore: Restore, calls: list[tuple[object, ...]], monkeypatch: Any) -> None:
    """A model that is not downloaded is named, and the pictures are listed without times."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pictures(2)
    code, out, err = restore(*FOLDER, "--dry-run", "--json", "--model", "nobody/nothing")
    assert code == 0 and not calls and "the model nobody/nothing is not downloaded" in err
    assert [json.loads(line).get("seconds", 0) for line in out.splitlines()][:2] == [None, None]


def test_leftovers_of_a_killed_run_are_removed(restore: Restore) -> None:
    pictures(1)
    Path("out").mkdir()
    (Path("out") / ".0123456789abcdef.partial").write_bytes(b"half")
    assert restore(*FOLDER)[0] == 0 and results() == ["000_denoised.png"]


CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores SIGINT in background processes
sys.path.insert(0, {tests!r})
from stubs import Smooth
from restorer.models import load as models_load
class Slow(Smooth):
    def predict(self, *arguments):
        time.sleep(0.03)  # so that a run lasts long enough to be stopped
        return super().predict(*arguments)
models_load.load_prior = lambda *arguments: Slow()
from restorer.cli.app import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_ends_anywhere_goes_on(number: signal.Signals) -> None:
    """Stop a run at random moments, and resume it until it ends.

    In the end there must be exactly one complete result and one `ok` line for each intact file.
    """
    good = pictures(40, side=24)
    for i in range(4):
        Path("in", f"bad{i}.png").write_bytes(good[i].read_bytes()[: 20 * i])
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-c", CHILD.format(tests=str(TESTS)), *map(str, FOLDER), "--resume"]
    finished, codes, rng = 0, [], random.Random(int(number))
    for _ in range(40):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wanted = finished + rng.randint(4, 16)
        while process.poll() is None and len(results() if Path("out").exists() else []) < wanted:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        for _ in range(rng.randint(1, 3)):  # once, or several times like an impatient user
            process.send_signal(number)
            time.sleep(0.01)
        codes.append(process.wait())
        finished = len([name for name in results() if name.endswith(".png")])
        if codes[-1] == 3:
            break
    assert codes[-1] == 3 and len(codes) > 3  # it was stopped several times; at the end the damaged files failed
    assert set(codes[:-1]) <= {{signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number], 3}
    assert done() == results() == sorted(f"{path.stem}_denoised.png" for path in good)
    for path in good:
        assert load(Path("out", f"{path.stem}_denoised.png")).width == 26
    assert {line["input"] for line in log() if line.get("status") == "failed"} == {f"in/bad{i}.png" for i in range(4)}


# ---------------------------------------------------------------------------------------------- provenance records


def test_a_result_carries_its_record(restore: Restore) -> None:
    paths = pictures(1)
    assert restore("denoise", paths[0], "--seed", 5, "-o", "a.png")[0] == 0
    record = parse_record(load(Path("a.png")).text[RECORD])
    assert record is not None
    assert (record.command, record.source, record.model) == ("denoise", "000.png", "photo")
    assert record.source_sha256 == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert record.options["seed"] == 5 and record.options["steps"] == DENOISE.steps


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("verb", ["denoise", "inpaint", "upscale"])
def test_doctor_tells_the_command_that_makes_the_same_bytes(
    verb: str, suffix: str, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pictures(1, suffix=suffix)[0]
    Image.fromarray(np.pad(np.full((3, 3), 255, np.uint8), ((4, 5), (4, 7)))).save("m.png")
    more = {"inpaint": ["--mask", "m.png"], "upscale": ["--scale", 2], "denoise": []}[verb]
    first = Path(f"first.{suffix}")
    assert restore(verb, path, *more, "--seed", 3, "-o", first)[0] == 0
    code, out, err = restore("doctor", first)
    assert code == 0 and verb in err
    words = [word for word in shlex.split(out) if not word.startswith("OMP_NUM_THREADS=")]
    assert words[:2] == ["restore", verb]
    again = [str(path) if word == path.name else word for word in words[1:]]
    assert restore(*again, "-o", f"second.{suffix}")[0] == 0
    assert Path(f"second.{suffix}").read_bytes() == first.read_bytes()


def test_doctor_on_what_has_no_record(restore: Restore) -> None:
    path = pictures(1)[0]
    code, out, err = restore("doctor", path)
    assert code == 0 and "no record" in err
    assert "noise" in out
    code, out, _ = restore("doctor", path, "--json")
    assert code == 0
    assert json.loads(out)["noise"]["kind"] in ("white", "camera", "none")
    assert restore("denoise", "in/000.png", "--sigma", 0)[0] == 0  # the input is copied unchanged
    assert Path("in/000_denoised.png").read_bytes() == Path("in/000.png").read_bytes()


def test_the_record_keeps_what_a_camera_wrote(restore: Restore) -> None:
    path = pictures(1, suffix="jpg")[0]
    image = Image.open(path)
    exif = Image.Exif()
    exif[271] = "Maker"
    exif.get_ifd(0x8769)[36867] = "2020:01:02 03:04:05"
    image.save(path, exif=exif)
    assert restore("denoise", path, "--sigma", 9, "-o", "a.jpg")[0] == 0
    kept = Image.open("a.jpg").getexif()
    assert kept[271] == "Maker" and kept.get_ifd(0x8769)[36867] == "2020:01:02 03:04:05"
    assert parse_record(load(Path("a.jpg")).text[RECORD]) is not None
    assert (
        restore("denoise", "a.jpg", "--sigma", 5, "-o", "b.png")[0] == 0
    )  # in another format; the newest record counts
    record = parse_record(load(Path("b.png")).text[RECORD])
    assert record is not None and record.source == "a.jpg" and record.options["sigma"] == 5
