"""Make the images of the terminal in the README, from commands with the default settings.

python tests/bench/terminal.py
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

IMAGES = Path(__file__).parents[1] / "images"
WIDTH, HEIGHT = 80, 24

# The template of Rich for `export_svg` names a font that is fetched from the web; this template fetches nothing.
SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def _theme(background: str, foreground: str, normal: str, bright: str) -> TerminalTheme:
    """Create a theme from hexadecimal colours: two, and eight normal and eight bright ones separated by spaces."""

    def rgb(text: str) -> tuple[int, int, int]:
        red, green, blue = bytes.fromhex(text)
        return red, green, blue

    return TerminalTheme(rgb(background), rgb(foreground), [*map(rgb, normal.split())], [*map(rgb, bright.split())])


THEMES = {
    "dark": _theme(
        "0d1117",
        "d1d7e0",
        "484f58 ff7b72 3fb950 d29922 58a6ff bc8cff 39c5cf b1bac4",
        "6e7681 ffa198 56d364 e3b341 79c0ff d2a8ff 56d4dd ffffff",
    ),
    "light": _theme(
        "ffffff",
        "1f2328",
        "24292f cf222e 116329 4d2d00 0969da 8250df 1b7c83 6e7781",
        "57606a a40e26 1a7f37 633c01 218bff a475f9 3192aa 8c959f",
    ),
}


class Screen:
    """The lines of a terminal with their colours.

    Of the control sequences, only those that a progress bar uses to rewrite its line are implemented.
    """

    def __init__(self) -> None:
        self.lines, self.row, self.is_at_start = [""], 0, False

    def feed(self, text: str) -> None:
        """Process the output of a program."""
        for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
            if part == "\r":
                self.is_at_start = True
            elif part == "\n":
                self.row, self.is_at_start = self.row + 1, False
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif part.startswith("\x1b") and part[-1] == "A":
                self.row -= int(part[2:-1] or 1)
            elif part.startswith("\x1b") and part[-1] == "K":
                self.lines[self.row] = ""
            elif part and (not part.startswith("\x1b") or part[-1] == "m"):
                if self.is_at_start:  # the text replaces the line
                    self.lines[self.row], self.is_at_start = "", False
                self.lines[self.row] += part


def run(command: str, folder: Path, during: str = "") -> tuple[list[str], list[str]]:
    """Run a command in a terminal.

    Args:
        command: The command, which is shown after a prompt.
        folder: The current folder of the command.
        during: A text that marks the moment of the first screen.

    Returns:
        The lines of the screen when one of them contains `during`, and at the end.
    """
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}
    terminal = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        ["sh", "-c", command], cwd=folder, env={**paths, **terminal}, stdin=inner, stdout=inner, stderr=inner
    )
    os.close(inner)
    screen, middle, undecoded = Screen(), list[str](), b""
    screen.feed(f"$ {command}\r\n")
    while True:
        try:
            undecoded += os.read(outer, 65536)
        except OSError:  # Linux raises it when the last writer has closed the terminal
            break
        if not undecoded:
            break
        try:
            text = undecoded.decode()
        except UnicodeDecodeError:  # the rest of a character is still to come
            continue
        undecoded = b""
        screen.feed(text)
        if not middle and during and any(during in line for line in screen.lines):
            middle = list(screen.lines)
    os.close(outer)
    process.wait()
    return middle, screen.lines


def write_images(lines: list[str], name: str) -> None:
    """Write the lines of a screen as two SVG files, one dark and one light."""
    # The empty line at the end keeps the underscores of the last line from being cut off.
    text = Text.from_ansi("\n".join(lines).rstrip() + "\n")
    for kind, theme in THEMES.items():
        console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(text, soft_wrap=True, highlight=False)
        svg = console.export_svg(title="", theme=theme, code_format=SVG, unique_id=name)
        target = IMAGES / f"{name}-{kind}.svg"
        target.write_text("\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n")
        print(f"{target.name}: {target.stat().st_size / 1000:.1f} kB")


def main() -> None:
    """Run two commands and write their images."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        shutil.copy(IMAGES / "noisy.png", folder)
        noisy = Image.open(IMAGES / "noisy.png")
        (folder / "scans" / "1987").mkdir(parents=True)
        for i, name in enumerate(("beach.png", "harbour.png", "1987/garden.png")):
            noisy.crop((60 * i, 40 * i, 60 * i + 200, 40 * i + 150)).save(folder / "scans" / name)
        (folder / "scans" / "torn.png").write_bytes((folder / "scans" / "beach.png").read_bytes()[:3000])
        middle, end = run("restore denoise noisy.png", folder, during="step 3/4")
        # The bar is gone at the end; the image shows the bar and the result.
        write_images([*middle, *(line for line in end if line not in middle)], "terminal-denoise")
        write_images(run("restore denoise scans/ -r -o clean/", folder)[1], "terminal-folder")


if __name__ == "__main__":
    main()
