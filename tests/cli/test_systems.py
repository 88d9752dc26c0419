"""Pipes, homes, caches and several runs at once: real processes, as shells and systems start them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restorer.errors import PictureError
from restorer.folders.verb_options import Inpaint
from restorer.folders.verbs import inpainting

TESTS = Path(__file__).resolve().parents[1]
CHILD = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from stubs import Smooth
from restorer.models import load as models_load
models_load.load_prior = lambda *arguments: Smooth()
from restorer.cli.app import main
main()
"""
BASH = shutil.which("bash")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(name: str) -> bytes:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(60, 196, (12, 10, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


def shell(script: str, **variables: str | None) -> subprocess.CompletedProcess[bytes]:
    """Run a script of bash in which `restore` is the command with a cheap prior; None removes a variable."""
    assert BASH is not None
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "CHILD": CHILD, "PYTHON": sys.executable}
    environment = {name: value for name, value in environment.items() if variables.get(name, "") is not None}
    environment |= {name: value for name, value in variables.items() if value is not None}
    prelude = 'restore() { "$PYTHON" -c "$CHILD" "$@"; }\n'
    return subprocess.run([BASH, "-c", prelude + script], env=environment, capture_output=True, check=False)


needs_bash = pytest.mark.skipif(BASH is None, reason="no bash")


# ---------------------------------------------------------------------------------------------------------------- pipes


@needs_bash
@pytest.mark.parametrize("policy", ["", "--json", "--manifest log.jsonl", "--overwrite"])
def test_a_process_substitution_is_an_input(policy: str) -> None:
    draw("n.png")
    done = shell(f"restore denoise <(cat n.png) -o o.png --sigma 9 {policy}")
    assert done.returncode == 0, done.stderr
    with Image.open("o.png") as image:
        assert image.size == (10, 12)


@needs_bash
def test_the_result_of_a_descriptor_needs_a_name() -> None:
    draw("n.png")
    done = shell("restore denoise <(cat n.png) --sigma 9")
    assert done.returncode == 2 and b"needs a name" in done.stderr and b"-o" in done.stderr
    done = shell("restore denoise <(cat n.png) --sigma 9 -o - > o.png")
    assert done.returncode == 0 and Path("o.png").read_bytes().startswith(b"\x89PNG")
    done = shell("restore denoise <(cat n.png) <(cat n.png) --sigma 9 -o out/ -q")
    assert done.returncode == 0 and done.stdout == b"out/picture_denoised.png\nout/picture-2_denoised.png\n"
    done = shell("exec 3< n.png; restore denoise /dev/fd/3 --sigma 9 -o three.png")
    assert done.returncode == 0 and Path("three.png").is_file()


@needs_bash
@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
@pytest.mark.parametrize("source", ["cat n.png | ", "< n.png "])
def test_standard_input_under_all_its_names(name: str, source: str) -> None:
    draw("n.png")
    command = f"restore denoise {name} --sigma 9"
    done = shell(f"{source}{command}" if "|" in source else f"{command} {source}")
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.size == (10, 12)


@needs_bash
@pytest.mark.parametrize("verb", ["denoise --sigma 9", "inpaint --mask <(cat m.png)", "upscale --scale 2"])
def test_standard_output_as_a_file(verb: str) -> None:
    draw("n.png")
    mask = np.zeros((12, 10), np.uint8)
    mask[3:6, 3:6] = 255
    Image.fromarray(mask).save("m.png")
    done = shell(f"restore {verb} n.png -o /dev/stdout | cat > o.png")
    assert done.returncode == 0, done.stderr
    with Image.open("o.png") as image:
        assert image.width in (10, 20)


@needs_bash
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_standard_output_that_is_a_file(name: str) -> None:
    draw("n.png")
    done = shell(f"restore denoise n.png --sigma 9 -o {name} > o.png")
    assert done.returncode == 0, done.stderr
    with Image.open("o.png") as image:
        assert image.size == (10, 12)


@needs_bash
def test_a_result_goes_to_a_process_substitution() -> None:
    draw("n.png")
    os.mkfifo("done")
    done = shell("restore denoise n.png --sigma 9 -q -o >(cat > o.png; echo > done) && cat done")
    assert done.returncode == 0, done.stderr
    with Image.open("o.png") as image:
        assert image.size == (10, 12)


@pytest.mark.parametrize(
    ("leads", "message"), [("mask.png", "leads back to itself"), ("gone.png", "to gone.png, which")]
)
def test_a_mask_that_is_a_link_to_nothing(leads: str, message: str) -> None:
    draw("n.png")
    Path("mask.png").symlink_to(leads)
    with pytest.raises(PictureError, match=f"the mask mask.png is a link.*{message}"):
        inpainting(Inpaint(inputs=["n.png"], mask=Path("mask.png")))


def test_a_named_pipe_is_read_once() -> None:
    data = draw("n.png")
    os.mkfifo("pipe.png")
    writer = threading.Thread(target=lambda: Path("pipe.png").write_bytes(data), daemon=True)
    writer.start()
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-c", CHILD, "denoise", "pipe.png", "--sigma", "9", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)
    writer.join(60)
    assert done.returncode == 0 and not writer.is_alive(), done.stderr
    assert json.loads(done.stdout.splitlines()[0])["output"] == "pipe_denoised.png"


@needs_bash
def test_a_mask_from_a_pipe_serves_several_pictures() -> None:
    draw("a.png")
    draw("b.png")
    mask = np.zeros((12, 10), np.uint8)
    mask[3:6, 3:6] = 255
    Image.fromarray(mask).save("m.png")
    done = shell("restore inpaint a.png b.png --mask <(cat m.png) -q")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"a_inpainted.png\nb_inpainted.png\n"


# ----------------------------------------------------------------------------------------------------- homes and caches


@needs_bash
def test_no_home() -> None:
    draw("n.png")
    done = shell("restore denoise n.png --sigma 9 -q", HOME=None, XDG_CACHE_HOME=None)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["n.png", "n_denoised.png"]


@pytest.mark.parametrize("command", [["models", "list"], ["denoise", "n.png", "--sigma", "9"], ["doctor"]])
def test_a_user_that_the_system_does_not_know(command: list[str]) -> None:
    draw("n.png")
    nobody = "import pwd\ndef unknown(number): raise KeyError(number)\npwd.getpwuid = unknown\n"
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", nobody + CHILD, *command], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert not Path("~").exists()


@needs_bash
@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "HOME"])
def test_a_cache_that_cannot_be_written(name: str) -> None:
    draw("n.png")
    Path("file").touch()  # nobody, not even root, makes a folder in it
    variables: dict[str, str | None] = {"XDG_CACHE_HOME": None, name: str(Path("file").absolute())}
    done = shell("restore denoise n.png --sigma 9 -q", **variables)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert shell("restore doctor", **variables).returncode == 0


# ------------------------------------------------------------------------------------------------- several runs at once


def test_runs_at_once_into_one_folder() -> None:
    names = [f"in/{i}.png" for i in range(8)]
    for name in names:
        draw(name)
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-c", CHILD, "denoise", *names, "-o", "out/", "--sigma", "9", "--skip-existing", "-q"]
    runs = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [run.communicate()[1] for run in runs]
    assert sorted(path.name for path in Path("out").iterdir()) == [f"{i}_denoised.png" for i in range(8)]
    for path in Path("out").iterdir():
        with Image.open(path) as image:
            image.load()
    # A picture that two runs restore at the same time is written by one, and the other says so.
    assert all(run.returncode in (0, 3, 7) for run in runs), errors
    assert all(b"Traceback" not in error for error in errors)


# ------------------------------------------------------------------------------------------------- folders as they are


def test_every_file_is_restored_or_named_once() -> None:
    pictures = ["a.jpg", "sub/b.png", "c.gif", "d.tga", "e.ppm"]
    for name in pictures:
        draw(f"in/{name}")
    others = {
        "in/IMG.xmp": "sidecar",
        "in/clip.mov": "video",
        "in/._a.jpg": "hidden",
        "in/.thumbnails": "hidden",
        "in/@eaDir": "system",
        "in/notes.txt": "document",
        "in/README": "other",
    }
    for name in ("in/.thumbnails/a.jpg", "in/@eaDir/a.jpg"):
        draw(name)
    for name, kind in others.items():
        if kind != "system" and name != "in/.thumbnails":
            Path(name).write_bytes(b"something")
    before = {path: path.read_bytes() for path in Path("in").rglob("*") if path.is_file()}
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-c", CHILD, "denoise", "in", "-r", "-o", "out", "--sigma", "9", "-v", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    named = [event["input"] for event in events if event["event"] == "passed_over"]
    assert len(named) == len(set(named))
    assert {event["input"]: event["kind"] for event in events if event["event"] == "passed_over"} == others
    assert [event["input"] for event in events if event["event"] == "result"] == [
        *("in/a.jpg", "in/c.gif", "in/d.tga", "in/e.ppm", "in/sub/b.png")
    ]
    counts = {"hidden": 2, "sidecar": 1, "video": 1, "system": 1, "document": 1, "other": 1}
    assert events[-1]["passed_over"] == counts
    text = done.stderr.decode()
    assert text.splitlines()[-1].endswith(
        "passed over: 1 video, 1 sidecar file, 1 document, 2 hidden files and folders, "
        "1 file or folder of the system, 1 other file"
    )
    for name in others:
        assert text.count(f"{name}: passed over") == 1
    assert {path: path.read_bytes() for path in Path("in").rglob("*") if path.is_file()} == before
    again = subprocess.run([*command, "--skip-existing"], env=environment, capture_output=True, check=False)
    assert again.returncode == 0 and b"0 done, 0 failed, 5 skipped" in again.stderr


def test_a_second_run_beside_the_pictures_counts_the_results() -> None:
    draw("in/a.png")
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-c", CHILD, "denoise", "in", "-r", "--sigma", "9", "--skip-existing"]
    for expected in (b"", b"1 skipped", b"1 result of an earlier run"):
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0 and (expected == b"" or expected in done.stderr)
