"""Tests of pictures in the terminal. A pseudo-terminal acts as kitty, as a terminal with sixel, and as others.

The pictures are read back from what the program prints: with Pillow from kitty's protocol, and sixel by a decoder here.
"""

from __future__ import annotations

import base64
import io
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are needed")
if os.name == "posix":
    import fcntl
    import pty
    import struct
    import termios

ROWS, COLUMNS, CELL = 30, 100, (8, 16)
ATTRIBUTES, IS_KITTY = b"\x1b[c", b"\x1b_Gi=31,"
Answers = Callable[[bytes], bytes]


def sixel_terminal(question: bytes) -> bytes:
    """Answer like a terminal that understands sixel."""
    return b"\x1b[?62;4;22c" if ATTRIBUTES in question else b""


def kitty(question: bytes) -> bytes:
    """Answer like kitty."""
    graphics = b"\x1b_Gi=31;OK\x1b\\" if IS_KITTY in question else b""
    return graphics + (b"\x1b[?62;c" if ATTRIBUTES in question else b"")


def plain_terminal(question: bytes) -> bytes:
    """Answer like a terminal that shows characters only."""
    return b"\x1b[?6c" if ATTRIBUTES in question else b""


class Run(NamedTuple):
    """What a command did in a pseudo-terminal."""

    code: int
    printed: bytes
    unread: bytes
    echoes: bool


def run(arguments: list[str], answers: Answers, *, typed: bytes = b"", delay: float = 0.0, **environment: str) -> Run:
    """Run a command as the foreground of a pseudo-terminal that answers questions.

    Args:
        arguments: What follows `python`.
        answers: A function that returns the answer to what was printed since the last answer.
        typed: What the user types before the command starts.
        delay: Seconds that an answer takes.
        environment: Variables of the environment.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, COLUMNS * CELL[0], ROWS * CELL[1]))
    os.write(ours, typed)
    names = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "OMP_NUM_THREADS": "1"} | environment
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM_PROGRAM")
    }
    starter = "import os, sys; os.setsid(); import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    starter += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    process = subprocess.Popen(
        [sys.executable, "-c", starter, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=kept | names
    )
    printed, answered, until = b"", 0, time.monotonic() + 300
    while time.monotonic() < until:
        if select.select([ours], [], [], 0.05)[0]:
            printed += os.read(ours, 1 << 16)
            if answer := answers(printed[answered:]):
                time.sleep(delay)
                os.write(ours, answer)
                answered = len(printed)
        elif process.poll() is not None:
            break
    process.wait(10)
    flags = termios.tcgetattr(theirs)
    flags[3] &= ~termios.ICANON
    termios.tcsetattr(theirs, termios.TCSANOW, flags)
    unread = os.read(theirs, 1024) if select.select([theirs], [], [], 0)[0] else b""
    os.close(ours)
    os.close(theirs)
    return Run(process.returncode, printed, unread, bool(flags[3] & termios.ECHO))


def decoded_sixel(text: bytes) -> np.ndarray:
    """Return the picture that sixel codes describe, uint8 (H, W, 3). See the VT330/VT340 Programmer Reference, 14."""
    width, height = map(int, re.match(rb'"\d+;\d+;(\d+);(\d+)', text).groups())  # type: ignore[union-attr]
    image, colours = np.zeros((height + 6, width, 3), np.uint8), {}
    x = y = now = 0
    for code in re.finditer(rb'"[\d;]+|#(\d+)(?:;2;(\d+);(\d+);(\d+))?|(?:!(\d+))?([?-~])|[$-]', text):
        number, red, green, blue, count, sign = code.groups()
        if number is not None:
            now = int(number)
            if red is not None:
                colours[now] = [round(2.55 * int(part)) for part in (red, green, blue)]
        elif sign is not None:
            for _ in range(int(count or 1)):
                for bit in range(6):
                    if (ord(sign) - 63) >> bit & 1:
                        image[y + bit, x] = colours[now]
                x += 1
        elif code[0] in b"$-":
            x, y = 0, y + (6 if code[0] == b"-" else 0)
    return image[:height]


def show(tmp_path: Path, answers: Answers, **options: Any) -> Run:
    """Draw a red picture beside a blue one."""
    script = tmp_path / "show.py"
    script.write_text(
        "from PIL import Image\n"
        "from restorer.cli.terminal.reporter import stderr_console\n"
        "from restorer.cli.terminal.showing import show\n"
        "console = stderr_console()\n"
        "pictures = [Image.new('RGB', (60, 40), c) for c in ('#ff0000', '#0000ff')]\n"
        "print('shown', show(console, pictures), show(console, pictures))\n"
    )
    return run([str(script)], answers, PYTHONPATH=os.pathsep.join(sys.path), **options)


def is_red_beside_blue(pixels: np.ndarray) -> bool:
    """Return whether the left half is red and the right half blue, and both are as wide as the proportions require."""
    height, width = pixels.shape[:2]
    left, right = pixels[:, : width * 2 // 5].astype(int), pixels[:, width * 3 // 5 :].astype(int)
    return (
        int(abs(left - [255, 0, 0]).max()) <= 8
        and int(abs(right - [0, 0, 255]).max()) <= 8
        and abs(width / height - 121 / 40) < 0.15
    )


def test_sixel(tmp_path: Path) -> None:
    """A terminal that lists sixel among its attributes gets it, is asked once, and has its echo again afterwards."""
    pytest.importorskip("textual_image")
    result = show(tmp_path, sixel_terminal)
    codes = re.findall(rb"\x1bP[\d;]*q(.*?)\x1b\\", result.printed, re.DOTALL)
    assert result.code == 0 and b"shown True True" in result.printed
    assert len(codes) == 2 and all(is_red_beside_blue(decoded_sixel(code)) for code in codes)
    assert result.printed.count(ATTRIBUTES) == 1 and IS_KITTY not in result.printed
    assert "▀".encode() not in result.printed and result.echoes and not result.unread


def test_kitty(tmp_path: Path) -> None:
    """A terminal that calls itself kitty and confirms it gets PNG, and the places at which it is shown."""
    pytest.importorskip("textual_image")
    result = show(tmp_path, kitty, TERM="xterm-kitty")
    parts = re.findall(rb"\x1b_G([^;\x1b]*f=100[^;\x1b]*);([^\x1b]*)\x1b\\", result.printed)
    numbers = {re.search(rb"i=(\d+)", keys)[1] for keys, _ in parts}  # type: ignore[index]
    assert result.code == 0 and b"shown True True" in result.printed and len(numbers) == 2
    data = b"".join(text for keys, text in parts if b"i=" + min(numbers) in keys)
    assert is_red_beside_blue(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")))
    assert "\U0010eeee".encode() in result.printed and not result.unread


@pytest.mark.parametrize("term", ["xterm-256color", "xterm-kitty"])
def test_half_blocks_elsewhere(tmp_path: Path, term: str) -> None:
    """A terminal without pixels gets half blocks, and only one that calls itself kitty is asked for its protocol."""
    result = show(tmp_path, plain_terminal, TERM=term)
    assert b"shown True True" in result.printed and "▀".encode() in result.printed
    assert (IS_KITTY in result.printed) == (term == "xterm-kitty") and b"\x1bP" not in result.printed
    assert not result.unread


def test_slow_and_silent_terminals(tmp_path: Path) -> None:
    """An answer that takes half a second is waited for, and a terminal that never answers gets half blocks."""
    pytest.importorskip("textual_image")
    slow = show(tmp_path, sixel_terminal, delay=0.5)
    assert b"\x1bP" in slow.printed and not slow.unread
    silent = show(tmp_path, lambda question: b"")
    assert "▀".encode() in silent.printed and silent.echoes


def test_typed_keys_are_kept(tmp_path: Path) -> None:
    """What the user has typed already is left for the shell, and the terminal is not asked."""
    result = show(tmp_path, sixel_terminal, typed=b"ls\n")
    assert ATTRIBUTES not in result.printed and "▀".encode() in result.printed and result.unread == b"ls\n"


def test_without_the_library(tmp_path: Path) -> None:
    """Half blocks are drawn if the library is not installed."""
    (tmp_path / "textual_image").mkdir()
    (tmp_path / "textual_image" / "__init__.py").write_text("raise ImportError('not here')\n")
    result = show(tmp_path, sixel_terminal)  # the folder of the script is searched first
    assert "▀".encode() in result.printed and b"\x1bP" not in result.printed


def test_compare_shows_pixels(tmp_path: Path) -> None:
    """`restore compare --show` draws sixel."""
    pytest.importorskip("textual_image")
    for name, level in (("a.png", 90), ("b.png", 130)):
        Image.new("RGB", (40, 30), (level, level, level)).save(tmp_path / name)
    command = ["-m", "restorer", "compare", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--show"]
    result = run(command, sixel_terminal, PYTHONPATH=os.pathsep.join(sys.path))
    assert result.code == 0 and b"\x1bP" in result.printed
