"""Pictures in terminals that show pixels: kitty, ghostty, and all that understand sixel, such as iTerm2, foot or xterm.

The library textual-image (https://github.com/lnqs/textual-image), an extra, encodes the pictures. What the terminal can
do is asked here. The library asks, too, when it is imported, but waits a tenth of a second for an answer, which is less
than a slow connection takes; a late answer would be typed into the shell. So it is imported as if there were no
terminal. Every terminal answers the question for its attributes, of which 4 stands for sixel. A terminal that does not
know kitty's protocol may print the question, so only those that call themselves kitty or ghostty are asked for it.
"""

from __future__ import annotations

import importlib
import os
import re
import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TextIO

from PIL import Image
from rich.console import Console

__all__ = ["show"]

ANSWER_SECONDS = 2.0  # how long to wait for an answer
MOST_COLUMNS = 290  # the widest picture that kitty's protocol can place
MOST_PIXELS = 1600  # the height of the pictures that are handed over
GAP = 0.02  # distance between two pictures, as a share of their height
ATTRIBUTES = "\x1b[c"
IS_KITTY = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"


def show(console: Console, pictures: Sequence[Image.Image]) -> bool:
    """Print pictures side by side, all as high as the first.

    Returns:
        Whether the pictures are printed; False if this is no terminal that shows pixels, or the library is missing.
    """
    if console.no_color or not _is_conversation(console):
        return False
    rows = console.height - 2
    encoder = _encoder(_protocol(console.file))
    if encoder is None or rows < 1:
        return False
    image = encoder(_side_by_side(pictures), "auto", "auto")
    console.print(image, width=min(console.width, MOST_COLUMNS), height=rows)
    return True


def _is_conversation(console: Console) -> bool:
    """Return whether a terminal in front of the user shows what this process prints, and can answer it."""
    streams = (sys.__stdin__, sys.__stdout__)
    if os.name != "posix" or not console.is_terminal or not console.file.isatty() or console.is_dumb_terminal:
        return False
    try:
        return all(stream is not None and stream.isatty() for stream in streams) and os.tcgetpgrp(0) == os.getpgrp()
    except (OSError, ValueError):  # a closed stream
        return False


@cache
def _protocol(output: TextIO) -> str | None:
    """Return the name of the library's module for what the terminal understands; None if it shows characters only."""
    found = _answer(output, ATTRIBUTES, rb"\x1b\[\?([\d;]*)c")
    if found is None:
        return None
    if b"4" in found.split(b";"):
        return "sixel"
    names = os.environ.get("TERM", "") + os.environ.get("TERM_PROGRAM", "")
    if not ("kitty" in names or "ghostty" in names):
        return None
    # The second question has an answer in any case, so that nobody waits for the first.
    found = _answer(output, IS_KITTY + ATTRIBUTES, rb"(.*)\x1b\[\?[\d;]*c")
    return "tgp" if found is not None and b";OK\x1b\\" in found else None


def _answer(output: TextIO, question: str, pattern: bytes) -> bytes | None:
    """Return the first group of what the terminal answers to a question; None if it does not, or a key was pressed."""
    keyboard, heard, until = 0, b"", time.monotonic() + ANSWER_SECONDS
    with _without_lines(keyboard):
        if select.select([keyboard], [], [], 0)[0]:
            return None  # reading the answer would swallow what the user typed
        output.write(question)
        output.flush()
        while (left := until - time.monotonic()) > 0:
            if select.select([keyboard], [], [], left)[0]:
                heard += os.read(keyboard, 1024)
                if found := re.search(pattern, heard, re.DOTALL):
                    return found[1]
    return None


@contextmanager
def _without_lines(keyboard: int) -> Iterator[None]:
    """Let keys be read one by one and without an echo."""
    import termios
    import tty

    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, before)


def _encoder(protocol: str | None) -> Any:
    """Return the class of the library that prints a picture; None without a protocol, or without the library."""
    if protocol is None:
        return None
    terminal = sys.__stdout__
    try:
        vars(sys)["__stdout__"] = None
        return importlib.import_module(f"textual_image.renderable.{protocol}").Image
    except ImportError:
        return None
    finally:
        vars(sys)["__stdout__"] = terminal


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return one picture that holds all of them with gaps between."""
    height = min(pictures[0].height, MOST_PIXELS)
    gap = max(1, round(GAP * height))
    scaled = [
        picture.convert("RGB").resize((max(1, round(picture.width * height / picture.height)), height))
        for picture in pictures
    ]
    sheet = Image.new("RGBA", (sum(picture.width + gap for picture in scaled) - gap, height))
    left = 0
    for picture in scaled:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet
