"""`restore_folder`: the same results, log and events as the command, also after a kill; options, errors, callbacks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer import restore_folder
from restorer.cli.app import run
from restorer.errors import OutputError, PictureError, UsageError
from restorer.folders.events import Done, Event, Failed, Finished, Outcome, Skipped, Step
from restorer.folders.manifest import MANIFEST
from restorer.models import load as models_load

TESTS = Path(__file__).resolve().parents[1]
COUNT, BAD = 50, 5
COMMAND = ["denoise", "in", "-r", "-o", "out", "--sigma", "10", "--steps", "2"]
OPTIONS: dict[str, Any] = {"output": "out", "sigma": 10, "steps": 2}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    return tmp_path


def pictures(count: int, bad: int = 0) -> list[Path]:
    """Write pictures of several sizes into a folder and its subfolder; the last ones are damaged."""
    paths = [Path("in", "deep" if i % 3 == 1 else ".", f"{i:02}.png") for i in range(count)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (10 + i % 4, 12, 3)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)).save(path)
    for path in paths[:: max(count // bad, 1)][:bad] if bad else []:
        path.write_bytes(path.read_bytes()[:40])
    return paths


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """Return an object of JSON without what is different each time."""
    return {name: value for name, value in content.items() if name not in ("seconds", "peak_mem_mb", "schema")}


def log() -> list[dict[str, Any]]:
    return [plain(json.loads(line)) for line in Path("out", MANIFEST).read_text().splitlines()]


def results() -> dict[str, bytes]:
    return {path.relative_to("out").as_posix(): path.read_bytes() for path in sorted(Path("out").rglob("*.png"))}


def by_command(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the command, and return its exit code and what it prints."""
    capsys.readouterr()
    code = run([*COMMAND, "--json", *more])
    return code, [plain(json.loads(line)) for line in capsys.readouterr().out.splitlines()]


def by_python(**options: Any) -> tuple[int, list[dict[str, Any]]]:
    """Run the function, and return the exit code and the objects that the command would print."""
    happened = list[Event]()
    yielded = list(restore_folder("in", "denoise", on_event=happened.append, **OPTIONS, **options))
    assert yielded == [event for event in happened if isinstance(event, Outcome)]
    contents = [content for event in happened if (content := event.to_json()) is not None]
    assert isinstance(happened[-1], Finished)
    return happened[-1].exit_code, [plain(content) for content in contents]


CHILD = f"""
import sys, time
sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]
from stubs import Smooth
from restorer.models import load as models_load
class Slow(Smooth):
    def predict(self, *arguments):
        time.sleep(0.05)
        return super().predict(*arguments)
models_load.load_prior = lambda *arguments: Slow()
"""
BY_COMMAND = f"from restorer.cli.app import run\nrun({COMMAND!r})"
BY_PYTHON = f"from restorer import restore_folder\nlist(restore_folder('in', 'denoise', **{OPTIONS!r}))"


def kill_a_run(how: str) -> None:
    """Start a run in another process, and kill it when some of its results are in the log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", CHILD + how], env=environment, stdout=subprocess.DEVNULL)
    try:
        place = Path("out", MANIFEST)
        while process.poll() is None and not (place.exists() and place.read_bytes().count(b'"ok"') >= 10):
            time.sleep(0.01)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX")
@pytest.mark.parametrize("how", [BY_COMMAND, BY_PYTHON], ids=["the command", "Python"])
def test_a_killed_run_goes_on_by_either(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fifty files, five of them bad: after a kill, the command and the function make the same log, bytes and events."""
    pictures(COUNT, BAD)
    kill_a_run(how)
    shutil.copytree("out", "killed")
    code, printed = by_command(capsys, "--resume")
    expected = code, printed, log(), results()
    assert code == 3 and [line["ok"] + line["skipped"] for line in printed[-1:]] == [COUNT - BAD]
    assert printed[-1]["failed"] == BAD and printed[-1]["skipped"] >= 10 and len(expected[3]) == COUNT - BAD
    shutil.rmtree("out")
    Path("killed").rename("out")
    code, yielded = by_python(resume=True)
    assert (code, yielded, log(), results()) == expected


def test_a_whole_run_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    pictures(20, 3)
    Path("in/notes.txt").write_text("notes")
    code, printed = by_command(capsys)
    expected = code, printed, log(), results()
    shutil.rmtree("out")
    code, yielded = by_python()
    assert (code, yielded, log(), results()) == expected and code == 3 and len(expected[3]) == 17


def test_results_come_while_the_run_goes_on() -> None:
    """The first result is there when it is yielded, and closing the iterator leaves the rest undone."""
    pictures(40)
    happened = list[Event]()
    outcomes = restore_folder("in", "denoise", on_event=happened.append, **OPTIONS)
    first = next(outcomes)
    assert isinstance(first, Done) and first.item.target.is_file() and first.status == "ok"
    assert any(isinstance(event, Step) for event in happened)
    outcomes.close()
    done = len(results())
    assert 0 < done < 40
    rest = list(restore_folder("in", "denoise", resume=True, **OPTIONS))
    assert sum(isinstance(outcome, Skipped) for outcome in rest) == done and len(results()) == 40


def test_an_error_in_the_callback_ends_the_run() -> None:
    pictures(30)

    def stop(event: Event) -> None:
        if isinstance(event, Done):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(restore_folder("in", "denoise", on_event=stop, **OPTIONS))
    assert 0 < len(results()) < 30
    assert len(list(restore_folder("in", "denoise", resume=True, **OPTIONS))) == 30  # the lock is free


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("dejpeg", {}),
        ("deblur", {"gaussian": 1.2, "sigma": 2}),
        ("deblur", {"gaussian": "2x1.2@30", "sigma": 2}),
        ("inpaint", {"mask": "m.png", "grow": 1}),
        ("upscale", {"scale": 2, "jpeg": "off"}),
        ("denoise", {"region": (1, 2, 6, 5), "format": "tiff", "exclude": "01*", "tile": 64, "detail": 0}),
        ("denoise", {"uncertainty": "maps/"}),
        ("inpaint", {"mask": "m.png", "uncertainty": Path("maps"), "samples": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_task_takes_the_options_of_its_command(
    task: str, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The fingerprints in the log are those of the command, so that either resumes what the other has begun."""
    for path in pictures(3):
        Image.open(path).resize((24, 20)).save(path)
    Image.fromarray(np.pad(np.full((3, 4), 255, np.uint8), ((5, 12), (6, 14)))).save("m.png")
    named = {"region": "1,2,6,5"}
    flags = [part for name, value in options.items() for part in (f"--{name}", str(named.get(name, value)))]
    assert run([task, "in", "-r", "-o", "out", "--steps", "2" if task != "denoise" else "1", *flags, "-q"]) == 0
    count = len([path for path in Path("out").rglob("*") if path.suffix in (".png", ".tif", ".tiff")])
    steps = 2 if task != "denoise" else 1
    outcomes = list(restore_folder("in", task, output=Path("out"), resume=True, steps=steps, **options))
    assert [outcome.status for outcome in outcomes] == ["skipped"] * (3 if "samples" in options else count)
    assert count == (9 if "samples" in options else 2 if "exclude" in options else 3)
    if "uncertainty" in options:
        assert len(list(Path("maps").rglob("*_uncertainty.png"))) == 3


def test_maps_and_samples_are_those_of_the_command() -> None:
    """The bytes are equal, and the results name the files."""
    pictures(3)
    extras = ["--samples", "2", "--uncertainty", "maps/", "--method", "ddpm"]
    assert run([*COMMAND, *extras, "-q"]) == 0
    expected = results(), {path: path.read_bytes() for path in sorted(Path("maps").rglob("*.png"))}
    assert len(expected[0]) == 9 and len(expected[1]) == 3
    shutil.rmtree("out")
    shutil.rmtree("maps")
    done = list(restore_folder("in", "denoise", samples=2, uncertainty=Path("maps"), method="ddpm", **OPTIONS))
    assert (results(), {path: path.read_bytes() for path in sorted(Path("maps").rglob("*.png"))}) == expected
    for outcome in done:
        content = outcome.to_json()
        assert Path(content["uncertainty"]["path"]) in expected[1]
        assert [Path(path).is_file() for path in content["samples"]] == [True, True]


def test_paths_of_every_kind() -> None:
    paths = pictures(4)
    assert [o.item.source for o in restore_folder([paths[0], str(paths[2])], "denoise", sigma=9)] == [
        paths[0],
        paths[2],
    ]
    (bad,) = restore_folder("none.png", "denoise")
    assert isinstance(bad, Failed) and isinstance(bad.error, PictureError) and bad.to_json()["code"] == 4
    with pytest.raises(UsageError, match="is a folder"):
        list(restore_folder("in", "denoise", recursive=False))


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("sharpen", {}, "unknown task 'sharpen'"),
        ("denoise", {"sharpness": 1}, "denoise has no option 'sharpness'"),
        ("dejpeg", {"sigma": 3}, "dejpeg has no option 'sigma'"),
        ("upscale", {"in_place": True}, "upscale has no option 'in_place'"),
        ("denoise", {"steps": "4"}, "steps must be a number"),
        ("denoise", {"steps": 2.5}, "steps must be a whole number"),
        ("denoise", {"sigma": 300}, "sigma"),
        ("denoise", {"overwrite": 1}, "overwrite must be True or False"),
        ("denoise", {"overwrite": True, "skip_existing": True}, "cannot be combined"),
        ("denoise", {"tile": 12}, "at least 64"),
        ("denoise", {"model": 3}, "model must be a text"),
        ("denoise", {"samples": 65}, "samples must lie between 1 and 64"),
        ("denoise", {"samples": 1.5}, "samples must be a whole number"),
        ("denoise", {"samples": 2, "in_place": True}, "--samples and --in-place cannot be combined"),
        ("denoise", {"uncertainty": "maps", "start": "net.pth"}, "--uncertainty and --start cannot be combined"),
        ("upscale", {"samples": 2, "start": "net.pth", "steps": 0}, "draws no samples"),
        ("denoise", {"uncertainty": "-"}, "cannot go to standard output"),
        ("denoise", {"uncertainty": True}, "uncertainty must be a text"),
        ("denoise", {"on_event": 3}, "on_event must be a function"),
        ("denoise", {"shard": "4/3"}, "there is no shard 4 of 3"),
        ("deblur", {"gaussian": 1, "defocus": 2}, "only one blur"),
        ("deblur", {"gaussian": "soft"}, "gaussian must be a number, or two and an angle"),
        ("deblur", {"gaussian": [1]}, "gaussian must be a number"),
        ("inpaint", {}, "inpaint needs the option 'mask'"),
    ],
)
def test_what_is_refused_is_refused_at_once(task: str, options: dict[str, Any], message: str) -> None:
    """A mistake in the call is raised by the call itself, before anything is asked for."""
    with pytest.raises(UsageError, match=message):
        restore_folder("in", task, **options)


def test_a_second_run_is_refused() -> None:
    pictures(3)
    first = restore_folder("in", "denoise", **OPTIONS)
    next(first)
    with pytest.raises(OutputError, match="another run is writing"):
        next(restore_folder("in", "denoise", **OPTIONS))
    assert len(list(first)) == 2


def test_several_repairs_are_a_task() -> None:
    pictures(3)
    done = list(restore_folder("in", "auto", output="out", scale=2, no_noise=True))
    assert [result.status for result in done] == ["ok"] * 3
    assert [result.to_json()["repairs"][-1]["action"] for result in done] == ["upscale by 2"] * 3
    assert sorted(results()) == ["00_restored.png", "02_restored.png", "deep/01_restored.png"]
    assert [r.status for r in restore_folder("in", "auto", output="out", scale=2, no_noise=True, resume=True)] == [
        "skipped"
    ] * 3
    for option in ("sigma", "steps", "method", "start", "samples"):
        with pytest.raises(UsageError, match=f"auto has no option '{option}'"):
            restore_folder("in", "auto", **{option: 1})
    with pytest.raises(UsageError, match="several repairs"):
        restore_folder("in", "auto", uncertainty="maps/")
    with pytest.raises(UsageError, match="no_noise must be True or False"):
        restore_folder("in", "auto", no_noise="yes")
