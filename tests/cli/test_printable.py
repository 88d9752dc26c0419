"""Names and encodings: what reaches a terminal, a script and a log, whatever a file is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restorer.cli.terminal.help import expand_home
from restorer.cli.terminal.printable import for_encoding, has_characters, printable
from restorer.cli.terminal.reporter import fold

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
TEN_SCRIPTS = {
    "latin": "Größe",
    "greek": "φωτογραφία",
    "cyrillic": "фотография",
    "hebrew": "תמונה",
    "arabic": "صورة",
    "devanagari": "चित्र",
    "thai": "ภาพถ่าย",
    "han": "照片",
    "kana": "しゃしん",
    "hangul": "사진",
}
NAMES = {
    **TEN_SCRIPTS,
    "emoji": "party \U0001f389\u200d\U0001f469",
    "escape": "a\x1b]0;title\x07b",
    "newline": "two\nlines",
    "c1": "\x9b31mred",
    "override": "abc\u202egnp.exe",
    "bytes": os.fsdecode(b"caf\xe9"),
}
ENCODINGS = ["ascii", "cp1252", "cp932", "latin-1", "utf-8"]
FORBIDDEN = {"Cc", "Zl", "Zp", "Cs"}


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(60, 196, (12, 10, 3), dtype=np.uint8)).save(path)


def restore(
    *arguments: str, cwd: Path, encoding: str = "utf-8", closes: str = "", **variables: str
) -> tuple[int, bytes, bytes]:
    """Run a command line in a process whose streams have an encoding or, through a shell, are closed."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "PYTHONIOENCODING": encoding, **variables}
    command = [sys.executable, "-c", CHILD, *arguments]
    if closes:
        command = ["sh", "-c", f'exec "$@" {closes}', "sh", *command]
    process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)
    return process.returncode, process.stdout, process.stderr


# ------------------------------------------------------------------------------------------------------------ the text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain.png", "plain.png"),
        ("照片 \U0001f389.png", "照片 \U0001f389.png"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\x9bm\x7f", "\\x9bm\\x7f"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_control_characters_are_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_a_joined_emoji_stays_whole() -> None:
    family = "\U0001f469\u200d\U0001f467"  # with a zero-width joiner, which is no control character
    assert printable(family) == family


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "a · 2×3 → b"), ("latin-1", "a · 2×3 -> b"), ("ascii", "a | 2x3 -> b"), ("cp932", "a | 2×3 → b")],
)
def test_signs_of_messages_have_a_form_in_every_encoding(encoding: str, expected: str) -> None:
    assert for_encoding("a · 2×3 → b", encoding) == expected
    assert has_characters(encoding, expected)


def test_a_message_in_ascii_is_folded_between_its_facts() -> None:
    assert fold("one | two | three", 9) == "one | two\n  three"


# ---------------------------------------------------------------------------------------------------------- the streams


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_names_of_ten_scripts_and_worse_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    for name in NAMES.values():
        draw(tmp_path / "in" / f"{name}.png")
    code, out, err = restore("denoise", "in", "-r", "-o", "out", "--sigma", "9", "-v", encoding=encoding, cwd=tmp_path)
    assert code == 0, err
    assert len(list((tmp_path / "out").glob("*.png"))) == len(NAMES)
    text = err.decode(encoding)  # strict: everything that is printed exists in the encoding
    assert not [c for line in text.split("\n") for c in line if unicodedata.category(c) in FORBIDDEN]
    assert f"{len(NAMES)} done, 0 failed" in text
    assert "\u202e" not in text and "Traceback" not in text
    if encoding == "utf-8":  # a script receives the very names
        listed = {os.fsencode(f"out/{name}_denoised.png") for name in NAMES.values()}
        assert out == b"".join(path + b"\n" for path in sorted(listed, key=out.index))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_ascii_and_names_the_file(encoding: str, tmp_path: Path) -> None:
    for name in NAMES.values():
        draw(tmp_path / f"{name}.png")
    paths = [f"{name}.png" for name in NAMES.values()]
    code, out, _ = restore(
        "denoise", *paths, "-o", "out/", "--sigma", "9", "--json", "-q", encoding=encoding, cwd=tmp_path
    )
    events = [json.loads(line) for line in out.decode("ascii").splitlines()]
    assert code == 0 and [event["input"] for event in events if event["event"] == "result"] == paths


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_failure_is_told_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    for name in ("emoji", "escape", "newline", "override", "bytes"):
        (tmp_path / f"{NAMES[name]}.png").write_bytes(b"no picture")
    code, _, err = restore("denoise", ".", "-r", encoding=encoding, cwd=tmp_path)
    lines = err.decode(encoding).split("\n")
    assert code == 4 and sum(line.startswith("error: ") for line in lines) == 5
    assert not [c for line in lines for c in line if unicodedata.category(c) in FORBIDDEN]


@pytest.mark.parametrize("closes", ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_failure(closes: str, tmp_path: Path) -> None:
    draw(tmp_path / "n.png")
    code, _, _ = restore("denoise", "n.png", "--sigma", "9", closes=closes, cwd=tmp_path)
    assert code == 0 and (tmp_path / "n_denoised.png").is_file()
    code, _, _ = restore("denoise", "absent.png", closes=closes, cwd=tmp_path)
    assert code == 4


def test_a_result_for_a_closed_standard_output_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "n.png")
    code, _, err = restore("denoise", "n.png", "--sigma", "9", "-o", "-", closes=">&-", cwd=tmp_path)
    assert code == 7 and b"standard output is closed" in err


# ------------------------------------------------------------------------------------------------------------- the ~


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--output=~/out/", "--output=/home/me/out/"),
        ("-o~/out/", "-o/home/me/out/"),
        ("-rqo~/out/", "-rqo/home/me/out/"),
        ("--mask=~/m.png", "--mask=/home/me/m.png"),
        ("--model=~/model", "--model=/home/me/model"),
        ("--manifest=~/log.jsonl", "--manifest=/home/me/log.jsonl"),
        ("--output=~", "--output=/home/me"),
        ("~/photos/*.png", "/home/me/photos/*.png"),
        ("~nobody-has-this-name/x.png", "~nobody-has-this-name/x.png"),
        ("--backup=~", "--backup=~"),
        ("--include=~/*.png", "--include=~/*.png"),
        ("~", "~"),
        ("a~/b.png", "a~/b.png"),
        ("--sigma=25", "--sigma=25"),
        ("~draft.png", "~draft.png"),
    ],
)
def test_a_leading_tilde_is_the_home_folder(argument: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home([argument]) == [expected]


def test_a_folder_called_tilde_that_exists_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(Path("~/n.png").absolute())
    assert expand_home(["~/n.png"]) == ["~/n.png"]


def test_the_result_goes_into_the_home_folder(tmp_path: Path) -> None:
    draw(tmp_path / "n.png")
    (tmp_path / "home").mkdir()
    arguments = ("denoise", "n.png", "--sigma", "9", "--output=~/out/")
    code, out, err = restore(*arguments, cwd=tmp_path, HOME=str(tmp_path / "home"))
    assert code == 0, err
    assert out.decode().strip() == str(tmp_path / "home/out/n_denoised.png")
    assert not (tmp_path / "~").exists()


EVERY_VERB = f"""
import os, sys, traceback
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from PIL import Image
from stubs import Smooth
from restorer.models import load as models_load
models_load.load_prior = lambda *arguments: Smooth()
from restorer.cli.app import run
from restorer.cli.terminal.streams import open_streams

names, encodings = sys.argv[1].split("|"), sys.argv[2].split()
for encoding in encodings:
    sys.stdout.reconfigure(encoding=encoding, errors="strict")
    sys.stderr.reconfigure(encoding=encoding, errors="strict")
    open_streams()
    for name in names:
        picture, mask, out = f"{{name}}.png", f"{{name}}_m.png", f"{{encoding}}/{{name}}"
        Path(encoding).mkdir(exist_ok=True)
        quick = ["--sigma", "9", "--steps", "1", "--overwrite", "-v"]
        for words in (
            ["denoise", picture, "-o", f"{{out}}1.png", *quick],
            ["dejpeg", f"{{name}}.jpg", "-o", f"{{out}}2.jpg", "--overwrite", "-v"],
            ["inpaint", picture, "--mask", mask, "-o", f"{{out}}3.png", "--steps", "1", "--overwrite", "-v"],
            ["upscale", picture, "--scale", "2", "-o", f"{{out}}4.png", *quick],
            ["deblur", picture, "--gaussian", "1", "-o", f"{{out}}5.png", "--steps", "1", "--overwrite", "-v"],
            ["auto", picture, "-o", f"{{out}}6.png", "--overwrite", "-v"],
            ["mask", picture, "--box", "1,1,4,4", "-o", f"{{out}}7.png", "--overwrite"],
            ["compare", picture, mask, "-o", f"{{out}}8.png", "--overwrite"],
            ["doctor", f"{{out}}1.png"],
            ["denoise", picture, "--dry-run"],
            ["models", "info", f"{{name}}.safetensors"],
            ["train", f"{{name}}.png", "--out", f"{{name}}/run", "--steps", "0"],
            ["manifest", "merge", f"{{name}}.jsonl", "-o", f"{{out}}9.jsonl"],
            ["evaluate", f"{{name}}.png"],
            ["generate", "--size", "8", "-n", "1", "--steps", "1", "-o", f"{{name}}.png/x.png"],
            ["denoise", f"{{name}}-absent.png"],
        ):
            code = run(words)
            sys.stdout.flush(), sys.stderr.flush()
            Path("codes").open("a").write(f"{{encoding}} {{code}} {{words[0]}}\\n")
            if code == 1:
                Path("bugs").open("a").write(repr(words) + "\\n")
"""


def test_every_verb_prints_names_of_ten_scripts_in_every_encoding(tmp_path: Path) -> None:
    """One process runs all verbs on names of all scripts, with the streams set to one encoding after the other."""
    joined = ["-".join([*TEN_SCRIPTS.values(), *(NAMES[name] for name in ("emoji", "escape", "newline", "override"))])]
    for name in joined:
        draw(tmp_path / f"{name}.png")
        draw(tmp_path / f"{name}.jpg")
        Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((2, 6), (3, 3)))).save(tmp_path / f"{name}_m.png")
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", EVERY_VERB, "|".join(joined), " ".join(ENCODINGS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "bugs").exists(), (tmp_path / "bugs").read_text("utf-8")
    assert b"Traceback" not in done.stderr and b"UnicodeEncodeError" not in done.stderr
    codes = (tmp_path / "codes").read_text().splitlines()
    assert len(codes) == len(ENCODINGS) * len(joined) * 16
    restored = {"denoise", "dejpeg", "inpaint", "upscale", "deblur", "auto", "mask", "compare", "doctor"}
    for verb in restored:
        assert sum(line.split()[1:] == ["0", verb] for line in codes) >= len(ENCODINGS) * len(joined), verb
